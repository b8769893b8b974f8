"""What the review says of single changes, without an engine."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from ops.engine.operations import OPERATIONS
from ops.engine.preview import SECRET, UNKNOWN, Preview, PreviewError
from ops.review.charts import ChartChange, ObjectChange
from ops.review.command import main
from ops.review.judge import Judged
from ops.review.markdown import MARKER, SIGNS, markdown
from ops.review.review import Review, fold, review
from ops.review.shrink import amount, shrinks
from ops.review.verdict import Effect, Verdict

TODAY = dt.date(2026, 11, 24)
VM = "vsphere:index/virtualMachine:VirtualMachine"
APPLY = "talos:machine/configurationApply:ConfigurationApply"
GATE = "platform:index:Gate"
SECRETS = "talos:machine/secrets:Secrets"
RELEASE = "kubernetes:helm.sh/v3:Release"
MACHINES = [
    {"name": f"node0{n}", "address": f"172.16.20.5{n}", "role": "controlplane"} for n in (1, 2, 3)
]
LOCAL = {"local": {"path": "/var/mnt/data"}, "persistentVolumeReclaimPolicy": "Retain"}
DISKS = [{"label": "system", "size": 100}]


def step(  # noqa: PLR0913 all that a step has
    op: str,
    kind: str,
    name: str,
    old: dict[str, Any] | None = None,
    new: dict[str, Any] | None = None,
    *,
    within: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Make a step as the engine writes one."""
    path = f"{within}${kind}" if within else kind
    found: dict[str, Any] = {"op": op, "urn": f"urn:pulumi:prod::platform::{path}::{name}"}
    common = {"type": kind, "custom": True, "protect": more.pop("protect", False)}
    parent = more.pop("parent", "")
    if old is not None:
        found["oldState"] = common | {"inputs": old, "parent": parent}
    if new is not None:
        found["newState"] = common | {"inputs": new, "parent": parent}
    return found | more


def document(*steps: dict[str, Any], machines: Any = None, **more: Any) -> str:
    config = {
        "platform:machines": json.dumps(MACHINES if machines is None else machines),
        "platform:kubernetes": '{"version": "1.34.1"}',
        "platform:vspherePassword": SECRET,
    }
    return json.dumps({"config": config, "steps": list(steps)} | more)


def reviewed(*steps: dict[str, Any], **more: Any) -> Review:
    return review(Preview.of(document(*steps, **more)), TODAY)


def watched(*steps: dict[str, Any]) -> list[str]:
    """Give what is to be watched, without the versions that get no more fixes (test_support.py)."""
    return [one for one in reviewed(*steps).watch if not one.startswith("platform:")]


def vm_update(name: str = "node01", **changes: tuple[Any, Any]) -> dict[str, Any]:
    common = {"memoryHotAddEnabled": True, "cpuHotAddEnabled": True, "disks": DISKS}
    old = common | {key: pair[0] for key, pair in changes.items()}
    new = common | {key: pair[1] for key, pair in changes.items()}
    detail = {key: {"kind": "update", "inputDiff": False} for key in changes}
    found = step("update", VM, name, old, new, detailedDiff=detail)
    # Each waits for the one before it.
    found["newState"]["dependencies"] = [f"urn:pulumi:prod::platform::{APPLY}::before-{name}"]
    return found


def configuration(name: str, old: Any, new: Any) -> list[dict[str, Any]]:
    """Make the two steps of a machine's new configuration."""
    detail = {"machineConfigurationInput": {"kind": "update", "inputDiff": False}}
    hidden = {"machineConfigurationInput": SECRET}
    return [
        step("update", APPLY, name, hidden, hidden, detailedDiff=detail),
        step("update", GATE, f"{name}-healthy", {"fields": old}, {"fields": new}),
    ]


def main_document(machine: Any) -> dict[str, Any]:
    return {"v1alpha1": {"machine": machine}}


def kubernetes(op: str, kind: str, old: Any = None, new: Any = None, **more: Any) -> dict[str, Any]:
    return step(op, f"kubernetes:v1:{kind}", "it", old, new, **more)


# What can be read.


def test_a_preview_without_a_change_is_safe_and_says_so() -> None:
    found = reviewed(step("same", "pulumi:pulumi:Stack", "platform-prod"))
    assert (found.verdict, found.exit_code, found.sentence) == ("safe", 0, "Nothing changes.")
    assert found.changes == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": [{"urn": "x"}]}', '{"steps": 3}'])
def test_what_is_no_preview_is_refused_with_the_command_that_makes_one(text: str) -> None:
    with pytest.raises(PreviewError, match="pulumi preview --json --show-sames"):
        Preview.of(text)


def test_an_operation_that_nobody_knows_is_refused() -> None:
    with pytest.raises(PreviewError, match="unknown operation explode"):
        reviewed(step("explode", VM, "node01", {}, {}))


def test_every_operation_of_the_engine_is_read() -> None:
    for op in OPERATIONS:
        found = Preview.of(document(step(op, VM, "node01", {}, {})))
        assert len(found.changes) + len(found.unchanged) == 1


def test_a_file_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.json"
    assert main([str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err


def test_the_command_writes_comment_and_json_and_ends_with_the_verdicts_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preview, comment, data = (tmp_path / name for name in ("p.json", "c.md", "d.json"))
    preview.write_text(document(vm_update(memory=(16384, 8192))))
    assert main([str(preview), "--markdown", str(comment), "--json", str(data)]) == 20
    assert comment.read_text().startswith(MARKER)
    assert json.loads(data.read_text())["verdict"] == "reboots machines"
    assert "less memory" in capsys.readouterr().out


def test_the_comment_is_the_same_for_the_same_preview() -> None:
    text = document(vm_update(memory=(16384, 8192)), *configuration("node02", {}, {"A": {}}))
    first, second = (markdown(review(Preview.of(text), TODAY)) for _ in range(2))
    assert first == second


# Nothing is left out.


def test_a_type_without_a_rule_has_an_unknown_effect_and_is_not_safe() -> None:
    found = reviewed(step("update", "random:index:Thing", "it", {"a": 1}, {"a": 2}))
    assert (found.verdict, found.exit_code) == ("unknown effect", 50)
    assert "random:index:Thing" in found.sentence


def test_a_kind_without_a_rule_has_an_unknown_effect() -> None:
    found = reviewed(kubernetes("update", "Gizmo", {"spec": 1}, {"spec": 2}))
    assert found.verdict == "unknown effect"


def test_a_harmless_change_does_not_hide_an_unknown_one() -> None:
    found = reviewed(
        vm_update(memory=(8192, 16384)), kubernetes("update", "Gizmo", {"spec": 1}, {"spec": 2})
    )
    assert found.verdict == "unknown effect"


def test_a_worse_change_still_names_the_unknown_ones() -> None:
    gone = kubernetes("delete", "PersistentVolumeClaim", {})
    found = reviewed(gone, kubernetes("update", "Gizmo", {"spec": 1}, {"spec": 2}))
    assert found.verdict == "loses data"
    assert "1 more with unknown effect" in found.sentence


def test_every_change_is_in_the_json_and_in_the_comment() -> None:
    steps = [
        vm_update(memory=(1, 2)),
        *configuration("node02", {}, {}),
        kubernetes("delete", "Role", {}),
        step("create", "platform:kubernetes:Traefik", "traefik", None, {}),
    ]
    found = reviewed(*steps)
    assert {one.urn for one in found.changes} == {one["urn"] for one in steps}
    comment = markdown(found)
    assert all(one["urn"].rsplit("::", 1)[1] in comment for one in steps)


def test_of_a_change_of_hundreds_of_fields_the_comment_shows_some_and_counts_the_rest() -> None:
    old, new = ({f"field{n}": value for n in range(300)} for value in (1, 2))
    found = reviewed(kubernetes("update", "ConfigMap", old, new))
    comment = markdown(found)
    assert "`field0`: `1` → `2`" in comment
    assert comment.count("`1` → `2`") < 300
    assert "fields more; the review's JSON has all" in comment
    assert len(found.changes[0].properties) == 300


def test_a_replacement_of_several_steps_is_one_change() -> None:
    old = {"disks": DISKS}
    found = reviewed(
        step("delete-replaced", VM, "node01", old, None),
        step("replace", VM, "node01", old, old, replaceReasons=["datastoreId"]),
        step("create-replacement", VM, "node01", old, old),
    )
    assert len(found.changes) == 1
    assert found.verdict == "replaces machines"
    assert "datastoreId" in found.sentence


# Machines.


def test_memory_grows_live_only_when_hot_add_is_on() -> None:
    live = vm_update(memory=(8192, 16384))
    cold = vm_update(memory=(8192, 16384), memoryHotAddEnabled=(False, False))
    cold["detailedDiff"].pop("memoryHotAddEnabled")
    assert reviewed(live).verdict == "safe"
    assert reviewed(cold).verdict == "reboots machines"


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({"memory": (8192, 16384)}, "safe", "its kubelet restarts to see them, pods run on"),
        ({"memory": (2048, 4096)}, "refused", "vCenter adds none past 3072 MiB"),
        ({"memory": (16384, 524288)}, "refused", "vCenter adds at most 16 times as much"),
        (
            {"memory": (2048, 4096), "memoryHotAddEnabled": (False, True)},
            "reboots machines",
            "gets more memory: 2048 to 4096 MiB",
        ),
        ({"memory": (2048, 4096), "numCpus": (4, 2)}, "reboots machines", ""),
        ({"numCpus": (4, 6)}, "reboots machines", "Talos sees them after a reboot"),
        (
            {"disks": (DISKS, [{"label": "system", "size": 200}])},
            "reboots machines",
            "Talos takes up more of a disk at a start",
        ),
        (
            {
                "disks": (
                    [*DISKS, {"label": "data", "size": 50}],
                    [*DISKS, {"label": "data", "size": 80}],
                )
            },
            "reboots machines",
            "data 50 to 80 GiB; Talos takes up more of a disk at a start",
        ),
    ],
)
def test_growth_is_told_with_what_it_takes_until_the_node_has_it(
    changes: dict[str, Any], verdict: str, says: str
) -> None:
    found = reviewed(vm_update(**changes))
    assert found.verdict == verdict
    assert says in markdown(found)


def with_unit(label: str, unit: int, **more: Any) -> dict[str, Any]:
    return {"label": label, "size": 100, "unitNumber": unit, **more}


@pytest.mark.parametrize(
    ("before", "after", "verdict", "says"),
    [
        ((("logs", 1), ("data", 2)), (("data", 1), ("logs", 2)), "refused", "disks would move"),
        ((("data", 1),), (("logs", 1), ("data", 2)), "refused", "data from unit 1 to 2"),
        ((("data", 1), ("logs", 2)), (("logs", 2), ("data", 1)), "safe", "in another order"),
        ((("data", 1),), (("logs", 2), ("data", 1)), "safe", "logs 0 to 100 GiB"),
    ],
)
def test_a_disk_is_known_by_its_name_and_one_that_would_move_is_refused(
    before: tuple[tuple[str, int], ...],
    after: tuple[tuple[str, int], ...],
    verdict: str,
    says: str,
) -> None:
    old, new = ([*DISKS, *(with_unit(*one) for one in disks)] for disks in (before, after))
    found = reviewed(vm_update(disks=(old, new)))
    assert found.verdict == verdict
    assert says in markdown(found)


@pytest.mark.parametrize(
    ("field", "verdict"),
    [
        ("diskMode", "reboots machines"),
        ("diskSharing", "reboots machines"),
        ("writeThrough", "reboots machines"),
        ("thinProvisioned", "refused"),
        ("ioLimit", "safe"),
        ("brandNew", "unknown effect"),
    ],
)
def test_fields_of_a_disk_do_what_the_provider_does_with_them(field: str, verdict: str) -> None:
    old, new = ([*DISKS, with_unit("data", 1, **{field: value})] for value in ("a", "b"))
    assert reviewed(vm_update(disks=(old, new))).verdict == verdict


def test_another_kind_of_network_card_turns_the_machine_off() -> None:
    old, new = ([{"networkId": "n", "adapterType": one}] for one in ("vmxnet3", "e1000e"))
    assert reviewed(vm_update(networkInterfaces=(old, new))).verdict == "reboots machines"
    assert reviewed(vm_update(networkInterfaces=(old, []))).verdict == "reboots machines"


def test_a_field_of_a_machine_without_a_rule_has_an_unknown_effect() -> None:
    assert reviewed(vm_update(brandNewField=(1, 2))).verdict == "unknown effect"


def test_a_disk_that_goes_loses_data_and_one_that_comes_does_not() -> None:
    more = [*DISKS, {"label": "data", "size": 50}]
    assert reviewed(vm_update(disks=(more, DISKS))).verdict == "loses data"
    assert reviewed(vm_update(disks=(DISKS, more))).verdict == "safe"


def test_a_machine_with_data_disks_that_is_replaced_loses_data() -> None:
    old = {"disks": [*DISKS, {"label": "data", "size": 50}]}
    assert reviewed(step("delete", VM, "node01", old, None)).verdict == "loses data"


def test_the_only_control_plane_loses_its_quorum_while_it_reboots() -> None:
    found = reviewed(vm_update(memory=(16384, 8192)), machines=MACHINES[:1])
    assert "IS LOST" in found.quorum


def test_three_control_planes_keep_their_quorum_one_after_the_other() -> None:
    found = reviewed(*(vm_update(f"node0{n}", memory=(16384, 8192)) for n in (3, 1, 2)))
    assert found.order == ("node01", "node02", "node03")
    assert "quorum holds: node01 then node02 then node03" in found.quorum
    assert found.rows[0].who == "node01-03"


def test_a_single_control_plane_that_is_touched_has_no_next_one() -> None:
    found = reviewed(vm_update("node02", memory=(16384, 8192)))
    assert "quorum holds: node02 alone is touched; 2 of 3" in found.quorum


def kubernetes_version(old: str, new: str) -> dict[str, Any]:
    return step("update", GATE, "kubernetes-version", {"version": old}, {"version": new})


def test_another_kubernetes_says_what_restarts_in_which_order_and_for_how_long() -> None:
    machines = [*MACHINES, {"name": "worker01", "role": "worker"}]
    new = step("create", VM, "worker02", None, {"disks": DISKS})
    found = reviewed(kubernetes_version("1.34.1", "1.35.6"), new, machines=machines)
    assert found.verdict == "restarts workloads"
    assert found.order == ("node01", "node02", "node03", "worker01")
    assert found.quorum == "quorum holds: etcd is not restarted"
    (row,) = (one for one in found.rows if one.who == "kubernetes-version")
    for part in (
        "Kubernetes 1.34.1 becomes 1.35.6",
        "the API servers restart (node01 then node02 then node03)",
        "then the kubelets (node01 then node02 then node03 then worker01)",
        "about 6 minutes",
        "No machine reboots",
    ):
        assert part in row.what
    assert "the others answer" in row.away


@pytest.mark.parametrize("wanted", ["1.36.0", "1.33.5"])
def test_a_step_that_kubernetes_does_not_take_is_refused_in_the_review(wanted: str) -> None:
    found = reviewed(kubernetes_version("1.34.1", wanted))
    assert found.verdict == "refused"
    assert f"not from 1.34.1 to {wanted}" in found.sentence


def test_control_planes_that_go_leave_etcd_first() -> None:
    five = [*MACHINES, {"name": "node04", "role": "controlplane"}]
    five.append({"name": "node05", "role": "controlplane"})
    members = {one["name"]: "address" for one in five}
    left = {one["name"]: "address" for one in MACHINES}
    found = reviewed(
        *(step("delete", VM, f"node0{n}", {"disks": DISKS}, None) for n in (4, 5)),
        step("update", GATE, "etcd-members", {"controlPlanes": members}, {"controlPlanes": left}),
    )
    assert found.verdict == "replaces machines"
    assert "5 members become 3" in found.quorum


# What shrinks.


POOL = "kubernetes:metallb.io/v1beta1:IPAddressPool"
SCALER = "kubernetes:autoscaling/v2:HorizontalPodAutoscaler"


def pool(addresses: str) -> dict[str, Any]:
    return {"spec": {"addresses": [addresses]}}


def test_the_headline_names_all_that_shrinks_and_not_only_the_worst() -> None:
    found = reviewed(
        vm_update("node01", memory=(16384, 8192), numCpus=(4, 2)),
        vm_update("node02", memory=(16384, 8192)),
        vm_update("node03", disks=(DISKS, [{"label": "system", "size": 50}])),
        step("update", POOL, "pool", pool("10.0.0.1-10.0.0.9"), pool("10.0.0.1-10.0.0.4")),
        step("update", SCALER, "web", {"spec": {"minReplicas": 3}}, {"spec": {"minReplicas": 2}}),
    )
    assert found.verdict == "refused"
    assert found.sentence.startswith("node03 gets smaller disks")
    assert found.sentence.endswith(
        ". It shrinks: node01, node02 memory 16384 to 8192 MiB, node01 CPUs 4 to 2, "
        "node03 disk system 100 to 50 GiB, pool loses 5 addresses, web minReplicas 3 to 2."
    )


def test_what_shrinks_alone_is_not_said_twice() -> None:
    found = reviewed(*(vm_update(f"node0{n}", memory=(16384, 8192)) for n in (1, 2, 3)))
    assert found.sentence == "node01-03 gets less memory: 16384 to 8192 MiB."


def test_what_shrinks_beside_a_worse_change_is_named() -> None:
    gone = kubernetes("delete", "PersistentVolumeClaim", {})
    found = reviewed(gone, vm_update(memory=(16384, 8192)))
    assert found.verdict == "loses data"
    assert "It shrinks: node01 memory 16384 to 8192 MiB" in found.sentence


def test_what_grows_or_stays_is_no_shrinking() -> None:
    found = reviewed(
        vm_update(memory=(8192, 16384)),
        step("update", POOL, "pool", pool("10.0.0.1-10.0.0.4"), pool("10.0.0.1-10.0.0.9")),
        step("update", SCALER, "web", {"spec": {"minReplicas": 2}}, {"spec": {"minReplicas": 3}}),
    )
    assert "shrinks" not in found.sentence


def test_fewer_control_planes_are_named_with_their_number() -> None:
    found = reviewed(
        *(step("delete", VM, f"node0{n}", {"disks": DISKS}, None) for n in (4, 5)),
        step("update", POOL, "pool", pool("10.0.0.1-10.0.0.9"), pool("10.0.0.1-10.0.0.4")),
        step("update", GATE, "etcd-members",
             {"controlPlanes": {f"node0{n}": "" for n in range(1, 6)}},
             {"controlPlanes": {f"node0{n}": "" for n in range(1, 4)}}),
    )  # fmt: skip
    assert "node04, node05 removed" in found.sentence
    assert "control planes 5 to 3" in found.sentence
    assert "pool loses 5 addresses" in found.sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("500m", 0.5),
        ("1Gi", 2**30),
        ("1G", 1e9),
        ("0.5", 0.5),
        ("50%", None),
        ("-", None),
    ],
)
def test_kubernetes_quantities_are_numbers(text: str, value: float | None) -> None:
    assert amount(text) == value


@pytest.mark.parametrize(
    ("where", "old", "new", "says"),
    [
        ("spec.replicas", "3", "1", "Deployment traefik: replicas 3 to 1"),
        ("spec.template.spec.containers[0].resources.limits.memory", "1Gi", "512Mi",
         "Deployment traefik: limits.memory 1Gi to 512Mi"),
        ("spec.replicas", "1", "3", ""),
        ("spec.minReadySeconds", "3", "1", ""),
    ],
)  # fmt: skip
def test_what_a_chart_leaves_less_of_is_named(where: str, old: str, new: str, says: str) -> None:
    entry = ObjectChange(
        name="Deployment traefik/traefik", operation="update", definition=False, why="",
        verdict="safe", fields=((where, old, new),),
    )  # fmt: skip
    chart = ChartChange(release="traefik", before="", after="", values=(), objects=(entry,))
    update = Preview.of(document(step("update", RELEASE, "traefik", {}, {}))).changes[0]
    judged = Judged(update, "traefik", "", Effect(Verdict.SAFE, ""), chart=chart)
    assert [what for _, what, _ in shrinks([judged], (3, 3))] == ([says] if says else [])


# Configurations.


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({}, {"nodeLabels": {"a": "b"}}, "safe"),
        ({}, {"sysctls": {"a": "1"}}, "safe"),
        ({}, {"udev": {"rules": ["x"]}}, "reboots machines"),
        ({}, {"files": [{"path": "/etc/x"}]}, "reboots machines"),
        ({}, {"features": {"rbac": False}}, "reboots machines"),
        ({}, {"features": {"kubePrism": {"port": 7446}}}, "safe"),
        ({}, {"nodeTaints": {"a": "b:NoExecute"}}, "restarts workloads"),
        ({}, {"nodeTaints": {"a": "b:NoSchedule"}}, "safe"),
        ({}, {"network": {"interfaces": []}}, "unknown effect"),
        ({"install": {"image": "a"}}, {"install": {"image": "b"}}, "safe"),
        ({}, {"somethingNew": 1}, "reboots machines"),
    ],
)
def test_a_field_of_the_machine_section_has_its_class(old: Any, new: Any, verdict: str) -> None:
    found = reviewed(*configuration("node01", main_document(old), main_document(new)))
    assert found.verdict == verdict


def test_the_review_says_that_a_workers_new_taints_wait_for_its_registration() -> None:
    taint = {"key": "a", "value": "", "effect": "NoExecute"}
    new = {"kubelet": {"extraConfig": {"registerWithTaints": [taint]}}}
    found = reviewed(*configuration("work01", main_document({}), main_document(new)))
    assert found.verdict == "safe"
    assert any("count when its node registers" in one.what for one in found.rows)


@pytest.mark.parametrize(
    ("section", "verdict"),
    [
        ("apiServer", "restarts workloads"),
        ("etcd", "restarts workloads"),
        ("secret", "loses data"),
        ("extraManifests", "safe"),
    ],
)
def test_a_field_of_the_cluster_section_has_its_class(section: str, verdict: str) -> None:
    old, new = ({"v1alpha1": {"cluster": {section: value}}} for value in ("a", "b"))
    assert reviewed(*configuration("node01", old, new)).verdict == verdict


RULE = {"ingress": [{"subnet": "172.16.10.0/24"}, {"subnet": "172.16.11.0/24"}]}
FEWER = {"ingress": RULE["ingress"][:1]}
BLOCK, NAMED = "NetworkDefaultActionConfig", "NetworkRuleConfig/talos-api-operators"


@pytest.mark.parametrize(
    ("old", "new", "verdict", "says"),
    [
        ({}, {BLOCK: {"ingress": "block"}, NAMED: RULE}, "restarts workloads",
         "without a reboot; each machine tries it first"),
        ({BLOCK: {"ingress": "block"}}, {}, "unknown effect", "open to whoever reaches them"),
        ({NAMED: FEWER}, {NAMED: RULE}, "safe", "lets in more, live, without a reboot"),
        ({NAMED: RULE}, {NAMED: FEWER}, "restarts workloads", "the firewall changes, live"),
        ({NAMED: RULE}, {}, "restarts workloads", "the firewall changes, live"),
    ],
)  # fmt: skip
def test_a_change_of_the_firewall_says_who_is_kept_out_and_that_nothing_reboots(
    old: Any, new: Any, verdict: str, says: str
) -> None:
    found = reviewed(*configuration("node01", old, new))
    assert found.verdict == verdict
    assert says in markdown(found)


def test_a_configuration_whose_fields_are_not_known_has_an_unknown_effect() -> None:
    apply, _ = configuration("node01", {}, {})
    assert reviewed(apply).verdict == "unknown effect"


def test_a_configuration_that_only_the_deployment_knows_is_not_the_same_again() -> None:
    old = {"machineConfigurationInput": SECRET, "clientConfiguration": SECRET}
    detail = {key: {"kind": "update", "inputDiff": False} for key in old}
    for value, verdict in ((SECRET, "safe"), (UNKNOWN, "unknown effect")):
        new = old | {"machineConfigurationInput": value}
        found = reviewed(step("update", APPLY, "node01", old, new, detailedDiff=detail))
        assert found.verdict == verdict


def test_equal_fields_of_several_machines_are_one_line() -> None:
    old, new = main_document({}), main_document({"sysctls": {"a": "1"}})
    steps = [one for n in (1, 2, 3) for one in configuration(f"node0{n}", old, new)]
    found = reviewed(*steps)
    assert [one.machines for one in found.configuration] == ["node01-03"]


def test_a_changed_secret_is_shown_as_such_and_its_mark_is_not() -> None:
    old, new = (main_document({"token": f"(secret {mark})"}) for mark in ("aaaaaaaa", "bbbbbbbb"))
    comment = markdown(reviewed(*configuration("node01", old, new)))
    assert "(secret, changed)" in comment
    assert "aaaaaaaa" not in comment
    assert "bbbbbbbb" not in comment


def test_the_cluster_keys_that_go_lose_data_even_when_the_engine_refuses() -> None:
    found = reviewed(
        step("delete", SECRETS, "prod", {}, None, protect=True),
        diagnostics=[{"severity": "error", "message": "cannot be deleted because it is protected"}],
    )
    assert found.verdict == "loses data"
    assert "The engine refuses it" in found.sentence
    assert found.changes[0].protected


def test_a_single_problem_is_said_in_one_sentence() -> None:
    text = "1 problem in the settings:\n  - platform:machines: 2 control planes; make it 1 or 3\n"
    found = reviewed(diagnostics=[{"severity": "error", "message": text}])
    assert found.sentence == (
        "Nothing can be deployed: 1 problem in the settings: "
        "platform:machines: 2 control planes; make it 1 or 3."
    )


# Kubernetes.


@pytest.mark.parametrize(
    ("op", "kind", "old", "new", "verdict"),
    [
        ("delete", "Namespace", {}, None, "loses data"),
        ("update", "Namespace", {"a": 1}, {"a": 2}, "safe"),
        ("delete", "CustomResourceDefinition", {}, None, "loses data"),
        (
            "update",
            "CustomResourceDefinition",
            {"spec": {"versions": [{"name": "v1"}, {"name": "v1beta1"}]}},
            {"spec": {"versions": [{"name": "v1"}]}},
            "unknown effect",
        ),
        ("delete", "PersistentVolumeClaim", {}, None, "loses data"),
        ("delete", "PersistentVolume", {"spec": LOCAL}, None, "restarts workloads"),
        ("delete", "PersistentVolume", {"spec": LOCAL | {"local": None}}, None, "loses data"),
        ("update", "PersistentVolume", {"spec": LOCAL}, {"spec": LOCAL}, "safe"),
        ("delete", "StorageClass", {}, None, "safe"),
        ("update", "Deployment", {"spec": {"replicas": 1}}, {"spec": {"replicas": 2}}, "safe"),
        (
            "update",
            "Deployment",
            {"spec": {"template": {"a": 1}}},
            {"spec": {"template": {"a": 2}}},
            "restarts workloads",
        ),
        ("delete", "Deployment", {}, None, "restarts workloads"),
        ("update", "NetworkPolicy", {"spec": 1}, {"spec": 2}, "unknown effect"),
        ("create", "NetworkPolicy", None, {}, "safe"),
        ("update", "Secret", {"a": 1}, {"a": 2}, "safe"),
        ("delete", "IngressRoute", {}, None, "restarts workloads"),
        (
            "update",
            "Service",
            {"metadata": {"annotations": {"metallb.io/loadBalancerIPs": "172.16.20.100"}}},
            {"metadata": {"annotations": {"metallb.io/loadBalancerIPs": "172.16.20.101"}}},
            "restarts workloads",
        ),
        (
            "update",
            "IPAddressPool",
            {"spec": {"addresses": ["172.16.20.100-172.16.20.150"]}},
            {"spec": {"addresses": ["172.16.20.96/27", "172.16.20.128/26"]}},
            "safe",
        ),
    ],
)
def test_an_object_of_the_cluster_has_its_class(
    op: str, kind: str, old: Any, new: Any, verdict: str
) -> None:
    assert reviewed(kubernetes(op, kind, old, new)).verdict == verdict


def test_a_definition_is_named_without_its_group() -> None:
    kind, name = "CustomResourceDefinition", "gatewayclasses.gateway.networking.k8s.io"
    found = reviewed(step("delete", f"kubernetes:apiextensions.k8s.io/v1:{kind}", name, {}, None))
    assert found.rows[0].who == "gatewayclasses"
    assert name in markdown(found)


def test_a_long_list_of_fields_is_folded() -> None:
    new = main_document({"sysctls": {f"net.{n}": str(n) for n in range(9)}})
    comment = markdown(reviewed(*configuration("node01", main_document({}), new)))
    open_part, _, folded = comment.partition("<details><summary>4 more lines</summary>")
    assert "net.4" in open_part
    assert "net.5" not in open_part
    assert "net.8" in folded


def test_a_layer_that_goes_takes_its_policies_along() -> None:
    layer = "platform:kubernetes:MetricsServer"
    parent = f"urn:pulumi:prod::platform::{layer}::metrics-server"
    found = reviewed(
        kubernetes("delete", "NetworkPolicy", {}, within=layer, parent=parent),
        kubernetes("delete", "Namespace", {}, within=layer, parent=parent),
        step("delete", layer, "metrics-server", {}, None),
    )
    assert found.verdict == "restarts workloads"


def test_a_release_that_cannot_be_rendered_has_an_unknown_effect() -> None:
    old = {"chart": "nobody-has-it", "version": "1.0.0", "namespace": "x", "values": {"a": 1}}
    new = old | {"values": {"a": 2}}
    found = reviewed(step("update", RELEASE, "nobody-has-it", old, new))
    assert found.verdict == "unknown effect"
    assert found.charts[0].values == (("a", "1", "2"),)
    assert "nobody-has-it-1.0.0.tgz" in found.charts[0].problem


# What to watch.


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("2026-12-01T00:00:00+00:00", "kubeconfig ends in 7 days"),
        ("2026-11-01T00:00:00+00:00", "kubeconfig ended 23 days ago"),
        ("2027-06-01T00:00:00+00:00", ""),
    ],
)
def test_credentials_that_end_within_sixty_days_are_watched(end: str, says: str) -> None:
    stack = step("same", "pulumi:pulumi:Stack", "platform-prod", {}, {})
    stack["oldState"]["outputs"] = {"expires": {"kubeconfig": end}}
    found = watched(stack)
    assert says in " ".join(found)
    assert bool(found) == bool(says)


def test_a_secret_that_ends_is_watched_with_the_page_that_renews_it() -> None:
    stack = step("same", "pulumi:pulumi:Stack", "platform-prod", {}, {})
    stack["oldState"]["outputs"] = {"expires": {"dnsToken": "2026-12-01"}}
    (watch,) = watched(stack)
    assert watch.startswith("dnsToken ends in 7 days (2026-12-01): ")
    assert "docs/procedures/rotate-secret.md" in watch


def test_machine_secrets_without_protection_are_watched() -> None:
    open_, closed = (step("same", SECRETS, "prod", {}, {}, protect=one) for one in (False, True))
    assert "not protected" in watched(open_)[0]
    assert watched(closed) == []


def test_credentials_that_are_renewed_are_no_change_of_the_clusters_keys() -> None:
    def update(*paths: str) -> Review:
        detail = {path: {"kind": "update"} for path in paths}
        return reviewed(step("update", SECRETS, "prod", {}, {}, protect=True, detailedDiff=detail))

    credentials = update("clientConfiguration.clientKey", "clientConfiguration.clientCertificate")
    assert credentials.verdict == "safe"
    assert "talosconfig" in markdown(credentials)
    assert update("clientConfiguration.clientKey", "machineSecrets").verdict != "safe"


def test_an_old_backup_is_watched_and_a_fresh_one_is_not() -> None:
    for newest, old in (("2026-11-20T01:00:00Z", True), ("2026-11-24T01:00:00Z", False)):
        job = step("same", "kubernetes:batch/v1:CronJob", "etcd-backup", {}, {})
        job["oldState"]["outputs"] = {"status": {"lastSuccessfulTime": newest}}
        assert bool(watched(job)) == old


# How it is written.


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["node01", "node02", "node03"], "node01-03"),
        (["node01", "node03"], "node01, node03"),
        (["node01", "node02"], "node01, node02"),
        (["node09", "node10", "node11"], "node09-11"),
        (["a", "b"], "a, b"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
        (["node01", "node01"], "node01"),
        ([], ""),
    ],
)
def test_names_are_folded(names: list[str], text: str) -> None:
    assert fold(names) == text


def test_every_verdict_has_a_sign_and_a_code_of_its_own() -> None:
    assert set(SIGNS) == {one.words for one in Verdict}
    assert len({one.exit_code for one in Verdict}) == len(Verdict)
    assert len({one.rank for one in Verdict}) == len(Verdict)


def test_a_table_survives_what_the_cluster_is_full_of() -> None:
    old, new = main_document({}), main_document({"sysctls": {"a|b": "`1`\n2"}})
    comment = markdown(reviewed(*configuration("node01", old, new)))
    row = next(
        line for line in comment.splitlines() if "sysctls" in line and line.startswith("| n")
    )
    assert row.replace("\\|", "").count("|") == 5


# Policies.


def test_two_control_planes_made_again_at_once_are_refused_by_the_policies() -> None:
    steps = [
        step("replace", VM, name, {"disks": DISKS}, {"disks": DISKS})
        for name in ("node01", "node02")
    ]
    found = reviewed(*steps)
    assert (found.verdict, found.exit_code) == ("refused", 60)
    assert "quorum" in found.forbidden[0]
    assert "**forbidden** by the policies" in markdown(found)


def test_a_plan_that_takes_much_away_is_advised_against() -> None:
    found = reviewed(
        *(
            kubernetes("delete", "Role", {})
            | {"urn": f"urn:pulumi:prod::platform::kubernetes:v1:Role::r{n}"}
            for n in range(21)
        )
    )
    assert found.verdict == "safe"
    assert "21 resources" in found.discouraged[0]


# A machine's Talos.


def talos_gate(op: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Review:
    return reviewed(*(step(op, GATE, f"node0{n}-talos", old, new) for n in (1, 2, 3)))


def release(version: str, image: str = "a") -> dict[str, Any]:
    return {"version": version, "image": f"factory/vmware-installer/{image}:{version}"}


def test_another_talos_reboots_every_machine_in_order_and_says_for_how_long() -> None:
    found = talos_gate("update", release("v1.13.9"), release("v1.13.10"))
    assert found.verdict == "reboots machines"
    assert "node01-03 is upgraded from Talos v1.13.9 to v1.13.10" in found.sentence
    assert found.order == ("node01", "node02", "node03")
    assert "quorum holds: node01 then node02 then node03" in found.quorum
    assert "2-10 minutes" in found.rows[0].away


def test_another_image_of_the_same_talos_reboots_too() -> None:
    found = talos_gate("update", release("v1.13.9"), release("v1.13.9", "b"))
    assert found.verdict == "reboots machines"
    assert "gets another image of Talos v1.13.9" in found.sentence


def test_a_reboot_of_the_configuration_is_that_of_the_upgrade() -> None:
    upgrade = step("update", GATE, "node01-talos", release("v1.13.9"), release("v1.13.10"))
    udev = main_document({"udev": {"rules": ["SUBSYSTEM"]}})
    found = reviewed(upgrade, *configuration("node01", main_document({}), udev))
    rows = {one.what: one.away for one in found.rows if "udev" in one.what}
    assert [*rows.values()] == ["no longer than the upgrade: it is one reboot"], rows
    alone = reviewed(*configuration("node01", main_document({}), udev))
    assert "1-2 minutes" in alone.rows[0].away


@pytest.mark.parametrize("version", ["v1.15.0", "v1.12.9"])
def test_a_talos_that_no_machine_may_go_to_is_refused(version: str) -> None:
    found = talos_gate("update", release("v1.13.9"), release(version))
    assert found.verdict == "refused"
    assert "one minor version at a time" in found.sentence


def test_a_stack_from_before_upgrades_learns_what_its_machines_run() -> None:
    found = talos_gate("create", None, release("v1.13.9"))
    assert (found.verdict, found.order) == ("safe", ())


def test_a_machine_moves_to_another_datastore_while_it_runs() -> None:
    found = reviewed(vm_update(datastoreId=("ds-1", "ds-2")))
    assert found.verdict == "safe"
    assert "moves to another datastore, live" in found.sentence
    assert reviewed(vm_update(storagePolicyId=("gold", "silver"))).verdict == "safe"


def test_a_library_that_goes_takes_its_images_along() -> None:
    library = "vsphere:index/contentLibrary:ContentLibrary"
    found = reviewed(step("delete", library, "images", {"name": "platform-prod"}, None))
    assert found.verdict == "loses data"
    assert "`pulumi state delete` first where it is to stay (site.existing)" in found.sentence
