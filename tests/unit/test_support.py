"""Until when versions get fixes: told in time, from one table, wherever people look."""

from __future__ import annotations

import datetime as dt

import pytest

from config import versions
from config.support import DEFAULTS, LINES, PAGES, ending, line_of
from ops.engine.preview import Preview
from ops.review.watch import watch

END = dt.date(2027, 2, 28)


def told(version: str, today: dt.date) -> list[str]:
    sections = {"talos": {"version": "1.14.1"}, "kubernetes": {"version": version}}
    return list(ending(sections, today))


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (61, ""),
        (60, "gets no more fixes after 2027-02-28"),
        (0, "gets no more fixes after 2027-02-28"),
        (-1, "gets no fixes since 2027-02-28"),
    ],
)
def test_an_end_is_told_sixty_days_before_and_ever_after(days: int, words: str) -> None:
    found = told("1.35.6", END - dt.timedelta(days=days))
    assert [words in one for one in found] == ([True] if words else [])


def test_what_is_told_names_the_key_the_value_the_page_and_the_source() -> None:
    (one,) = told("1.35.6", END)
    assert one.startswith("platform:kubernetes.version = 1.35.6: Kubernetes 1.35")
    assert "docs/procedures/upgrade-kubernetes.md; https://kubernetes.io/releases" in one


def test_a_service_that_is_not_installed_is_not_told_of() -> None:
    sections = {"talos": {"version": "1.14.1"}, "kubernetes": {"version": "1.37.2"}}
    assert list(ending(sections, END)) == []
    with_traefik = {**sections, "services": {"traefik": {}, "cilium": None}}
    (one,) = ending(with_traefik, END)
    assert one.startswith(f"platform:services.traefik.version = {versions.TRAEFIK}: Traefik 3.6")


def test_a_line_that_has_not_ended_says_what_will_end_it() -> None:
    assert all(line.ends or line.until for line in LINES.values())


def test_every_version_that_the_settings_can_have_is_looked_at() -> None:
    assert {pin for pin, _ in LINES} <= {*PAGES, *DEFAULTS}
    for minor in versions.TALOS_KUBERNETES:
        assert line_of("talos", f"{minor}.0") is not None
    for pin in ("talos", "kubernetes", "cilium", "certManager", "traefik", "argocd"):
        assert line_of(pin, {"talos": versions.TALOS, "kubernetes": versions.KUBERNETES}.get(
            pin, DEFAULTS.get(pin, "")
        ))  # fmt: skip


def test_the_review_tells_it_too() -> None:
    document = '{"config": {"platform:kubernetes": "{\\"version\\": \\"1.35.6\\"}"}, "steps": []}'
    found = list(watch(Preview.of(document), END))
    assert any("Kubernetes 1.35 gets no more fixes" in one for one in found)
