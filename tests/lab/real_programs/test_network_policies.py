"""The pods' connections are held to the network policies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pyrage  # type: ignore[import-untyped]
import pytest

from clients import etcd_snapshot
from ops.rehearsal import flows
from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.cluster import APPLICATION_HOST, apply, curl, kinds, read

# Two namespaces with programs that listen and call; nothing is closed yet.
PEOPLE = """\
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { team: shop } }
---
apiVersion: v1
kind: Namespace
metadata: { name: people, labels: { team: people } }
"""
PROGRAM = """\
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: podinfo
      image: ghcr.io/stefanprodan/podinfo:6.14.1
      command: [./podinfo, --port=9898, --port-metrics=9797]
      ports:
        - {{ name: http, containerPort: 9898 }}
        - {{ name: metrics, containerPort: 9797 }}
      readinessProbe: {{ httpGet: {{ path: /readyz, port: http }}, periodSeconds: 1 }}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {spec}
"""
OURS = ("shop", "people", "default")
CLOSED_IN = "{ podSelector: {}, policyTypes: [Ingress] }"
CLOSED_OUT = "{ podSelector: {}, policyTypes: [Egress] }"
VISITORS = (
    "{ podSelector: { matchLabels: { app: web } }, ingress: [{ ports: [{ port: http }],"
    " from: [{ namespaceSelector: { matchLabels: { team: people } } }] }] }"
)
TO_SHOP = (
    "{ podSelector: {}, policyTypes: [Egress], egress: ["
    " { to: [{ namespaceSelector: { matchLabels: { team: shop } } }] },"
    " { ports: [{ port: 53, protocol: UDP }, { port: 53 }] }] }"
)


@pytest.fixture(scope="module", autouse=True)
def people(world: World) -> None:
    """Put our namespaces and programs on the platform."""
    apply(world, PEOPLE)
    wanted = (("shop", "web"), ("shop", "store"), ("people", "visitor"))
    parts = [PROGRAM.format(namespace=namespace, name=name) for namespace, name in wanted]
    wait_until("the namespaces' accounts", lambda: accounts(world))
    apply(world, "---\n".join([*parts, SERVICE]))
    for namespace, name in wanted:
        ready = ("--for=condition=Ready", "--timeout=120s")
        world.run("kubectl", "wait", "--namespace", namespace, f"pod/{name}", *ready)


def accounts(world: World) -> bool:
    """Say whether pods can be made in our namespaces."""
    found = [
        world.run("kubectl", "get", "serviceaccount", "default", "--namespace", one, code=None)
        for one in ("shop", "people")
    ]
    return all(not one.returncode for one in found)


@contextmanager
def policy(world: World, namespace: str, name: str, spec: str) -> Iterator[None]:
    """Have a policy for a while."""
    apply(world, POLICY.format(namespace=namespace, name=name, spec=spec))
    try:
        yield
    finally:
        world.run("kubectl", "delete", "networkpolicy", "--namespace", namespace, name)


def address(world: World, namespace: str, name: str) -> str:
    """Give a pod's address."""
    path = "jsonpath={.status.podIP}"
    found = world.run("kubectl", "get", "pod", "--namespace", namespace, name, "--output", path)
    return found.stdout


def answers(world: World, caller: tuple[str, str], url: str) -> bool:
    """Ask a URL from a pod; false when nothing comes back in time."""
    namespace, name = caller
    call = ("exec", "--namespace", namespace, name, "--", "timeout", "2", "./podcli", "get", url)
    return not world.run("kubectl", *call, code=None).returncode


def becomes(world: World, caller: tuple[str, str], url: str, *, answered: bool) -> None:
    """Wait a few seconds until a URL answers, or does not any more."""
    what = f"{url} to be {'open' if answered else 'closed'} for {caller}"
    wait_until(what, lambda: answers(world, caller, url) is answered)


def seen(world: World) -> flows.Seen:
    """Read what the world has written of flows and policies."""
    found = flows.read(world.state)
    assert found is not None
    return found


def ours(flow: flows.Flow) -> bool:
    """Say whether a flow is one of these tests' own pods."""
    return any(flow[one].get("namespace") in OURS for one in ("from", "to"))


def of_the_past(world: World, flow: flows.Flow) -> bool:
    """Say whether a flow went to a pod that had ended: whoever reads its metrics hears it later.

    Another pod may have its address by then, with other ports.
    """
    to = flow["to"]
    if to["kind"] == "pod" and flow["from"].get("namespace") == "monitoring":
        return flow["port"] not in ports(world, to["namespace"], to["name"])
    return to["kind"] == "world" and IPv4Address(to["address"]) in PODS


def ports(world: World, namespace: str, pod: str) -> set[int]:
    """Give the ports that a pod says it has; none when it is gone."""
    found = read(world, "pods", "--namespace", namespace)["items"]
    return {
        port["containerPort"]
        for one in found
        if one["metadata"]["name"] == pod
        for container in one["spec"]["containers"]
        for port in container.get("ports", ())
    }


PODS = IPv4Network("10.244.0.0/16")
STORE, WEB, VISITOR = ("shop", "store"), ("shop", "web"), ("people", "visitor")


def test_no_connection_of_the_platform_is_refused(world: World) -> None:
    def measured() -> bool:
        raw = "/apis/metrics.k8s.io/v1beta1/nodes"
        answer = world.run("kubectl", "get", "--raw", raw, code=None)
        return bool(not answer.returncode and len(json.loads(answer.stdout)["items"]) == 3)

    wait_until("metrics of the machines", measured)
    wait_until("flows", lambda: len(seen(world).flows) > 3)
    refused = [one for one in seen(world).refused if not (ours(one) or of_the_past(world, one))]
    assert [flows.describe(one) for one in refused] == []


def test_a_pod_is_open_until_a_policy_selects_it_and_then_closed(world: World) -> None:
    url = f"http://{address(world, *WEB)}:9898/"
    assert answers(world, VISITOR, url)
    with policy(world, "shop", "closed", CLOSED_IN):
        becomes(world, VISITOR, url, answered=False)
        assert not answers(world, STORE, url), "its own namespace is let in"
        assert not answers(world, STORE, "http://web.shop/"), "by the Service it is let in"
        assert answers(world, VISITOR, f"http://{address(world, *VISITOR)}:9898/")
        refused = [one for one in seen(world).refused if one["to"].get("name") == "web"]
        assert {one["from"]["name"] for one in refused} >= {"visitor", "store"}
        assert refused[0]["why"] == "no policy allows this ingress of shop/web"
        with policy(world, "shop", "visitors", VISITORS):
            becomes(world, VISITOR, url, answered=True)
            assert not answers(world, STORE, url), "the rule names another namespace"
            assert not answers(world, VISITOR, url.replace("9898", "9797")), "and another port"
    becomes(world, STORE, url, answered=True)


def test_probes_of_the_machine_go_on_where_everything_is_closed(world: World) -> None:
    with policy(world, "shop", "closed", CLOSED_IN):
        becomes(world, VISITOR, f"http://{address(world, *WEB)}:9898/", answered=False)
        world.run("kubectl", "exec", "--namespace", "shop", "web", "--", "sleep", "5")
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        found = world.run("kubectl", "get", "pod", "--namespace", "shop", "web", "--output", path)
        assert found.stdout == "True"


def test_a_rule_of_egress_opens_one_way_out_by_the_service_too(world: World) -> None:
    to_shop, outside = "http://web.shop/", "http://172.16.20.1:9/"
    assert answers(world, VISITOR, to_shop)
    with policy(world, "people", "closed", CLOSED_OUT):
        becomes(world, VISITOR, to_shop, answered=False)
        with policy(world, "people", "to-shop", TO_SHOP):
            becomes(world, VISITOR, to_shop, answered=True)
            assert not answers(world, VISITOR, outside)
            wait_until(
                "the way outside to be told",
                lambda: any(
                    one["to"] == {"kind": "world", "address": "172.16.20.1"}
                    for one in seen(world).refused
                ),
            )
    used = {one["name"]: one["allowed"] for one in seen(world).policies}
    assert used["people/to-shop"] > 0
    assert used["people/closed"] == 0


def test_a_policy_of_ciliums_own_kind_is_not_passed_over(world: World) -> None:
    url = f"http://{address(world, *WEB)}:9898/"
    apply(
        world,
        """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: names, namespace: people }
spec:
  endpointSelector: { matchLabels: { app: visitor } }
  egress: [{ toFQDNs: [{ matchName: example.com }] }]
""",
    )
    becomes(world, VISITOR, url, answered=False)
    world.run("kubectl", "delete", "ciliumnetworkpolicy", "--namespace", "people", "names")
    becomes(world, VISITOR, url, answered=True)
    (told,) = (one for one in seen(world).policies if one["name"].startswith("Cilium"))
    assert told["undecided"]


def test_a_policy_that_is_missing_stops_the_program_that_needs_it(world: World) -> None:
    place = ("--namespace", "metrics-server", "networkpolicy", "metrics-server")
    before = json.loads(world.run("kubectl", "get", *place, "--output", "json").stdout)
    kept = {"name": "metrics-server", "namespace": "metrics-server"}
    for managed in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
        before["metadata"].pop(managed, None)

    def stopped() -> bool:
        return any(
            one["from"].get("namespace") == "metrics-server" and one["port"] in (6443, 10250)
            for one in seen(world).refused
        )

    assert not stopped()
    world.run("kubectl", "delete", *place)
    try:
        wait_until("its way to the kubelets to be closed", stopped)
    finally:
        apply(world, json.dumps(before | {"metadata": before["metadata"] | kept}))
    wait_until(
        "metrics to come again",
        lambda: not world.run("kubectl", "top", "nodes", code=None).returncode,
    )


def test_a_backup_by_hand_is_a_snapshot_that_the_private_key_alone_opens(world: World) -> None:
    place = ("--namespace", "platform-backup")
    identity = pyrage.x25519.Identity.generate()
    job = json.loads(
        world.run(
            "kubectl", "create", "job", *place, "--from=cronjob/etcd-backup", "now",
            "--dry-run=client", "--output=json",
        ).stdout
    )  # fmt: skip
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (key,) = (one for one in container["env"] if one["name"] == "AGE_X25519_PUBLIC_KEY")
    key["value"] = str(identity.to_public())
    apply(world, json.dumps(job))
    world.run("kubectl", "wait", *place, "--for=condition=Complete", "--timeout=2m", "job/now")
    said = world.run("kubectl", "logs", *place, "job/now").stdout
    (name,) = re.findall(r"uploaded (prod/prod-[0-9TZ:-]+\.snap\.age)$", said.strip())
    stored = (world.state / "storage" / "platform-prod-etcd" / name).read_bytes()
    assert stored.startswith(b"age-encryption.org/v1\n-> X25519 ")
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(stored, [pyrage.x25519.Identity.generate()])
    snapshot = world.stack_file.parent / "snapshot"
    snapshot.write_bytes(pyrage.decrypt(stored, [identity]))
    assert etcd_snapshot.read(snapshot).kinds["pods"] > 10
    wait_until(
        "the backup's way to Talos and outside to be told",
        lambda: {
            one["port"]
            for one in seen(world).flows
            if one["from"].get("namespace") == "platform-backup" and one["verdict"] == "allowed"
        } >= {53, 443, 50000},
    )  # fmt: skip
    backups = ("platform-backup", "kube-system")
    refused = [one for one in seen(world).refused if one["from"].get("namespace") in backups]
    assert [flows.describe(one) for one in refused] == []


UNUSED = {
    # They let ask the name service. These programs know the API, the machines and endpoints by
    # their addresses.
    f"{namespace}/default-deny": "no connection needed it"
    for namespace in (
        "kubelet-serving-cert-approver",
        "metallb-system",
        "metrics-server",
        "traefik",
    )
}
"""Policies of programs that run here, which nothing used, and why."""


def test_each_policy_is_used_or_named_here_with_its_reason(podinfo: World) -> None:
    world = podinfo
    curl(world, f"https://{APPLICATION_HOST}/", "--fail")
    wait_until(
        "the application's policy to be used",
        lambda: "app-podinfo/podinfo" not in seen(world).unused,
    )
    reasons = {
        name: why
        for name, why in seen(world).unused.items()
        if name.split("/")[0] not in OURS and not name.startswith("Cilium")
    }
    known = (
        "its pods were simulated, and open no connections",
        "has no rule: it only closes",
    )
    unused = dict(UNUSED)
    if kinds(world).get("vmalert") != "real":
        # Without `make watching` one pod runs there, kube-state-metrics, which knows the API alone.
        unused["monitoring/default-deny"] = "no connection needed it"
    assert {name: why for name, why in reasons.items() if why not in known} == unused
    used = {one["name"] for one in seen(world).policies if one["allowed"]}
    assert used >= {
        "app-podinfo/podinfo",
        "cert-manager/cainjector",
        "cert-manager/controller",
        "cert-manager/webhook",
        "kubelet-serving-cert-approver/approver",
        "metallb-system/controller",
        "metrics-server/metrics-server",
        "platform-backup/backup",
        "platform-backup/default-deny",
        "traefik/ingress",
    }
