"""Layer Restore: a copy of the stack's state beside the backups, for the day it is lost too.

The copy is the state as `pulumi stack export` gives it, its secrets encrypted by the stack's own
passphrase or KMS key, and all of it again with age: nobody reads the cluster's keys with one of
the two alone.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clients import age_file
from clients.pulumi_cli import export, pulumi
from config.resource_types import GATE, MACHINE_SECRETS
from ops.engine.urn import kind_and_name
from ops.restore.checks import RefusedError

if TYPE_CHECKING:
    from clients.backup_storage import Stored
    from ops.restore.stack import Stack

Resource = Mapping[str, Any]
ETCD = "etcd"
"""The gate that opens once etcd has begun (components/talos/node.py)."""


def etcd_has_begun(resources: Sequence[Resource]) -> bool:
    """Tell whether the state knows that etcd has been bootstrapped."""
    return any(one["type"] == GATE and one["urn"].endswith(f"::{ETCD}") for one in resources)


def keep(stack: Stack, now: dt.datetime) -> str:
    """Store a copy of the state; says where. Raises StorageError and EngineError."""
    text = export()
    if not any(one["type"] == MACHINE_SECRETS for one in _resources(json.loads(text))):
        raise RefusedError("the stack's state holds no keys of a cluster: nothing is to be kept")
    key = stack.storage.name_of_state(now)
    stack.storage.upload(key, age_file.encrypt(text.encode(), stack.backup.age_public_key))
    return f"kept the state as {key} in {stack.backup.bucket}"


def bring_back(stack: Stack, name: str | None, identity: Path, *, only_keys: bool) -> str:
    """Import a copy of the state, the newest one without a name; says what was done.

    With `only_keys` no more than what a destroy would have left: the machines are gone.
    Raises StorageError, AgeError, EngineError and RefusedError.
    """
    if _resources(json.loads(export())):
        raise RefusedError(
            "this stack has a state, which is newer than its copy. If it is lost all the same: "
            "`pulumi stack rm --preserve-config --force`, `pulumi stack init`, and this again"
        )
    stored = _chosen(stack.storage.states(), name)
    keys = age_file.identities(identity)
    with TemporaryDirectory(prefix="restore-") as folder:
        encrypted, plain = Path(folder, "encrypted"), Path(folder, "state.json")
        encrypted.touch(mode=0o600)
        stack.storage.download(stored.key, encrypted)
        age_file.decrypt(encrypted, plain, keys, stored.key)
        document = json.loads(plain.read_text(encoding="utf-8"))
        if only_keys:
            document["deployment"]["resources"] = protected(_resources(document))
            document["deployment"].pop("pending_operations", None)
            plain.write_text(json.dumps(document), encoding="utf-8")
        pulumi("stack", "import", "--file", str(plain))
    names = ", ".join(kind_and_name(one["urn"]) for one in _resources(document) if _kept(one))
    return f"the state of {stored.key} is back: {len(_resources(document))} resources ({names})"


def protected(resources: Sequence[Resource]) -> list[Resource]:
    """Give the protected resources, and those that they are made with."""
    by_urn = {one["urn"]: one for one in resources}
    wanted = [urn for urn, one in by_urn.items() if _kept(one)]
    found = set[str]()
    while wanted:
        urn = wanted.pop()
        if urn in found or urn not in by_urn:
            continue
        found.add(urn)
        one = by_urn[urn]
        wanted += [
            one.get("parent", ""),
            one.get("provider", "").rpartition("::")[0],
            *(one.get("dependencies") or ()),
        ]
    return [one for one in resources if one["urn"] in found]


def _kept(one: Resource) -> bool:
    return bool(one.get("protect"))


def _resources(document: Mapping[str, Any]) -> list[Resource]:
    return document["deployment"].get("resources") or []


def _chosen(found: Sequence[Stored], name: str | None) -> Stored:
    for one in reversed(found):
        if name in {None, one.key}:
            return one
    keys = ", ".join(one.key for one in found) or "none"
    raise RefusedError(f"no such copy of the state; there are: {keys}")
