"""Layer Kubernetes: the pods of what no chart brings, to the platform's standard.

Nothing of a pod is writable, it has no capability and no user of the machine's, and a service
account's token only when it talks to the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOBODY = 65534


def pod(
    account: str,
    containers: Sequence[Mapping[str, Any]],
    *,
    token: bool,
    **more: Any,  # noqa: ANN401 fields of a pod
) -> dict[str, Any]:
    """Give a pod's spec under the restricted Pod Security standard."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(one) for one in containers],
        **more,
    }


def container(given: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a container what it may not do."""
    return {
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **given,
    }


def probe(path: str, port: str, *, delay: int = 5) -> dict[str, Any]:
    """Ask a container over HTTP how it is."""
    return {"httpGet": {"path": path, "port": port}, "initialDelaySeconds": delay}
