"""Configuration: read the settings from the Pulumi engine, inside a running program.

The only part of this package that imports Pulumi.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
from pulumi.runtime import config as engine_config

from config.placeholders import in_lab, operators_file, placeholders
from config.problems import Problem, SettingsError
from config.reading import PROJECT, gather, resolve
from config.secret_keys import SECRET_NAMES
from config.stack_file import read

if TYPE_CHECKING:
    from config.settings import Settings


def load_from_pulumi() -> Settings:
    """Make settings of the stack's configuration.

    Finds the same problems as `config.load_file`, needed secrets that are not set, and outside of
    the lab placeholders. Raises `SettingsError` with all of them.
    """
    config = {**engine_config.get_config_env(), **engine_config.CONFIG.get()}
    encrypted = {key for key in config if engine_config.is_config_secret(key)}
    plain = {key: value for key, value in config.items() if key not in encrypted}
    settings = resolve(gather(plain, encrypted, _unseen()), secrets_required=True)
    if not in_lab() and (found := placeholders(settings)):
        raise SettingsError(found)
    return settings


def _unseen() -> tuple[Problem, ...]:
    """Read the stack file for what the engine does not hand on.

    Of two sections of the same name, of a second document, of `017` in a name's place the program
    sees what the engine has made of it.
    """
    file = _stack_file()
    if file is None or not file.is_file():
        return ()  # `--config-file` names another one: `python -m ops check` reads that
    try:
        return read(file).problems
    except SettingsError as error:
        return error.problems


def _stack_file() -> Path | None:
    """Find the file that the engine reads: the operator's, also in the lab."""
    if not in_lab():
        return Path(f"Pulumi.{pulumi.get_stack()}.yaml")
    return operators_file()


def require_secret(name: str) -> pulumi.Output[str]:
    """Read one of the stack's secrets, by its key without `platform:`."""
    if name not in SECRET_NAMES:
        message = f"{name} is not in config.secret_keys.SECRET_KEYS: add it there"
        raise KeyError(message)
    return pulumi.Config(PROJECT).require_secret(name)
