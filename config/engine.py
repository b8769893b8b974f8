"""Configuration: read the settings from the Pulumi engine, inside a running program.

The only part of this package that imports Pulumi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
from pulumi.runtime import config as engine_config

from config.reading import PROJECT, gather, resolve
from config.secret_keys import SECRET_NAMES

if TYPE_CHECKING:
    from config.settings import Settings


def load_from_pulumi() -> Settings:
    """Make settings of the stack's configuration.

    Finds the same problems as `config.load_file`, and needed secrets that are not set.
    Raises `SettingsError` with all of them.
    """
    config = {**engine_config.get_config_env(), **engine_config.CONFIG.get()}
    encrypted = {key for key in config if engine_config.is_config_secret(key)}
    plain = {key: value for key, value in config.items() if key not in encrypted}
    return resolve(gather(plain, encrypted), secrets_required=True)


def require_secret(name: str) -> pulumi.Output[str]:
    """Read one of the stack's secrets, by its key without `platform:`."""
    if name not in SECRET_NAMES:
        message = f"{name} is not in config.secret_keys.SECRET_KEYS: add it there"
        raise KeyError(message)
    return pulumi.Config(PROJECT).require_secret(name)
