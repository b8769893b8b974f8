"""Rehearsal: what the policies said of a run.

The engine's event log tells which rules judged what (`policyAnalyzeSummaryEvent` for each resource,
`policyAnalyzeStackSummaryEvent` for the stack) and each violation (`policyEvent`; pulumi/sdk,
go/common/apitype/events.go). A rule that should have run and did not is a failure: silence must not
pass for consent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.policies import steps
from ops.policies.catalogue import RULES
from ops.policies.model import Level
from ops.rehearsal.tools import ToolError

SUMMARIES = ("policyAnalyzeSummaryEvent", "policyAnalyzeStackSummaryEvent")


@dataclass(frozen=True)
class Judgement:
    """How many rules judged how much, and what they found."""

    rules: int
    plan_rules: int
    resources: int
    violations: tuple[tuple[Level, str], ...]
    """Level and text of each."""

    def __str__(self) -> str:
        """Write it as a summary's lines."""
        found = Counter(level for level, _ in self.violations)
        counts = ", ".join(f"{level.value} {found[level] or 'none'}" for level in Level)
        head = (
            f"policies: {self.rules} rules on {self.resources} resources and {self.plan_rules} on "
            f"the plan; violations: {counts}"
        )
        return "\n".join([head, *(f"  [{level.value}] {text}" for level, text in self.violations)])


def of(events: Path, preview: Mapping[str, Any]) -> Judgement:
    """Judge by the event log of an `up` with the pack, and by the JSON of a preview.

    Raises `ToolError` when a rule of the pack has not run.
    """
    ran: set[str] = set()
    urns: set[str] = set()
    violations: list[tuple[Level, str]] = []
    for line in events.read_text().splitlines():
        event = json.loads(line)
        for kind in SUMMARIES:
            if summary := event.get(kind):
                ran |= {*summary.get("passed", ()), *summary.get("failed", ())}
                urns |= {summary["resourceUrn"]} if "resourceUrn" in summary else set()
        if violation := event.get("policyEvent"):
            text = f"{violation['policyName']}: {violation['message'].strip()}"
            violations.append((Level(violation["enforcementLevel"]), text))
    if missing := sorted({rule.name for rule in RULES} - ran):
        raise ToolError(
            f"these rules have not run: {', '.join(missing)}; was the engine given the pack?"
        )
    violations += ((one.level, one.text) for one in steps.violations(preview))
    return Judgement(len(ran), len(steps.PLAN_RULES), len(urns), tuple(violations))
