"""Layer Omni: what a patch must not say in a cluster that Omni manages.

Omni refuses such a patch when the template is synced, that is after the machines are made; and of a
file with several documents it looks at the first alone. So every document is looked at here, and
before anything is made. The fields are those of Omni 1.9.3 (client/pkg/omni/resources/omni/
config_patch.go), and what Omni 1.10 refuses beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from components.talos.patch_rules import DIRECTIVE

FORBIDDEN = {
    "cluster.clusterName": "platform:cluster.name names the cluster",
    "cluster.id": "Omni makes it",
    "cluster.controlPlane.endpoint": "machines reach the API through Omni's own",
    "cluster.token": "Omni makes it",
    "cluster.secret": "Omni makes it",
    "cluster.aescbcEncryptionSecret": "Omni makes it",
    "cluster.secretboxEncryptionSecret": "Omni makes it",
    "cluster.acceptedCAs": "Omni keeps the cluster's authorities",
    "cluster.ca": "Omni keeps the cluster's authorities",
    "cluster.serviceAccount": "Omni keeps the cluster's keys",
    "machine.token": "Omni makes it",
    "machine.ca": "Omni keeps the machines' authority",
    "machine.type": "the machine's `role` in platform:machines decides",
    "machine.install.extensions": "platform:talos.extensions lists them",
    "machine.acceptedCAs": "Omni keeps the machines' authority",
}
"""Fields that Omni lets nobody set, each with who does."""

ROLES = "machine.features.kubernetesTalosAPIAccess.allowedRoles"
ADMIN = "os:admin"

KINDS = {
    "SideroLinkConfig": "it is the machine's way to Omni",
    "EventSinkConfig": "it is how the machine tells Omni of its state",
}
"""Documents of a machine that joined."""
KERNEL_LOG = ("KmsgLogConfig", "omni-kmsg")


def faults(given: Mapping[str, Any]) -> Iterator[str]:
    """Find what Omni refuses, or what would cut the machine off, in one document of a patch."""
    kind = given.get("kind")
    if kind is not None:
        yield from _of_kind(str(kind), str(given.get("name", "")))
        return
    for path, who in FORBIDDEN.items():
        if at := _touched(given, path):
            where, deleted = at
            what = "deletes what Omni sets" if deleted else f"Omni lets no patch set it: {who}"
            yield f"{where}: {what}; remove it"
    roles = _field(given, ROLES)
    if ADMIN in (roles if isinstance(roles, list) else ()):
        yield (
            f"{ROLES}: {ADMIN}, with which pods could do to the machines what Omni alone does; "
            "remove it, and give os:reader or os:etcd:backup"
        )


def _of_kind(kind: str, name: str) -> Iterator[str]:
    if kind in KINDS:
        yield f"{kind}: {KINDS[kind]}; remove the document"
    elif (kind, name) == KERNEL_LOG:
        yield f"{kind} {name}: it is how Omni gets the kernel's log; give yours another name"


def _touched(given: Mapping[str, Any], path: str) -> tuple[str, bool] | None:
    """Say where a patch sets a field, or deletes it or a section that it is in (True)."""
    value: Any = given
    seen: list[str] = []
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
        seen.append(key)
        if isinstance(value, Mapping) and value.get(DIRECTIVE) == "delete":
            return ".".join(seen), True
    return path, False


def _field(given: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 YAML values
    value: Any = given
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
