"""What the tests with real programs read and change in their cluster."""

from __future__ import annotations

import json
from typing import Any

from ops.rehearsal.world import World

Object = dict[str, Any]

DOMAIN = "platform.example.com"
INGRESS_ADDRESS = "172.16.20.100"
APPLICATION, APPLICATION_HOST = "app-podinfo", f"podinfo.{DOMAIN}"
"""The namespace of the application in `apps`, and its name outside."""


def kubectl(world: World, *argv: str, code: int | None = 0) -> str:
    """Run kubectl in the world; gives its output."""
    return world.run("kubectl", *argv, code=code).stdout


def read(world: World, *argv: str) -> Object:
    """Read objects of the cluster."""
    found: Object = json.loads(kubectl(world, "get", *argv, "--output", "json"))
    return found


def apply(world: World, text: str, code: int | None = 0) -> str:
    """Apply a manifest; gives what was said against it."""
    file = world.stack_file.parent / "manifest.yaml"
    file.write_text(text)
    return world.run("kubectl", "apply", "--filename", str(file), code=code).stderr


def kinds(world: World) -> dict[str, str]:
    """Give of each program of the run whether it is real, a stand-in or simulated."""
    found = json.loads((world.state / "workloads.json").read_text())
    return {one["name"]: one["kind"] for one in found}


def authority(world: World) -> str:
    """Give the file of the authority that stands for Let's Encrypt's."""
    return str(world.state / "acme" / "production.root")


def curl(world: World, url: str, *options: str, code: int | None = 0) -> str:
    """Ask through the ingress address; gives the headers and the answer."""
    host = url.split("/")[2]
    to = ("--resolve", f"{host}:443:{INGRESS_ADDRESS}", "--resolve", f"{host}:80:{INGRESS_ADDRESS}")
    shown = ("--silent", "--show-error", "--include", "--max-time", "5")
    trusted = ("--cacert", authority(world))
    return world.run("curl", *shown, *trusted, *to, *options, url, code=code).stdout


def body(answer: str) -> str:
    """Take the headers away."""
    return answer.replace("\r\n", "\n").partition("\n\n")[2]


def endpoints(world: World, namespace: str, service: str) -> set[str]:
    """Name the ready pods of a Service."""
    selector = ("--selector", f"kubernetes.io/service-name={service}")
    found = read(world, "endpointslices", "--namespace", namespace, *selector)
    return {
        one["targetRef"]["name"]
        for each in found["items"]
        for one in each["endpoints"] or []
        if one["conditions"]["ready"]
    }


def healthy(world: World) -> bool:
    """Say whether all machines run, with etcd."""
    return all(one["stage"] == "running" and one["etcd"] == "Running" for one in world.machines())
