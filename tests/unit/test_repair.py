"""`make repair`: what a killed run left is told, and only that is removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clients import omnictl, talosctl
from clients.pulumi_cli import EngineError
from clients.vcenter import content_library, leftovers, machines
from clients.vcenter.connection import VCenterError
from components import notes
from config import plain_yaml
from config.resource_types import FOLDER, MACHINE
from config.stack_file import load_file
from ops.deploy import command, lock, repair
from ops.deploy.repair import Found, Site, forget
from tests.edits import STACK_FILES
from tests.unit.fake_omni import UUIDS, FakeOmni

ROOT = Path(__file__).parents[2]
SITE = Site(load_file(ROOT / "Pulumi.prod.yaml"), "password-of-the-test")
SITE.talosconfig = ""  # no `pulumi up` has ended there
SCHEDULED = "urn:pulumi:prod::platform::"


def resource(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"urn": f"{SCHEDULED}{kind}::{name}", "type": kind, "id": f"id-{name}", **more}


def creating(kind: str, name: str, /, **inputs: str) -> dict[str, Any]:
    return {"type": "creating", "resource": resource(kind, name, inputs=inputs)}


NODE01, NODE03 = resource(MACHINE, "node01"), resource(MACHINE, "node03")
CONFIGURATION = resource(
    "talos:machine/configurationApply:ConfigurationApply",
    "node03",
    dependencies=[NODE01["urn"], NODE03["urn"]],
    propertyDependencies={"node": [NODE03["urn"]], "endpoint": None},
    deletedWith=NODE03["urn"],
)


def state(resources: list[dict[str, Any]], *pending: dict[str, Any]) -> str:
    return json.dumps(
        {"version": 3, "deployment": {"resources": resources, "pending_operations": list(pending)}}
    )


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Give the ids of what a vCenter has; what is not among them is gone."""
    has = {"id-node01", "id-node03"}

    @contextmanager
    def connected(*_: object) -> Iterator[object]:
        yield SimpleNamespace()

    monkeypatch.setattr(repair, "connected", connected)
    monkeypatch.setattr(content_library, "session", connected)
    monkeypatch.setattr(
        leftovers, "exists", lambda _c, _r, _kind, identity, _clock: identity in has
    )
    return has


def test_a_state_that_agrees_with_vcenter_has_nothing_to_repair(vcenter: set[str]) -> None:
    assert vcenter
    assert not repair.look(state([NODE01, NODE03, CONFIGURATION]), SITE)


def test_what_is_in_the_state_and_not_in_vcenter_is_found_and_nothing_of_other_providers(
    vcenter: set[str],
) -> None:
    vcenter.remove("id-node03")
    found = repair.look(state([NODE01, NODE03, CONFIGURATION]), SITE)
    assert [one["urn"] for one in found.gone] == [NODE03["urn"]]
    told = "not in vCenter: VirtualMachine node03, id id-node03; it is taken out of the state"
    assert found.told() == told


def test_only_creations_that_the_state_does_not_know_may_be_in_vcenter(vcenter: set[str]) -> None:
    assert vcenter
    found = repair.look(
        state(
            [NODE01],
            creating(MACHINE, "node01", name="node01"),
            creating(MACHINE, "node02", name="node02"),
            creating("platform:gate:Gate", "etcd"),
            {"type": "updating", "resource": NODE01},
        ),
        SITE,
    )
    assert [one["urn"].rpartition("::")[2] for one in found.unknown] == ["node02"]
    assert found.notes == (
        "VirtualMachine node01, while creating",
        "VirtualMachine node02, while creating",
        "Gate etcd, while creating",
        "VirtualMachine node01, while updating",
    )


def test_a_resource_is_forgotten_with_every_reference_to_it() -> None:
    deployment = json.loads(state([NODE01, NODE03, CONFIGURATION]))["deployment"]
    forget(deployment, {NODE03["urn"]})
    assert NODE03["urn"] not in json.dumps(deployment)
    _, configuration = deployment["resources"]
    assert configuration["dependencies"] == [NODE01["urn"]]
    assert configuration["propertyDependencies"]["node"] == []
    assert "deletedWith" not in configuration


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Give the states that are imported; the one that is there is `state([NODE01, NODE03])`."""
    found: list[dict[str, Any]] = []

    def pulumi(*argv: str) -> None:
        assert argv[:3] == ("stack", "import", "--file")
        file = Path(argv[3])
        assert file.stat().st_mode & 0o077 == 0
        found.append(json.loads(file.read_text()))

    monkeypatch.setattr(repair, "export", lambda: state([NODE01, NODE03]))
    monkeypatch.setattr(repair, "pulumi", pulumi)
    return found


def test_what_is_gone_leaves_the_state_and_the_rest_stays(imported: list[dict[str, Any]]) -> None:
    text = state([NODE01, NODE03])
    repair.carry_out(text, Found((), (), (NODE03,)), SITE)
    (document,) = imported
    assert document["deployment"]["resources"] == [NODE01]


def test_nothing_is_written_over_a_state_that_somebody_changed(
    imported: list[dict[str, Any]],
) -> None:
    with pytest.raises(EngineError, match="somebody deploys"):
        repair.carry_out(state([NODE01]), Found(("x",), (), ()), SITE)
    assert imported == []


def test_machines_are_cleared_before_the_folder_that_they_are_in(
    imported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(
        leftovers, "clear_folder", lambda _v, _p, at, _c: done.append(("folder", at))
    )
    monkeypatch.setattr(
        machines, "remove_leftover", lambda _v, _p, name, *_: done.append(("machine", name))
    )
    unknown = (
        creating(FOLDER, "machines", path="platform-prod")["resource"],
        creating(MACHINE, "node03", name="node03")["resource"],
    )
    repair.carry_out(state([NODE01, NODE03]), Found(("x",), unknown, ()), SITE)
    assert done == [("machine", "node03"), ("folder", "platform-prod")]
    assert len(imported) == 1


def test_a_machine_that_the_settings_do_not_name_is_never_removed(
    imported: list[dict[str, Any]],
) -> None:
    unknown = (creating(MACHINE, "db01", name="db01")["resource"],)
    with pytest.raises(VCenterError, match="db01: not among platform:machines"):
        repair.carry_out(state([NODE01, NODE03]), Found(("x",), unknown, ()), SITE)
    assert imported == []


def test_nothing_is_looked_at_while_somebody_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "ask", lambda: [lock.Holder("laptop", 1, "created by op@laptop")])
    assert command.main(["repair", "--yes"]) == 1
    assert "the stack is locked by\n  created by op@laptop" in capsys.readouterr().err


@pytest.mark.parametrize("yes", [True, False])
def test_it_says_what_it_found_and_does_nothing_unasked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    imported: list[dict[str, Any]],
    vcenter: set[str],
    *,
    yes: bool,
) -> None:
    vcenter.remove("id-node03")
    monkeypatch.setattr(lock, "ask", list)
    monkeypatch.setattr(Site, "of_stack", classmethod(lambda _: SITE))
    monkeypatch.setattr(command, "export", lambda: state([NODE01, NODE03]))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert command.main(["repair", *(["--yes"] if yes else [])]) == (0 if yes else 1)
    assert "not in vCenter: VirtualMachine node03" in capsys.readouterr().out
    assert len(imported) == yes


@pytest.mark.parametrize("gone", [True, False])
def test_a_destroy_takes_what_vcenter_no_longer_has_out_of_the_state_first(
    monkeypatch: pytest.MonkeyPatch,
    imported: list[dict[str, Any]],
    vcenter: set[str],
    *,
    gone: bool,
) -> None:
    vcenter.difference_update({"id-node03"} if gone else ())
    monkeypatch.setattr(lock, "ask", list)
    monkeypatch.setattr(Site, "of_stack", classmethod(lambda _: SITE))
    monkeypatch.setattr(command, "export", lambda: state([NODE01, NODE03]))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    became: list[tuple[int, list[str]]] = []
    monkeypatch.setattr("os.execvp", lambda _, argv: became.append((len(imported), argv)))
    command.main(["destroy", "--yes"])
    engine = ["pulumi", "destroy", "--exclude-protected", "--yes", "--skip-preview"]
    assert became == [(gone, engine)]
    became.clear()
    assert command.main(["destroy"]) == (1 if gone else 0)  # who cannot be asked has not agreed
    assert len(became) == (not gone)


def test_the_settings_and_the_password_come_from_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = plain_yaml.read((ROOT / "Pulumi.prod.yaml").read_text())["config"]
    document = {key: {"value": json.dumps(one), "secret": False} for key, one in file.items()}
    document[repair.PASSWORD] = {"value": "pw-of-the-test", "secret": True}
    answers = {"config": document, "stack": {"talosconfig": "access-of-the-test"}}
    monkeypatch.setattr(
        repair, "pulumi", lambda *argv: SimpleNamespace(stdout=json.dumps(answers[argv[0]]))
    )
    site = Site.of_stack()
    assert site.settings == SITE.settings
    assert site.password == "pw-of-the-test"  # noqa: S105 the test's own
    assert site.talosconfig == "access-of-the-test"
    assert "of-the-test" not in repr(site)


def test_a_machine_that_has_a_configuration_is_known_by_the_stacks_own_access_to_it(
    imported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the machine would refuse every question, and silence counts only after minutes."""
    used: list[str] = []

    @contextmanager
    def connect(talosconfig: str) -> Iterator[object]:
        used.append(talosconfig)
        yield SimpleNamespace()

    monkeypatch.setattr(talosctl, "connect", connect)
    monkeypatch.setattr(machines, "remove_leftover", lambda *_: True)
    site = Site(SITE.settings, SITE.password)
    site.talosconfig = "access-of-the-test"
    document = state([NODE01, NODE03], creating(MACHINE, "node02", name="node02"))
    found = Found((), (creating(MACHINE, "node02", name="node02")["resource"],), ())
    monkeypatch.setattr(repair, "export", lambda: document)
    repair.carry_out(document, found, site)
    assert used == ["access-of-the-test"]
    assert imported


def test_of_a_leftover_in_a_cluster_that_omni_manages_omni_is_asked(
    imported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[bool] = []
    fake = FakeOmni().with_machines("node02")

    @contextmanager
    def connect(account: omnictl.Account) -> Iterator[FakeOmni]:
        assert account.key == "key-of-the-test"
        yield fake

    def remove(_v: object, _p: object, _n: str, waits: Callable[[str], bool], _c: object) -> bool:
        answered.append(waits(UUIDS["node02"]))
        return True

    monkeypatch.setattr(omnictl, "connect", connect)
    monkeypatch.setattr(machines, "remove_leftover", remove)
    settings = load_file(STACK_FILES / "good" / "omni.yaml")
    site = Site(settings, SITE.password, "key-of-the-test")
    document = state([NODE01, NODE03], creating(MACHINE, "node02", name="node02"))
    found = Found((), (creating(MACHINE, "node02", name="node02")["resource"],), ())
    monkeypatch.setattr(repair, "export", lambda: document)
    repair.carry_out(document, found, site)
    assert answered == [True]
    assert imported


# --- What the program says of the engine's notes --------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (state([], creating(MACHINE, "a"), creating(MACHINE, "b")), 2),
        (state([]), 0),
        ("", 0),
        ("[]", 0),
    ],
)
def test_the_engines_notes_are_counted(text: str, count: int) -> None:
    assert notes.interrupted(text) == count


def test_the_program_contradicts_the_engines_advice_once_and_only_when_there_are_notes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", said.append)
    for text in (state([]), state([], creating(MACHINE, "a"))):
        notes.tell(cast("notes.Asked", _Answer(text)))
    notes.tell(None)
    (warning,) = said
    assert "an earlier run was killed during 1 of its steps" in warning
    assert "Do not run `pulumi refresh`, whatever the engine advises" in warning
    assert "`make repair`" in warning


class _Answer:
    def __init__(self, text: str) -> None:
        self.text = text

    def communicate(self, timeout: float) -> tuple[str, None]:
        assert timeout > 0
        return self.text, None
