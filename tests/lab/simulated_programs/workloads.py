"""The workloads of a platform, and their pods."""

from __future__ import annotations

import json

from ops.rehearsal.world import World


def workloads(world: World) -> dict[str, tuple[int, int]]:
    """Give ready and wanted pods of every Deployment, StatefulSet and DaemonSet."""
    kinds = "deployments,statefulsets,daemonsets"
    got = world.run("kubectl", "get", kinds, "--all-namespaces", "--output", "json")
    found = {}
    for one in json.loads(got.stdout)["items"]:
        status, metadata = one["status"], one["metadata"]
        if one["kind"] == "DaemonSet":
            pair = status.get("numberReady", 0), status["desiredNumberScheduled"]
        else:
            pair = status.get("readyReplicas", 0), one["spec"]["replicas"]
        found[f"{metadata['namespace']}/{metadata['name']}"] = pair
    return found
