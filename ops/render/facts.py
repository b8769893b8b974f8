"""Layer Render: what each chart accepts, as the project keeps it, and our values held against it.

Cilium's and MetalLB's schemas let unknown keys pass, Argo CD and metrics-server have none: a
misspelt key has no effect and no error. So every key must be one of the chart's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from config.charts import ChartPlan
from ops.render import schemas
from ops.render.schemas import Schema

RENEW = "`make chart-facts` takes them from the chart's package"
KEYS, SCHEMA = ".keys.json", ".schema.json"
"""What the files' names end with: of the defaults, and of the chart's own schema."""


class FactsError(Exception):
    """What a chart accepts is not known."""


@dataclass(frozen=True)
class Facts:
    """What one version of a chart accepts."""

    chart: str
    version: str
    keys: Schema
    """Made of its defaults: `schemas.of`."""
    schema: Schema | None
    """Its own, where it has one."""

    @cached_property
    def _paths(self) -> list[schemas.Path]:
        """Every path that the defaults name."""
        return list(schemas.known(self.keys))

    def problems(self, plan: ChartPlan) -> Iterator[str]:
        """Say everything about a plan's values that the chart does not know or take."""
        for problem in (*self._unlike_defaults(plan.values), *self._refused(plan.values)):
            yield f"chart {self.chart} {self.version}: {problem}"

    def _unlike_defaults(self, values: Mapping[str, Any]) -> Iterator[str]:
        for fault in schemas.faults(self.keys, values):
            if fault.rule == "additionalProperties":
                known = fault.schema["properties"]
                unknown = {key: one for key, one in fault.value.items() if key not in known}
                for path, _ in schemas.paths(unknown, fault.path):
                    yield from self._unknown(path)
            # `null` takes the default away in Helm.
            elif fault.value is not None and not self._schema_takes(fault.path, fault.value):
                yield f"{schemas.join(fault.path)}: {fault.message}"

    def _unknown(self, path: schemas.Path) -> Iterator[str]:
        if not self._schema_names(path):
            near = schemas.nearest(self._paths, path)
            hint = f"; the nearest that it has is {near}" if near else ""
            yield f"it has no key {schemas.join(path)}{hint}"

    def _refused(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Hold values against the chart's own schema, as Helm does before it renders.

        Helm validates them over the defaults: what is required and has a default is never missed.
        """
        for fault in schemas.faults(self.schema or {}, values):
            needed = fault.schema["required"] if fault.rule == "required" else ()
            missed = [name for name in needed if name not in fault.value]
            if not missed or not all(self.knows((*fault.path, name)) for name in missed):
                yield f"{schemas.join(fault.path) or 'the values'}: {fault.message} (its schema)"

    def knows(self, path: schemas.Path) -> bool:
        """Say whether a path is one of the defaults, or below one that is open."""
        faults = schemas.faults(self.keys, schemas.alone(path, None))
        return all(fault.path == path for fault in faults)

    def _schema_names(self, path: schemas.Path) -> bool:
        """Say whether the schema names a key; of Kubernetes' own objects it mostly says nothing."""
        if self.schema is None or any(key in schemas.HANDED_THROUGH for key in path[:-1]):
            return False
        return schemas.names(self.schema, path)

    def _schema_takes(self, path: schemas.Path, value: object) -> bool:
        """Say whether the schema names the key and takes another type than the default's."""
        return self._schema_names(path) and not list(self._refused(schemas.alone(path, value)))


def load(chart: str, version: str, folder: Path = schemas.FOLDER) -> Facts:
    """Read what the project keeps of a chart. Raises `FactsError`."""
    path = folder / f"{chart}-{version}{KEYS}"
    if not path.is_file():
        there = sorted(one.name.removesuffix(KEYS) for one in folder.glob(f"{chart}-*{KEYS}"))
        message = (
            f"{path.name}: what chart {chart} {version} accepts is not kept "
            f"({', '.join(there) or 'nothing'} is); {RENEW}"
        )
        raise FactsError(message)
    keys = _read(path)
    if (more := folder / f"{chart}.more{KEYS}").is_file():
        keys = schemas.merged(keys, _read(more))
    own = folder / f"{chart}-{version}{SCHEMA}"
    return Facts(chart, version, keys, _read(own) if own.is_file() else None)


def _read(path: Path) -> Schema:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FactsError(f"{path.name}: {error}") from None
    if not isinstance(found, dict):
        raise FactsError(f"{path.name}: not a JSON Schema")
    return found


def problems(plans: tuple[ChartPlan, ...]) -> list[str]:
    """Hold every plan's values against its chart. Raises `FactsError`."""
    return [problem for plan in plans for problem in load(plan.chart, plan.version).problems(plan)]
