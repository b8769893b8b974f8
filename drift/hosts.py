"""Layer Drift: control planes that run on one host, though a rule is to keep them apart."""

from __future__ import annotations

from collections.abc import Iterator

from components import apart
from components.tokens import ANTI_AFFINITY_RULE, MACHINE
from drift.finding import PULUMI, Finding
from review.preview import Preview, State


def findings(preview: Preview) -> Iterator[Finding]:
    """Look where a refresh found the machines that the control planes' rule names."""
    everything = {one.urn: one.new or one.old for one in (*preview.unchanged, *preview.changes)}
    by_name = {(one.type, urn.rsplit("::", 1)[-1]): one for urn, one in everything.items() if one}
    rule = by_name.get((ANTI_AFFINITY_RULE, apart.CONTROL_PLANES))
    named = rule.inputs.get("virtualMachineIds") or () if rule else ()
    hosts = {
        name: _host(one)
        for (kind, name), one in by_name.items()
        if kind == MACHINE and one.id in named
    }
    if shared := apart.together(hosts):
        yield Finding(
            place="vCenter",
            who="control planes",
            owner=PULUMI,
            what=f"share a host: {shared}. When it fails, etcd loses its quorum",
            mend=apart.mend(next(iter(hosts))),
        )


def _host(machine: State) -> str:
    return str(machine.outputs.get("hostSystemId") or "")
