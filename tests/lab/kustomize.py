"""What Argo CD makes of the repository's folders: `kubectl kustomize`, without a world."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from config import plain_yaml
from ops.rehearsal.world import PROJECT

KUBECTL = PROJECT / ".lab" / "bin" / "kubectl"

Object = dict[str, Any]


class KustomizeError(Exception):
    """Kustomize refuses a folder; its own message."""


def build(folder: Path) -> list[Object]:
    """Build a folder with a kustomization; gives its objects."""
    return list(plain_yaml.read_all(_text(folder)))


@cache
def _text(folder: Path) -> str:
    argv = [str(KUBECTL), "kustomize", str(folder)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise KustomizeError(result.stderr)
    return result.stdout


def identity(one: Object) -> tuple[str, str, str, str]:
    """Tell an object from all others: API group, kind, namespace (may be empty) and name."""
    group, slash, _ = str(one["apiVersion"]).partition("/")
    metadata = one["metadata"]
    return group if slash else "", one["kind"], metadata.get("namespace", ""), metadata["name"]
