"""What must be in no output: the secret texts of a world's stack; and the search for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops.engine.values import SECRET, SIGNATURE
from ops.rehearsal.world import World
from tests.secret_search import SHORTEST, found_in

PUBLIC = frozenset(
    ["auth-extra-groups", "ca", "ca.crt", "cert", "certificate", "crt", "description", "tls.crt"]
)
"""What certificates are called where they are kept, and what bootstrap tokens say of themselves."""
KEYS = frozenset(["client-key-data", "key", "token"])
"""Secret fields of kubeconfigs and talosconfigs."""
HELM = "helm.sh/release.v1"
"""Secrets that are whole records, compressed."""
OWN = frozenset(
    ["environment", "kubeconfig", "machines", "omni", "omni-owner", "private", "talosconfig"],
) | {"workloads", "world.json"}
"""Of a world's folder: its operator's credentials, the disks of simulated machines and pods, and
what the lab knows as the site does (passwords of vCenter and GitHub, the passphrase, the site's
Omni)."""


def secret_values(world: World) -> dict[str, str]:
    """Give every secret text of the stack, and its name.

    The stack's own, the machine secrets, the keys of kubeconfig and talosconfig, and what the
    cluster's Secrets hold, when it answers.
    """
    spec = json.loads((world.state / "world.json").read_text())
    own: dict[str, str] = spec["secrets"]["values"]
    assert own, "the search would prove nothing"
    state = world.state_with_secrets()
    machines = dict(_machine_secrets(state))
    # Omni has those of a cluster that it manages.
    assert len(machines) >= 8 or "omniJoinToken" in own, "the search would prove nothing"
    named = {
        **{value: f"the secret {name}" for name, value in own.items()},
        **{value: f"the setting {name}" for name, value in _set(world)},
        **machines,
        **dict(_credentials(state)),
        **dict(_secrets_of_the_cluster(world)),
    }
    return {value: name for value, name in named.items() if len(value) > SHORTEST}


def left_behind(world: World, secrets: Mapping[str, str], **texts: str) -> list[str]:
    """Look for secrets in all that a world's commands left, and in what they printed.

    State, history, backups, plans, previews, logs: everything in the world's folder but `OWN`, and
    the project's reports. Gives a line for each finding, without the value.
    """
    folders = [one for one in world.state.iterdir() if one.name not in OWN]
    assert world.state / "backend" in folders, "the search would prove nothing"
    folders += [Path(log) for log in (world.state / "machines").rglob("*.log")]
    reports = world.project / ".lab" / "out"
    return found_in(secrets, [*folders, *([reports] if reports.exists() else [])], texts)


def _set(world: World) -> Iterator[tuple[str, str]]:
    """Give the stack's secret settings as they are now: some were set since the world began."""
    text = world.run("pulumi", "config", "--show-secrets", "--json").stdout
    for name, one in json.loads(text).items():
        if one.get("secret") and "value" in one:
            yield name, str(one["value"])


def _machine_secrets(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give every string below the machine secrets and the client configuration."""
    for resource in state["deployment"]["resources"]:
        if resource["type"] == "talos:machine/secrets:Secrets":
            for text in _plaintexts(resource["outputs"]):
                yield from _texts(text, "machine secrets")


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in PUBLIC or not isinstance(item, str):
                yield from _texts(item, f"{name}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, name)
    elif isinstance(value, str):
        yield value, name


def _credentials(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    (stack,) = [
        one for one in state["deployment"]["resources"] if one["type"] == "pulumi:pulumi:Stack"
    ]
    for output in ("kubeconfig", "talosconfig"):
        for text in _plaintexts((stack.get("outputs") or {}).get(output) or {}):
            yield from _keys(text, output)


def _keys(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Give the keys in a kubeconfig or talosconfig; its addresses and authorities are public."""
    for value, path in _texts(yaml.safe_load(text), name):
        if path.rpartition(".")[2] in KEYS:
            yield value, path


def _secrets_of_the_cluster(world: World) -> Iterator[tuple[str, str]]:
    """Give what the cluster's Secrets hold, as it is and as they hold it."""
    kubeconfig = world.state / "kubeconfig"
    if not kubeconfig.exists():
        return
    asked = world.run(
        "kubectl", "get", "secrets", "--all-namespaces", "--output", "json", code=None
    )
    for one in json.loads(asked.stdout)["items"] if asked.returncode == 0 else ():
        metadata = one["metadata"]
        for key, value in (one.get("data") or {}).items():
            if one.get("type") == HELM or key in PUBLIC:
                continue
            name = f"Secret {metadata['namespace']}/{metadata['name']}.{key}"
            if key == "config":
                yield from _keys(base64.b64decode(value).decode(), name)
            else:
                yield value, name


def _plaintexts(value: Any) -> Iterator[Any]:
    """Give what the engine marks as secret, decoded."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET and "plaintext" in value:
            yield json.loads(value["plaintext"])
            return
        for item in value.values():
            yield from _plaintexts(item)
