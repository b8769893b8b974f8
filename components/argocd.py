"""placeholder until merged"""

import pulumi

from components.charts import ChartPlan
from config.settings import Settings


def plan(settings: Settings) -> ChartPlan | None:
    return None


class ArgoCD(pulumi.ComponentResource):
    def __init__(
        self,
        name: str,
        settings: Settings,
        kubeconfig: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("platform:kubernetes:ArgoCD", name, None, opts)
