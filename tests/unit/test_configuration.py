"""The configuration documents that follow from the settings, and the files before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clients.talosctl import TalosctlError
from components.talos import patch_validation
from components.talos.configuration import documents, patches
from components.talos.inputs import TalosInputs
from components.talos.patch_files import PatchError, check_patch_files
from components.talos.patch_rules import CONTAINERD
from components.talos.patch_validation import find_talosctl, validate
from config import Settings, SettingsError, parse, plain_yaml
from config.versions import TALOS
from tests.unit.recorder import ROOT, install_talosctl, machine, production, without_services

LOGS = {"services": ["tcp://logs.example.com:5170"], "kernel": ["udp://logs.example.com:5171"]}


def settings(**changes: object) -> Settings:
    return parse(without_services(production()) | changes)


def write_patches(project: Path, **texts: str) -> None:
    """Write these files of patches into a project, as NAME.yaml."""
    folder = project / "clusters" / "prod"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def kubelet(extra: str) -> str:
    """Write a patch of the kubelet's own configuration."""
    return f"machine: {{kubelet: {{extraConfig: {extra}}}}}"


def arguments(component: str, name: str) -> str:
    """Write a patch with an argument of a component."""
    return f"cluster: {{{component}: {{extraArgs: {{{name}: '1'}}}}}}"


GOOD_KUBELET = kubelet(
    "{maxPods: 200, failSwapOn: false, memoryThrottlingFactor: 0.9, syncFrequency: 1m30s, "
    "providerID: 'a', allowedUnsafeSysctls: [net.core.a], tlsCurvePreferences: [29], "
    "reservedMemory: [{numaNode: 0}], featureGates: {A: true}, systemReserved: {pid: '1000'}, "
    "staticPodURLHeader: {a: [b]}, logging: {verbosity: 2}, nodeStatusMaxImages: null, "
    "evictionHard: {$patch: delete}}"
)


def by_kind(model: Settings, name: str) -> dict[str, Any]:
    (one,) = (entry for entry in model.machines if entry.name == name)
    return {
        document.get("kind", "main"): document for document in documents(TalosInputs.of(model), one)
    }


def test_a_machine_has_its_own_address_name_and_route_and_no_other() -> None:
    found = by_kind(settings(), "node02")
    assert found["HostnameConfig"] == {
        "apiVersion": "v1alpha1",
        "kind": "HostnameConfig",
        "auto": "off",
        "hostname": "node02",
    }
    assert found["LinkConfig"]["name"] == "eth0"
    assert found["LinkConfig"]["addresses"] == [{"address": "172.16.20.52/24"}]
    # The default route is the one without a destination.
    assert found["LinkConfig"]["routes"] == [{"gateway": "172.16.20.1"}]
    assert found["ResolverConfig"]["nameservers"] == [{"address": "172.16.20.1"}]
    assert found["TimeSyncConfig"]["ntp"] == {"servers": ["time.cloudflare.com"]}


def test_a_further_card_has_an_address_and_no_default_route() -> None:
    card = {"network": "storage", "address": "192.168.20.51/24", "mtu": 9000}
    model = settings(machines=[machine("node01", "172.16.20.51", networks=[card])])
    links = [
        one
        for one in documents(TalosInputs.of(model), model.machines[0])
        if one.get("kind") == "LinkConfig"
    ]
    assert [one["name"] for one in links] == ["eth0", "eth1"]
    assert links[1] == {
        "apiVersion": "v1alpha1",
        "kind": "LinkConfig",
        "name": "eth1",
        "mtu": 9000,
        "addresses": [{"address": "192.168.20.51/24"}],
    }
    main = by_kind(model, "node01")["main"]
    assert main["machine"]["kubelet"]["nodeIP"]["validSubnets"] == ["172.16.20.51/32"]
    assert main["cluster"]["etcd"]["advertisedSubnets"] == ["172.16.20.51/32"]


def test_a_patch_may_give_a_further_card_a_route(tmp_path: Path) -> None:
    card = {"network": "storage", "address": "192.168.20.51/24"}
    model = settings(machines=[machine("node01", "172.16.20.51", networks=[card])])
    link = "apiVersion: v1alpha1\nkind: LinkConfig\nname: eth1\n"
    route = "routes: [{destination: 10.9.0.0/16, gateway: 192.168.20.1}]"
    write_patches(tmp_path, node01=link + route)
    check_patch_files(model, tmp_path)
    write_patches(tmp_path, node01=link + "addresses: [{address: 192.168.20.99/24}]")
    with pytest.raises(PatchError, match="`address` or `networks`"):
        check_patch_files(model, tmp_path)


def test_the_vip_is_announced_by_control_planes_only() -> None:
    model = settings(
        machines=[*production()["machines"], machine("worker01", "172.16.20.61", "worker")]
    )
    vip = by_kind(model, "node01")["Layer2VIPConfig"]
    assert (vip["name"], vip["link"]) == ("172.16.20.250", "eth0")
    assert "Layer2VIPConfig" not in by_kind(model, "worker01")


def test_etcd_and_the_kubelet_never_use_the_vip() -> None:
    main = by_kind(settings(), "node01")["main"]
    assert main["cluster"]["etcd"]["advertisedSubnets"] == ["172.16.20.51/32"]
    assert main["machine"]["kubelet"]["nodeIP"]["validSubnets"] == ["172.16.20.51/32"]


def test_the_api_server_is_certified_for_the_vip_and_every_control_plane() -> None:
    model = settings(
        machines=[*production()["machines"], machine("worker01", "172.16.20.61", "worker")]
    )
    assert by_kind(model, "node03")["main"]["cluster"]["apiServer"]["certSANs"] == [
        "172.16.20.250",
        "172.16.20.51",
        "172.16.20.52",
        "172.16.20.53",
    ]
    assert "apiServer" not in by_kind(model, "worker01")["main"]["cluster"]
    assert "etcd" not in by_kind(model, "worker01")["main"]["cluster"]


def test_a_platform_without_a_vip_names_none() -> None:
    network = {key: value for key, value in production()["network"].items() if key != "vip"}
    model = settings(machines=production()["machines"][:1], network=network)
    found = by_kind(model, "node01")
    assert "Layer2VIPConfig" not in found
    assert found["main"]["cluster"]["apiServer"]["certSANs"] == ["172.16.20.51"]


def test_logs_go_where_the_settings_say_as_json_lines() -> None:
    talos = production()["talos"] | {"logDestinations": LOGS}
    found = by_kind(settings(talos=talos), "node01")
    assert found["main"]["machine"]["logging"] == {
        "destinations": [{"endpoint": "tcp://logs.example.com:5170", "format": "json_lines"}]
    }
    kernel = found["KmsgLogConfig"]
    assert (kernel["name"], kernel["url"]) == ("kernel-0", "udp://logs.example.com:5171")
    assert "logging" not in by_kind(settings(), "node01")["main"]["machine"]


def test_labels_and_taints_of_the_settings_reach_the_node() -> None:
    taints = [
        {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
        {"key": "spot", "effect": "NoExecute"},
    ]
    nodes = [
        machine("node01", "172.16.20.51", labels={"zone": "a"}, taints=taints),
        {**machine("node02", "172.16.20.52"), "role": "worker"},
    ]
    main = by_kind(settings(machines=nodes), "node01")["main"]["machine"]
    assert main["nodeLabels"] == {"zone": "a"}
    assert main["nodeTaints"] == {"dedicated": "gpu:NoSchedule", "spot": ":NoExecute"}


def test_a_workers_taints_are_those_that_its_kubelet_registers_it_with() -> None:
    # Kubernetes 1.34, plugin/pkg/admission/noderestriction: "is not allowed to modify taints".
    taints = [
        {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
        {"key": "spot", "effect": "NoExecute"},
    ]
    worker = machine("work01", "172.16.20.61", "worker", labels={"rack": "r1"}, taints=taints)
    model = settings(machines=[*production()["machines"], worker])
    main = by_kind(model, "work01")["main"]["machine"]
    assert "nodeTaints" not in main
    assert main["kubelet"]["extraConfig"]["registerWithTaints"] == [
        {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
        {"key": "spot", "value": "", "effect": "NoExecute"},
    ]
    assert main["nodeLabels"] == {"rack": "r1"}


def test_the_image_to_install_is_the_one_that_the_machine_was_made_from() -> None:
    model = settings()
    install = by_kind(model, "node01")["main"]["machine"]["install"]
    assert install == {"disk": "/dev/sda", "image": model.installer_image}
    assert f"/{model.talos.schematic_id}/" in model.ova_url
    assert install["image"].endswith(f"/{model.talos.schematic_id}:v{TALOS}")


def test_files_come_first_common_then_role_then_the_machines_own(tmp_path: Path) -> None:
    model = settings()
    files = ("common", "controlplane", "worker", "node01", "node02")
    write_patches(tmp_path, **{name: f"machine: {{}} # {name}" for name in files})
    found = patches(TalosInputs.of(model), model.machines[0], tmp_path)
    names = [text.partition("# ")[2] for text in found[1:4]]
    assert names == ["common", "controlplane", "node01"]
    assert plain_yaml.read(found[4])["machine"]["install"]["disk"] == "/dev/sda"
    assert not any("# worker" in text or "# node02" in text for text in found)


def test_the_production_files_harden_the_cluster() -> None:
    text = (ROOT / "clusters" / "prod" / "controlplane.yaml").read_text(encoding="utf-8")
    api = plain_yaml.read(text)["cluster"]["apiServer"]
    assert api["admissionControl"][0]["configuration"]["defaults"]["enforce"] == "baseline"
    levels = {rule["level"] for rule in api["auditPolicy"]["rules"]}
    assert levels == {"None", "Metadata"}, "contents of requests hold secrets"


def audited(verb: str, resource: str, group: str = "") -> str:
    """Give the level of a request: that of the first rule that matches, as the API server does."""
    text = (ROOT / "clusters" / "prod" / "controlplane.yaml").read_text(encoding="utf-8")
    for rule in plain_yaml.read(text)["cluster"]["apiServer"]["auditPolicy"]["rules"]:
        resources = [
            (one["group"], name) for one in rule.get("resources", []) for name in one["resources"]
        ]
        if verb in rule.get("verbs", [verb]) and (not resources or (group, resource) in resources):
            return str(rule["level"])
    return "None"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        *((verb, f"pods/{name}") for verb in ("get", "create") for name in ("exec", "attach")),
        *((verb, "pods/portforward") for verb in ("get", "create")),
        ("get", "pods/proxy"),
        ("get", "services/proxy"),
        ("get", "nodes/proxy"),
        ("create", "serviceaccounts/token"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("delete", "pods"),
        ("patch", "pods/ephemeralcontainers"),
    ],
)
def test_what_opens_a_pod_or_a_credential_is_in_the_audit_log(verb: str, resource: str) -> None:
    assert audited(verb, resource) == "Metadata"


def test_other_reads_and_leases_do_not_fill_the_audit_log() -> None:
    assert audited("list", "pods") == "None"
    assert audited("get", "pods/log") == "None"
    assert audited("update", "leases", "coordination.k8s.io") == "None"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"key": "nodeId"}, {"slot": 0, "nodeID": {}}),
        (
            {"key": "kms", "endpoint": "https://kms.example.com:4050"},
            {"slot": 0, "kms": {"endpoint": "https://kms.example.com:4050"}},
        ),
    ],
)
def test_the_partitions_that_hold_keys_are_encrypted_where_the_settings_say_so(
    given: dict[str, str], key: dict[str, Any]
) -> None:
    model = settings(talos=production()["talos"] | {"diskEncryption": given})
    found = [
        one
        for one in documents(TalosInputs.of(model), model.machines[0])
        if one.get("kind") == "VolumeConfig"
    ]
    assert [one["name"] for one in found] == ["STATE", "EPHEMERAL"]
    assert all(one["encryption"] == {"provider": "luks2", "keys": [key]} for one in found)
    assert "VolumeConfig" not in by_kind(settings(), "node01")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"key": "kms"}, "kms without `endpoint`"),
        ({"key": "nodeId", "endpoint": "https://kms.example.com"}, "nodeId with `endpoint`"),
        ({"key": "tpm"}, "platform:talos.diskEncryption.key"),
    ],
)
def test_an_encryption_that_cannot_be_is_refused(given: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(talos=production()["talos"] | {"diskEncryption": given})
    assert fault in str(caught.value)


def test_machines_find_each_other_without_the_discovery_service_where_the_settings_say_so() -> None:
    model = settings(talos=production()["talos"] | {"discovery": False})
    assert by_kind(model, "node01")["main"]["cluster"]["discovery"] == {"enabled": False}
    assert "discovery" not in by_kind(settings(), "node01")["main"]["cluster"]


# --- What the layers stand on --------------------------------------------------------------------


def test_a_cluster_without_any_file_has_what_the_layers_stand_on() -> None:
    model = parse(production())
    main = by_kind(model, "node01")["main"]
    assert main["cluster"]["network"]["cni"] == {"name": "none"}
    assert main["cluster"]["proxy"] == {"disabled": True}
    assert main["machine"]["kubelet"]["extraArgs"] == {"rotate-server-certificates": "true"}
    features = main["machine"]["features"]
    assert features["kubePrism"] == {"enabled": True, "port": 7445}
    assert features["kubernetesTalosAPIAccess"] == {
        "enabled": True,
        "allowedRoles": ["os:etcd:backup"],
        "allowedKubernetesNamespaces": ["platform-backup"],
    }


def test_names_outside_resolve_with_ciliums_masquerading_in_ebpf() -> None:
    features = by_kind(settings(), "node01")["main"]["machine"]["features"]
    assert features["hostDNS"] == {"enabled": True, "forwardKubeDNSToHost": False}


def test_talos_can_be_asked_for_snapshots_only_where_there_are_backups() -> None:
    model = parse(
        production()
        | {"machines": [*production()["machines"], machine("work01", "172.16.20.61", "worker")]}
    )
    access = "kubernetesTalosAPIAccess"
    assert access not in by_kind(model, "work01")["main"]["machine"]["features"]
    assert access not in by_kind(settings(), "node01")["main"]["machine"]["features"]


def test_control_planes_run_workloads_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    model = settings(
        machines=[*production()["machines"], machine("work01", "172.16.20.61", "worker")]
    )
    given = "cluster: {allowSchedulingOnControlPlanes: false}"
    write_patches(tmp_path, controlplane=given)
    check_patch_files(model, tmp_path)
    first, second = patches(TalosInputs.of(model), model.machines[0], tmp_path)[:2]
    assert plain_yaml.read(first)["cluster"] == {"allowSchedulingOnControlPlanes": True}
    assert second == given


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        (
            "common",
            "cluster: {network: {cni: {name: flannel}}}",
            "cluster.network.cni.name = flannel: the platform sets none; remove it",
        ),
        (
            "common",
            "machine: {features: {hostDNS: {forwardKubeDNSToHost: true}}}",
            "machine.features.hostDNS.forwardKubeDNSToHost = True: the platform sets False",
        ),
        ("controlplane", "cluster: {proxy: {disabled: false}}", "cluster.proxy.disabled = False"),
        ("common", "cluster: {proxy: {$patch: delete}}", "cluster.proxy = {'$patch': 'delete'}"),
        ("node02", "machine: {install: {disk: /dev/sdb}}", "set platform:talos.installDisk"),
        (
            "common",
            "cluster: {network: {podSubnets: [10.1.0.0/16]}}",
            (
                "cluster.network.podSubnets = ['10.1.0.0/16']: the platform sets "
                "['10.244.0.0/16']; remove it, and set platform:network.pods"
            ),
        ),
        (
            "common",
            "apiVersion: v1alpha1\nkind: TimeSyncConfig\nntp: {servers: [ntp.example.com]}",
            "remove it, and set platform:network.timeServers",
        ),
        (
            "node01",
            "machine: {network: {hostname: one}}",
            "machine.network.hostname: clashes with the document",
        ),
        (
            "controlplane",
            "cluster: {apiServer: {image: registry.example.com/kube-apiserver:v1.34.1}}",
            "cluster.apiServer.image: an upgrade of Kubernetes writes it",
        ),
        (
            "controlplane",
            (
                "machine: {nodeLabels: {node.kubernetes.io/exclude-from-external-load-balancers: "
                "{$patch: delete}}}"
            ),
            "the platform has removed it already",
        ),
        (
            "controlplane",
            "cluster: {allowSchedulingOnControlPlanes: false}",
            "without workers nothing could run",
        ),
        ("controlplane", "machine: {type: worker}", "set the machine's `role`"),
        ("common", "machine: {install: {diskSelector: {model: x}}}", "set platform:talos.installD"),
        (
            "common",
            "machine: {kubelet: {extraArgs: {hostname-override: x}}}",
            "set the machine's `na",
        ),
        ("common", "machine: {kubelet: {extraArgs: {config: /x}}}", "Talos sets it itself"),
        (
            "node01",
            "machine: {kubelet: {extraArgs: {node-labels: 'a=b,node-role.kubernetes.io/x='}}}",
            "node-role.kubernetes.io/x is a label that no kubelet may set",
        ),
        (
            "controlplane",
            "cluster: {apiServer: {extraArgs: {etcd-servers: 'https://10.0.0.1:2379'}}}",
            "cluster.apiServer.extraArgs.etcd-servers: Talos sets it itself",
        ),
        (
            "controlplane",
            "cluster: {controllerManager: {extraArgs: {allocate-node-cidrs: 'false'}}}",
            "the platform's layers stand on true",
        ),
        ("common", "cluster: {network: {dnsDomain: corp.local}}", "stand on cluster.local"),
        ("common", "cluster: {clusterName: stage}", "set platform:cluster.name"),
        (
            "common",
            "machine: {files: [{path: /etc/x, op: create, content: a, permissions: 420}]}",
            "machine.files[0].path = /etc/x: Talos makes files below /var alone",
        ),
        ("common", "machine: {time: {bootTimeout: 2m}}", "`bootTimeout` in a TimeSyncConfig"),
        ("common", "machine: {network: {searchDomains: [a.de]}}", "in a ResolverConfig document"),
        ("common", "machine: {nodeTaints: {a: 'b:NoSchedule'}}", "keeps pods away from every mach"),
        ("common", "- {op: add, path: /machine/sysctls, value: {}}", "JSON patches"),
        ("common", "machine: {pods: []}\n---\nmachine: {env: {}}", "two documents of machine and"),
        ("common", "machine: [", "not valid YAML"),
        ("common", "words", "words is not a document"),
        (
            "common",
            "machine: {kublet: {}}",
            "machine.kublet: no field of Talos' configuration; did",
        ),
        (
            "common",
            "clsuter: {}",
            "clsuter: no field of Talos' configuration; did you mean `cluster`",
        ),
        ("common", "machine: {kubelet: {extraArg: {}}}", "did you mean `extraArgs`?"),
        ("common", kubelet("{maxPod: 200}"), "extraConfig.maxPod: no field of the kubelet's conf"),
        ("common", kubelet("{maxPod: 200}"), "did you mean `maxPods`?"),
        ("common", kubelet("{port: 10250}"), "extraConfig.port: Talos sets it itself"),
        ("common", kubelet("{maxPods: '200'}"), '= "200": is to be a whole number; write it'),
        ("common", kubelet("{maxPods: true}"), "= true: is to be a whole number"),
        ("common", kubelet("{failSwapOn: 'no'}"), "is to be a switch; write true or false"),
        ("common", kubelet("{memoryThrottlingFactor: a}"), "is to be a number"),
        (
            "common",
            kubelet("{syncFrequency: 60}"),
            '= 60: is to be a duration; write it as in "30s"',
        ),
        ("common", kubelet("{syncFrequency: 1 minute}"), "is to be a duration"),
        ("common", kubelet("{providerID: 1}"), "= 1: is to be a text; write it in quotes"),
        ("common", kubelet("{allowedUnsafeSysctls: net.core.a}"), "is to be a list of texts"),
        ("common", kubelet("{tlsCurvePreferences: [a]}"), "is to be a list of whole numbers"),
        ("common", kubelet("{reservedMemory: [a]}"), "is to be a list of objects"),
        ("common", kubelet("{featureGates: {a: 'true'}}"), "is to be switches by name"),
        ("common", kubelet("{systemReserved: {pid: 1000}}"), "each value in quotes"),
        ("common", kubelet("{staticPodURLHeader: {a: b}}"), "is to be lists of texts by name"),
        ("common", kubelet("{logging: json}"), "is to be an object"),
        (
            "controlplane",
            arguments("apiServer", "max-request-inflight"),
            "max-request-inflight: kube-apiserver has no such argument, and will not start; did",
        ),
        (
            "controlplane",
            arguments("apiServer", "maxRequestsInflight"),
            "did you mean `max-requests-inflight`?",
        ),
        (
            "controlplane",
            arguments("controllerManager", "node-monitor-graceperiod"),
            "cluster.controllerManager.extraArgs.node-monitor-graceperiod: kube-controller-manager",
        ),
        (
            "controlplane",
            arguments("scheduler", "--leader-elect"),
            "write it as `leader-elect`: Talos puts the dashes before it",
        ),
        (
            "controlplane",
            arguments("etcd", "quota_backend_bytes"),
            "etcd has no such argument, and will not start; did you mean `quota-backend-bytes`?",
        ),
        (
            "common",
            "machine: {kubelet: {extraArgs: {rotate-server-certificate: 'true'}}}",
            "did you mean `rotate-server-certificates`?",
        ),
        (
            "common",
            "machine: {token: hunter2}",
            "machine.token: a secret in plain text (not shown)",
        ),
        (
            "common",
            "machine: &m {sysctls: {a: *m}}",
            "has an alias that stands inside its own anchor",
        ),
        ("common", "machine: {sysctls: {a: '1', a: '2'}}", "machine.sysctls.a: given twice"),
        ("common", "machine: !m {}", "machine: a tag"),
        ("node01", "machine: " + "{a: " * 40 + "1" + "}" * 40, "is nested deeper than 20 levels"),
    ],
)
def test_a_file_that_contradicts_the_platform_is_refused_with_the_way_out(
    tmp_path: Path, file: str, text: str, fault: str
) -> None:
    model = parse(production())
    write_patches(tmp_path, **{file: text})
    with pytest.raises(PatchError) as caught:
        check_patch_files(model, tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"platform:talos.patches = clusters/prod: {file}.yaml: ")
    assert fault in line


def test_a_file_may_set_every_kind_of_field_of_the_kubelets_configuration(tmp_path: Path) -> None:
    write_patches(tmp_path, common=GOOD_KUBELET)
    check_patch_files(parse(production()), tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "max-requests-inflight"),
        ({}, "max_requests_inflight"),  # Kubernetes' components take it so too
        ({}, "alpha-of-tomorrow"),  # hidden in the help, or of another version
        ({}, "$patch"),
        ({"version": "1.35.6"}, "max-request-inflight"),  # may be new there
    ],
)
def test_an_argument_that_a_component_may_have_is_left_to_it(
    tmp_path: Path, given: dict[str, str], name: str
) -> None:
    model = settings(kubernetes=given)
    text = arguments("apiServer", name).replace("'1'", "delete" if name == "$patch" else "'1'")
    write_patches(tmp_path, controlplane=text)
    check_patch_files(model, tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "machine: {nodeLabels: {node-role.kubernetes.io/worker: ''}}",
            "node-role.kubernetes.io/worker",
        ),
        (
            "machine: {nodeLabels: {a.k8s.io/b: ''}}",
            "a label that a worker may not set on its node",
        ),
        ("machine: {nodeTaints: {dedicated: 'a:NoSchedule'}}", "set the machine's `taints`"),
    ],
)
def test_a_files_labels_and_taints_that_a_workers_node_would_lose_are_refused(
    tmp_path: Path, text: str, fault: str
) -> None:
    workers = [machine("work01", "172.16.20.61", "worker")]
    model = settings(machines=[*production()["machines"], *workers])
    write_patches(tmp_path, worker=text)
    with pytest.raises(PatchError, match=r"worker\.yaml: machine\.node") as caught:
        check_patch_files(model, tmp_path)
    assert fault in str(caught.value)


def test_what_desktops_and_git_leave_and_notes_are_no_patches(tmp_path: Path) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    (folder / "gitops").mkdir(parents=True)
    for name in (".DS_Store", ".gitkeep", "README.md", "common.yaml~", ".common.yaml.swp"):
        (folder / name).write_text("\0")
    check_patch_files(model, tmp_path)


@pytest.mark.parametrize("name", ["node01.yml", "node01.json", "comon.yaml", "node04.yaml"])
def test_a_file_that_may_be_meant_as_a_patch_is_refused(tmp_path: Path, name: str) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / name).write_text("machine: {}")
    with pytest.raises(PatchError, match=f"{name} is used for no machine"):
        check_patch_files(model, tmp_path)


def test_a_file_of_comments_alone_is_not_given_to_talos(tmp_path: Path) -> None:
    # Talos takes it for a JSON patch, and refuses that.
    model = parse(production())
    write_patches(tmp_path, node01="---\n# nothing here yet\n")
    check_patch_files(model, tmp_path)
    assert not any(
        "nothing here" in one for one in patches(TalosInputs.of(model), model.machines[0], tmp_path)
    )


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parse(production())
    write_patches(tmp_path, node01="machine: {}")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PatchError, match=r"node01\.yaml: cannot be read: Permission denied"):
        check_patch_files(model, tmp_path)


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    model = parse(production())
    write_patches(
        tmp_path,
        common="cluster: {proxy: {disabled: false}}",
        node01="machine: {install: {disk: /dev/sdb}}",
        wroker="machine: {}",
    )
    with pytest.raises(PatchError) as caught:
        check_patch_files(model, tmp_path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "machine: {}",
        "machine: {sysctls: {vm.max_map_count: '262144'}, certSANs: [api.example.com]}",
        "machine: {features: {kubePrism: {enabled: true}}}",
        "apiVersion: v1alpha1\nkind: LinkConfig\nname: eth0\nmtu: 9000",
        "apiVersion: v1alpha1\nkind: LinkConfig\nname: eth1\naddresses: [{address: 10.0.0.1/24}]",
    ],
)
def test_a_file_may_add_to_what_the_platform_sets(tmp_path: Path, text: str) -> None:
    model = parse(production())
    write_patches(tmp_path, node01=text)
    check_patch_files(model, tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("common", "machine:\n# sysctls: {}"),
        ("common", "cluster: {network: {dnsDomain: cluster.local, cni: null}}"),
        ("common", "machine: {kubelet: {extraArgs: {node-labels: 'example.com/a=b'}}}"),
        ("common", "machine: {files: [{path: /var/x, op: create, content: a, permissions: 420}]}"),
        ("common", f"machine: {{files: [{{path: {CONTAINERD}, op: create, content: a}}]}}"),
        ("common", "machine: {files: [{path: /etc/hosts, op: append, content: a}]}"),
        ("node01", "machine: {nodeTaints: {a: 'b:NoSchedule'}}"),
        ("node01", "cluster: {allowSchedulingOnControlPlanes: false}"),
        ("common", "machine: {nodeTaints: {a: 'b:PreferNoSchedule'}}"),
    ],
)
def test_a_file_may_say_what_neither_talos_nor_the_platform_denies(
    tmp_path: Path, file: str, text: str
) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / f"{file}.yaml").write_text(text)
    check_patch_files(model, tmp_path)


@pytest.mark.parametrize("taint", ["NoSchedule", "NoExecute"])
def test_workers_that_keep_pods_away_are_no_place_to_run(tmp_path: Path, taint: str) -> None:
    taints = [{"key": "gpu", "effect": taint}]
    worker = machine("work01", "172.16.20.61", "worker", taints=taints)
    model = settings(machines=[*production()["machines"], worker])
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / "controlplane.yaml").write_text("cluster: {allowSchedulingOnControlPlanes: false}")
    with pytest.raises(PatchError, match="without workers nothing could run"):
        check_patch_files(model, tmp_path)


def test_a_firewall_of_a_file_alone_would_let_nobody_in(tmp_path: Path) -> None:
    raw = production()
    del raw["network"]["firewall"]
    model = parse(raw)
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    text = "apiVersion: v1alpha1\nkind: NetworkDefaultActionConfig\ningress: block"
    (folder / "common.yaml").write_text(text)
    with pytest.raises(PatchError, match=r"set platform:network\.firewall"):
        check_patch_files(model, tmp_path)


def test_a_mirror_that_the_settings_would_replace_is_refused(tmp_path: Path) -> None:
    mirror = {"registry": "docker.io", "endpoints": ["https://mirror.example.com"]}
    raw = production()
    raw["talos"]["mirrors"] = [mirror]
    model = parse(raw)
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    text = "machine: {registries: {mirrors: {docker.io: {endpoints: ['https://a']}, b.io: {}}}}"
    (folder / "common.yaml").write_text(text)
    with pytest.raises(PatchError) as caught:
        check_patch_files(model, tmp_path)
    assert "machine.registries.mirrors.docker.io: platform:talos.mirrors replaces it" in str(
        caught.value
    )
    assert "b.io" not in str(caught.value)


def test_what_has_the_name_of_a_patch_and_cannot_be_read_is_not_passed_over(
    tmp_path: Path,
) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / "common.yaml").symlink_to(tmp_path / "moved.yaml")
    (folder / "node01.yaml").mkdir()
    with pytest.raises(PatchError) as caught:
        check_patch_files(model, tmp_path)
    assert [line.partition(" = ")[2] for line in str(caught.value).splitlines()] == [
        "clusters/prod: common.yaml: no file that can be read; put the file there, or remove it",
        "clusters/prod: node01.yaml: no file that can be read; put the file there, or remove it",
    ]


def test_a_file_in_the_place_of_the_folder_is_told_as_that(tmp_path: Path) -> None:
    model = parse(production())
    (tmp_path / model.talos.patches).parent.mkdir(parents=True)
    (tmp_path / model.talos.patches).write_text("machine: {}")
    with pytest.raises(PatchError, match="a file; name the folder"):
        check_patch_files(model, tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing here yet", "---\n# a\n---\n", "{}", "null"])
def test_a_file_of_nothing_is_not_given_to_talosctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / "common.yaml").write_text("machine: {certSANs: [a.example.com]}")
    (folder / "node01.yaml").write_text(text)
    given: list[str] = []

    def run(*command: str) -> None:
        given.extend(command)

    monkeypatch.setattr(patch_validation, "_run", run)
    assert validate(model, tmp_path, "talosctl") == []
    assert f"@{folder / 'common.yaml'}" in given
    assert f"@{folder / 'node01.yaml'}" not in given


def test_what_talos_refuses_of_the_whole_is_told_with_the_file_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parse(production())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / "common.yaml").write_text("machine: {certSANs: [a.example.com]}")
    (folder / "node01.yaml").write_text("persist: false")

    def run(*command: str) -> str | None:
        """Refuse as `talosctl validate` does, what the patches before have brought."""
        if command[1] == "machineconfig":
            given = [Path(one[1:]).read_text() for one in command if one.startswith("@")]
            seen.append(any("persist: false" in one for one in given))
        return ".persist should be enabled" if command[1] == "validate" and seen[-1] else None

    seen: list[bool] = []
    monkeypatch.setattr(patch_validation, "_run", run)
    assert validate(model, tmp_path, "talosctl") == [
        "node01.yaml: Talos refuses it for node01: .persist should be enabled; correct it there"
    ]


def test_the_production_files_contradict_nothing() -> None:
    check_patch_files(parse(production()), ROOT)


def test_the_talosctl_that_checks_patches_is_one_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, lab = tmp_path / "bin", tmp_path / ".lab" / "bin"
    for folder in (own, lab):
        folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
    with pytest.raises(TalosctlError, match=r"not found on PATH; install talosctl v1\.13\.9"):
        find_talosctl(tmp_path, "v1.13.9")
    install_talosctl(own, "1.12.3")
    with pytest.raises(TalosctlError, match=r"version 1\.12\.3 does not fit Talos v1\.13\.9"):
        find_talosctl(tmp_path, "v1.13.9")
    install_talosctl(lab, "1.13.2")
    assert find_talosctl(tmp_path, "v1.13.9") == str(lab / "talosctl")
    install_talosctl(own, "1.13.9")
    assert find_talosctl(tmp_path, "v1.13.9") == str(own / "talosctl")
