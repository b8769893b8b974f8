"""Layer Review: what changes of Talos resources and of a machine's configuration do.

Which fields apply without a reboot: Talos 1.13, `CanApplyImmediate` in
internal/app/machined/pkg/runtime/v1alpha1/v1alpha1_runtime.go; all of `cluster`, some of `machine`,
and every document besides the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from components.talos import firewall, refusals, volumes
from components.talos.redaction import MAIN
from config.resource_types import KUBECONFIG, MACHINE_SECRETS
from ops.engine.operations import WORDS
from ops.engine.preview import UNKNOWN, Change
from ops.review import upgrades
from ops.review.difference import NOTHING, Leaf, leaves
from ops.review.verdict import Effect, Verdict, worst

CONFIGURATION_INPUT = "machineConfigurationInput"
SOURCE = "Talos 1.13, CanApplyImmediate"
FIREWALL_SOURCE = "Talos 1.13, NfTablesChainConfigController; docs/decisions/0021"
VOLUMES_SOURCE = "Talos 1.13, internal/app/machined/pkg/controllers/block"
REBOOT = "the machine, 1-2 minutes while it reboots; the next one waits until it is healthy"
UPGRADE = (
    "the machine, 2-10 minutes: its pods go first, as disruption budgets allow; the next one waits "
    "until it is healthy, and the first that comes back with its old Talos stops all others"
)
UPGRADE_SOURCE = "docs.siderolabs.com/talos, upgrading Talos; docs/procedures/upgrade-talos.md"
RESTART = "its parts of the control plane, seconds; the others answer meanwhile"

LIVE_MACHINE = frozenset(
    [
        "acceptedCAs",
        "ca",
        "certSANs",
        "controlPlane",
        "install",
        "kernel",
        "kubelet",
        "logging",
        "network",
        "nodeAnnotations",
        "nodeLabels",
        "nodeTaints",
        "pods",
        "registries",
        "seccompProfiles",
        "sysctls",
        "sysfs",
        "time",
    ]
)
"""Sections of `machine` that apply live."""
LIVE_FEATURES = frozenset(
    ["hostDNS", "imageCache", "kubePrism", "kubernetesTalosAPIAccess", "nodeAddressSortAlgorithm"]
)
"""Of `machine.features`."""
CONTROL_PLANE = frozenset(["apiServer", "controllerManager", "scheduler", "etcd", "controlPlane"])
"""Sections of `cluster` whose change restarts static pods or etcd."""
READ_AT_START = frozenset(["EnvironmentConfig", "TrustedRootsConfig"])
"""Documents that a program reads once, such as the one that pulls images."""
RULE_DEPTH = 4
"""Document, machine or cluster, section, and what is in it."""
REGISTRATION = "registerWithTaints"
"""Of `machine.kubelet.extraConfig`: the taints that a worker's node gets when it registers."""
FIXED = {"podSubnets": "the pods' network", "serviceSubnets": "the Services' network"}
"""Of `cluster.network`: changing them on a running cluster leaves pods and Services on old ones."""


def field(leaf: Leaf) -> Effect:
    """Judge one field of a machine's configuration; its path begins with the document."""
    document, *path = leaf.path
    if document != MAIN:
        judge = DOCUMENTS.get(document.partition("/")[0])
        return judge(document, leaf) if judge else _document(document)
    if tuple(path) in upgrades.IMAGES and NOTHING not in (leaf.old, leaf.new):
        return Effect(
            Verdict.SAFE, "the upgrade of Kubernetes has written it before", source=SOURCE
        )
    match path:
        case ["machine", section, *rest]:
            return _machine(section, rest, leaf)
        case ["cluster", section, *rest]:
            return _cluster(section, rest)
        case ["debug", *_] | ["version", *_]:
            return Effect(Verdict.SAFE, "applies live", source=SOURCE)
    return Effect(Verdict.UNKNOWN, f"{leaf.where}: ops/review/talos.py has no rule for it")


def _document(document: str) -> Effect:
    kind = document.partition("/")[0]
    if kind in ("LinkConfig", "ResolverConfig", "HostnameConfig"):
        return Effect(
            Verdict.UNKNOWN,
            f"{kind} applies live, and a mistake in it cuts the machine off: read its fields",
            source=SOURCE,
        )
    if kind == "Layer2VIPConfig":
        return Effect(
            Verdict.RESTARTS,
            "the API's address moves, live",
            "the Kubernetes API at the old address, for good; kubeconfigs must be fetched again",
            SOURCE,
        )
    if kind in READ_AT_START:
        return Effect(
            Verdict.SAFE,
            f"{kind} applies live to Talos; programs that run read it when they start again: "
            "reboot the machines one after the other where images need it",
            source="Talos 1.13, EnvironmentController and TrustedRootsController",
        )
    if kind == "VolumeConfig":
        return Effect(Verdict.UNKNOWN, "volumes take it when they are made; read its fields")
    return Effect(Verdict.SAFE, f"{kind} applies live", source=SOURCE)


def _user_volume(document: str, leaf: Leaf) -> Effect:
    """Judge a change of the volume that Talos makes of a data disk."""
    name, path = document.partition("/")[2], leaf.path[1:]
    if not path and leaf.new is NOTHING:
        why = f"the volume {name} is unmounted, live; what it holds stays on its disk"
        return Effect(Verdict.RESTARTS, why, "pods that use it, for good", VOLUMES_SOURCE)
    if not path:
        why = f"the volume {name} is made, live, if its disk has none yet"
        return Effect(Verdict.SAFE, why, source=VOLUMES_SOURCE)
    if path[0] == "filesystem":
        why = f"the volume {name} keeps its filesystem: Talos formats it once"
        return Effect(Verdict.REFUSED, why, source=VOLUMES_SOURCE)
    why = f"the volume {name} stays as it is: Talos takes its {path[0]} when it makes it"
    return Effect(Verdict.SAFE, why, source=VOLUMES_SOURCE)


def _firewall(document: str, leaf: Leaf) -> Effect:
    """Judge a change of the machine's firewall; the program tries it before it is kept."""
    live = "live, without a reboot"
    if document == firewall.DEFAULT and (leaf.new is NOTHING or leaf.new == "accept"):
        why = (
            f"the firewall is removed, {live}: the machine's ports are open to whoever reaches them"
        )
        return Effect(Verdict.UNKNOWN, why, source=FIREWALL_SOURCE)
    if document != firewall.DEFAULT and leaf.old is NOTHING and len(leaf.path) > 1:
        return Effect(Verdict.SAFE, f"the firewall lets in more, {live}", source=FIREWALL_SOURCE)
    return Effect(
        Verdict.RESTARTS,
        f"the firewall changes, {live}; each machine tries it first, and takes it back if it keeps "
        "this computer out",
        "new connections to the machine's own ports, of all whom no rule names; Services are not "
        "concerned",
        FIREWALL_SOURCE,
    )


DOCUMENTS: Mapping[str, Callable[[str, Leaf], Effect]] = {
    **dict.fromkeys(firewall.KINDS, _firewall),
    volumes.KIND: _user_volume,
}
"""Kinds of documents whose fields are judged one by one."""


def _machine(section: str, rest: list[str], leaf: Leaf) -> Effect:
    if section == "nodeTaints" and "NoExecute" in str(leaf.new):
        return Effect(
            Verdict.RESTARTS,
            "a taint evicts pods that do not tolerate it",
            "those pods, until they run elsewhere",
            "kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration",
        )
    if section == "install":
        return Effect(
            Verdict.SAFE,
            "is what the machine is installed from when it is upgraded",
            source="siderolabs/talos: install is read by installer and upgrade",
        )
    if section == "kubelet":
        return _kubelet(f"{rest} {leaf.old} {leaf.new}")
    if section == "network":
        return Effect(
            Verdict.UNKNOWN,
            "the network changes live, and a mistake cuts the machine off: read its fields",
            source=SOURCE,
        )
    if section in LIVE_MACHINE or (section == "features" and rest[:1] and rest[0] in LIVE_FEATURES):
        return Effect(Verdict.SAFE, f"machine.{section} applies live", source=SOURCE)
    return Effect(Verdict.REBOOTS, f"machine.{section} needs a reboot", REBOOT, SOURCE)


def _kubelet(changed: str) -> Effect:
    if REGISTRATION in changed:
        return Effect(
            Verdict.SAFE,
            "a worker's taints count when its node registers: one that is there already keeps its "
            "own until somebody runs `kubectl taint node` (python -m ops drift gives the command)",
            source="kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1",
        )
    return Effect(Verdict.SAFE, "the kubelet restarts; pods run on", source=SOURCE)


def _cluster(section: str, rest: list[str]) -> Effect:
    if section == "network" and rest and rest[0] in FIXED:
        return Effect(
            Verdict.UNKNOWN,
            f"{FIXED[rest[0]]} is fixed once the cluster is built: pods keep the old one",
            source="kubernetes.io, kube-apiserver --service-cluster-ip-range",
        )
    if section == "apiServer" and rest[:1] == ["certSANs"]:
        return Effect(
            Verdict.SAFE, "the API servers' certificates are issued again, live", source=SOURCE
        )
    if section in CONTROL_PLANE:
        return Effect(Verdict.RESTARTS, f"cluster.{section} restarts", RESTART, SOURCE)
    if section in ("ca", "aggregatorCA", "serviceAccount", "secret", "token", "id"):
        return Effect(Verdict.LOSES, "the cluster's keys change", "everybody's access", SOURCE)
    return Effect(Verdict.SAFE, f"cluster.{section} applies live", source=SOURCE)


def upgrade(gate: Change) -> Effect:
    """Judge what becomes of a machine's Talos, from the gate that knows its release."""
    before, after = (str(seen("version") or "") for seen in (gate.before, gate.after))
    if gate.operation == "create":
        return Effect(Verdict.SAFE, f"is upgraded if it runs another Talos than {after}")
    if why := refusals.of_talos(before, after):
        return Effect(Verdict.REFUSED, f"stays as it is: {'. '.join(why)}", source=UPGRADE_SOURCE)
    what = f"is upgraded from Talos {before} to {after}"
    if before == after:
        what = f"gets another image of Talos {after}"
    way = "its pods go elsewhere, then it reboots into it, once"
    return Effect(Verdict.REBOOTS, f"{what}: {way}", UPGRADE, UPGRADE_SOURCE)


def with_the_upgrade(configuration: Effect) -> Effect:
    """Judge a configuration of a machine that is upgraded before: there is one reboot for both."""
    if configuration.verdict is not Verdict.REBOOTS:
        return configuration
    what = f"{configuration.why}, and is taken on at the boot of the upgrade"
    return replace(configuration, why=what, away="no longer than the upgrade: it is one reboot")


def machine_fields(gate: Change | None) -> list[Leaf]:
    """Give the fields of a machine's configuration that change, from its gate."""
    if gate is None:
        return []
    old, new = gate.before("fields"), gate.after("fields")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    found = [part for leaf in leaves(old, new) for part in _split(leaf)]
    return _whole_documents(found, old, new)


def _split(leaf: Leaf) -> Iterator[Leaf]:
    """Take a section that comes or goes apart, down to where the rules judge: machine.x.y."""
    old, new = ({} if one is NOTHING else one for one in (leaf.old, leaf.new))
    sections = isinstance(old, Mapping) and isinstance(new, Mapping) and (old or new)
    if not sections or len(leaf.path) >= RULE_DEPTH:
        yield leaf
        return
    for part in leaves(old, new, leaf.path):
        yield from _split(part)


def _whole_documents(
    found: list[Leaf], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[Leaf]:
    """Show a document that comes or goes as one line."""
    one_sided = {one.path[0] for one in found if (one.path[0] in old) != (one.path[0] in new)}
    kept = [one for one in found if one.path[0] not in one_sided]
    return kept + [
        Leaf((name,), old.get(name, NOTHING), new.get(name, NOTHING)) for name in sorted(one_sided)
    ]


def configuration(change: Change, fields: list[Leaf]) -> Effect:
    """Judge the configuration of one machine, given the fields that change."""
    match change.operation:
        case "create":
            return Effect(Verdict.SAFE, "is configured for the first time")
        case "delete":
            return Effect(Verdict.SAFE, "is forgotten; the machine keeps it until it goes")
        case "replace":
            return Effect(Verdict.SAFE, "is configured as the new machine that it is")
    if fields:
        effects = [field(one) for one in fields]
        effect = worst(effects)
        reasons = dict.fromkeys(one.why for one in effects if one.verdict is effect.verdict)
        away = dict.fromkeys(one.away for one in effects if one.verdict is effect.verdict)
        return Effect(
            effect.verdict,
            f"gets another configuration: {'; '.join(reasons)}",
            "; ".join(one for one in away if one),
            effect.source,
        )
    known = change.new is not None and change.new.inputs.get(CONFIGURATION_INPUT) != UNKNOWN
    if known and set(change.paths) - {CONFIGURATION_INPUT, "machineConfiguration"}:
        return Effect(
            Verdict.SAFE,
            f"gets the same configuration again ({', '.join(change.paths)})",
            source="pulumiverse-talos 0.8: any change sends it again",
        )
    return Effect(
        Verdict.UNKNOWN, "gets another configuration, and the preview does not say which fields"
    )


CREDENTIALS = "clientConfiguration"
"""What the machine secrets hold beside the cluster's keys: a client certificate, for a year."""


def secrets(change: Change) -> Effect:
    """Judge the machine secrets, on which everything stands."""
    if change.operation in ("delete", "replace"):
        return Effect(
            Verdict.LOSES,
            "the cluster's keys are thrown away: nobody can log in, no backup can be restored",
            "every access, every backup",
            "docs.siderolabs.com/talos, disaster recovery: a snapshot needs the cluster's own keys",
        )
    if change.operation == "create":
        return Effect(Verdict.SAFE, "the cluster's keys are made")
    if change.paths and all(one.startswith(CREDENTIALS) for one in change.paths):
        return Effect(
            Verdict.SAFE, "the administrators' talosconfig is renewed; fetch it again then"
        )
    return Effect(
        Verdict.UNKNOWN, f"the cluster's keys change ({', '.join(change.paths) or 'no detail'})"
    )


def _harmless(what: str) -> Callable[[Change], Effect]:
    def rule(change: Change) -> Effect:
        told = "is renewed" if change.operation == "update" else WORDS[change.operation]
        return Effect(Verdict.SAFE, f"{what} {told}")

    return rule


RULES: Mapping[str, Callable[[Change], Effect]] = {
    MACHINE_SECRETS: secrets,
    KUBECONFIG: _harmless("the administrator's kubeconfig"),
    "talos:imageFactory/schematic:Schematic": _harmless("the schematic at the image factory"),
}
