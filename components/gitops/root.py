"""GitOps: the root Application, which Pulumi makes and from which Argo CD finds everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.gitops.generated import folder
from config import plain_yaml

if TYPE_CHECKING:
    from config import Settings

FILE = "bootstrap/root.yaml"


def root_application(settings: Settings, root: Path) -> dict[str, Any]:
    """Read bootstrap/root.yaml and put in where the cluster's folder is to be had."""
    argocd = settings.services.argocd
    if argocd is None:
        message = "services.argocd is not set"
        raise ValueError(message)
    found: dict[str, Any] = plain_yaml.read((root / FILE).read_text(encoding="utf-8"))
    found["spec"]["source"] = {
        "repoURL": argocd.repository_url,
        "targetRevision": argocd.revision,
        "path": folder(settings),
    }
    return found
