"""Layer Review: the engine's operations, and what each does to a resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Operation = Literal["create", "update", "replace", "delete", "same"]
OPERATIONS: Mapping[str, Operation] = {
    "create": "create",
    "import": "create",
    "update": "update",
    "refresh": "same",
    "same": "same",
    "read": "same",
    "delete": "delete",
    "discard": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import-replacement": "replace",
    "read-replacement": "replace",
    "read-discard": "delete",
    "discard-replaced": "replace",
    "remove-pending-replace": "delete",
}
"""Every operation of the engine (pulumi/pkg, resource/deploy/step.go)."""
