r"""Layer Render: the keys that a chart's values have, with their types, as a file and as a tree.

A line of a `.keys` file is a path and its default's type: `controller.image.tag string`. A dot
inside a key is written `\.`; below a `map`, a `list` or a `null` anything may follow, since the
chart's defaults say no more. Lines with `#` are comments.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

Tree = dict[str, "Tree | str"]
"""A key's keys, or the type of its default."""
Path = tuple[str, ...]

MAP, LIST, NULL = "map", "list", "null"
_AMOUNTS: Tree = {"cpu": NULL, "memory": NULL, "ephemeral-storage": NULL}
_PROFILE: Tree = {"type": "string", "localhostProfile": "string"}
_CONTEXT: Tree = {
    "allowPrivilegeEscalation": "bool",
    "appArmorProfile": _PROFILE,
    "capabilities": {"add": LIST, "drop": LIST},
    "fsGroup": "int",
    "fsGroupChangePolicy": "string",
    "privileged": "bool",
    "readOnlyRootFilesystem": "bool",
    "runAsGroup": "int",
    "runAsNonRoot": "bool",
    "runAsUser": "int",
    "seccompProfile": _PROFILE,
    "supplementalGroups": LIST,
}
KUBERNETES: dict[str, Tree] = {
    "containerSecurityContext": _CONTEXT,
    "podSecurityContext": _CONTEXT,
    "resources": {"requests": _AMOUNTS, "limits": _AMOUNTS},
    "securityContext": _CONTEXT,
}
"""Kubernetes' own objects, which charts hand through whole, whatever of them they set by default:
ResourceRequirements, PodSecurityContext and SecurityContext (https://kubernetes.io/docs/reference/kubernetes-api)."""
NUMBERS_OR_TEXTS = {"maxUnavailable", "minAvailable", "maxSurge"}
TYPES = {bool: "bool", int: "int", float: "float", str: "string", list: LIST, type(None): NULL}


def parse(text: str) -> Tree:
    """Read a `.keys` file. Raises `ValueError` for a line that is none."""
    tree: Tree = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        written, _, kind = line.rpartition(" ")
        if not written or kind not in {*TYPES.values(), MAP}:
            message = f"line {number}: {line!r} is not a key and its type"
            raise ValueError(message)
        *above, last = split(written)
        node = tree
        for key in above:
            below = node.setdefault(key, {})
            if isinstance(below, str):
                message = f"line {number}: {written!r} lies below a value"
                raise ValueError(message)  # noqa: TRY004 the text is wrong, not a type
            node = below
        node[last] = kind
    return tree


def write(tree: Tree) -> str:
    """Write a `.keys` file."""
    return "".join(f"{join(path)} {kind}\n" for path, kind in leaves(tree))


def of(values: Mapping[str, Any]) -> Tree:
    """Make the tree of a chart's default values."""
    return {
        str(key): (of(value) if value else MAP) if isinstance(value, Mapping) else type_of(value)
        for key, value in values.items()
    }


def type_of(value: object) -> str:
    """Name a value's type as the files do."""
    return MAP if isinstance(value, Mapping) else TYPES.get(type(value), "string")


def merged(tree: Tree, more: Tree) -> Tree:
    """Put further keys into a tree; what is in both stays as it is in the first."""
    found = dict(tree)
    for key, below in more.items():
        old = found.get(key)
        if isinstance(old, dict) and isinstance(below, dict):
            found[key] = merged(old, below)
        else:
            found.setdefault(key, below)
    return found


def leaves(tree: Tree, above: Path = ()) -> Iterator[tuple[Path, str]]:
    """Give every path of a tree with its type, in the tree's order."""
    for key, below in tree.items():
        if isinstance(below, str):
            yield (*above, key), below
        else:
            yield from leaves(below, (*above, key))


def paths(values: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Give every path that values set, with what they set."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from paths(value, (*above, key))
        else:
            yield (*above, key), value


def join(path: Path) -> str:
    r"""Write a path: `configs.cm.exec\.enabled`."""
    return ".".join(key.replace(".", "\\.") for key in path)


def split(written: str) -> Path:
    """Read a path."""
    return tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", written))


def look_up(tree: Tree, path: Path) -> Tree | str | None:
    """Give what a path leads to: keys, a type, or None. Below an open type it is null: anything."""
    node: Tree | str = tree
    for key in path:
        if isinstance(node, str):
            return NULL if node in {MAP, LIST, NULL} else None
        found = node.get(key)
        if found is None:
            return None
        node = found
        if own := KUBERNETES.get(key):
            # Cilium's has keys of its own in it.
            node = merged(node, own) if isinstance(node, dict) else own
    return node


def nearest(tree: Tree, path: Path) -> str | None:
    """Give the known path that an unknown one was most likely meant to be."""
    known = [join(one) for one, _ in _prefixes(tree)]
    beside = [one for one in known if split(one)[:-1] == path[:-1]]
    for candidates, cutoff in ((beside, 0.6), (known, 0.8)):
        if found := difflib.get_close_matches(join(path), candidates, 1, cutoff):
            return found[0]
    # The right name in the wrong place: replicas for deployment.replicas.
    same = [one for one in known if split(one)[-1] == path[-1]]
    return min(same, key=len) if same else None


def _prefixes(tree: Tree, above: Path = ()) -> Iterator[tuple[Path, Tree | str]]:
    for key, below in tree.items():
        yield (*above, key), below
        if isinstance(below, dict):
            yield from _prefixes(below, (*above, key))


def fits(value: object, kind: Tree | str, key: str = "") -> bool:
    """Say whether a value may stand where the default has this type.

    `null` takes the default away in Helm, and a default of null says nothing of the type. Of
    Kubernetes' numbers that may be percentages, charts write the absent one as an empty text.
    """
    if value is None or kind == NULL or (key in NUMBERS_OR_TEXTS and kind in {"int", "string"}):
        return True
    given = type_of(value)
    if isinstance(kind, dict):
        return given == MAP
    return given == kind or (kind == "float" and given == "int")
