"""What the tests of clusters that Omni manages share: the example's file, and who runs Omni."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.rehearsal.world import PROJECT, World

OMNICTL = PROJECT / ".lab" / "bin" / "omnictl"
ENDPOINT = "https://omni.example.internal"
ALL = {"node01", "node02", "node03", "node04"}
WORKER = (
    "    - { name: node04, address: 172.16.20.54, role: worker, cpus: 4, memoryMiB: 16384, "
    "diskGiB: 100 }\n"
)
"""The example's line of its worker."""
NEW = WORKER.replace("node04", "node05").replace(".54", ".55")
"""One of another worker."""
Object = dict[str, Any]


def with_a_network_only(target: Path) -> Path:
    """Write the example of Omni with a CNI only: without one Omni calls no machine ready.

    Nothing of it runs without omnictl, so that is looked for here.
    """
    assert OMNICTL.is_file(), "no omnictl in .lab/bin: run `make omnictl`"
    text = (PROJECT / "Pulumi.omni.yaml").read_text()
    start, services, _ = text.partition("    cilium: {}\n")
    assert services
    target.write_text(start + services)
    return target


def owner(world: World, command: str, code: int | None = 0) -> str:
    """Run omnictl as the person who runs Omni; the key stays out of the command line."""
    key = f"OMNI_SERVICE_ACCOUNT_KEY=$(cat {world.state / 'omni-owner'})"
    home = f"HOME={world.state}"
    where = f"OMNI_ENDPOINT={ENDPOINT}"
    return world.run("bash", "-c", f"{key} {where} {home} omnictl {command}", code=code).stdout


def resources(world: World, *what: str) -> list[Object]:
    """Read resources of Omni, as the person who runs it."""
    text = owner(world, f"get {' '.join(what)} --output json")
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def nodes(world: World) -> dict[str, Object]:
    """Read the nodes of the cluster, by name."""
    found = json.loads(world.run("kubectl", "get", "nodes", "--output", "json").stdout)
    return {one["metadata"]["name"]: one for one in found["items"]}


def ready(world: World) -> set[str]:
    """Name the nodes that are ready."""
    return {
        name
        for name, one in nodes(world).items()
        for condition in one["status"]["conditions"]
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def made(world: World) -> dict[str, str]:
    """Give the machines' ids in vCenter, by name."""
    return {one["name"]: one["id"] for one in world.machines()}
