"""What runs on the cluster, layer by layer, as the cluster and the charts' index say."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.layers import LAYERS
from config.resource_types import RELEASE
from ops.rehearsal.tools import PROJECT, ToolError, run

INDEX = PROJECT / ".lab" / "bin" / "charts" / "index.json"
RELEASE_NAME = "meta.helm.sh/release-name"
SECONDS = 10.0
APPROVER = "kubelet-serving-cert-approver"
WITHOUT_CHART = {
    APPROVER: APPROVER,  # a part of metrics-server's layer, and no chart's
    **{layer.namespace: layer.name for layer in LAYERS.values() if layer.namespace},
}
"""What no chart installs, by the namespace of its workloads."""


@dataclass
class Layer:
    """A layer's pods, addresses and origin."""

    name: str
    version: str
    origin: str
    ready: int = 0
    wanted: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all of its pods are ready."""
        return self.ready == self.wanted


def layers() -> list[Layer]:
    """Read every layer from the cluster."""
    kinds = "deployments,daemonsets,statefulsets,services"
    objects = _get(kinds)
    found = {one["name"]: one for one in _releases()}
    sources = chart_sources()
    result = {
        name: Layer(name, one["version"], sources.get(name, "published"))
        for name, one in found.items()
    }
    for name in WITHOUT_CHART.values():
        result[name] = Layer(name, "", "no chart")
    for one in objects:
        layer = result.get(_layer_of(one["metadata"]))
        if layer is None:
            continue
        if one["kind"] == "Service":
            layer.addresses += tuple(_addresses(one))
        else:
            ready, wanted = _pods(one)
            layer.ready += ready
            layer.wanted += wanted
    return [one for one in result.values() if one.wanted or one.name in found]


def chart_sources() -> dict[str, str]:
    """Say for each chart of the lab where it is from: the cache, its Go module, or a stand-in."""
    if not INDEX.exists():
        return {}
    names = {"cache": "real (cache)", "module": "real (its Go module)", "stand-in": "stand-in"}
    entries: list[dict[str, str]] = json.loads(INDEX.read_text())
    return {one["name"]: names.get(one["source"], one["source"]) for one in entries}


def table(found: Iterable[Layer]) -> str:
    """Write layers as a table."""
    rows = [("layer", "version", "ready", "addresses", "chart")]
    rows += [
        (one.name, one.version, f"{one.ready}/{one.wanted}", " ".join(one.addresses), one.origin)
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def ask(address: str, host: str) -> tuple[int, str]:
    """Ask the ingress for a host over HTTPS, verifying nothing; gives status and text.

    What the lab's authorities signed is not in any store of trust.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address, timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except OSError as error:
        message = f"https://{address} ({host}): {error}"
        raise ToolError(message) from None
    finally:
        connection.close()


def _releases() -> list[dict[str, str]]:
    """Read each release's name and version from the stack's state."""
    export = json.loads(run("pulumi", "stack", "export"))
    return [
        {"name": one["inputs"]["name"], "version": str(one["inputs"]["version"])}
        for one in export["deployment"]["resources"]
        if one["type"] == RELEASE
    ]


def _get(kinds: str) -> list[dict[str, Any]]:
    text = run("kubectl", "get", kinds, "--all-namespaces", "--output", "json")
    items: list[dict[str, Any]] = json.loads(text)["items"]
    return items


def _layer_of(metadata: Mapping[str, Any]) -> str:
    release = str(metadata.get("annotations", {}).get(RELEASE_NAME, ""))
    return release or WITHOUT_CHART.get(str(metadata["namespace"]), "")


def _pods(workload: Mapping[str, Any]) -> tuple[int, int]:
    status = workload.get("status", {})
    if workload["kind"] == "DaemonSet":
        return int(status.get("numberReady", 0)), int(status.get("desiredNumberScheduled", 0))
    return int(status.get("readyReplicas", 0)), int(workload["spec"].get("replicas", 1))


def _addresses(service: Mapping[str, Any]) -> list[str]:
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    return [str(one["ip"]) for one in ingress if "ip" in one]


def workloads_in_lab(folder: Path) -> list[str]:
    """Say what of the workloads the lab runs for real or simulates."""
    return [f"{one['name']} ({one['kind']}): {one['says']}" for one in parts_in_lab(folder)]


def parts_in_lab(folder: Path) -> list[dict[str, str]]:
    """Give them as the world wrote them: `name`, `kind` and `says` of each."""
    file = folder / "workloads.json"
    parts: list[dict[str, str]] = json.loads(file.read_text()) if file.exists() else []
    return parts
