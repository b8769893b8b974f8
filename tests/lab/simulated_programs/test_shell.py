"""What one types in the lab's shell works, or one sentence says what the lab does instead.

Every subcommand of talosctl and kubectl is in a table here; one that their help lists and the table
does not know fails. The last tests lose a machine of the state and import it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops.rehearsal.world import PROJECT, Result, World

SENTENCE = "not in the lab: "
"""How every answer begins of what the lab does not do (lab/internal/simulated)."""
SAYS = re.compile(r" # says (?P<codes>[\d|]+)$")
"""Ends a line whose command is to answer with the sentence, and tells its exit code: that of the
real program whose server refuses. All other lines are to end with 0."""
NODE01 = "172.16.20.51"
DOMAIN = "platform.example.com"

KUBECTL: Mapping[str, str] = {
    "annotate": "kubectl annotate namespace typed note=one",
    "api-resources": "kubectl api-resources",
    "api-versions": "kubectl api-versions",
    "apply": "kubectl create configmap a -n typed --dry-run=client -o yaml | kubectl apply -f -",
    "attach": "kubectl attach -n traefik deployment/traefik # says 1",
    "auth": "kubectl auth can-i get pods",
    "autoscale": "kubectl autoscale -n typed deployment web --max=3",
    "certificate": "kubectl certificate --help",
    "cluster-info": "kubectl cluster-info",
    "completion": "kubectl completion bash",
    "config": "kubectl config get-contexts",
    "cordon": "kubectl cordon node03",
    "cp": "kubectl cp -n argocd $(kubectl get pod -n argocd -o name | "
    "head -n 1 | cut -d/ -f2):/etc/hosts $LAB_WORLD/private/hosts.copy # says 1",
    "create": "kubectl create namespace typed && kubectl create "
    "deployment web -n typed --image=nginx",
    "debug": "kubectl debug -n typed -i --image=busybox "
    "$(kubectl get pod -n typed -l app=web -o name | head -n 1) -- sh # says 1",
    "delete": "kubectl delete namespace typed --wait=false",
    "describe": "kubectl describe node node01",
    "diff": "kubectl get configmap a -n typed -o yaml | kubectl diff -f -",
    "drain": "kubectl drain node03 --ignore-daemonsets "
    "--delete-emptydir-data --force --dry-run=server",
    "edit": "KUBE_EDITOR=true kubectl edit configmap a -n typed",
    "events": "kubectl events -n typed",
    "exec": "kubectl exec -n traefik deployment/traefik -- ls # says 1",
    "explain": "kubectl explain pods",
    "expose": "kubectl expose -n typed deployment web --port=80",
    "get": "kubectl get nodes,pods --all-namespaces",
    "kustomize": "kubectl kustomize platform",
    "label": "kubectl label namespace typed name=one",
    "logs": "kubectl logs -n traefik deployment/traefik # says 1",
    "patch": "kubectl patch configmap a -n typed -p '{\"data\": {\"a\": \"b\"}}'",
    "plugin": "kubectl plugin --help",
    "port-forward": "kubectl port-forward -n traefik service/traefik 8080:80 & "
    "sleep 3; python -c 'import socket; "
    "socket.create_connection((\"127.0.0.1\", 8080)).recv(1)'; wait $! # says 1",
    "proxy": "timeout 3 kubectl proxy --port=0; [ $? = 124 ]",
    "replace": "kubectl get configmap a -n typed -o yaml | kubectl replace -f -",
    "rollout": "kubectl rollout status -n traefik deployment/traefik",
    "run": "kubectl run -n typed once --image=nginx",
    "scale": "kubectl scale -n typed deployment web --replicas=2",
    "set": "kubectl set image -n typed deployment/web nginx=nginx:2",
    "taint": "kubectl taint node node03 typed=yes:NoSchedule && kubectl taint node node03 typed-",
    "top": "kubectl top nodes",
    "uncordon": "kubectl uncordon node03",
    "version": "kubectl version",
    "wait": "kubectl wait -n typed --for=condition=Available deployment/web",
}  # fmt: skip
FIRST_KUBECTL = ("create", "apply", "cordon")
"""What others stand on; `delete` comes last."""

T = f"talosctl -n {NODE01} "
TALOSCTL: Mapping[str, str] = {
    "apply-config": T + "apply-config --dry-run --file $LAB_WORLD/private/machine.yaml",
    "bootstrap": T + "bootstrap 2>&1 | grep 'data directory is not empty'",
    "cgroups": T + "cgroups --preset=cpu # says 1",
    "cluster": "talosctl cluster show # says 1",
    "completion": "talosctl completion bash",
    "config": "talosctl config info",
    "conformance": "talosctl conformance kubernetes # says 1",
    "containers": T + "containers && " + T + "containers --kubernetes",
    "copy": T + "copy /etc $LAB_WORLD/private/copied && "
    "test -s $LAB_WORLD/private/copied/os-release",
    "dashboard": "python -c \"import pty; pty.spawn(['timeout', '5', 'talosctl', '-n', '"
    + NODE01
    + "', 'dashboard'])\"",
    # Without a terminal talosctl itself ends with 0 if the refusal comes before its input's end.
    "debug": T + "debug docker.io/library/busybox:latest # says 0|1",
    "dmesg": T + "dmesg | grep 'service\\[etcd\\](Running)'",
    "edit": "EDITOR=true " + T + "edit machineconfig",
    "etcd": T + "etcd members && " + T + "etcd status && " + T + "etcd "
    "defrag && " + T + "etcd alarm disarm",
    "events": T + "events --tail 1 & sleep 3; kill $!",
    "gen": "talosctl gen key --name $LAB_WORLD/private/typed",
    "get": T + "get members && " + T + "get machinestatus && " + T + "get disks && " + T + "get rd",
    "health": T + "health --server=false --wait-timeout 60s",
    "image": T + "image list && talosctl image --help",
    "inject": "talosctl inject serviceaccount --help",
    "inspect": T + "inspect dependencies # says 1",
    "kubeconfig": T + "kubeconfig --merge=false --force $LAB_WORLD/private/typed-kubeconfig",
    "list": T + "list /var/lib/etcd && " + T + "ls -l -r /etc",
    "logs": T + "logs kubelet --tail 1 && " + T + "logs etcd --tail 1",
    "machineconfig": "talosctl machineconfig --help",
    "memory": T + "memory",
    "meta": T + "meta write 0xc typed && " + T + "meta delete 0xc",
    "mounts": T + "mounts",
    "netstat": T + "netstat --listening --programs | grep 2379",
    "patch": T + "patch machineconfig --dry-run --patch '{\"machine\": "
    "{\"sysctls\": {\"vm.swappiness\": \"10\"}}}'",
    "pcap": T + "pcap --interface eth0 --duration 2s # says 1",
    "processes": T + "processes | grep kube-apiserver",
    "read": T + "read /etc/os-release | grep Talos",
    "reboot": T + "reboot --help",
    "reset": T + "reset --help",
    "restart": T + "restart kubelet # says 1",
    "rollback": T + "rollback --help",
    "rotate-ca": T + "rotate-ca --help",
    "service": T + "service && " + T + "service etcd",
    "shutdown": T + "shutdown --help",
    "stats": T + "stats && " + T + "stats --kubernetes",
    "support": T + "support && ls $LAB_WORLD/support-*.zip",
    "time": T + "time",
    "upgrade": T + "upgrade --help",
    "upgrade-k8s": T + "upgrade-k8s --help",
    "usage": T + "usage /var/lib/etcd",
    "validate": "talosctl validate --config $LAB_WORLD/private/machine.yaml --mode cloud",
    "version": T + "version",
    "wipe": T + "wipe disk sdb # says 1",
}  # fmt: skip
"""What restarts machines is executed by test_talosctl.py and by the pages of docs/procedures."""

OTHERS = (
    T + "get links",
    T + "get mountstatus # says 1",
    T + "logs trustd # says 1",
    "argocd app list # says 1",
    "cilium status # says 1",
    "hubble observe # says 1",
    "helm list --all-namespaces | grep cilium",
    f"curl --silent --show-error https://argocd.{DOMAIN}/ | grep 'not from Traefik'",
    f"curl --silent --show-error https://traefik.{DOMAIN}/ | grep '{SENTENCE}'",
    f"curl --silent --show-error https://hubble.{DOMAIN}/ | grep '{SENTENCE}'",
    "curl --silent --show-error --output /dev/null https://vcenter.example.internal/",
    "curl --silent --show-error --output /dev/null https://factory.talos.dev/",
    "kubectl logs -n kube-system kube-apiserver-node01 --tail=1",
    "kubectl logs -n metallb-system -l app.kubernetes.io/component=controller --tail=1",
    "kubectl exec -n kube-system kube-apiserver-node01 -- ls # says 1",
)


def typed(world: World, line: str) -> Result:
    """Run a line as it is typed, and demand what the line itself says of its end."""
    says = SAYS.search(line)
    result = world.run("timeout", "60", "bash", "-c", SAYS.sub("", line), code=None)
    output = result.stdout + result.stderr
    codes = {0} if says is None else {int(code) for code in says["codes"].split("|")}
    told = f"{line}\n{result.returncode}\n{output}"
    assert result.returncode in codes, told
    assert says is None or SENTENCE in output, told
    return result


def listed(help_text: str) -> set[str]:
    """Give the subcommands that a program's help lists."""
    return set(re.findall(r"^  ([a-z][a-z0-9-]*) {2,}\S", help_text, re.MULTILINE)) - {"help"}


@pytest.fixture(scope="module", autouse=True)
def _unchanged_tree(world: World) -> None:
    """Write what lines need; the tree is held against its state at the end."""
    text = world.run(
        "talosctl", "-n", NODE01, "get", "machineconfig", "-o", "jsonpath={.spec}"
    ).stdout
    (world.state / "private").mkdir(mode=0o700, exist_ok=True)
    (world.state / "private" / "machine.yaml").write_text(text)


def test_the_table_knows_every_subcommand(world: World) -> None:
    for program, table in (("kubectl", KUBECTL), ("talosctl", TALOSCTL)):
        assert listed(world.run(program, "--help").stdout) == set(table), program


def test_kubectl_works_or_says_what_is_simulated(world: World) -> None:
    ordered = [*FIRST_KUBECTL, *(one for one in KUBECTL if one not in (*FIRST_KUBECTL, "delete"))]
    walk(world, [KUBECTL[one] for one in (*ordered, "delete")])


def test_talosctl_works_or_says_what_is_simulated(world: World) -> None:
    walk(world, list(TALOSCTL.values()))


def test_what_else_is_typed_works_or_says_what_is_simulated(world: World) -> None:
    walk(world, OTHERS)


def walk(world: World, lines: object) -> None:
    """Type all lines; tell of all that ended otherwise."""
    wrong = []
    assert isinstance(lines, list | tuple)
    before = tree()
    for line in lines:
        try:
            typed(world, line)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n\n".join(wrong)
    assert tree() == before


def tree() -> set[Path]:
    """Give the files of the working tree, without what the lab and the tools keep there."""
    kept = {".lab", ".venv", ".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    return {one for one in PROJECT.rglob("*") if not kept & set(one.relative_to(PROJECT).parts)}


def urn_of(world: World, kind: str, name: str) -> str:
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    (urn,) = (
        one["urn"]
        for one in state["deployment"]["resources"]
        if one["type"] == kind and one["urn"].endswith(f"::{name}")
    )
    return str(urn)


def uuid_of(world: World, urn: str) -> str:
    """Give the id of a machine in vCenter, which another machine does not have."""
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    (found,) = (one["id"] for one in state["deployment"]["resources"] if one["urn"] == urn)
    return str(found)


@pytest.mark.campaign
def test_a_machine_that_the_state_lost_is_imported_by_the_messages_own_command(
    world: World,
) -> None:
    kind = "vsphere:index/virtualMachine:VirtualMachine"
    urn = urn_of(world, kind, "node03")
    uuid = uuid_of(world, urn)
    world.run("pulumi", "state", "delete", urn, "--target-dependents", "--yes")
    # As one that was restored from an image backup: off, and full of what it held.
    world.run("govc", "vm.power", "-off", "-force", "node03")
    refused = world.up(code=None)
    assert "it may hold something: it is off, and was switched on by" in (
        refused.stdout + refused.stderr
    )
    assert world.run("govc", "find", "/", "-type", "m", "-name", "node03").stdout
    (command,) = set(re.findall(r"`(pulumi import [^`]*)`", refused.stdout + refused.stderr))
    with_code = [*shlex.split(command.replace(" --generate-code=false", "")), "--yes"]
    printed = world.run(*with_code, "--non-interactive").stdout
    assert 'VirtualMachine("node03"' in printed
    assert urn_of(world, kind, "node03") == urn
    # The next `up` leaves the machine, and what is on its disk, as they are.
    steps = json.loads(world.run("pulumi", "preview", "--json", "--non-interactive").stdout)[
        "steps"
    ]
    assert {step["op"] for step in steps if step["urn"] == urn} <= {"same", "update"}
    world.up()
    world.expect_no_changes()
    assert uuid_of(world, urn) == uuid
