"""Rehearsal: draws a deployment's timeline as one self-contained page, without scripts.

All measures are in the units of the drawing, which a browser scales to its window.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.timeline import Step, Timeline

WIDTH = 1240
LABELS = 320
CHART = 850
"""The rest, to the right of the chart, is for the last bars' durations."""
TOP = 34
ROW = 22
BAR = 14
GROUP = 32
TICKS = 12
MARGIN = 8
LONG_LABEL = 40

COLOURS = {
    "create": ("create", "import"),
    "update": ("update",),
    "replace": ("create-replacement", "import-replacement", "read-replacement"),
    "delete": ("delete", "delete-replaced", "discard-replaced"),
}

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c2126; --soft: #68717a;
  --line: #e3e5e7; --band: #f1f2f3; --create: #2f9e6e; --update: #d1941c; --replace: #9a5bc7;
  --delete: #d64b4b; --other: #3f83c9; --path: #1c2126; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e8eaec; --soft: #949da6;
  --line: #2a3037; --band: #1b2025; --create: #3fb583; --update: #e0aa3e; --replace: #b47ee0;
  --delete: #e56a6a; --other: #5c9fe3; --path: #ffffff; } }
body { margin: 0 auto; padding: 28px 24px; max-width: 1320px; background: var(--page);
  color: var(--ink); font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 8px; }
.sub, dt, .legend, td.soft { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
dl div { background: var(--band); border-radius: 8px; padding: 10px 16px; flex: 1 1 auto; }
dt { font-size: 12px; } dd { margin: 0; font-size: 20px; font-weight: 600; }
dd small { font-size: 13px; font-weight: 400; color: var(--soft); }
.legend span { margin-right: 18px; white-space: nowrap; }
.legend i { display: inline-block; width: 22px; height: 10px; border-radius: 3px;
  margin-right: 6px; background: var(--soft); }
svg { width: 100%; height: auto; display: block; margin-top: 12px; font-size: 12px; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); }
svg .took { paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
svg .group { font-weight: 600; font-size: 13px; }
.band { fill: var(--band); } .grid { stroke: var(--line); }
.bar { fill: var(--other); fill-opacity: .6; }
.create { fill: var(--create); } .update { fill: var(--update); }
.replace { fill: var(--replace); } .delete { fill: var(--delete); }
.critical.bar { fill-opacity: 1; stroke: var(--path); stroke-width: 1.5; }
text.critical { font-weight: 600; }
.failed { stroke: var(--delete); stroke-width: 2; stroke-dasharray: 3 2; }
.path { fill: none; stroke: var(--path); stroke-width: 1.5; }
.gap { stroke: var(--path); stroke-width: 1.5; stroke-dasharray: 2 3; }
.legend .create { background: var(--create); } .legend .update { background: var(--update); }
.legend .replace { background: var(--replace); } .legend .delete { background: var(--delete); }
.legend .other { background: var(--other); }
.legend .marked { outline: 1.5px solid var(--path); }
.legend .waiting { height: 0; vertical-align: middle; background: none;
  border-top: 2px dashed var(--path); border-radius: 0; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 400; font-size: 12px; color: var(--soft); }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.share { width: 40%; }
td.share i { display: block; height: 8px; border-radius: 3px; background: var(--soft); }
"""


def render(timeline: Timeline) -> str:
    """Make the page."""
    title = f"Deployment of {escape(timeline.stack)}" if timeline.stack else "Deployment"
    began = f"{timeline.began:%Y-%m-%d %H:%M:%S %Z}"
    precision = "" if timeline.precise else " · times are whole seconds (no recorder watched)"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f'<h1>{title}</h1><div class="sub">{began}{precision}</div>',
            _totals(timeline),
            _legend(timeline),
            *_chart(timeline),
            *_path_table(timeline),
            "</body></html>\n",
        ]
    )


def seconds(value: float) -> str:
    """Write a duration for people: `0.04 s`, `7.1 s`, `192 s`."""
    digits = 2 if value < 1 else 1 if value < 100 else 0  # noqa: PLR2004 three digits at most
    return f"{value:.{digits}f} s"


def colour(step: Step) -> str:
    """Name the colour of a step."""
    return next((name for name, group in COLOURS.items() if step.operation in group), "other")


def tick_distance(wall: float) -> int:
    """Give the seconds between two marks of the axis: a round number, and not too many marks."""
    rounds = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600]
    return next((one for one in rounds if wall / one <= TICKS), 1800)


def _totals(timeline: Timeline) -> str:
    counts = Counter(one.operation for one in timeline.changes)
    operations = ", ".join(f"{number} {operation}" for operation, number in counts.most_common())
    tiles = [("Wall time", seconds(timeline.wall))]
    if timeline.ratio is not None:
        work, length = seconds(timeline.critical_seconds), len(timeline.critical_path)
        tiles.append(("Work on the critical path", f"{work} <small>in {length} steps</small>"))
        tiles.append(("Wall / critical path", f"{timeline.ratio:.2f}"))
    tiles.append(("Resources", f"{len(timeline.changes)} <small>{escape(operations)}</small>"))
    if longest := timeline.waited_longest:
        waited = seconds(timeline.waited(longest))
        tiles.append(("Waited longest", f"{waited} <small>{escape(longest.label)}</small>"))
    return (
        f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{text}</dd></div>' for name, text in tiles)}</dl>"
    )


def _legend(timeline: Timeline) -> str:
    used = [*COLOURS, "other"]
    present = {colour(one) for one in timeline.changes}
    colours = "".join(f'<span><i class="{c}"></i>{c}</span>' for c in used if c in present)
    return (
        f'<div class="legend">{colours}<span><i class="marked"></i>critical path</span>'
        '<span><i class="waiting"></i>free to run, but not running</span></div>'
    )


def _groups(timeline: Timeline) -> list[tuple[str, list[Step]]]:
    """Group the changes by their component, in the order of their start."""
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in timeline.changes:
        groups[timeline.parents.get(step.urn, "")].append(step)
    labels = {one.urn: one.label for one in timeline.steps if one.urn in timeline.components}
    return [(labels.get(urn, "Stack"), steps) for urn, steps in groups.items()]


def _chart(timeline: Timeline) -> Iterator[str]:
    if not timeline.changes:
        yield "<p>Nothing changed.</p>"
        return
    groups = _groups(timeline)
    height = TOP + sum(GROUP + ROW * len(steps) for _, steps in groups) + MARGIN
    scale = CHART / max(timeline.wall, 1e-3)
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline">'
    tops, y, bands = {}, TOP, []
    for label, steps in groups:
        bands.append(
            f'<rect class="band" x="0" y="{y + 4}" width="{WIDTH}" height="{GROUP - 8}" rx="5"/>'
            f'<text class="group" x="{MARGIN}" y="{y + 21}">{escape(label)}</text>'
        )
        y += GROUP
        for step in steps:
            tops[step] = y
            y += ROW
    yield from bands
    yield from _axis(timeline, scale, height)
    yield from _path_lines(timeline, scale, tops)
    critical = set(timeline.critical_path)
    for step, top in tops.items():
        yield _bar(step, top, scale, critical=step in critical)
    yield "</svg>"


def _axis(timeline: Timeline, scale: float, height: int) -> Iterator[str]:
    distance = tick_distance(timeline.wall)
    for tick in range(0, int(timeline.wall) + 1, distance):
        x = LABELS + tick * scale
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height}"/>'
        yield f'<text class="soft" x="{x:.1f}" y="{TOP - 14}" text-anchor="middle">{tick} s</text>'


def _bar(step: Step, top: int, scale: float, *, critical: bool) -> str:
    x, width = LABELS + step.start * scale, max(step.seconds * scale, 2)
    mark = " critical" if critical else ""
    failed, tail = ("", "") if step.outcome == "done" else (" failed", f" · {step.outcome}")
    label = step.label
    if len(label) > LONG_LABEL:
        label = label[: LONG_LABEL - 1] + "…"
    hover = f"{step.urn}\n{step.operation}, {seconds(step.seconds)}, from {step.start:.2f} s{tail}"
    return (
        f"<g><title>{escape(hover)}</title>"
        f'<text class="name{mark}" x="{2 * MARGIN}" y="{top + 15}">{escape(label)}</text>'
        f'<rect class="bar {colour(step)}{mark}{failed}" x="{x:.1f}" y="{top + 4}" '
        f'width="{width:.1f}" height="{BAR}" rx="3"/>'
        f'<text class="soft took" x="{x + width + 6:.1f}" y="{top + 15}">'
        f"{seconds(step.seconds)}{escape(tail)}</text></g>"
    )


def _path_lines(timeline: Timeline, scale: float, tops: dict[Step, int]) -> Iterator[str]:
    """Join the bars of the critical path: down or up at once, then dashed while it waits."""
    path = timeline.critical_path
    for before, after in pairwise(path):
        x, start = LABELS + before.end * scale, LABELS + after.start * scale
        here, there = tops[before] + ROW // 2, tops[after] + ROW // 2
        yield f'<path class="path" d="M{x:.1f} {here}V{there}"/>'
        yield f'<path class="gap" d="M{x:.1f} {there}H{start:.1f}"/>'


def _path_table(timeline: Timeline) -> Iterator[str]:
    if not timeline.critical_path:
        return
    yield "<h2>The critical path</h2><table><tr><th>Resource</th>"
    yield '<th class="number">began</th><th class="number">after a gap of</th>'
    yield '<th class="number">took</th><th>of the wall time</th></tr>'
    end = 0.0
    for step in timeline.critical_path:
        share = 100 * step.seconds / max(timeline.wall, 1e-3)
        yield (
            f"<tr><td>{escape(step.label)}</td>"
            f'<td class="number soft">{step.start:.1f} s</td>'
            f'<td class="number soft">{seconds(step.start - end)}</td>'
            f'<td class="number">{seconds(step.seconds)}</td>'
            f'<td class="share"><i style="width:{share:.1f}%"></i></td></tr>'
        )
        end = step.end
    yield f'<tr><td class="soft">end</td><td class="number soft">{timeline.wall:.1f} s</td>'
    yield f'<td class="number soft">{seconds(timeline.wall - end)}</td><td></td><td></td></tr>'
    yield "</table>"
