"""Layer backup: encrypted snapshots of etcd, every hour, to storage outside the platform.

Upstream's talos-backup (https://github.com/siderolabs/talos-backup) reads the snapshot through the
Talos API with a role that can do nothing else (`os:etcd:backup`), encrypts it for an age key whose
private half is nowhere on the platform, and uploads it. How old the newest one is says
kube-state-metrics, which sees this namespace's jobs only:
`time() - kube_cronjob_status_last_successful_time{cronjob="etcd-backup"}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from components.gate import Gate
from components.kubernetes import outside
from components.kubernetes.admission import accepts
from components.kubernetes.isolated_namespace import IsolatedNamespace, anybody, metrics
from components.kubernetes.objects import KubernetesObject, Metadata
from components.kubernetes.workload import pod, probe
from components.talos.configuration import BACKUP_NAMESPACE, BACKUP_ROLE
from config import versions
from config.charts import CRITICAL, Values, resources
from config.settings import API_PORT
from config.values import split_url
from config.way_out import HTTPS_PORT

if TYPE_CHECKING:
    from config.settings import Backup as BackupSettings
    from config.way_out import WayOut

NAMESPACE = BACKUP_NAMESPACE
NAME = "etcd-backup"
IMAGE = f"ghcr.io/siderolabs/talos-backup:v{versions.TALOS_BACKUP}"
METRICS_NAME = "backup-metrics"
METRICS_IMAGE = (
    f"registry.k8s.io/kube-state-metrics/kube-state-metrics:v{versions.KUBE_STATE_METRICS}"
)
METRICS_PORT, TELEMETRY_PORT = 8080, 8081
TALOS_API = "talos.dev/v1alpha1"
TALOS_PORT = 50000
TALOS_SERVICE = "talos.default"
"""How the credentials that Talos makes name its API (Talos 1.13, pkg/machinery/constants)."""
HTTP_PORT = 80
STORAGE_SECRET = "storage-credentials"  # noqa: S105 a name
TALOS_CREDENTIALS = "talos-credentials"
DEADLINE_SECONDS = 900
MISSED_SECONDS = 600
"""After the controller was away, a run that is this late is still made."""


class Backup(pulumi.ComponentResource):
    """Snapshots on a schedule, and a metric of their age."""

    def __init__(  # noqa: PLR0913 its cluster, and two secrets
        self,
        name: str,
        backup: BackupSettings,
        kubeconfig: pulumi.Output[str],
        *,
        cluster: str,
        way: WayOut,
        access_key: pulumi.Output[str],
        secret_key: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make the job with its credentials, and what watches it.

        `cluster` is where in the bucket the snapshots go; the keys are the storage's.
        """
        super().__init__("platform:kubernetes:Backup", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        labels = {"app.kubernetes.io/name": NAME}
        rules = list(outside.egress(way, _places(backup), TALOS_PORT))
        namespace.allow("backup", labels, egress=rules)
        roots = outside.authorities(way, namespace)
        storage = namespace.secret(
            STORAGE_SECRET,
            {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
        )
        # Talos defines the kind, sees the object, and makes the Secret of the same name.
        kind = {
            "apiVersion": TALOS_API,
            "kind": "ServiceAccount",
            "metadata": {"name": "probe", "namespace": NAMESPACE},
        }
        gate = Gate(
            "talos-access",
            {"namespace": NAMESPACE},
            after=namespace.resource,
            on_create=accepts(kubeconfig, kind),
            opts=pulumi.ResourceOptions(parent=self),
        )
        talos = KubernetesObject(
            TALOS_API,
            "ServiceAccount",
            TALOS_CREDENTIALS,
            metadata={"name": TALOS_CREDENTIALS, "namespace": NAMESPACE},
            spec={"roles": [BACKUP_ROLE]},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[gate.opened]),
        )
        account = _account(NAME, namespace)
        KubernetesObject(
            "batch/v1",
            "CronJob",
            NAME,
            metadata={"name": NAME, "namespace": NAMESPACE, "labels": labels},
            spec={
                "schedule": backup.schedule,
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": MISSED_SECONDS,
                "successfulJobsHistoryLimit": 3,
                "failedJobsHistoryLimit": 3,
                "jobTemplate": {
                    "spec": {
                        "backoffLimit": 2,
                        "activeDeadlineSeconds": DEADLINE_SECONDS,
                        "template": {
                            "metadata": {"labels": labels},
                            "spec": _pod(cluster, backup, way),
                        },
                    }
                },
            },
            opts=namespace.options(storage, talos, account, *roots),
        )
        self._watch(namespace)
        self.register_outputs(
            {"namespace": NAMESPACE, "schedule": backup.schedule, "bucket": backup.bucket}
        )

    @staticmethod
    def _watch(namespace: IsolatedNamespace) -> None:
        """Run kube-state-metrics on the jobs of this namespace."""
        labels = {"app.kubernetes.io/name": METRICS_NAME}
        namespace.allow(
            "metrics",
            labels,
            ingress=[metrics(METRICS_PORT, TELEMETRY_PORT)],
            egress=[anybody(API_PORT)],
        )
        account = _account(METRICS_NAME, namespace)
        metadata: Metadata = {"name": METRICS_NAME, "namespace": NAMESPACE, "labels": labels}
        role = KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "Role",
            METRICS_NAME,
            metadata=metadata,
            rules=[
                {
                    "apiGroups": ["batch"],
                    "resources": ["jobs", "cronjobs"],
                    "verbs": ["list", "watch"],
                }
            ],
            opts=namespace.options(),
        )
        binding = KubernetesObject(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            METRICS_NAME,
            metadata=metadata,
            roleRef={
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": METRICS_NAME,
            },
            subjects=[{"kind": "ServiceAccount", "name": METRICS_NAME, "namespace": NAMESPACE}],
            opts=namespace.options(role),
        )
        KubernetesObject(
            "apps/v1",
            "Deployment",
            METRICS_NAME,
            metadata=metadata,
            spec={
                # One: two would count everything twice.
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _metrics_pod()},
            },
            opts=namespace.options(account, binding),
        )
        KubernetesObject(
            "v1",
            "Service",
            METRICS_NAME,
            metadata={
                **metadata,
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            },
            spec={
                "selector": labels,
                "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}],
            },
            opts=namespace.options(),
        )


def _account(name: str, namespace: IsolatedNamespace) -> KubernetesObject:
    return KubernetesObject(
        "v1",
        "ServiceAccount",
        f"{name}-account",
        metadata={"name": name, "namespace": NAMESPACE},
        automountServiceAccountToken=False,
        opts=namespace.options(),
    )


def _pod(cluster: str, backup: BackupSettings, way: WayOut) -> Values:
    """Give the job's pod."""
    environment = {
        "AWS_REGION": backup.region,
        "BUCKET": backup.bucket,
        "CUSTOM_S3_ENDPOINT": backup.endpoint,
        "S3_PREFIX": cluster,
        "CLUSTER_NAME": cluster,
        "AGE_X25519_PUBLIC_KEY": backup.age_public_key,
        # Read the wrong way round until after 0.1.0-beta.3 (siderolabs/talos-backup, issue 59):
        # "false" gives https://HOST/BUCKET, all else https://BUCKET.HOST, which storage that
        # people run themselves seldom answers.
        "USE_PATH_STYLE": "false" if backup.path_style else "true",
    }
    mounts: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 the pod's own
        {"name": "talos", "mountPath": "/var/run/secrets/talos.dev", "readOnly": True},
        *way.mounts,
    ]
    return pod(
        NAME,
        [
            {
                "name": "talos-backup",
                "image": IMAGE,
                "command": ["/talos-backup"],
                "workingDir": "/tmp",  # noqa: S108 the pod's own
                "env": [
                    *({"name": key, "value": value} for key, value in environment.items()),
                    *way.environment(TALOS_SERVICE),
                ],
                "envFrom": [{"secretRef": {"name": STORAGE_SECRET}}],
                "resources": resources("50m", "128Mi", "512Mi"),
                "volumeMounts": mounts,
            }
        ],
        token=False,
        restartPolicy="OnFailure",
        priorityClassName=CRITICAL,
        volumes=[
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            {"name": "talos", "secret": {"secretName": TALOS_CREDENTIALS}},
            *way.volumes,
        ],
    )


def _metrics_pod() -> Values:
    return pod(
        METRICS_NAME,
        [
            {
                "name": "kube-state-metrics",
                "image": METRICS_IMAGE,
                "args": [
                    "--resources=jobs,cronjobs",
                    f"--namespaces={NAMESPACE}",
                    f"--port={METRICS_PORT}",
                    f"--telemetry-port={TELEMETRY_PORT}",
                ],
                "ports": [
                    {"name": "metrics", "containerPort": METRICS_PORT},
                    {"name": "telemetry", "containerPort": TELEMETRY_PORT},
                ],
                "livenessProbe": probe("/livez", "metrics"),
                "readinessProbe": probe("/readyz", "telemetry"),
                "resources": resources("10m", "32Mi", "128Mi"),
            }
        ],
        token=True,
        priorityClassName=CRITICAL,
    )


def _places(backup: BackupSettings) -> list[tuple[str, int]]:
    """Give the storage's host, with the bucket in it or without, and its port."""
    url = split_url(backup.endpoint)
    if url is None:
        return []
    host = url.host if backup.path_style else f"{backup.bucket}.{url.host}"
    return [(host, url.port or (HTTP_PORT if url.scheme == "http" else HTTPS_PORT))]
