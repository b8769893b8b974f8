"""GitOps: what Argo CD's Application `logging` needs to know of the settings.

What runs is in platform/logging, for all clusters alike. Here is what differs: for how long logs
are kept, how much they may take, and where they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.gitops import overlay
from components.gitops.overlay import Tree
from config import log_places

if TYPE_CHECKING:
    from config.settings import Settings

NAMESPACE = "logging"
BASE = "platform/logging"
PATH = "/logs"
"""Below Argo CD's name: where people search (platform/logging)."""
STORAGE = "victoria-logs"
"""The Deployment, and its claim of a volume."""


def pages(domain: str) -> str:
    """Give where people search the logs, below Argo CD's name."""
    return f"https://{domain}{PATH}/select/vmui/"


def files(settings: Settings, base: str) -> dict[str, Tree]:
    """Give the folder's files by their names; `base` is the way from it to platform/logging."""
    logging, local = settings.services.logging, settings.services.local_volumes
    if logging is None or settings.services.argocd is None:
        return {}
    size = f"{logging.size_gib}GiB"
    spec: Tree = {"env": overlay.variables(RETENTION=f"{logging.retention_days}d", SIZE=size)}
    found: dict[str, Tree] = {}
    resources = [base]
    if logging.volume and local is not None:
        resources.append("volume.yaml")
        found["volume.yaml"] = overlay.claim(STORAGE, local.storage_class, logging.size_gib)
        spec["volumes"] = overlay.claimed(STORAGE)
    resources.append("machines.yaml")
    found["machines.yaml"] = _for_machines(str(log_places.address(settings.network)))
    path = f"patches/{STORAGE}.yaml"
    return found | {
        "kustomization.yaml": overlay.kustomization(NAMESPACE, resources, [path]),
        path: overlay.patch(STORAGE, spec),
    }


def _for_machines(address: str) -> Tree:
    """Give the Service that Talos sends its logs to."""
    ports = {"services": log_places.SERVICES_PORT, "kernel": log_places.KERNEL_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "machines"},
        "spec": {
            "clusterIP": address,
            "selector": {"app.kubernetes.io/name": STORAGE},
            "ports": [
                {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
                for name, port in ports.items()
            ],
        },
    }
