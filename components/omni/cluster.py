"""Layer Omni: the cluster that Omni makes of the machines, and the way to its Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from components.gate import Gate
from components.omni import template
from components.omni.kubeconfig import Kubeconfig, ends
from components.talos.expiry import told_ends
from components.talos.kubernetes_access import KubernetesAccess

if TYPE_CHECKING:
    from components.omni.nodes import Nodes
    from components.omni.rollout import Rollout, Way
    from config.settings import Omni, Settings

CNI = "cilium"
"""The layer without which no machine is ready."""


class Cluster(KubernetesAccess):
    """The Kubernetes API of a cluster that Omni manages."""

    def __init__(  # noqa: PLR0913 one argument for each lower layer
        self,
        settings: Settings,
        omni: Omni,
        *,
        way: Way,
        nodes: Nodes,
        rollout: Rollout,
        root: Path,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Tell Omni of the cluster, wait for its API, and make the provider.

        Give `opts` a `deleted_with` of the machines: with them everything in the cluster is gone.
        """
        name = settings.cluster.name
        super().__init__("platform:omni:Cluster", name, None, opts)
        self._rollout = rollout
        self._uuids = {one: virtual.id for one, virtual in nodes.virtual_machines.items()}

        def render(ids: template.Ids) -> str:
            return template.render(settings, omni, ids, root)

        self._render = render
        self._seen = {
            # With the machines' names: a preview shows what changes, and no id is known in it.
            "template": render(template.names(settings)),
            "machines": self._uuids,
        }
        hook = rollout.sync(self._uuids, render)
        made = Gate(
            "omni-cluster",
            self._seen | {"lost": list(omni.lost)},
            after=nodes.joined.apply(lambda gates: gates[-1]),
            on_create=hook,
            on_update=hook,
            opts=pulumi.ResourceOptions(parent=self),
        ).opened
        access = Kubeconfig(name, omni, way, after=made, parent=self)
        self.kubeconfig = access.text
        self.expires = pulumi.Output.unsecret(
            self.kubeconfig.apply(
                lambda text: {"kubeconfig": ends(text)} | told_ends(settings.cluster)
            )
        )
        seen = {
            "endpoint": omni.kubernetes_proxy,
            "version": settings.kubernetes.version,
            "controlPlanes": [str(one.address) for one in settings.control_planes],
        }
        self.open(name, name, seen, access.gate)
        self.register_outputs({"endpoint": omni.kubernetes_proxy})

    def finish(self, layers: Mapping[str, pulumi.Resource]) -> None:
        """Wait until Omni calls the cluster healthy, once it has a CNI."""
        if CNI in layers:
            hook = self._rollout.healthy(self._uuids, self._render)
            Gate(
                "omni-healthy",
                self._seen,
                after=layers[CNI],
                on_create=hook,
                on_update=hook,
                # Of no parent: the layers wait for all that is the cluster's, and this for one of
                # them.
            )
