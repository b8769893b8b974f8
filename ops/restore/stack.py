"""Layer Restore: what the stack knows that a restore needs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clients.backup_storage import Storage
from clients.pulumi_cli import EngineError, pulumi
from config.problems import SettingsError
from config.reading import PROJECT, gather, resolve
from config.resource_types import MACHINE_SECRETS
from ops.engine.values import revealed

if TYPE_CHECKING:
    from config.settings import Backup, Settings

NO_KEYS = (
    "the stack's state does not hold the cluster's keys, without which no backup fits: `pulumi "
    "stack ls`, is it the right stack? A state that is lost comes back with `python -m ops "
    "restore state`"
)


OF_OMNI = (
    "platform:cluster.lifecycle = omni: Omni has the cluster's keys, and restores its own backups; "
    "a backup of the platform cannot be put back through here (docs/procedures/omni.md)"
)


@dataclass(frozen=True)
class Stack:
    """The stack's settings, its storage of backups, and its state. Everything may be a secret."""

    settings: Settings
    backup: Backup
    storage: Storage = field(repr=False)

    @classmethod
    def read(cls) -> Stack:
        """Read the stack's configuration. Raises EngineError."""
        document = json.loads(pulumi("config", "--json", "--show-secrets").stdout)
        secrets = {key: one.get("value", "") for key, one in document.items() if one.get("secret")}
        plain = {key: one["value"] for key, one in document.items() if key not in secrets}
        try:
            settings = resolve(gather(plain, set(secrets)))
        except SettingsError as error:
            raise EngineError(str(error)) from None
        backup = settings.services.backup
        if backup is None:
            raise EngineError("platform:services.backup: not set: this platform has no backups")
        storage = Storage(
            backup,
            settings.cluster.name,
            secrets.get(f"{PROJECT}:backupAccessKey", ""),
            secrets.get(f"{PROJECT}:backupSecretKey", ""),
            settings.site.trusted_roots,
        )
        return cls(settings, backup, storage)

    @cached_property
    def resources(self) -> list[dict[str, Any]]:
        """The state's resources, secrets in plain text."""
        text = pulumi("stack", "export", "--show-secrets").stdout
        found: list[dict[str, Any]] = json.loads(text)["deployment"].get("resources") or []
        return found

    @property
    def authority(self) -> bytes:
        """The Kubernetes authority of the cluster's keys, in PEM. Raises EngineError."""
        if self.settings.omni is not None:
            raise EngineError(OF_OMNI)
        for one in self.resources:
            if one["type"] == MACHINE_SECRETS:
                secrets = revealed(one["outputs"]["machineSecrets"])
                return base64.b64decode(secrets["certs"]["k8s"]["cert"])
        raise EngineError(NO_KEYS)

    def output(self, name: str) -> str:
        """Give an output of the stack, in plain text. Raises EngineError."""
        found = json.loads(pulumi("stack", "output", "--json", "--show-secrets").stdout)
        if name not in found:
            raise EngineError(
                f"the stack has no output {name}: no `pulumi up` has ended well here. On an empty "
                "site: `python -m ops restore rebuild`"
            )
        return str(found[name])
