"""Rehearsal: which connections pods opened in a run, and which network policies allowed them.

The lab writes both while it runs (`lab/internal/workloads/flows.go`). Only pods that run as
processes open connections: with `LAB_PROGRAMS=simulated` there is nothing to tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOWS = "flows.jsonl"
POLICIES = "policies.json"
Flow = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What was seen in a run: flows as the lab writes them, and policies with their use."""

    flows: tuple[Flow, ...]
    policies: tuple[Mapping[str, Any], ...]

    @property
    def refused(self) -> list[Flow]:
        """The flows that a policy stopped."""
        return [one for one in self.flows if one["verdict"] != "allowed"]

    @property
    def unguarded(self) -> list[Flow]:
        """The allowed flows of which no policy says anything: no policy selects their pods."""
        return [
            one
            for one in self.flows
            if one["verdict"] == "allowed" and not one["egress"] and not one["ingress"]
        ]

    @property
    def unused(self) -> dict[str, str]:
        """The policies that allowed no connection, by their names, and why."""
        return {one["name"]: why for one in self.policies if (why := _unused(one))}


def _unused(policy: Mapping[str, Any]) -> str:
    """Say why a policy was not used; an empty text says that it was."""
    if policy.get("undecided"):
        return "of a kind that the lab cannot decide: it refuses what this one selects"
    if policy["allowed"]:
        return ""
    if policy["selects"] == "none":
        return "selected no pod"
    if policy["selects"] == "simulated":
        return "its pods were simulated, and open no connections"
    return "no connection needed it" if policy["rules"] else "has no rule: it only closes"


def read(folder: Path) -> Seen | None:
    """Read what a world's folder has; None when all pods were simulated."""
    policies = folder / POLICIES
    if not policies.exists():
        return None
    lines = (folder / FLOWS).read_text().splitlines()
    return Seen(tuple(json.loads(line) for line in lines), tuple(json.loads(policies.read_text())))


def end(endpoint: Mapping[str, str]) -> str:
    """Name one end of a flow; a pod without what its controller adds to its name is not known."""
    if endpoint["kind"] == "pod":
        return f"{endpoint['namespace']}/{endpoint['name']}"
    where = endpoint.get("name") or endpoint.get("address", "")
    return f"{endpoint['kind']} {where}".strip()


def describe(flow: Flow) -> str:
    """Write a flow as a line."""
    port = f" port {flow['port']}" if flow["port"] else ""
    text = f"{end(flow['from'])} -> {end(flow['to'])}, {flow['protocol']}{port}"
    return f"{text}: {flow['why']}" if flow["verdict"] != "allowed" else text


def rules(flow: Flow) -> Sequence[str]:
    """Give the rules that allowed a flow, both ends'."""
    return [*flow["egress"], *flow["ingress"]]


def summary(seen: Seen | None) -> str:
    """Write what a run's summary says of flows and policies."""
    return "\n".join(_summary(seen))


def _by_reason(unused: Mapping[str, str]) -> list[str]:
    """Write a line for each reason, with the policies that it is of."""
    return [
        f"{why}: {', '.join(name for name, of in unused.items() if of == why)}"
        for why in dict.fromkeys(unused.values())
    ]


def _summary(seen: Seen | None) -> Iterator[str]:
    if seen is None:
        yield "network policies: no pod ran as a process, so no connection was held to them"
        return
    connections = sum(one["count"] for one in seen.flows)
    yield (
        f"network policies: {connections} connections of {len(seen.flows)} kinds, "
        f"{len(seen.refused)} kinds refused; {len(seen.policies) - len(seen.unused)} of "
        f"{len(seen.policies)} policies were used"
    )
    for title, lines in (
        ("refused", [describe(one) for one in seen.refused]),
        ("allowed since no policy selects the pods", [describe(one) for one in seen.unguarded]),
        ("policies not used", _by_reason(seen.unused)),
    ):
        if lines:
            yield f"  {title}:"
            yield from (f"    {line}" for line in lines)
