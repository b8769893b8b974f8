"""GitOps: how people log in to Argo CD, as its Dex is told of it, and what their groups may do.

The connectors are Dex' own (dexidp.io, "Connectors"); each secret is in the Secret argocd-sso.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import ArgoCD


@dataclass(frozen=True)
class SignOn:
    """A login: its key in the settings, Dex' connector, and the role of each group by its name."""

    kind: str
    connector: dict[str, Any]
    roles: dict[str, str]


def sign_on(argocd: ArgoCD) -> SignOn | None:
    """Give the login of the settings; None when there is none."""
    config: dict[str, Any]
    if (github := argocd.github) is not None:
        teams = _roles(github.admin_teams, github.viewer_teams)
        own = {} if github.host_name is None else {"hostName": github.host_name}
        config = own | {
            "orgs": [{"name": github.organization, "teams": sorted(teams)}],
            "teamNameField": "slug",
        }
        roles = {f"{github.organization}:{team}": role for team, role in teams.items()}
        return _login("github", "GitHub", github.client_id, config, roles)
    if (gitlab := argocd.gitlab) is not None:
        roles = _roles(gitlab.admin_groups, gitlab.viewer_groups)
        config = {"baseURL": gitlab.url.rstrip("/"), "groups": sorted(roles)}
        return _login("gitlab", "GitLab", gitlab.client_id, config, roles)
    if (gitea := argocd.gitea) is not None:
        teams = _roles(gitea.admin_teams, gitea.viewer_teams)
        config = {
            "baseURL": gitea.url.rstrip("/"),
            "orgs": [{"name": gitea.organization, "teams": sorted(teams)}],
        }
        roles = {f"{gitea.organization}:{team}": role for team, role in teams.items()}
        return _login("gitea", "Gitea", gitea.client_id, config, roles)
    if (oidc := argocd.oidc) is not None:
        roles = _roles(oidc.admin_groups, oidc.viewer_groups)
        config = {
            "issuer": oidc.issuer,
            "scopes": ["profile", "email", "groups"],
            # Groups that a provider tells are dropped without it.
            "insecureEnableGroups": True,
        }
        return _login("oidc", oidc.name, oidc.client_id, config, roles)
    return None


def _roles(admins: Iterable[str], viewers: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(viewers, "role:readonly") | dict.fromkeys(admins, "role:admin")


def _login(
    kind: str, name: str, client: str, config: dict[str, Any], roles: dict[str, str]
) -> SignOn:
    secret = f"$argocd-sso:dex.{kind}.clientSecret"
    common = {"clientID": client, "clientSecret": secret}
    connector = {"type": kind, "id": kind, "name": name, "config": common | config}
    return SignOn(kind, connector, roles)
