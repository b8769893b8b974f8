"""Layer Review: what a change of the cluster that Omni manages does.

All of it is in one gate, `omni-cluster`, whose input is the cluster template with the machines'
names. What Omni does then is its own: the words are those of its documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from config import plain_yaml
from ops.engine.preview import Change
from ops.review.verdict import Effect, Verdict, worst

CLUSTER = "omni-cluster"
SOURCE = "docs/procedures/omni.md#changes"


def cluster(change: Change) -> Effect:
    """Say what a change of the gate lets Omni do."""
    if change.old is None:
        return Effect(Verdict.SAFE, "Omni makes the cluster of machines that are new")
    if change.new is None:
        return Effect(Verdict.SAFE, "nothing is asked of Omni: the cluster stays there", "", SOURCE)
    effects = list(_effects(change.old.inputs, change.new.inputs))
    if not effects:
        return Effect(Verdict.SAFE, "Omni is told the same again", "", SOURCE)
    found = worst(effects)
    return Effect(found.verdict, "; ".join(one.why for one in effects), found.away, SOURCE)


def _effects(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Effect]:
    before, after = _parts(old), _parts(new)
    yield from _versions(before.pop("Cluster", {}), after.pop("Cluster", {}))
    went = sorted(before.keys() - after.keys() - _SETS)
    came = sorted(after.keys() - before.keys() - _SETS)
    if went:
        names = ", ".join(went)
        lost = [one for one in went if one in (new.get("lost") or ())]
        how = "takes out of the cluster and resets" if not lost else "takes out of the cluster"
        yield Effect(Verdict.REPLACES, f"Omni {how} {names}", f"{names}, for good")
    if came:
        yield Effect(Verdict.SAFE, f"Omni takes {', '.join(came)} into the cluster")
    changed = sorted(name for name in before.keys() & after.keys() if _differs(before, after, name))
    if changed:
        yield Effect(
            Verdict.UNKNOWN,
            f"Omni gives another configuration to {', '.join(changed)}, one machine after the "
            "other; no rule of the review says yet what of it restarts them",
        )


_SETS = frozenset({"ControlPlane", "Workers"})


def _versions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Effect]:
    pairs = {
        key: ((before.get(key) or {}).get("version"), (after.get(key) or {}).get("version"))
        for key in ("talos", "kubernetes")
    }
    old, new = pairs["talos"]
    if old != new:
        yield Effect(
            Verdict.REBOOTS,
            f"Omni upgrades Talos from {old} to {new}, control planes first, one at a time",
            "each machine, for a reboot",
        )
    old, new = pairs["kubernetes"]
    if old != new:
        yield Effect(
            Verdict.RESTARTS,
            f"Omni moves Kubernetes from {old} to {new}, component by component",
            "each control plane's API server and each kubelet, for a restart",
        )
    if before.get("systemExtensions") != after.get("systemExtensions"):
        yield Effect(
            Verdict.REBOOTS,
            "Omni brings every machine to an image with other extensions",
            "each machine, for a reboot",
        )
    if before.get("features") != after.get("features"):
        yield Effect(Verdict.SAFE, "Omni takes its backups at another interval")


def _parts(inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the template's parts: machines by their names, the others by their kinds."""
    parts = [one for one in plain_yaml.read_all(str(inputs.get("template", ""))) if one]
    return {
        str(one["name"] if one["kind"] == "Machine" else one["kind"]): dict(one) for one in parts
    }


def _differs(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], name: str
) -> bool:
    """Say whether a machine's own patches differ, or those of a role that machines have."""
    old, new = before[name], after[name]
    if name in _SETS and not (old.get("machines") and new.get("machines")):
        return False  # the first or the last machine of the role: it is told as such
    return any(old.get(key) != new.get(key) for key in ("patches", "install"))
