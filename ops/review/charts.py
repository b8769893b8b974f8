"""Layer Review: what an upgraded chart or a changed value changes in the rendered objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from config import plain_yaml
from config.charts import ChartPlan
from ops.engine.preview import Change, State
from ops.render import difference, rendering
from ops.render.difference import DEFINITION, Name, written
from ops.render.packages import PackageError
from ops.render.rendering import RenderError
from ops.review import kubernetes
from ops.review.difference import leaves
from ops.review.verdict import Effect, Verdict, worst

SECRET_KIND = "Secret"  # noqa: S105 a kind
"""Nothing is shown of what a rendered one holds."""
LONGEST = 40
"""Fields of one object that are listed."""


class ObjectChange(BaseModel):
    """One rendered object."""

    model_config = ConfigDict(frozen=True)

    name: str
    operation: str
    definition: bool
    why: str
    verdict: str
    fields: tuple[tuple[str, str, str], ...]
    """Field, before, after."""


class ChartChange(BaseModel):
    """One release."""

    model_config = ConfigDict(frozen=True)

    release: str
    before: str
    after: str
    """Chart, version and where the package is from."""
    values: tuple[tuple[str, str, str], ...]
    """Value, before, after."""
    objects: tuple[ObjectChange, ...] = ()
    problem: str = ""
    """Why it could not be rendered; empty when it was."""


def judge(change: Change, kubernetes_version: str) -> tuple[Effect, ChartChange | None]:
    """Judge a release by what it renders before and after."""
    if change.operation == "create":
        return Effect(Verdict.SAFE, "is installed"), None
    if change.operation == "delete":
        return Effect(
            Verdict.RESTARTS,
            "is uninstalled; definitions that charts keep stay",
            "all that it runs, for good",
        ), None
    old, new = _plan(change.old), _plan(change.new)
    values = tuple(
        (leaf.where, *leaf.texts()) for leaf in leaves(dict(old.values), dict(new.values))
    )
    try:
        found = _rendered(old, new, kubernetes_version)
        packages = [rendering.package(one).source for one in (old, new)]
    except (PackageError, RenderError) as error:
        chart = ChartChange(
            release=new.release, before=_title(old), after=_title(new), values=values,
            problem=str(error),
        )  # fmt: skip
        return Effect(
            Verdict.UNKNOWN, f"cannot be rendered here, so its effect is not known: {error}"
        ), chart
    chart = ChartChange(
        release=new.release,
        before=f"{_title(old)} ({packages[0]})",
        after=f"{_title(new)} ({packages[1]})",
        values=values,
        objects=tuple(entry for entry, _ in found),
    )
    return _effect(change, old, new, [effect for _, effect in found]), chart


def _effect(change: Change, old: ChartPlan, new: ChartPlan, effects: list[Effect]) -> Effect:
    what = (
        f"goes from {old.version} to {new.version}"
        if old.version != new.version
        else "gets other values"
    )
    if change.operation == "replace":
        reasons = ", ".join(change.replacing)
        return worst(
            [
                Effect(
                    Verdict.RESTARTS,
                    f"is uninstalled and installed again ({reasons})",
                    "all that it runs, until it is ready again",
                    "pulumi-kubernetes, helm.v3.Release: name and namespace replace",
                ),
                *effects,
            ]
        )
    if not effects:
        return Effect(Verdict.SAFE, f"{what}; no rendered object changes")
    found = worst(effects)
    major = " (a major version: read its upgrade notes)" if _major(old) != _major(new) else ""
    return Effect(found.verdict, f"{what}{major}: {found.why}", found.away, found.source)


def _plan(state: State | None) -> ChartPlan:
    inputs: Mapping[str, Any] = state.inputs if state else {}
    return ChartPlan(
        chart=str(inputs.get("chart", "")),
        repository=str((inputs.get("repositoryOpts") or {}).get("repo", "")),
        version=str(inputs.get("version", "")),
        namespace=str(inputs.get("namespace", "")),
        values=inputs.get("values") or {},
    )


def _title(plan: ChartPlan) -> str:
    return f"{plan.chart} {plan.version}"


def _major(plan: ChartPlan) -> str:
    return plan.version.removeprefix("v").split(".")[0]


def _rendered(old: ChartPlan, new: ChartPlan, version: str) -> list[tuple[ObjectChange, Effect]]:
    texts = [
        rendering.in_namespace(rendering.objects(rendering.text(one, version)), one.namespace)
        for one in (old, new)
    ]
    both = difference.compare(*texts)
    named: list[tuple[str, list[Name]]] = [
        ("delete", both.removed),
        ("create", both.added),
        ("update", both.changed),
    ]
    return [
        _object(name, operation, plain_yaml.read(both.old.get(name, "")),
                plain_yaml.read(both.new.get(name, "")))
        for operation, names in named
        for name in names
    ]  # fmt: skip


def _object(name: Name, operation: str, old: Any, new: Any) -> tuple[ObjectChange, Effect]:  # noqa: ANN401 YAML
    effect = kubernetes.judge(_as_change(name, operation, old, new))
    hidden, shown = name[0] == SECRET_KIND, operation == "update" and name[0] != DEFINITION
    found = list(leaves(old, new))[:LONGEST] if shown else []
    fields = tuple((leaf.where, *leaf.texts(hidden=hidden)) for leaf in found)
    entry = ObjectChange(
        name=written(name),
        operation=operation,
        definition=name[0] == DEFINITION,
        why=effect.why,
        verdict=effect.verdict.words,
        fields=fields,
    )
    return entry, Effect(
        effect.verdict, f"{written(name)}: {effect.why}", effect.away, effect.source
    )


def _as_change(name: Name, operation: str, old: Any, new: Any) -> Change:  # noqa: ANN401 YAML
    kind = name[0]
    return Change.model_validate(
        {
            "urn": f"::::{kind}::{name[2]}",
            "operation": operation,
            "old": {"type": f"kubernetes:rendered:{kind}", "inputs": old} if old else None,
            "new": {"type": f"kubernetes:rendered:{kind}", "inputs": new} if new else None,
            "paths": (),
        }
    )
