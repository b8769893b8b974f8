"""GitOps: the root Application, which Pulumi makes and from which Argo CD finds everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import plain_yaml

if TYPE_CHECKING:
    from config.settings import ArgoCD

FILE = "bootstrap/root.yaml"


def root_application(argocd: ArgoCD, folder: str, root: Path) -> dict[str, Any]:
    """Read bootstrap/root.yaml and put in where the cluster's folder is to be had.

    `folder` is the cluster's (`generated.folder`) in the repository, `root` the repository here.
    """
    application: dict[str, Any] = plain_yaml.read((root / FILE).read_text(encoding="utf-8"))
    application["spec"]["source"] = {
        "repoURL": argocd.repository_url,
        "targetRevision": argocd.revision,
        "path": folder,
    }
    return application
