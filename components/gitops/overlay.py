"""GitOps: what a cluster's folder of a service lays over the service's own, for Kustomize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Tree = dict[str, Any]


def kustomization(
    namespace: str,
    resources: Sequence[str],
    patches: Sequence[str],
    maps: Mapping[str, Sequence[str]] | None = None,
) -> Tree:
    """Give the folder's kustomization; `maps` are files by the ConfigMap that they are in."""
    generated = [{"name": name, "files": list(files)} for name, files in (maps or {}).items()]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": list(resources),
        **({"configMapGenerator": generated} if generated else {}),
        "patches": [{"path": patch} for patch in patches],
    }


def patch(name: str, spec: Tree) -> Tree:
    """Lay fields over a Deployment's only container; `volumes` and `annotations` over its pod."""
    of_pod = ("volumes", "annotations")
    own = {key: value for key, value in spec.items() if key not in of_pod}
    template: Tree = {"spec": {"containers": [{"name": name, **own}]}}
    if volumes := spec.get("volumes"):
        template["spec"]["volumes"] = volumes
    if annotations := spec.get("annotations"):
        template["metadata"] = {"annotations": annotations}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"template": template},
    }


def variables(**values: str) -> list[Tree]:
    """Give a container's variables."""
    return [{"name": name, "value": value} for name, value in values.items()]


def claimed(name: str) -> list[Tree]:
    """Put a claim in the place of the volume `storage`, which is a folder otherwise."""
    claim = {"persistentVolumeClaim": {"claimName": name}}
    return [{"name": "storage", "emptyDir": None, **claim}]


def claim(name: str, storage_class: str, gib: int) -> Tree:
    """Ask for a volume."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": f"{gib}Gi"}},
        },
    }
