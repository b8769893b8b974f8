"""GitOps: Argo CD tells the Git host what became of a commit, as a status of it.

What a status says and when it is set is in bootstrap/argo-cd/values.yaml, for all clusters alike;
here is whom Argo CD tells. Its notifications know GitHub by a GitHub App alone (its page "GitHub"),
and GitLab as any other host that takes JSON (its page "Webhook").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config import git, plain_yaml

if TYPE_CHECKING:
    from config.settings import ArgoCD

KEY = "commit-status-key"
"""Of the Secret argocd-notifications-secret; a notifier names it behind a dollar sign."""
TRIGGER = "on-commit-status"


def values(argocd: ArgoCD, cluster: str) -> dict[str, Any]:
    """Give the chart's values: who is told, of what, and as which cluster; empty without statuses.

    A commit has a status for each Application that synced it, in each cluster that follows it.
    """
    statuses, api = argocd.commit_statuses, git.status_api(argocd)
    if statuses is None or api is None:
        return {}
    service: dict[str, Any]
    if argocd.git_host == "gitlab":
        recipient, name = "gitlab", "service.webhook.gitlab"
        headers = {"PRIVATE-TOKEN": f"${KEY}", "Content-Type": "application/json"}
        service = {
            "url": api,
            "headers": [{"name": header, "value": value} for header, value in headers.items()],
        }
    else:
        recipient = "github"
        name = "service.github"
        service = {
            "appID": statuses.app_id,
            "installationID": statuses.installation_id,
            "privateKey": f"${KEY}",
        }
        if api != git.GITHUB_API:
            service["enterpriseBaseURL"] = api
    told = {
        "context": {"cluster": cluster},
        "notifiers": {name: plain_yaml.written(service)},
        "subscriptions": [{"recipients": [recipient], "triggers": [TRIGGER]}],
    }
    return {"notifications": told}
