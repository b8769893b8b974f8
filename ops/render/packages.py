"""Layer Render: chart packages on disk, and the project's facts renewed from the real ones.

Packages are looked for where `lab charts` pulls them to or a person puts them (`.lab/charts`), then
among those that the lab was built with (`.lab/bin/charts`), which may be stand-ins of the lab: from
those nothing is taken, they would only confirm themselves.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from config import plain_yaml
from ops.render import facts, schemas

PROJECT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("LAB_CHARTS") or PROJECT / ".lab" / "charts").absolute()
"""The lab's command reads the same variable."""
BUILT = PROJECT / ".lab" / "bin" / "charts"
INDEX = "index.json"
STAND_IN_MARK = "platform.lab/stand-in"
Source = Literal["cache", "module", "stand-in"]
"""Pulled or put there; the chart's folder in its project's Go module; the lab's own."""


class PackageError(Exception):
    """A package is not there, or is none."""


@dataclass(frozen=True)
class Package:
    """A chart's package."""

    path: Path
    source: Source

    @property
    def real(self) -> bool:
        """Whether the chart is its project's own."""
        return self.source != "stand-in"


def find(
    chart: str, version: str, *, cache: Path | None = None, built: Path | None = None
) -> Package | None:
    """Find the package that `lab render` takes; versions are the same with and without a `v`."""
    number = version.removeprefix("v")
    cache, built = cache or CACHE, built or BUILT
    for folder in (cache, built):
        for path in (folder / f"{chart}-{spelt}.tgz" for spelt in (number, f"v{number}")):
            if path.is_file():
                return Package(path, _source(path, "cache" if folder == cache else None))
    return None


def _source(path: Path, source: Source | None) -> Source:
    """Say where a package came from; a stand-in that someone put into the cache is one still."""
    if source is None:
        index = path.parent / INDEX
        entries = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
        named = {f"{one['name']}-{one['version']}.tgz": one["source"] for one in entries}
        source = named.get(path.name, "stand-in")
    annotations = Chart.read(path).about.get("annotations") or {}
    return "stand-in" if annotations.get(STAND_IN_MARK) == "true" else source


@dataclass(frozen=True)
class Chart:
    """What is in a package, as far as values go."""

    about: Mapping[str, Any]
    """Chart.yaml."""
    defaults: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    parts: Mapping[str, Chart]
    """Its subcharts, by the key under which they get their values."""

    @classmethod
    def read(cls, path: Path) -> Chart:
        """Read a package. Raises `PackageError`."""
        try:
            files = _files(path.read_bytes())
            return cls.of(files)
        except (OSError, tarfile.TarError, yaml.YAMLError, ValueError, KeyError) as error:
            message = f"{path}: not a chart's package: {error!r}; remove it, or pull it again"
            raise PackageError(message) from None

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Chart:
        """Read a chart from its files, by their paths in its folder."""
        about: Mapping[str, Any] = plain_yaml.read(files["Chart.yaml"])
        schema = files.get("values.schema.json")
        return cls(
            about,
            plain_yaml.read(files.get("values.yaml", b"")) or {},
            None if schema is None else json.loads(schema),
            dict(_parts(about, files)),
        )

    @property
    def keys(self) -> schemas.Schema:
        """The schema of its defaults, those of its subcharts too."""
        # A subchart's keys come with it also where the chart itself sets none (`{}`).
        own = {key: value for key, value in self.defaults.items() if value or key not in self.parts}
        parts = {name: part.keys for name, part in self.parts.items() if part.defaults}
        return schemas.merged(schemas.of(own), schemas.closed(parts))


def _files(package: bytes) -> dict[str, bytes]:
    """Give a package's files by their paths below the chart's folder."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)) is not None:
                found[member.name.split("/", 1)[-1]] = content.read()
    return found


def _parts(about: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[tuple[str, Chart]]:
    """Give the subcharts, which lie in `charts/` as folders or as packages."""
    folders: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        if not path.startswith("charts/"):
            continue
        if path.endswith(".tgz") and path.count("/") == 1:
            folders[path] = _files(content)
        elif path.count("/") > 1:
            _, folder, inside = path.split("/", 2)
            folders.setdefault(folder, {})[inside] = content
    aliases = {one["name"]: one.get("alias") for one in about.get("dependencies") or ()}
    for inside_files in folders.values():
        chart = Chart.of(inside_files)
        name = str(chart.about["name"])
        yield aliases.get(name) or name, chart


def without_descriptions(schema: Any) -> Any:  # noqa: ANN401 any JSON
    """Leave out of a schema what is for people; a property of that name stays."""
    if isinstance(schema, list):
        return [without_descriptions(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {}
    for key, value in schema.items():
        if key in {"properties", "$defs", "definitions", "patternProperties"}:
            found[key] = {name: without_descriptions(one) for name, one in value.items()}
        elif key != "description":
            found[key] = without_descriptions(value)
    return found


def renew(
    charts: Sequence[tuple[str, str]],
    folder: Path = schemas.FOLDER,
    *,
    cache: Path | None = None,
    built: Path | None = None,
) -> list[str]:
    """Renew what is kept of these charts and versions; gives a line for each.

    Raises `PackageError` when one is neither kept nor to be had; the others are written before.
    """
    lines, missed = [], []
    for chart, version in charts:
        package = find(chart, version, cache=cache, built=built)
        if package is not None and package.real:
            _write(Chart.read(package.path), chart, version, folder)
            lines.append(f"{chart} {version}: renewed from {package.path.name} ({package.source})")
        elif (folder / f"{chart}-{version}{facts.KEYS}").is_file():
            there = "for only the lab's stand-in is there" if package else "for no package is there"
            lines.append(f"{chart} {version}: kept as it was, {there}")
        else:
            missed.append(f"{chart}-{version}.tgz")
    if missed:
        message = (
            f"not available: {', '.join(missed)}; pull them with `.lab/bin/lab charts`, or put the "
            f"files into {cache or CACHE} by hand"
        )
        raise PackageError("\n".join([*lines, message]))
    return lines


def _write(chart: Chart, name: str, version: str, folder: Path) -> None:
    """Write a chart's facts; those of its other versions go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob(f"{name}-*{facts.KEYS}"), *folder.glob(f"{name}-*{facts.SCHEMA}")]:
        if old.name.removeprefix(f"{name}-")[0].isdigit():
            old.unlink()
    texts = {facts.KEYS: schemas.write(chart.keys)}
    if chart.schema is not None:
        texts[facts.SCHEMA] = schemas.write(without_descriptions(chart.schema))
    for ending, text in texts.items():
        (folder / f"{name}-{version}{ending}").write_text(text, encoding="utf-8")
