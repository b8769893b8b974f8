"""Every chart as it is rendered with the production values: what it makes keeps to the policies.

Real charts where there are any, else the lab's stand-ins; the names of the tests say which.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest

import config
from components.layers import plans
from config import Settings
from config.charts import ChartPlan
from ops.render import difference, facts, packages, rendering, schemas
from ops.render.exceptions import EXCEPTIONS
from ops.render.policies import findings, judge
from ops.render.workloads import Cluster

STACK_FILE = packages.PROJECT / "Pulumi.prod.yaml"
FIXTURES = packages.PROJECT / "tests" / "fixtures" / "config" / "good"


@cache
def settings() -> Settings:
    return config.load_file(STACK_FILE)


def planned() -> dict[str, ChartPlan]:
    return {plan.chart: plan for plan in plans(settings())}


def source(plan: ChartPlan) -> str:
    found = packages.find(plan.chart, plan.version)
    return found.source if found else "missing"


@cache
def rendered(chart: str) -> tuple[dict[str, Any], ...]:
    plan = planned()[chart]
    text = rendering.text(plan, settings().kubernetes.version)
    return tuple(rendering.in_namespace(rendering.objects(text), plan.namespace))


CHARTS = pytest.mark.parametrize(
    "chart",
    [pytest.param(name, id=f"{name}-{source(plan)}") for name, plan in planned().items()],
)


@CHARTS
def test_a_chart_renders_to_workloads_that_keep_to_the_policies(chart: str) -> None:
    objects = rendered(chart)
    assert Cluster(objects).workloads
    assert judge(objects, EXCEPTIONS[chart]) == []


@CHARTS
def test_every_release_goes_where_it_is_planned_and_makes_no_object_twice(chart: str) -> None:
    names = [difference.name_of(one) for one in rendered(chart)]
    assert sorted(names) == sorted(set(names))
    namespaces = {namespace for _, namespace, _ in names if namespace}
    assert planned()[chart].namespace in namespaces


@CHARTS
def test_a_chart_renders_the_same_twice(chart: str) -> None:
    plan = planned()[chart]
    again = rendering.objects(rendering.text(plan, settings().kubernetes.version))
    found = difference.compare(rendered(chart), rendering.in_namespace(again, plan.namespace))
    assert (found.added, found.removed, found.changed) == ([], [], [])


@CHARTS
def test_a_breach_in_what_is_rendered_would_be_found(chart: str) -> None:
    objects = copy.deepcopy(list(rendered(chart)))
    before = len(list(findings(objects)))
    for workload in Cluster(objects).workloads:
        for container in workload.containers:
            container.spec.get("resources", {}).pop("limits", None)
    assert len(list(findings(objects))) > before


def test_traefik_has_its_fixed_address_and_no_port_on_the_machines() -> None:
    services = [one for one in rendered("traefik") if one["kind"] == "Service"]
    (balancer,) = (one for one in services if one["spec"].get("type") == "LoadBalancer")
    traefik = settings().services.traefik
    assert traefik is not None
    annotations = balancer["metadata"]["annotations"]
    assert annotations["metallb.io/loadBalancerIPs"] == str(traefik.address)
    assert balancer["spec"]["allocateLoadBalancerNodePorts"] is False


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_charts_of_other_platforms_keep_to_the_policies_too(path: Any) -> None:
    other = config.load_file(path)
    for plan in plans(other):
        text = rendering.text(plan, other.kubernetes.version)
        objects = rendering.in_namespace(rendering.objects(text), plan.namespace)
        assert judge(objects, EXCEPTIONS[plan.chart]) == [], plan.chart


@CHARTS
def test_the_chart_has_the_keys_that_are_kept_of_it(chart: str) -> None:
    plan = planned()[chart]
    package = rendering.package(plan)
    kept = facts.load(plan.chart, plan.version)
    there = packages.Chart.read(package.path)
    found = set(schemas.known(there.keys))
    if package.real:
        # A subchart's keys come with the package only; by hand those that are set.
        own = {path for path in found if path[0] not in there.parts}
        assert own <= set(schemas.known(kept.keys))
    else:
        # A stand-in's keys are all the real chart's; of subcharts only what is set is kept.
        missing = [
            schemas.join(path) for path in found if path[0] != "redis-ha" and not kept.knows(path)
        ]
        assert missing == []
