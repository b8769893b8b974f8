"""What counts as drift, and whose it is, without a cluster."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients.backup_storage import Kept, StorageError
from clients.kubernetes_api import InvalidError
from clients.talosctl import Talosctl, TalosctlError, Volume
from clients.waiting import Result
from components.talos import redaction
from ops.deploy.repair import Site
from ops.drift import backups, cluster, hosts, machines, nodes, state
from ops.drift.command import main
from ops.drift.finding import DriftError, Field, Finding
from ops.drift.ownership import Thing, owner_of
from ops.drift.report import MARKER, Report, markdown
from ops.drift.undeclared import ADDED, LAST_APPLIED, removal, undeclared
from ops.engine.preview import Preview
from ops.engine.values import SECRET, SIGNATURE, revealed
from ops.restore.stack import Stack

VM = "vsphere:index/virtualMachine:VirtualMachine"
APPLY = "talos:machine/configurationApply:ConfigurationApply"
GATE = "platform:index:Gate"
URN = f"urn:pulumi:prod::platform::{APPLY}::node01"


def refreshed(op: str, kind: str, old: Any, new: Any, paths: tuple[str, ...] = ()) -> list[Finding]:
    step = {
        "op": op,
        "urn": f"urn:pulumi:prod::platform::{kind}::it",
        "oldState": {"type": kind, **old},
        "newState": {"type": kind, **new} if new else None,
        "detailedDiff": {path: {"kind": "update"} for path in paths},
    }
    return list(state.findings(Preview.of(json.dumps({"config": {}, "steps": [step]}))))


# What a refresh sees.


def test_a_changed_input_is_told_with_both_values() -> None:
    (found,) = refreshed("update", VM, {"inputs": {"memory": 1}}, {"inputs": {"memory": 2}})
    assert found.fields == (Field(where="memory", wanted="1", found="2"),)
    assert (found.place, found.owner) == ("vCenter", "Pulumi")


def test_how_a_machine_is_at_the_moment_is_no_drift() -> None:
    old, new = ({"outputs": {"powerState": one, "changeVersion": one}} for one in ("a", "b"))
    assert refreshed("update", VM, old, new) == []


RULE = "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule"


@pytest.fixture
def on_hosts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Give the findings of machines on these hosts, all of them in one rule."""

    def look(*places: str, rule: str = "controlplanes-apart") -> list[Finding]:
        names = [f"node0{number}" for number, _ in enumerate(places)]
        where = dict(zip(names, places, strict=True))
        prefix = "urn:pulumi:prod::platform::"
        resources: list[dict[str, Any]] = [
            {"type": VM, "urn": f"{prefix}{VM}::{name}", "id": name} for name in names
        ]
        inputs = {"virtualMachineIds": names}
        resources.append({"type": RULE, "urn": f"{prefix}{RULE}::{rule}", "inputs": inputs})
        site = SimpleNamespace(vcenter="vcenter", password="of-the-test")  # noqa: S106 the test's
        monkeypatch.setattr(Site, "of_stack", lambda: site)
        monkeypatch.setattr(hosts, "connected", lambda *_: nullcontext())
        monkeypatch.setattr(hosts, "host_of", lambda _, uuid: where[uuid])
        return list(hosts.findings(resources))

    return look


def test_control_planes_that_share_a_host_are_drift(
    on_hosts: Callable[..., list[Finding]],
) -> None:
    (found,) = on_hosts("host-1", "host-2", "host-1")
    assert "node00, node02 run on one host, host-1" in found.what
    assert "govc vm.migrate" in found.fix
    assert on_hosts("host-1", "host-2", "host-3") == []


def test_machines_that_no_rule_keeps_apart_may_share_a_host(
    on_hosts: Callable[..., list[Finding]],
) -> None:
    assert on_hosts("host-1", "host-1", rule="workers-apart") == []


def test_a_thing_that_is_gone_is_told() -> None:
    (found,) = refreshed("delete", VM, {"inputs": {}}, None)
    assert found.what == "gone"


def test_what_only_the_server_counts_is_no_drift() -> None:
    kind = "kubernetes:core/v1:ConfigMap"
    old, new = (
        {"inputs": {"metadata": {"name": "a", "namespace": "traefik", "resourceVersion": one}}}
        for one in ("1", "2")
    )
    assert refreshed("update", kind, old, new) == []


@pytest.mark.parametrize(
    ("thing", "owner"),
    [
        (Thing("", "Namespace", "-", "traefik"), "Pulumi"),
        (Thing("", "Namespace", "-", "app-podinfo"), "Argo CD"),
        (Thing("apps", "Deployment", "app-podinfo", "podinfo"), "Argo CD"),
        (Thing("helm.sh", "Release", "argocd", "argo-cd"), "Argo CD"),
        (Thing("helm.sh", "Release", "traefik", "traefik"), "Pulumi"),
        (Thing("argoproj.io", "Application", "argocd", "root"), "Pulumi"),
    ],
)
def test_the_owner_is_the_one_of_the_table(thing: Thing, owner: str) -> None:
    assert owner_of(thing) == owner


def test_an_object_that_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(DriftError, match="Gizmo default/it"):
        owner_of(Thing("example.com", "Gizmo", "default", "it"))


# Machines.


class Machine:
    """A machine that answers as it is told to."""

    def __init__(
        self,
        text: str | None,
        *,
        maintenance: bool = False,
        runs: str = "v1.13.9",
        schematic: str = "",
        volumes: dict[str, Volume] | None = None,
    ) -> None:
        self.text, self.maintenance, self.runs = text, maintenance, runs
        self.of, self.made = schematic, volumes

    def volumes(self, _: str) -> dict[str, Volume]:
        assert self.made is not None, "a machine without data disks was asked"
        return self.made

    def schematic(self, _: str) -> str:
        return self.of

    def version(self, _: str) -> str:
        return self.runs

    def in_maintenance(self, _: str) -> bool:
        return self.maintenance

    def configuration(self, address: str) -> str:
        if self.text is None:
            raise TalosctlError(f"{address}:50000: connection refused")
        return self.text


SECRETS = {"token": "a-machine-token"}
APPLIED = "machine: {token: a-machine-token, nodeLabels: {a: b}}"


INSTALLED = "machine: {install: {image: factory.talos.dev/vmware-installer/abc:v1.13.9}}"


def asked(machine: Machine, fields: Any = None, applied: str = APPLIED) -> list[Finding]:
    wanted = redaction.fields(applied, SECRETS) if fields is None else fields
    resources = [
        {"urn": URN, "type": APPLY, "inputs": {"node": "172.16.20.51"}},
        {
            "urn": f"urn:pulumi:prod::platform::{GATE}::node01-healthy",
            "type": GATE,
            "inputs": {"fields": wanted},
        },
    ]
    return list(machines.findings(machines.of_state(resources), SECRETS, machine))  # type: ignore[arg-type]


def test_a_machine_as_it_was_configured_has_no_drift() -> None:
    assert asked(Machine(APPLIED)) == []


def test_a_label_set_by_hand_is_told_with_the_command_that_fixes_it() -> None:
    (found,) = asked(Machine(APPLIED.replace("a: b", "a: c")))
    assert [(one.wanted, one.found) for one in found.fields] == [("b", "c")]
    assert f"pulumi up --target-replace '{URN}'" in found.fix


def test_a_changed_token_is_told_and_never_shown() -> None:
    (found,) = asked(Machine(APPLIED.replace("a-machine-token", "another-token")))
    text = found.model_dump_json()
    assert "(secret, changed)" in text
    assert "another-token" not in text
    assert "a-machine-token" not in text


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine(None), "does not answer: 172.16.20.51:50000: connection refused"),
        (Machine(None, maintenance=True), "waits in maintenance mode"),
    ],
)
def test_a_machine_that_cannot_be_compared_is_told(machine: Machine, says: str) -> None:
    (found,) = asked(machine)
    assert says in found.what


def test_a_state_that_does_not_know_what_was_applied_is_told() -> None:
    (found,) = asked(Machine(APPLIED), fields="unknown")
    assert "cannot be compared" in found.what


def test_a_data_disk_whose_volume_is_not_ready_is_told_with_talos_words() -> None:
    applied = f"{APPLIED}\n---\napiVersion: v1alpha1\nkind: UserVolumeConfig\nname: data"
    ready, size = Volume("ready", "", 50 << 30), 50 << 30
    assert asked(Machine(applied, volumes={"u-data": ready}), applied=applied) == []
    failed = Volume("failed", "no disks matched selector for volume", size)
    (found,) = asked(Machine(applied, volumes={"u-data": failed}), applied=applied)
    (one,) = found.fields
    assert (one.where, one.wanted) == ("volume data", "ready")
    assert one.found == "failed no disks matched selector for volume"


def test_a_machine_that_runs_another_talos_than_it_was_configured_for_is_told() -> None:
    (found,) = asked(Machine(INSTALLED, runs="v1.13.8"), applied=INSTALLED)
    assert found.fields == (Field(where="Talos", wanted="v1.13.9", found="v1.13.8"),)
    assert "docs/procedures/upgrade-talos.md" in found.fix


def test_a_machine_that_runs_the_talos_it_was_configured_for_has_no_drift() -> None:
    assert asked(Machine(INSTALLED), applied=INSTALLED) == []


def test_a_machine_of_another_schematic_is_told() -> None:
    one, other = "a" * 64, "b" * 64
    applied = INSTALLED.replace("abc", one)
    (found,) = asked(Machine(applied, schematic=other), applied=applied)
    assert found.fields == (Field(where="schematic", wanted=one, found=other),)
    assert asked(Machine(applied, schematic=one), applied=applied) == []
    assert asked(Machine(applied, schematic=""), applied=applied) == []


@pytest.mark.parametrize(
    ("tail", "told"), [(":v1.13.9@sha256:00ff", 1), ("@sha256:00ff", 0), (":latest", 0)]
)
def test_the_version_is_the_one_in_the_image_s_name_if_it_has_one(tail: str, told: int) -> None:
    applied = f"machine: {{install: {{image: 'factory.talos.dev/installer/abc{tail}'}}}}"
    assert len(asked(Machine(applied, runs="v1.13.8"), applied=applied)) == told


def test_a_state_without_machine_secrets_is_refused_since_nothing_would_be_hidden() -> None:
    with pytest.raises(DriftError, match="is it the right stack"):
        machines.machine_secrets([{"urn": URN, "type": APPLY, "inputs": {}}])


VERSION = """Client:
\tTag:         v1.13.7
Server:
\tNODE:        172.16.20.51
\tTag:         v1.13.9
\tSHA:         abcdef
"""


def said(text: str) -> str:
    def run(arguments: Sequence[str], _: float) -> Result:
        assert arguments[0] == "version"
        return Result(0, text, "")

    return Talosctl(Path("talosconfig"), run, lambda _: None).version("172.16.20.51")


def test_the_version_is_the_machine_s_and_not_the_client_s() -> None:
    assert said(VERSION) == "v1.13.9"


def test_a_machine_that_does_not_say_its_version_is_an_error() -> None:
    with pytest.raises(TalosctlError, match=r"172\.16\.20\.51 does not say which Talos"):
        said(VERSION.partition("Server:")[0])


# Machines that are away.


class Silent:
    """Machines of which some give no sign of life."""

    def __init__(self, away: Sequence[str], *, maintenance: bool = False) -> None:
        self.away, self.maintenance = away, maintenance

    def machine_status(self, address: str) -> None:
        if address in self.away:
            raise TalosctlError(f"{address}:50000: No route to host")

    def in_maintenance(self, _: str) -> bool:
        return self.maintenance


def platform(*, workers: int = 0) -> list[machines.Machine]:
    types = ["controlplane"] * 3 + ["worker"] * workers
    resources: list[dict[str, Any]] = []
    for number, kind in enumerate(types, 1):
        urn = URN.replace("node01", f"node0{number}")
        fields = redaction.fields(f"machine: {{type: {kind}}}", SECRETS)
        gate = f"urn:pulumi:prod::platform::{GATE}::node0{number}-healthy"
        resources += [
            {"urn": urn, "type": APPLY, "inputs": {"node": f"172.16.20.5{number}"}},
            {"urn": gate, "type": GATE, "inputs": {"fields": fields}},
        ]
    return machines.of_state(resources)


def away(*addresses: str, workers: int = 0, maintenance: bool = False) -> str:
    known = platform(workers=workers)
    silent = machines.silent(known, Silent(addresses, maintenance=maintenance))  # type: ignore[arg-type]
    return machines.why_the_api_is_away(known, silent)


def test_two_of_three_control_planes_that_are_off_are_named_with_the_page() -> None:
    said = away("172.16.20.52", "172.16.20.53")
    assert said.startswith("2 of 3 control planes do not answer, so etcd has lost its quorum")
    assert "  node02 (172.16.20.52): 172.16.20.52:50000: No route to host\n" in said
    assert "node03 (172.16.20.53)" in said
    assert "node01" not in said
    assert "docs/procedures/lost-quorum.md" in said


def test_one_control_plane_that_is_off_is_no_lost_quorum() -> None:
    said = away("172.16.20.51", "172.16.20.54", workers=1)
    assert said.startswith("1 of 3 control planes do not answer:")
    assert "node04 (172.16.20.54)" in said
    assert "etcd has its quorum" in said
    assert "lost-quorum" not in said


def test_when_every_machine_answers_the_api_s_address_may_be_on_its_way() -> None:
    assert away().startswith("every machine answers. The API's address moves within two minutes")


def test_a_machine_that_lost_its_configuration_is_named_so() -> None:
    assert "node02 (172.16.20.52): waits in maintenance mode" in away(
        "172.16.20.52", maintenance=True
    )


# Nodes.


def node(
    labels: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    by_hand: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "node01",
            "labels": {"kubernetes.io/os": "linux", "rack": "r1", **(labels or {})},
            "annotations": {"talos.dev/owned-labels": "[]", **(annotations or {})},
            "managedFields": [{"manager": "kubectl-edit", "fieldsV1": by_hand or {}}],
        },
        "spec": {"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}], **(spec or {})},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.20.51"}]},
    }


CONFIGURED = """
machine: {type: controlplane, nodeLabels: {rack: r1}, nodeTaints: {gpu: "a:NoSchedule"}}
cluster: {allowSchedulingOnControlPlanes: true}
"""


def on_nodes(*found: Mapping[str, Any]) -> list[Finding]:
    wanted = redaction.fields(CONFIGURED, SECRETS)
    known = [machines.Machine(URN, "node01", "172.16.20.51", wanted)]
    return list(nodes.findings(Api({nodes.NODES: {"items": found}}, {}), known))  # type: ignore[arg-type]


def test_a_node_as_its_machine_was_configured_has_no_drift() -> None:
    assert on_nodes(node()) == []


def test_a_workers_declared_taints_are_those_of_its_kubelets_registration() -> None:
    text = CONFIGURED.replace(
        'nodeTaints: {gpu: "a:NoSchedule"}',
        "kubelet: {extraConfig: {registerWithTaints: [{key: gpu, value: a, effect: NoSchedule}]}}",
    )
    known = [machines.Machine(URN, "node01", "172.16.20.51", redaction.fields(text, SECRETS))]

    def told(one: Mapping[str, Any]) -> list[str]:
        api: Any = Api({nodes.NODES: {"items": [one]}}, {})
        return [found.fix for found in nodes.findings(api, known)]

    assert told(node()) == []
    assert told(node(spec={"taints": []})) == [
        "`kubectl taint --overwrite node node01 gpu=a:NoSchedule`"
    ]


@pytest.mark.parametrize(("runs", "drifts"), [("v1.34.1", False), ("v1.35.6", True)])
def test_a_kubelet_that_a_stopped_upgrade_left_behind_is_drift(runs: str, drifts: bool) -> None:  # noqa: FBT001
    one = node()
    one["status"]["nodeInfo"] = {"kubeletVersion": runs}
    text = CONFIGURED.replace("{type", "{kubelet: {image: x/kubelet:v1.34.1}, type")
    known = [machines.Machine(URN, "node01", "172.16.20.51", redaction.fields(text, SECRETS))]
    found = list(nodes.findings(Api({nodes.NODES: {"items": [one]}}, {}), known))  # type: ignore[arg-type]
    assert [one.fields[0].found for one in found] == (["v1.35.6"] if drifts else [])
    assert all("`pulumi up` with the newer version" in one.fix for one in found)


@pytest.mark.parametrize(
    ("live", "field", "fix"),
    [
        (
            node(labels={"disk": "ssd"}),
            Field(where='metadata.labels["disk"]', wanted="(nothing)", found="ssd"),
            "kubectl label node node01 disk-",
        ),
        (
            node(labels={"example.com/NODE": "x"}),
            Field(where='metadata.labels["example.com/NODE"]', wanted="(nothing)", found="x"),
            "kubectl label node node01 example.com/NODE-",
        ),
        (
            node(labels={"rack": "r2"}),
            Field(where='metadata.labels["rack"]', wanted="r1", found="r2"),
            "kubectl label --overwrite node node01 rack=r1",
        ),
        (
            node(
                labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""},
                by_hand={"f:metadata": {"f:labels": {
                    "f:node.kubernetes.io/exclude-from-external-load-balancers": {},
                }}},
            ),
            Field(
                where='metadata.labels["node.kubernetes.io/exclude-from-external-load-balancers"]',
                wanted="(nothing)", found="",
            ),
            "kubectl label node node01 node.kubernetes.io/exclude-from-external-load-balancers-",
        ),
        (
            node(
                annotations={"note": "x"},
                by_hand={"f:metadata": {"f:annotations": {"f:note": {}}}},
            ),
            Field(where='metadata.annotations["note"]', wanted="(nothing)", found="x"),
            "kubectl annotate node node01 note-",
        ),
        (
            node(spec={"unschedulable": True}),
            Field(
                where="spec.unschedulable", wanted="(nothing)", found="true: it takes no new pods"
            ),
            "kubectl uncordon node01",
        ),
        (
            node(spec={"taints": [
                {"key": "gpu", "value": "a", "effect": "NoSchedule"},
                {"key": "drained", "effect": "NoExecute"},
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            ]}),
            Field(where="spec.taints.drained", wanted="(nothing)", found=":NoExecute"),
            "kubectl taint node node01 drained:NoExecute-",
        ),
        (
            node(spec={"taints": []}),
            Field(where="spec.taints.gpu", wanted="a:NoSchedule", found="(nothing)"),
            "kubectl taint --overwrite node node01 gpu=a:NoSchedule",
        ),
    ],
)  # fmt: skip
def test_what_somebody_put_on_a_node_or_took_away_is_told_with_its_fix(
    live: Mapping[str, Any], field: Field, fix: str
) -> None:
    (found,) = on_nodes(live)
    assert found.who == "Node node01"
    assert found.fields == (field,)
    assert found.fix == f"`{fix}`"


def test_the_taint_of_control_planes_is_told_where_they_take_workloads() -> None:
    taint = {"key": nodes.CONTROL_PLANE, "effect": "NoSchedule"}
    gpu = {"key": "gpu", "value": "a", "effect": "NoSchedule"}
    (found,) = on_nodes(node(spec={"taints": [gpu, taint]}))
    assert found.fields[0].where == f"spec.taints.{nodes.CONTROL_PLANE}"


def test_a_machine_without_a_node_and_a_node_without_a_machine_are_told() -> None:
    other = node()
    other["metadata"]["name"] = "laptop"
    other["status"]["addresses"][0]["address"] = "172.16.20.99"
    missing, unknown = on_nodes(other)
    assert (missing.who, missing.what) == ("Node node01", "is not a node of the cluster")
    assert unknown.what == "is a node that the stack does not know (172.16.20.99)"


# What nobody declared.


POD = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}}


def test_what_a_person_added_is_told_and_what_a_controller_added_is_not() -> None:
    container = 'k:{"name":"a"}'
    live = {
        "metadata": {
            "labels": {"mine": "yes", "theirs": "yes"},
            "annotations": {
                "kubectl.kubernetes.io/restartedAt": "now",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
            "managedFields": [
                {"manager": "operator", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
                {"manager": "kubectl-edit", "subresource": "status", "fieldsV1": {"f:status": {}}},
                {"manager": "kubectl-edit", "fieldsV1": {
                    "f:metadata": {
                        "f:labels": {".": {}, "f:mine": {}},
                        "f:annotations": {
                            ".": {}, "f:kubectl.kubernetes.io/restartedAt": {},
                            "f:kubectl.kubernetes.io/last-applied-configuration": {},
                        },
                    },
                    "f:spec": {"f:containers": {
                        container: {".": {}, "f:name": {}, "f:env": {
                            'k:{"name":"X"}': {".": {}, "f:value": {}},
                            'k:{"name":"Y"}': {".": {}, "f:value": {}},
                        }},
                        'k:{"name":"b"}': {".": {}, "f:image": {}},
                    }},
                }},
            ],
        },
        "spec": {"containers": [
            {"name": "b", "image": "example/b"},
            {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        ]},
    }  # fmt: skip
    found = undeclared(live, POD)
    assert [(one.field.where, one.field.found) for one in found] == [
        ("metadata.labels.mine", "yes"),
        ("spec.containers[a].env[Y]", "{name: Y, value: 2}"),
        ("spec.containers[b]", "{name: b, image: example/b}"),
    ]
    (patch,) = re.findall(r"--patch='(.*)'$", removal("-n a pod/b", found))
    assert json.loads(patch) == [
        {"op": "remove", "path": "/spec/containers/1/env/1"},
        {"op": "remove", "path": "/spec/containers/0"},
        {"op": "remove", "path": "/metadata/labels/mine"},
    ]


def test_what_a_person_added_to_a_secret_is_told_and_never_shown() -> None:
    entry = {"manager": "kubectl-patch", "fieldsV1": {"f:data": {"f:mine": {}}}}
    live = {"metadata": {"managedFields": [entry]}, "data": {"mine": "a-value"}}
    (found,) = undeclared(live, {}, hidden=True)
    assert found.field == Field(where="data.mine", wanted="(nothing)", found="(secret)")


NAMED = {"name": "it", "namespace": "traefik"}


def on_objects_of_the_program(kind: str, live: Mapping[str, Any], **declared: Any) -> Finding:
    inputs = {"apiVersion": "v1", "kind": kind, "metadata": NAMED, **declared}
    plural = f"{kind.lower()}s"
    served = {"resources": [{"kind": kind, "name": plural, "namespaced": True}]}
    path = f"/api/v1/namespaces/traefik/{plural}/it"
    resources = [
        {"type": f"kubernetes:core/v1:{kind}", "inputs": inputs},
        {"type": GATE, "inputs": {}},
        {"type": "kubernetes:helm.sh/v3:Release", "inputs": {"chart": "traefik"}},
    ]
    (found,) = cluster.added(Api({"/api/v1": served, path: live}, {}), resources)  # type: ignore[arg-type]
    assert (found.who, found.what) == (f"{kind} traefik/it", ADDED)
    return found


def test_what_a_person_added_to_a_secret_of_the_program_is_told_with_kubectl_s_copy_of_it() -> None:
    entry = {"manager": "kubectl-patch", "fieldsV1": {"f:data": {"f:auth": {}, "f:mine": {}}}}
    live = {
        "metadata": {"annotations": {LAST_APPLIED: "a-value"}, "managedFields": [entry]},
        "data": {"auth": "b2xk", "mine": "a-value"},
    }
    found = on_objects_of_the_program("Secret", live, stringData={"auth": "old"})
    copy = f'metadata.annotations["{LAST_APPLIED}"]'
    assert [one.where for one in found.fields] == ["data.mine", copy]
    assert "a-value" not in found.model_dump_json()
    assert "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration" in found.fix


def test_a_label_that_a_person_put_on_an_object_of_the_program_is_told() -> None:
    entry = {"manager": "kubectl-label", "fieldsV1": {"f:metadata": {"f:labels": {"f:a/b": {}}}}}
    live = {"metadata": {"labels": {"a/b": "c"}, "managedFields": [entry]}}
    found = on_objects_of_the_program("ConfigMap", live)
    label = Field(where='metadata.labels["a/b"]', wanted="(nothing)", found="c")
    assert found.fields == (label,)
    assert "kubectl patch -n traefik configmap/it --type=json" in found.fix
    assert "/metadata/labels/a~1b" in found.fix


def test_a_secret_that_somebody_changed_is_told_though_the_engine_hides_both_values() -> None:
    kind = "kubernetes:core/v1:Secret"
    state = {
        "inputs": {"metadata": {"name": "s", "namespace": "traefik"}, "stringData": "[secret]"}
    }
    state["outputs"] = {"data": "[secret]"}
    (found,) = refreshed("update", kind, state, state, ("data.users", "metadata.uid"))
    assert found.fields == (
        Field(where="data.users", wanted="(secret)", found="(secret, changed)"),
    )


@pytest.mark.parametrize(
    ("found", "where", "says"),
    [
        ({"ports": [{"port": 1}]}, "spec.ingress[0].from", "(nothing): everybody"),
        ({"from": [{"podSelector": {}}]}, "spec.ingress[0].ports", "(nothing): every port"),
    ],
)
def test_a_policy_that_was_opened_says_to_whom(
    found: Mapping[str, Any], where: str, says: str
) -> None:
    kind = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
    metadata = {"name": "it", "namespace": "traefik"}
    wanted = {"from": [{"podSelector": {}}], "ports": [{"port": 1}]}
    old, new = (
        {"inputs": {"metadata": metadata, "spec": {"ingress": [rule]}}} for rule in (wanted, found)
    )
    (one,) = refreshed("update", kind, old, new)
    (field,) = one.fields
    assert (field.where, field.found) == (where, says)
    assert field.wanted.startswith("[{")


def test_a_rule_that_was_added_to_a_policy_says_that_it_lets_everything_in() -> None:
    kind = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
    metadata = {"name": "it", "namespace": "traefik"}
    rules: tuple[list[Any], list[Any]] = [], [{}]
    old, new = ({"inputs": {"metadata": metadata, "spec": {"ingress": one}}} for one in rules)
    (found,) = refreshed("update", kind, old, new)
    assert found.fields[0].found.endswith("{}: everything")


# The cluster.


class Api:
    """An API server with some objects; an apply leaves what `wanted` says."""

    def __init__(self, live: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        self.live, self.wanted = live, wanted

    def find(self, path: str) -> Any:
        return self.live.get(path)

    def would_apply(self, path: str, body: Any, manager: str) -> Any:
        assert manager == cluster.MANAGER
        return self.wanted[path] if path in self.wanted else {**self.live[path], **body}


KINDS = {
    "/apis/apps/v1": {
        "resources": [{"kind": "Deployment", "name": "deployments", "namespaced": True}]
    },
    "/api/v1": {"resources": [{"kind": "Secret", "name": "secrets", "namespaced": True}]},
}
PATH = "/apis/apps/v1/namespaces/traefik/deployments/traefik"
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: traefik}
spec: {minReadySeconds: 0}
"""


def deployment(seconds: int, **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "traefik", **metadata},
        "spec": {"minReadySeconds": seconds},
    }


def released(
    live: Mapping[str, Any], wanted: Mapping[str, Any], name: str = "traefik"
) -> list[Finding]:
    manifests = {("traefik", name): MANIFEST}
    return list(cluster.findings(Api({**KINDS, **live}, wanted), manifests))  # type: ignore[arg-type]


def test_an_object_as_its_release_made_it_has_no_drift() -> None:
    same = deployment(0, resourceVersion="1"), deployment(0, resourceVersion="2")
    assert released({PATH: same[0]}, {PATH: same[1]}) == []


def test_a_changed_object_of_a_release_is_told_with_the_command_that_fixes_it() -> None:
    (found,) = released({PATH: deployment(77)}, {PATH: deployment(0)})
    assert found.fields == (Field(where="spec.minReadySeconds", wanted="0", found="77"),)
    assert "python -m ops render objects traefik | kubectl apply --server-side" in found.fix


class Fixed(Api):
    """An API server that takes no change."""

    def would_apply(self, path: str, body: Any, manager: str) -> Any:
        raise InvalidError(f"{path}: {body['kind']} of {manager}: a-value: field is immutable")


@pytest.mark.parametrize(
    ("kind", "plural", "what", "fix"),
    [
        ("Deployment", "deployments", "a-value: field is immutable", (
            "`kubectl -n traefik delete deployment/it && python -m ops render objects traefik | "
            "kubectl apply --server-side --force-conflicts --field-manager=platform-drift -f -` "
            "makes it as it was; its pods do not run until then"
        )),
        ("Secret", "secrets", cluster.FIXED, "what it holds would be lost"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_put_back_hides_no_other_finding_and_is_to_be_fixed_first(
    kind: str, plural: str, what: str, fix: str
) -> None:
    served = {"resources": [{"kind": kind, "name": plural, "namespaced": True}]}
    one = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "it"}}
    other = {**one, "metadata": {"name": "other"}}
    api = Fixed({"/api/v1": served, f"/api/v1/namespaces/traefik/{plural}/it": one}, {})
    manifest = f"{json.dumps(other)}\n---\n{json.dumps(one)}"
    changed, gone = cluster.findings(api, {("traefik", "traefik"): manifest})  # type: ignore[arg-type]
    assert what in changed.what
    assert fix in changed.fix
    assert ("a-value" in changed.model_dump_json()) == (kind != "Secret")
    assert gone.what == "gone (release traefik)"


def test_an_object_of_a_release_that_is_gone_is_told() -> None:
    (found,) = released({}, {})
    assert found.what == "gone (release traefik)"


def test_objects_in_a_list_are_compared_one_by_one() -> None:
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment(0)]})
    api = Api({**KINDS, PATH: deployment(77)}, {PATH: deployment(0)})
    (found,) = cluster.findings(api, {("traefik", "traefik"): listed})  # type: ignore[arg-type]
    assert found.who == "Deployment traefik/traefik"


ARGO_CD = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/argo-cd"


def test_a_release_that_argo_cd_syncs_is_argo_cd_s_to_tell_of() -> None:
    api = Api({**KINDS, ARGO_CD: {"status": {"sync": {"status": "Synced"}}}}, {})
    assert list(cluster.findings(api, {("argocd", "argo-cd"): MANIFEST})) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("application", [{}, {ARGO_CD: {"spec": {}}}])
def test_until_argo_cd_syncs_its_own_release_a_change_of_it_is_told_as_argo_cd_s(
    application: Mapping[str, Any],
) -> None:
    api = Api({**KINDS, **application}, {})
    (found,) = cluster.findings(api, {("argocd", "argo-cd"): MANIFEST})  # type: ignore[arg-type]
    assert (found.owner, found.what) == ("Argo CD", "gone (release argo-cd)")


def test_a_rendered_secret_is_told_and_never_shown() -> None:
    path = "/api/v1/namespaces/traefik/secrets/s"
    manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: b2xk}\n"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    api = Api(
        {**KINDS, path: {**secret, "data": {"a": "bmV3"}}},
        {path: {**secret, "data": {"a": "b2xk"}}},
    )
    (found,) = cluster.findings(api, {("traefik", "traefik"): manifest})  # type: ignore[arg-type]
    assert found.fields == (Field(where="data.a", wanted="(secret)", found="(secret, changed)"),)


def test_what_argo_cd_calls_out_of_sync_is_argo_cds() -> None:
    def application(name: str, status: str) -> dict[str, Any]:
        each = {"kind": "Deployment", "namespace": "app-x", "name": "x", "status": status}
        return {
            "metadata": {"namespace": "argocd", "name": name},
            "status": {"sync": {"status": status}, "resources": [each]},
        }

    items = {"items": [application("a", "Synced"), application("b", "OutOfSync")]}
    (found,) = cluster.applications(Api({cluster.APPLICATIONS: items}, {}))  # type: ignore[arg-type]
    assert (found.who, found.owner) == ("Application argocd/b", "Argo CD")
    assert found.fields[0].where == "Deployment app-x/x"


def test_an_application_that_argo_cd_cannot_compare_is_told() -> None:
    item = {
        "metadata": {"namespace": "argocd", "name": "a"},
        "status": {"sync": {"status": "Unknown"}},
    }
    (found,) = cluster.applications(Api({cluster.APPLICATIONS: {"items": [item]}}, {}))  # type: ignore[arg-type]
    assert found.owner == "Argo CD"
    assert "cannot compare" in found.what


def test_an_application_that_argo_cd_has_not_looked_at_yet_is_no_drift() -> None:
    item = {"metadata": {"namespace": "argocd", "name": "a"}}
    api = Api({cluster.APPLICATIONS: {"items": [item]}}, {})
    assert list(cluster.applications(api)) == []  # type: ignore[arg-type]


# Backups.


NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


class Stored:
    """A storage with backups that were taken at these hours, kept like this."""

    def __init__(self, *hours: int, **kept: Any) -> None:
        day = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
        self._found = [
            SimpleNamespace(key=f"at-{one}", taken=day + dt.timedelta(hours=one)) for one in hours
        ]
        self._kept = Kept(**{"versioned": True, "locked_days": 30, "expires_days": 90} | kept)

    def snapshots(self) -> list[SimpleNamespace]:
        return self._found

    def kept(self) -> Kept:
        return self._kept


def of_backups(
    monkeypatch: pytest.MonkeyPatch, stored: Any, created: str = "2026-01-01T00:00:00Z"
) -> list[str]:
    settings = SimpleNamespace(schedule="0 * * * *")
    stack = SimpleNamespace(storage=stored, backup=settings)
    monkeypatch.setattr(Stack, "read", lambda: stack)
    job = {"metadata": {"creationTimestamp": created}}
    found = backups.findings(Api({backups.CRONJOB: job}, {}), NOW)  # type: ignore[arg-type]
    return [f"{one.place}: {one.what}; {one.fix}" for one in found]


def test_a_backup_of_the_last_two_intervals_that_is_kept_well_is_no_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert of_backups(monkeypatch, Stored(9, 10)) == []


def test_a_newest_backup_that_is_older_is_drift_with_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = of_backups(monkeypatch, Stored(8, 9))
    assert "storage: the newest backup was taken 3 hours ago (at-9)" in line


def test_a_job_that_never_made_a_backup_is_drift_once_it_should_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert of_backups(monkeypatch, Stored(), created="2026-01-02T11:00:00Z") == []
    (line,) = of_backups(monkeypatch, Stored())
    assert "no backup was taken since the job was made 36 hours ago" in line


def test_a_cluster_that_was_just_built_again_has_time_for_its_first_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert of_backups(monkeypatch, Stored(1), created="2026-01-02T11:00:00Z") == []


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"versioned": False, "locked_days": 0}, "neither versions nor an object lock"),
        ({"expires_days": 0}, "grows for ever"),
        ({"expires_days": 2}, "deletes backups after 2 days"),
    ],
)
def test_a_bucket_that_does_not_keep_backups_well_is_drift(
    monkeypatch: pytest.MonkeyPatch, kept: dict[str, Any], says: str
) -> None:
    (line,) = of_backups(monkeypatch, Stored(11, **kept))
    assert says in line
    assert "docs/site-requirements.md#storage-for-backups" in line


@pytest.mark.parametrize("kept", [{"versioned": False}, {"locked_days": 0}])
def test_versions_alone_or_a_lock_alone_are_enough(
    monkeypatch: pytest.MonkeyPatch, kept: dict[str, Any]
) -> None:
    assert of_backups(monkeypatch, Stored(11, **kept)) == []


def test_a_key_that_may_not_read_how_the_bucket_keeps_is_told_with_the_rights_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> Kept:
        raise StorageError("Access Denied")

    stored = Stored(11)
    stored.kept = refused  # type: ignore[method-assign]
    (line,) = of_backups(monkeypatch, stored)
    assert "could not be read (Access Denied)" in line
    assert "s3:GetLifecycleConfiguration" in line


def test_a_storage_that_does_not_answer_is_never_taken_for_no_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent() -> list[SimpleNamespace]:
        raise StorageError("connection timed out")

    stored = Stored(11)
    stored.snapshots = silent  # type: ignore[method-assign]
    with pytest.raises(DriftError, match="connection timed out"):
        of_backups(monkeypatch, stored)


def test_without_backups_there_is_nothing_to_tell_of_them() -> None:
    assert list(backups.findings(Api({}, {}), NOW)) == []  # type: ignore[arg-type]


# The command.


def run_with(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, str]) -> int:
    """Run it with a pulumi that gives these answers, by its first word."""
    cases = "".join(f"{word}) echo {shlex.quote(text)};;\n" for word, text in answers.items())
    refusal = "*) echo 'error: no such stack' >&2; exit 255;;"
    pulumi = folder / "pulumi"
    pulumi.write_text(f"#!/bin/sh\ncase $1-$2 in\n{cases}{refusal}\nesac\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return main([])


STATE = json.dumps(
    {
        "deployment": {
            "resources": [
                {"urn": "urn:pulumi:prod::platform::x::stack", "type": "pulumi:pulumi:Stack"}
            ]
        }
    }
)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, "`pulumi stack export --show-secrets` failed: error: no such stack"),
        ({"stack-export": '{"deployment": {}}'}, "is it the right one?"),
        ({"stack-export": STATE, "stack-output": "{}"},
         "the stack has no output kubeconfig: no `pulumi up` has succeeded yet; run it first"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_named_with_its_fix_and_is_never_no_drift(
    answers: Mapping[str, str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(tmp_path, monkeypatch, answers) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("could not check for drift: ")
    assert says in printed.err
    assert printed.out == ""


def test_without_pulumi_the_error_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 1
    assert "pulumi is not on PATH" in capsys.readouterr().err


@pytest.mark.parametrize(("findings", "code"), [((), 0), (("one",), 3)])
def test_the_exit_code_says_whether_there_is_drift(
    findings: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = tuple(
        Finding(place="cluster", who=who, owner="Pulumi", what="gone", fix="m") for who in findings
    )
    monkeypatch.setattr("ops.drift.command.look", lambda _: Report(findings=found))
    data, comment = tmp_path / "drift.json", tmp_path / "drift.md"
    assert main(["--json", str(data), "--markdown", str(comment)]) == code
    assert [one["who"] for one in json.loads(data.read_text())["findings"]] == list(findings)
    assert comment.read_text().startswith(MARKER)
    said = capsys.readouterr().out
    assert f"the report: file://{comment}" in said
    assert all(f"cluster: {who} gone (Pulumi's)\n      m\n" in said for who in findings)


# The report.


def test_the_report_begins_with_its_marker_and_says_when_there_is_nothing() -> None:
    text = markdown(Report(findings=()))
    assert text.startswith(f"{MARKER}\n## No drift")


def test_the_report_counts_by_owner_and_survives_what_is_in_a_field() -> None:
    field = Field(where="a|b", wanted="`1`", found="2\n3")
    mine = Finding(place="cluster", who="x", owner="Pulumi", what="y", fields=(field,), fix="z")
    other = mine.model_copy(update={"owner": "Argo CD"})
    text = markdown(Report(findings=(mine, other)))
    assert "1 of Argo CD's, 1 of Pulumi's" in text
    assert "wanted `'1'`, found `2 3`" in text


def test_only_what_the_engine_marks_is_taken_for_a_secret() -> None:
    marked = {SIGNATURE: SECRET, "plaintext": '"opened"'}
    state = {"secret": marked, "data": {"plaintext": "a ConfigMap's own key"}, "list": [marked]}
    assert revealed(state) == {
        "secret": "opened",
        "data": {"plaintext": "a ConfigMap's own key"},
        "list": ["opened"],
    }
