"""One world with everything in it, built once: what runs on the cluster, and what changes do to it.

The tests run in this order and leave the platform as the stack file says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from config.versions import KUBERNETES
from ops.rehearsal.world import World, wait_until
from tests.lab.conftest import editing
from tests.lab.machines.test_plan import make
from tests.lab.secret_values import left_behind, secret_values
from tests.lab.simulated_programs.workloads import workloads
from tests.secret_search import CommandLines

INGRESS = "172.16.20.100"
NODE01 = "172.16.20.51"
OLD_CLASS = """
apiVersion: storage.k8s.io/v1alpha1
kind: VolumeAttributesClass
metadata: { name: gold }
driverName: csi.example.com
parameters: { iops: "4000" }
"""
TRAEFIK = "    traefik:\n      address: 172.16.20.100"
ASK = """
import http.client, ssl, socket, sys
context = ssl.create_default_context()
with socket.create_connection(({address!r}, 443), 10) as plain:
    with context.wrap_socket(plain, server_hostname={host!r}) as secure:
        secure.sendall(b"GET / HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n")
        print(secure.recv(4096).decode())
"""


@pytest.fixture
def edit(world: World) -> Iterator[Callable[[str, str], None]]:
    """Edit the operator's stack file; the test's end restores it and the platform."""
    with editing(world) as replace:
        yield replace
    world.up()


def get(world: World, *what: str) -> Any:
    return json.loads(world.run("kubectl", "get", *what, "--output", "json").stdout)


def test_every_workload_is_ready_and_every_machine_is_a_ready_node(world: World) -> None:
    found = workloads(world)
    assert len(found) > 20
    assert {name: pair for name, pair in found.items() if pair[0] != pair[1]} == {}
    for node in get(world, "nodes")["items"]:
        conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"


def test_a_second_preview_changes_nothing(world: World) -> None:
    world.expect_no_changes()


def test_traefik_holds_its_fixed_address(world: World) -> None:
    service = get(world, "service", "traefik", "--namespace", "traefik")
    assert service["status"]["loadBalancer"]["ingress"][0]["ip"] == INGRESS
    assert service["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] == INGRESS


def test_no_service_has_a_node_port(world: World) -> None:
    for service in get(world, "services", "--all-namespaces")["items"]:
        assert service["spec"]["type"] != "NodePort"
        assert not any(port.get("nodePort") for port in service["spec"].get("ports", []))


def an_object(kind: str, namespace: str = "default", **content: Any) -> dict[str, Any]:
    versions = {
        "Ingress": "networking.k8s.io/v1",
        "IngressRoute": "traefik.io/v1alpha1",
        "HTTPRoute": "gateway.networking.k8s.io/v1",
    }
    metadata = {"name": "try", "namespace": namespace} | content.pop("metadata", {})
    return {
        "apiVersion": versions.get(kind, "v1"),
        "kind": kind,
        "metadata": {key: value for key, value in metadata.items() if value},
        **content,
    }


def a_service(**spec: Any) -> dict[str, Any]:
    return an_object("Service", spec={"ports": [{"port": 80}], **spec})


def a_namespace(name: str, level: str | None) -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    return an_object("Namespace", "", metadata={"name": name, "labels": labels})


def an_ingress(host: str, namespace: str = "default", **annotations: str) -> dict[str, Any]:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    written = {f"traefik.ingress.kubernetes.io/router.{key}": v for key, v in annotations.items()}
    return an_object(
        "Ingress",
        namespace,
        metadata={"annotations": written},
        spec={"rules": [{"host": host, "http": {"paths": [path]}}]},
    )


def a_route(match: str, **more: Any) -> dict[str, Any]:
    service = {"name": "web", "port": 80}
    return an_object(
        "IngressRoute",
        spec={"routes": [{"kind": "Rule", "match": match, "services": [service], **more}]},
    )


def a_gateway_route(host: str) -> dict[str, Any]:
    return an_object("HTTPRoute", spec={"hostnames": [host]})


ARGOCD, OTHER = "argocd.platform.example.com", "shop.platform.example.com"
NO_PORTS = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (a_service(type="NodePort"), "opens a port on every machine"),
        (a_service(type="LoadBalancer"), "opens ports on every machine too"),
        (a_service(externalIPs=["172.16.20.9"]), "externalIPs take any address"),
        (a_namespace("mine", "privileged"), "is for namespaces of the platform only"),
        (a_namespace("app-mine", "baseline"), "of an application has the label"),
        (a_namespace("app-mine", None), "of an application has the label"),
        (a_namespace("traefik", "baseline"), "keeps its level"),
        (an_ingress(ARGOCD), "names of the platform's own"),
        (an_ingress(OTHER, priority="2000000"), "is for routes of the platform"),
        (a_route(f"Host(`{ARGOCD.upper()}`) && PathPrefix(`/x`)"), "names of the platform's own"),
        (a_route(f"Host(`{OTHER}`)", priority=2_000_000), "is for routes of the platform"),
        (a_gateway_route(ARGOCD), "names of the platform's own"),
        (a_service(**NO_PORTS), None),
        (a_service(), None),
        (a_namespace("mine", "baseline"), None),
        (a_namespace("app-mine", "restricted"), None),
        (an_ingress(ARGOCD, "argocd"), None),
        (an_ingress(OTHER, priority="20"), None),
        (a_route(f"Host(`{OTHER}`)", priority=20), None),
        (a_gateway_route(OTHER), None),
    ],
)
def test_the_api_server_refuses_what_the_platforms_rules_forbid_and_nothing_else(
    world: World, given: dict[str, Any], said: str | None
) -> None:
    file = world.state / "try.json"
    file.write_text(json.dumps(given))
    # A namespace of the platform is there already: the request is a change of it.
    verb = "replace" if given["metadata"]["name"] == "traefik" else "create"
    answer = world.run("kubectl", verb, "--dry-run=server", "--filename", str(file), code=None)
    if said is None:
        assert answer.returncode == 0, answer.stderr
        return
    assert answer.returncode != 0
    assert said in answer.stderr


def load_balancer(world: World, name: str, address: str | None) -> None:
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": False,
            "selector": {"app": name},
            "ports": [{"port": 80}],
        },
    }
    if address:
        service["metadata"]["annotations"] = {"metallb.io/loadBalancerIPs": address}
    file = world.state / f"{name}.json"
    file.write_text(json.dumps(service))
    world.run("kubectl", "apply", "--filename", str(file))


def test_a_second_service_gets_another_address_of_the_pool(world: World) -> None:
    load_balancer(world, "second", None)

    def given() -> str:
        status = get(world, "service", "second")["status"]["loadBalancer"]
        return str(status["ingress"][0]["ip"]) if status.get("ingress") else ""

    wait_until("the Service has an address", lambda: bool(given()))
    assert re.fullmatch(r"172\.16\.20\.1([0-4]\d|50)", given())
    assert given() != INGRESS
    world.run("kubectl", "delete", "service", "second")


def test_an_address_outside_of_the_pools_is_refused_by_metallb(world: World) -> None:
    load_balancer(world, "outside", "172.16.20.200")

    def events() -> str:
        return world.run(
            "kubectl", "get", "events", "--field-selector", "involvedObject.name=outside",
            "--output", "jsonpath={.items[*].message}",
        ).stdout  # fmt: skip

    wait_until("MetalLB says no", lambda: "172.16.20.200" in events())
    assert "not allowed" in events()
    assert not get(world, "service", "outside")["status"]["loadBalancer"].get("ingress")
    world.run("kubectl", "delete", "service", "outside")


def test_metallbs_webhook_refuses_a_pool_that_overlaps(world: World) -> None:
    pool = {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": {"name": "overlap", "namespace": "metallb-system"},
        "spec": {"addresses": ["172.16.20.140-172.16.20.160"]},
    }
    file = world.state / "overlap.json"
    file.write_text(json.dumps(pool))
    refused = world.run("kubectl", "apply", "--filename", str(file), code=None)
    assert refused.returncode != 0
    assert "overlaps with already defined CIDR" in refused.stderr


def test_the_ingress_answers_https_with_the_platforms_certificate(world: World) -> None:
    host = "traefik.platform.example.com"
    # The world trusts the authority that stands in for Let's Encrypt: the name is verified too.
    answer = world.run("python", "-c", ASK.format(address=INGRESS, host=host)).stdout
    assert answer.startswith(("HTTP/1.0 200", "HTTP/1.1 200"))
    assert "not from Traefik" in answer
    other = world.run("python", "-c", ASK.format(address=INGRESS, host="example.org"), code=None)
    assert "CERTIFICATE_VERIFY_FAILED" in other.stderr


def test_kubelets_have_certificates_of_the_cluster_and_metrics_are_read(world: World) -> None:
    requests = get(world, "certificatesigningrequests")["items"]
    serving = [one for one in requests if one["spec"]["signerName"].endswith("kubelet-serving")]
    assert {one["spec"]["username"] for one in serving} == {
        "system:node:node01",
        "system:node:node02",
        "system:node:node03",
    }
    service = get(world, "apiservice", "v1beta1.metrics.k8s.io")
    assert not service["spec"].get("insecureSkipTLSVerify")
    assert service["spec"]["caBundle"]
    wait_until(
        "the nodes have metrics",
        lambda: (
            world.run("kubectl", "top", "nodes", "--no-headers", code=None).stdout.count("node0")
            == 3
        ),
    )


def test_the_example_application_is_accepted_and_its_autoscaler_acts(world: World) -> None:
    world.run("kubectl", "apply", "--kustomize", "apps/overlays/prod/podinfo")
    found = get(world, "horizontalpodautoscalers", "--all-namespaces")["items"]
    (scaler,) = [one for one in found if one["metadata"]["name"] == "podinfo"]
    namespace = str(scaler["metadata"]["namespace"])

    def replicas() -> int:
        deployment = get(world, "deployment", "podinfo", "--namespace", namespace)
        return int(deployment["status"].get("readyReplicas", 0))

    wait_until("the application runs", lambda: replicas() >= scaler["spec"]["minReplicas"])
    before = replicas()
    world.run(
        "kubectl", "annotate", "pods", "--all", "--namespace", namespace,
        "lab.platform/cpu=2", "--overwrite",
    )  # fmt: skip
    wait_until("the autoscaler adds pods", lambda: replicas() > before, poll=2)
    world.run("kubectl", "delete", "--kustomize", "apps/overlays/prod/podinfo", "--wait=false")


def test_talos_gives_the_backup_credentials_that_can_only_read_snapshots(world: World) -> None:
    secret = get(world, "secret", "talos-credentials", "--namespace", "platform-backup")
    assert list(secret["data"]) == ["config"]
    job = get(world, "cronjob", "etcd-backup", "--namespace", "platform-backup")
    assert job["spec"]["schedule"] == "0 * * * *"


def test_a_backup_job_leaves_an_encrypted_snapshot_in_the_bucket(world: World) -> None:
    place = ("--namespace", "platform-backup")
    world.run("kubectl", "create", "job", *place, "--from=cronjob/etcd-backup", "now")
    world.run("kubectl", "wait", *place, "--for=condition=Complete", "--timeout=3m", "job/now")
    said = world.run("kubectl", "logs", *place, "job/now").stdout
    world.run("kubectl", "delete", "job", *place, "now")
    (key,) = re.findall(r"uploaded (prod/prod-[0-9TZ:-]+\.snap\.age)$", said.strip())
    stored = (world.state / "storage" / "platform-prod-etcd" / key).read_bytes()
    assert stored.startswith(b"age-encryption.org/v1\n-> X25519 ")
    assert len(stored) > 1 << 20, "a snapshot of etcd is larger than a mebibyte"


def test_what_argo_cd_changes_of_itself_is_no_change_for_the_program(world: World) -> None:
    world.run(
        "kubectl", "annotate", "deployments", "--all", "--namespace", "argocd",
        "argocd.argoproj.io/tracking-id=argo-cd:apps/Deployment:argocd/x", "--overwrite",
        "--field-manager=argocd-controller",  # Argo CD signs so; a person as kubectl
    )  # fmt: skip
    world.run("pulumi", "preview", "--refresh", "--expect-no-changes", "--non-interactive")


def test_talos_own_upgrade_to_the_same_kubernetes_finds_nothing_to_move(world: World) -> None:
    to = ("--from", KUBERNETES, "--to", KUBERNETES, "--with-docs=false", "--with-examples=false")
    said = world.run("talosctl", "--nodes", NODE01, "upgrade-k8s", *to).stdout
    assert '"172.16.20.53": successfully updated' in said
    assert "update kube-apiserver" not in said, "something was moved"
    world.expect_no_changes()


def test_another_kubernetes_is_refused_before_anything_is_touched(
    world: World, edit: Callable[[str, str], None]
) -> None:
    def refused(old: str, new: str) -> str:
        edit(f"    version: {old}\n", f"    version: {new}\n")
        up = world.up(code=1)
        return up.stdout + up.stderr

    said = refused(KUBERNETES, "1.33.5")
    assert f"{KUBERNETES} runs already on node01, node02, node03" in said, said
    said = refused("1.33.5", "1.34.9")  # a release that the lab's registry does not have
    assert "kube-apiserver:v1.34.9: not found" in said, said
    assert f"Nothing was upgraded. Fix the reason, or set {KUBERNETES} again" in said

    # An API version that is served on request until 1.34, and in 1.35 no longer.
    one = ("kubectl", "--server", f"https://{NODE01}:6443")
    serve = {"extraArgs": {"runtime-config": "storage.k8s.io/v1alpha1=true"}}
    patch_api_server(world, serve)
    file = world.state / "class.yaml"
    file.write_text(OLD_CLASS)
    wait_until(
        "the old API is served",
        lambda: world.run(*one, "create", "-f", str(file), code=None).returncode == 0,
    )
    said = refused("1.34.9", "1.35.6")
    assert (
        "Kubernetes 1.35 no longer serves storage.k8s.io/v1alpha1 volumeattributesclasses" in said
    )
    assert "gold (written by kubectl-create), requests to node01" in said
    assert "write storage.k8s.io/v1 instead" in said
    nodes = json.loads(world.run("kubectl", "get", "nodes", "-o", "json").stdout)["items"]
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes}
    assert versions == {f"v{KUBERNETES}"}
    world.run("kubectl", "delete", "volumeattributesclass", "gold")
    patch_api_server(world, {"extraArgs": {"$patch": "delete"}})


def patch_api_server(world: World, section: dict[str, Any]) -> None:
    patch = json.dumps({"cluster": {"apiServer": section}})
    world.run("talosctl", "--nodes", NODE01, "patch", "machineconfig", "--patch", patch)


def test_one_value_of_traefik_shows_and_changes_exactly_one_resource(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(TRAEFIK, f"{TRAEFIK}\n      replicas: 2")
    changed = world.preview()
    assert list(changed) == ["Release traefik"]
    assert changed["Release traefik"]["op"] == "update"
    assert list(changed["Release traefik"]["detailedDiff"]) == ["values.deployment.replicas"]
    assert re.search(r"1 updated", world.up().stdout)
    assert workloads(world)["traefik/traefik"] == (2, 2)
    world.expect_no_changes()


def test_a_layer_is_changed_by_the_reviewed_plan(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(TRAEFIK, f"{TRAEFIK}\n      replicas: 2")
    make(world, "preview")
    done = make(world, "apply-plan").stdout
    assert re.findall(r"~ +\S+ (\S+) updated", done) == ["traefik"], done
    assert workloads(world)["traefik/traefik"] == (2, 2)
    world.expect_no_changes()


def test_removing_one_layer_takes_it_away_cleanly_while_the_rest_runs(
    world: World, edit: Callable[[str, str], None]
) -> None:
    before = workloads(world)
    edit("    metricsServer: {}\n", "")
    make(world, "preview", "apply-plan")
    left = workloads(world)
    gone = {name for name in before if name not in left}
    assert gone == {
        "kubelet-serving-cert-approver/kubelet-serving-cert-approver",
        "metrics-server/metrics-server",
    }
    assert {name: pair for name, pair in left.items() if pair[0] != pair[1]} == {}
    world.run("kubectl", "get", "apiservice", "v1beta1.metrics.k8s.io", code=1)
    world.run("kubectl", "get", "namespace", "metrics-server", code=1)
    world.expect_no_changes()


@pytest.mark.parametrize(
    "urn",
    [
        "platform:kubernetes:Traefik$kubernetes:core/v1:Secret::traefik/dashboard-user",
        "platform:kubernetes:Traefik$kubernetes:core/v1:Namespace::traefik",
        "platform:kubernetes:MetalLB$kubernetes:metallb.io/v1beta1:IPAddressPool::pool-default",
    ],
)
def test_an_object_that_a_killed_run_made_is_taken_over(world: World, urn: str) -> None:
    urn = f"urn:pulumi:prod::platform::{urn}"
    # As a run leaves it that is killed between the object and the state.
    world.run("pulumi", "state", "delete", urn, "--yes", "--force", "--target-dependents")
    world.up()
    world.expect_no_changes()


@pytest.fixture(scope="module")
def secrets(world: World) -> dict[str, str]:
    """Give every secret text, as long as there is a cluster to ask."""
    found = secret_values(world)
    assert any(name.startswith("Secret traefik/") for name in found.values())
    return found


SECRET_TYPE = "kubernetes:core/v1:Secret"  # noqa: S105 no secret, a type
PULUMI = ("pulumi", "--non-interactive", "--color", "never")
COMMANDS: dict[str, tuple[str, ...]] = {
    "up": (*PULUMI, "up", "--yes", "--diff"),
    "preview": (*PULUMI, "preview", "--diff", "--show-sames"),
    "preview as JSON": (*PULUMI, "preview", "--json", "--show-sames"),
    "plan": (*PULUMI, "preview", "--save-plan", "STATE/a-plan.json"),
    "preview of a refresh": (*PULUMI, "refresh", "--preview-only", "--diff"),
    "the same as JSON": (*PULUMI, "refresh", "--preview-only", "--json", "--show-sames"),
    "refresh": (*PULUMI, "refresh", "--yes", "--diff"),
    "preview that refreshes": (*PULUMI, "preview", "--refresh", "--diff"),
    "preview after a refresh": ("make", "preview", "explain", "OUT=STATE/out"),
    "stack": (*PULUMI, "stack", "--show-urns"),
    "outputs": (*PULUMI, "stack", "output", "--json"),
    "export": (*PULUMI, "stack", "export"),
    "history": (*PULUMI, "stack", "history", "--json", "--full-dates"),
    "configuration": (*PULUMI, "config", "--json"),
    "logs": (*PULUMI, "logs"),
    "drift": ("python", "-m", "ops", "drift"),
}


def test_no_command_leaves_a_secret_in_plain_text(world: World, secrets: dict[str, str]) -> None:
    # What kubectl keeps of an object is beside it; nothing of the platform is made that way.
    assert "last-applied-configuration" not in world.run(
        "kubectl", "get", "secrets", "--all-namespaces", "--output", "json"
    ).stdout  # fmt: skip
    said: dict[str, str] = {}
    with CommandLines() as lines:
        for name, command in COMMANDS.items():
            argv = [one.replace("STATE", str(world.state)) for one in command]
            result = world.run(*argv, code=None)
            said[name] = result.stdout + result.stderr
            assert name == "logs" or result.returncode == 0, f"{name}: {said[name]}"
    said["command lines"] = lines.text
    said["workloads"] = world.run(
        "kubectl", "get", "pods,configmaps,cronjobs", "--all-namespaces", "--output", "json"
    ).stdout
    assert left_behind(world, secrets, **said) == []
    world.expect_no_changes()


def test_a_secret_that_is_imported_is_in_no_state_in_plain_text(
    world: World, secrets: dict[str, str]
) -> None:
    value = "put-there-by-hand-and-imported"
    world.run(
        "kubectl", "create", "secret", "generic", "by-hand", "--namespace", "default",
        f"--from-literal=key={value}",
    )  # fmt: skip
    said = world.run(
        *PULUMI, "import", "--yes", "--generate-code=false", "--protect=false",
        SECRET_TYPE, "by-hand", "default/by-hand",
    )  # fmt: skip
    assert "by-hand" in world.run("pulumi", "stack", "export").stdout
    everything = {**secrets, value: "the imported one"}
    assert left_behind(world, everything, printed=said.stdout + said.stderr) == []
    # The program does not know it: the next `up` takes it away.
    assert re.search(r"1 deleted", world.up().stdout)
    assert left_behind(world, everything) == []


def test_the_search_for_secrets_finds_those_that_are_there(
    world: World, secrets: dict[str, str]
) -> None:
    own = {value: name for value, name in secrets.items() if name.startswith("the setting ")}
    assert own
    shown = world.run("pulumi", "stack", "export", "--show-secrets").stdout
    assert left_behind(world, own, shown=shown) == [
        f"{one} is in shown" for one in sorted(own.values())
    ]


def test_destroy_waits_for_nothing_inside_and_leaves_only_what_is_protected(
    world: World, secrets: dict[str, str]
) -> None:
    result = world.destroy()
    assert world.machines() == []
    assert "4 protected resources" in result.stdout + result.stderr
    left = json.loads(world.run("pulumi", "stack", "export").stdout)["deployment"]["resources"]
    kinds = {one["type"] for one in left}
    assert not any(kind.startswith("kubernetes:") for kind in kinds), kinds
    assert left_behind(world, secrets, destroy=result.stdout + result.stderr) == []
