"""The configuration documents that follow from the settings, and the files before them."""

from pathlib import Path
from typing import Any

import yaml

from components.configuration import documents, patches
from config import Settings, parse
from tests.unit.recorder import ROOT, machine, production, without_services

LOGS = {"services": ["tcp://logs.example.com:5170"], "kernel": ["udp://logs.example.com:5171"]}


def settings(**changes: object) -> Settings:
    return parse(without_services(production()) | changes)


def by_kind(model: Settings, name: str) -> dict[str, Any]:
    (one,) = (entry for entry in model.machines if entry.name == name)
    return {document.get("kind", "main"): document for document in documents(model, one)}


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
    node = machine("node01", "172.16.20.51", labels={"zone": "a"}, taints=taints)
    main = by_kind(settings(machines=[node]), "node01")["main"]["machine"]
    assert main["nodeLabels"] == {"zone": "a"}
    assert main["nodeTaints"] == {"dedicated": "gpu:NoSchedule", "spot": ":NoExecute"}


def test_the_image_to_install_is_the_one_that_the_machine_was_made_from() -> None:
    model = settings()
    install = by_kind(model, "node01")["main"]["machine"]["install"]
    assert install == {"disk": "/dev/sda", "image": model.installer_image}
    assert f"/{model.talos.schematic_id}/" in model.ova_url
    assert install["image"].endswith(f"/{model.talos.schematic_id}:v1.13.9")


def test_files_come_first_common_then_role_then_the_machines_own(tmp_path: Path) -> None:
    model = settings()
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    for name in ("common", "controlplane", "worker", "node01", "node02"):
        (folder / f"{name}.yaml").write_text(f"# {name}")
    found = patches(model, model.machines[0], tmp_path)
    assert found[:3] == ["# common", "# controlplane", "# node01"]
    assert yaml.safe_load(found[3])["machine"]["install"]["disk"] == "/dev/sda"
    assert not any("# worker" in text or "# node02" in text for text in found)


def test_the_production_files_harden_the_cluster() -> None:
    model = settings()
    texts = patches(model, model.machines[0], ROOT)
    common, control_plane = (yaml.safe_load(text) for text in texts[:2])
    assert common["cluster"]["proxy"]["disabled"] is True
    assert common["cluster"]["network"]["cni"]["name"] == "none"
    assert common["machine"]["features"]["kubePrism"] == {"enabled": True, "port": 7445}
    assert common["machine"]["kubelet"]["extraArgs"]["rotate-server-certificates"] == "true"
    api = control_plane["cluster"]["apiServer"]
    assert api["admissionControl"][0]["configuration"]["defaults"]["enforce"] == "baseline"
    levels = {rule["level"] for rule in api["auditPolicy"]["rules"]}
    assert levels == {"None", "Metadata"}, "contents of requests hold secrets"
    access = control_plane["machine"]["features"]["kubernetesTalosAPIAccess"]
    assert access["allowedRoles"] == ["os:etcd:backup"]
