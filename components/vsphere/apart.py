"""Layer vSphere: control planes that run on one host are told.

The anti-affinity rule is made after the machines that it names, and only DRS keeps it: until it has
looked, and for ever where it is not fully automated, two control planes may run on one host. Its
failure would take etcd's quorum. That is told, and fails nothing: the platform works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pulumi

from clients.vcenter.connection import VCenter, connected, host_of
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from clients.waiting import Clock
    from components.hooks import Hook

DRS_SECONDS = 120.0
"""DRS looks at its cluster every minute (vSphere 7 and later)."""
POLL_SECONDS = 5.0

CONTROL_PLANES = "controlplanes-apart"
"""The resource's name of the control planes' rule."""

LOSS = "when it fails, etcd loses its quorum"
"""What a host takes along on which control planes run together."""


def together(hosts: Mapping[str, str]) -> str:
    """Say which machines share a host; takes machine -> host, "" when none do."""
    on: dict[str, list[str]] = {}
    for machine, host in sorted(hosts.items()):
        on.setdefault(host, []).append(machine)
    shared = {host: names for host, names in on.items() if host and len(names) > 1}
    return "; ".join(
        f"{', '.join(names)} run on one host, {host}" for host, names in shared.items()
    )


def fix(machine: str) -> str:
    """Say what brings control planes apart; `machine` is one of them."""
    return (
        f"move one to a host without a control plane (`govc vm.migrate -host HOST {machine}`), and "
        "let DRS keep them apart: fully automated. Are the hosts fewer than the control planes, "
        "see platform:site.antiAffinity in docs/site-requirements.md"
    )


def wait(clock: Clock, hosts: Callable[[], Mapping[str, str]]) -> str:
    """Give DRS time to move control planes apart; tell which share a host after it."""
    return clock.wait(
        "the control planes to run on different hosts",
        lambda: together(hosts()),
        seconds=DRS_SECONDS,
        poll=POLL_SECONDS,
    )


def kept_apart(
    vcenter: VCenter, password: pulumi.Output[str], machines: Mapping[str, pulumi.Output[str]]
) -> Hook:
    """Make the hook that gives DRS time to move control planes apart, and tells when it does not.

    Takes the machines' UUIDs by name.
    """

    async def kept_apart(args: pulumi.ResourceHookArgs) -> None:
        secret = await resolved(password)
        uuids = {name: await resolved(uuid) for name, uuid in machines.items()}

        def look(clock: Clock) -> str:
            with connected(vcenter, secret) as content:
                return wait(
                    clock, lambda: {name: host_of(content, one) for name, one in uuids.items()}
                )

        if shared := await in_thread(args, look):
            words = f"{shared}: {LOSS}; {fix(next(iter(uuids)))}"
            pulumi.log.warn(words)

    return kept_apart
