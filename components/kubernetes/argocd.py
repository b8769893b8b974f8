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

from components.gitops.commit_statuses import KEY as COMMIT_STATUS_KEY
from components.gitops.generated import BASE_VALUES, REPOSITORY, VALUES
from components.gitops.login import sign_on
from components.kubernetes import outside
from components.kubernetes.argocd_network import policies
from components.kubernetes.guardrails import ROUTE_PRIORITY
from components.kubernetes.isolated_namespace import IsolatedNamespace
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.release import install
from components.kubernetes.traefik import ROUTE_API
from config import plain_yaml
from config.charts import ChartPlan, Values

if TYPE_CHECKING:
    from config.settings import ArgoCD as ArgoCDSettings
    from config.settings import RepositoryAccess
    from config.way_out import WayOut

ROOT = Path(__file__).parents[2]
NAMESPACE = "argocd"
SERVER = "argo-cd-argocd-server"
"""The Service of the web interface and the API, as the chart names it."""
GITHUB = "github.com"


class Secrets(NamedTuple):
    """Secrets of the stack that Argo CD is told; those that its settings do not need are None."""

    redis: pulumi.Output[str]
    """What its parts show to Redis."""
    webhook: pulumi.Output[str] | None = None
    """What the Git host signs its calls with."""
    login: pulumi.Output[str] | None = None
    """What shows the single sign-on's server who asks."""
    repository: pulumi.Output[str] | None = None
    """What reads a private repository."""
    commit_status: pulumi.Output[str] | None = None
    """What sets statuses of commits at the Git host."""


WEBHOOKS = {
    "github": "webhook.github.secret",
    "gitlab": "webhook.gitlab.secret",
    # Gitea and Forgejo sign and name their calls as Gogs does, which is what Argo CD knows.
    "gitea": "webhook.gogs.secret",
}
"""Where Argo CD looks for what a Git host signs its calls with."""
PART_OF = {"app.kubernetes.io/part-of": "argocd"}
"""Argo CD reads only Secrets with this label."""
HANDED_OVER = ("*",)
"""Nothing of the release is Pulumi's after its installation: any input that changed, a timeout too,
would make Helm put its first values over those that Argo CD has synced since."""


def plan(argocd: ArgoCDSettings, folder: str, root: Path = ROOT) -> ChartPlan:
    """Plan the chart, with the values that Argo CD will read in the cluster's folder."""
    values = merged(_read(root / BASE_VALUES), _read(root / folder / VALUES))
    return ChartPlan("argo-cd", argocd.repository or REPOSITORY, argocd.version, NAMESPACE, values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Lay values over others as Helm does: mappings key by key, all else as a whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def _read(path: Path) -> Values:
    values: Values = plain_yaml.read(path.read_text(encoding="utf-8"))
    return values


class ArgoCD(pulumi.ComponentResource):
    """GitOps, handed over to itself."""

    def __init__(  # noqa: PLR0913 its chart, its secrets, and what it reads first
        self,
        name: str,
        argocd: ArgoCDSettings,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        *,
        root: Mapping[str, Any],
        way: WayOut,
        secrets: Secrets,
        entrance: pulumi.Resource,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, let people in, and give it the root Application (gitops/root.py).

        People come through `entrance`, and so do those who use what it installs.
        """
        super().__init__("platform:kubernetes:ArgoCD", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        for policy in policies(argocd, way):
            namespace.allow(policy.name, policy.pods, ingress=policy.ingress, egress=policy.egress)
        told = [*_secrets(namespace, argocd, secrets), *outside.authorities(way, namespace)]
        before = namespace.options(*told)
        release = install(chart, kubeconfig, before, ignore_changes=HANDED_OVER)
        after = namespace.options(release, entrance)
        _route(argocd.domain, after)
        KubernetesObject(
            root["apiVersion"],
            root["kind"],
            "root-application",
            metadata=root["metadata"],
            spec=root["spec"],
            opts=after,
        )
        self.register_outputs(
            {
                "namespace": NAMESPACE,
                "version": chart.version,
                "address": f"https://{argocd.domain}",
            }
        )


def _secrets(
    namespace: IsolatedNamespace, argocd: ArgoCDSettings, secrets: Secrets
) -> list[KubernetesObject]:
    """Make what Argo CD is told and cannot read from Git."""
    redis = namespace.secret("argocd-redis", {"auth": secrets.redis})
    # Argo CD adds keys of its own, such as the one that signs sessions; they are not declared here,
    # so no preview sees them and no update takes them away.
    called = {} if secrets.webhook is None else {WEBHOOKS[argocd.git_host]: secrets.webhook}
    own = namespace.secret(
        "argocd-secret",
        called,
        labels={"app.kubernetes.io/name": "argocd-secret", **PART_OF},
    )
    # Empty until somebody is to be told: docs/gitops.md, "Commit statuses".
    keys = {} if secrets.commit_status is None else {COMMIT_STATUS_KEY: secrets.commit_status}
    told = namespace.secret("argocd-notifications-secret", keys)
    made = [redis, own, told]
    if (login := sign_on(argocd)) is not None and secrets.login is not None:
        texts = {f"dex.{login.kind}.clientSecret": secrets.login}
        made.append(namespace.secret("argocd-sso", texts, labels=PART_OF))
    if argocd.repository_access is not None and secrets.repository is not None:
        made.append(
            namespace.secret(
                "argocd-repository",
                _repository(argocd.repository_url, argocd.repository_access, secrets.repository),
                labels={"argocd.argoproj.io/secret-type": "repository", **PART_OF},
            )
        )
    return made


def _repository(
    url: str, access: RepositoryAccess, key: pulumi.Output[str]
) -> dict[str, pulumi.Input[str]]:
    """Give what Argo CD asks of a repository's Secret (its page "Declarative Setup")."""
    texts: dict[str, pulumi.Input[str]] = {"type": "git", "url": url}
    if access.kind == "token":
        return texts | {"username": access.user or "", "password": key}
    if access.kind == "deployKey":
        return texts | {"sshPrivateKey": key}
    host = urlsplit(url).netloc
    if host != GITHUB:
        texts["githubAppEnterpriseBaseUrl"] = f"https://{host}/api/v3"
    return texts | {
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
    KubernetesObject(
        ROUTE_API,
        "IngressRoute",
        "argocd-route",
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
