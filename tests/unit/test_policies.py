"""The policies on what runs: each finds its breach only; what the program makes keeps them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ops.render.exceptions import EXCEPTIONS, PROGRAM
from ops.render.policies import RULES, Allowed, findings, is_exact, judge
from tests.unit.recorder import Registered, install_talosctl, plain, run_production

Object = dict[str, Any]
Change = Callable[[dict[str, Object]], object]

LABELS = {"app": "web"}
IMAGE = "registry.example.com/team/web:1.2.3"


def good() -> dict[str, Object]:
    """Give a workload that keeps to every rule, with what belongs to it."""
    container = {
        "name": "web",
        "image": IMAGE,
        "env": [
            {"name": "MODE", "value": "fast"},
            {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "web", "key": "token"}}},
            {"name": "PASSWORD", "value": "$(API_TOKEN)"},
            {"name": "TLS_KEY_FILE", "value": "/tls/key"},
        ],
        "args": ["--solver-image=registry.example.com/solver:v1.2.3"],
        "ports": [{"containerPort": 8080}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"memory": "32Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": "web",
        "priorityClassName": "platform-critical",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
        "initContainers": [{**copy.deepcopy(container), "name": "first"}],
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    objects: dict[str, Object] = {
        "Deployment": {
            "spec": {
                "replicas": 2,
                "template": {"metadata": {"labels": LABELS}, "spec": pod},
            },
        },
        "ServiceAccount": {"automountServiceAccountToken": False},
        "PodDisruptionBudget": {
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": LABELS}},
        },
        "Service": {"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}},
    }
    return {
        kind: {"kind": kind, "metadata": {"name": "web", "namespace": "apps"}, **one}
        for kind, one in objects.items()
    }


def pod(objects: dict[str, Object]) -> Object:
    found: Object = objects["Deployment"]["spec"]["template"]["spec"]
    return found


def first(objects: dict[str, Object]) -> Object:
    found: Object = pod(objects)["initContainers"][0]
    return found


def context(objects: dict[str, Object]) -> Object:
    found: Object = first(objects)["securityContext"]
    return found


def requests(objects: dict[str, Object]) -> Object:
    found: Object = first(objects)["resources"]["requests"]
    return found


def budget(objects: dict[str, Object], **spec: object) -> bool:
    objects["PodDisruptionBudget"]["spec"] = {"selector": {"matchLabels": LABELS}, **spec}
    return True


def autoscaler(objects: dict[str, Object], minimum: int) -> bool:
    del objects["Deployment"]["spec"]["replicas"]
    objects["HorizontalPodAutoscaler"] = {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "apps"},
        "spec": {
            "minReplicas": minimum,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"},
        },
    }
    return True


def second_budget(objects: dict[str, Object]) -> None:
    objects["second"] = copy.deepcopy(objects["PodDisruptionBudget"])
    objects["second"]["metadata"]["name"] = "more"


def service(objects: dict[str, Object], **spec: object) -> None:
    objects["Service"]["spec"] = spec


def projected(objects: dict[str, Object]) -> None:
    sources = [{"serviceAccountToken": {"path": "token"}}]
    pod(objects)["volumes"].append({"name": "api", "projected": {"sources": sources}})


def variable(objects: dict[str, Object], name: str, value: str) -> None:
    first(objects)["env"].append({"name": name, "value": value})


BAD: list[tuple[str, str, Change]] = [
    ("resources", "no cpu in resources.req", lambda o: requests(o).pop("cpu")),
    ("resources", "no memory in resources.req", lambda o: first(o)["resources"].pop("requests")),
    ("resources", "no memory in resources.lim", lambda o: first(o)["resources"].pop("limits")),
    ("escalation", "Escalation is not false", lambda o: context(o).pop("allowPrivilegeEscalation")),
    ("privileged", "is privileged", lambda o: context(o).update(privileged=True)),
    ("read-only", "is not true", lambda o: context(o).update(readOnlyRootFilesystem=False)),
    ("non-root", "is not true", lambda o: pod(o)["securityContext"].pop("runAsNonRoot")),
    ("non-root", "is not true", lambda o: context(o).update(runAsNonRoot=False)),
    ("non-root", "runAsUser is 0", lambda o: context(o).update(runAsUser=0)),
    ("seccomp", "RuntimeDefault", lambda o: pod(o)["securityContext"].pop("seccompProfile")),
    ("seccomp", "RuntimeDefault", lambda o: context(o).update(seccompProfile={"type": "x"})),
    ("capabilities", "ALL", lambda o: context(o).pop("capabilities")),
    ("capabilities", "ALL", lambda o: context(o).update(capabilities={"drop": ["NET_RAW"]})),
    ("added-capabilities", "KILL", lambda o: context(o)["capabilities"].update(add=["KILL"])),
    ("image", "web:latest", lambda o: first(o).update(image="web:latest")),
    ("image", "solver:main", lambda o: first(o)["args"].append("--x-image=solver:main")),
    ("plain-secret", "ADMIN_PASSWORD is in plain", lambda o: variable(o, "ADMIN_PASSWORD", "x")),
    ("plain-secret", "githubToken is in plain", lambda o: variable(o, "githubToken", "x")),
    ("plain-secret", "API_KEY is in plain", lambda o: variable(o, "API_KEY", "a$(B)")),
    ("host-namespaces", "hostNetwork", lambda o: pod(o).update(hostNetwork=True)),
    ("host-namespaces", "hostPID", lambda o: pod(o).update(hostPID=True)),
    ("host-path", "/etc", lambda o: pod(o)["volumes"].append({"hostPath": {"path": "/etc"}})),
    ("host-port", "port 80 of", lambda o: first(o)["ports"].append({"hostPort": 80})),
    ("token", "token", lambda o: o.pop("ServiceAccount")),
    ("token", "token", lambda o: pod(o).update(automountServiceAccountToken=True)),
    ("token", "token", lambda o: pod(o).update(serviceAccountName="another")),
    ("token", "token", projected),
    ("priority", "no priority class", lambda o: pod(o).pop("priorityClassName")),
    ("spread", "all 2 replicas", lambda o: pod(o).pop("topologySpreadConstraints")),
    ("budget", "2 replicas and no Pod", lambda o: o.pop("PodDisruptionBudget")),
    ("budget", "no PodDisruptionBudget", lambda o: budget(o, selector={"matchLabels": {"a": "b"}})),
    ("budget", "lets none of 2", lambda o: budget(o, maxUnavailable=0)),
    ("budget", "lets none of 2", lambda o: budget(o, maxUnavailable="0%")),
    ("budget", "lets none of 2", lambda o: budget(o, minAvailable=2)),
    ("budget", "lets none of 2", lambda o: budget(o, minAvailable="51%")),
    ("budget", "more than one", second_budget),
    ("budget", "lets none of 1", lambda o: (autoscaler(o, 1), budget(o, minAvailable=1))),
    ("budget", "3 replicas and no Pod", lambda o: (autoscaler(o, 3), o.pop("PodDisruptionBudget"))),
    ("node-port", "of type NodePort", lambda o: service(o, type="NodePort")),
    ("node-port", "machines: 30080", lambda o: service(o, ports=[{"port": 80, "nodePort": 30080}])),
    ("node-port", "gets ports", lambda o: service(o, type="LoadBalancer")),
]  # fmt: skip


def told(objects: Mapping[str, Object], *allowed: Allowed) -> list[str]:
    return judge(objects.values(), allowed)


def test_what_keeps_to_every_rule_is_good() -> None:
    assert told(good()) == []


@pytest.mark.parametrize(("rule", "message", "change"), BAD)
def test_a_breach_is_found_and_nothing_else(rule: str, message: str, change: Change) -> None:
    objects = good()
    change(objects)
    found = {one.rule for one in findings(objects.values())}
    assert found == {rule}
    assert any(message in line for line in told(objects))


def test_every_rule_has_a_bad_fixture() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: context(o).update(runAsNonRoot=True),
        lambda o: budget(o, minAvailable=1),
        lambda o: budget(o, minAvailable="50%"),
        lambda o: budget(o, maxUnavailable="10%"),
        lambda o: budget(
            o,
            maxUnavailable=1,
            selector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
        ),
        lambda o: (autoscaler(o, 1), o.pop("PodDisruptionBudget")),
        lambda o: (
            pod(o).pop("topologySpreadConstraints"),
            pod(o).update(affinity={"podAntiAffinity": {"required": []}}),
        ),
        lambda o: (o.pop("ServiceAccount"), pod(o).update(automountServiceAccountToken=False)),
        lambda o: service(o, type="ClusterIP", ports=[{"port": 80}]),
    ],
)
def test_there_is_more_than_one_way_to_be_good(change: Change) -> None:
    objects = good()
    change(objects)
    assert told(objects) == []


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"])
def test_every_kind_of_workload_is_looked_at(kind: str) -> None:
    objects = good()
    deployment = objects.pop("Deployment")
    template = deployment["spec"]["template"]
    del template["spec"]["priorityClassName"]
    specs = {"Pod": template["spec"], "CronJob": {"jobTemplate": {"spec": {"template": template}}}}
    objects[kind] = {**deployment, "kind": kind, "spec": specs.get(kind, {"template": template})}
    assert told(objects) == [f"{kind} apps/web: has no priority class [priority]"]


def test_what_helm_makes_for_tests_only_is_left_out() -> None:
    objects = good()
    del pod(objects)["priorityClassName"]
    objects["Deployment"]["metadata"]["annotations"] = {"helm.sh/hook": "test"}
    assert told(objects) == []


def test_no_secret_value_is_printed() -> None:
    objects = good()
    variable(objects, "PASSWORD", "hunter2")
    assert not any("hunter2" in line for line in told(objects))


def test_an_exception_allows_one_rule_of_one_container() -> None:
    objects = good()
    for container in (*pod(objects)["initContainers"], *pod(objects)["containers"]):
        container["securityContext"]["readOnlyRootFilesystem"] = False
    exception = Allowed("read-only", "Deployment apps/w*", "a reason", ("web",))
    assert [line.split(":")[0] for line in told(objects, exception)] == [
        "Deployment apps/web, container first"
    ]


@pytest.mark.parametrize(
    "exception",
    [
        Allowed("read-only", "Deployment apps/web", "a reason", ("web",)),
        Allowed("priority", "Deployment apps/other", "a reason"),
    ],
)
def test_an_exception_that_nothing_needs_is_told(exception: Allowed) -> None:
    assert len(told(good(), exception)) == 1
    assert "matches nothing any more" in told(good(), exception)[0]


@pytest.mark.parametrize(
    ("image", "exact"),
    [
        ("web:1.2.3", True),
        ("web:v1.2.3-alpine", True),
        ("web:v1.36.9-1782267392-edeb3f2af56c37c407efa1f63f0b32f595399bbc", True),
        (f"web@sha256:{'a' * 64}", True),
        (f"web:latest@sha256:{'a' * 64}", True),
        ("localhost:5000/web:1.2.3", True),
        ("localhost:5000/web", False),
        ("web", False),
        ("web:", False),
        ("web:latest", False),
        ("web:main", False),
        ("web:1", False),
        ("web:1.2", False),
        ("web:v1.2.x", False),
        ("web@sha256:abc", False),
        ("", False),
    ],
)
def test_an_exact_image_names_one_build(image: str, exact: bool) -> None:  # noqa: FBT001 pytest
    assert is_exact(image) is exact


def test_every_exception_names_a_rule_and_a_reason() -> None:
    for exceptions in EXCEPTIONS.values():
        for one in exceptions:
            assert one.rule in RULES
            assert re.fullmatch(r"[A-Z][A-Za-z]+ [a-z-]+/[a-z*-]+", one.workload)
            assert len(one.why.split()) > 1


# --- What the program makes itself ---------------------------------------------------------------


def whole(value: Any) -> Any:
    """Undo what the protocol does to numbers: it has only floating ones."""
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_object(registered: Registered) -> Object:
    """Make an object of what the program registers: `kubernetes:apps/v1:Deployment`."""
    inputs: Object = whole(plain(registered.inputs))
    return {"kind": registered.type.rpartition(":")[2], **inputs}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Object]:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return [
        as_object(one)
        for one in run_production().resources
        if one.type.startswith("kubernetes:") and "Release" not in one.type
    ]


def test_what_the_program_makes_keeps_to_the_policies(made: list[Object]) -> None:
    names = {f"{one['kind']} {one['metadata']['name']}" for one in made}
    assert {"CronJob etcd-backup", "Deployment backup-metrics", "Service backup-metrics"} <= names
    assert "Deployment kubelet-serving-cert-approver" in names
    assert judge(made, EXCEPTIONS[PROGRAM]) == []


def test_a_breach_in_what_the_program_makes_would_be_found(made: list[Object]) -> None:
    made = copy.deepcopy(made)
    (job,) = (one for one in made if one["kind"] == "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    del pod["containers"][0]["resources"]
    pod["automountServiceAccountToken"] = True
    assert [line.rpartition("[")[2] for line in judge(made, EXCEPTIONS[PROGRAM])] == [
        "token]",
        *["resources]"] * 3,
    ]
