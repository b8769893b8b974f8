"""Configuration: read a Pulumi stack file without the engine, and see in it what the engine sees.

`config.yaml_text` reads the YAML. Here the keys are brought into the engine's one form: `cluster`,
`platform:cluster` and `platform:config:cluster` are the same key to it, and of two that are the
same it takes any (workspace/loaders.go and resource/config/key.go of Pulumi's sdk).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import yaml_text
from config.problems import Problem, SettingsError, is_named_secret, key_of, problem, secrets_in
from config.reading import PROJECT, Raw, empty_section, gather, resolve
from config.shown import escaped, key_text, may_be_secret

if TYPE_CHECKING:
    from config.settings import Settings

TOP_LEVEL = frozenset(
    {"config", "encryptionsalt", "encryptedkey", "secretsprovider", "environment"}
)
"""What the engine reads in a stack file (ProjectStack in workspace/project.go)."""


def load_file(path: str | Path) -> Settings:
    """Read a stack file and make settings of it; raises `SettingsError` with all problems."""
    return resolve(read(path))


def read(path: str | Path) -> Raw:
    """Read a stack file's configuration; raises `SettingsError` when it is no stack file."""
    document = _document(path)
    config = document.value.get("config") if isinstance(document.value, Mapping) else None
    if not isinstance(config, Mapping):
        fault = "holds no `config:` with keys below it"
        raise _no_stack_file(path, fault, "give a Pulumi stack file, as Pulumi.prod.yaml is")
    found = [*map(_problem, document.findings), *_top_level(document.value)]
    found += filter(None, map(_empty, document.empty))
    values, twins = _by_one_form(config)
    encrypted = {key for key, value in values.items() if _holds_encrypted(value)}
    plain = {key: _as_engine(value) for key, value in values.items() if key not in encrypted}
    return gather(plain, encrypted, (*found, *twins))


def _document(path: str | Path) -> yaml_text.Document:
    try:
        with Path(path).open("rb") as file:
            # A byte more than what is read: the size of a device or a pipe is not known before.
            return yaml_text.parse(yaml_text.decode(file.read(yaml_text.SIZE + 1)))
    except OSError as error:
        raise _no_stack_file(path, f"cannot be read: {error.strerror}", "check the path") from None
    except ValueError:  # a NUL in the path
        raise _no_stack_file(path, "is not the name of a file", "check the path") from None
    except yaml_text.YamlError as error:
        raise _no_stack_file(path, error.fault, error.fix) from None


def _no_stack_file(path: str | Path, fault: str, fix: str) -> SettingsError:
    return SettingsError([Problem(str(path), fault, fix)])


def _problem(found: yaml_text.Finding) -> Problem:
    """Turn what is wrong at a place of the document into a problem of the key there."""
    path = found.path
    if path[:1] == ("config",) and len(path) > 1:
        path = (_one_form(str(path[1])), *path[2:])
        key = key_of(path)
    else:
        key = ".".join(key_text(str(part)) for part in path) or "the file"
    written = found.written
    if written is not None and (is_named_secret(path) or may_be_secret(written)):
        written = None
    if written is not None and len(written) > 40:  # noqa: PLR2004 enough to find it
        written = f"{written[:40]}... ({len(written)} characters)"
    return Problem(key, found.fault, found.fix, None if written is None else escaped(written))


def _empty(path: yaml_text.Path) -> Problem | None:
    """Find a section that nothing is written behind."""
    if path[:1] != ("config",) or len(path) == 1:
        return None
    namespace, _, name = _one_form(str(path[1])).partition(":")
    return empty_section((name, *path[2:])) if namespace == PROJECT else None


def _top_level(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Check what stands beside `config`: the engine overlooks what it does not know there."""
    if document.get("environment") is not None:
        yield Problem(
            "environment",
            "brings settings from elsewhere, which no check sees",
            "remove it, and write the settings below `config`",
        )
    for name in document.keys() - TOP_LEVEL:
        close = difflib.get_close_matches(name.strip().lower(), TOP_LEVEL, n=1, cutoff=0.8)
        if close:
            yield Problem(key_text(name), "unknown key", f"did you mean `{close[0]}`?")
        for each in secrets_in({name: document[name]}, ()):
            yield Problem(key_text(name), each.fault, each.fix)


def _one_form(key: str) -> str:
    """Write a key as the engine does: `platform:cluster`."""
    parts = key.split(":")
    if len(parts) == 1:
        return f"{PROJECT}:{key}"
    if len(parts) == 3 and parts[1] == "config":  # noqa: PLR2004 namespace, config, name
        return f"{parts[0]}:{parts[2]}"
    return key


def _by_one_form(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    written: dict[str, str] = {}
    problems: list[Problem] = []
    for key, value in config.items():
        form = _one_form(key)
        if form.count(":") != 1 or not all(form.split(":")):
            fault = "not a key of a stack"
            problems.append(problem((f"{form}:"[:-1],), None, fault, "write it as platform:NAME"))
        elif form in values:
            problems.append(
                problem(
                    (form,),
                    None,
                    f"given twice, as `{key_text(written[form])}` and as `{key_text(key)}`: "
                    "the engine would take either of the two",
                    "keep one of the two",
                )
            )
            problems += secrets_in(value, (form,))
        else:
            values[form], written[form] = value, key
    return values, problems


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
