"""The layer Argo CD: what Pulumi makes, what it hands over, and who may talk to whom."""

from typing import Any

import pytest

from components.failures import ToldError
from components.gitops.generated import folder
from components.kubernetes.argocd import NAMESPACE, merged, plan
from components.kubernetes.argocd_network import CALLS, OUTSIDE, PARTS, Policy, policies
from config import load_file, plain_yaml
from config.settings import API_PORT
from config.way_out import WayOut
from tests.unit.recorder import (
    ROOT,
    Platform,
    Registered,
    is_secret,
    plain,
    production,
    root_of,
    run,
    run_production,
)

RELEASE = "kubernetes:helm.sh/v3:Release"
SECRET = "kubernetes:core/v1:Secret"  # noqa: S105 a type
APPLICATION = "kubernetes:argoproj.io/v1alpha1:Application"
ROUTE = "kubernetes:traefik.io/v1alpha1:IngressRoute"
VALUES = ROOT / "bootstrap/argo-cd/values.yaml"

pytestmark = pytest.mark.usefixtures("talosctl")


def values() -> dict[str, Any]:
    settings = load_file(ROOT / "Pulumi.prod.yaml")
    assert settings.services.argocd is not None
    return dict(plan(settings.services.argocd, folder(settings.talos.patches)).values)


def secrets() -> dict[str, Registered]:
    found = {one.name: one for one in run_production().all(SECRET)}
    return {
        name.partition("/")[2]: one for name, one in found.items() if name.startswith("argocd/")
    }


# --- The handover ------------------------------------------------------------------------------


def test_nothing_that_argocd_owns_can_show_up_in_a_preview() -> None:
    release = run_production().one(RELEASE, "argo-cd")
    assert list(release.request.ignoreChanges) == ["*"]
    others = [one for one in run_production().all(RELEASE) if one.name != "argo-cd"]
    assert others
    assert all(not one.request.ignoreChanges for one in others)


def test_the_first_installation_has_the_values_that_argocd_will_read() -> None:
    release = run_production().one(RELEASE, "argo-cd")
    both = [
        plain_yaml.read(path.read_text())
        for path in (VALUES, ROOT / "clusters/prod/gitops/argo-cd-values.yaml")
    ]
    assert plain(release.inputs["values"]) == merged(*both)
    assert release.inputs["namespace"] == NAMESPACE


def test_the_root_application_comes_after_the_release_and_is_what_the_command_prints() -> None:
    platform = run_production()
    (root,) = platform.all(APPLICATION)
    wanted = root_of(load_file(ROOT / "Pulumi.prod.yaml"))
    assert {key: root.inputs[key] for key in wanted} == wanted
    assert platform.one(RELEASE, "argo-cd").urn in root.dependencies


def test_nothing_is_touched_while_git_has_other_settings_than_the_stack() -> None:
    settings = production()
    settings["services"]["argocd"]["domain"] = "cd.platform.example.com"
    platform = Platform()
    with pytest.raises(ToldError) as refused:
        run(settings, platform=platform, check_git=True)
    assert 'platform:services.argocd.domain = "cd.platform.example.com"' in str(refused.value)
    assert "python -m ops gitops write" in str(refused.value)
    assert [one.type for one in platform.resources] in ([], ["pulumi:pulumi:Stack"])


@pytest.mark.parametrize("part", ["server", "repoServer"])
def test_an_autoscaler_follows_the_load_and_never_the_memory_that_a_process_keeps(
    part: str,
) -> None:
    scaling = values()[part]["autoscaling"]
    assert scaling["enabled"]
    assert scaling["targetCPUUtilizationPercentage"] > 0
    # The chart's own target is half of what is requested: all replicas would run at all times.
    assert scaling["targetMemoryUtilizationPercentage"] == 0


def test_values_are_laid_over_others_key_by_key_and_lists_as_a_whole() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert merged(below, {"a": {"c": [3]}, "d": 2, "f": 4}) == {
        "a": {"b": 1, "c": [3]},
        "d": 2,
        "f": 4,
    }
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}


# --- Secrets and the way in --------------------------------------------------------------------


def test_secrets_are_made_before_the_release_and_marked_as_such() -> None:
    made = secrets()
    assert {
        name: sorted(plain(one.inputs.get("stringData", {}))) for name, one in sorted(made.items())
    } == {
        "argocd-notifications-secret": ["commit-status-key"],
        "argocd-redis": ["auth"],
        "argocd-secret": ["webhook.github.secret"],
        "argocd-sso": ["dex.github.clientSecret"],
    }
    release = run_production().one(RELEASE, "argo-cd")
    for one in made.values():
        assert one.urn in release.dependencies
        texts = one.inputs["stringData"]
        assert is_secret(texts) or all(is_secret(text) for text in texts.values())


@pytest.mark.parametrize("name", ["argocd-secret", "argocd-sso"])
def test_argocd_finds_its_secrets_by_their_label(name: str) -> None:
    labels = secrets()[name].inputs["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "argocd"


def test_the_login_s_secret_is_the_one_that_dex_is_pointed_to() -> None:
    (connector,) = plain_yaml.read(values()["configs"]["cm"]["dex.config"])["connectors"]
    name, _, key = connector["config"]["clientSecret"].removeprefix("$").partition(":")
    assert key in plain(secrets()[name].inputs["stringData"])


def test_without_github_there_is_no_secret_for_it() -> None:
    settings = production()
    del settings["services"]["argocd"]["github"]
    names = run(settings).names(SECRET)
    assert "argocd/argocd-secret" in names
    assert "argocd/argocd-sso" not in names


def test_people_and_webhooks_come_by_https_with_the_platform_s_certificate() -> None:
    (route,) = (one for one in run_production().all(ROUTE) if one.name == "argocd-route")
    spec = route.inputs["spec"]
    assert spec["entryPoints"] == ["websecure"]
    assert spec["tls"] == {}
    by_priority = sorted(spec["routes"], key=lambda one: -one["priority"])
    assert [one["match"] for one in by_priority] == [
        "Host(`argocd.platform.example.com`) && Header(`Content-Type`, `application/grpc`)",
        "Host(`argocd.platform.example.com`)",
    ]
    assert [one["services"][0].get("scheme") for one in by_priority] == ["h2c", None]
    assert values()["configs"]["params"]["server.insecure"] is True


# --- Values ------------------------------------------------------------------------------------


def test_nobody_has_a_password_and_nothing_of_pulumi_s_is_rendered() -> None:
    found = values()
    assert found["configs"]["cm"]["admin.enabled"] is False
    assert found["configs"]["rbac"]["policy.default"] == ""
    assert found["configs"]["secret"] == {"createSecret": False}
    assert found["notifications"]["secret"] == {"create": False}
    assert found["redisSecretInit"] == {"enabled": False}
    assert found["global"]["networkPolicy"] == {"create": False, "defaultDenyIngress": False}


def test_every_container_of_the_chart_has_requests_and_a_limit_of_memory() -> None:
    found = values()
    redis = found["redis-ha"]
    for place in (
        *(found[part] for part in ("controller", "server", "repoServer", "applicationSet")),
        *(found["notifications"], found["dex"], found["dex"]["initImage"]),
        found["repoServer"]["copyutil"],
        *(redis[part] for part in ("init", "redis", "sentinel", "splitBrainDetection", "exporter")),
        *(redis["haproxy"], redis["haproxy"]["init"]),
    ):
        assert set(place["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in place["resources"]["limits"]


def test_a_drain_is_never_blocked_and_no_rollout_waits_for_a_machine_that_is_not_there() -> None:
    found = values()
    budgets = [found[part]["pdb"] for part in ("dex", "server", "repoServer", "applicationSet")]
    assert budgets == [{"enabled": True, "maxUnavailable": 1}] * 4
    redis = found["redis-ha"]
    assert redis["podDisruptionBudget"] == {"maxUnavailable": 1}
    assert redis["haproxy"]["podDisruptionBudget"] == {"maxUnavailable": 1}
    # Three replicas that never share a machine, on three machines: one goes before one comes.
    rollout = redis["haproxy"]["deploymentStrategy"]["rollingUpdate"]
    assert rollout == {"maxUnavailable": 1, "maxSurge": 0}


def test_argocd_s_server_and_repo_server_are_two_and_grow_with_the_load() -> None:
    found = values()
    for part in ("server", "repoServer"):
        scaling = found[part]["autoscaling"]
        assert scaling["enabled"] is True
        assert 2 <= scaling["minReplicas"] < scaling["maxReplicas"]
        assert scaling["targetCPUUtilizationPercentage"] > 0


def test_who_runs_what_repositories_say_has_no_key_to_the_cluster() -> None:
    found = values()
    assert found["repoServer"]["automountServiceAccountToken"] is False
    assert found["repoServer"]["serviceAccount"]["automountServiceAccountToken"] is False
    assert found["redis-ha"]["serviceAccount"]["automountToken"] is False
    assert found["redis-ha"]["haproxy"]["serviceAccount"]["automountToken"] is False
    verbs = {
        verb for rule in found["server"]["clusterRoleRules"]["rules"] for verb in rule["verbs"]
    }
    assert verbs == {"get", "list", "watch"}


# --- Network policies --------------------------------------------------------------------------


def pods(rule: dict[str, Any], side: str) -> list[dict[str, str]]:
    return [
        peer["podSelector"]["matchLabels"] for peer in rule.get(side, ()) if "podSelector" in peer
    ]


def all_policies() -> list[Policy]:
    argocd = load_file(ROOT / "Pulumi.prod.yaml").services.argocd
    assert argocd is not None
    return list(policies(argocd, WayOut()))


def test_every_call_between_parts_is_let_out_and_let_in_on_the_same_ports() -> None:
    by_name = {one.name: one for one in all_policies()}
    assert set(by_name) == set(PARTS)
    out, into = set(), set()
    for name, one in by_name.items():
        for rule in one.egress:
            for labels in pods(rule, "to"):
                (to,) = (other for other, part in PARTS.items() if part.labels == labels)
                out |= {(name, to, port["port"]) for port in rule["ports"]}
        for rule in one.ingress:
            for labels in pods(rule, "from"):
                (caller,) = (other for other, part in PARTS.items() if part.labels == labels)
                into |= {(caller, name, port["port"]) for port in rule["ports"]}
    assert out == into
    calls = {(caller, called) for caller, all_called in CALLS.items() for called in all_called}
    assert {(caller, called) for caller, called, _ in out} == calls


def test_only_traefik_and_monitoring_come_in_from_other_namespaces() -> None:
    for one in all_policies():
        outside = [
            (peer["namespaceSelector"]["matchLabels"], [port["port"] for port in rule["ports"]])
            for rule in one.ingress
            for peer in rule["from"]
            if "namespaceSelector" in peer
        ]
        scrape = ({"platform.io/scrapes-metrics": "true"}, [PARTS[one.name].metrics])
        through = ({"kubernetes.io/metadata.name": "traefik"}, [8080])
        assert outside == ([scrape, through] if one.name == "server" else [scrape])


def test_redis_goes_nowhere_and_who_runs_what_repositories_say_not_to_the_api() -> None:
    assert "redis" not in OUTSIDE
    assert "redis-proxy" not in OUTSIDE
    assert API_PORT not in OUTSIDE["repo-server"]
    for one in all_policies():
        opened = {port["port"] for rule in one.egress if "to" not in rule for port in rule["ports"]}
        assert opened == set(OUTSIDE.get(one.name, ()))
