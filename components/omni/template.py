"""Layer Omni: the cluster template, as a pure function of the settings, the patches and the ids.

The same configuration as without Omni, in the same order of merging (components/talos/
configuration.py): the defaults, the operator's files, then what follows from the settings. What
Omni decides is left out: the image to install, which follows from Talos' version and the extensions
in the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.omni.join import NETWORK
from components.talos.configuration import COMMON, defaults, documents
from components.talos.firewall import API_SERVER, APID, RULE
from components.talos.inputs import TalosInputs
from config import plain_yaml

if TYPE_CHECKING:
    from config.settings import Machine, Omni, Settings

Ids = Mapping[str, str]
"""What Omni knows each machine by, by its name in the settings."""

ROLES = {"controlplane": "ControlPlane", "worker": "Workers"}
"""What the template calls the machines of a role."""


class _Literal(str):
    """A text of several lines, written as one."""

    __slots__ = ()


class _Dumper(plain_yaml.DUMPER):  # type: ignore[misc]  # one of two
    """Writes a template: without aliases, which a reader would have to look up."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 PyYAML's
        """Write each value where it stands."""
        del data
        return True


_Dumper.add_representer(
    _Literal,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|"),
)


def names(settings: Settings) -> dict[str, str]:
    """Give each machine's name in place of its id: for a text that people read in a preview."""
    return {machine.name: machine.name for machine in settings.machines}


def placeholders(settings: Settings) -> dict[str, str]:
    """Give ids of the right form, where none is known: Omni's own check wants UUIDs."""
    return {
        machine.name: f"00000000-0000-4000-8000-{number:012x}"
        for number, machine in enumerate(settings.machines, 1)
    }


def render(settings: Settings, omni: Omni, ids: Ids, root: Path) -> str:
    """Write the cluster template; `root` is the repository, with the operator's patches."""
    parts = [_cluster(settings, omni), *_roles(settings, ids, root)]
    parts += [_machine(settings, omni, one, ids, root) for one in settings.machines]
    return _written(parts)


def with_ids(text: str, ids: Ids) -> str:
    """Give a template, which names machines as the settings do, with what Omni calls them."""
    parts = list(plain_yaml.read_all(text))
    for part in parts:
        if part["kind"] == "Machine":
            part["name"] = ids[part["name"]]
        elif "machines" in part:
            part["machines"] = [ids[name] for name in part["machines"]]
    return _written(parts)


def begun_with(text: str, backup: Mapping[str, str] | None) -> str:
    """Give a template with the backup that a restore has begun the control planes with, if any.

    Omni keeps it with them, and refuses a template that does not say it.
    """
    if backup is None:
        return text
    parts = list(plain_yaml.read_all(text))
    for part in parts:
        if part["kind"] == ROLES["controlplane"]:
            part["bootstrapSpec"] = dict(backup)
    return _written(parts)


def _written(parts: Iterable[Mapping[str, Any]]) -> str:
    return yaml.dump_all(parts, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=1000)


def _cluster(settings: Settings, omni: Omni) -> dict[str, Any]:
    return {
        "kind": "Cluster",
        "name": settings.cluster.name,
        "kubernetes": {"version": settings.kubernetes.tag},
        "talos": {"version": settings.talos.tag},
        "features": {"backupConfiguration": {"interval": omni.backup_interval}},
        "systemExtensions": sorted(settings.talos.extensions or ()),
    }


def _roles(settings: Settings, ids: Ids, root: Path) -> Iterator[dict[str, Any]]:
    for role, kind in ROLES.items():
        machines = [one for one in settings.machines if one.role == role]
        patches: list[dict[str, Any]] = []
        if machines:
            own = defaults(machines[0])
            patches += [{"name": "platform-defaults", "inline": own}] if own else []
            patches += _files(settings, (COMMON, role), root)
        yield {
            "kind": kind,
            "machines": [ids[one.name] for one in machines],
            **({"patches": patches} if patches else {}),
        }


def _machine(
    settings: Settings, omni: Omni, machine: Machine, ids: Ids, root: Path
) -> dict[str, Any]:
    first, *others = documents(TalosInputs.of(settings), machine)
    if omni.tunnel and settings.network.firewall is not None:
        others.append(_let_in(machine))
    # Omni's own patch sets the disk, of `install` below; the image is Omni's to choose.
    first["machine"].pop("install")
    return {
        "kind": "Machine",
        "name": ids[machine.name],
        "install": {"disk": settings.talos.install_disk},
        "patches": [
            *_files(settings, (machine.name,), root),
            {"name": machine.name, "inline": [first, *others]},
        ],
    }


def _let_in(machine: Machine) -> dict[str, Any]:
    """Let Omni through a machine's firewall, where it comes by the tunnel inside gRPC.

    Talos trusts the link `siderolink`, and not `siderolinktun` (its NfTablesChainConfigController).
    """
    ports = [APID, API_SERVER] if machine.is_control_plane else [APID]
    return {
        "apiVersion": "v1alpha1",
        "kind": RULE,
        "name": "omni",
        "portSelector": {"ports": [int(one) for one in ports], "protocol": "tcp"},
        "ingress": [{"subnet": NETWORK}],
    }


def _files(settings: Settings, stems: tuple[str, ...], root: Path) -> list[dict[str, Any]]:
    """List the operator's files as patches, as they are written; but for those of comments."""
    found = []
    for stem in stems:
        file = root / settings.talos.patches / f"{stem}.yaml"
        if file.is_file() and any(plain_yaml.read_all(text := file.read_text(encoding="utf-8"))):
            found.append({"name": file.name, "inline": _Literal(text)})
    return found
