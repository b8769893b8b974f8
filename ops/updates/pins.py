"""Layer Updates: what a change of files moves: pinned versions, and anything else.

Renovate's own expressions (renovate.json, customManagers) say where a version stands, so that what
it may move and what is taken for a version here are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from config import versions

RENOVATE = Path(__file__).parents[2] / "renovate.json"
LAB_MODULES = re.compile(r"lab/(.+/)?go\.(mod|sum)")
"""What the lab is built of. It has no credentials and no way out of its namespace; but it writes
the review that decides, so a module is taken from where it was taken before."""
REPLACED = re.compile(r"(?m)^\s*(?:replace\s+)?(\S+)(?:\s+v\S+)?\s+=>\s+(\S+)")
"""A line of go.mod that takes a module from elsewhere: what, and from where."""
LAYERS = {
    "siderolabs/talos": "talos",
    "kubernetes/kubernetes": "kubernetes",
    "cilium": "cilium",
    "kubernetes-sigs/gateway-api": "cilium",
    "metallb": "metallb",
    "cert-manager": "certManager",
    "traefik": "traefik",
    "traefik/traefik": "traefik",
    "metrics-server": "metricsServer",
    "alex1989hu/kubelet-serving-cert-approver": "metricsServer",
    "argo-cd": "argocd",
    "siderolabs/talos-backup": "backup",
}
"""Renovate's name of a package, and its layer in `platform:updates`; others wait for a person."""

Step = Literal["patch", "minor", "major", "back"]


@dataclass(frozen=True)
class Pin:
    """A version in a text, and where its releases are listed."""

    package: str
    datasource: str
    registry: str
    tag: str
    """How a release is tagged, with `{}` for the version."""
    version: str
    start: int
    """Where the version begins in the text."""


@dataclass(frozen=True)
class Moved:
    """A pin that a change moves."""

    layer: str
    """Its key in `platform:updates`; empty for what no layer names."""
    old: str
    new: Pin

    @property
    def step(self) -> Step | None:
        """How far: `None` for what is no exact version, as a preview release."""
        try:
            before, after = versions.parse(self.old), versions.parse(self.new.version)
        except ValueError:
            return None
        if after <= before:
            return "back"
        if before[0] != after[0]:
            return "major"
        return "patch" if before[:2] == after[:2] else "minor"

    def __str__(self) -> str:
        """Write it for people."""
        return f"{self.new.package} {self.old} to {self.new.version}"


@dataclass(frozen=True)
class Change:
    """All that a change of files does."""

    moved: tuple[Moved, ...]
    others: tuple[str, ...]
    """The files in which something else changes."""


def compare(files: Mapping[str, tuple[str | None, str | None]]) -> Change:
    """Say what changes between two texts of each file; `None` is one that is not there, or no text.

    The same version in several places is one move, as long as its releases are listed at one.
    """
    moved: dict[tuple[str, ...], Moved] = {}
    others = []
    for path, (old, new) in files.items():
        if old is None or new is None:
            others.append(path)
            continue
        if LAB_MODULES.fullmatch(path):
            if set(REPLACED.findall(old)) != set(REPLACED.findall(new)):
                others.append(path)
            continue
        if _without_versions(old) != _without_versions(new):
            others.append(path)
            continue
        for before, after in zip(pins(old), pins(new), strict=True):
            if before.version != after.version:
                one = Moved(LAYERS.get(after.package, ""), before.version, after)
                source = after.package, after.datasource, after.registry, after.tag
                moved[*source, before.version, after.version] = one
    return Change(tuple(moved.values()), tuple(others))


def pins(text: str) -> list[Pin]:
    """Find the pinned versions of a text, in its order."""
    found = {pin.start: pin for manager in _managers() for pin in manager.find(text)}
    return [found[start] for start in sorted(found)]


def _without_versions(text: str) -> str:
    for pin in reversed(pins(text)):
        text = text[: pin.start] + "?" + text[pin.start + len(pin.version) :]
    return text


@dataclass(frozen=True)
class _Manager:
    """One of Renovate's custom managers."""

    expression: re.Pattern[str]
    defaults: Mapping[str, str]
    """What its templates say, where the text does not."""

    def find(self, text: str) -> Iterator[Pin]:
        """Give the versions in a text."""
        for match in self.expression.finditer(text):
            said = {**self.defaults, **{k: v for k, v in match.groupdict().items() if v}}
            yield Pin(
                package=said["depName"],
                datasource=said["datasource"],
                registry=said.get("registryUrl", ""),
                tag=_tag(said.get("extractVersion", "")),
                version=said["currentValue"],
                start=match.start("currentValue"),
            )


def _tag(extract: str) -> str:
    """Turn Renovate's expression for a tag, `^v(?<version>.+)$`, into `v{}`."""
    return re.sub(r"\(\?<version>[^)]*\)", "{}", extract).strip("^$") or "{}"


@cache
def _managers() -> tuple[_Manager, ...]:
    document = json.loads(RENOVATE.read_text(encoding="utf-8"))
    return tuple(
        _Manager(
            # JavaScript's named groups, in Python's spelling.
            re.compile(expression.replace("(?<", "(?P<")),
            {
                name.removesuffix("Template"): value
                for name, value in manager.items()
                if name.endswith("Template")
            },
        )
        for manager in document["customManagers"]
        for expression in manager["matchStrings"]
    )
