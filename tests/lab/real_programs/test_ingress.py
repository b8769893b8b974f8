"""Requests come through the real Traefik, to the address that MetalLB's real speakers announce."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.argocd import HOST as ARGO_CD_HOST
from tests.lab.real_programs.argocd import NAMESPACE as ARGO_CD
from tests.lab.real_programs.argocd import PODINFO, Repository
from tests.lab.real_programs.cluster import (
    APPLICATION,
    APPLICATION_HOST,
    DOMAIN,
    INGRESS_ADDRESS,
    authority,
    body,
    curl,
    endpoints,
    healthy,
    kinds,
    kubectl,
    read,
)

NAMESPACE = ("--namespace", APPLICATION)
CLIENT = "tests/lab/https_client.py"
AWAY_SECONDS = 10.0
"""How long a machine stays away once the API answers, which may be at once."""
QUICK_SCALER = {
    "maxReplicas": 4,
    "behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0},
        "scaleDown": {
            "stabilizationWindowSeconds": 15,
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
        },
    },
    "metrics": [
        {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "10m"}},
        }
    ],
}
"""The application's own waits five minutes before it takes pods away, as production should."""


@pytest.fixture(scope="module", autouse=True)
def application(podinfo: World) -> None:
    """Have the application that Argo CD brings, and its address, also after a machine's reboot."""
    wait_until("all machines to be healthy", lambda: healthy(podinfo))
    wait_until("the application's pods to be ready", lambda: len(ready(podinfo)) == 2)
    url = f"https://{APPLICATION_HOST}/"
    wait_until("the application to answer", lambda: curl(podinfo, url).startswith("HTTP/2 200"))


def ready(world: World) -> set[str]:
    """Give the names of the application's ready pods."""
    return endpoints(world, APPLICATION, "podinfo")


def holder(world: World, *through: str) -> str:
    """Give the machine whose speaker announces the ingress address, as the speakers say."""
    found = read(world, "servicel2statuses", "--all-namespaces", *through)["items"]
    nodes = {
        one["node"]
        for one in (each.get("status", {}) for each in found)
        if one.get("serviceName") == "traefik" and one.get("node")
    }
    assert len(nodes) == 1, found
    return str(nodes.pop())


def neighbour(world: World) -> str:
    """Give the hardware address that answered for the ingress address."""
    curl(world, f"https://{APPLICATION_HOST}/", code=None)
    shown = world.run("ip", "-json", "neighbour", "show", INGRESS_ADDRESS).stdout
    return str(json.loads(shown)[0].get("lladdr", ""))


def moved_from(world: World, before: str) -> bool:
    """Say whether exactly one machine announces the address, and another one than before.

    It asks another machine's API server: the one that was lost may have had the VIP, which is back
    when its lease in etcd of a minute has ended.
    """
    other = next(one["address"] for one in world.machines() if one["name"] != before)
    try:
        return holder(world, "--server", f"https://{other}:6443") != before
    except AssertionError:
        return False


def client(world: World, what: str, seconds: int, *more: str) -> subprocess.Popen[str]:
    """Start the client in the world."""
    to = ("--address", INGRESS_ADDRESS, "--host", APPLICATION_HOST, "--authority", authority(world))
    how = ("--seconds", str(seconds), *more)
    return world.start_command("python", CLIENT, what, *to, *how)


@contextmanager
def watched(world: World, seconds: int, *more: str) -> Iterator[list[dict[str, Any]]]:
    """Ask all the time; the list is filled at the end."""
    asked: list[dict[str, Any]] = []
    running = client(world, "watch", seconds, *more)
    try:
        yield asked
    finally:
        output, _ = running.communicate(timeout=seconds + 60)
        asked += [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def longest_silence(asked: list[dict[str, Any]]) -> float:
    """Give the longest time between two answers, in seconds."""
    answered = [float(one["at"]) for one in asked if one["answered"]]
    return max(after - before for before, after in itertools.pairwise(answered))


def say(text: str) -> None:
    """Print a figure of the run past pytest's capture."""
    sys.__stderr__.write(f"\n{text}\n") if sys.__stderr__ else None


def test_the_application_answers_by_https_with_the_platforms_certificate(world: World) -> None:
    answer = curl(
        world, f"https://{APPLICATION_HOST}/"
    )  # verified: by name, with the platform's authority
    assert answer.startswith("HTTP/2 200")
    assert json.loads(body(answer))["hostname"] in ready(world)
    shown = world.run(
        *("curl", "--silent", "--verbose", "--cacert", authority(world)),
        *("--resolve", f"{APPLICATION_HOST}:443:{INGRESS_ADDRESS}", f"https://{APPLICATION_HOST}/"),
    ).stderr
    assert f"*.{DOMAIN}" in shown or f"CN={DOMAIN}" in shown


def test_every_pod_of_the_application_gets_requests(world: World) -> None:
    hosts = {
        json.loads(body(curl(world, f"https://{APPLICATION_HOST}/")))["hostname"] for _ in range(12)
    }
    assert hosts == ready(world)
    assert len(hosts) == 2


def test_plain_http_is_sent_to_https(world: World) -> None:
    answer = curl(world, f"http://{APPLICATION_HOST}/some?where=1")
    assert answer.startswith(("HTTP/1.1 301", "HTTP/1.1 308"))
    assert f"https://{APPLICATION_HOST}/some?where=1" in answer


def test_a_host_that_no_route_names_is_not_found(world: World) -> None:
    answer = curl(world, f"https://nobody.{DOMAIN}/")
    assert answer.startswith("HTTP/2 404")
    assert "404 page not found" in answer


def test_the_dashboards_api_shows_every_route_of_the_platform_without_an_error(
    world: World,
) -> None:
    site = f"https://traefik.{DOMAIN}"
    assert curl(world, f"{site}/api/overview").startswith("HTTP/2 401")
    found = read(world, "secret", "dashboard-user", "--namespace", "traefik")["data"]
    user, word = (base64.b64decode(found[key]).decode() for key in ("username", "password"))
    login = ("--user", f"{user}:{word}")
    overview = json.loads(body(curl(world, f"{site}/api/overview", *login)))
    assert overview["http"]["routers"]["errors"] == 0
    assert overview["http"]["services"]["errors"] == 0
    assert overview["http"]["middlewares"]["errors"] == 0
    assert {"KubernetesCRD", "KubernetesIngress", "KubernetesGateway"} <= set(overview["providers"])
    routers = json.loads(body(curl(world, f"{site}/api/http/routers", *login)))
    rules = {one["rule"]: one["status"] for one in routers if "rule" in one}
    assert rules[f"Host(`traefik.{DOMAIN}`)"] == "enabled"
    assert any(APPLICATION_HOST in rule for rule in rules)
    version = json.loads(body(curl(world, f"{site}/api/version", *login)))["Version"]
    pods = read(world, "pods", "--namespace", "traefik")["items"]
    assert pods[0]["spec"]["containers"][0]["image"].endswith(f":v{version}")


def test_traefik_says_the_address_in_the_status_of_routes(world: World) -> None:
    def address() -> list[Any]:
        found = read(world, "ingress", "podinfo", *NAMESPACE)["status"]["loadBalancer"]
        listed: list[Any] = found.get("ingress", [])
        return listed

    wait_until("the Ingress to have an address", lambda: address() == [{"ip": INGRESS_ADDRESS}], 30)

    def programmed() -> bool:
        gateway = read(world, "gateway", "platform", "--namespace", "traefik")["status"]
        conditions = {one["type"]: one["status"] for one in gateway["conditions"]}
        return conditions.get("Programmed") == "True"

    # Not before the domain's own certificate, which `up` does not wait for.
    wait_until("the gateway to have all its listeners", programmed, 240, poll=1)


def test_one_machine_announces_the_address_and_traefik_sees_the_clients_own(world: World) -> None:
    elected = holder(world)
    machine = next(one for one in world.machines() if one["name"] == elected)
    other = world.run("ip", "-json", "route", "get", INGRESS_ADDRESS).stdout
    source = json.loads(other)[0]["prefsrc"]
    curl(world, f"https://{APPLICATION_HOST}/who-asks")
    pods = read(world, "pods", "--namespace", "traefik")["items"]
    (pod,) = [one for one in pods if one["spec"]["nodeName"] == elected]
    assert pod["status"]["hostIP"] == machine["address"]

    def logged() -> list[dict[str, Any]]:
        text = kubectl(world, "logs", "--namespace", "traefik", pod["metadata"]["name"])
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [one for one in lines if one.get("RequestPath") == "/who-asks"]

    wait_until("the request in the access log", lambda: bool(logged()), 10)
    # externalTrafficPolicy: Local keeps it.
    assert {one["ClientHost"] for one in logged()} == {source}


def test_an_argument_that_traefik_does_not_know_is_an_error(world: World) -> None:
    pods = read(world, "pods", "--namespace", "traefik")["items"]
    name = pods[0]["metadata"]["name"]
    command = (
        "exec",
        "--namespace",
        "traefik",
        name,
        "--",
        "traefik",
        "--providers.kubernetescdr=true",
    )
    refused = world.run("kubectl", *command, code=None)
    assert refused.returncode != 0
    assert "kubernetescdr" in refused.stdout + refused.stderr


def test_load_raises_the_measured_cpu_and_the_autoscaler_adds_pods_that_serve(
    world: World, repository: Repository
) -> None:
    file = repository.folder / PODINFO / "autoscaler.yaml"
    scaler = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(scaler | {"spec": scaler["spec"] | QUICK_SCALER}))
    repository.push("podinfo's autoscaler is quick")
    wait_until(
        "the autoscaler to be quick",
        lambda: read(world, "hpa", "podinfo", *NAMESPACE)["spec"]["maxReplicas"] == 4,
    )
    # A computer that other worlds keep busy may answer late: late is not failed.
    patient = ("--patience", "20")
    running = client(world, "load", 100, "--clients", "2", *patient)
    wait_until("the autoscaler to add pods", lambda: len(ready(world)) > 2, 95)
    scaled = read(world, "hpa", "podinfo", *NAMESPACE)["status"]
    assert scaled["currentMetrics"], "the processor time comes from metrics-server"
    more = ready(world)
    hosts = {
        json.loads(body(curl(world, f"https://{APPLICATION_HOST}/")))["hostname"] for _ in range(24)
    }
    assert len(hosts & more) > 2
    output, _ = running.communicate(timeout=160)
    done = json.loads(output.splitlines()[-1])
    say(f"load through Traefik for 100 s: {done}, pods: {len(more)}")
    assert done["answered"] > 1000
    assert done["failed"] == []
    # Nobody who asks meanwhile is sent to a pod that is gone, here and at Argo CD's server.
    web = ("--host", ARGO_CD_HOST, "--path", "/healthz", *patient)
    with watched(world, 60, *patient) as asked, watched(world, 60, *web) as asked_argo_cd:
        delete_a_pod(world, ARGO_CD, "argo-cd-argocd-server")
        delete_a_pod(world, APPLICATION, "podinfo")
        wait_until("the autoscaler to take the pods away", lambda: len(ready(world)) == 2, 150)
    assert [one for one in (*asked, *asked_argo_cd) if not one["answered"]] == []
    assert asked
    assert asked_argo_cd


def delete_a_pod(world: World, namespace: str, service: str) -> None:
    """Delete a ready pod of a Service, and wait until it is gone."""
    name = min(endpoints(world, namespace, service))
    world.run("kubectl", "delete", "pod", "--namespace", namespace, name)


def test_the_address_moves_when_its_machine_loses_its_power(world: World) -> None:
    before, hardware = holder(world), neighbour(world)
    with watched(world, 90) as asked:
        world.run("govc", "vm.power", "-off", "-force", before)
        try:
            wait_until("another machine to announce the address", lambda: moved_from(world, before))
            moved = neighbour(world)
            time.sleep(10)  # what comes of its return is another matter
            until = time.monotonic()
        finally:
            world.run("govc", "vm.power", "-on", before)
    lost = longest_silence([one for one in asked if one["at"] < until])
    say(f"the ingress address moved from {before}: no answer for {lost:.1f} s")
    back = longest_silence([one for one in asked if one["at"] >= until])
    wait_until("all machines to be healthy again", lambda: healthy(world))
    wait_until("one machine to announce the address", lambda: moved_from(world, "nobody"))
    say(f"{before} came back, {holder(world)} has it: no answer for {back:.1f} s")
    assert moved != hardware
    assert asked[-1]["answered"]


def test_requests_are_answered_while_etcd_loses_its_leader(world: World) -> None:
    addresses = {one["name"]: one["address"] for one in world.machines()}
    elected = holder(world)

    def leader() -> str:
        shown = world.run("talosctl", "--nodes", ",".join(addresses.values()), "etcd", "status")
        lines = [line.split() for line in shown.stdout.splitlines()[1:]]
        members = {line[1]: line[0] for line in lines}
        number = next(word for word in lines[0][2:] if word in members)
        return str(next(name for name, one in addresses.items() if one == members[number]))

    lost = leader()
    if lost == elected:
        # Two losses at once are the test above: here another machine leads first.
        world.run("talosctl", "--nodes", addresses[elected], "etcd", "forfeit-leadership")
        wait_until("another leader", lambda: leader() != elected, 30)
        lost = leader()
    with watched(world, 40) as asked:
        world.run("govc", "vm.power", "-off", "-force", lost)
        off = time.monotonic()
        try:
            wait_until("the API to answer", lambda: api_answers(world))
            time.sleep(AWAY_SECONDS)
        finally:
            on = time.monotonic()
            world.run("govc", "vm.power", "-on", lost)
    failed = [one for one in asked if not one["answered"]]
    say(f"etcd lost its leader on {lost}: {len(failed)} of {len(asked)} requests failed")
    # A pod of the application on that machine is lost too: requests to it fail.
    assert [one for one in asked if off < one["at"] < on and one["answered"]]
    wait_until("all machines to be healthy again", lambda: healthy(world))
    wait_until("the application's pods to be ready", lambda: len(ready(world)) == 2)
    assert curl(world, f"https://{APPLICATION_HOST}/").startswith("HTTP/2 200")


def api_answers(world: World) -> bool:
    """Say whether the API answers through its shared address."""
    command = ("kubectl", "--request-timeout=2s", "get", "--raw", "/readyz")
    return world.run(*command, code=None).returncode == 0


def test_the_run_says_that_traefik_and_metallb_are_real(world: World) -> None:
    parts = kinds(world)
    assert parts["traefik"] == parts["metallb-speaker"] == parts["metallb-controller"] == "real"
