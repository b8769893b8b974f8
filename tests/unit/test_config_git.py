"""The repository, its key, its webhook and the login: what goes together, and what is refused."""

from __future__ import annotations

import base64
from copy import deepcopy
from typing import Any

import pytest

from components.gitops.generated import files
from config import SettingsError, git, parse, plain_yaml
from config.needed_secrets import needed
from config.values import split_git_url
from tests.unit.recorder import production

GITLAB = {"url": "https://gitlab.example.com", "clientId": "x", "adminGroups": ["ops/platform"]}
GITEA = {
    "url": "https://git.example.com",
    "clientId": "x",
    "organization": "ops",
    "adminTeams": ["platform"],
    "viewerTeams": ["all"],
}
SSH = "ssh://git@git.example.com:2222/ops/platform.git"


def host_key(kind: str = "ssh-ed25519", size: int = 36) -> str:
    """Make the public key of a server that does not exist."""
    text = len(kind).to_bytes(4, "big") + kind.encode() + bytes(size)
    return f"{kind} {base64.b64encode(text).decode()}"


DEPLOY_KEY = {"kind": "deployKey", "hostKeys": [host_key()]}


def settings(**argocd: Any) -> dict[str, Any]:
    raw = deepcopy(production())
    del raw["services"]["argocd"]["commitStatuses"]  # no host but GitHub takes them as they are
    raw["services"]["argocd"] |= argocd
    return raw


def values(**argocd: Any) -> dict[str, Any]:
    made, *_ = files(parse(settings(**argocd)))
    return made.tree


def told(**argocd: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(settings(**argocd))
    return [str(one) for one in caught.value.problems]


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("https://git.example.com/a/b", "https", "git.example.com", 443),
        ("https://git.example.com:8443/a/b.git", "https", "git.example.com", 8443),
        ("ssh://git@git.example.com/a/b.git", "ssh", "git.example.com", 22),
        (SSH, "ssh", "git.example.com", 2222),
        ("git@172.16.20.9:a/b.git", "ssh", "172.16.20.9", 22),
        ("ssh://jane.doe@gerrit.example.com:29418/a", "ssh", "gerrit.example.com", 29418),
        ("APKAEXAMPLE@git.example.com:v1/repos/a", "ssh", "git.example.com", 22),
        ("https://dev.azure.com/org/My%20Project/_git/a", "https", "dev.azure.com", 443),
    ],
)
def test_a_repositorys_url_is_read_as_git_reads_it(
    url: str, scheme: str, host: str, port: int
) -> None:
    found = split_git_url(url)
    assert found is not None
    assert (found.scheme, found.host, git.port(url)) == (scheme, host, port)


@pytest.mark.parametrize(
    "url",
    [
        "http://git.example.com/a",
        "git://git.example.com/a",
        "ssh://git.example.com/a",
        "ssh://git:word@git.example.com/a",
        "ssh://-oProxyCommand=id@git.example.com/a",
        "ssh://git@-oProxyCommand=id/a",
        "git@-oProxyCommand:a",
        "git@git.example.com:2222/a",
        "git@git.example.com:../a",
        "git@git.example.com:",
        "git@git.example.com:a b",
        "git@git.example.com:a;id",
        "https://git.example.com/a/%2e%2e/b",
        "https://git.example.com/a%2Fb",
        "https://git.example.com/a%0ab",
        "https://git.example.com/a%7f",
        "https://git.example.com/a%2",
        "ssh://git@git.example.com",
        "ssh://git@git.example.com:0/a",
        "https://git.example.com",
    ],
)
def test_no_other_url_reaches_git(url: str) -> None:
    assert any("platform:services.argocd.repositoryUrl" in one for one in told(repositoryUrl=url))


def test_a_servers_keys_reach_argo_cd_under_the_name_that_ssh_looks_for() -> None:
    assert "ssh" not in values()["configs"]
    found = values(repositoryUrl=SSH, repositoryAccess=DEPLOY_KEY)["configs"]["ssh"]
    assert found == {"extraHosts": f"[git.example.com]:2222 {host_key()}\n"}
    url = "git@git.example.com:ops/platform.git"
    found = values(repositoryUrl=url, repositoryAccess=DEPLOY_KEY)["configs"]["ssh"]
    assert found == {"extraHosts": f"git.example.com {host_key()}\n"}


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_a_server_may_have_a_key_of_each_usual_kind(kind: str) -> None:
    access = {"kind": "deployKey", "hostKeys": [host_key(kind, 300)]}
    assert (
        kind in values(repositoryUrl=SSH, repositoryAccess=access)["configs"]["ssh"]["extraHosts"]
    )


@pytest.mark.parametrize(
    "key",
    [
        "ssh-ed25519",
        "ssh-ed25519 x",
        host_key().replace("ssh-ed25519", "ssh-rsa"),
        "git.example.com " + host_key(),
        host_key() + " root@git",
        host_key("ssh-dss", 300),
        host_key(size=4),
    ],
)
def test_what_is_no_servers_key_is_refused(key: str) -> None:
    access = {"kind": "deployKey", "hostKeys": [key]}
    (problem,) = told(repositoryUrl=SSH, repositoryAccess=access)
    assert problem.startswith("platform:services.argocd.repositoryAccess.hostKeys[0]")
    assert "ssh-keyscan" in problem


@pytest.mark.parametrize(
    ("argocd", "key", "words"),
    [
        ({"repositoryUrl": SSH}, "repositoryUrl", "kind: deployKey"),
        (
            {"repositoryUrl": SSH, "repositoryAccess": {"kind": "token", "user": "x"}},
            "repositoryAccess.kind",
            "https://HOST/PATH",
        ),
        ({"repositoryAccess": DEPLOY_KEY}, "repositoryAccess.kind", "ssh://git@HOST/PATH"),
        (
            {"repositoryUrl": SSH, "repositoryAccess": {"kind": "deployKey"}},
            "repositoryAccess.hostKeys",
            "ssh-keyscan -p 2222 git.example.com",
        ),
        (
            {
                "repositoryUrl": "https://git.example.com/ops/platform",
                "gitHost": "gitlab",
                "repositoryAccess": {"kind": "githubApp", "appId": 1, "installationId": 2},
            },
            "repositoryAccess.kind",
            "use kind token or deployKey",
        ),
        ({"repositoryUrl": "https://gitlab.com/a/b"}, "gitHost", "write `gitHost: gitlab`"),
        ({"gitHost": "gitea"}, "gitHost", "write `gitHost: github`"),
        (
            {
                "github": None,
                "gitea": GITEA,
                "repositoryUrl": "https://git.example.com:3000/ops/platform",
            },
            "gitHost",
            "write `gitHost: gitea`",
        ),
        ({"gitlab": GITLAB}, "gitlab", "a second login beside `github`"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_key_and_the_fix(
    argocd: dict[str, Any], key: str, words: str
) -> None:
    (problem,) = told(**argocd)
    assert problem.startswith(f"platform:services.argocd.{key}")
    assert words in problem


def connector(**argocd: Any) -> tuple[dict[str, Any], str]:
    configs = values(**argocd)["configs"]
    (found,) = plain_yaml.read(configs["cm"]["dex.config"])["connectors"]
    return found, configs["rbac"]["policy.csv"]


def test_people_log_in_by_gitlab_with_their_groups_paths() -> None:
    found, roles = connector(
        github=None, gitlab=GITLAB | {"viewerGroups": ["ops"]}, gitHost="other"
    )
    assert found["type"] == "gitlab"
    assert found["config"] == {
        "clientID": "x",
        "clientSecret": "$argocd-sso:dex.gitlab.clientSecret",
        "baseURL": "https://gitlab.example.com",
        "groups": ["ops", "ops/platform"],
    }
    assert roles == "g, ops, role:readonly\ng, ops/platform, role:admin\n"


def test_people_log_in_by_gitea_with_their_teams() -> None:
    found, roles = connector(github=None, gitea=GITEA)
    assert (found["type"], found["config"]["baseURL"]) == ("gitea", "https://git.example.com")
    assert found["config"]["orgs"] == [{"name": "ops", "teams": ["all", "platform"]}]
    assert roles == "g, ops:all, role:readonly\ng, ops:platform, role:admin\n"


def test_people_log_in_by_any_provider_that_tells_their_groups() -> None:
    oidc = {
        "name": "Company",
        "issuer": "https://login.example.com/realms/x",
        "clientId": "x",
        "adminGroups": ["Platform admins"],
    }
    found, roles = connector(github=None, oidc=oidc)
    assert (found["type"], found["name"]) == ("oidc", "Company")
    assert found["config"]["issuer"] == "https://login.example.com/realms/x"
    assert found["config"]["insecureEnableGroups"] is True
    assert "groups" in found["config"]["scopes"]
    assert roles == "g, Platform admins, role:admin\n"


def test_github_enterprise_is_a_host_of_its_own() -> None:
    github = production()["services"]["argocd"]["github"] | {"hostName": "github.example.internal"}
    found, _ = connector(github=github)
    assert found["config"]["hostName"] == "github.example.internal"
    (problem,) = told(github=github | {"hostName": "github.com"})
    assert problem.startswith("platform:services.argocd.github.hostName")


@pytest.mark.parametrize(
    ("argocd", "wanted"),
    [
        ({"github": None, "gitlab": GITLAB, "gitHost": "gitlab"}, ["Webhook", "Client"]),
        ({"github": None, "gitea": GITEA, "gitHost": "gitea"}, ["Webhook", "Client"]),
        ({"github": None, "gitHost": "other"}, []),
    ],
)
def test_only_the_secrets_of_the_own_kind_are_asked_for(
    argocd: dict[str, Any], wanted: list[str]
) -> None:
    url = "https://code.example.com/ops/platform"
    names = [one.name for one in needed(parse(settings(repositoryUrl=url, **argocd)).services)]
    found = [one for one in names if one.startswith(("github", "gitlab", "gitea", "oidc"))]
    assert found == [f"{argocd['gitHost']}{one}Secret" for one in wanted]


def test_a_login_server_is_in_the_address_plan() -> None:
    (problem,) = told(
        github=None, gitlab=GITLAB | {"url": "https://172.16.20.250"}, gitHost="other"
    )
    assert "172.16.20.250" in problem
    assert "platform:services.argocd.gitlab.url" in problem


# --- Statuses of commits -----------------------------------------------------------------------

APP = {"appId": 12, "installationId": 34}
STATUSES = "platform:services.argocd.commitStatuses"


@pytest.mark.parametrize(
    ("argocd", "api"),
    [
        ({"commitStatuses": APP}, "https://api.github.com"),
        (
            {
                "repositoryUrl": "git@github.com:ops/platform.git",
                "repositoryAccess": {"kind": "deployKey"},
                "commitStatuses": APP,
            },
            "https://api.github.com",
        ),
        (
            {
                "repositoryUrl": "https://git.example.com:8443/ops/platform",
                "commitStatuses": APP,
            },
            "https://git.example.com:8443/api/v3",
        ),
        (
            {"repositoryUrl": SSH, "repositoryAccess": DEPLOY_KEY, "commitStatuses": APP},
            "https://git.example.com/api/v3",
        ),
        (
            {
                "repositoryUrl": SSH,
                "repositoryAccess": DEPLOY_KEY,
                "commitStatuses": APP | {"url": "https://git.example.com:8443/"},
            },
            "https://git.example.com:8443/api/v3",
        ),
        (
            {
                "repositoryUrl": "https://gitlab.example.com/ops/infra/platform.git",
                "gitHost": "gitlab",
                "commitStatuses": {},
            },
            "https://gitlab.example.com/api/v4/projects/ops%2Finfra%2Fplatform",
        ),
        ({}, None),
    ],
)
def test_the_api_that_takes_statuses_follows_from_the_repository(
    argocd: dict[str, Any], api: str | None
) -> None:
    found = parse(settings(**argocd)).services.argocd
    assert found is not None
    assert git.status_api(found) == api


def told_of_commits(**argocd: Any) -> dict[str, Any]:
    found: dict[str, Any] = values(**{"commitStatuses": APP} | argocd)["notifications"]
    return found


def test_github_is_told_as_an_app_whose_key_is_not_in_git() -> None:
    found = told_of_commits()
    assert plain_yaml.read(found["notifiers"]["service.github"]) == {
        "appID": 12,
        "installationID": 34,
        "privateKey": "$commit-status-key",
    }
    assert found["subscriptions"] == [{"recipients": ["github"], "triggers": ["on-commit-status"]}]
    assert found["context"] == {"cluster": "prod"}
    enterprise = told_of_commits(repositoryUrl="https://git.example.com/ops/platform")
    service = plain_yaml.read(enterprise["notifiers"]["service.github"])
    assert service["enterpriseBaseURL"] == "https://git.example.com/api/v3"


def test_gitlab_is_told_with_a_token_that_is_not_in_git() -> None:
    url = "https://gitlab.example.com/ops/platform"
    found = told_of_commits(repositoryUrl=url, gitHost="gitlab", commitStatuses={})
    service = plain_yaml.read(found["notifiers"]["service.webhook.gitlab"])
    assert service["url"] == "https://gitlab.example.com/api/v4/projects/ops%2Fplatform"
    assert {"name": "PRIVATE-TOKEN", "value": "$commit-status-key"} in service["headers"]
    assert found["subscriptions"][0]["recipients"] == ["gitlab"]


def test_without_the_setting_no_host_is_told_and_no_key_is_asked_for() -> None:
    assert "notifications" not in values()
    without, told = parse(settings()), parse(settings(commitStatuses=APP))
    assert "commitStatusKey" not in {key.name for key in needed(without.services)}
    assert "commitStatusKey" in {key.name for key in needed(told.services)}


@pytest.mark.parametrize(
    ("argocd", "expected"),
    [
        (
            {"commitStatuses": {"appId": 12}},
            (
                f"{STATUSES}.installationId: missing: GitHub takes them "
                "from an App; give the installationId of a GitHub App that may write commit "
                "statuses"
            ),
        ),
        (
            {
                "gitHost": "gitlab",
                "repositoryUrl": "https://git.example.com/a/b",
                "commitStatuses": APP,
            },
            (f"{STATUSES}.appId = 12: a key of GitHub's, where gitHost is gitlab; remove it"),
        ),
        (
            {
                "gitHost": "gitea",
                "repositoryUrl": "https://git.example.com/a/b",
                "commitStatuses": {},
            },
            (
                f"{STATUSES}: Argo CD sets no statuses where "
                "services.argocd.gitHost is gitea; remove it"
            ),
        ),
        (
            {"commitStatuses": APP | {"url": "https://git.example.com"}},
            (
                f'{STATUSES}.url = "https://git.example.com": the '
                "repository is at github.com; remove it"
            ),
        ),
        (
            {"commitStatuses": APP | {"appId": 0}},
            f"{STATUSES}.appId = 0: ",
        ),
    ],
)
def test_statuses_that_no_host_would_take_are_refused(
    argocd: dict[str, Any], expected: str
) -> None:
    assert any(one.startswith(expected) for one in told(**argocd)), told(**argocd)
