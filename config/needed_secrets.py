"""Configuration: which of the stack's secrets some services need."""

from __future__ import annotations

from collections.abc import Callable

from config.secret_keys import SECRET_KEYS, SecretKey
from config.settings import Omni, Services, Talos


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


def _tells_of_commits(services: Services) -> bool:
    return services.argocd is not None and services.argocd.commit_statuses is not None


def _backs_up(services: Services) -> bool:
    return services.backup is not None


def _tells(receiver: str) -> Callable[[Services], bool]:
    def needs(services: Services) -> bool:
        monitoring = services.monitoring
        return monitoring is not None and getattr(monitoring.receivers, receiver) is not None

    return needs


def _has_heartbeat(services: Services) -> bool:
    return services.monitoring is not None and services.monitoring.heartbeat


NEEDED: dict[str, Callable[[Services], bool]] = {
    "vspherePassword": lambda _: True,
    "dnsToken": _uses_acme,
    "dnsAccessKey": _proves_by_route53,
    "traefikDashboardPassword": _serves_dashboard,
    "argocdRedisPassword": _has_argocd,
    "githubWebhookSecret": _is_called_by("github"),
    "gitlabWebhookSecret": _is_called_by("gitlab"),
    "giteaWebhookSecret": _is_called_by("gitea"),
    "githubClientSecret": _logs_in_by("github"),
    "gitlabClientSecret": _logs_in_by("gitlab"),
    "giteaClientSecret": _logs_in_by("gitea"),
    "oidcClientSecret": _logs_in_by("oidc"),
    "argocdRepositoryKey": _reads_private_repository,
    "commitStatusKey": _tells_of_commits,
    "alertWebhookUrl": _tells("webhook"),
    "alertSlackUrl": _tells("slack"),
    "alertMailPassword": _tells("email"),
    "alertPagerDutyKey": _tells("pager_duty"),
    "heartbeatUrl": _has_heartbeat,
    "backupAccessKey": _backs_up,
    "backupSecretKey": _backs_up,
}
"""Of each secret, by its name, whether some services need it."""
REGISTRY_PASSWORD = "registryPassword"  # noqa: S105 a name
OF_OMNI = ("omniServiceAccountKey", "omniJoinToken")


def needed(
    services: Services, talos: Talos | None = None, omni: Omni | None = None
) -> tuple[SecretKey, ...]:
    """Give the secrets that these services, machines and Omni need, in the order of the table."""
    of_machines = {
        REGISTRY_PASSWORD: talos is not None and talos.registry_login is not None,
        **dict.fromkeys(OF_OMNI, omni is not None),
    }
    return tuple(
        key
        for key in SECRET_KEYS
        if (of_machines[key.name] if key.name in of_machines else NEEDED[key.name](services))
    )
