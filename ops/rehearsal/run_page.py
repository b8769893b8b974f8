"""Rehearsal: draws a whole run as one self-contained page, without scripts and foreign files.

Its parts are what the run found: chapters with their times, layers, what was real, the requests
that were answered, flows and policies. The timeline has a page of its own, which stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from ops.rehearsal import flows
from ops.rehearsal.platform import Layer
from ops.rehearsal.timeline_page import STYLE, seconds

OWN_STYLE = """
td { vertical-align: top; } td code { overflow-wrap: anywhere; }
.good { color: var(--create); font-weight: 600; } .bad { color: var(--failed); font-weight: 600; }
.kind { display: inline-block; padding: 0 8px; border-radius: 9px; background: var(--band); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--band); padding: 10px 16px;
  border-radius: 8px; }
"""

KINDS = {
    "real": "the program itself",
    "stand-in": "a program of the lab's own that does its work",
    "simulated": "no such program: the lab answers for it",
}


@dataclass(frozen=True)
class Part:
    """A part of what ran: its name, a word of KINDS, and a line about it."""

    name: str
    kind: str
    says: str


@dataclass(frozen=True)
class Address:
    """Something to look at in a browser: its URL in the world, and what answered there."""

    name: str
    url: str
    answer: str = ""


@dataclass(frozen=True)
class Run:
    """What the page shows."""

    stack: str
    began: str
    chapters: dict[str, float]
    """Seconds, by title."""
    parts: Sequence[Part] = ()
    layers: Sequence[Layer] = ()
    addresses: Sequence[Address] = ()
    seen: flows.Seen | None = None
    notes: Sequence[str] = field(default=())
    """Whole texts of the summary, such as the policies' judgement."""
    timeline: str = ""
    """The name of the timeline's page, in the same folder; empty without one."""
    dashboards: str = ""
    """The same of the page with the dashboards' numbers."""


def render(run: Run) -> str:
    """Make the page."""
    title = f"Run of {escape(run.stack)} in the lab"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{STYLE}{OWN_STYLE}</style></head><body>",
            f'<h1>{title}</h1><div class="sub">{escape(run.began)}</div>',
            *_chapters(run),
            *_layers(run.layers),
            *_addresses(run.addresses),
            *_policies(run.seen),
            *_flows(run.seen),
            *_parts(run.parts),
            *(f"<pre>{escape(text)}</pre>" for text in run.notes),
            "</body></html>\n",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a table; a cell is markup already."""
    names = "".join(f"<th>{escape(one)}</th>" for one in head)
    yield f'<div class="tables"><table><tr>{names}</tr>'
    for row in rows:
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    yield "</table></div>"


def _chapters(run: Run) -> Iterator[str]:
    tiles = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{seconds(took)}</dd></div>"
        for title, took in run.chapters.items()
    )
    yield f"<dl>{tiles}</dl>"
    for page, name, what in (
        (run.timeline, "The timeline of the deployment", "resource by resource"),
        (run.dashboards, "The dashboards", "with the numbers of this run"),
    ):
        if page:
            yield f'<p><a href="{escape(page, quote=True)}">{name}</a>, {what}.</p>'


def _layers(layers: Sequence[Layer]) -> Iterator[str]:
    if not layers:
        return
    yield "<h2>The layers</h2>"
    yield from _table(
        ("Layer", "Version", "Pods ready", "Addresses", "Chart"),
        (
            (
                escape(one.name),
                escape(one.version),
                _mark(f"{one.ready} of {one.wanted}", good=one.complete),
                escape(" ".join(one.addresses)),
                escape(one.origin),
            )
            for one in layers
        ),
    )


def _addresses(addresses: Sequence[Address]) -> Iterator[str]:
    if not addresses:
        return
    yield "<h2>What answers</h2><p>These addresses are the world's. From a browser outside of it: "
    yield "<code>make lab-shell</code> says how.</p>"
    yield from _table(
        ("What", "Where", "It answered"),
        (
            (
                escape(one.name),
                f'<a href="{escape(one.url, quote=True)}">{escape(one.url)}</a>',
                escape(one.answer) or '<span class="soft">not asked</span>',
            )
            for one in addresses
        ),
    )


def _policies(seen: flows.Seen | None) -> Iterator[str]:
    yield "<h2>Network policies</h2>"
    if seen is None:
        yield f"<p>{escape(flows.summary(None))}.</p>"
        return
    yield from _table(
        ("Policy", "Connections", "Why none"),
        (
            (
                escape(one["name"]),
                str(one["allowed"]),
                escape(seen.unused.get(one["name"], "")),
            )
            for one in seen.policies
        ),
    )


def _flows(seen: flows.Seen | None) -> Iterator[str]:
    if seen is None:
        return
    yield f"<h2>Flows</h2><p>{len(seen.flows)} kinds of connections that pods opened or took, "
    yield _mark(f"{len(seen.refused)} refused", good=not seen.refused)
    yield ".</p>"
    order = sorted(seen.flows, key=lambda one: (one["verdict"] == "allowed", one["first"]))
    yield from _table(
        ("From", "To", "Port", "Times", "Allowed by"),
        (
            (
                escape(flows.end(one["from"])),
                escape(flows.end(one["to"])),
                escape(f"{one['protocol']} {one['port'] or ''}"),
                str(one["count"]),
                _reason(one),
            )
            for one in order
        ),
    )


def _reason(flow: flows.Flow) -> str:
    if flow["verdict"] != "allowed":
        return _mark(f"refused: {flow['why']}", good=False)
    if found := flows.rules(flow):
        return "<br>".join(escape(one) for one in found)
    return '<span class="soft">no policy selects the pods</span>'


def _parts(parts: Sequence[Part]) -> Iterator[str]:
    if not parts:
        return
    yield "<h2>What was real</h2><p>"
    yield "; ".join(f"<b>{kind}</b>: {escape(says)}" for kind, says in KINDS.items())
    yield ".</p>"
    order = list(KINDS)
    yield from _table(
        ("Part", "", "How"),
        (
            (escape(one.name), f'<span class="kind">{escape(one.kind)}</span>', escape(one.says))
            for one in sorted(
                parts, key=lambda one: order.index(one.kind) if one.kind in order else len(order)
            )
        ),
    )


def _mark(text: str, *, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{escape(text)}</span>'
