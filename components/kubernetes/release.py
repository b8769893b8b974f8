"""Layer Kubernetes: a Helm release of the platform's own, which survives a killed run.

`helm.v3.Release` and not `helm.v4.Chart`: hooks run, the cluster has one owner for each object, and
a preview shows values, not hundreds of rendered fields (docs/decisions/0007-helm-releases.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.kubernetes.release_records import before_install, before_upgrade
from components.resource_failures import explained, of_release
from config.charts import ChartPlan

TYPE = "kubernetes:helm.sh/v3:Release"
"""Not by the SDK's class: beside it in its module is all that renders YAML, slow to import."""
TIMEOUT_SECONDS = 600
"""For an installation; images are pulled over the site's own line."""
REVISIONS = 5
"""Helm's records of a release are large; five tell what happened lately."""


def install(
    plan: ChartPlan,
    kubeconfig: pulumi.Output[str],
    opts: pulumi.ResourceOptions,
    *,
    ignore_changes: Sequence[str] = (),
    skip_crds: bool = False,
) -> pulumi.CustomResource:
    """Install a chart, or upgrade it; both end with all of it ready, or are rolled back.

    With `skip_crds` what lies in its `crds/` folder is left to another owner.
    """
    hooks = pulumi.ResourceHookBinding(
        before_create=[
            pulumi.ResourceHook(f"{plan.release}-install", before_install(plan, kubeconfig))
        ],
        before_update=[
            pulumi.ResourceHook(f"{plan.release}-upgrade", before_upgrade(plan, kubeconfig))
        ],
        on_error=[
            explained(f"Helm's answer for {plan.release}", lambda _, words: of_release(plan, words))
        ],
    )
    own = pulumi.ResourceOptions(hooks=hooks, ignore_changes=list(ignore_changes))
    return pulumi.CustomResource(
        TYPE,
        plan.release,
        {
            "name": plan.release,
            "namespace": plan.namespace,
            "chart": plan.chart,
            "version": plan.version,
            "repositoryOpts": {"repo": plan.repository},
            "values": dict(plan.values),
            "atomic": True,
            "cleanupOnFail": True,
            "createNamespace": False,
            "maxHistory": REVISIONS,
            "timeout": TIMEOUT_SECONDS,
            "skipCrds": skip_crds or None,
            # The SDK's class always sends it.
            "compat": "true",
        },
        pulumi.ResourceOptions.merge(opts, own),
    )
