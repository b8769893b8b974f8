"""What the policies said of a run is read from the engine's own log; silence is no consent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.resource_types import MACHINE_SECRETS
from ops.policies.catalogue import RULES
from ops.policies.steps import PLAN_RULES
from ops.rehearsal import judgement
from ops.rehearsal.tools import ToolError

URN = "urn:pulumi:prod::platform::x:a:A::one"
NOTHING = {"steps": [{"op": "same", "urn": URN}]}


def log(tmp_path: Path, *events: dict[str, Any]) -> Path:
    path = tmp_path / "up.events"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def summaries(*, without: str = "") -> list[dict[str, Any]]:
    """Give the events of a run in which all rules judged two resources and the stack."""
    names = [rule.name for rule in RULES if rule.name != without]
    own = {rule.name for rule in RULES if rule.check}
    each = {"passed": [name for name in names if name in own][1:], "failed": []}
    first = each | {"failed": [name for name in names if name in own][:1]}
    stack = {"passed": [name for name in names if name not in own]}
    return [
        {"sequence": 1, "preludeEvent": {}},
        {"policyAnalyzeSummaryEvent": {"resourceUrn": URN, **first}},
        {"policyAnalyzeSummaryEvent": {"resourceUrn": f"{URN}-two", **each}},
        {"policyAnalyzeStackSummaryEvent": stack},
    ]


def test_a_run_without_violations_says_how_much_was_judged(tmp_path: Path) -> None:
    assert str(judgement.of(log(tmp_path, *summaries()), NOTHING)) == (
        f"policies: {len(RULES)} rules on 2 resources and {len(PLAN_RULES)} on the plan; "
        "violations: mandatory none, advisory none"
    )


def test_violations_are_counted_by_level_and_told(tmp_path: Path) -> None:
    event = {"policyName": "rule", "message": "what\nfix", "enforcementLevel": "advisory"}
    path = log(tmp_path, *summaries(), {"policyEvent": event})
    plan = {"steps": [{"op": "delete", "urn": f"urn:p::s::{MACHINE_SECRETS}::prod"}]}
    first, *rest = str(judgement.of(path, plan)).splitlines()
    assert first.endswith("violations: mandatory 1, advisory 1")
    assert rest[:2] == ["  [advisory] rule: what", "fix"]
    assert rest[2].startswith("  [mandatory] the machine secrets prod would be deleted")


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_rule_that_has_not_run_is_a_failure(tmp_path: Path, rule: str) -> None:
    with pytest.raises(ToolError, match=f"not run: {rule};"):
        judgement.of(log(tmp_path, *summaries(without=rule)), NOTHING)
