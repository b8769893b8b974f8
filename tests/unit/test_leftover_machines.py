"""What an interrupted run left in vCenter: removed when it holds nothing, else left alone."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from clients import talosctl
from clients.vcenter import evidence, pyvmomi
from clients.vcenter.connection import VCenter, VCenterError
from clients.vcenter.machines import (
    BOOT_SECONDS,
    import_command,
    remove_leftover,
    switch_on,
    told,
    unconfigured,
    ways_out,
)
from clients.waiting import Clock
from tests.unit.fake_talos import FakeMachine, FakeTalos

ON = vim.VirtualMachine.PowerState.poweredOn
OFF = vim.VirtualMachine.PowerState.poweredOff

UUID = "421f245c-7fa8-60fa-6af6-000000000001"
VCENTER = VCenter("vcenter.example", "user", "dc01", "platform-prod", allow_unverified_tls=False)

EVENT: Any = vim.event
MARK = evidence.mark("/dc01/vm/platform-prod/node01")
USER = "VSPHERE.LOCAL\\pulumi"


def happened(kind: str, hour: int = 1, user: str = USER) -> Any:
    """Make an event of vCenter, as it tells of this machine."""
    when = datetime(2026, 11, 1, hour, tzinfo=UTC)
    return getattr(EVENT, kind)(
        key=hour, chainId=hour, createdTime=when, userName=user.replace("VSPHERE", "vsphere")
    )


MACHINES = "urn:pulumi:prod::platform::platform:vsphere:Machines::machines"
PROVIDER = (
    "urn:pulumi:prod::platform::"
    "platform:vsphere:Machines$pulumi:providers:vsphere::machines-vcenter"
)
COMMAND = import_command(
    "node01", "/dc01/vm/platform-prod/node01", parent=MACHINES, provider=PROVIDER
)


@dataclass
class FakeVCenter:
    """A vCenter with at most one machine, which notes what is done to it."""

    power: str | None
    done: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    failing: str = ""
    removing: bool = False
    """Its one task is the machine's removal, which has begun."""
    annotation: str | None = MARK
    extra: list[Any] | None = None
    events: list[Any] = field(default_factory=lambda: [happened("VmCreatedEvent")])

    def connect(self, **arguments: Any) -> Any:
        assert arguments["pwd"] == "password"  # noqa: S105 the test's own
        content = SimpleNamespace(
            searchIndex=SimpleNamespace(
                FindByInventoryPath=self.find,
                FindByUuid=lambda _, uuid, *kind: self.find(uuid) if kind == (True, False) else 1,
            ),
            propertyCollector=SimpleNamespace(RetrieveContents=self.read),
            eventManager=SimpleNamespace(QueryEvents=self.query),
            sessionManager=SimpleNamespace(currentSession=SimpleNamespace(userName=USER)),
        )
        return SimpleNamespace(RetrieveContent=lambda: content)

    def find(self, path: str) -> object:
        self.paths.append(path)
        return None if self.power is None else FakeVirtualMachine("vm-1", self)

    def read(self, filters: list[Any]) -> object:
        (one,) = filters
        (path,) = one.propSet[0].pathSet
        value = {
            "runtime.powerState": self.power,
            "config.annotation": self.annotation,
            "config.uuid": UUID,
            "config.extraConfig": self.extra,
        }[path]
        return [SimpleNamespace(propSet=[] if value is None else [SimpleNamespace(val=value)])]

    def query(self, wanted: Any) -> list[Any]:
        assert wanted.entity.recursion == "self"
        for one in self.events:
            one.vm = EVENT.VmEventArgument(vm=wanted.entity.entity, name="node01")
        return list(reversed(self.events))

    def annotate(self, spec: Any) -> object:
        self.annotation = spec.annotation
        return self.task("annotate")

    def task(self, name: str) -> object:
        self.done.append(name)
        state = vim.TaskInfo.State.error if name == self.failing else vim.TaskInfo.State.success
        error = SimpleNamespace(msg="in use")
        return SimpleNamespace(info=SimpleNamespace(state=state, descriptionId=name, error=error))

    def disconnect(self, _: object) -> None:
        self.done.append("disconnect")


class FakeVirtualMachine(vim.VirtualMachine):
    """A reference that pyVmomi takes for one of its own."""

    def __init__(self, identity: str, vcenter: FakeVCenter) -> None:
        super().__init__(identity)  # type: ignore[no-untyped-call]
        vars(self).update(
            vcenter=vcenter,
            PowerOnVM_Task=lambda: vcenter.task("power on"),
            PowerOffVM_Task=lambda: vcenter.task("power off"),
            ReconfigVM_Task=vcenter.annotate,
            Destroy_Task=lambda: vcenter.task("destroy"),
        )

    def __getattribute__(self, name: str) -> object:
        own = object.__getattribute__(self, "__dict__")
        if name == "recentTask":
            if own["vcenter"].removing:
                own["vcenter"].power = None
                raise vmodl.fault.ManagedObjectNotFound
            return [own["vcenter"].task("clone")]
        return own[name] if name in own else super().__getattribute__(name)


def remove(
    fake: FakeVCenter, monkeypatch: pytest.MonkeyPatch, is_unconfigured: Callable[[str], bool]
) -> bool:
    monkeypatch.setattr(pyvmomi, "SmartConnect", fake.connect)
    monkeypatch.setattr(pyvmomi, "Disconnect", fake.disconnect)
    return remove_leftover(VCENTER, "password", "node01", is_unconfigured)


def never(_: str) -> bool:
    pytest.fail("nobody had to ask the machine")


def test_where_nothing_is_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter(power=None)
    assert remove(fake, monkeypatch, never) is False
    assert fake.paths == ["/dc01/vm/platform-prod/node01"]
    assert fake.done == ["disconnect"]


def test_a_machine_that_was_never_switched_on_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter(power=OFF)
    assert remove(fake, monkeypatch, never) is True
    assert fake.done == ["clone", "destroy", "disconnect"]


def test_a_failed_clone_of_the_killed_run_does_not_stop_its_removal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(power=OFF, failing="clone")
    assert remove(fake, monkeypatch, never) is True


def test_a_machine_that_waits_for_its_configuration_is_switched_off_and_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(power=ON)
    fake.events.append(happened("VmPoweredOnEvent", 2))
    assert remove(fake, monkeypatch, lambda _: True) is True
    assert fake.done == ["clone", "annotate", "power off", "destroy", "disconnect"]


def test_a_removal_that_was_itself_killed_is_ended_by_the_next_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(power=ON, failing="destroy")
    fake.events.append(happened("VmPoweredOnEvent", 2))
    with pytest.raises(VCenterError, match="in use"):
        remove(fake, monkeypatch, lambda _: True)
    fake.power, fake.failing = OFF, ""
    fake.events.append(happened("VmPoweredOffEvent", 3))
    assert remove(fake, monkeypatch, never) is True


@pytest.mark.parametrize(
    ("power", "annotation", "events", "reason"),
    [
        (OFF, None, ["VmCreatedEvent"], "does not carry the mark"),
        (OFF, "Made by hand", ["VmCreatedEvent"], "does not carry the mark"),
        (OFF, MARK, [], "no longer has the event of its creation"),
        (OFF, MARK, ["VmReconfiguredEvent"], "no longer has the event of its creation"),
        (
            OFF,
            MARK,
            [("VmCreatedEvent", "CORP\\backup")],
            r"made by CORP\\backup at 2026-11-01 01:00:00 UTC, not by this stack's user",
        ),
        (
            OFF,
            MARK,
            ["VmCreatedEvent", ("VmReconfiguredEvent", "CORP\\backup")],
            r"changed by CORP\\backup",
        ),
        (OFF, MARK, ["VmCreatedEvent", "VmRegisteredEvent"], "registered from files"),
        (OFF, MARK, ["VmDeployedEvent", "VmPoweredOnEvent"], "is off, and was switched on"),
        (OFF, MARK, ["VmDeployedEvent", "DrsVmPoweredOnEvent"], "is off, and was switched on"),
        (OFF, MARK, ["VmCreatedEvent", "VmPoweredOffEvent"], "switched off or restarted"),
        (ON, MARK, ["VmCreatedEvent"] + ["VmPoweredOnEvent"] * 2, "more than once"),
        (ON, MARK, ["VmCreatedEvent", "VmPoweredOnEvent", "VmResettingEvent"], "restarted"),
    ],
)
def test_a_machine_that_vcenter_does_not_prove_to_be_a_leftover_is_never_removed(
    monkeypatch: pytest.MonkeyPatch,
    power: str,
    annotation: str | None,
    events: list[str | tuple[str, str]],
    reason: str,
) -> None:
    """One that ran, one of an image backup, one of an older state: all of them may hold data."""
    given = [one if isinstance(one, tuple) else (one, USER) for one in events]
    told = [happened(kind, hour, user) for hour, (kind, user) in enumerate(given, 1)]
    fake = FakeVCenter(power, annotation=annotation, events=told)
    with (
        pytest.raises(VCenterError, match=reason) as caught,
        ways_out(COMMAND, 0),
    ):
        remove(fake, monkeypatch, lambda _: True)
    assert "take it over with `pulumi import" in str(caught.value)
    assert not {"annotate", "power off", "destroy"} & set(fake.done)


@pytest.mark.parametrize("data_disks", [0, 1])
def test_a_machine_that_may_hold_something_is_left_alone_and_the_import_is_told(
    monkeypatch: pytest.MonkeyPatch, data_disks: int
) -> None:
    fake = FakeVCenter(power=ON)
    fake.events.append(happened("VmPoweredOnEvent", 2))
    with pytest.raises(VCenterError) as caught, ways_out(COMMAND, data_disks):
        remove(fake, monkeypatch, lambda _: False)
    assert "destroy" not in fake.done
    assert fake.done[-1] == "disconnect"
    said = str(caught.value)
    assert "this stack does not know, and it may hold something: it runs, and does not wait" in said
    assert f"If it is this platform's, take it over with `{COMMAND}`" in said
    # Only the system disk's label can be left as the import gives it.
    assert ("copy away first what they hold" in said) is (data_disks > 0)


def test_the_import_names_parent_and_provider_as_the_program_has_them() -> None:
    """A shell must not take the $ of a URN for a variable."""
    command = import_command("node01", "/dc/vm/a b/node01", parent=MACHINES, provider=PROVIDER)
    words = shlex.split(command)
    assert words[:5] == [
        "pulumi", "import", "vsphere:index/virtualMachine:VirtualMachine", "node01",
        "/dc/vm/a b/node01",
    ]  # fmt: skip
    assert words[words.index("--parent") + 1] == f"machines={MACHINES}"
    assert words[words.index("--provider") + 1] == f"vcenter={PROVIDER}"
    assert f"'vcenter={PROVIDER}'" in command
    assert "--protect=false" in words


def test_vcenters_reason_is_told_when_the_removal_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter(power=OFF, failing="destroy")
    with pytest.raises(VCenterError, match="destroy failed: in use"):
        remove(fake, monkeypatch, never)


def test_wrong_credentials_are_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise vim.fault.InvalidLogin

    monkeypatch.setattr(pyvmomi, "SmartConnect", refuse)
    with pytest.raises(VCenterError) as caught:
        remove_leftover(VCENTER, "s3cret", "node01", never)
    assert str(caught.value) == (
        "vcenter.example: refuses user user; check platform:vspherePassword"
    )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            vim.fault.NoPermission(  # type: ignore[no-untyped-call]
                msg="Permission to perform this operation was denied.",
                privilegeId="VirtualMachine.Inventory.Delete",
            ),
            (
                "vcenter.example: Permission to perform this operation was denied. (user lacks "
                "VirtualMachine.Inventory.Delete: docs/site-requirements.md)"
            ),
        ),
        (
            vmodl.fault.ManagedObjectNotFound(),  # type: ignore[no-untyped-call]
            "vcenter.example: vmodl.fault.ManagedObjectNotFound",
        ),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            (
                'platform:site.vcenter = "vcenter.example": it closed the connection; look at its '
                "own log; a proxy in between may do this too ([Errno 104] Connection reset by peer)"
            ),
        ),
    ],
)
def test_what_vcenter_answers_instead_of_removing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, told: str
) -> None:
    fake = FakeVCenter(power=OFF)

    def fail(_: list[Any]) -> object:
        raise fault

    monkeypatch.setattr(fake, "read", fail)
    with pytest.raises(VCenterError) as caught:
        remove(fake, monkeypatch, never)
    assert str(caught.value) == told
    assert fake.done[-1] == "disconnect"


@pytest.mark.parametrize(
    ("state", "answer", "seconds"),
    [
        ({"maintenance": True}, True, 0),
        ({}, False, 0),  # takes the cluster's credentials
        ({"up": False}, False, BOOT_SECONDS),
    ],
)
def test_only_maintenance_mode_proves_that_a_machine_holds_nothing(
    state: dict[str, bool],
    answer: bool,  # noqa: FBT001 a parameter of the test
    seconds: float,
) -> None:
    machine = FakeMachine("node01", "172.16.20.51")
    vars(machine).update(state)
    fake = FakeTalos([machine])
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        clock = Clock(lambda: fake.now, fake.sleep)
        assert unconfigured(talos, machine.address, clock) is answer
    assert seconds <= fake.now < seconds + 1


def test_a_machine_that_boots_is_given_time_to_say_what_it_is() -> None:
    machine = FakeMachine("node01", "172.16.20.51", up=False, maintenance=True)
    fake = FakeTalos([machine])

    def tick() -> None:
        machine.up = fake.now >= 25

    fake.tick = tick
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        assert unconfigured(talos, machine.address, Clock(lambda: fake.now, fake.sleep)) is True
    assert fake.now >= 25


def test_a_vcenter_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(pyvmomi, "SmartConnect", fail)
    with pytest.raises(
        VCenterError,
        match=r'^platform:site\.vcenter = "vcenter\.example": nothing listens there; .*refused',
    ):
        remove_leftover(VCENTER, "password", "node01", never)


# --- A machine of the stack that a killed destroy had begun to remove -----------------------------


def turn_on(fake: FakeVCenter, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(pyvmomi, "SmartConnect", fake.connect)
    monkeypatch.setattr(pyvmomi, "Disconnect", fake.disconnect)
    return switch_on(VCENTER, "password", "node01", "its-uuid", Clock())


def test_a_machine_that_is_off_is_switched_on_when_its_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(power=OFF)
    assert turn_on(fake, monkeypatch) is True
    assert fake.done == ["clone", "power on", "disconnect"]
    assert set(fake.paths) == {"its-uuid"}


def test_a_machine_that_runs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter(power=ON)
    assert turn_on(fake, monkeypatch) is False
    assert fake.done == ["clone", "disconnect"]


@pytest.mark.parametrize("fake", [FakeVCenter(None), FakeVCenter(OFF, removing=True)])
def test_a_machine_that_vcenter_no_longer_has_is_told_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, fake: FakeVCenter
) -> None:
    with pytest.raises(VCenterError) as caught:
        turn_on(fake, monkeypatch)
    assert "node01: the stack's state has this machine, and vcenter.example does not" in str(
        caught.value
    )
    assert "`make repair` takes it out of the state, then `pulumi up` makes it again" in str(
        caught.value
    )
    assert "power on" not in fake.done


# --- What a machine reads of its virtual hardware ------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (None, ""),
        ([], ""),
        ([("guestinfo.other", "x")], ""),
        ([("guestinfo.other", "x"), ("guestinfo.talos.config", "Y29uZmln")], "Y29uZmln"),
    ],
)
def test_what_a_machine_is_told_is_read_with_its_uuid(
    monkeypatch: pytest.MonkeyPatch, extra: list[tuple[str, str]] | None, text: str
) -> None:
    given = None if extra is None else [SimpleNamespace(key=k, value=v) for k, v in extra]
    fake = FakeVCenter(power=ON, extra=given)
    monkeypatch.setattr(pyvmomi, "SmartConnect", fake.connect)
    monkeypatch.setattr(pyvmomi, "Disconnect", fake.disconnect)
    found = told(VCENTER, "password", ["node01"], "guestinfo.talos.config")
    assert found == {"node01": (UUID, text)}
    assert fake.paths == ["/dc01/vm/platform-prod/node01"]


def test_a_machine_that_is_not_there_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter(power=None)
    monkeypatch.setattr(pyvmomi, "SmartConnect", fake.connect)
    monkeypatch.setattr(pyvmomi, "Disconnect", fake.disconnect)
    assert told(VCENTER, "password", ["node01"], "guestinfo.talos.config") == {}
