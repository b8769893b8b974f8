"""Configuration: from raw values to `Settings`, or to the list of everything wrong with them.

Both readers, of a stack file (`config.stack_file`) and of the engine (components), bring the
raw values into one shape, `Raw`, so that they find the same problems and give the same model.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from config import not_settings, rules, values, yaml_text
from config.draft import Draft
from config.needed_secrets import needed
from config.problems import (
    Path,
    Problem,
    SettingsError,
    is_named_secret,
    key_of,
    problem,
    secrets_in,
)
from config.secret_keys import SECRET_KEYS, SECRET_NAMES, SecretKey
from config.settings import Machine, Services, Settings
from config.texts import unprintable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

PROJECT = "platform"
ENGINE_NAMESPACE = "pulumi"
DEFAULT_PROVIDERS = f"{ENGINE_NAMESPACE}:disable-default-providers"
SHORTEST_SECRET = 4
"""A shorter text is too likely to stand somewhere by chance."""
SECTIONS = tuple(Settings.model_fields)


@dataclass(frozen=True)
class Raw:
    """A stack's values under `platform:`, unchecked; keys are without the prefix."""

    values: Mapping[str, Any]
    """What is not encrypted, in JSON's types; also secrets in plain text."""
    encrypted: frozenset[str] = field(default_factory=frozenset)
    """The keys whose value is encrypted, or holds something encrypted."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with the text and with the keys."""
    elsewhere: tuple[str, ...] = ()
    """The keys of other namespaces, which nothing reads."""
    secrets: frozenset[str] = field(default_factory=frozenset)
    """Secrets in plain text: no message may repeat one of them."""


def gather(
    config: Mapping[str, Any], encrypted: Iterable[str], problems: Iterable[Problem] = ()
) -> Raw:
    """Bring a stack's configuration, of all namespaces, into one shape.

    `config` is by full key (`platform:site`), without the values of the keys in `encrypted`;
    `problems` are what was wrong with the text that it was read from.
    """
    values: dict[str, Any] = {}
    found = list(problems)
    for key, value in config.items():
        namespace, _, name = key.replace(":config:", ":", 1).partition(":")
        if namespace == PROJECT:
            if name in SECTIONS:
                value, faults = _decoded(value, (name,))  # noqa: PLW2901 the same value, read
                found += faults
            values[name] = value
        else:
            found += _of_another_namespace(namespace, key, value)
    hidden = frozenset(
        key.replace(":config:", ":", 1).removeprefix(f"{PROJECT}:")
        for key in encrypted
        if key.startswith(f"{PROJECT}:")
    )
    told = frozenset(_secret_texts({**config, **values}, ()))
    elsewhere = tuple(
        key for key in config if key.partition(":")[0] not in (PROJECT, ENGINE_NAMESPACE)
    )
    return Raw(values, hidden, tuple(found), elsewhere, told)


def _secret_texts(value: object, path: Path) -> Iterator[str]:
    """Give the texts below keys that name a secret: no message may repeat them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secret_texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _secret_texts(item, path)
    elif value is not None and is_named_secret(path) and len(str(value)) >= SHORTEST_SECRET:
        yield str(value)


def _of_another_namespace(namespace: str, key: str, value: object) -> Iterator[Problem]:
    yield from secrets_in({key: value}, ())
    yield from unprintable({key: value}, ())
    plain = unicodedata.normalize("NFKC", namespace).strip().lower()
    if difflib.get_close_matches(plain, [PROJECT], cutoff=0.75):
        yield Problem(key_of((key,)), "unknown key", f"did you mean `{PROJECT}:...`?")
    if key == DEFAULT_PROVIDERS and _decoded(value, (key,))[0] != ["*"]:
        yield problem(
            (key,),
            None,
            "lets resources be made by a provider that nobody configured",
            "remove it: Pulumi.yaml sets it for every stack",
        )


def _decoded(value: object, path: Path) -> tuple[object, list[Problem]]:
    """Read a section that was set on the command line, as JSON in a text."""
    if not isinstance(value, str):
        return value, []
    twice: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        if len(value) > yaml_text.SIZE or _depth(value) > yaml_text.DEPTH:
            fault = "larger or nested deeper than any setting"
            return None, [problem(path, None, fault, "remove what is not needed")]
        found = json.loads(
            value, parse_int=_whole, parse_constant=_no_number, object_pairs_hook=mapping
        )
    except ValueError:
        return value, []
    if not isinstance(found, dict | list):
        return value, []
    return found, [
        problem((*path, key), None, "given twice", "keep one of the two") for key in twice[:1]
    ]


def _depth(text: str) -> int:
    """Give at least how deep a JSON text is nested."""
    depth = deepest = 0
    for one in re.findall(r"[][{}]", text):
        depth += 1 if one in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _whole(digits: str) -> int:
    if len(digits) > yaml_text.DIGITS + 1:
        raise ValueError
    return int(digits)


def _no_number(_: str) -> NoReturn:
    raise ValueError


def parse(values: Mapping[str, Any]) -> Settings:
    """Make settings of the sections' values: `{"site": {...}, "machines": [...], ...}`.

    Raises `SettingsError` with all problems.
    """
    return resolve(Raw(values))


def resolve(raw: Raw, *, secrets_required: bool = False) -> Settings:
    """Check raw values and make settings of them.

    With `secrets_required` a needed secret that is not set is a problem too.
    Raises `SettingsError` with all problems.
    """
    plain = [found for name in SECTIONS for found in secrets_in(raw.values.get(name), (name,))]
    odd = [found for name in SECTIONS for found in unprintable(raw.values.get(name), (name,))]
    draft, problems = _read_sections(raw)
    # One problem a key: a secret first, then how the value is written, then what it means.
    found: list[Problem] = []
    told: set[str] = set()
    for each in (
        plain,
        raw.problems,
        odd,
        [*_top_level(raw), *problems, *rules.check(draft)],
    ):
        found += (one for one in each if one.key not in told)
        told |= {one.key for one in found}
    found = [_without(each, raw.secrets) for each in found]
    if secrets_required:
        found += (_unset(key) for key in missing_secrets(raw, draft))
    if found:
        raise SettingsError(sorted(dict.fromkeys(found), key=_position))
    sections = {name: getattr(draft, name) for name in SECTIONS}
    return Settings.model_validate({**sections, "machines": tuple(draft.machines.values())})


def _without(each: Problem, secrets: frozenset[str]) -> Problem:
    """Leave a value out that repeats a secret."""
    value = each.value
    return replace(each, value=None) if value and any(map(value.__contains__, secrets)) else each


def missing_secrets(raw: Raw, sections: Draft | Settings) -> tuple[SecretKey, ...]:
    """Give the secrets that are needed and not set, encrypted or in plain text."""
    given = {*raw.values, *raw.encrypted}
    services, talos, omni = sections.services or Services(), sections.talos, sections.omni
    return tuple(key for key in needed(services, talos, omni) if key.name not in given)


def _unset(key: SecretKey) -> Problem:
    fix = f"run `{key.command}`: {key.description}"
    return Problem(key_of((key.name,)), "a secret that is not set", fix)


def _position(each: Problem) -> tuple[int, list[tuple[int, str]]]:
    """Sort by section, then by position in a list."""
    parts = re.findall(r"[^.:\[\]]+", each.key.removeprefix("platform:"))
    section = SECTIONS.index(parts[0]) if parts and parts[0] in SECTIONS else len(SECTIONS)
    return section, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


# --- Top level ---------------------------------------------------------------------------------


def _top_level(raw: Raw) -> Iterator[Problem]:
    for name in sorted({*raw.values, *raw.encrypted}):
        if name in SECRET_NAMES:
            if name not in raw.encrypted:
                yield _plain_secret(name)
        elif name not in SECTIONS:
            yield _unknown((name,), [*SECTIONS, *SECRET_NAMES])
        elif name in raw.encrypted:
            yield problem(
                (name,),
                None,
                "holds an encrypted value (`secure:`), but settings hold no secrets",
                "write it in plain text; the stack's secrets are keys of their own: "
                + ", ".join(key.name for key in SECRET_KEYS),
            )


def _plain_secret(name: str) -> Problem:
    command = next(key.command for key in SECRET_KEYS if key.name == name)
    return Problem(
        key_of((name,)),
        "a secret in plain text (not shown)",
        f"change it at its issuer, remove it from the file, and run `{command}`",
    )


def _unknown(path: Path, known: Iterable[str]) -> Problem:
    # The value is left out: it may be a secret under a mistyped key.
    names = sorted(known)
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    fix = f"did you mean `{close[0]}`?" if close else "remove it; known are " + ", ".join(names)
    spelt = str(path[-1]).casefold() in (one.casefold() for one in names)
    if not spelt and (instead := not_settings.way(path)):
        fix = f"remove it: {instead}; known are {', '.join(names)}"
    return Problem(key_of(path), "unknown key", fix)


# --- Sections ----------------------------------------------------------------------------------


def _read_sections(raw: Raw) -> tuple[Draft, list[Problem]]:
    draft = Draft()
    problems: list[Problem] = []
    for name in SECTIONS:
        if name in raw.encrypted:
            continue
        info = Settings.model_fields[name]
        value = raw.values.get(name)
        # The engine fills in an empty default for a section that is missing (see Pulumi.yaml).
        if value in (None, {}, []):
            if info.is_required():
                fix = f"add the section: {info.description}"
                problems.append(Problem(key_of((name,)), "missing", fix))
                continue
            if info.get_default(call_default_factory=True) is None:
                draft.missing.add(name)
                continue
            value = {}
        if name == "machines":
            problems += _read_machines(draft, value)
            continue
        try:
            setattr(draft, name, _validate(info.annotation, value))
        except ValidationError as error:
            problems += _translate(error, (name,), info.annotation)
    return draft, problems


def _read_machines(draft: Draft, value: object) -> list[Problem]:
    if not isinstance(value, list):
        return [problem(("machines",), value, *_PLAIN_FAULTS["tuple_type"])]
    problems: list[Problem] = []
    for index, item in enumerate(value):
        try:
            draft.machines[index] = _validate(Machine, item)
        except ValidationError as error:
            problems += _translate(error, ("machines", index), Machine)
    draft.all_machines = not problems
    return problems


def empty_section(path: Path) -> Problem | None:
    """Say what is wrong with a key that nothing is written behind, as when all below it is gone.

    Taken for missing, a service would not be installed, or the firewall would be open. `null` says
    that it is meant. None where a value belongs there, whose own check says what is missing.
    """
    section, *below = path
    info = Settings.model_fields.get(str(section))
    model = _model_at(None if info is None else info.annotation, tuple(below))
    found = [one for one in model.model_fields.values() if one.alias == path[-1]] if model else []
    if len(path) < 2 or not found or _model_in(found[0].annotation) is None:  # noqa: PLR2004
        return None
    if type(None) not in get_args(found[0].annotation):
        return None
    fault = "empty: it cannot be told whether it is meant"
    fix = f"write its keys below it, `{path[-1]}: {{}}` if it needs none, or remove the line"
    return problem(path, None, fault, fix)


def _validate(kind: Any, value: object) -> Any:  # noqa: ANN401 - any section's model
    # By way of JSON: there pydantic is strict on scalars, and yet takes a list for a tuple.
    # Half a surrogate pair is no JSON, and told as a wrong character already.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    return _adapter(kind).validate_json(text)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any section's model
    return TypeAdapter(kind)


# --- pydantic's errors in our words ------------------------------------------------------------

_PLAIN_FAULTS = {
    "string_type": ("not a text", "write a text, in quotes if it looks like a number"),
    "int_type": ("not a whole number", "write digits only, without quotes, unit or point"),
    "int_from_float": ("not a whole number", "write digits only, without quotes, unit or point"),
    "int_parsing": ("not a whole number", "write digits only, without quotes, unit or point"),
    "bool_type": ("neither true nor false", "write true or false, without quotes"),
    "tuple_type": ("not a list", "write a list: one line each, beginning with `- `"),
    "list_type": ("not a list", "write a list: one line each, beginning with `- `"),
    "model_type": ("not a mapping", "write keys with values, indented below it"),
    "dict_type": ("not a mapping", "write keys with values, indented below it"),
    "too_short": ("empty", "give at least one"),
}


def _translate(error: ValidationError, path: Path, kind: object) -> Iterator[Problem]:
    found = error.errors(include_url=False)
    for details in found:
        # pydantic counts only a list's good items: what is wrong with the others is told anyway.
        below = len(details["loc"])
        if details["type"] == "too_short" and any(
            len(other["loc"]) > below and other["loc"][:below] == details["loc"] for other in found
        ):
            continue
        # A wrong key of a free mapping has pydantic's marker in place of a key.
        loc = tuple(part for part in details["loc"] if part != "[key]")
        yield _translate_one(details, (*path, *loc), _model_at(kind, loc))


def _translate_one(details: ErrorDetails, path: Path, model: type[BaseModel] | None) -> Problem:
    if details["type"] == "missing":
        name = str(path[-1])
        return Problem(key_of(path), "missing", f"add `{name}`: {_description(model, name)}")
    if details["type"] == "extra_forbidden":
        return _unknown(path, _aliases(model))
    return problem(path, details["input"], *_fault(details))


def _fault(details: ErrorDetails) -> tuple[str, str]:
    """Say what is wrong, and the fix."""
    context = details.get("ctx", {})
    match details["type"]:
        case values.REFUSED:
            return context["fault"], context["fix"]
        case "literal_error":
            return "not one of the choices", f"use {context['expected']}"
        case "greater_than_equal":
            return "too small", f"give at least {context['ge']}"
        case "too_long":
            return f"{context['actual_length']} entries", f"give at most {context['max_length']}"
        case "less_than_equal":
            return "too large", f"give at most {context['le']}"
        case kind:
            return _PLAIN_FAULTS.get(kind, (details["msg"], "see `config/settings.py` for the key"))


def _model_at(kind: object, loc: Path) -> type[BaseModel] | None:
    """Find the model that holds the last key of a location."""
    model = _model_in(kind)
    for part in loc[:-1]:
        if isinstance(part, str) and model is not None:
            found = [info for info in model.model_fields.values() if info.alias == part]
            model = _model_in(found[0].annotation) if found else None
    return model


def _model_in(kind: object) -> type[BaseModel] | None:
    """Find the model in an annotation such as `tuple[DataDisk, ...]` or `Bgp | None`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_model_in, get_args(kind))), None)


def _aliases(model: type[BaseModel] | None) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _description(model: type[BaseModel] | None, alias: str) -> str:
    fields = model.model_fields.values() if model else ()
    return next((info.description or "" for info in fields if info.alias == alias), "")
