"""Changes without the stack, the one run that tells of them all, and its fixes, executed."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ops.rehearsal.world import World, WorldError, wait_until
from tests.lab.real_programs.cluster import healthy
from tests.lab.secret_values import left_behind, secret_values
from tests.lab.simulated_programs.workloads import workloads

NODE02 = "172.16.20.52"
RENEWED = dt.timedelta(seconds=5)
"""Who acts renews its lease every two seconds."""


def drift(world: World, code: int) -> tuple[dict[str, dict[str, Any]], str]:
    """Run it; gives the findings by who, and all that was written anywhere."""
    data, comment = world.state / "drift.json", world.state / "drift.md"
    result = world.run(
        "python", "-m", "ops", "drift", "--json", str(data), "--markdown", str(comment), code=code
    )
    report = json.loads(data.read_text())
    assert f"the report: file://{comment}" in result.stdout
    assert all(f"{one['who']} {one['what']}" in result.stdout for one in report["findings"])
    text = f"{result.stdout}{result.stderr}{data.read_text()}{comment.read_text()}"
    return {one["who"]: one for one in report["findings"]}, text


def hosts(world: World) -> list[str]:
    return world.run("govc", "find", "/", "-type", "h").stdout.split()


def test_a_fresh_platform_has_no_drift(world: World) -> None:
    found, text = drift(world, 0)
    assert found == {}
    assert "no drift" in text


def test_one_run_tells_every_change_behind_the_stacks_back_and_its_owner(world: World) -> None:
    world.run("govc", "vm.change", "-vm", "node03", "-m", "20480")
    # Two control planes on one host, as HA leaves them after a host's failure.
    first, second, *_ = hosts(world)
    world.run("govc", "vm.migrate", "-host", first, "node01", "node02")
    world.run("govc", "vm.migrate", "-host", second, "node03")
    world.run(
        "talosctl", "--nodes", NODE02, "--endpoints", NODE02, "patch", "machineconfig",
        "--patch", '{"machine": {"nodeLabels": {"example.com/by-hand": "yes"}}}',
    )  # fmt: skip
    # An object of Pulumi's own.
    world.run(
        "kubectl", "label", "namespace", "traefik", "--overwrite",
        "pod-security.kubernetes.io/warn=privileged",  # the API refuses another `enforce`
    )  # fmt: skip
    # Objects that a release of Pulumi's made: one changed, one gone.
    world.run(
        "kubectl", "-n", "traefik", "patch", "deployment", "traefik", "--type", "merge",
        "--patch", '{"spec": {"minReadySeconds": 77}}',
    )  # fmt: skip
    world.run("kubectl", "-n", "metrics-server", "delete", "service", "metrics-server")
    # One whose field cannot be put back in place.
    made = json.loads(
        world.run(
            "kubectl", "-n", "metrics-server", "get", "deployment", "metrics-server", "-o", "json"
        ).stdout
    )  # fmt: skip
    made["metadata"] = {key: made["metadata"][key] for key in ("name", "namespace", "labels")}
    made["spec"]["selector"]["matchLabels"]["by-hand"] = "yes"
    made["spec"]["template"]["metadata"]["labels"]["by-hand"] = "yes"
    file = world.state / "by-hand.json"
    file.write_text(json.dumps(made))
    world.run("kubectl", "replace", "--force", "-f", str(file))
    # What somebody put on nodes.
    world.run("kubectl", "label", "node", "node01", "example.com/by-hand=yes")
    world.run("kubectl", "taint", "node", "node01", "example.com/by-hand=yes:NoSchedule")
    world.run("kubectl", "cordon", "node03")
    # What nobody declared, on objects of a release and of Pulumi's own.
    world.run("kubectl", "-n", "cert-manager", "set", "env", "deployment/cert-manager", "HAND=1")
    world.run("kubectl", "label", "namespace", "cert-manager", "example.com/by-hand=yes")
    # A policy that is opened to everybody, and a Secret's value.
    world.run(
        "kubectl", "-n", "argocd", "patch", "networkpolicy", "applicationset", "--type", "json",
        "--patch", '[{"op": "remove", "path": "/spec/ingress/0/from"}]',
    )  # fmt: skip
    world.run(
        "kubectl", "-n", "traefik", "patch", "secret", "dashboard-user", "--type", "merge",
        "--patch", '{"stringData": {"password": "by-hand"}}',
    )  # fmt: skip
    # An object of the release that was handed to Argo CD.
    world.run(
        "kubectl", "-n", "argocd", "patch", "configmap", "argocd-cm", "--type", "merge",
        "--patch", '{"data": {"admin.enabled": "by-hand"}}',
    )  # fmt: skip
    # What Argo CD says of an Application, as its controller would; in the lab it does not sync.
    status = {
        "sync": {
            "status": "OutOfSync",
            "comparedTo": {"source": {"repoURL": "x"}, "destination": {}},
        },
        "resources": [
            {"kind": "Deployment", "namespace": "argocd", "name": "x", "status": "OutOfSync"}
        ],
    }
    world.run(
        "kubectl", "-n", "argocd", "patch", "application", "root", "--type", "merge",
        "--patch", json.dumps({"status": status}),
    )  # fmt: skip

    found, text = drift(world, 3)
    owners = {who: one["owner"] for who, one in found.items()}
    assert owners == {
        "VirtualMachine node03": "Pulumi",
        "control planes": "Pulumi",
        f"node02 ({NODE02})": "Pulumi",
        "Namespace -/traefik": "Pulumi",
        "Deployment traefik/traefik": "Pulumi",
        "Service metrics-server/metrics-server": "Pulumi",
        "Deployment metrics-server/metrics-server": "Pulumi",
        "Node node01": "Pulumi",
        "Node node02": "Pulumi",  # Talos gives its node the label, too
        "Node node03": "Pulumi",
        "Deployment cert-manager/cert-manager": "Pulumi",
        "Namespace -/cert-manager": "Pulumi",
        "NetworkPolicy argocd/applicationset": "Pulumi",
        "Secret traefik/dashboard-user": "Pulumi",
        "ConfigMap argocd/argocd-cm": "Argo CD",
        "Application argocd/root": "Argo CD",
    }
    memory = {one["where"]: one for one in found["VirtualMachine node03"]["fields"]}["memory"]
    assert (memory["wanted"], memory["found"]) == ("16384", "20480")
    assert "node01, node02 run on one host" in found["control planes"]["what"]
    labels = found[f"node02 ({NODE02})"]["fields"]
    assert any("nodeLabels" in one["where"] and "by-hand" in str(one) for one in labels)
    node01 = {one["where"]: one["found"] for one in found["Node node01"]["fields"]}
    assert node01 == {
        'metadata.labels["example.com/by-hand"]': "yes",
        "spec.taints.example.com/by-hand": "yes:NoSchedule",
    }
    (env,) = found["Deployment cert-manager/cert-manager"]["fields"]
    assert (env["wanted"], env["found"]) == ("(nothing)", "{name: HAND, value: 1}")
    (opened,) = found["NetworkPolicy argocd/applicationset"]["fields"]
    assert (opened["where"], opened["found"]) == ("spec.ingress[0].from", "(nothing): everybody")
    assert opened["wanted"].startswith("[{")
    hidden = found["Secret traefik/dashboard-user"]["fields"]
    assert {one["where"] for one in hidden} == {"stringData", "data"}
    assert {one["found"] for one in hidden} == {"(secret, changed)"}
    assert found["Service metrics-server/metrics-server"]["what"].startswith("gone")
    assert left_behind(world, secret_values(world), report=text) == []
    assert text.count("<!-- platform-drift -->") == 1


def test_the_fixes_that_the_report_names_put_everything_back(world: World) -> None:
    found, _ = drift(world, 3)
    for name, host in zip(("node01", "node02", "node03"), hosts(world), strict=False):
        world.run("govc", "vm.migrate", "-host", host, name)
    world.run("pulumi", "up", "--refresh", "--yes", "--skip-preview", "--non-interactive")
    for who, one in found.items():
        if one["fix"].startswith("`") and "pulumi up --refresh" not in one["fix"]:
            command = one["fix"].split("`")[1]
            assert command, who
            shell = command.replace("pulumi up", "pulumi up --yes --skip-preview --non-interactive")
            world.run("bash", "-euo", "pipefail", "-c", shell)
    world.run(
        "kubectl", "-n", "argocd", "patch", "application", "root", "--type", "merge",
        "--patch", '{"status": {"sync": {"status": "Synced"}}}',
    )  # fmt: skip
    drift(world, 0)
    world.expect_no_changes()


def test_two_machines_that_are_off_are_named_and_nothing_advises_to_change_the_state(
    world: World,
) -> None:
    with off(world, "node02", "node03"):
        result = world.run("make", "drift", code=2)
        said = result.stdout + result.stderr
        assert "2 of 3 control planes do not answer" in said
        assert "node02 (172.16.20.52)" in said
        assert "node03 (172.16.20.53)" in said
        assert "docs/procedures/lost-quorum.md" in said
        assert "UNREACHABLE" not in said
        assert len(said.splitlines()) < 20, said
        # An `up` that asks nobody does not see it: docs/operations.md says so.
        preview = world.run("pulumi", "preview", "--non-interactive").stdout
        assert re.search(r"\d+ unchanged", preview)


@contextmanager
def off(world: World, *names: str) -> Iterator[None]:
    """Switch machines off; in the end they run again, and so does what runs on them."""
    for name in names:
        world.run("govc", "vm.power", "-off", name)
    try:
        yield
    finally:
        for name in names:
            world.run("govc", "vm.power", "-on", name)
        wait_until("all machines to be healthy again", lambda: healthy(world))
        wait_until("the controllers to act again", lambda: controllers_act(world))
        wait_until("every workload to be ready", lambda: all_ready(world))


def controllers_act(world: World) -> bool:
    """Say whether the controllers and the scheduler have renewed their leases just now."""
    got = world.run("kubectl", "get", "leases", "-n", "kube-system", "-o", "json", code=None)
    renewed = {
        one["metadata"]["name"]: dt.datetime.fromisoformat(one["spec"]["renewTime"])
        for one in (json.loads(got.stdout)["items"] if got.stdout else ())
    }
    now, long_ago = dt.datetime.now(dt.UTC), dt.datetime.min.replace(tzinfo=dt.UTC)
    return all(
        now - renewed.get(name, long_ago) < RENEWED
        for name in ("kube-controller-manager", "kube-scheduler")
    )


def all_ready(world: World) -> bool:
    """Say whether every workload has the ready pods that it shall have; no answer is a no."""
    try:
        return all(ready == wanted for ready, wanted in workloads(world).values())
    except WorldError:
        return False
