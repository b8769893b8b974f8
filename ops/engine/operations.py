"""The engine's operations, what each does to a resource, and how that is told."""

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
BOOKKEEPING = frozenset(("replace", "remove-pending-replace"))
"""Steps without work: that is in `create-replacement` and `delete-replaced`."""
DELETIONS = frozenset(("delete", "delete-replaced", "discard-replaced"))
"""Steps that take away what there is; of a replaced resource its old one."""
WORDS: Mapping[Operation, str] = {
    "create": "is created",
    "update": "changes",
    "replace": "is recreated",
    "delete": "is removed",
}
"""What becomes of a resource, for people."""
