"""Rehearsal: draws the dashboards as one self-contained page, without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ops.rehearsal.dashboards import Dashboard, Panel, Series
from ops.rehearsal.timeline_page import STYLE

OWN_STYLE = """
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 10px 16px; background: var(--band); border-radius: 8px; }
figcaption { font-weight: 600; }
svg { width: 100%; height: 110px; display: block; margin: 8px 0;
  border-bottom: 1px solid var(--line); }
polyline { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
ul { list-style: none; margin: 0; padding: 0; max-height: 130px; overflow-y: auto; }
li { display: flex; gap: 8px; align-items: center; } li b { margin-left: auto; font-weight: 400; }
li i { flex: none; width: 14px; height: 3px; }
"""
COLOURS = ("#2f9e6e", "#3f83c9", "#d1941c", "#9a5bc7", "#c62f2f", "#4aa8b5", "#7a828a", "#b5651d")
WIDTH, HEIGHT = 400, 100
"""Of a picture, in its own units."""
SCALES = ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


def render(dashboards: Sequence[Dashboard], stack: str, when: str) -> str:
    """Make the page; `when` is the time that it shows, for people."""
    title = f"Dashboards of {escape(stack)} in the lab"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{STYLE}{OWN_STYLE}</style></head><body>",
            f'<h1>{title}</h1><div class="sub">{escape(when)}. Each picture begins at 0.</div>',
            *(line for one in dashboards for line in _dashboard(one)),
            "</body></html>\n",
        ]
    )


def _dashboard(dashboard: Dashboard) -> Iterator[str]:
    for title, panels in dashboard.rows:
        yield f'<h2>{escape(dashboard.title)}: {escape(title)}</h2><div class="panels">'
        for panel in panels:
            yield from _panel(panel)
        yield "</div>"


def _panel(panel: Panel) -> Iterator[str]:
    yield f"<figure><figcaption>{escape(panel.title)}</figcaption>"
    points = [point for one in panel.series for point in one.points]
    if not points:
        yield '<p class="soft">nothing</p></figure>'
        return
    begin, end = min(at for at, _ in points), max(at for at, _ in points)
    top = max(value for _, value in points) or 1.0
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
    for number, one in enumerate(panel.series):
        yield _line(one, colour(number), begin, max(end - begin, 1.0), top)
    yield "</svg><ul>"
    for number, one in enumerate(panel.series):
        newest = written(one.points[-1][1], panel.unit)
        mark = f'<i style="background:{colour(number)}"></i>'
        yield f"<li>{mark}{escape(one.name)}<b>{escape(newest)}</b></li>"
    yield "</ul></figure>"


def _line(series: Series, stroke: str, begin: float, width: float, top: float) -> str:
    places = " ".join(
        f"{(at - begin) / width * WIDTH:.1f},{HEIGHT - value / top * (HEIGHT - 4):.1f}"
        for at, value in series.points
    )
    return f'<polyline stroke="{stroke}" points="{places}"></polyline>'


def colour(number: int) -> str:
    """Give a line's colour, by its place in the panel."""
    return COLOURS[number % len(COLOURS)]


def written(value: float, unit: str) -> str:
    """Write a number for people, with its unit: `312 MiB`, `0.25 cores`."""
    if unit == "bytes":
        size, prefix = next(((size, name) for size, name in SCALES if value >= size), (1, ""))
        return f"{value / size:.4g} {prefix}B"
    return f"{value:.4g} {unit}".strip()
