"""What an interrupted run left in vCenter: removed when it holds nothing, else left alone."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from components import orphans, talosctl
from components.orphans import (
    OrphanError,
    VCenter,
    import_command,
    remove_orphan,
    switch_on,
    unconfigured,
    ways_out,
)
from components.waiting import Clock
from tests.unit.fake_talos import FakeMachine, FakeTalos

ON = vim.VirtualMachine.PowerState.poweredOn
OFF = vim.VirtualMachine.PowerState.poweredOff

VCENTER = VCenter("vcenter.example", "user", "dc01", "platform-prod", allow_unverified_tls=False)

MACHINES = "urn:pulumi:prod::platform::platform:vsphere:Machines::machines"
PROVIDER = (
    "urn:pulumi:prod::platform::"
    "platform:vsphere:Machines$pulumi:providers:vsphere::machines-vcenter"
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

    def connect(self, **arguments: Any) -> Any:
        assert arguments["pwd"] == "password"  # noqa: S105 the test's own
        content = SimpleNamespace(
            searchIndex=SimpleNamespace(
                FindByInventoryPath=self.find,
                FindByUuid=lambda _, uuid, *kind: self.find(uuid) if kind == (True, False) else 1,
            ),
            propertyCollector=SimpleNamespace(RetrieveContents=self.read),
        )
        return SimpleNamespace(RetrieveContent=lambda: content)

    def find(self, path: str) -> object:
        self.paths.append(path)
        return None if self.power is None else FakeVirtualMachine("vm-1", self)

    def read(self, filters: list[Any]) -> object:
        (one,) = filters
        assert one.propSet[0].pathSet == ["runtime.powerState"]
        return [SimpleNamespace(propSet=[SimpleNamespace(val=self.power)])]

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
    fake: FakeVCenter, monkeypatch: pytest.MonkeyPatch, is_unconfigured: Callable[[], bool]
) -> bool:
    monkeypatch.setattr(orphans, "SmartConnect", fake.connect)
    monkeypatch.setattr(orphans, "Disconnect", fake.disconnect)
    return remove_orphan(VCENTER, "password", "node01", is_unconfigured)


def never() -> bool:
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
    assert remove(fake, monkeypatch, lambda: True) is True
    assert fake.done == ["clone", "power off", "destroy", "disconnect"]


def test_a_machine_that_may_hold_something_is_left_alone_and_the_import_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(power=ON)
    with pytest.raises(OrphanError) as caught, ways_out(VCENTER, "node01", MACHINES, PROVIDER):
        remove(fake, monkeypatch, lambda: False)
    assert "destroy" not in fake.done
    assert fake.done[-1] == "disconnect"
    command = import_command(
        "node01", "/dc01/vm/platform-prod/node01", parent=MACHINES, provider=PROVIDER
    )
    assert f"this stack does not know. If it is this platform's, take it over with `{command}`" in (
        str(caught.value)
    )


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
    with pytest.raises(OrphanError, match="destroy failed: in use"):
        remove(fake, monkeypatch, never)


def test_wrong_credentials_are_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise vim.fault.InvalidLogin

    monkeypatch.setattr(orphans, "SmartConnect", refuse)
    with pytest.raises(OrphanError) as caught:
        remove_orphan(VCENTER, "s3cret", "node01", never)
    assert str(caught.value) == (
        "vcenter.example: refuses user user; check platform:vspherePassword"
    )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            vim.fault.NoPermission(
                msg="Permission to perform this operation was denied.",
                privilegeId="VirtualMachine.Inventory.Delete",
            ),
            (
                "vcenter.example: Permission to perform this operation was denied. (user lacks "
                "VirtualMachine.Inventory.Delete: docs/site-requirements.md)"
            ),
        ),
        (vmodl.fault.ManagedObjectNotFound(), "vcenter.example: vmodl.fault.ManagedObjectNotFound"),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            (
                'platform:site.vcenter = "vcenter.example": it hung up; look at its own log; a '
                "proxy between may do this too ([Errno 104] Connection reset by peer)"
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
    with pytest.raises(OrphanError) as caught:
        remove(fake, monkeypatch, never)
    assert str(caught.value) == told
    assert fake.done[-1] == "disconnect"


@pytest.mark.parametrize(
    ("state", "answer", "seconds"),
    [
        ({"maintenance": True}, True, 0),
        ({}, False, 0),  # takes the cluster's credentials
        ({"up": False}, False, orphans.BOOT_SECONDS),
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
    assert fake.now == seconds


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

    monkeypatch.setattr(orphans, "SmartConnect", fail)
    with pytest.raises(
        OrphanError,
        match=r'^platform:site\.vcenter = "vcenter\.example": nothing listens there; .*refused',
    ):
        remove_orphan(VCENTER, "password", "node01", never)


# --- A machine of the stack that a killed destroy had begun to remove -----------------------------


def turn_on(fake: FakeVCenter, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(orphans, "SmartConnect", fake.connect)
    monkeypatch.setattr(orphans, "Disconnect", fake.disconnect)
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
def test_a_machine_that_vcenter_no_longer_has_is_told_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, fake: FakeVCenter
) -> None:
    with pytest.raises(OrphanError) as caught:
        turn_on(fake, monkeypatch)
    assert "node01: the stack's state has this machine, and vcenter.example does not" in str(
        caught.value
    )
    assert "`make repair` takes it out of the state, then `pulumi up` makes it again" in str(
        caught.value
    )
    assert "power on" not in fake.done
