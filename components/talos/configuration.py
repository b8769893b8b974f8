"""Layer Talos: the patches that make one machine's configuration, as YAML texts.

First the defaults that an operator may change, then the files that an operator writes
(`clusters/prod/`: common.yaml, then controlplane.yaml or worker.yaml, then NAME.yaml for a single
machine, each where it exists), then what the layers above stand on and what follows from the
settings. A file adds to these; one that contradicts them is refused (patch_files.py).
Field names are those of Talos 1.13's schema (pkg/machinery/config/schemas/config.schema.json).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.talos import firewall, volumes
from components.talos.inputs import TalosInputs
from components.vsphere.hardware import LINK, further_cards
from config import log_places, plain_yaml
from config.settings import Card, Machine

KUBEPRISM_PORT = 7445
"""Where the API is on every machine's localhost."""
BACKUP_ROLE = "os:etcd:backup"
BACKUP_NAMESPACE = "platform-backup"
ENCRYPTED_PARTITIONS = ("STATE", "EPHEMERAL")
EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Talos gives it to control planes."""
TRUSTED_ROOTS = "company"
"""The name of the document with the company's authorities."""
COMMON = "common"


def patches(
    inputs: TalosInputs, machine: Machine, root: Path, only: list[Path] | None = None
) -> list[str]:
    """List the patches of a machine, in the order in which Talos merges them.

    With `only` these of the operator's files, in place of all.
    """
    before = [written(document) for document in defaults(machine)]
    given = files(inputs.talos.patches, machine, root) if only is None else only
    texts = [file.read_text(encoding="utf-8") for file in given]
    # Talos takes a text of comments alone for a patch of another kind, which it does not know.
    own = [text for text in texts if any(plain_yaml.read_all(text))]
    return before + own + [written(document) for document in documents(inputs, machine)]


def files(patches: str, machine: Machine, root: Path) -> list[Path]:
    """List the operator's files for a machine that exist, in the order of their merging.

    `patches` is their folder in the repository, `root`.
    """
    folder = root / patches
    named = [folder / f"{name}.yaml" for name in (COMMON, machine.role, machine.name)]
    return [file for file in named if file.is_file()]


def written(document: dict[str, Any]) -> str:
    """Write a document as YAML."""
    return plain_yaml.written(document)


def defaults(machine: Machine) -> list[dict[str, Any]]:
    """List what a machine has as long as no file says otherwise: control planes run workloads."""
    if not machine.is_control_plane:
        return []
    return [
        {
            # MetalLB, and every load balancer in front of the machines, counts on them too.
            "machine": {"nodeLabels": {EXCLUDE_LABEL: {"$patch": "delete"}}},
            "cluster": {"allowSchedulingOnControlPlanes": True},
        }
    ]


def documents(inputs: TalosInputs, machine: Machine) -> list[dict[str, Any]]:
    """List the configuration documents that follow from the settings."""
    return [
        {"machine": _machine(inputs, machine), "cluster": _cluster(inputs, machine)},
        *_network(inputs, machine),
        *firewall.documents(inputs, machine),
        *_kernel_log(inputs),
        *_encryption(inputs),
        *(volumes.document(disk, _luks(inputs)) for disk in machine.volumes),
        *_outside(inputs),
    ]


def _machine(inputs: TalosInputs, machine: Machine) -> dict[str, Any]:
    own = str(machine.address)
    section: dict[str, Any] = {
        "install": {"disk": inputs.talos.install_disk, "image": inputs.installer_image},
        "certSANs": [own],
        # The machine's own address alone: the VIP lies in the same network, and moves.
        "kubelet": {
            "nodeIP": {"validSubnets": [f"{own}/32"]},
            # Serving certificates from the cluster's CA, so that metrics-server and `kubectl logs`
            # can verify them; an approver in the cluster signs the requests.
            "extraArgs": {"rotate-server-certificates": "true"},
        },
        "features": _features(inputs, machine),
    }
    if machine.labels:
        section["nodeLabels"] = dict(machine.labels)
    if machine.taints and machine.is_control_plane:
        section["nodeTaints"] = {one.key: f"{one.value}:{one.effect}" for one in machine.taints}
    elif machine.taints:
        # Talos sets a worker's `nodeTaints` with the kubelet's own rights, which the admission
        # NodeRestriction refuses, and with them all labels. A kubelet may bring taints when it
        # registers its node.
        section["kubelet"]["extraConfig"] = {
            "registerWithTaints": [one.model_dump() for one in machine.taints]
        }
    destinations: list[dict[str, Any]] = [
        {"endpoint": one, "format": "json_lines"} for one in inputs.talos.log_destinations.services
    ]
    if inputs.logs:
        # A line without a blank would be taken as one with the next (VictoriaLogs' syslog reader).
        tags = {"machine": machine.name, "source": "Talos service"}
        endpoint = log_places.services(inputs.network)
        destinations.append({"endpoint": endpoint, "format": "json_lines", "extraTags": tags})
    if destinations:
        section["logging"] = {"destinations": destinations}
    return section


def _features(inputs: TalosInputs, machine: Machine) -> dict[str, Any]:
    features: dict[str, Any] = {
        # A load balancer on every machine's localhost: kubelet and Cilium reach the API without
        # the VIP.
        "kubePrism": {"enabled": True, "port": KUBEPRISM_PORT},
        # The address that CoreDNS would forward to is the machine's own. With Cilium's masquerading
        # and routing in eBPF its answers never reach the pod, and no name outside the cluster
        # resolves (Cilium's page for Talos Linux, "Known issues"). CoreDNS asks the name servers.
        "hostDNS": {"enabled": True, "forwardKubeDNSToHost": False},
    }
    if machine.is_control_plane and inputs.backup:
        # The backup job reads etcd's snapshots through the Talos API, and can do nothing else.
        features["kubernetesTalosAPIAccess"] = {
            "enabled": True,
            "allowedRoles": [BACKUP_ROLE],
            "allowedKubernetesNamespaces": [BACKUP_NAMESPACE],
        }
    return features


def _cluster(inputs: TalosInputs, machine: Machine) -> dict[str, Any]:
    network = inputs.network
    section: dict[str, Any] = {
        "network": {
            "podSubnets": [str(network.pods)],
            "serviceSubnets": [str(network.services)],
            "cni": {"name": "none"},  # Cilium is installed by its chart
        },
        "proxy": {"disabled": True},  # Cilium's work
    }
    if not inputs.talos.discovery:
        section["discovery"] = {"enabled": False}
    if machine.is_control_plane:
        names = [str(one.address) for one in inputs.control_planes]
        if network.vip is not None:
            names.insert(0, str(network.vip))
        section["apiServer"] = {"certSANs": names}
        section["etcd"] = {"advertisedSubnets": [f"{machine.address}/32"]}
    return section


def _network(inputs: TalosInputs, machine: Machine) -> list[dict[str, Any]]:
    network = inputs.network
    found = [
        _document("HostnameConfig", auto="off", hostname=machine.name),
        _document(
            "LinkConfig",
            name=LINK,
            addresses=[{"address": f"{machine.address}/{network.cidr.prefixlen}"}],
            routes=[{"gateway": str(network.gateway)}],
        ),
        *(_further_link(link, card) for link, card in further_cards(machine)),
        _document(
            "ResolverConfig",
            nameservers=[{"address": str(address)} for address in network.name_servers],
        ),
        _document("TimeSyncConfig", ntp={"servers": list(network.time_servers)}),
    ]
    if machine.is_control_plane and network.vip is not None:
        found.append(_document("Layer2VIPConfig", name=str(network.vip), link=LINK))
    return found


def _further_link(link: str, card: Card) -> dict[str, Any]:
    """Configure a further card: an address, and no route but to its own network."""
    size = {} if card.mtu is None else {"mtu": card.mtu}
    return _document("LinkConfig", name=link, **size, addresses=[{"address": str(card.address)}])


def _kernel_log(inputs: TalosInputs) -> list[dict[str, Any]]:
    found = [
        _document("KmsgLogConfig", name=f"kernel-{number}", url=url)
        for number, url in enumerate(inputs.talos.log_destinations.kernel)
    ]
    if inputs.logs:
        found.append(
            _document(
                "KmsgLogConfig", name="kernel-platform", url=log_places.kernel(inputs.network)
            )
        )
    return found


def _encryption(inputs: TalosInputs) -> list[dict[str, Any]]:
    """Encrypt the partitions that hold keys: the configuration's, and etcd's and pods' data."""
    luks = _luks(inputs)
    if luks is None:
        return []
    return [_document("VolumeConfig", name=name, encryption=luks) for name in ENCRYPTED_PARTITIONS]


def _luks(inputs: TalosInputs) -> dict[str, Any] | None:
    encryption = inputs.talos.disk_encryption
    if encryption is None:
        return None
    key: dict[str, Any] = {"slot": 0, "nodeID": {}}
    if encryption.key == "kms":
        key = {"slot": 0, "kms": {"endpoint": encryption.endpoint}}
    return {"provider": "luks2", "keys": [key]}


def _outside(inputs: TalosInputs) -> list[dict[str, Any]]:
    """Say by which proxy and mirrors the machine gets outside, and whom it trusts there."""
    way = inputs.way
    found = []
    if way.proxy is not None:
        found.append(_document("EnvironmentConfig", variables=way.variables()))
    if way.trusted_roots is not None:
        found.append(
            _document("TrustedRootsConfig", name=TRUSTED_ROOTS, certificates=way.trusted_roots)
        )
    for mirror in inputs.talos.mirrors:
        endpoints = [
            {"url": url} | ({"overridePath": True} if mirror.override_path else {})
            for url in mirror.endpoints
        ]
        fallback = {"skipFallback": True} if mirror.skip_fallback else {}
        found.append(
            _document("RegistryMirrorConfig", name=mirror.registry, endpoints=endpoints, **fallback)
        )
    return found


def registry_login(inputs: TalosInputs, password: str) -> list[str]:
    """Write the document of a registry's login, which is a secret; none without a login."""
    login = inputs.talos.registry_login
    if login is None:
        return []
    fields = {"username": login.user, "password": password}
    return [written(_document("RegistryAuthConfig", name=login.registry, **fields))]


def _document(kind: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 YAML values
    return {"apiVersion": "v1alpha1", "kind": kind, **fields}
