"""Layer Render: what changes between two renderings, object by object.

Labels and annotations that only carry a version are left out: an upgrade changes them everywhere,
and hides among them what it really does.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Object = Mapping[str, Any]
Name = tuple[str, str, str]
"""Kind, namespace (empty when it has none) and name."""

VERSION_LABELS = ("helm.sh/chart", "app.kubernetes.io/version", "chart")
DEFINITION = "CustomResourceDefinition"


@dataclass(frozen=True)
class Difference:
    """Two renderings, by their objects' names."""

    old: Mapping[Name, str]
    new: Mapping[Name, str]

    @property
    def added(self) -> list[Name]:
        """What only the new one has."""
        return sorted(self.new.keys() - self.old.keys())

    @property
    def removed(self) -> list[Name]:
        """What only the old one has."""
        return sorted(self.old.keys() - self.new.keys())

    @property
    def changed(self) -> list[Name]:
        """What both have, and not the same."""
        return sorted(one for one in self.old.keys() & self.new.keys() if self._changes(one))

    def _changes(self, name: Name) -> bool:
        return self.old[name] != self.new[name]

    def text(self) -> str:
        """Write it for people: what there is, then each object's lines, definitions apart."""
        return "\n".join([*self._summary(), *self._bodies(), *self._definitions()])

    def _summary(self) -> Iterator[str]:
        parts = {"removed": self.removed, "added": self.added, "changed": self.changed}
        total = ", ".join(f"{len(names)} {what}" for what, names in parts.items())
        yield f"{total}, {len(self.old.keys() & self.new.keys()) - len(self.changed)} as before"
        for what, names in parts.items():
            yield from (f"  {what:8} {written(name)}" for name in names)

    def _bodies(self) -> Iterator[str]:
        for name in [*self.removed, *self.added, *self.changed]:
            if name[0] != DEFINITION:
                yield ""
                yield from _lines(name, self.old.get(name, ""), self.new.get(name, ""))

    def _definitions(self) -> Iterator[str]:
        """Of definitions only how much of them changes: their whole text says little."""
        names = [one for one in self.changed if one[0] == DEFINITION]
        if names:
            yield "\ndefinitions (Helm never changes those of a chart's crds/ folder):"
        for name in names:
            lines = list(_lines(name, self.old[name], self.new[name]))[2:]
            fewer, more = (sum(line.startswith(sign) for line in lines) for sign in "-+")
            yield f"  {name[2]}: {fewer} lines fewer, {more} lines more"


def compare(old: Iterable[Object], new: Iterable[Object]) -> Difference:
    """Compare two renderings."""
    return Difference(_by_name(old), _by_name(new))


def written(name: Name) -> str:
    """Write a name: `Deployment traefik/traefik`, `ClusterRole traefik`."""
    kind, namespace, own = name
    return f"{kind} {namespace}/{own}" if namespace else f"{kind} {own}"


def name_of(one: Object) -> Name:
    """Give an object's name."""
    metadata = one["metadata"]
    return one["kind"], metadata.get("namespace") or "", metadata["name"]


def _by_name(found: Iterable[Object]) -> dict[Name, str]:
    return {
        name_of(one): yaml.safe_dump(_without_versions(one), sort_keys=True, width=1000)
        for one in found
    }


def _without_versions(one: Any) -> Any:  # noqa: ANN401 any YAML
    one = copy.deepcopy(one)
    for metadata in _metadata(one):
        for kind in ("labels", "annotations"):
            for label in VERSION_LABELS:
                (metadata.get(kind) or {}).pop(label, None)
    return one


def _metadata(node: object) -> Iterator[dict[str, Any]]:
    """Give the metadata of an object and of all templates in it."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "metadata" and isinstance(value, dict):
                yield value
            yield from _metadata(value)


def _lines(name: Name, old: str, new: str) -> Iterator[str]:
    return difflib.unified_diff(
        old.splitlines(),
        new.splitlines(),
        f"old  {written(name)}",
        f"new  {written(name)}",
        lineterm="",
        n=4,
    )
