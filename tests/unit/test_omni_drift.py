"""What drift asks of Omni, and what it finds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from clients.omnictl import Omnictl
from components.omni import template
from config import omni as rules
from config import parse, plain_yaml
from config.resource_types import GATE
from ops.drift import omni
from ops.drift.finding import DriftError
from tests.edits import STACK_FILES
from tests.unit.fake_omni import UUIDS, FakeOmni, machine

ROOT = Path(__file__).parents[2]
NOW = dt.datetime(2026, 11, 30, 4, 0, tzinfo=dt.UTC)
URN = "urn:pulumi:prod::platform::platform:omni:Cluster$platform:index:Gate::"


class Asked(FakeOmni):
    """Tells a difference and backups too."""

    differs = ""
    taken: tuple[int, ...] = (int(NOW.timestamp()) - 600,)
    compared: str = ""

    def difference(self, template: str) -> str:
        self.compared = template
        return self.differs

    def backups(self, cluster: str) -> list[int]:
        assert cluster == "prod"
        return list(self.taken)


def settings() -> Any:
    found = plain_yaml.read((STACK_FILES / "good" / "omni.yaml").read_text())["config"]
    return parse({key.removeprefix("platform:"): value for key, value in found.items()})


NAMES = ("node01", "node02", "node03", "node04")


def resources() -> list[dict[str, Any]]:
    model = settings()
    text = template.render(model, rules.of(model), template.names(model), ROOT)
    inputs = {
        "omni": {"endpoint": "https://omni.example.internal", "version": "1.9.3"},
        "omni-cluster": {"template": text, "machines": {name: UUIDS[name] for name in NAMES}},
        "node01-joined": {"address": "172.16.20.51"},
    }
    return [
        {"urn": f"{URN}{name}", "type": "platform:index:Gate", "inputs": one}
        for name, one in inputs.items()
    ]


def told() -> omni.Told:
    found = omni.of_state(resources())
    assert found is not None
    return found


def found(fake: Omnictl) -> list[str]:
    return [f"{one.who}: {one.what}" for one in omni.look(fake, told(), NOW)]


def joined() -> Asked:
    fake = Asked()
    fake.with_machines(*NAMES)
    return fake


def test_a_state_without_omni_is_the_stacks_own() -> None:
    assert omni.of_state([]) is None
    gate = {"urn": f"urn:pulumi:prod::platform::{GATE}::node01-place", "type": GATE}
    assert omni.of_state([gate]) is None, "a gate without inputs"


def test_what_omni_was_told_is_read_from_the_state() -> None:
    assert (told().cluster, told().interval) == ("prod", dt.timedelta(hours=1))
    assert told().machines["node04"] == UUIDS["node04"]
    (one,) = omni.machines(resources())
    assert (one.name, one.address) == ("node01", "172.16.20.51")


def test_a_cluster_as_it_was_told_gives_nothing() -> None:
    fake = joined()
    assert found(fake) == []
    model = settings()
    ids = {name: UUIDS[name] for name in NAMES}
    wanted = template.render(model, rules.of(model), ids, ROOT)
    assert list(plain_yaml.read_all(fake.compared)) == list(plain_yaml.read_all(wanted))


def test_what_was_changed_in_omni_is_told() -> None:
    fake = joined()
    fake.differs = "--- a\n+++ b\n@@ -1 +1 @@\n-  kubernetesversion: 1.34.2\n+  x: 1.34.1\n"
    assert found(fake) == ["prod: changed in Omni: -  kubernetesversion: 1.34.2; +  x: 1.34.1"]


def test_a_machine_that_omni_lost_is_told_and_nothing_is_compared() -> None:
    fake = joined()
    del fake.known[UUIDS["node02"]]
    fake.known[UUIDS["node03"]] = machine("node03", UUIDS["node03"], connected=False, error="lost")
    assert found(fake) == ["node02: Omni does not know it", "node03: not connected to Omni: lost"]
    assert fake.compared == ""


def test_backups_that_do_not_come_are_told() -> None:
    fake = joined()
    fake.taken = ()
    assert found(fake) == ["prod: Omni has no backup of it"]
    fake.taken = (int(NOW.timestamp()) - 3 * 3600,)
    (one,) = found(fake)
    assert one.startswith("prod: Omni's newest backup was taken 3 hours ago")


def test_a_run_that_did_not_get_so_far_is_told() -> None:
    first = omni.of_state(resources()[:1])
    assert first is not None
    with pytest.raises(DriftError, match="Omni was not told of the cluster yet"):
        omni.findings(first, "key", NOW)
