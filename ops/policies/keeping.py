"""Layer Policies: what holds keys or data stays, whatever else changes.

The rules look at the options that decide whether the engine may delete or replace a resource. What
a plan does with resources that are there is in `ops.policies.steps`.
"""

from __future__ import annotations

from collections.abc import Iterator

from config.resource_types import MACHINE, MACHINE_SECRETS
from ops.engine.values import Resource, mapping
from ops.policies.known import Known
from ops.policies.model import Level, Rule

HOLD_DATA = {"vsphere:index/virtualDisk:VirtualDisk"}
KINDS_OF_DATA = {"PersistentVolume", "PersistentVolumeClaim"}
REPLACES_KEYS = ("talosVersion",)
"""Inputs of the machine secrets: a lower version makes all keys again."""
REPLACES_MACHINE = ("clone", "extraConfig")
"""Inputs that change for all machines at once, with a new image or other name servers: the first
would replace each of them, the second reboot it."""


def check_machine_secrets(resource: Resource, _: Known) -> Iterator[str]:
    """Ask that the machine secrets can neither be deleted nor replaced."""
    if resource.type != MACHINE_SECRETS:
        return
    if not resource.protect:
        yield "protect is not true; set `protect=True` in its ResourceOptions"
    for name in _not_ignored(resource, REPLACES_KEYS):
        yield f'a change of {name} would recreate all keys; add "{name}" to its ignore_changes'


def check_machine(resource: Resource, _: Known) -> Iterator[str]:
    """Ask that no change of a common input touches all machines."""
    if resource.type == MACHINE:
        for name in _not_ignored(resource, REPLACES_MACHINE):
            yield (
                f"a change of {name} would replace or reboot every machine; "
                f'add "{name}" to its ignore_changes'
            )


def check_data(resource: Resource, _: Known) -> Iterator[str]:
    """Point at what holds data and goes with its line in the program."""
    if resource.protect:
        return
    if _is_kept(resource):
        return
    if resource.type in HOLD_DATA or resource.kind in KINDS_OF_DATA:
        yield "it holds data and is not protected; set `protect=True`, or say why not beside it"
    elif resource.kind == "StatefulSet" and resource.spec.get("volumeClaimTemplates"):
        policy = mapping(resource.spec.get("persistentVolumeClaimRetentionPolicy"))
        if policy.get("whenDeleted") == "Delete":
            yield (
                "its volumes go with it; set persistentVolumeClaimRetentionPolicy.whenDeleted: "
                "Retain, or protect it"
            )


def _is_kept(resource: Resource) -> bool:
    """Say whether it is a volume on a machine's disk, which the object only names."""
    keeps = resource.spec.get("persistentVolumeReclaimPolicy") == "Retain"
    return resource.kind == "PersistentVolume" and "local" in resource.spec and keeps


def _not_ignored(resource: Resource, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in resource.ignore_changes]


RULES = (
    Rule(
        "machine-secrets-stay",
        Level.MANDATORY,
        "The machine secrets are protected and never recreated: without them nobody gets in, and "
        "no backup of etcd can be read.",
        check=check_machine_secrets,
    ),
    Rule(
        "machines-stay",
        Level.MANDATORY,
        "No input that all machines share can replace or reboot them all.",
        check=check_machine,
    ),
    Rule(
        "data-is-protected",
        Level.ADVISORY,
        "What holds data is protected, or kept when its owner is deleted.",
        check=check_data,
    ),
)
