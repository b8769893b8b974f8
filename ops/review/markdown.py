"""Layer Review: the comment, for a tired person with half a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ops.engine.urn import name_of, type_of
from ops.review.cells import cell, code
from ops.review.charts import ChartChange, ObjectChange
from ops.review.review import Entry, MachineField, Review, Row

T = TypeVar("T")

MARKER = "<!-- platform-review -->"
"""The first line: whoever posts the comment finds the old one by it."""
SIGNS = {
    "safe": "🟢 Safe",
    "restarts workloads": "🟡 Restarts workloads",
    "reboots machines": "🟠 Reboots machines",
    "replaces machines": "🔴 Replaces machines",
    "unknown effect": "⚪ Unknown effect",
    "loses data": "⛔ LOSES DATA",
    "refused": "⛔ Refused",
}
ROWS = 5
"""So many lines stand open; the rest is folded."""
FIELDS = 20
"""So many fields of a change are told; a definition can have hundreds, and GitHub takes 65536
characters at most."""

WIDE = 120
"""Lines of the engine that are longer do not fit beside a pull request."""


def markdown(review: Review) -> str:
    """Write the comment."""
    parts = [
        MARKER,
        f"## {SIGNS[review.verdict]}",
        "",
        review.sentence,
        *_errors(review.errors),
        *_policies(review),
        *_who(review),
        *_configuration(review),
        *_charts(review.charts),
        *_watch(review),
        *_everything(review.changes),
    ]
    return "\n".join(parts) + "\n"


def _errors(errors: Sequence[str]) -> Iterator[str]:
    if not errors:
        return
    lines = [line for one in errors for line in one.splitlines()]
    block = ["```text", *lines, "```"]
    if len(lines) > ROWS or max(len(line) for line in lines) > WIDE:
        yield from _folded("what the engine says", block)
    else:
        yield from ("", *block)


def _policies(review: Review) -> Iterator[str]:
    if review.forbidden or review.discouraged:
        yield ""
    yield from (f"- **forbidden** by the policies: {one}" for one in review.forbidden)
    yield from (f"- policies advise: {one}" for one in review.discouraged)


def _who(review: Review) -> Iterator[str]:
    if not review.rows:
        return
    yield from ("", "### What happens to whom", "")
    yield from _first_rows(review.rows, _table)
    if review.quorum:
        yield from ("", f"**etcd:** {review.quorum}.")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | layer | who | what | unavailable meanwhile |"
    yield "|---|---|---|---|---|"
    for one in rows:
        sign = SIGNS[one.verdict].split(" ")[0]
        cells = (
            one.layer,
            f"**{cell(one.who)}**",
            f"{one.operation}: {one.what}",
            one.away or "-",
        )
        yield f"| {sign} | {' | '.join(cell(one) for one in cells)} |"


def _first_rows(rows: Sequence[T], table: Callable[[Sequence[T]], Iterator[str]]) -> Iterator[str]:
    """Write a table of the first rows, and one of the others that is folded."""
    yield from table(rows[:ROWS])
    if rest := rows[ROWS:]:
        yield from _folded(f"{len(rest)} more lines", table(rest))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _configuration(review: Review) -> Iterator[str]:
    if not review.configuration:
        return
    yield from ("", "### Machine configuration", "")
    yield from _first_rows(review.configuration, _fields)


def _fields(fields: Sequence[MachineField]) -> Iterator[str]:
    yield "| machines | field | change | effect |"
    yield "|---|---|---|---|"
    for one in fields:
        change = f"{code(one.before)} → {code(one.after)}"
        yield f"| {one.machines} | {code(one.field)} | {change} | {cell(one.effect)} |"


def _charts(charts: Sequence[ChartChange]) -> Iterator[str]:
    if charts:
        yield from ("", "### Charts")
    for one in charts:
        yield ""
        title = one.after if one.before == one.after else f"{one.before} → {one.after}"
        yield f"**{one.release}** {title}"
        for where, before, after in one.values[:ROWS]:
            yield f"- value {code(where)}: {code(before)} → {code(after)}"
        if one.problem:
            yield f"- {one.problem}"
            continue
        plain = [entry for entry in one.objects if not entry.definition]
        definitions = [entry for entry in one.objects if entry.definition]
        counts = f"{_count(len(plain), 'object')}, {_count(len(definitions), 'definition')}"
        yield f"- it changes {counts}"
        if one.objects:
            lines = [line for entry in (*plain, *definitions) for line in _object(entry)]
            yield from _folded(f"the objects of {one.release}", lines)


def _object(entry: ObjectChange) -> Iterator[str]:
    yield f"- {entry.operation} **{entry.name}**: {entry.why}"
    for where, before, after in entry.fields:
        yield f"  - {code(where)}: {code(before)} → {code(after)}"


def _watch(review: Review) -> Iterator[str]:
    found = [*review.watch, *(f"warning: {one.splitlines()[0]}" for one in review.warnings)]
    if found:
        yield from ("", "### Watch", "", *(f"- {one}" for one in found))


def _everything(changes: Sequence[Entry]) -> Iterator[str]:
    if not changes:
        return
    lines: list[str] = []
    for one in changes:
        name, kind = name_of(one.urn), type_of(one.urn)
        note = " (protected)" if one.protected else ""
        lines.append(f"- {one.operation} `{kind}` **{name}**{note}: {one.why}")
        told = one.properties[:FIELDS]
        lines += [f"  - {code(w)}: {code(b)} → {code(a)}" for w, b, a in told]
        if rest := len(one.properties) - len(told):
            lines.append(f"  - and {_count(rest, 'field')} more; the review's JSON has all")
    yield from _folded(f"the preview: {_count(len(changes), 'change')}", lines)


def _folded(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield from ("", f"<details><summary>{title}</summary>", "", *lines, "", "</details>")
