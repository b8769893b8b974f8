"""Layer Drift: control planes that run on one host, though a rule is to keep them apart.

vCenter is asked: the machines' host is among what the program ignores of them, and of that the
engine keeps the old value in a refresh too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clients.pulumi_cli import EngineError
from clients.vcenter.connection import VCenterError, connected, host_of
from components.vsphere import apart
from config.resource_types import ANTI_AFFINITY_RULE, MACHINE
from ops.deploy.repair import Site
from ops.drift.finding import PULUMI, DriftError, Finding
from ops.engine.urn import name_of

Resource = Mapping[str, Any]


def findings(resources: Sequence[Resource]) -> Iterator[Finding]:
    """Look where the machines run that the control planes' rule names. Raises `DriftError`."""
    uuids = kept_apart(resources)
    if not uuids:
        return
    try:
        site = Site.of_stack()
        with connected(site.vcenter, site.password) as content:
            hosts = {name: host_of(content, uuid) for name, uuid in uuids.items()}
    except (EngineError, VCenterError) as error:
        raise DriftError(str(error)) from None
    if shared := apart.together(hosts):
        yield Finding(
            place="vCenter",
            who="control planes",
            owner=PULUMI,
            what=f"share a host: {shared}; {apart.LOSS}",
            fix=apart.fix(min(hosts)),
        )


def kept_apart(resources: Sequence[Resource]) -> dict[str, str]:
    """Give the UUIDs, by name, of the machines that the control planes' rule names."""
    rules = [
        one
        for one in resources
        if one["type"] == ANTI_AFFINITY_RULE and name_of(one["urn"]) == apart.CONTROL_PLANES
    ]
    named = {uuid for rule in rules for uuid in rule["inputs"].get("virtualMachineIds") or ()}
    return {
        name_of(one["urn"]): one["id"]
        for one in resources
        if one["type"] == MACHINE and one.get("id") in named
    }
