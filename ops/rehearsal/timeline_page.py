"""Rehearsal: draws a deployment's timeline as one self-contained page, without scripts.

A row is a name and, beside it, a bar at its time; where the window is narrow, the bar is below the
name. Texts keep their size at every width: only the bars are measured in parts of the wall time.
Kinds of operations differ by colour and by hatching, for whoever does not see the one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ops.engine.operations import OPERATIONS, WORDS
from ops.rehearsal.timeline import Step, Timeline, TimelineError

TICKS = 12
LATE = 60.0
"""In percent: a bar that ends after this has its duration on its left, if there is room."""

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c2126; --soft: #5d666f;
  --line: #e3e5e7; --band: #f1f2f3; --create: #2f9e6e; --update: #d1941c; --replace: #9a5bc7;
  --delete: #7a828a; --other: #3f83c9; --failed: #c62f2f; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e8eaec; --soft: #a3acb5;
  --line: #2a3037; --band: #1b2025; --create: #3fb583; --update: #e0aa3e; --replace: #b47ee0;
  --delete: #8b949d; --other: #5c9fe3; --failed: #ff6b6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1320px; background: var(--page);
  color: var(--ink); font: 14px/1.4 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 8px; }
.sub, dt, .legend, .soft { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
dl div { background: var(--band); border-radius: 8px; padding: 10px 16px; flex: 1 1 auto; }
dt { font-size: 12px; } dd { margin: 0; font-size: 20px; font-weight: 600; }
dd small { font-size: 13px; font-weight: 400; color: var(--soft); }
.legend span { display: inline-block; margin-right: 18px; }
.legend i { display: inline-block; width: 22px; height: 10px; border-radius: 3px;
  margin-right: 6px; }
.chart { --names: 370px; --after: 74px; position: relative; margin-top: 14px; padding-top: 22px; }
.row { display: grid; grid-template-columns: var(--names) 1fr; min-height: 22px;
  align-items: center; }
.name { padding: 1px 10px 1px 14px; overflow-wrap: anywhere; }
.critical .name { font-weight: 600; }
.number { display: inline-block; min-width: 20px; margin-right: 6px; padding: 0 4px;
  border-radius: 9px; background: var(--ink); color: var(--page); text-align: center;
  font-size: 11px; font-weight: 600; line-height: 18px; }
.group { margin-top: 8px; padding: 4px 0; background: var(--band); border-radius: 5px; }
.group .name { font-weight: 600; padding-left: 8px; }
.track { position: relative; height: 18px; margin-right: var(--after); }
.track i, .track b { position: absolute; top: 2px; height: 14px; min-width: 2px;
  border-radius: 3px; }
.track .span { top: 7px; height: 4px; background: var(--soft); opacity: .5; }
.track .gap { top: 8px; height: 0; border-radius: 0; border-top: 2px dotted var(--soft); }
.took { position: absolute; top: 0; white-space: nowrap; font-size: 12px; line-height: 18px;
  color: var(--soft); background: var(--page); padding: 0 3px; margin: 0 4px; border-radius: 3px; }
.group .took { background: none; }
.failed .took { color: var(--failed); font-weight: 600; }
.bar { background-color: var(--other); opacity: .5; } .critical .bar { opacity: 1; }
.bar.create { background-color: var(--create); } .bar.update { background-color: var(--update); }
.bar.replace { background-color: var(--replace); } .bar.delete { background-color: var(--delete); }
.bar.update { background-image: repeating-linear-gradient(45deg,
  transparent 0 5px, var(--page) 5px 7px); }
.bar.replace { background-image: repeating-linear-gradient(-45deg,
  transparent 0 2px, var(--page) 2px 4px); }
.bar.delete { background-image: repeating-linear-gradient(90deg,
  transparent 0 3px, var(--page) 3px 5px); }
.failed .bar { background-color: var(--failed); opacity: 1; }
.axis { position: absolute; inset: 0 var(--after) 0 var(--names); pointer-events: none; }
.axis div { position: absolute; top: 18px; bottom: 0; border-left: 1px solid var(--line); }
.axis span { position: absolute; top: -18px; transform: translateX(-50%); font-size: 12px;
  color: var(--soft); white-space: nowrap; }
.legend .bar { opacity: 1; } .legend .pale { opacity: .5; }
.legend .gap { height: 0; vertical-align: middle; border-top: 2px dotted var(--soft);
  border-radius: 0; }
.tables { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 400; font-size: 12px; color: var(--soft); }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
th.figure, td.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.share { width: 30%; }
td.share i { display: block; height: 8px; border-radius: 3px; background: var(--soft); }
@media (max-width: 760px) {
  body { padding: 12px; }
  .chart { --names: 0px; } .row { display: block; padding-bottom: 3px; }
  .name { position: relative; width: fit-content; padding: 2px 4px; background: var(--page); }
  .group .name { background: var(--band); } .axis div:nth-child(even) span { display: none; }
  td.share, th.share { display: none; }
}
"""


def render(timeline: Timeline) -> str:
    """Make the page."""
    title = f"Deployment of {escape(timeline.stack)}" if timeline.stack else "Deployment"
    began = f"{timeline.began:%Y-%m-%d %H:%M:%S %Z}"
    precision = "" if timeline.precise else " · times are whole seconds (the run was not recorded)"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f'<h1>{title}</h1><div class="sub">{began}{precision}</div>',
            _totals(timeline),
            _legend(timeline),
            *_chart(timeline),
            *_layer_table(timeline),
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
    change = "delete" if step.deletes else OPERATIONS.get(step.operation, "same")
    return "other" if change == "same" else change


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
        tiles.append(("Wall time / critical path", f"{timeline.ratio:.2f}"))
    tiles.append(("Resources", f"{len(timeline.changes)} <small>{escape(operations)}</small>"))
    if longest := timeline.waited_longest:
        waited = seconds(timeline.waited(longest))
        tiles.append(("Waited longest", f"{waited} <small>{escape(longest.label)}</small>"))
    return (
        f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{text}</dd></div>' for name, text in tiles)}</dl>"
    )


def _legend(timeline: Timeline) -> str:
    used = [*WORDS, "other"]
    present = {colour(one) for one in timeline.changes}
    colours = "".join(f'<span><i class="bar {c}"></i>{c}</span>' for c in used if c in present)
    return (
        f'<div class="legend">{colours}'
        '<span><b class="number">1</b>the critical path, step by step</span>'
        '<span><i class="bar pale"></i>pale: nothing waited for it</span>'
        '<span><i class="gap"></i>free to run, but not running</span></div>'
    )


def _groups(timeline: Timeline) -> list[tuple[str, list[Step]]]:
    """Group the changes by their layer, in the order of their start."""
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in timeline.changes:
        groups[timeline.parents.get(step.urn, "")].append(step)
    labels = {one.urn: one.label for one in timeline.steps if one.urn in timeline.components}
    return [(labels.get(urn, "Stack"), steps) for urn, steps in groups.items()]


def _chart(timeline: Timeline) -> Iterator[str]:
    if not timeline.changes:
        yield "<p>Nothing changed.</p>"
        return
    wall = max(timeline.wall, 1e-3)
    numbers = {step: n for n, step in enumerate(timeline.critical_path, 1)}
    yield '<div class="chart">'
    yield from _axis(timeline)
    for label, steps in _groups(timeline):
        start, end = _span(steps)
        yield (
            f'<div class="row group"><div class="name">{escape(label)}</div><div class="track">'
            f'<i class="span" style="{_place(start, end, wall)}"></i>'
            f"{_took(start, end, wall, seconds(end - start))}</div></div>"
        )
        for step in steps:
            yield _row(timeline, step, wall, numbers.get(step))
    yield "</div>"


def _span(steps: list[Step]) -> tuple[float, float]:
    """Give when the first of some steps began, and when the last one ended."""
    return min(one.start for one in steps), max(one.end for one in steps)


def _axis(timeline: Timeline) -> Iterator[str]:
    wall = max(timeline.wall, 1e-3)
    yield '<div class="axis">'
    for tick in range(0, int(timeline.wall) + 1, tick_distance(timeline.wall)):
        yield f'<div style="left:{100 * tick / wall:.2f}%"><span>{tick} s</span></div>'
    yield "</div>"


def _row(timeline: Timeline, step: Step, wall: float, number: int | None) -> str:
    hover = f"{step.urn}\n{step.operation}, {seconds(step.seconds)}, from {step.start:.2f} s"
    text, kind, mark, gap = seconds(step.seconds), "row", "", ""
    free = step.start
    if step.outcome != "done":
        text, kind = f"✕ {step.outcome}, {text}", f"{kind} failed"
        hover += f", {step.outcome}"
    if number is not None:
        kind += " critical"
        mark = f'<b class="number">{number}</b>'
        free = step.start - timeline.waited(step)
        gap = f'<i class="gap" style="{_place(free, step.start, wall)}"></i>'
    return (
        f'<div class="{kind}" title="{escape(hover)}">'
        f'<div class="name">{mark}{escape(step.label)}</div><div class="track">{gap}'
        f'<i class="bar {colour(step)}" style="{_place(step.start, step.end, wall)}"></i>'
        f"{_took(free, step.end, wall, text)}</div></div>"
    )


def _place(start: float, end: float, wall: float) -> str:
    """Place something on a track, whose length is the wall time."""
    return f"left:{100 * start / wall:.2f}%;width:{100 * (end - start) / wall:.2f}%"


def _took(start: float, end: float, wall: float, text: str) -> str:
    """Write a duration beside its bar: on the right, or on the left of one that ends late."""
    before, after = 100 * start / wall, 100 * end / wall
    left = after > LATE and before > 100 - LATE
    place = f"right:{100 - before:.2f}%" if left else f"left:{min(after, 100.0):.2f}%"
    return f'<span class="took" style="{place}">{escape(text)}</span>'


def _layer_table(timeline: Timeline) -> Iterator[str]:
    """Sum up each layer: its steps, from its first to its last, and the work in it."""
    if not timeline.changes:
        return
    wall = max(timeline.wall, 1e-3)
    yield '<h2>The layers</h2><div class="tables"><table><tr><th>Layer</th>'
    yield '<th class="figure">steps</th><th class="figure">began</th><th class="figure">took</th>'
    yield '<th class="figure">work in it</th><th class="share">of the wall time</th></tr>'
    for label, steps in _groups(timeline):
        start, end = _span(steps)
        share = 100 * (end - start) / wall
        yield (
            f'<tr><td>{escape(label)}</td><td class="figure soft">{len(steps)}</td>'
            f'<td class="figure soft">{start:.1f} s</td>'
            f'<td class="figure">{seconds(end - start)}</td>'
            f'<td class="figure soft">{seconds(sum(one.seconds for one in steps))}</td>'
            f'<td class="share"><i style="width:{share:.1f}%"></i></td></tr>'
        )
    yield "</table></div>"


def _path_table(timeline: Timeline) -> Iterator[str]:
    if not timeline.critical_path:
        return
    yield '<h2>The critical path</h2><div class="tables"><table><tr><th>Resource</th>'
    yield '<th class="figure">began</th><th class="figure">after a gap of</th>'
    yield '<th class="figure">took</th><th class="share">of the wall time</th></tr>'
    end = 0.0
    for step in timeline.critical_path:
        share = 100 * step.seconds / max(timeline.wall, 1e-3)
        yield (
            f"<tr><td>{escape(step.label)}</td>"
            f'<td class="figure soft">{step.start:.1f} s</td>'
            f'<td class="figure soft">{seconds(step.start - end)}</td>'
            f'<td class="figure">{seconds(step.seconds)}</td>'
            f'<td class="share"><i style="width:{share:.1f}%"></i></td></tr>'
        )
        end = step.end
    yield f'<tr><td class="soft">end</td><td class="figure soft">{timeline.wall:.1f} s</td>'
    yield f'<td class="figure soft">{seconds(timeline.wall - end)}</td><td></td>'
    yield '<td class="share"></td></tr>'
    yield "</table></div>"


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops rehearse timeline", description=__doc__)
    for name in ("EVENTS", "STATE", "OUT.html"):
        made.add_argument(name, type=Path)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw EVENTS and STATE into OUT.html; gives the exit status."""
    events, state, out = vars(parser().parse_args(arguments)).values()
    try:
        timeline = Timeline.from_events(events, json.loads(state.read_text()))
    except (TimelineError, OSError, ValueError) as error:
        print(f"no timeline: {error}", file=sys.stderr)
        return 1
    out.write_text(render(timeline))
    return 0
