"""Layer metrics-server: resource metrics, read from kubelets whose certificates are verified.

Its own certificate is verified too, by the API server, and comes from cert-manager's private
authority: one that signs itself would be unknown, at each renewal, until its injector has written
the new one. Without cert-manager nobody can verify it, and `config check` warns.

Kubelets ask the cluster for serving certificates (`rotate-server-certificates` in clusters/prod),
and Kubernetes itself approves none. The approver is upstream's program with this manifest of ours:
https://github.com/alex1989hu/kubelet-serving-cert-approver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from components.kubernetes.cert_manager import PRIVATE
from components.kubernetes.isolated_namespace import IsolatedNamespace, anybody, metrics
from components.kubernetes.objects import KubernetesObject, Metadata
from components.kubernetes.release import install
from components.kubernetes.workload import pod, probe
from config import versions
from config.charts import CLUSTER_CRITICAL, ChartPlan, Values, resources, spread
from config.settings import API_PORT

if TYPE_CHECKING:
    from config.settings import MetricsServer as MetricsServerSettings

NAMESPACE = "metrics-server"
REPOSITORY = "https://kubernetes-sigs.github.io/metrics-server"
PODS = {"app.kubernetes.io/name": "metrics-server"}
PORT = 10250
KUBELET_PORT = 10250

# The API server verifies whom it asks: cert-manager issues and renews the certificate, and its
# injector writes the authority into the APIService.
VERIFIED: Values = {
    "apiService": {"insecureSkipTLSVerify": False},
    "tls": {
        "type": "cert-manager",
        "certManager": {
            "existingIssuer": {"enabled": True, "kind": "ClusterIssuer", "name": PRIVATE},
        },
    },
}
# It makes a certificate at each start that nobody knows.
UNVERIFIED: Values = {"apiService": {"insecureSkipTLSVerify": True}}

APPROVER = "kubelet-serving-cert-approver"
APPROVER_IMAGE = f"ghcr.io/alex1989hu/{APPROVER}:{versions.SERVING_CERT_APPROVER}"
RBAC_GROUP = "rbac.authorization.k8s.io"
SIGNER = "kubernetes.io/kubelet-serving"


def plan(server: MetricsServerSettings, *, verified: bool) -> ChartPlan:
    """Plan the chart; `verified` is whether cert-manager makes its certificate."""
    values: Values = {
        "replicas": 2,
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
        "priorityClassName": CLUSTER_CRITICAL,
        "resources": resources("50m", "128Mi", "256Mi"),
        "topologySpreadConstraints": spread(PODS),
        # Kubelets' certificates are from the cluster's authority; `--kubelet-insecure-tls` is not
        # needed, and never set.
        "args": [
            "--kubelet-certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
        ],
        "metrics": {"enabled": True},
        **(VERIFIED if verified else UNVERIFIED),
    }
    return ChartPlan(
        "metrics-server", server.repository or REPOSITORY, server.version, NAMESPACE, values
    )


class MetricsServer(pulumi.ComponentResource):
    """The resource metrics API, for autoscaling and `kubectl top`."""

    def __init__(
        self,
        name: str,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install the approver, then the server that needs what it approves."""
        super().__init__("platform:kubernetes:MetricsServer", name, None, opts)
        approver = ServingCertificateApprover(APPROVER, pulumi.ResourceOptions(parent=self))
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        namespace.allow(
            "metrics-server",
            PODS,
            # The API server asks it, and monitoring may.
            ingress=[anybody(PORT)],
            egress=[anybody(API_PORT, KUBELET_PORT)],
        )
        install(chart, kubeconfig, namespace.options(approver))
        self.register_outputs({"namespace": NAMESPACE, "version": chart.version})


class ServingCertificateApprover(pulumi.ComponentResource):
    """Approves what kubelets ask for themselves, and nothing else."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        """Make its namespace, its rights and its pods."""
        super().__init__("platform:kubernetes:ServingCertificateApprover", name, None, opts)
        namespace = IsolatedNamespace(APPROVER, "restricted", self)
        labels = {"app.kubernetes.io/name": APPROVER}
        namespace.allow("approver", labels, ingress=[metrics(9090)], egress=[anybody(API_PORT)])
        child = namespace.options()
        metadata: Metadata = {"name": APPROVER, "namespace": APPROVER, "labels": labels}
        account = KubernetesObject(
            "v1",
            "ServiceAccount",
            f"{APPROVER}-account",
            metadata=metadata,
            automountServiceAccountToken=False,
            opts=child,
        )
        self._rights(child)
        deployment = KubernetesObject(
            "apps/v1",
            "Deployment",
            APPROVER,
            metadata=metadata,
            spec={
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": self._pod(labels)},
            },
            opts=namespace.options(account),
        )
        KubernetesObject(
            "policy/v1",
            "PodDisruptionBudget",
            APPROVER,
            metadata=metadata,
            spec={"maxUnavailable": 1, "selector": {"matchLabels": labels}},
            opts=namespace.options(deployment),
        )
        self.register_outputs({"namespace": APPROVER})

    @staticmethod
    def _pod(labels: dict[str, str]) -> Values:
        return pod(
            APPROVER,
            [
                {
                    "name": "cert-approver",
                    "image": APPROVER_IMAGE,
                    "args": ["serve", "--enable-leader-election"],
                    "env": [
                        {
                            "name": "NAMESPACE",
                            "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
                        }
                    ],
                    "ports": [
                        {"name": "health", "containerPort": 8080},
                        {"name": "metrics", "containerPort": 9090},
                    ],
                    "livenessProbe": probe("/healthz", "health"),
                    "readinessProbe": probe("/readyz", "health"),
                    "resources": resources("10m", "16Mi", "64Mi"),
                }
            ],
            token=True,
            priorityClassName=CLUSTER_CRITICAL,
            topologySpreadConstraints=spread(labels),
        )

    @staticmethod
    def _rights(opts: pulumi.ResourceOptions) -> None:
        """Let it see requests and approve those of one signer, and hold its lease."""
        subject: Any = {"kind": "ServiceAccount", "name": APPROVER, "namespace": APPROVER}
        csr = "certificatesigningrequests"
        group = "certificates.k8s.io"
        KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            APPROVER,
            metadata={"name": APPROVER},
            rules=[
                {"apiGroups": [group], "resources": [csr], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [group], "resources": [f"{csr}/approval"], "verbs": ["update"]},
                {
                    "apiGroups": [group],
                    "resources": ["signers"],
                    "resourceNames": [SIGNER],
                    "verbs": ["approve"],
                },
                {
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["subjectaccessreviews"],
                    "verbs": ["create"],
                },
            ],
            opts=opts,
        )
        KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            APPROVER,
            metadata={"name": APPROVER},
            roleRef={"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": APPROVER},
            subjects=[subject],
            opts=opts,
        )
        KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "Role",
            f"{APPROVER}-leader",
            metadata={"name": APPROVER, "namespace": APPROVER},
            rules=[
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "verbs": ["create", "get", "update"],
                },
                {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
            ],
            opts=opts,
        )
        KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            f"{APPROVER}-leader",
            metadata={"name": APPROVER, "namespace": APPROVER},
            roleRef={"apiGroup": RBAC_GROUP, "kind": "Role", "name": APPROVER},
            subjects=[subject],
            opts=opts,
        )
