"""Layer Cilium: the pod network, kube-proxy's replacement, network policies and Gateway API.

Values follow Talos' guide for Cilium (https://docs.siderolabs.com/kubernetes-guides/cni/deploying-cilium):
the agent reaches the API over KubePrism, Talos has mounted cgroups already, and no pod may load
kernel modules. Addresses for LoadBalancer Services are MetalLB's alone: with `bgp` set, Cilium
announces by BGP the addresses that MetalLB gave, and MetalLB's speakers still answer on layer 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi

from components.kubernetes import name_servers
from components.kubernetes.admission import once_taken
from components.kubernetes.isolated_namespace import Rule, metrics, ports
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.release import install
from components.talos.configuration import KUBEPRISM_PORT
from components.talos.firewall import VXLAN_PORT
from config.charts import (
    CLUSTER_CRITICAL,
    NODE_CRITICAL,
    SECCOMP,
    ChartPlan,
    Values,
    resources,
    spread,
)

if TYPE_CHECKING:
    from config.settings import Bgp
    from config.settings import Cilium as CiliumSettings

NAMESPACE = "kube-system"
REPOSITORY = "https://helm.cilium.io"
RELAY_PORT, RELAY_METRICS_PORT = 4245, 9966
ONE_AT_A_TIME = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
GATEWAY_CLASS = "cilium"


GATEWAY_KINDS = [("cilium.io/v2alpha1", "CiliumGatewayClassConfig", NAMESPACE)]
BGP_KINDS = [
    ("cilium.io/v2", "CiliumBGPAdvertisement", None),
    ("cilium.io/v2", "CiliumBGPPeerConfig", None),
    ("cilium.io/v2", "CiliumBGPClusterConfig", None),
]
"""Kinds that the operator defines: version, kind, and where objects of it are."""


def probe(version: str, kind: str, namespace: str | None) -> Values:
    """Give an object that is never made: asks whether its kind is defined."""
    metadata = {"name": "probe"} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def plan(cilium: CiliumSettings, *, cluster: str, pods: str, machines: int) -> ChartPlan:
    """Plan the chart for a cluster of this name, with this network for its pods, of this size."""
    replicas = replicas_for(machines)
    values: Values = {
        "cluster": {"name": cluster, "id": 0},
        "ipam": {"mode": "kubernetes"},
        "k8s": {"requireIPv4PodCIDR": True},
        "kubeProxyReplacement": "true",
        "k8sServiceHost": "localhost",
        "k8sServicePort": str(KUBEPRISM_PORT),
        **_talos(),
        **_routing(cilium.routing, pods),
        "bpf": {"masquerade": True},
        # Two allocators would fight over the same Services.
        "enableLBIPAM": False,
        "defaultLBServiceIPAM": "none",
        "bgpControlPlane": {"enabled": cilium.bgp is not None},
        # The class is made below: it says that gateways get no node ports.
        "gatewayAPI": {"enabled": True, "gatewayClass": {"create": "false"}},
        "priorityClassName": NODE_CRITICAL,
        "rollOutCiliumPods": True,
        "updateStrategy": ONE_AT_A_TIME,
        "resources": resources("100m", "512Mi", "1Gi"),
        "initResources": resources("10m", "32Mi", "128Mi"),
        "prometheus": {"enabled": True, "metricsService": True},
        # Envoy asks the agent, never the API; its account has no rights.
        "serviceAccounts": {"envoy": {"automount": False}},
        "envoy": {
            "enabled": True,
            "rollOutPods": True,
            "updateStrategy": ONE_AT_A_TIME,
            "priorityClassName": NODE_CRITICAL,
            "resources": resources("50m", "128Mi", "512Mi"),
        },
        "operator": {
            "replicas": replicas,
            "rollOutPods": True,
            "priorityClassName": CLUSTER_CRITICAL,
            "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
            "resources": resources("25m", "128Mi", "512Mi"),
            "prometheus": {"enabled": True, "metricsService": True},
        },
        "certgen": {
            "priorityClassName": CLUSTER_CRITICAL,
            "resources": resources("10m", "32Mi", "64Mi"),
        },
        "hubble": _hubble(replicas),
    }
    return ChartPlan("cilium", cilium.repository or REPOSITORY, cilium.version, NAMESPACE, values)


def _routing(routing: str, pods: str) -> Values:
    """Say how packets between pods of two machines travel (docs/decisions/0014)."""
    if routing == "native":
        return {
            "routingMode": "native",
            "ipv4NativeRoutingCIDR": pods,
            # All machines are in one layer 2 network (config/addresses.py holds them to it).
            "autoDirectNodeRoutes": True,
        }
    tunnel: Values = {"routingMode": "tunnel", "tunnelProtocol": routing}
    return tunnel | ({"tunnelPort": VXLAN_PORT} if routing == "vxlan" else {})


def _talos() -> Values:
    """Give what Talos asks for: its cgroups, and no capability to load modules."""
    agent = (
        "CHOWN KILL NET_ADMIN NET_RAW IPC_LOCK SYS_ADMIN SYS_RESOURCE "
        "DAC_OVERRIDE FOWNER SETGID SETUID"
    )
    return {
        "cgroup": {"autoMount": {"enabled": False}, "hostRoot": "/sys/fs/cgroup"},
        "securityContext": {
            "capabilities": {
                "ciliumAgent": agent.split(),
                "cleanCiliumState": ["NET_ADMIN", "SYS_ADMIN", "SYS_RESOURCE"],
            }
        },
    }


def _hubble(replicas: int) -> Values:
    """See what flows. Helm's own way to make certificates makes others at every render."""
    two = {
        "replicas": replicas,
        "rollOutPods": True,
        "priorityClassName": CLUSTER_CRITICAL,
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
    }
    bare = {"securityContext": {"capabilities": {"drop": ["ALL"]}}}
    return {
        "enabled": True,
        "tls": {"auto": {"enabled": True, "method": "cronJob", "certValidityDuration": 1095}},
        "metrics": {
            "enabled": ["dns:query;ignoreAAAA", "drop", "tcp", "flow", "icmp", "httpV2"],
            "enableOpenMetrics": True,
        },
        "relay": {
            **two,
            "enabled": True,
            "prometheus": {"enabled": True},
            "resources": resources("10m", "64Mi", "256Mi"),
            "topologySpreadConstraints": spread({"k8s-app": "hubble-relay"}),
        },
        "ui": {
            **two,
            "enabled": True,
            # Over the chart's own contexts, which name a user that is not root.
            "securityContext": {"runAsNonRoot": True, **SECCOMP},
            "backend": {**bare, "resources": resources("10m", "64Mi", "128Mi")},
            "frontend": {**bare, "resources": resources("10m", "32Mi", "64Mi")},
            "topologySpreadConstraints": spread({"k8s-app": "hubble-ui"}),
        },
    }


def replicas_for(machines: int) -> int:
    """Give two where there are machines for them: the operator holds ports of its machine."""
    return min(2, machines)


class Cilium(pulumi.ComponentResource):
    """The pod network. Machines turn Ready with it."""

    def __init__(  # noqa: PLR0913 what the layer needs, each by its name
        self,
        name: str,
        cilium: CiliumSettings,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        *,
        machines: Sequence[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, with its classes and its BGP peers, on machines of these names."""
        super().__init__("platform:kubernetes:Cilium", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        closed = self._close_hubble(child)
        after_policies = pulumi.ResourceOptions(parent=self, depends_on=closed)
        release = install(chart, kubeconfig, after_policies)
        # The operator registers Cilium's definitions when it starts, a moment after it is ready.
        kinds = GATEWAY_KINDS + BGP_KINDS if cilium.bgp else GATEWAY_KINDS
        probes = [probe(*kind) for kind in kinds]
        after = once_taken(
            "cilium-definitions",
            {"version": chart.version, "kinds": [one["kind"] for one in probes]},
            *probes,
            release=release,
            kubeconfig=kubeconfig,
            parent=self,
        )
        name_servers.apart(machines, release=release, kubeconfig=kubeconfig, parent=self)
        self._gateway_class(after)
        if cilium.bgp is not None:
            self._bgp(cilium.bgp, after)
        self.register_outputs(
            {"namespace": NAMESPACE, "version": chart.version, "gatewayClass": GATEWAY_CLASS}
        )

    @staticmethod
    def _close_hubble(opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
        """Let no pod see what flows: the interface has no password, and relay asks for none.

        People come by `kubectl port-forward`, which no policy stops; the API server asks who they
        are.
        """
        interface = {"k8s-app": "hubble-ui"}
        rules: dict[str, list[Rule]] = {
            "hubble-ui": [],
            "hubble-relay": [
                {"from": [{"podSelector": {"matchLabels": interface}}], "ports": ports(RELAY_PORT)},
                metrics(RELAY_METRICS_PORT),
            ],
        }
        return [
            KubernetesObject(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                f"{NAMESPACE}/{name}",
                metadata={"name": name, "namespace": NAMESPACE},
                spec={
                    "podSelector": {"matchLabels": {"k8s-app": name}},
                    "policyTypes": ["Ingress"],
                    # The API server drops an empty list; every preview would put it back.
                    **({"ingress": ingress} if ingress else {}),
                },
                opts=opts,
            )
            for name, ingress in rules.items()
        ]

    @staticmethod
    def _gateway_class(opts: pulumi.ResourceOptions) -> None:
        """Make the class of Cilium's gateways, whose Services open no port on machines."""
        settings = KubernetesObject(
            "cilium.io/v2alpha1",
            "CiliumGatewayClassConfig",
            "cilium-gateways",
            metadata={"name": GATEWAY_CLASS, "namespace": NAMESPACE},
            spec={"service": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}},
            opts=opts,
        )
        KubernetesObject(
            "gateway.networking.k8s.io/v1",
            "GatewayClass",
            "cilium-gateway-class",
            metadata={"name": GATEWAY_CLASS},
            spec={
                "controllerName": "io.cilium/gateway-controller",
                "parametersRef": {
                    "group": "cilium.io",
                    "kind": "CiliumGatewayClassConfig",
                    "name": GATEWAY_CLASS,
                    "namespace": NAMESPACE,
                },
            },
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[settings])),
        )

    @staticmethod
    def _bgp(bgp: Bgp, opts: pulumi.ResourceOptions) -> None:
        """Announce the addresses of LoadBalancer Services to the site's routers."""
        label = {"platform.io/announce": "bgp"}
        KubernetesObject(
            "cilium.io/v2",
            "CiliumBGPAdvertisement",
            "bgp-advertisement",
            metadata={"name": "load-balancers", "labels": label},
            spec={
                "advertisements": [
                    {
                        "advertisementType": "Service",
                        "service": {"addresses": ["LoadBalancerIP"]},
                        # All Services: a selector that matches everything must name a key.
                        "selector": {
                            "matchExpressions": [
                                {
                                    "key": "platform.io/announce",
                                    "operator": "NotIn",
                                    "values": ["never"],
                                }
                            ]
                        },
                    }
                ]
            },
            opts=opts,
        )
        KubernetesObject(
            "cilium.io/v2",
            "CiliumBGPPeerConfig",
            "bgp-peer",
            metadata={"name": "site"},
            spec={
                "gracefulRestart": {"enabled": True},
                "families": [
                    {"afi": "ipv4", "safi": "unicast", "advertisements": {"matchLabels": label}}
                ],
            },
            opts=opts,
        )
        KubernetesObject(
            "cilium.io/v2",
            "CiliumBGPClusterConfig",
            "bgp-cluster",
            metadata={"name": "site"},
            spec={
                "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
                "bgpInstances": [
                    {
                        "name": "site",
                        "localASN": bgp.local_asn,
                        "peers": [
                            {
                                "name": str(peer.address),
                                "peerAddress": str(peer.address),
                                "peerASN": peer.asn,
                                "peerConfigRef": {"name": "site"},
                            }
                            for peer in bgp.peers
                        ],
                    }
                ],
            },
            opts=opts,
        )
