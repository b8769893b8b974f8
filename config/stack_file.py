"""Configuration: read a Pulumi stack file without the engine.

Scalars are read as the engine's YAML library reads them, not as PyYAML would: `no`, `on` and
`12:30` are texts, a date is the text of a time, and a repeated key is an error.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from config.problems import Problem, SettingsError
from config.reading import PROJECT, Raw, gather, resolve
from config.values import MIDNIGHT

if TYPE_CHECKING:
    from config.settings import Settings


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        problem="a key that is already there", problem_mark=key.start_mark
                    )
                keys.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None
    or tag.rpartition(":")[2] in {"null", "bool", "int", "float", "str", "seq", "map"}
}
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), list(_first)
    )


def _date(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    try:
        return f"{dt.date(*map(int, text.split('-')))}{MIDNIGHT}"
    except ValueError:  # no day of the calendar
        return text


_DATE = "!date"
_Loader.add_implicit_resolver(_DATE, re.compile(r"^\d{4}-\d{1,2}-\d{1,2}$"), list("0123456789"))
_Loader.add_constructor(_DATE, _date)


def load_file(path: str | Path) -> Settings:
    """Read a stack file and make settings of it; raises `SettingsError` with all problems."""
    return resolve(read(path))


def read(path: str | Path) -> Raw:
    """Read a stack file's configuration; raises `SettingsError` when it is no stack file."""
    config = _config_of(path)
    encrypted = {key for key, value in config.items() if _holds_encrypted(value)}
    plain = {key: _as_engine(value) for key, value in config.items() if key not in encrypted}
    return gather(plain, encrypted)


def _config_of(path: str | Path) -> dict[str, Any]:
    try:
        # PyYAML's own messages quote the file, which may hold a secret in plain text.
        document = yaml.load(Path(path).read_text("utf-8"), _Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise _no_stack_file(path, f"cannot be read: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise _no_stack_file(path, "not UTF-8 text", "give a Pulumi stack file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = re.sub(r"(alias|tag|handle) '.*", r"\1", error.problem or "")
        fault = f"not valid YAML: {place}{reason}"
        raise _no_stack_file(path, fault, "correct the file there") from None
    except yaml.YAMLError:
        fault = "not valid YAML: it holds a character that YAML does not allow"
        raise _no_stack_file(path, fault, "remove control characters") from None
    config = document.get("config") if isinstance(document, Mapping) else None
    if not isinstance(config, Mapping):
        fault = "holds no `config:` with keys below it"
        raise _no_stack_file(path, fault, "give a Pulumi stack file, as Pulumi.prod.yaml is")
    # The engine, too, takes a key without a namespace for one of the project's.
    return {
        str(key) if ":" in str(key) else f"{PROJECT}:{key}": value for key, value in config.items()
    }


def _no_stack_file(path: str | Path, fault: str, mend: str) -> SettingsError:
    return SettingsError([Problem(str(path), fault, mend)])


def _holds_encrypted(value: object) -> bool:
    """Say whether `{secure: CIPHERTEXT}` stands anywhere in a value."""
    if isinstance(value, Mapping):
        is_encrypted = value.keys() == {"secure"} and isinstance(value["secure"], str)
        return is_encrypted or any(map(_holds_encrypted, value.values()))
    return isinstance(value, list) and any(map(_holds_encrypted, value))


def _as_engine(value: object) -> object:
    """Give a top-level value as the engine hands it to programs: every scalar is a text."""
    if value is None or isinstance(value, Mapping | list | str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
