"""Layer Talos: a cluster whose machines the stack itself configures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from components.stack_settings import require_secret
from components.talos.cluster import Cluster
from components.talos.identity import Identity
from components.talos.inputs import TalosInputs
from components.talos.managed import Managed
from components.talos.nodes import Nodes

if TYPE_CHECKING:
    import pulumiverse_talos as talos

    from components.vsphere.machines import Machines
    from config.settings import Settings


def build(
    settings: Settings, *, machines: Machines, provider: talos.Provider, root: Path
) -> Managed:
    """Make keys, machines and the cluster that they form; `root` is the repository."""
    name = settings.cluster.name
    identity = Identity(name, settings.talos, settings.machines, provider)
    inputs = TalosInputs.of(settings)
    nodes = Nodes(
        name,
        inputs,
        machines=machines,
        identity=identity,
        provider=provider,
        registry_password=(
            None if settings.talos.registry_login is None else require_secret("registryPassword")
        ),
        root=root,
    )
    machines.keep_apart(nodes.virtual_machines)
    cluster = Cluster(
        name,
        inputs,
        identity=identity,
        nodes=nodes,
        provider=provider,
        # With the machines everything in the cluster is gone: nothing of it is deleted one by one.
        opts=pulumi.ResourceOptions(deleted_with=machines),
    )
    return Managed(
        access=cluster,
        secrets={"kubeconfig": cluster.kubeconfig, "talosconfig": identity.talosconfig},
        first_step="pulumi stack output --show-secrets kubeconfig > kubeconfig, and the same for "
        "talosconfig",
    )
