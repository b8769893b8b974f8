"""The page with the dashboards' numbers that a rehearsal leaves behind."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ops.rehearsal import dashboards, dashboards_page
from ops.rehearsal.dashboards import Dashboard, Panel, Series

HOSTILE = '"><script>alert(1)</script>'


def page(*series: Series, unit: str = "", title: str = "Size") -> str:
    rows = ((title, (Panel(title, unit, series),)),)
    return dashboards_page.render([Dashboard(title, rows)], title, "now")


def test_every_panel_of_the_platforms_dashboards_is_asked_for_and_named_by_its_labels() -> None:
    asked: list[str] = []

    def ask(expression: str) -> list[dict[str, Any]]:
        asked.append(expression)
        return [{"metric": {"node": "node01", "code": "200"}, "values": [[100, "1"], [115, "3"]]}]

    found = dashboards.read(ask)
    panels = {one.title: one for each in found for _, row in each.rows for one in row}
    assert [one.title for one in found] == ["etcd and API", "Ingress", "Platform"]
    assert len(asked) >= len(panels) > 15
    assert panels["Memory in use"].unit == "bytes"
    assert panels["Memory in use"].series == (Series("node01", ((100.0, 1.0), (115.0, 3.0))),)
    assert panels["Answered, by code"].series[0].name == "200"
    assert all(one.series for one in panels.values())


def test_a_line_begins_at_the_left_and_its_highest_number_is_at_the_top() -> None:
    text = page(Series("a", ((100.0, 0.0), (110.0, 4.0), (120.0, 2.0))))
    (places,) = re.findall(r'points="([^"]*)"', text)
    assert places == "0.0,100.0 200.0,4.0 400.0,52.0"
    assert "<b>2</b>" in text


def test_a_panel_without_numbers_says_so() -> None:
    text = page()
    assert "nothing" in text
    assert "<svg" not in text


def test_what_a_label_says_is_text_and_no_markup() -> None:
    text = page(Series(HOSTILE, ((1.0, 1.0),)), unit=HOSTILE, title=HOSTILE)
    assert "<script" not in text


@pytest.mark.parametrize(
    ("value", "unit", "says"),
    [
        (1.5 * (1 << 20), "bytes", "1.5 MiB"),
        (12, "bytes", "12 B"),
        (0.25, "cores", "0.25 cores"),
        (3, "", "3"),
        (0, "bytes", "0 B"),
    ],
)
def test_a_number_is_written_with_its_unit(value: float, unit: str, says: str) -> None:
    assert dashboards_page.written(value, unit) == says
