"""What Argo CD reads of the settings: written and checked."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.gitops.generated import SETTINGS, VALUES, check, files, folder, write
from config import Settings, SettingsError, load_file, parse, plain_yaml, versions
from ops.gitops.command import main
from tests.unit.recorder import ROOT, production, root_of

PROD = ROOT / "Pulumi.prod.yaml"
SETTINGS_PATH = "clusters/prod/gitops/settings/settings.yaml"
VALUES_PATH = "clusters/prod/gitops/argo-cd-values.yaml"
FIX = "run `python -m ops gitops write` with the stack file, commit and push what it writes"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Copy what Argo CD reads."""
    for name in ("apps", "bootstrap", "clusters", "platform"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def changed(change: Callable[[dict[str, Any]], None]) -> Settings:
    raw = production()
    change(raw)
    return parse(raw)


def argocd(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["services"]["argocd"].update(values)


def github(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["services"]["argocd"]["github"].update(values)


def told(settings: Settings, root: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        check(settings, root)
    return [str(one) for one in caught.value.problems]


def values_of(settings: Settings) -> dict[str, Any]:
    values, *_ = files(settings)
    return values.tree


# --- Written and checked -----------------------------------------------------------------------


def to_another_domain(raw: dict[str, Any]) -> None:
    raw["services"]["certManager"].update(domain="example.org")
    raw["services"]["traefik"].update(dashboardDomain="traefik.example.org")
    raw["services"]["argocd"].update(domain="argocd.example.org")


def test_what_is_committed_is_what_the_settings_say() -> None:
    check(load_file(PROD), ROOT)
    for file in files(load_file(PROD)):
        assert (ROOT / file.path).read_text() == file.text


@pytest.mark.parametrize(
    ("change", "key", "where"),
    [
        (
            argocd(domain="cd.platform.example.com"),
            'platform:services.argocd.domain = "cd.platform.example.com"',
            f"`global.domain` in {VALUES_PATH} is argocd.platform.example.com",
        ),
        (
            argocd(repositoryUrl="https://git.example.com/platform"),
            'platform:services.argocd.repositoryUrl = "https://git.example.com/platform"',
            (
                "`data.repositoryUrl` in clusters/prod/gitops/settings/settings.yaml is "
                "https://github.com/example/platform"
            ),
        ),
        (
            argocd(revision="production"),
            'platform:services.argocd.revision = "production"',
            "`data.revision` in clusters/prod/gitops/settings/settings.yaml is main",
        ),
        (
            argocd(version="10.1.2"),
            'platform:services.argocd.version = "10.1.2"',
            "`data.argoCdVersion` in clusters/prod/gitops/settings/settings.yaml is 10.1.1",
        ),
        (
            to_another_domain,
            'platform:services.certManager.domain = "example.org"',
            "`data.domain` in clusters/prod/gitops/settings/settings.yaml is platform.example.com",
        ),
        (
            lambda raw: raw.update(machines=raw["machines"][:1]),
            "platform:machines",
            f"`redis-ha.hardAntiAffinity` in {VALUES_PATH} is missing",
        ),
    ],
)
def test_a_setting_that_the_commit_does_not_have_is_named_with_its_value_and_the_fix(
    repository: Path, change: Callable[[dict[str, Any]], None], key: str, where: str
) -> None:
    settings = changed(change)
    assert f"{key}: {where}; {FIX}" in told(settings, repository)
    assert write(settings, repository)
    check(settings, repository)


def test_people_who_were_told_by_a_list_that_statuses_replace_are_named(repository: Path) -> None:
    base = repository / "bootstrap/argo-cd/values.yaml"
    base.write_text(
        base.read_text().replace(
            "\nnotifications:\n",
            "\nnotifications:\n  subscriptions:\n    - recipients: [slack:platform]\n",
        )
    )
    (found,) = told(load_file(PROD), repository)
    assert found.startswith(
        "platform:services.argocd.commitStatuses: takes the place of "
        "`notifications.subscriptions` in bootstrap/argo-cd/values.yaml; write these as annotations"
    )
    without = changed(lambda raw: raw["services"]["argocd"].pop("commitStatuses"))
    write(without, repository)
    check(without, repository)


def test_logins_that_the_commit_does_not_have_are_named_without_their_text(
    repository: Path,
) -> None:
    found = told(changed(github(organization="other")), repository)
    assert found == [
        f"platform:services.argocd.github: `{place}` in {VALUES_PATH} differs; {FIX}"
        for place in ("configs.cm.dex.config", "configs.rbac.policy.csv")
    ]


def test_a_value_that_was_added_by_hand_is_named(repository: Path) -> None:
    path = repository / folder(load_file(PROD).talos.patches) / VALUES
    path.write_text(path.read_text() + "server:\n  replicas: 1\n")
    assert told(load_file(PROD), repository) == [
        (f"platform:services.argocd: `server.replicas` in {VALUES_PATH} was changed by hand; {FIX}")
    ]


@pytest.mark.parametrize("text", [None, "a: [", "- a\n"])
def test_a_file_that_is_missing_or_no_yaml_is_named(repository: Path, text: str | None) -> None:
    path = repository / folder(load_file(PROD).talos.patches) / SETTINGS
    path.unlink()
    if text is not None:
        path.write_text(text)
    (found,) = told(load_file(PROD), repository)
    assert found.startswith(f"platform:services.argocd: {SETTINGS_PATH} is missing, or is not YAML")
    assert write(load_file(PROD), repository) == [SETTINGS_PATH]
    assert write(load_file(PROD), repository) == []


def test_renovate_finds_the_version_in_the_written_file() -> None:
    renovate = json.loads((ROOT / "renovate.json").read_text())
    (pattern,) = renovate["customManagers"][0]["matchStrings"]
    _, settings, *_ = files(load_file(PROD))
    found = re.search(pattern.replace("(?<", "(?P<"), settings.text)
    assert found is not None
    assert found["depName"] == "argo-cd"
    assert found["currentValue"] == versions.ARGO_CD


def test_without_argocd_there_is_nothing_to_write(repository: Path) -> None:
    def without(raw: dict[str, Any]) -> None:
        for name in ("argocd", "logging", "monitoring"):
            del raw["services"][name]

    settings = changed(without)
    removed = write(settings, repository)
    assert all("/gitops/services/" in path for path in removed)
    assert not any((repository / path).exists() for path in removed)
    assert write(settings, repository) == []
    check(settings, repository)


# --- What follows from the settings ------------------------------------------------------------


def test_teams_become_roles_and_who_is_in_both_is_an_administrator() -> None:
    values = values_of(
        changed(github(adminTeams=["platform", "oncall"], viewerTeams=["oncall", "dev"]))
    )
    assert values["configs"]["rbac"]["policy.csv"].splitlines() == [
        "g, example:dev, role:readonly",
        "g, example:oncall, role:admin",
        "g, example:platform, role:admin",
    ]
    (connector,) = plain_yaml.read(values["configs"]["cm"]["dex.config"])["connectors"]
    assert connector["config"]["orgs"] == [
        {"name": "example", "teams": ["dev", "oncall", "platform"]}
    ]
    assert connector["config"]["clientSecret"] == "$argocd-sso:dex.github.clientSecret"
    assert connector["config"]["teamNameField"] == "slug"


def test_without_github_argocd_makes_up_a_password_and_dex_is_off() -> None:
    values = values_of(changed(lambda raw: raw["services"]["argocd"].pop("github")))
    assert values["dex"] == {"enabled": False}
    assert values["configs"]["cm"] == {"admin.enabled": True}
    assert values["configs"]["rbac"] == {}


@pytest.mark.parametrize(("count", "soft"), [(1, True), (3, False)])
def test_redis_may_share_a_machine_only_where_there_are_too_few(count: int, *, soft: bool) -> None:
    values = values_of(changed(lambda raw: raw.update(machines=raw["machines"][:count])))
    assert ("redis-ha" in values) is soft
    if soft:
        assert values["redis-ha"]["haproxy"] == {"hardAntiAffinity": False}


def test_the_root_application_comes_from_the_cluster_s_folder() -> None:
    root = root_of(changed(argocd(revision="production")))
    assert root["spec"]["source"] == {
        "repoURL": "https://github.com/example/platform",
        "targetRevision": "production",
        "path": "clusters/prod/gitops",
    }


# --- The command -------------------------------------------------------------------------------


def test_write_says_what_it_wrote_and_check_is_content_after_it(
    repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stack = tmp_path / "Pulumi.prod.yaml"
    stack.write_text(PROD.read_text().replace("domain: argocd.", "domain: cd."))
    assert main(["check", str(stack)], repository) == 1
    assert "platform:services.argocd.domain" in capsys.readouterr().err
    assert main(["write", str(stack)], repository) == 0
    assert capsys.readouterr().out.startswith(f"{VALUES_PATH}: written")
    assert main(["check", str(stack)], repository) == 0
    assert (
        capsys.readouterr().out
        == f"{stack}: the files that Argo CD reads agree with the settings\n"
    )


def test_root_prints_what_pulumi_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["root", str(PROD)]) == 0
    assert plain_yaml.read(capsys.readouterr().out) == root_of(load_file(PROD))


def test_a_stack_file_without_argocd_or_with_faults_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = tmp_path / "Pulumi.x.yaml"
    stack.write_text((ROOT / "tests/fixtures/config/good/one.yaml").read_text())
    assert main(["write", str(stack)], tmp_path) == 0
    assert "no services.argocd" in capsys.readouterr().out
    stack.write_text("config: {}\n")
    assert main(["check", str(stack)], tmp_path) == 1
    assert "platform:cluster: missing" in capsys.readouterr().err


# --- Around it ---------------------------------------------------------------------------------


def test_python_s_own_platform_is_not_shadowed() -> None:
    for name in ("platform", "apps", "bootstrap", "clusters"):
        assert list((ROOT / name).rglob("*.py")) == []
    import platform  # noqa: PLC0415 the thing that is tested

    assert platform.__file__ == sys.modules["platform"].__file__
    assert not str(platform.__file__).startswith(str(ROOT / "platform"))


def test_the_branch_s_rules_ask_for_signatures_reviews_and_checks() -> None:
    rules = json.loads((ROOT / ".github/rulesets/main.json").read_text())
    assert rules["enforcement"] == "active"
    assert rules["bypass_actors"] == []
    kinds = {one["type"]: one.get("parameters", {}) for one in rules["rules"]}
    assert set(kinds) == {
        "deletion",
        "non_fast_forward",
        "pull_request",
        "required_signatures",
        "required_status_checks",
    }
    assert kinds["pull_request"]["required_approving_review_count"] >= 1
