"""Layer Drift: each machine's configuration against the one that was applied.

The Talos provider never reads a machine's configuration back (its Read does nothing), so a refresh
cannot see a change there. What was applied is in the state without its secrets: the gate
`NAME-healthy` holds it (components/talos/node.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients.talosctl import Talosctl, TalosctlError
from components.talos import redaction, volumes
from components.talos.upgrade import Release
from config.resource_types import CONFIGURATION, GATE, HEALTHY, MACHINE_SECRETS
from ops.drift.finding import PULUMI, DriftError, Field, Finding
from ops.engine.urn import name_of
from ops.review.difference import leaves

Resources = Sequence[Mapping[str, Any]]

INSTALLER = re.compile(r"(?:/(?P<schematic>[0-9a-f]{64}))?:(?P<version>v\d+\.\d+\.\d+[^@]*)(@.*)?$")
"""Version and schematic in the name of an installer; one by digest alone has no version."""
MOVES = (
    "The API's address moves within two minutes when the machine that held it is lost: look again"
)
QUORUM_LOST = (
    "Switch them on in vCenter, or look at their consoles: once most control planes are back, all "
    "goes on by itself. Gone for good? Then it is docs/procedures/lost-quorum.md. Until then "
    "neither `pulumi refresh` nor `pulumi up`"
)
VOLUMES = (
    "`talosctl get volumestatus` and `talosctl get disks` say more; is the disk there in vCenter? "
    "Then `pulumi up --refresh` (docs/procedures/local-volumes.md)"
)
UPGRADE = (
    "`pulumi up` upgrades a machine when the settings change. One that was left out or taken back "
    "by hand: docs/procedures/upgrade-talos.md#a-machine-that-differs"
)


@dataclass(frozen=True, eq=False)
class Machine:
    """A machine of the state, and the configuration that was applied to it, without secrets."""

    urn: str
    name: str
    address: str
    wanted: Any
    """None or a text when the state does not know it."""

    @property
    def control_plane(self) -> bool:
        """Whether it is one; a machine of which nothing is known counts as one."""
        return str(_section(self.wanted).get("type", "controlplane")) == "controlplane"

    @property
    def label(self) -> str:
        """Its name and address."""
        return f"{self.name} ({self.address})"


def of_state(resources: Resources) -> list[Machine]:
    """Give the machines of an exported state."""
    applied = {name_of(one["urn"]): one for one in resources if one["type"] == GATE}
    found = []
    for one in resources:
        if one["type"] != CONFIGURATION:
            continue
        name = name_of(one["urn"])
        wanted = (applied.get(f"{name}{HEALTHY}") or {}).get("inputs", {}).get("fields")
        found.append(Machine(str(one["urn"]), name, str(one["inputs"]["node"]), wanted))
    return found


def silent(machines: Sequence[Machine], talos: Talosctl) -> dict[Machine, str]:
    """Ask each machine for a sign of life; give those that give none, and why."""
    found = {}
    for one in machines:
        try:
            talos.machine_status(one.address)
        except TalosctlError as error:
            waits = talos.in_maintenance(one.address)
            found[one] = "waits in maintenance mode" if waits else str(error)
    return found


def why_the_api_is_away(machines: Sequence[Machine], away: Mapping[Machine, str]) -> str:
    """Say which machines keep the Kubernetes API from answering, and what to do."""
    planes = [one for one in machines if one.control_plane]
    lost = [one for one in planes if one in away]
    lines = [f"  {one.label}: {why}" for one, why in away.items()]
    if not away:
        return f"every machine answers. {MOVES}; later `talosctl etcd status` tells more"
    head = f"{len(lost)} of {len(planes)} control planes do not answer"
    if len(lost) * 2 < len(planes):
        tail = f"etcd has its quorum. {MOVES}; later see docs/procedures/replace-machine.md"
        return "\n".join([f"{head}:", *lines, tail])
    head += ", so etcd has lost its quorum, and the Kubernetes API does not answer:"
    return "\n".join([head, *lines, QUORUM_LOST])


def findings(
    machines: Sequence[Machine],
    secrets: Any,  # noqa: ANN401 JSON
    talos: Talosctl,
) -> Iterator[Finding]:
    """Ask every machine; `secrets` are the machine secrets."""
    for one in machines:
        yield from _machine(one.urn, one.name, one.address, one.wanted, secrets, talos)


def machine_secrets(resources: Resources) -> Any:  # noqa: ANN401 any nesting
    """Give the machine secrets of an exported state with its secrets in plain text.

    Raises `DriftError` when there are none: without them nothing tells a secret from other text.
    """
    for one in resources:
        if one["type"] == MACHINE_SECRETS:
            return one["outputs"]["machineSecrets"]
    raise DriftError(
        f"the state holds no {MACHINE_SECRETS}: `pulumi stack ls`, is it the right stack?"
    )


def _machine(  # noqa: PLR0913, PLR0917 what was applied, and where to look
    urn: str,
    name: str,
    address: str,
    wanted: Any,  # noqa: ANN401 JSON
    secrets: Any,  # noqa: ANN401 JSON
    talos: Talosctl,
) -> Iterator[Finding]:
    def finding(what: str, fix: str, fields: Sequence[Field] = ()) -> Finding:
        return Finding(
            place="machine", who=f"{name} ({address})", owner=PULUMI, what=what,
            fields=tuple(fields), fix=fix,
        )  # fmt: skip

    if talos.in_maintenance(address):
        yield finding("has no configuration: it waits in maintenance mode", _apply_again(urn))
        return
    image = _image(wanted)
    try:
        text = talos.configuration(address)
        runs = image and Release(talos.version(address), talos.schematic(address))
        lacks = _volumes(wanted, address, talos)
    except TalosctlError as error:
        yield finding(f"does not answer: {error}", "see docs/procedures/replace-machine.md")
        return
    if not isinstance(wanted, Mapping):
        yield finding(
            "cannot be compared: the state does not know what was applied", "`pulumi up` notes it"
        )
        return
    fields = [
        Field(where=leaf.where, wanted=leaf.texts()[0], found=leaf.texts()[1])
        for leaf in leaves(wanted, redaction.fields(text, secrets))
    ]
    if fields:
        yield finding("changed", _apply_again(urn), fields)
    if lacks:
        fields = [Field(where=name, wanted=volumes.READY, found=why) for name, why in lacks.items()]
        yield finding("data disks without their volumes", VOLUMES, fields)
    if image and runs and not runs.is_that_of(image):
        pairs = {
            "Talos": (image.version, runs.version),
            "schematic": (image.schematic or runs.schematic, runs.schematic),
        }
        fields = [Field(where=k, wanted=a, found=b) for k, (a, b) in pairs.items() if a != b]
        yield finding("another Talos", UPGRADE, fields)


def _volumes(wanted: Any, address: str, talos: Talosctl) -> Mapping[str, str]:  # noqa: ANN401 JSON
    """Say what the volumes of an applied configuration lack on their machine."""
    documents = wanted if isinstance(wanted, Mapping) else {}
    kinds = [str(name).partition("/") for name in documents]
    names = [name for kind, _, name in kinds if kind == volumes.KIND]
    return volumes.lacking(talos.volumes(address), dict.fromkeys(names, 0.0)) if names else {}


def _image(wanted: Any) -> Release | None:  # noqa: ANN401 JSON
    """Give the release in an applied configuration; None when its installer names no version."""
    found = INSTALLER.search(str((_section(wanted).get("install") or {}).get("image", "")))
    return Release(found["version"], found["schematic"] or "") if found else None


def _section(wanted: Any) -> Mapping[str, Any]:  # noqa: ANN401 JSON
    """Give the section `machine` of an applied configuration; empty when nothing is known."""
    if not isinstance(wanted, Mapping):
        return {}
    section: Mapping[str, Any] = (wanted.get(redaction.MAIN) or {}).get("machine") or {}
    return section


def _apply_again(urn: str) -> str:
    """Give the command that sends a configuration again: the provider sees no reason to."""
    return f"`pulumi up --target-replace '{urn}'` sends it again"
