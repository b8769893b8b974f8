"""Layer Omni: a cluster whose machines Sidero Omni configures, upgrades and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from clients.omnictl import Account, check_omnictl
from components.omni import patch_rules
from components.omni.cluster import Cluster
from components.omni.kubeconfig import kept
from components.omni.nodes import Nodes
from components.omni.rollout import Rollout, Way
from components.stack_settings import require_secret
from components.talos.managed import Managed
from components.talos.patch_files import check_patch_files

if TYPE_CHECKING:
    import pulumiverse_talos as talos

    from components.vsphere.machines import Machines
    from config.settings import Omni, Settings


def of(settings: Settings) -> Omni:
    """Give the section of a cluster that Omni manages: the rules want it there."""
    if settings.omni is None:
        message = "lifecycle omni without platform:omni; this is a bug of the check"
        raise ValueError(message)
    return settings.omni


def check(settings: Settings, root: Path) -> None:
    """Check the files of patches, by Omni's rules too. Raises `PatchError`."""
    check_patch_files(settings, root, patch_rules.faults)


def check_programs(settings: Settings) -> None:
    """Check what an update needs on this computer. Raises `OmnictlError`."""
    check_omnictl(of(settings).tag)


def build(
    settings: Settings, *, machines: Machines, provider: talos.Provider, root: Path
) -> Managed:
    """Make machines that join Omni, and let it make a cluster of them; `root` is the repository."""
    del provider  # of Talos: Omni has the keys, and nothing here configures a machine
    omni, name = of(settings), settings.cluster.name
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
        endpoint=omni.kubernetes_proxy,
        secrets={"kubeconfig": cluster.kubeconfig},
        first_step="pulumi stack output --show-secrets kubeconfig > kubeconfig; Talos answers "
        "through Omni alone: omnictl talosconfig",
        finish=cluster.finish,
    )
