"""What the rehearsal shows: machines, members, nodes, versions, and what of it was real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from clients import omnictl
from ops.rehearsal import platform
from ops.rehearsal.run_page import Address, Part
from ops.rehearsal.tools import run, spec, world


def look_around(layers: Sequence[platform.Layer], found: Sequence[Address]) -> str:
    """Ask vCenter, Talos and Kubernetes, each through its own client.

    `layers` and what was `found` behind the ingress are written beside.
    """
    parts = [
        ("virtual machines (vCenter)", virtual_machines()),
        *_machines(),
        ("nodes (Kubernetes)", run("kubectl", "get", "nodes", "--output", "wide")),
        ("version through the VIP", run("kubectl", "get", "--raw", "/version")),
        ("layers", platform.table(layers)),
        ("through the ingress", ingress(found)),
    ]
    return "\n".join(f"--- {title}\n{text.strip()}" for title, text in parts)


def _machines() -> list[tuple[str, str]]:
    """Ask who manages the machines: Talos itself, or Omni."""
    settings = spec()["settings"]
    omni = settings.get("omni")
    if not omni:
        first = first_machine()
        return [
            ("etcd members (Talos)", run("talosctl", "--nodes", first, "etcd", "members")),
            ("versions (Talos)", run("talosctl", "--nodes", first, "version", "--short")),
        ]
    key = run("pulumi", "config", "get", "platform:omniServiceAccountKey").strip()
    with omnictl.connect(omnictl.Account(omni["endpoint"], key)) as client:
        members = client.members(settings["cluster"]["name"])
    lines = [f"{one.id}  {one.stage}{'' if one.ready else '  not ready'}" for one in members]
    return [("machines (Omni)", "\n".join(lines))]


def entrances() -> list[Address]:
    """Ask the ingress for the pages that people open, as a browser would; none without it."""
    services = spec()["settings"]["services"]
    traefik = services.get("traefik")
    if not traefik:
        return []
    hosts = [("Traefik's dashboard", traefik.get("dashboardDomain") or "anything.example.com")]
    if argocd := services.get("argocd"):
        hosts.append(("Argo CD", argocd["domain"]))
    hosts += _applications()
    found = []
    for name, host in hosts:
        status, text = platform.ask(traefik["address"], host)
        line = text.strip().partition("\n")[0][:SHOWN]
        found.append(Address(name, f"https://{host}", f"HTTP {status}, {line}"))
    return found


def _applications() -> list[tuple[str, str]]:
    """Name what Ingress objects of applications lead to, by their hosts."""
    found = json.loads(run("kubectl", "get", "ingress", "--all-namespaces", "--output", "json"))
    return [
        (one["metadata"]["name"], rule["host"])
        for one in found["items"]
        for rule in one["spec"].get("rules", [])
        if "host" in rule
    ]


def ingress(found: Sequence[Address]) -> str:
    """Write what the ingress answered."""
    if not found:
        return "no ingress in the settings"
    return "\n".join(f"{one.name}, {one.url}: {one.answer}" for one in found)


def pictures(folder: Path) -> str:
    """Link what the rehearsal drew, for a terminal or a browser."""
    kinds = {".html": "picture", ".json": "figures", ".events": "the engine's events"}
    lines = [
        f"  {one.resolve().as_uri()}  ({kinds[one.suffix]})"
        for one in sorted(folder.iterdir(), key=lambda path: (path.suffix != ".html", path.name))
        if one.suffix in kinds
    ]
    return "\n".join(["left behind:", *lines])


def what_next() -> str:
    """Say what to try after a rehearsal."""
    return (
        "next: `make lab-shell` opens a world of your own, to try commands by hand; `make drill` "
        "destroys the platform\nand rebuilds it; `make review BASE=origin/main` says what a "
        "change does before it lands"
    )


def first_machine() -> str:
    """Give the first machine's address."""
    machines: list[dict[str, str]] = spec()["settings"]["machines"]
    return machines[0]["address"]


def virtual_machines() -> str:
    """List the VMs as vCenter sees them."""
    found = json.loads(run("govc", "vm.info", "-json", "*"))
    lines = []
    for machine in sorted(found["virtualMachines"], key=lambda vm: str(vm["name"])):
        hardware = machine["config"]["hardware"]
        lines.append(
            f"{machine['name']}  {hardware['numCPU']} CPUs  {hardware['memoryMB']} MiB  "
            f"{machine['runtime']['powerState']}"
        )
    return "\n".join(lines)


SHOWN = 120
"""Characters of an answer that are shown."""

REAL = (
    ("Pulumi engine", "pulumi"),
    ("etcd", "etcd"),
    ("Kubernetes API server", "kube-apiserver"),
    ("controller manager", "kube-controller-manager"),
    ("scheduler", "kube-scheduler"),
    ("talosctl", "talosctl"),
    ("kubectl", "kubectl"),
)

SIMULATED = (
    ("vCenter", "vcsim of govmomi; no hypervisor, no disks"),
    ("image factory", "serves an image without an operating system"),
    ("Talos machines", "machine API over Talos' own machinery; no kernel, no boot, no install"),
    ("Git server", "serves this project's folders under the repository's URL"),
    ("kubelets", "registered by the machines; below is which pods run as processes"),
    ("Python language host", "the lab's own, over Pulumi's SDK"),
)


def real_and_simulated() -> str:
    """Say what of the run was real and what stood in for it."""
    this = spec()
    lines = ["real:"]
    lines += [f"  {name} {this['versions'].get(program, '')}" for name, program in REAL]
    published: dict[str, bool] = this["options"]["publishedPlugins"]
    lines += [
        f"  provider plugin {name}: the published one" for name, it in published.items() if it
    ]
    lines.append("stand-ins and simulated parts:")
    lines += [
        f"  provider plugin {name}: the lab's stand-in" for name, it in published.items() if not it
    ]
    lines += [f"  {name}: {how}" for name, how in SIMULATED]
    lines.append("on the cluster:")
    lines += [f"  {one}" for one in platform.workloads_in_lab(world())]
    charts = platform.chart_sources()
    lines += [f"  chart {name}: {source}" for name, source in sorted(charts.items())]
    return "\n".join(lines)


def parts() -> list[Part]:
    """Say the same of each part, for the page of the run."""
    this = spec()
    published: dict[str, bool] = this["options"]["publishedPlugins"]
    charts = platform.chart_sources()
    return [
        *(Part(name, "real", this["versions"].get(program, "")) for name, program in REAL),
        *(
            Part(f"provider plugin {name}", "real" if it else "stand-in", "")
            for name, it in published.items()
        ),
        *(Part(name, "simulated", how) for name, how in SIMULATED),
        *(Part(**one) for one in platform.parts_in_lab(world())),
        *(
            Part(f"chart {name}", "stand-in" if source == "stand-in" else "real", source)
            for name, source in sorted(charts.items())
        ),
    ]
