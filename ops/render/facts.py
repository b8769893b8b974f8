"""Layer Render: what each chart accepts, as the project keeps it, and our values held against it.

Cilium's and MetalLB's schemas let unknown keys pass, Argo CD and metrics-server have none: a
misspelt key has no effect and no error. So every key must be one of the chart's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.charts import ChartPlan
from ops.render import keys, schemas

FOLDER = Path(__file__).parent / "charts"
RENEW = "`make chart-facts` takes them from the chart's package"


class FactsError(Exception):
    """What a chart accepts is not known."""


@dataclass(frozen=True)
class Facts:
    """What one version of a chart accepts."""

    chart: str
    version: str
    defaults: keys.Tree
    schema: schemas.Schema | None

    def problems(self, plan: ChartPlan) -> Iterator[str]:
        """Say everything about a plan's values that the chart does not know or take."""
        for path, value in keys.paths(plan.values):
            for problem in self._key(path, value):
                yield f"chart {self.chart} {self.version}: {problem}"
        if self.schema is not None:
            for problem in schemas.problems(self.schema, plan.values, self.defaults):
                yield f"chart {self.chart} {self.version}: {problem} (its schema)"

    def _key(self, path: keys.Path, value: object) -> Iterator[str]:
        written = keys.join(path)
        default = keys.look_up(self.defaults, path)
        if default is None:
            if not self._schema_names(path):
                near = keys.nearest(self.defaults, path)
                hint = f"; the nearest that it has is {near}" if near else ""
                yield f"it has no key {written}{hint}"
        elif not keys.fits(value, default, path[-1]) and not self._schema_takes(path, value):
            kind = default if isinstance(default, str) else keys.MAP
            yield f"{written} is of type {kind} in it, not {keys.type_of(value)}: {value!r}"

    def _schema_names(self, path: keys.Path) -> bool:
        """Say whether the schema names a key; of Kubernetes' own objects it mostly says nothing."""
        if self.schema is None or any(key in keys.KUBERNETES for key in path[:-1]):
            return False
        return schemas.knows(self.schema, path)

    def _schema_takes(self, path: keys.Path, value: object) -> bool:
        """Say whether the schema names the key and takes another type than the default's."""
        if self.schema is None or not self._schema_names(path):
            return False
        alone: Any = value
        for key in reversed(path):
            alone = {key: alone}
        return not list(schemas.problems(self.schema, alone, self.defaults))


def load(chart: str, version: str, folder: Path = FOLDER) -> Facts:
    """Read what the project keeps of a chart. Raises `FactsError`."""
    path = folder / f"{chart}-{version}.keys"
    if not path.is_file():
        kept = ", ".join(sorted(one.stem for one in folder.glob(f"{chart}-*.keys"))) or "nothing"
        message = (
            f"{path.name}: what chart {chart} {version} accepts is not kept ({kept} is); {RENEW}"
        )
        raise FactsError(message)
    tree = _read(path)
    if (more := folder / f"{chart}.more.keys").is_file():
        tree = keys.merged(tree, _read(more))
    schema = folder / f"{chart}-{version}.schema.json"
    text = schema.read_text(encoding="utf-8") if schema.is_file() else None
    return Facts(chart, version, tree, json.loads(text) if text is not None else None)


def _read(path: Path) -> keys.Tree:
    try:
        return keys.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FactsError(f"{path.name}: {error}") from None


def problems(plans: tuple[ChartPlan, ...]) -> list[str]:
    """Hold every plan's values against its chart. Raises `FactsError`."""
    return [problem for plan in plans for problem in load(plan.chart, plan.version).problems(plan)]
