"""Configuration: the secrets that a stack holds, and when each is needed.

Secrets are encrypted top-level keys of the stack file, set by the operator with
`pulumi config set --secret`. They never enter the settings model; whoever uses one reads it with
`components.stack_settings.require_secret`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.settings import Services


@dataclass(frozen=True)
class SecretKey:
    """A secret: its key without `platform:`, what it is, and whether the services need it."""

    name: str
    description: str
    needed: Callable[[Services], bool]

    @property
    def command(self) -> str:
        """The command that sets it; it asks for the value, so that no shell history keeps it."""
        return f"pulumi config set --secret platform:{self.name}"


def _uses_acme(services: Services) -> bool:
    return services.cert_manager is not None and services.cert_manager.uses_acme


def _proves_by_route53(services: Services) -> bool:
    dns = services.cert_manager.dns if services.cert_manager is not None else None
    return dns is not None and dns.provider == "route53"


def _serves_dashboard(services: Services) -> bool:
    return services.traefik is not None and services.traefik.dashboard_domain is not None


def _has_argocd(services: Services) -> bool:
    return services.argocd is not None


def _is_called_by(host: str) -> Callable[[Services], bool]:
    return lambda services: services.argocd is not None and services.argocd.git_host == host


def _logs_in_by(name: str) -> Callable[[Services], bool]:
    return lambda services: getattr(services.argocd, name, None) is not None


def _reads_private_repository(services: Services) -> bool:
    return services.argocd is not None and services.argocd.repository_access is not None


def _backs_up(services: Services) -> bool:
    return services.backup is not None


SECRET_KEYS = (
    SecretKey("vspherePassword", "the vCenter user's password", lambda _: True),
    SecretKey(
        "dnsToken",
        "Cloudflare's API token, the TSIG key of rfc2136, or Route 53's secret access key",
        _uses_acme,
    ),
    SecretKey("dnsAccessKey", "the id of Route 53's access key", _proves_by_route53),
    SecretKey("traefikDashboardPassword", "the dashboard's password", _serves_dashboard),
    SecretKey("argocdRedisPassword", "what Argo CD's parts show to its Redis", _has_argocd),
    SecretKey(
        "githubWebhookSecret", "what GitHub signs its webhook calls with", _is_called_by("github")
    ),
    SecretKey(
        "gitlabWebhookSecret", "what GitLab shows in its webhook calls", _is_called_by("gitlab")
    ),
    SecretKey(
        "giteaWebhookSecret",
        "what Gitea or Forgejo signs its webhook calls with",
        _is_called_by("gitea"),
    ),
    SecretKey("githubClientSecret", "the GitHub OAuth application's secret", _logs_in_by("github")),
    SecretKey("gitlabClientSecret", "the GitLab application's secret", _logs_in_by("gitlab")),
    SecretKey("giteaClientSecret", "the Gitea OAuth2 application's secret", _logs_in_by("gitea")),
    SecretKey("oidcClientSecret", "the OpenID Connect client's secret", _logs_in_by("oidc")),
    SecretKey(
        "argocdRepositoryKey",
        "what reads the Git repository: the private key of the App or of SSH, or the token",
        _reads_private_repository,
    ),
    SecretKey("backupAccessKey", "the S3 access key's id", _backs_up),
    SecretKey("backupSecretKey", "the S3 access key's secret", _backs_up),
)
SECRET_NAMES = frozenset(key.name for key in SECRET_KEYS)


def needed(services: Services) -> tuple[SecretKey, ...]:
    """Give the secrets that these services need, in the order of the table."""
    return tuple(key for key in SECRET_KEYS if key.needed(services))
