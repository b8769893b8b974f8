"""The page of a run, and what it tells of flows and network policies."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ops.rehearsal import flows, run_page
from ops.rehearsal.platform import Layer

WEB = {"kind": "pod", "namespace": "shop", "name": "web-1"}
STORE = {"kind": "pod", "namespace": "shop", "name": "store-1"}
VOID = ("area", "br", "link", "meta")


def flow(**changes: Any) -> dict[str, Any]:
    return {
        "from": WEB,
        "to": STORE,
        "protocol": "TCP",
        "port": 6379,
        "verdict": "allowed",
        "egress": ["shop/web egress[0]"],
        "ingress": ["shop/store ingress[1]"],
        "open": [],
        "count": 3,
        "first": "2026-11-29T12:00:00Z",
        "last": "2026-11-29T12:00:09Z",
    } | changes


def policy(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "rules": 1, "allowed": 0, "selects": "processes"} | changes


REFUSED = flow(
    to={"kind": "world", "address": "203.0.113.7"},
    verdict="refused", port=443, egress=[], ingress=[], why="no policy allows this egress of <web>",
)  # fmt: skip
OPEN = flow(**{"from": {"kind": "host", "name": "node01"}}, egress=[], ingress=[], open=["ingress"])
SEEN = flows.Seen(
    (flow(), REFUSED, OPEN),
    (
        policy("shop/web", allowed=3),
        policy("shop/store", allowed=3),
        policy("shop/none", selects="none"),
        policy("shop/stand", selects="simulated"),
        policy("shop/deny", rules=0),
        policy("shop/spare"),
        policy("CiliumNetworkPolicy shop/dns", undecided=True),
    ),
)


class Markup(HTMLParser):
    """Keeps what a page opens and closes, what it asks for, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wants: list[str] = []
        self.text = ""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.wants += [value or "" for name, value in attrs if name == "src"]
        if tag == "link":
            self.wants += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(**changes: Any) -> tuple[str, Markup]:
    given: dict[str, Any] = {
        "stack": "prod",
        "began": "2026-11-29 12:00:00 UTC",
        "chapters": {"pulumi up": 71.25, "a look around": 2.0},
        "layers": [Layer("traefik", "39.0.9", "real (cache)", 3, 3, ("172.16.20.100",))],
        "parts": [
            run_page.Part("vCenter", "simulated", "vcsim"),
            run_page.Part("etcd", "real", "v3.6"),
            run_page.Part("podinfo", "stand-in", "its paths"),
        ],
        "addresses": [
            run_page.Address("Argo CD", "https://argocd.example.com", "HTTP 200, <html>")
        ],
        "seen": SEEN,
        "notes": ("judged: 3 < 4",),
        "timeline": "timeline.html",
    } | changes
    text = run_page.render(run_page.Run(**given))
    markup = Markup()
    markup.feed(text)
    assert markup.open == []
    return text, markup


def test_the_page_is_whole_and_asks_for_no_other_file() -> None:
    text, markup = page()
    assert text.startswith("<!doctype html>")
    assert markup.wants == []
    assert "script" not in markup.tags
    assert re.findall(r"url\(|@import", text) == []


def test_the_page_shows_the_layers_the_times_and_what_was_real() -> None:
    _, markup = page()
    for each in ("pulumi up", "71.2 s", "traefik", "3 of 3", "172.16.20.100", "judged: 3 < 4"):
        assert each in markup.text
    order = [markup.text.index(each) for each in ("etcd", "podinfo", "vCenter")]
    assert order == sorted(order)


def test_the_page_links_the_dashboards_of_a_platform_that_is_watched() -> None:
    assert 'href="dashboards.html"' in page(dashboards="dashboards.html")[0]
    assert "dashboards" not in page()[0]


def test_what_others_said_is_text_and_no_markup() -> None:
    text, markup = page()
    assert "HTTP 200, &lt;html&gt;" in text
    assert "egress of &lt;web&gt;" in text
    assert "web" not in markup.tags
    hostile = '"><script>alert(1)</script>'
    text, markup = page(
        stack=hostile,
        began=hostile,
        chapters={hostile: 1.0},
        timeline=hostile,
        dashboards=hostile,
        notes=(hostile,),
        layers=[Layer(hostile, hostile, hostile, 0, 1, (hostile,))],
        parts=[run_page.Part(hostile, hostile, hostile)],
        addresses=[run_page.Address(hostile, hostile, hostile)],
        seen=flows.Seen(
            (flow(**{"from": dict(WEB, name=hostile)}, egress=[hostile], protocol=hostile),),
            (policy(hostile, selects="none"),),
        ),
    )
    assert "script" not in markup.tags
    assert "<script" not in text


def test_the_page_says_of_each_flow_which_rules_allowed_it_and_refused_ones_come_first() -> None:
    _, markup = page()
    flows_text = markup.text.partition("Flows")[2]
    assert "1 refused" in flows_text
    assert flows_text.index("203.0.113.7") < flows_text.index("store-1")
    assert "shop/web egress[0]" in flows_text
    assert "shop/store ingress[1]" in flows_text
    assert "no policy selects the pods" in flows_text


def test_a_run_without_pods_as_processes_says_so() -> None:
    _, markup = page(seen=None, timeline="", addresses=[], layers=[], parts=[])
    assert "no pod ran as a process" in markup.text
    assert "Flows" not in markup.text


def test_a_policy_that_no_connection_used_is_listed_with_the_reason() -> None:
    assert SEEN.unused == {
        "shop/none": "selected no pod",
        "shop/stand": "its pods were simulated, and open no connections",
        "shop/deny": "has no rule: it only closes",
        "shop/spare": "no connection needed it",
        "CiliumNetworkPolicy shop/dns": (
            "of a kind that the lab cannot decide: it refuses what this one selects"
        ),
    }


def test_the_summary_counts_and_lists_what_is_not_as_it_should_be() -> None:
    said = flows.summary(SEEN)
    assert said.startswith(
        "network policies: 9 connections of 3 kinds, 1 kinds refused; 2 of 7 policies were used"
    )
    assert "shop/web-1 -> world 203.0.113.7, TCP port 443: no policy allows" in said
    assert "host node01 -> shop/store-1, TCP port 6379" in said
    assert "no connection needed it: shop/spare" in said
    clean = flows.summary(flows.Seen((flow(),), (policy("shop/web", allowed=3),)))
    assert clean.count("\n") == 0


def test_what_the_lab_wrote_is_read_and_its_absence_is_none(tmp_path: Path) -> None:
    assert flows.read(tmp_path) is None
    (tmp_path / "flows.jsonl").write_text(f"{json.dumps(flow())}\n{json.dumps(REFUSED)}\n")
    (tmp_path / "policies.json").write_text(json.dumps([policy("shop/web", allowed=3)]))
    seen = flows.read(tmp_path)
    assert seen is not None
    assert seen.refused == [REFUSED]
    assert seen.unused == {}


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(WEB, "shop/web-1"), ({"kind": "world", "address": "192.0.2.1"}, "world 192.0.2.1")],
)
def test_an_end_of_a_flow_is_called_by_its_name(endpoint: dict[str, str], name: str) -> None:
    assert flows.end(endpoint) == name
