"""Layer Policies: all rules that the pack enforces, in the order of docs/policies.md."""

from __future__ import annotations

from ops.policies import keeping, leaks, plan, workloads
from ops.policies.model import Rule

RULES: tuple[Rule, ...] = (*leaks.RULES, *keeping.RULES, *plan.RULES, *workloads.RULES)
