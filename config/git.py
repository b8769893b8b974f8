"""Configuration: whether the repository, its key, its webhook and the login fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from config.problems import Path, Problem, problem
from config.values import split_git_url, split_url

if TYPE_CHECKING:
    from config.settings import ArgoCD
    from config.values import Url

ARGOCD: Path = ("services", "argocd")
SSH_PORT, HTTPS_PORT = 22, 443
GITHUB = "github.com"
"""Its API has a host of its own, unlike that of an Enterprise Server."""
GITHUB_API = "https://api.github.com"
LOGINS = ("github", "gitlab", "gitea", "oidc")
KNOWN_HOSTS = {
    "github.com": "github",
    "gitlab.com": "gitlab",
    "gitea.com": "gitea",
    "codeberg.org": "gitea",
}
"""What serves the repositories of the hosts that everybody knows."""
CHART_HOSTS = frozenset(
    {"github.com", "gitlab.com", "bitbucket.org", "ssh.dev.azure.com", "vs-ssh.visualstudio.com"}
)
"""Hosts whose keys the chart brings, for port 22 (argo-cd, configs.ssh.knownHosts)."""


def port(url: str) -> int:
    """Give the port that a repository is read from."""
    found = split_git_url(url)
    if found is None:
        message = "not the URL of a Git repository"
        raise ValueError(message)
    return found.port or (SSH_PORT if found.scheme == "ssh" else HTTPS_PORT)


def known_host(url: str) -> str:
    """Name a repository's SSH server as a file of known hosts does: `[HOST]:PORT` if not 22."""
    found = split_git_url(url)
    host = found.host if found is not None else ""
    return host if port(url) == SSH_PORT else f"[{host}]:{port(url)}"


def is_company_signed(argocd: ArgoCD) -> bool:
    """Say whether an authority of the company signed the certificate of the repository's host."""
    return argocd.repository_authority == "company"


def authority_problems(argocd: ArgoCD, *, company: bool) -> Iterator[Problem]:
    """Find who signed the repository's host; `company` says whether site.trustedRoots are set.

    Git trusts one bundle for a host: that of the settings in place of the public ones, never both.
    """
    url, path = split_git_url(argocd.repository_url), (*ARGOCD, "repositoryAuthority")
    given = argocd.repository_authority
    if url is None:
        return
    if given == "company" and not company:
        yield problem(path, given, "without site.trustedRoots", "give them, or remove this key")
    elif given is not None and url.scheme == "ssh":
        fix = "remove it: `hostKeys` say which server it is"
        yield problem(path, given, "for an SSH URL, which uses no certificate", fix)
    elif given is None and company and url.scheme == "https" and url.host not in KNOWN_HOSTS:
        fault = f"missing, with site.trustedRoots: who signed the certificate of {url.host}"
        yield problem(path, None, fault, "write `repositoryAuthority: company`, or `public`")


def problems(argocd: ArgoCD) -> Iterator[Problem]:
    """Find what does not fit."""
    url = split_git_url(argocd.repository_url)
    if url is None:
        return
    yield from _access(argocd, url)
    yield from _git_host(argocd, url)
    yield from _commit_statuses(argocd, url)
    yield from _login(argocd)


def _access(argocd: ArgoCD, url: Url) -> Iterator[Problem]:
    access, path = argocd.repository_access, (*ARGOCD, "repositoryAccess")
    kind = None if access is None else access.kind
    if url.scheme == "ssh" and access is None:
        yield problem(
            (*ARGOCD, "repositoryUrl"),
            argocd.repository_url,
            "an SSH URL, which needs a key to read anything",
            "add `repositoryAccess: { kind: deployKey, hostKeys: [...] }`, or write an https URL",
        )
    elif (url.scheme == "ssh") != (kind == "deployKey") and access is not None:
        ways = "an https URL" if kind == "deployKey" else "an SSH URL"
        fix = "write repositoryUrl as in ssh://git@HOST/PATH.git, or use kind token"
        if kind != "deployKey":
            fix = "write repositoryUrl as in https://HOST/PATH, or use kind deployKey"
        yield problem((*path, "kind"), kind, f"does not go with {ways}", fix)
    elif access is not None and kind == "deployKey" and not access.host_keys and not known(url):
        yield problem(
            (*path, "hostKeys"),
            None,
            f"missing: Argo CD knows no key of {known_host(argocd.repository_url)}, and reads "
            "from no server that it cannot tell from another",
            f"add what `ssh-keyscan -p {port(argocd.repository_url)} {url.host}` prints behind "
            "the host, after comparing it with what the server's people say",
        )
    if kind == "githubApp" and argocd.git_host != "github":
        yield problem(
            (*path, "kind"),
            kind,
            f"a key of GitHub's, where services.argocd.gitHost is {argocd.git_host}",
            "use kind token or deployKey",
        )


def known(url: Url) -> bool:
    """Say whether the chart brings the keys of a repository's SSH server."""
    return url.host in CHART_HOSTS and url.port in (None, SSH_PORT)


def _git_host(argocd: ArgoCD, url: Url) -> Iterator[Problem]:
    """Refuse a Git host of another kind: its webhook's calls would be refused, silently."""
    kind = KNOWN_HOSTS.get(url.host)
    for login, where in (("gitlab", argocd.gitlab), ("gitea", argocd.gitea)):
        there = None if where is None else split_url(where.url)
        if there is not None and there.host == url.host:
            kind = login
    if argocd.github is not None and argocd.github.host_name == url.host:
        kind = "github"
    if kind is not None and argocd.git_host not in (kind, "other"):
        yield problem(
            (*ARGOCD, "gitHost"),
            argocd.git_host,
            f"{url.host} is {kind}: Argo CD would refuse the calls of its webhook",
            f"write `gitHost: {kind}`",
        )


def status_api(argocd: ArgoCD) -> str | None:
    """Give the URL of the API that takes statuses of commits; None where nothing sets any."""
    statuses, repository = argocd.commit_statuses, split_git_url(argocd.repository_url)
    if statuses is None or repository is None:
        return None
    host = f"https://{repository.host}"
    if repository.scheme == "https" and repository.port is not None:
        host += f":{repository.port}"
    host = host if statuses.url is None else statuses.url.rstrip("/")
    if argocd.git_host == "gitlab":
        # A project's id may be its path, with each slash encoded (GitLab's page "REST API").
        project = repository.path.strip("/").removesuffix(".git").replace("/", "%2F")
        return f"{host}/api/v4/projects/{project}"
    return GITHUB_API if host == f"https://{GITHUB}" else f"{host}/api/v3"


def _commit_statuses(argocd: ArgoCD, url: Url) -> Iterator[Problem]:
    """Find statuses that no host takes, or that Argo CD has not all to set."""
    statuses, path = argocd.commit_statuses, (*ARGOCD, "commitStatuses")
    if statuses is None:
        return
    given = {"appId": statuses.app_id, "installationId": statuses.installation_id}
    if argocd.git_host not in ("github", "gitlab"):
        yield problem(
            path,
            None,
            f"Argo CD sets no statuses where services.argocd.gitHost is {argocd.git_host}",
            "remove it",
        )
        return
    for key, value in given.items():
        if argocd.git_host == "github" and value is None:
            fix = f"give the {key} of a GitHub App that may write commit statuses"
            yield problem((*path, key), None, "missing: GitHub takes them from an App", fix)
        elif argocd.git_host == "gitlab" and value is not None:
            yield problem(
                (*path, key), value, "a key of GitHub's, where gitHost is gitlab", "remove it"
            )
    if statuses.url is not None and url.host in KNOWN_HOSTS:
        yield problem((*path, "url"), statuses.url, f"the repository is at {url.host}", "remove it")


def login_servers(argocd: ArgoCD) -> Iterator[tuple[str, str | None, Path]]:
    """Give where people log in: what it is, its host or URL (None for github.com), its key."""
    if argocd.github is not None:
        yield "GitHub server", argocd.github.host_name, (*ARGOCD, "github", "hostName")
    if argocd.gitlab is not None:
        yield "GitLab server", argocd.gitlab.url, (*ARGOCD, "gitlab", "url")
    if argocd.gitea is not None:
        yield "Gitea server", argocd.gitea.url, (*ARGOCD, "gitea", "url")
    if argocd.oidc is not None:
        yield "OpenID Connect provider", argocd.oidc.issuer, (*ARGOCD, "oidc", "issuer")


def _login(argocd: ArgoCD) -> Iterator[Problem]:
    given = [name for name in LOGINS if getattr(argocd, name) is not None]
    for name in given[1:]:
        yield problem(
            (*ARGOCD, name),
            None,
            f"a second login beside `{given[0]}`: both may have a group of the same name, with "
            "different people in it",
            "keep one of the two",
        )
    github = argocd.github
    if github is not None and github.host_name == "github.com":
        yield problem(
            (*ARGOCD, "github", "hostName"),
            github.host_name,
            "not a GitHub Enterprise Server",
            "remove it",
        )
