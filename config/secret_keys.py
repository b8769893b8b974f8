"""Configuration: the secrets that a stack holds; needed_secrets.py says when each is needed.

Secrets are encrypted top-level keys of the stack file, set by the operator with
`pulumi config set --secret`. They never enter the settings model: `__main__.py`,
`components/layers.py` and the two ways to manage a cluster read them
(`components.stack_settings.require_secret`) and give each component those that it needs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SecretKey:
    """A secret: its key without `platform:`, and what it is."""

    name: str
    description: str

    @property
    def command(self) -> str:
        """The command that sets it; it asks for the value, so that no shell history keeps it."""
        return f"pulumi config set --secret platform:{self.name}"


SECRET_KEYS = (
    SecretKey("vspherePassword", "the vCenter user's password"),
    SecretKey("omniServiceAccountKey", "the key of a service account of Omni, role Operator"),
    SecretKey("omniJoinToken", "the join token of Omni, made for this cluster's machines alone"),
    SecretKey("registryPassword", "the password or token of the user that pulls images"),
    SecretKey(
        "dnsToken",
        "Cloudflare's API token, the TSIG key of rfc2136, Route 53's secret access key, or that "
        "of a webhook's solver",
    ),
    SecretKey("dnsAccessKey", "the id of Route 53's access key"),
    SecretKey("traefikDashboardPassword", "the dashboard's password"),
    SecretKey("argocdRedisPassword", "what Argo CD's parts show to its Redis"),
    SecretKey("githubWebhookSecret", "what GitHub signs its webhook calls with"),
    SecretKey("gitlabWebhookSecret", "what GitLab shows in its webhook calls"),
    SecretKey("giteaWebhookSecret", "what Gitea or Forgejo signs its webhook calls with"),
    SecretKey("githubClientSecret", "the GitHub OAuth application's secret"),
    SecretKey("gitlabClientSecret", "the GitLab application's secret"),
    SecretKey("giteaClientSecret", "the Gitea OAuth2 application's secret"),
    SecretKey("oidcClientSecret", "the OpenID Connect client's secret"),
    SecretKey(
        "argocdRepositoryKey",
        "what reads the Git repository: the private key of the App or of SSH, or the token",
    ),
    SecretKey(
        "commitStatusKey",
        "what sets statuses of commits: the private key of the GitHub App, or GitLab's token",
    ),
    SecretKey("alertWebhookUrl", "the URL that takes alerts"),
    SecretKey("alertSlackUrl", "the URL of Slack's incoming webhook"),
    SecretKey("alertMailPassword", "the password at the mail server"),
    SecretKey("alertPagerDutyKey", "the integration key of a PagerDuty service (Events API v2)"),
    SecretKey("heartbeatUrl", "the URL that an outside service expects to be called"),
    SecretKey("backupAccessKey", "the S3 access key's id"),
    SecretKey("backupSecretKey", "the S3 access key's secret"),
)
SECRET_NAMES = frozenset(key.name for key in SECRET_KEYS)
