"""Charts that cannot be had are told before anything is touched, all at once."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clients import chart_repositories
from clients.chart_repositories import ChartError, check, versions
from components import layers
from components.kubernetes import manifests
from components.kubernetes.manifests import ManifestError
from config import parse
from config.charts import ChartPlan
from config.layers import LAYERS
from config.settings import Services
from tests.background import serving
from tests.unit.recorder import production

INDEX = """apiVersion: v1
entries:
  metallb:
  - apiVersion: v2
    appVersion: v0.15.2
    dependencies:
    - name: crds
      repository: ""
      version: 9.9.9
    description: |
      A load balancer

      for bare metal
    name: metallb
    version: 0.15.2
  - apiVersion: v2
    name: metallb
    version: 0.14.9
  metallb-other:
  - apiVersion: v2
    name: metallb-other
    version: 7.7.7
generated: "2026-01-01T00:00:00Z"
"""


@pytest.fixture
def repository() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            packed = self.path == "/packed/index.yaml"
            found = packed or self.path == "/plain/index.yaml"
            body = gzip.compress(INDEX.encode()) if packed else INDEX.encode()
            self.send_response(200 if found else 404)
            if packed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body if found else b"nothing here")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def plan(repository: str, version: str = "0.15.2", chart: str = "metallb") -> ChartPlan:
    return ChartPlan(chart, repository, version, "a-namespace", {})


@pytest.mark.parametrize("folder", ["plain", "packed", "plain/"])
def test_a_chart_that_is_there_is_no_problem(repository: str, folder: str) -> None:
    where = f"{repository}/{folder}"
    check([plan(where), plan(where, "v0.14.9")])
    with pytest.raises(ChartError):
        check([plan(where, "0.15.3")])


def test_a_version_that_is_not_there_is_told_with_key_value_and_those_that_are(
    repository: str,
) -> None:
    with pytest.raises(ChartError) as error:
        check([plan(f"{repository}/plain", "0.15.3")])
    text = str(error.value)
    assert text.startswith('platform:services.metallb.version = "0.15.3": ')
    assert "has no such version of the chart metallb; set one that it has" in text
    assert "(the newest: 0.15.2, 0.14.9)" in text


def test_all_charts_that_cannot_be_had_are_told_at_once(repository: str) -> None:
    plans = [
        plan(f"{repository}/plain"),
        plan(f"{repository}/plain", chart="traefik"),
        plan(f"{repository}/elsewhere", chart="cilium"),
        plan("http://127.0.0.1:1", chart="argo-cd"),
    ]
    with pytest.raises(ChartError) as error:
        check(plans)
    head, *lines = str(error.value).splitlines()
    assert head == "3 problems:"
    assert lines[0].startswith("  - platform:services.traefik: ")
    assert "has no chart traefik" in lines[0]
    assert lines[1].startswith(
        "  - platform:services.cilium: its chart repository http://127.0.0.1"
    )
    assert "404" in lines[1]
    assert lines[2].startswith(
        "  - platform:services.argocd: its chart repository http://127.0.0.1"
    )
    assert "nothing listens there; check the name, and whether it runs" in lines[2]


def test_an_index_that_is_laid_out_in_another_way_is_read_too() -> None:
    other = 'entries: {metallb: [{"version": "1.0.0"}, {"version": "0.9.0"}]}'
    assert versions(other, "metallb") == ["1.0.0", "0.9.0"]
    assert versions(other, "traefik") == []
    assert versions("not: [an index", "metallb") == []
    assert versions("just text", "metallb") == []


def test_the_versions_of_another_chart_and_of_what_a_chart_needs_do_not_count() -> None:
    assert versions(INDEX, "metallb") == ["0.15.2", "0.14.9"]
    assert versions(INDEX, "metallb-other") == ["7.7.7"]


def test_every_chart_has_its_key_in_the_settings() -> None:
    keys = {field.alias or name for name, field in Services.model_fields.items()}
    assert {layer.service for layer in LAYERS.values() if layer.service} == keys
    no_chart = {"backup", "localVolumes", "logging", "monitoring"}
    planned = layers.plans(parse(production()))
    charts = [one.chart for one in planned]
    assert charts == [name for name in LAYERS if name in charts]
    assert {one.service for one in planned} == keys - no_chart


def test_nothing_is_asked_without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_repositories, "index_of", None)
    check([])
    check([plan("oci://registry.example.com/charts")])


def test_definitions_and_charts_that_cannot_be_had_are_told_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(kind: type[Exception], text: str) -> Callable[[object], None]:
        def call(_: object) -> None:
            raise kind(text)

        return call

    monkeypatch.setattr(manifests, "load", refuse(ManifestError, "https://x: Connection refused"))
    monkeypatch.setattr(
        chart_repositories, "check", refuse(ChartError, "2 problems:\n  - a\n  - b")
    )
    with pytest.raises(layers.PublishedError) as error:
        layers.published(parse(production()))
    first, *rest = str(error.value).splitlines()
    assert first.startswith("platform:services.cilium.gatewayApiVersion = ")
    assert first.endswith(": https://x: Connection refused")
    assert rest == ["2 problems:", "  - a", "  - b"]
