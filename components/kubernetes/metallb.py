"""Layer MetalLB: addresses for Services of type LoadBalancer, announced on layer 2.

One controller, since it has no second one to hand over to: while it is away, new Services wait and
old ones keep their addresses. Speakers run on every machine, also on those that are control planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi

from components.kubernetes.admission import once_taken
from components.kubernetes.isolated_namespace import IsolatedNamespace
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.release import install
from config.charts import CLUSTER_CRITICAL, NODE_CRITICAL, SECCOMP, ChartPlan, Values, resources
from config.settings import API_PORT

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from config.settings import MetalLB as MetalLBSettings
    from config.settings import Pool

NAMESPACE = "metallb-system"
REPOSITORY = "https://metallb.github.io/metallb"
POOL_API = "metallb.io/v1beta1"


PROBE = {
    "apiVersion": POOL_API,
    "kind": "IPAddressPool",
    "metadata": {"name": "probe", "namespace": NAMESPACE},
    "spec": {"addresses": ["192.0.2.1/32"]},  # documentation's own addresses (RFC 5737)
}
"""Never made: asks whether the webhook answers."""


def plan(metallb: MetalLBSettings) -> ChartPlan:
    """Plan the chart."""
    return ChartPlan(
        "metallb", metallb.repository or REPOSITORY, metallb.version, NAMESPACE, values()
    )


def values() -> Values:
    """Give the chart's values."""
    return {
        "prometheus": {"scrapeAnnotations": True},
        "controller": {
            "priorityClassName": CLUSTER_CRITICAL,
            "securityContext": SECCOMP,
            "resources": resources("25m", "64Mi", "256Mi"),
        },
        "speaker": {
            "priorityClassName": NODE_CRITICAL,
            "securityContext": SECCOMP,
            # Talos' control planes carry the label that keeps load balancers away.
            "ignoreExcludeLB": True,
            "frr": {"enabled": False},
            "resources": resources("25m", "64Mi", "256Mi"),
        },
        # BGP is Cilium's, where it is wanted at all.
        "frrk8s": {"enabled": False},
        # The namespace denies by default; the chart opens what its controller needs.
        "networkpolicies": {"enabled": True, "defaultDeny": False, "apiPort": API_PORT},
    }


class MetalLB(pulumi.ComponentResource):
    """Addresses from the pools of the settings."""

    def __init__(  # noqa: PLR0913 its chart, and the pools
        self,
        name: str,
        metallb: MetalLBSettings,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        *,
        pools: Sequence[Pool],
        network: IPv4Network,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, then give it the pools; those of the machines' `network` it announces."""
        super().__init__("platform:kubernetes:MetalLB", name, None, opts)
        # Speakers answer ARP on the machines' own interface: host network and raw sockets.
        namespace = IsolatedNamespace(NAMESPACE, "privileged", self)
        release = install(chart, kubeconfig, namespace.options())
        after = once_taken(
            "metallb-webhook",
            {"version": chart.version},
            PROBE,
            release=release,
            kubeconfig=kubeconfig,
            parent=self,
        )
        made = [self._pool(pool, after) for pool in pools]
        # Nobody asks by ARP for another network's addresses, which BGP announces. An empty list
        # would be all pools.
        if near := [pool.name for pool in pools if pool.addresses.first in network]:
            KubernetesObject(
                POOL_API,
                "L2Advertisement",
                "layer2",
                metadata={"name": "layer2", "namespace": NAMESPACE},
                spec={
                    "ipAddressPools": near,
                    # Only there do neighbours listen: never on the pods' own interfaces.
                    "interfaces": [metallb.interface],
                },
                opts=pulumi.ResourceOptions(parent=self, depends_on=made),
            )
        self.register_outputs(
            {
                "namespace": NAMESPACE,
                "version": chart.version,
                "pools": {pool.name: str(pool.addresses) for pool in pools},
            }
        )

    @staticmethod
    def _pool(pool: Pool, opts: pulumi.ResourceOptions) -> KubernetesObject:
        return KubernetesObject(
            POOL_API,
            "IPAddressPool",
            f"pool-{pool.name}",
            metadata={"name": pool.name, "namespace": NAMESPACE},
            spec={
                "addresses": [f"{pool.addresses.first}-{pool.addresses.last}"],
                # Routers and old clients take .0 and .255 for broadcasts.
                "avoidBuggyIPs": True,
            },
            opts=opts,
        )
