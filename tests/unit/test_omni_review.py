"""What the review says of a change of the cluster that Omni manages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.omni import template
from config import omni as rules
from config import parse, plain_yaml
from config.resource_types import GATE
from ops.engine.preview import Change, State
from ops.review import omni
from ops.review.verdict import Verdict
from tests.edits import STACK_FILES

ROOT = Path(__file__).parents[2]
URN = f"urn:pulumi:prod::platform::platform:omni:Cluster${GATE}::omni-cluster"


def sections() -> dict[str, Any]:
    found = plain_yaml.read((STACK_FILES / "good" / "omni.yaml").read_text())["config"]
    return {key.removeprefix("platform:"): value for key, value in found.items()}


def state(**changes: Any) -> State:
    model = parse(sections() | changes)
    text = template.render(model, rules.of(model), template.names(model), ROOT)
    lost = list(rules.of(model).lost)
    return State(type=GATE, inputs={"template": text, "lost": lost})


def judged(**changes: Any) -> tuple[Verdict, str]:
    change = Change(urn=URN, operation="update", old=state(), new=state(**changes), paths=())
    effect = omni.cluster(change)
    return effect.verdict, effect.why


def test_a_first_cluster_touches_nothing_that_is_there() -> None:
    change = Change(urn=URN, operation="create", old=None, new=state(), paths=())
    assert omni.cluster(change).verdict is Verdict.SAFE


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        (
            {"talos": sections()["talos"] | {"version": "1.13.10"}},
            Verdict.REBOOTS,
            "upgrades Talos from v1.13.9 to v1.13.10",
        ),
        ({"kubernetes": {"version": "1.34.2"}}, Verdict.RESTARTS, "from v1.34.1 to v1.34.2"),
        (
            {"talos": sections()["talos"] | {"extensions": []}},
            Verdict.REBOOTS,
            "an image with other extensions",
        ),
        (
            {"omni": sections()["omni"] | {"backupInterval": "2h"}},
            Verdict.SAFE,
            "backups at another interval",
        ),
        (
            {"machines": sections()["machines"][:3]},
            Verdict.REPLACES,
            "takes out of the cluster and resets node04",
        ),
        (
            {
                "machines": sections()["machines"][:3],
                "omni": sections()["omni"] | {"lost": ["node04"]},
            },
            Verdict.REPLACES,
            "Omni takes out of the cluster node04",
        ),
        (
            {
                "machines": [
                    *sections()["machines"],
                    sections()["machines"][3] | {"name": "node05", "address": "172.16.20.55"},
                ]
            },
            Verdict.SAFE,
            "Omni takes node05 into the cluster",
        ),
        (
            {"network": sections()["network"] | {"timeServers": ["ntp.example.com"]}},
            Verdict.UNKNOWN,
            "another configuration to node01, node02, node03, node04",
        ),
    ],
)
def test_a_change_says_what_omni_will_do(
    changes: dict[str, Any], verdict: Verdict, words: str
) -> None:
    found, why = judged(**changes)
    assert found is verdict
    assert words in why


def test_the_worst_of_several_counts_and_all_are_told() -> None:
    found, why = judged(kubernetes={"version": "1.34.2"}, machines=sections()["machines"][:3])
    assert found is Verdict.REPLACES
    assert "v1.34.2" in why
    assert "node04" in why
