"""Layer Drift: fields that nobody declared and a person set, as the API server's own notes say.

An apply that is not made leaves such fields alone, so comparing with it cannot see them. The server
notes in `metadata.managedFields` which client set which field. What controllers set is theirs; what
came through a tool for people, and is not in what the owner declares, is told.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ops.drift.finding import Field
from ops.review.difference import SECRET_TEXT, shown

PEOPLE = re.compile(
    r"kubectl|k9s|k3d|lens|headlamp|mozilla|node-fetch|curl|dashboard", re.IGNORECASE
)
"""Names by which tools that people work with sign what they set."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OF_TOOLS = frozenset([LAST_APPLIED, "kubectl.kubernetes.io/restartedAt"])
"""Annotations that kubectl sets by itself: a restart is on our own pages."""
LEFT_OUT = frozenset(["status"])
NOT_SET = "(nothing)"
ADDED = "has what nobody declared, set by hand"

Object = Mapping[str, Any]


class Undeclared(NamedTuple):
    """A field, and where it is in the live object, as a JSON pointer's parts."""

    field: Field
    pointer: tuple[str, ...]


def undeclared(live: Object, declared: Object, *, hidden: bool = False) -> list[Undeclared]:
    """Give the fields of a live object that a person set and that `declared` does not have.

    A Secret's values are `hidden`.
    """
    told: dict[tuple[str, ...], Undeclared] = {}
    for fields in _set_by_hand(live):
        for pointer, where, value in _walk(fields, live, declared, (), ""):
            found = SECRET_TEXT if hidden else shown(value)
            told[pointer] = Undeclared(Field(where=where, wanted=NOT_SET, found=found), pointer)
    return list(told.values())


def _set_by_hand(live: Object) -> Iterator[Mapping[str, Any]]:
    """Give the sets of fields (the API server's fieldsV1) that each tool for people has set."""
    for entry in (live.get("metadata") or {}).get("managedFields") or ():
        if not entry.get("subresource") and PEOPLE.search(str(entry.get("manager", ""))):
            yield entry.get("fieldsV1") or {}


def removal(what: str, found: Sequence[Undeclared]) -> str:
    """Give the command that takes the fields away; `what` is as `-n traefik deployment/traefik`."""
    # From the end: taking an element out of a list moves those behind it.
    pointers = sorted(
        (one.pointer for one in found),
        key=lambda parts: [
            (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts
        ],
        reverse=True,
    )
    operations = [
        {"op": "remove", "path": "".join(f"/{_escaped(part)}" for part in parts)}
        for parts in pointers
    ]
    return f"kubectl patch {what} --type=json --patch={shlex.quote(json.dumps(operations))}"


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def set_by_people(live: Object, *path: str) -> set[str]:
    """Give the keys below a path of an object that a person set, such as the labels' names."""
    keys: set[str] = set()
    for fields in _set_by_hand(live):
        at: Any = fields
        for part in path:
            at = at.get(f"f:{part}") or {}
        keys |= {key.removeprefix("f:") for key in at if key.startswith("f:")}
    return keys


Found = tuple[tuple[str, ...], str, Any]
"""Pointer, path as people write it, value."""


def _walk(
    owned: Mapping[str, Any],
    live: Any,  # noqa: ANN401 JSON
    declared: Any,  # noqa: ANN401 JSON
    pointer: tuple[str, ...],
    where: str,
) -> Iterator[Found]:
    """Follow a set of fields (the API server's fieldsV1) into the live and the declared object."""
    for mark, below in owned.items():
        kind, _, name = mark.partition(":")
        inner = {one: rest for one, rest in below.items() if one != "."}
        if kind == "f" and isinstance(live, Mapping) and name in live:
            if name not in OF_TOOLS and (where or name not in LEFT_OUT):
                wanted = declared.get(name) if isinstance(declared, Mapping) else None
                at = ((*pointer, name), _join(where, name))
                yield from _value(inner, live[name], wanted, *at)
        elif kind == "k" and (index := _index(live, keys := json.loads(name))) is not None:
            wanted = None if (one := _index(declared, keys)) is None else declared[one]
            place = f"{where}[{', '.join(str(is_) for is_ in keys.values())}]"
            whole = {} if wanted is None else inner
            yield from _value(whole, live[index], wanted, (*pointer, str(index)), place)
        elif kind == "v" and isinstance(live, list) and (value := json.loads(name)) in live:
            wanted = value if isinstance(declared, list) and value in declared else None
            yield from _value({}, value, wanted, (*pointer, str(live.index(value))), f"{where}[]")


def _value(
    inner: Mapping[str, Any],
    live: Any,  # noqa: ANN401 JSON
    declared: Any,  # noqa: ANN401 JSON
    pointer: tuple[str, ...],
    where: str,
) -> Iterator[Found]:
    if inner:
        yield from _walk(inner, live, declared, pointer, where)
    elif declared is None and live not in (None, {}, []):
        yield pointer, where, live


def _index(listed: Any, keys: Mapping[str, Any]) -> int | None:  # noqa: ANN401 JSON
    """Give the place of the element with these keys; one that leaves a key out has its default."""
    for index, one in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(one, Mapping) and all(one.get(key, is_) == is_ for key, is_ in keys.items()):
            return index
    return None


def _join(where: str, name: str) -> str:
    if "." in name or "/" in name:
        return f'{where}["{name}"]'
    return f"{where}.{name}" if where else name
