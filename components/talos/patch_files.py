"""Layer Talos: the operators' files of patches are read and held against what the platform sets.

A file adds to the platform's own documents. What it says otherwise would be replaced without a
word, or would take away what the layers stand on (Cilium needs a cluster without a CNI and without
kube-proxy): it is refused, before a resource is touched, with every other fault of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.talos import component_arguments, kubelet_fields, patch_rules
from components.talos.configuration import COMMON, defaults, documents, files
from components.talos.inputs import TalosInputs
from components.talos.patch_rules import DIRECTIVE, did_you_mean
from config import yaml_text
from config.problems import secrets_in
from config.rules import may_set
from config.settings import Machine, Settings
from config.shown import escaped, key_text, may_be_secret

ADDED = ("certSANs", "destinations", "allowedRoles", "allowedKubernetesNamespaces")
"""Lists that Talos merges by appending, and in which more entries than the platform's are good."""

SETTINGS = {
    "machine.install.disk": "platform:talos.installDisk",
    "machine.install.image": "platform:talos.version and platform:talos.extensions",
    "machine.kubelet.nodeIP": "the machine's `address` in platform:machines",
    "machine.kubelet.extraConfig.registerWithTaints": "the machine's `taints` in platform:machines",
    "machine.nodeLabels": "the machine's `labels` in platform:machines",
    "machine.nodeTaints": "the machine's `taints` in platform:machines",
    "machine.logging": "platform:talos.logDestinations",
    "cluster.network.podSubnets": "platform:network.pods",
    "cluster.network.serviceSubnets": "platform:network.services",
    "cluster.etcd.advertisedSubnets": "the machine's `address` in platform:machines",
    "HostnameConfig": "the machine's `name` in platform:machines",
    "LinkConfig": "platform:network, and the machine's `address` or `networks`",
    "ResolverConfig": "platform:network.nameServers",
    "TimeSyncConfig": "platform:network.timeServers",
    "NetworkDefaultActionConfig": "platform:network.firewall",
    "NetworkRuleConfig": "platform:network.firewall, or give the rule a name of its own",
    "VolumeConfig": "platform:talos.diskEncryption",
    "UserVolumeConfig": "the machine's `dataDisks` in platform:machines, or give the document a "
    "name of its own",
    "EnvironmentConfig": "platform:network.proxy",
    "TrustedRootsConfig": "platform:site.trustedRoots, or give the document a name of its own",
    "RegistryMirrorConfig": "platform:talos.mirrors",
    "cluster.discovery": "platform:talos.discovery",
}
"""Where the value of a field is set instead."""

PATCHES = frozenset({".yaml", ".yml", ".json"})
"""Endings of files that somebody may mean as a patch."""
MOST = 20
"""Names that a message lists."""

IDENTITY = ("apiVersion", "kind", "name")
"""Fields of a document that say which one it is."""

OLD_KEYS = {
    "machine.network.hostname": "the machine's `name` in platform:machines",
    "machine.network.nameservers": "platform:network.nameServers",
    "machine.network.interfaces": "platform:network, or a LinkConfig document for another link",
    "machine.network.searchDomains": "`searchDomains` in a ResolverConfig document",
    "machine.network.disableSearchDomain": "`searchDomains` in a ResolverConfig document",
    "machine.features.stableHostname": "the machine's `name` in platform:machines",
    "machine.time.servers": "platform:network.timeServers",
    "machine.time.disabled": "`enabled` in a TimeSyncConfig document",
    "machine.time.bootTimeout": "`bootTimeout` in a TimeSyncConfig document",
}
"""Keys of Talos before 1.12, which clash with the documents that the platform writes."""

VERSIONED = (
    "machine.kubelet.image",
    "cluster.apiServer.image",
    "cluster.controllerManager.image",
    "cluster.scheduler.image",
    "cluster.proxy.image",
)
"""Images that an upgrade of Kubernetes writes (kubernetes_upgrade.py)."""


class PatchError(Exception):
    """The folder of patches is missing, or its files cannot be used; with all faults found."""

    @classmethod
    def of(cls, settings: Settings, faults: Iterable[str]) -> PatchError:
        """Make an error of faults, one a line."""
        key = f"platform:talos.patches = {settings.talos.patches}"
        return cls("\n".join(f"{key}: {one}" for one in faults))


Rule = Callable[[Mapping[str, Any]], Iterable[str]]
"""Finds what is wrong with one document of a patch."""


def no_more(_: Mapping[str, Any]) -> Iterable[str]:
    """Find nothing: no further rule than Talos' and the platform's own."""
    return ()


def check_patch_files(settings: Settings, root: Path, also: Rule = no_more) -> None:
    """Read all files of patches. Raises `PatchError` with everything that is wrong with them.

    `also` are the rules of who manages the cluster in the stack's place.
    """
    folder = root / settings.talos.patches
    if folder.is_file():
        raise PatchError.of(settings, ["a file; name the folder that it lies in"])
    if not folder.is_dir():
        raise PatchError.of(settings, ["no such folder; create it"])
    faults = [*_strays(settings, folder), *_contents(settings, root, also)]
    if faults:
        raise PatchError.of(settings, faults)


def _strays(settings: Settings, folder: Path) -> Iterator[str]:
    """Find files that are not for any machine, such as one with a misspelled name."""
    names = {COMMON, "controlplane", "worker", *(one.name for one in settings.machines)}
    # What a desktop, an editor or Git leaves, and notes, are no patches.
    strays = sorted(
        escaped(one.name)
        for one in folder.iterdir()
        if one.suffix.lower() in PATCHES
        and not one.name.startswith(".")
        and (one.suffix != ".yaml" or one.stem not in names)
    )
    if strays:
        yield (
            f"{_some(strays)} is used for no machine; name it after one of "
            f"{_some(sorted(names))}, as NAME.yaml"
        )

    for one in sorted(folder.iterdir()):
        # Such as a link whose target was moved: it would be passed over.
        if one.suffix == ".yaml" and one.stem in names and not one.is_file():
            yield f"{escaped(one.name)}: no file that can be read; put the file there, or remove it"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _contents(settings: Settings, root: Path, also: Rule) -> list[str]:
    """Hold each file against every machine that gets it; each fault is told once."""
    found: dict[str, None] = {}
    for machine in settings.machines:
        for file in files(settings.talos.patches, machine, root):
            for fault in _of_file(settings, machine, file, also):
                found.setdefault(f"{file.name}: {fault}")
    return list(found)


def _of_file(settings: Settings, machine: Machine, file: Path, also: Rule) -> Iterator[str]:
    try:
        found = yaml_text.parse_all(yaml_text.decode(file.read_bytes()))
    except (OSError, yaml_text.YamlError) as error:
        yield _unreadable(error)
        return
    for document in found:
        for each in document.findings:
            # Talos reads numbers as Go does: `permissions: 0o644` is one.
            if each.written is None:
                yield f"{_path_of(each.path)}: {each.fault}; {each.fix}"
    read = [document.value for document in found]
    if any(isinstance(one, list) for one in read):
        yield (
            "a list, as JSON patches are, which Talos does not take for configurations of several "
            "documents; write the fields themselves, as in `machine: {sysctls: {...}}`"
        )
        return
    if not any(read):
        # One of comments, or of `machine: {}`, is for operators still to fill in.
        return
    own = {_name(one): one for one in documents(TalosInputs.of(settings), machine)}
    first = {_name(one): one for one in defaults(machine)}
    seen = set()
    for one in read:
        if not isinstance(one, Mapping):
            yield f"{_short(one)} is not a document; write `machine: {{sysctls: ...}}`"
            continue
        name = _name(one)
        if name in seen:
            yield f"two documents {name or 'of machine and cluster'}; make one of them"
        seen.add(name)
        yield from _unknown(one)
        yield from kubelet_fields.faults(one)
        yield from component_arguments.faults(one, settings.kubernetes.version)
        yield from also(one)
        yield from _secrets(one)
        yield from _of_a_worker(machine, one)
        yield from _old_keys(one)
        yield from _versioned(one)
        yield from patch_rules.faults(settings, machine, one, shared=file.stem != machine.name)
        yield from _against(one, own.get(name, {}), name)
        yield from _deletions(one, first.get(name, {}), name)


def _unreadable(error: OSError | yaml_text.YamlError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}; check who may read it"
    return f"{error.fault}; {error.fix}"


def _path_of(path: tuple[str | int, ...]) -> str:
    return ".".join(key_text(str(part)) for part in path) or "the document"


# Fields of a configuration (Talos 1.13, pkg/machinery/config/types/v1alpha1), the old ones too.
FIELDS: dict[str, frozenset[str]] = {
    "": frozenset({"version", "debug", "persist", "machine", "cluster"}),
    "machine": frozenset(
        {
            *("acceptedCAs", "baseRuntimeSpecOverrides", "ca", "certSANs", "controlPlane", "disks"),
            *("env", "features", "files", "install", "kernel", "kubelet", "logging", "network"),
            *("nodeAnnotations", "nodeLabels", "nodeTaints", "pods", "registries"),
            *("seccompProfiles", "sysctls", "sysfs", "systemDiskEncryption", "time", "token"),
            *("type", "udev"),
        }
    ),
    "cluster": frozenset(
        {
            *("acceptedCAs", "adminKubeconfig", "aescbcEncryptionSecret", "aggregatorCA"),
            *("allowSchedulingOnControlPlanes", "allowSchedulingOnMasters", "apiServer", "ca"),
            *("clusterName", "controlPlane", "controllerManager", "coreDNS", "discovery", "etcd"),
            *("externalCloudProvider", "extraManifestHeaders", "extraManifests", "id"),
            *("inlineManifests", "network", "proxy", "scheduler", "secret"),
            *("secretboxEncryptionSecret", "serviceAccount", "token"),
        }
    ),
    "machine.kubelet": frozenset(
        {
            *("clusterDNS", "credentialProviderConfig", "defaultRuntimeSeccompProfileEnabled"),
            *("disableManifestsDirectory", "extraArgs", "extraConfig", "extraMounts", "image"),
            *("nodeIP", "registerWithFQDN", "skipNodeRegistration"),
        }
    ),
    "machine.features": frozenset(
        {
            *("apidCheckExtKeyUsage", "diskQuotaSupport", "hostDNS", "imageCache", "kubePrism"),
            *("kubernetesTalosAPIAccess", "nodeAddressSortAlgorithm", "rbac", "stableHostname"),
        }
    ),
    "cluster.network": frozenset({"cni", "dnsDomain", "podSubnets", "serviceSubnets"}),
}


def _unknown(given: Mapping[str, Any]) -> Iterator[str]:
    """Find fields that Talos does not know, as misspelled ones are; talosctl knows them all."""
    if "kind" in given:
        return
    for written, known in FIELDS.items():
        value: Any = given
        for key in filter(None, written.split(".")):
            value = value.get(key) if isinstance(value, Mapping) else None
        for key in value if isinstance(value, Mapping) else ():
            if key not in known and key != DIRECTIVE:
                fix = did_you_mean(key, known)
                at = ".".join(filter(None, (written, key_text(key))))
                yield f"{at}: no field of Talos' configuration; {fix}"


def _secrets(given: Mapping[str, Any]) -> Iterator[str]:
    for each in secrets_in(given, ()):
        yield (
            f"{each.key.removeprefix('platform:')}: a secret in plain text (not shown); remove it, "
            "and change it at its issuer: the cluster's own secrets are made by the stack"
        )


def _of_a_worker(machine: Machine, given: Mapping[str, Any]) -> Iterator[str]:
    """Find what a worker's kubelet may not set on its node (the admission NodeRestriction)."""
    section = given.get("machine")
    if machine.is_control_plane or not isinstance(section, Mapping):
        return
    labels = section.get("nodeLabels")
    for label in labels if isinstance(labels, Mapping) else ():
        if not may_set(label):
            yield (
                f"machine.nodeLabels.{key_text(label)}: a label that a worker may not set on its "
                "node: Kubernetes refuses it, and with it all labels of the machine; use a domain "
                "of your own"
            )
    if section.get("nodeTaints"):
        yield (
            "machine.nodeTaints: taints that a worker may not set on its node: Kubernetes refuses "
            "them, and with them all labels; remove them, and set the machine's `taints` in "
            "platform:machines"
        )


def _name(document: Mapping[str, Any]) -> str:
    """Name a document as Talos tells documents apart: by kind and name; the first is nameless."""
    return " ".join(str(document[key]) for key in ("kind", "name") if key in document)


def _at(path: tuple[str, ...]) -> str:
    return ".".join(one for one in path if one)


def _against(given: Mapping[str, Any], own: Mapping[str, Any], *path: str) -> Iterator[str]:
    """Find what a file says otherwise than the platform."""
    for key, value in given.items():
        # Talos takes a key without a value for one that is not there.
        if key not in own or value is None or (len(path) == 1 and key in IDENTITY):
            continue
        at, ours = (*path, key), own[key]
        if isinstance(ours, Mapping) and isinstance(value, Mapping) and "$patch" not in value:
            yield from _against(value, ours, *at)
        elif isinstance(ours, list) and isinstance(value, list) and key in ADDED:
            continue
        elif isinstance(ours, list) or value != ours:
            yield f"{_at(at)} = {_short(value)}: the platform sets {_short(ours)}; {_fix(at)}"


def _deletions(given: Mapping[str, Any], own: Mapping[str, Any], *path: str) -> Iterator[str]:
    """Find what is deleted a second time: Talos fails on what is not there any more."""
    for key, value in given.items():
        if not isinstance(value, Mapping) or not isinstance(own.get(key), Mapping):
            continue
        if "$patch" in value:
            yield f"{_at((*path, key))}: the platform has removed it already; delete these lines"
        else:
            yield from _deletions(value, own[key], *path, key)


def _old_keys(given: Mapping[str, Any]) -> Iterator[str]:
    for written, instead in OLD_KEYS.items():
        if patch_rules.field(given, written) is not None:
            yield (
                f"{written}: clashes with the document that the platform writes; remove it, and "
                f"set {instead}"
            )


def _versioned(given: Mapping[str, Any]) -> Iterator[str]:
    for written in VERSIONED:
        if patch_rules.field(given, written) is not None:
            yield (
                f"{written}: an upgrade of Kubernetes writes it; remove it, and set "
                "platform:kubernetes.version. For another registry set platform:talos.mirrors"
            )


def _fix(path: tuple[str, ...]) -> str:
    written = _at(path)
    for start, key in SETTINGS.items():
        if written.startswith(start):
            return f"remove it, and set {key}"
    return "remove it: the platform's layers stand on that"


LONGEST = 60


def _short(value: object) -> str:
    text = str(value)
    if may_be_secret(text):
        return "(not shown)"
    return escaped(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
