"""Layer Drift: the report, for a tired person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from ops.drift.finding import Finding
from ops.review.cells import cell, code

MARKER = "<!-- platform-drift -->"
"""The first line: whoever opens the issue finds the old one by it."""
FEW = 5
"""So many fields of a finding are told on a terminal."""


class Report(BaseModel):
    """What a drift run found."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[Finding, ...]
    watch: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Say it in a line."""
        if not self.findings:
            return "no drift: machines, vCenter and the cluster are as their owners want them"
        owners = sorted({one.owner for one in self.findings})
        counts = ", ".join(
            f"{sum(one.owner == owner for one in self.findings)} of {owner}'s" for owner in owners
        )
        return f"drift: {len(self.findings)} things are not as their owner wants them ({counts})"


def markdown(report: Report) -> str:
    """Write the report."""
    lines = [MARKER, f"## {report.summary[0].upper()}{report.summary[1:]}", ""]
    if report.findings:
        lines += ["| where | who | what | owner |", "|---|---|---|---|"]
        lines += [
            f"| {one.place} | **{cell(one.who)}** | {cell(one.what)} | {one.owner} |"
            for one in report.findings
        ]
        for one in report.findings:
            lines += ["", *_details(one)]
    lines += _watch(report.watch)
    return "\n".join(lines) + "\n"


def short(report: Report) -> Iterator[str]:
    """Write it for a terminal: a line for each finding and its fields, and what fixes it."""
    yield report.summary
    for one in report.findings:
        yield f"  {one.place}: {one.who} {one.what} ({one.owner}'s)"
        for field in one.fields[:FEW]:
            yield f"      {field.where}: wanted {field.wanted}, found {field.found}"
        if len(one.fields) > FEW:
            yield f"      and {len(one.fields) - FEW} more"
        yield f"      {one.fix}"
    for line in report.watch:
        yield f"  watch: {line}"


def _details(one: Finding) -> Iterator[str]:
    yield f"**{one.who}**: {one.fix}"
    for field in one.fields:
        yield f"- {code(field.where)}: wanted {code(field.wanted)}, found {code(field.found)}"


def _watch(found: Sequence[str]) -> list[str]:
    return ["", "### Watch", "", *(f"- {one}" for one in found)] if found else []
