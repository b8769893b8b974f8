"""The machines run the platform's programs: pods are processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.cluster import apply, endpoints, healthy, kinds, kubectl, read

# An application of two pods, with a Service; its program is the lab's stand-in for podinfo.
APPLICATION = """\
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: default }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: { matchLabels: { app: web } }
      containers:
        - name: podinfo
          image: ghcr.io/stefanprodan/podinfo:6.14.1
          command: [./podinfo, --port=9898]
          ports: [{ name: http, containerPort: 9898 }]
          readinessProbe:
            httpGet: { path: /readyz, port: http }
            periodSeconds: 1
            failureThreshold: 1
          livenessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 5 }
          resources: { requests: { cpu: 10m, memory: 16Mi } }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: default }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
"""


@pytest.fixture(scope="module", autouse=True)
def application(world: World) -> None:
    """Put the application on the platform."""
    apply(world, APPLICATION)
    kubectl(world, "rollout", "status", "deployment/web", "--timeout=120s")


def pods(world: World) -> list[dict[str, Any]]:
    """Read the application's pods that are not on their way out."""
    items: list[dict[str, Any]] = read(world, "pods", "--selector", "app=web")["items"]
    return [one for one in items if "deletionTimestamp" not in one["metadata"]]


def name(pod: dict[str, Any]) -> str:
    """Give the name of a pod."""
    return str(pod["metadata"]["name"])


def inside(world: World, pod: str, *argv: str, code: int | None = 0) -> str:
    """Run a command in one of the application's pods."""
    return kubectl(world, "exec", pod, "--", *argv, code=code)


def look_up(world: World, pod: str, host: str, code: int | None = 0) -> str:
    """Look up a name in a pod, by its own /etc/resolv.conf."""
    return inside(world, pod, "./podcli", "look-up", host, code=code).strip()


def test_the_real_metrics_server_serves_what_the_kubelets_measured(world: World) -> None:
    def usage() -> list[dict[str, Any]]:
        raw = "/apis/metrics.k8s.io/v1beta1/pods"
        answer = world.run("kubectl", "get", "--raw", raw, code=None)
        items: list[dict[str, Any]] = json.loads(answer.stdout)["items"] if answer.stdout else []
        return items

    wait_until(
        "metrics of the application",
        lambda: any(one["metadata"]["name"].startswith("web-") for one in usage()),
    )
    logs = kubectl(
        world, "logs", "--namespace", "metrics-server", "deployment/metrics-server", "--tail=-1"
    )
    assert "Serving securely" in logs
    used = next(one for one in usage() if one["metadata"]["name"].startswith("web-"))
    memory = used["containers"][0]["usage"]["memory"]
    assert int(memory.removesuffix("Ki")) > 1024
    nodes = json.loads(kubectl(world, "get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"))
    assert len(nodes["items"]) == 3
    assert "web-" in kubectl(world, "top", "pods")


def test_coredns_answers_for_a_service_and_for_a_name_outside(world: World) -> None:
    pod = name(pods(world)[0])
    address = read(world, "service", "web")["spec"]["clusterIP"]
    for host in ("web", "web.default", "web.default.svc.cluster.local"):
        assert look_up(world, pod, host) == address
    assert look_up(world, pod, "vcenter.example.internal")
    assert look_up(world, pod, "anything.platform.example.com") == "172.16.20.100"
    assert look_up(world, pod, "no-such-name.invalid", code=1) == ""


def test_a_service_reaches_the_pods_of_other_machines(world: World) -> None:
    caller = name(pods(world)[0])
    both, answered = {name(one) for one in pods(world)}, set[str]()
    for _ in range(60):  # each connection goes to a pod by chance
        answer = inside(world, caller, "./podcli", "get", "http://web/")
        answered.add(json.loads(answer)["hostname"])
        if answered >= both:
            break
    assert answered == both
    assert len({one["spec"]["nodeName"] for one in pods(world)}) == 2


def test_a_pod_that_is_not_ready_gets_no_connections(world: World) -> None:
    pod = pods(world)[0]

    def ready() -> set[str]:
        return endpoints(world, "default", "web")

    assert name(pod) in ready()
    inside(world, name(pod), "./podcli", "post", "http://127.0.0.1:9898/readyz/disable")
    wait_until("the endpoint to go", lambda: name(pod) not in ready())
    assert ready()
    inside(world, name(pod), "./podcli", "post", "http://127.0.0.1:9898/readyz/enable")
    wait_until("the endpoint to come back", lambda: name(pod) in ready())


def test_logs_and_commands_are_the_programs_own(world: World) -> None:
    pod = name(pods(world)[0])
    assert "starting podinfo (a stand-in)" in kubectl(world, "logs", pod)
    assert inside(world, pod, "hostname").strip() == pod
    assert (
        "command terminated with exit code 3"
        in world.run("kubectl", "exec", pod, "--", "sh", "-c", "exit 3", code=3).stderr
    )
    refused = world.run(
        "kubectl",
        "exec",
        "--namespace",
        "kube-system",
        "deployment/cilium-operator",
        "--",
        "true",
        code=None,
    )
    assert "not in the lab: " in refused.stderr


def test_a_program_that_crashes_is_started_again_and_held_back(world: World) -> None:
    apply(
        world,
        """\
apiVersion: v1
kind: Pod
metadata: { name: crash, namespace: default }
spec:
  containers:
    - name: main
      image: ghcr.io/stefanprodan/podinfo:6.14.1
      command: [sh, -c, "echo last words; exit 42"]
""",
    )

    def status() -> dict[str, Any]:
        found: list[dict[str, Any]] = read(world, "pod", "crash")["status"].get(
            "containerStatuses", [{}]
        )
        return found[0]

    def reason() -> str:
        return str(status().get("state", {}).get("waiting", {}).get("reason", ""))

    wait_until("it to be held back", lambda: reason() == "CrashLoopBackOff")
    last = status()["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (42, "Error")
    assert status()["restartCount"] >= 1
    assert kubectl(world, "logs", "crash", "--previous") == "last words\n"
    events = kubectl(world, "events", "--for", "pod/crash")
    assert "Back-off restarting failed container main" in events
    kubectl(world, "delete", "pod", "crash")


def test_a_machine_that_reboots_starts_its_programs_again(world: World) -> None:
    pod = pods(world)[0]
    before = pod["status"]["containerStatuses"][0]["restartCount"]
    address = pod["status"]["hostIP"]
    world.run("talosctl", "--nodes", address, "reboot", "--wait", "--timeout", "5m")

    def restarted() -> bool:
        now = read(world, "pod", name(pod))["status"]
        one = now["containerStatuses"][0]
        return bool(one["restartCount"] == before + 1 and one["ready"])

    wait_until("the pod to run again", restarted)
    wait_until("all machines to be healthy again", lambda: healthy(world))


def name_servers(world: World) -> dict[str, str]:
    """Give the machine of each of CoreDNS's pods that serves."""
    pods = read(world, "pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")
    return {
        name(one): one["spec"]["nodeName"]
        for one in pods["items"]
        if "deletionTimestamp" not in one["metadata"] and ready(one)
    }


def ready(pod: dict[str, Any]) -> bool:
    """Whether a pod is ready."""
    conditions = {one["type"]: one["status"] for one in pod["status"]["conditions"]}
    return conditions.get("Ready") == "True"


def test_name_servers_that_are_all_on_one_machine_are_moved_apart(world: World) -> None:
    assert len(set(name_servers(world).values())) == 2
    coredns = ("deployment/coredns", "--namespace", "kube-system")
    # As in a new cluster whose other machines are not Ready yet.
    kubectl(world, "cordon", "node02", "node03")
    kubectl(world, "rollout", "restart", *coredns)
    kubectl(world, "rollout", "status", *coredns, "--timeout=60s")
    kubectl(world, "uncordon", "node02", "node03")
    wait_until("both to serve", lambda: len(name_servers(world)) == 2)
    assert set(name_servers(world).values()) == {"node01"}
    urn = "urn:pulumi:prod::platform::platform:kubernetes:Cilium$platform:index:Gate::name-servers"
    world.run("pulumi", "state", "delete", urn, "--yes")
    world.up()
    wait_until("both to serve", lambda: len(name_servers(world)) == 2)
    assert len(set(name_servers(world).values())) == 2
    world.expect_no_changes()


def test_the_run_says_of_each_program_what_it_is(world: World) -> None:
    parts = kinds(world)
    assert parts["metrics-server"] == "real"
    assert parts["coredns"] == "real"
    assert parts["podinfo"] == "stand-in"
    assert parts["all other pods"] == "simulated"
    assert parts["cilium-operator"] == "simulated"
