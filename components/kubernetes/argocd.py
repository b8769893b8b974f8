"""Layer Argo CD: GitOps. Pulumi installs it once; from then on it keeps itself, from Git.

Who owns what is in docs/ownership.md. The namespace, its policies, its Secrets, the route to it and
the root Application stay Pulumi's; the release is handed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as kubernetes

from components.gitops.generated import BASE_VALUES, VALUES, folder
from components.gitops.root import root_application
from components.kubernetes.argocd_network import login_ports, policies
from components.kubernetes.guardrails import ROUTE_PRIORITY
from components.kubernetes.isolated_namespace import IsolatedNamespace
from components.kubernetes.release import install
from components.stack_settings import require_secret
from config import git, plain_yaml
from config.charts import ChartPlan, Values

if TYPE_CHECKING:
    from config.settings import ArgoCD as ArgoCDSettings
    from config.settings import RepositoryAccess, Settings

ROOT = Path(__file__).parents[2]
NAMESPACE = "argocd"
REPOSITORY = "https://argoproj.github.io/argo-helm"
SERVER = "argo-cd-argocd-server"
"""The Service of the web interface and the API, as the chart names it."""
GITHUB = "github.com"


class Webhook(NamedTuple):
    """Where Argo CD looks for what a Git host signs its calls with, and the stack's secret."""

    key: str
    secret: str


WEBHOOKS = {
    "github": Webhook("webhook.github.secret", "githubWebhookSecret"),
    "gitlab": Webhook("webhook.gitlab.secret", "gitlabWebhookSecret"),
    # Gitea and Forgejo sign and name their calls as Gogs does, which is what Argo CD knows.
    "gitea": Webhook("webhook.gogs.secret", "giteaWebhookSecret"),
}
PART_OF = {"app.kubernetes.io/part-of": "argocd"}
"""Argo CD reads only Secrets with this label."""
HANDED_OVER = ("*",)
"""Nothing of the release is Pulumi's after its installation: any input that changed, a timeout too,
would make Helm put its first values over those that Argo CD has synced since."""


def plan(settings: Settings, root: Path = ROOT) -> ChartPlan | None:
    """Plan the chart, with the values that Argo CD will read; None when Argo CD is not set."""
    argocd = settings.services.argocd
    if argocd is None:
        return None
    values = merged(_read(root / BASE_VALUES), _read(root / folder(settings) / VALUES))
    return ChartPlan("argo-cd", REPOSITORY, argocd.version, NAMESPACE, values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Lay values over others as Helm does: mappings key by key, all else as a whole."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found


def _read(path: Path) -> Values:
    values: Values = plain_yaml.read(path.read_text(encoding="utf-8"))
    return values


class ArgoCD(pulumi.ComponentResource):
    """GitOps, handed over to itself."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        kubeconfig: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, let people in, and give it the repository."""
        super().__init__("platform:kubernetes:ArgoCD", name, None, opts)
        chart, argocd = plan(settings), settings.services.argocd
        if chart is None or argocd is None:
            message = "services.argocd is not set"
            raise ValueError(message)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        for one in policies(git.port(argocd.repository_url), login_ports(argocd)):
            namespace.allow(one.name, one.pods, ingress=one.ingress, egress=one.egress)
        secrets = _secrets(namespace, argocd)
        release = install(
            chart, kubeconfig, namespace.options(*secrets), ignore_changes=HANDED_OVER
        )
        after = namespace.options(release)
        _route(argocd.domain, after)
        root = root_application(settings, ROOT)
        kubernetes.apiextensions.CustomResource(
            "root-application",
            api_version=root["apiVersion"],
            kind=root["kind"],
            metadata=root["metadata"],
            spec=root["spec"],
            opts=after,
        )
        self.register_outputs({})


def _secrets(
    namespace: IsolatedNamespace, argocd: ArgoCDSettings
) -> list[kubernetes.core.v1.Secret]:
    """Make what Argo CD is told and cannot read from Git."""
    redis = namespace.secret("argocd-redis", {"auth": require_secret("argocdRedisPassword")})
    # Argo CD adds keys of its own, such as the one that signs sessions; they are not declared here,
    # so no preview sees them and no update takes them away.
    called = WEBHOOKS.get(argocd.git_host)
    own = namespace.secret(
        "argocd-secret",
        {} if called is None else {called.key: require_secret(called.secret)},
        labels={"app.kubernetes.io/name": "argocd-secret", **PART_OF},
    )
    # Empty until somebody is to be told: docs/gitops.md, "Notifications".
    told = namespace.secret("argocd-notifications-secret", {})
    found = [redis, own, told]
    for login in git.LOGINS:
        if getattr(argocd, login) is not None:
            sign_on = {f"dex.{login}.clientSecret": require_secret(f"{login}ClientSecret")}
            found.append(namespace.secret("argocd-sso", sign_on, labels=PART_OF))
    if argocd.repository_access is not None:
        found.append(
            namespace.secret(
                "argocd-repository",
                _repository(argocd, argocd.repository_access),
                labels={"argocd.argoproj.io/secret-type": "repository", **PART_OF},
            )
        )
    return found


def _repository(argocd: ArgoCDSettings, access: RepositoryAccess) -> dict[str, pulumi.Input[str]]:
    """Give what Argo CD asks of a repository's Secret (its page "Declarative Setup")."""
    key = require_secret("argocdRepositoryKey")
    found: dict[str, pulumi.Input[str]] = {"type": "git", "url": argocd.repository_url}
    if access.kind == "token":
        return found | {"username": access.user or "", "password": key}
    if access.kind == "deployKey":
        return found | {"sshPrivateKey": key}
    host = urlsplit(argocd.repository_url).netloc
    if host != GITHUB:
        found["githubAppEnterpriseBaseUrl"] = f"https://{host}/api/v3"
    return found | {
        "githubAppID": str(access.app_id),
        "githubAppInstallationID": str(access.installation_id),
        "githubAppPrivateKey": key,
    }


def _route(domain: str, opts: pulumi.ResourceOptions) -> None:
    """Serve the web interface, the API, the Git host's webhook and the command line's gRPC.

    The certificate is Traefik's default one, the platform's own.
    """
    host = f"Host(`{domain}`)"
    service = {"name": SERVER, "port": 80}
    grpc = f"{host} && Header(`Content-Type`, `application/grpc`)"
    kubernetes.apiextensions.CustomResource(
        "argocd-route",
        api_version="traefik.io/v1alpha1",
        kind="IngressRoute",
        metadata={"name": "argocd", "namespace": NAMESPACE},
        spec={
            "entryPoints": ["websecure"],
            "routes": [
                {"kind": "Rule", "match": host, "priority": ROUTE_PRIORITY, "services": [service]},
                {
                    "kind": "Rule",
                    "match": grpc,
                    "priority": ROUTE_PRIORITY + 1,
                    "services": [{**service, "scheme": "h2c"}],
                },
            ],
            "tls": {},
        },
        opts=opts,
    )
