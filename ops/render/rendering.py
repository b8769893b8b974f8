"""Layer Render: a chart with our values, rendered by the lab as Helm would, without a network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients import interrupts
from config import plain_yaml
from ops.render import packages
from ops.render.packages import PROJECT, Package, PackageError

if TYPE_CHECKING:
    from config.charts import ChartPlan

LAB = PROJECT / ".lab" / "bin" / "lab"
GATEWAY = "gateway.networking.k8s.io/v1"
SERVED = (GATEWAY, *(f"{GATEWAY}/{kind}" for kind in ("GatewayClass", "Gateway", "HTTPRoute")))
"""What the cluster serves before any chart is installed (components/kubernetes/foundation.py)."""

Object = dict[str, Any]


def use(programs: Path) -> None:
    """Take the lab and its packages from another folder of programs."""
    global LAB  # noqa: PLW0603 a command has one lab
    LAB = programs / "lab"
    packages.BUILT = programs / "charts"


class RenderError(Exception):
    """A chart does not render."""


def package(plan: ChartPlan, version: str | None = None) -> Package:
    """Find what would be rendered. Raises `PackageError`, which says where the file is missing."""
    wanted = version or plan.version
    if found := packages.find(plan.chart, wanted):
        return found
    file = packages.CACHE / f"{plan.chart}-{wanted.removeprefix('v')}.tgz"
    message = (
        f"chart {plan.chart} {wanted} is not there: pull it with `.lab/bin/lab charts "
        f"{plan.chart}@{wanted.removeprefix('v')}`, or put {file} there by hand"
    )
    raise PackageError(message)


def text(plan: ChartPlan, kubernetes: str, *, version: str | None = None) -> str:
    """Render a plan to YAML, with its definitions; `version` is another one of the chart.

    Raises `RenderError` with Helm's own message, and `PackageError`.
    """
    found = package(plan, version)
    if not LAB.is_file():
        raise RenderError(f"{LAB} is not built: run `make build`")
    with tempfile.TemporaryDirectory(prefix="render-") as folder:
        values = Path(folder, "values.json")
        values.write_text(json.dumps(dict(plan.values)), encoding="utf-8")
        argv: list[str | Path] = [
            *(LAB, "render", plan.chart, "--version", version or plan.version),
            *("--charts", packages.CACHE, "--namespace", plan.namespace, "--release", plan.release),
            *("--values", values, "--kube-version", kubernetes, "--include-crds"),
        ]
        for served in SERVED:
            argv += ["--api-versions", served]
        result = interrupts.run([str(one) for one in argv], PROJECT)
    if result.returncode != 0:
        raise RenderError(f"{found.path.name}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def objects(rendered: str) -> list[Object]:
    """Read rendered YAML; Lists are taken apart, and what has no name is no object."""
    found: list[Object] = []
    for one in plain_yaml.read_all(rendered):
        if isinstance(one, Mapping) and one.get("kind"):
            found += one["items"] if one["kind"] == "List" else [dict(one)]
    # Some charts keep a kustomization beside their definitions.
    return [one for one in found if one.get("metadata", {}).get("name")]


def in_namespace(found: list[Object], namespace: str) -> list[Object]:
    """Write the release's namespace into objects that leave it to Helm."""
    for one in found:
        if not is_of_cluster(one):
            one["metadata"].setdefault("namespace", namespace)
    return found


CLUSTER_KINDS = {
    "APIService",
    "ClusterIssuer",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
}


def is_of_cluster(one: Mapping[str, Any]) -> bool:
    """Say whether an object is in no namespace."""
    return one["kind"] in CLUSTER_KINDS
