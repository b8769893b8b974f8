"""Layer Omni: a cluster whose machines Sidero Omni configures, upgrades and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from clients.omnictl import Account
from components.omni.cluster import Cluster
from components.omni.kubeconfig import kept
from components.omni.nodes import Nodes
from components.omni.rollout import Rollout, Way
from components.stack_settings import require_secret
from components.talos.managed import Managed
from config import omni as config_omni

if TYPE_CHECKING:
    import pulumiverse_talos as talos

    from components.vsphere.machines import Machines
    from config.settings import Settings


def build(
    settings: Settings, *, machines: Machines, provider: talos.Provider, root: Path
) -> Managed:
    """Make machines that join Omni, and let it make a cluster of them; `root` is the repository."""
    del provider  # of Talos: Omni has the keys, and nothing here configures a machine
    omni, name = config_omni.of(settings), settings.cluster.name
    account = require_secret("omniServiceAccountKey").apply(lambda key: Account(omni.endpoint, key))
    way = Way(account, kept())
    rollout = Rollout(name, omni, way)
    nodes = Nodes(
        settings, omni, machines=machines, rollout=rollout, token=require_secret("omniJoinToken")
    )
    machines.keep_apart(nodes.virtual_machines)
    cluster = Cluster(
        settings,
        omni,
        way=way,
        nodes=nodes,
        rollout=rollout,
        root=root,
        # With the machines everything in the cluster is gone: nothing of it is deleted one by one.
        opts=pulumi.ResourceOptions(deleted_with=machines),
    )
    return Managed(
        access=cluster,
        secrets={"kubeconfig": cluster.kubeconfig},
        first_step="pulumi stack output --show-secrets kubeconfig > kubeconfig; Talos answers "
        "through Omni alone: omnictl talosconfig",
        finish=cluster.finish,
    )
