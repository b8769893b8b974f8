"""GitOps: what `kubectl kustomize` makes of the few things of Kustomize that this repository uses.

Resources and replacements, and nothing else: a kustomization that uses more is refused. Tests and
checks read the repository as Argo CD will, without a program that may not be there; the lab's tests
hold this reading against the real one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from config import plain_yaml

Object = dict[str, Any]

FILE = "kustomization.yaml"
LOCAL = "config.kubernetes.io/local-config"
_KEYS = {"apiVersion", "kind", "resources", "replacements"}
_SELECT = {"kind", "name"}


class KustomizeError(Exception):
    """A kustomization is not one that this reading knows."""


def build(folder: Path) -> list[Object]:
    """Build a folder with a kustomization: its objects, in the order in which they are named."""
    return [one for one in _gather(folder) if not _is_local(one)]


def identity(one: Object) -> tuple[str, str, str, str]:
    """Tell an object from all others: API group, kind, namespace (may be empty) and name."""
    group, slash, _ = str(one["apiVersion"]).partition("/")
    metadata = one["metadata"]
    return group if slash else "", one["kind"], metadata.get("namespace", ""), metadata["name"]


def _gather(folder: Path) -> list[Object]:
    file = folder / FILE
    document = plain_yaml.read(file.read_text(encoding="utf-8"))
    _only(document, _KEYS, file)
    objects = [one for name in document["resources"] for one in _read(folder / name)]
    for replacement in document.get("replacements", ()):
        _replace(replacement, objects, file)
    return objects


def _read(path: Path) -> list[Object]:
    if path.is_dir():
        return _gather(path)
    return [one for one in plain_yaml.read_all(path.read_text(encoding="utf-8")) if one]


def _is_local(one: Object) -> bool:
    """Say whether an object is for Kustomize only."""
    annotations = one["metadata"].get("annotations") or {}
    return str(annotations.get(LOCAL)).lower() == "true"


def _replace(replacement: dict[str, Any], objects: list[Object], file: Path) -> None:
    _only(replacement, {"source", "targets"}, file)
    source = dict(replacement["source"])
    path = source.pop("fieldPath")
    (found,) = _selected(objects, source, file)
    value = _at(found, _steps(path), file)
    for target in replacement["targets"]:
        _only(target, {"select", "fieldPaths", "options"}, file)
        for one in _selected(objects, target["select"], file):
            for where in target["fieldPaths"]:
                *above, last = _steps(where)
                holder = _at(one, above, file)
                old = _at(holder, [last], file)
                holder[last] = _joined(old, value, target.get("options", {}), file)


def _selected(objects: list[Object], select: dict[str, str], file: Path) -> list[Object]:
    _only(select, _SELECT, file)
    found = [
        one
        for one in objects
        if one["kind"] == select["kind"] and select.get("name") in (None, one["metadata"]["name"])
    ]
    if not found:
        message = f"{file}: nothing is selected by {select}"
        raise KustomizeError(message)
    return found


def _joined(old: object, value: object, options: dict[str, Any], file: Path) -> object:
    """Give the new value: the given one, or the old one with one of its parts replaced."""
    if not options:
        return value
    _only(options, {"delimiter", "index"}, file)
    parts = str(old).split(options["delimiter"])
    parts[options["index"]] = str(value)
    return str(options["delimiter"]).join(parts)


def _steps(path: str) -> list[str | int]:
    return [int(step) if re.fullmatch(r"\d+", step) else step for step in path.split(".")]


def _at(holder: Any, steps: list[str | int], file: Path) -> Any:  # noqa: ANN401 YAML values
    for step in steps:
        try:
            holder = holder[step]
        except (KeyError, IndexError, TypeError):
            message = f"{file}: no field {'.'.join(map(str, steps))}"
            raise KustomizeError(message) from None
    return holder


def _only(given: dict[str, Any], known: set[str], file: Path) -> None:
    if unknown := set(given) - known:
        message = (
            f"{file}: {', '.join(sorted(unknown))} is not read here; see ops/gitops/kustomize.py"
        )
        raise KustomizeError(message)
