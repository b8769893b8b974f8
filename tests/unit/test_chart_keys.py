"""Our values against what the project keeps of each chart: keys, types, schemas."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

import config
from components.layers import plans
from config.charts import ChartPlan
from ops.render import facts, schemas
from ops.render.command import main
from tests.unit.test_pins import CHARTS

ROOT = Path(__file__).parents[2]
GOOD = sorted((ROOT / "tests" / "fixtures" / "config" / "good").glob("*.yaml"))
FILES = [ROOT / "Pulumi.prod.yaml", *GOOD]


def production() -> tuple[ChartPlan, ...]:
    return plans(config.load_file(ROOT / "Pulumi.prod.yaml"))


@cache
def fact(chart: str) -> facts.Facts:
    return facts.load(chart, CHARTS[chart])


def with_value(plan: ChartPlan, path: schemas.Path, value: object) -> ChartPlan:
    """Give the plan with one more value."""
    values: dict[str, Any] = copy.deepcopy(dict(plan.values))
    node = values
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    return replace(plan, values=values)


def split(written: str) -> schemas.Path:
    return tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", written))


def alone(chart: str, path: str, value: object) -> list[str]:
    """Hold a single value against a chart."""
    plan = with_value(ChartPlan(chart, "", CHARTS[chart], chart, {}), split(path), value)
    return list(fact(chart).problems(plan))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_charts_know_every_key_and_take_every_value(path: Path) -> None:
    planned = plans(config.load_file(path))
    assert planned
    assert facts.problems(planned) == []


def test_the_command_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stack-file", str(FILES[0]), "check"]) == 0
    assert "charts know all keys" in capsys.readouterr().out


def test_what_is_kept_is_what_is_installed() -> None:
    kept = {
        path.name.removesuffix(facts.KEYS) for path in schemas.FOLDER.glob("*-[0-9]*.keys.json")
    }
    assert kept == {f"{chart}-{version}" for chart, version in CHARTS.items()}
    with_schema = {path.name for path in schemas.FOLDER.glob("*.schema.json")}
    assert with_schema == {
        f"{chart}-{CHARTS[chart]}.schema.json"
        for chart in ("cilium", "metallb", "cert-manager", "traefik")
    }


@pytest.mark.parametrize("path", sorted(schemas.FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_file_is_a_json_schema_with_a_key_a_line(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft7Validator.check_schema(schema)
    assert path.read_text() == schemas.write(schema)


def every_key_that_is_set() -> list[tuple[ChartPlan, schemas.Path]]:
    """Give the keys of which the defaults say more than that they are in something open."""
    return [
        (plan, path)
        for plan in production()
        for path, _ in schemas.paths(plan.values)
        if path[:-1] == () or path[:-1] in opened(plan.chart)
    ]


@cache
def opened(chart: str) -> set[schemas.Path]:
    """Give the paths below which the defaults have keys."""
    return {path[:-1] for path in schemas.known(fact(chart).keys)}


@pytest.mark.parametrize("chart", [plan.chart for plan in production()])
def test_a_misspelt_key_is_found_wherever_it_is(chart: str) -> None:
    tried = set()
    for plan, path in every_key_that_is_set():
        if plan.chart != chart:
            continue
        for depth in range(len(path)):
            if (key := path[: depth + 1]) in tried:
                continue
            tried.add(key)
            wrong = schemas.join((*path[:depth], f"{path[depth]}x", *path[depth + 1 :]))
            assert any(f"it has no key {wrong}" in one for one in alone(chart, wrong, 1)), wrong
    assert len(tried) > 10


@pytest.mark.parametrize(
    ("chart", "path", "nearest"),
    [
        ("cilium", "kubeProxyReplacment", "kubeProxyReplacement"),
        ("metallb", "speaker.ignoreExcludeLb", "speaker.ignoreExcludeLB"),
        ("cert-manager", "replicas", "replicaCount"),
        ("traefik", "replicas", "deployment.replicas"),
        ("metrics-server", "podDisruptionBudget.enable", "podDisruptionBudget.enabled"),
        ("argo-cd", "repoServer.autoscaling.minReplica", "repoServer.autoscaling.minReplicas"),
    ],
)
def test_a_misspelt_key_is_told_with_the_chart_and_the_nearest_key(
    chart: str, path: str, nearest: str
) -> None:
    told = f"chart {chart} {CHARTS[chart]}: it has no key {path}; the nearest that it has is "
    assert told + nearest in alone(chart, path, 1)


@pytest.mark.parametrize(
    ("chart", "path", "value"),
    [
        ("cilium", "operator.replicas", "2"),
        ("cilium", "cluster.id", "0"),
        ("metallb", "speaker.ignoreExcludeLB", "true"),
        ("metrics-server", "replicas", "2"),
        ("metrics-server", "args", "--kubelet-insecure-tls"),
        ("metrics-server", "podDisruptionBudget", True),
        ("argo-cd", "redis-ha.enabled", "yes"),
        ("argo-cd", "server.autoscaling.minReplicas", "2"),
    ],
)
def test_a_value_of_another_type_is_told(chart: str, path: str, value: object) -> None:
    assert any(path in one and repr(value) in one for one in alone(chart, path, value))


@pytest.mark.parametrize(
    ("chart", "path", "value"),
    [
        ("cilium", "hubble.tls.auto.method", "cronjobs"),
        ("metallb", "speaker.logLevel", "loud"),
        ("cert-manager", "crds.kept", True),
        ("traefik", "logs.access.format", "xml"),
    ],
)
def test_what_a_schema_refuses_is_told(chart: str, path: str, value: object) -> None:
    if chart == "cilium":
        # Its schema knows types only, so the type is what it refuses.
        value = 1
    assert any("(its schema)" in one for one in alone(chart, path, value))


@pytest.mark.parametrize(
    ("chart", "path", "value"),
    [
        ("metrics-server", "resources.limits.memory", "1Gi"),  # Kubernetes' own object
        ("metallb", "controller.securityContext.runAsNonRoot", True),
        ("cilium", "securityContext.capabilities.ciliumAgent", ["KILL"]),  # Cilium's own in it
        ("cert-manager", "podDisruptionBudget.maxUnavailable", 1),  # in its schema only
        ("argo-cd", "server.pdb.maxUnavailable", 1),  # a number or a percentage
        ("argo-cd", "server.pdb.maxUnavailable", "50%"),
        ("argo-cd", "redis-ha.haproxy.resources.limits.memory", "64Mi"),  # a subchart's
        ("argo-cd", "configs.cm.exec\\.enabled", False),
        ("cilium", "podLabels.app\\.kubernetes\\.io/part-of", "platform"),  # an open mapping
        ("cilium", "upgradeCompatibility", "1.18"),  # a default of null
        ("metrics-server", "updateStrategy", None),  # takes the default away
    ],
)
def test_good_values_pass(chart: str, path: str, value: object) -> None:
    assert alone(chart, path, value) == []


def test_a_chart_that_is_not_kept_is_told_with_what_is() -> None:
    with pytest.raises(facts.FactsError, match=r"metallb 9\.9\.9 .*\(metallb-0\.16\.1 is\)"):
        facts.load("metallb", "9.9.9")


def test_paths_keep_dots_that_are_in_keys() -> None:
    path = ("configs", "cm", "exec.enabled")
    assert schemas.join(path) == "configs.cm.exec\\.enabled"
    schema = schemas.of({"a.b": {"c": 1}, "d": {}})
    assert list(schemas.known(schema)) == [("a.b",), ("a.b", "c"), ("d",)]
    assert json.loads(schemas.write(schema)) == schema


@pytest.mark.parametrize("text", ["", "a int", '{"type": "object"', "[]"])
def test_a_file_of_keys_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiny-1.2.3.keys.json").write_text(text)
    with pytest.raises(facts.FactsError, match=r"tiny-1\.2\.3\.keys\.json"):
        facts.load("tiny", "1.2.3", tmp_path)


def test_the_type_of_every_default_is_known() -> None:
    values = {"a": True, "b": 1, "c": 1.5, "d": "", "e": [1], "f": {}, "g": None, "h": {"i": 0}}
    assert schemas.of(values) == schemas.closed(
        {
            "a": {"type": "boolean"},
            "b": {"type": "integer"},
            "c": {"type": "number"},
            "d": {"type": "string"},
            "e": {"type": "array"},
            "f": {"type": "object"},
            "g": {},
            "h": schemas.closed({"i": {"type": "integer"}}),
        }
    )
