"""What watches the platform: rules, targets, dashboards, and what follows from the settings."""

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from components.gitops import monitoring
from components.gitops.generated import check, files, write
from components.kubernetes import monitoring as layer
from config import Settings, SettingsError, parse, plain_yaml, support
from tests.unit.recorder import (
    ROOT,
    Platform,
    on_one_machine,
    plain,
    production,
    run,
    run_production,
)

pytestmark = pytest.mark.usefixtures("talosctl")

FOLDER = ROOT / "platform" / "monitoring"
SERVICES = "clusters/prod/gitops/services/monitoring"
RULES = sorted((FOLDER / "rules").glob("*.yaml"))
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
Tree = dict[str, Any]


def settings(**given: object) -> Settings:
    """Give production's settings with others of monitoring."""
    raw = production()
    raw["services"]["monitoring"].update(given)
    return parse(raw)


def read(path: str) -> Any:
    return plain_yaml.read((FOLDER / path).read_text())


def rules() -> Iterator[Tree]:
    """Give every rule, that of a secret which ends too."""
    ends = plain_yaml.read(ends_of(with_an_end()))
    for tree in (*(plain_yaml.read(path.read_text()) for path in RULES), ends):
        for group in tree["groups"]:
            yield from group["rules"]


def with_an_end() -> dict[str, Any]:
    """Give production's settings with a secret that ends."""
    raw = production()
    raw["cluster"]["expiries"] = [{"name": "dnsToken", "ends": "2027-05-01"}]
    return raw


def ends_of(raw: dict[str, Any]) -> str:
    """Give the rules about secrets that the layer makes."""
    parsed = parse(raw)
    made: list[dict[str, Any]] = []

    def keep(*_: object, **fields: Any) -> None:
        made.append(fields["data"])

    with mock.patch("components.kubernetes.monitoring.KubernetesObject", keep):
        layer._ends(parsed.cluster.expiries, mock.Mock())  # noqa: SLF001 the rules alone
    ((text,),) = (data.values() for data in made)
    return str(text)


ALERTS = {rule["alert"]: rule for rule in rules()}


def made(name: str, **given: object) -> Tree:
    """Give one of the files that the settings make."""
    trees = {file.path: file.tree for file in files(settings(**given))}
    return dict(trees[f"{SERVICES}/{name}"])


def platform(**given: object) -> Platform:
    raw = on_one_machine(production())
    raw["services"]["monitoring"].update(given)
    return run(raw)


# --- Rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_what_it_means_how_bad_it_is_and_which_page_helps(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "none"}
    assert len(rule["annotations"]["summary"]) > 20
    page = rule["annotations"]["page"]
    assert (ROOT / page).is_file()
    assert page.startswith("docs/procedures/")


@pytest.mark.parametrize("alert", sorted(set(ALERTS) - {"Heartbeat"}))
def test_the_page_of_alerts_knows_each_of_them(alert: str) -> None:
    assert f"`{alert}`" in (ROOT / "docs/procedures/alerts.md").read_text()


def test_every_file_of_rules_and_of_dashboards_is_in_the_kustomization() -> None:
    generated = {
        one["name"]: one["files"] for one in read("kustomization.yaml")["configMapGenerator"]
    }
    assert generated["rules"] == [f"rules/{path.name}" for path in RULES]
    assert generated["dashboards"] == [f"dashboards/{path.name}" for path in DASHBOARDS]


def test_each_job_that_a_rule_or_a_dashboard_asks_for_is_read() -> None:
    texts = [*(rule["expr"] for rule in rules()), *(path.read_text() for path in DASHBOARDS)]
    asked = {job for text in texts for job in re.findall(r'job=\\?"([a-z-]+)\\?"', text)}
    asked |= {
        job
        for text in texts
        for found in re.findall(r'job!?~\\?"([a-z|-]+)\\?"', text)
        for job in found.split("|")
    }
    assert asked - jobs() == set()
    assert len(asked) > 10


# --- Targets -----------------------------------------------------------------------------------


def jobs() -> set[str]:
    """Give the jobs of the configuration, those that pods are sorted into among them."""
    found = {one["job_name"] for one in read("scrape.yaml")["scrape_configs"]} - {"pods"}
    for one in read("scrape.yaml")["scrape_configs"]:
        for rule in one.get("relabel_configs", ()):
            if rule.get("target_label") == "job":
                found.add(rule["replacement"])
    return found


def test_each_job_that_has_no_target_is_an_alert() -> None:
    told = [rule["expr"] for rule in rules() if rule["alert"] == "TargetMissing"]
    named = [re.findall(r'absent\(up\{job="([a-z-]+)"\}\)', expr) for expr in told]
    assert sorted(name for (name,) in named) == sorted(jobs() - {"applications"})
    assert len(told) == len(set(told))


def test_every_alert_is_caused_by_a_test_of_the_lab() -> None:
    text = (ROOT / "tests/lab/test_watching.py").read_text()
    names = {rule["alert"] for rule in rules()}
    assert len(names) > 20
    assert [name for name in sorted(names) if not re.search(rf'"{name}\b', text)] == []


def test_the_page_lists_every_target() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    assert [job for job in sorted(jobs()) if f"`{job}`" not in page] == []


def test_each_version_past_its_support_is_told_from_the_day_after_its_last_one() -> None:
    """Hold rules/support.yaml against config/support.py; whoever changes one changes the other."""
    told = {
        rule["labels"]["product"]: (
            int(rule["expr"].rpartition(" ")[2]),
            re.findall(r"v1\[\.\]\d+", rule["expr"]),
        )
        for rule in rules()
        if rule["alert"] == "SupportEnded"
    }
    lines = [
        (minor, line)
        for (pin, minor), line in support.LINES.items()
        if pin in support.PAGES and line.ends is not None
    ]
    assert told == {
        line.product: (seconds(line.ends) + 86400, [f"v{minor.replace('.', '[.]')}"])
        for minor, line in lines
        if line.ends is not None
    }


def seconds(day: dt.date) -> int:
    return int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())


def test_a_secret_that_ends_is_told_three_weeks_before_without_a_commit() -> None:
    (rule,) = (one for one in rules() if one["alert"] == "SecretEnds")
    assert rule["expr"] == f"vector(time()) > {seconds(dt.date(2027, 4, 10))}"
    assert "dnsToken ends on 2027-05-01" in rule["annotations"]["summary"]
    assert files(parse(with_an_end())) == files(settings())


# --- Who is told -------------------------------------------------------------------------------


def test_all_but_pager_duty_get_every_alert_and_pager_duty_the_critical_ones() -> None:
    receivers = {
        "webhook": {},
        "slack": {"channel": "#platform"},
        "email": {
            "to": "platform@example.com",
            "sender": "alerts@example.com",
            "server": "mail.example.com:587",
            "user": "alerts",
        },
        "pagerDuty": {},
    }
    tree = made("alertmanager.yaml", receivers=receivers)
    by_name = {one.pop("name"): one for one in tree["receivers"]}
    assert set(by_name["everybody"]) == {"webhook_configs", "slack_configs", "email_configs"}
    assert set(by_name["critical"]) - set(by_name["everybody"]) == {"pagerduty_configs"}
    assert tree["route"]["receiver"] == "everybody"
    assert [one["receiver"] for one in tree["route"]["routes"]] == [
        "heartbeat",
        "nobody",
        "critical",
    ]


def test_what_is_secret_of_a_receiver_is_a_file_and_never_in_git() -> None:
    receivers = {"webhook": {}, "slack": {"channel": "#platform"}, "pagerDuty": {}}
    text = json.dumps(made("alertmanager.yaml", receivers=receivers))
    assert set(re.findall(rf"{monitoring.SECRETS}/([a-z-]+)", text)) == {
        "webhook",
        "slack",
        "pager-duty",
        "heartbeat",
    }
    assert set(re.findall(r'"[a-z_]*(?:url|key|password)[a-z_]*"', text)) == {
        '"url_file"',
        '"api_url_file"',
        '"routing_key_file"',
    }
    one = platform(receivers=receivers).one("kubernetes:core/v1:Secret", "monitoring/receivers")
    assert set(plain(one.inputs["stringData"])) == {"webhook", "slack", "pager-duty", "heartbeat"}


def test_alertmanager_goes_by_the_proxy_where_there_is_one() -> None:
    raw = production()
    raw["network"]["proxy"] = {"url": "http://proxy.example.com:3128"}
    trees = {file.path: file.tree for file in files(parse(raw))}
    text = json.dumps(trees[f"{SERVICES}/alertmanager.yaml"])
    assert text.count('"proxy_from_environment": true') == 2
    patch = trees[f"{SERVICES}/patches/alertmanager.yaml"]
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert {"https_proxy", "no_proxy"} <= {one["name"] for one in container["env"]}


@pytest.mark.parametrize("proxy", [None, {"url": "http://192.0.2.7:3128"}])
def test_mail_goes_to_its_server_which_no_proxy_reaches(proxy: Tree | None) -> None:
    raw = production()
    raw["network"]["proxy"] = proxy
    mail = {"to": "a@example.com", "sender": "b@example.com", "user": "c"}
    receivers = {"email": {"server": "mail.example.com:2525", **mail}, "webhook": {"port": 8443}}
    raw["services"]["monitoring"]["receivers"] = receivers
    policy = run(raw).one(
        "kubernetes:networking.k8s.io/v1:NetworkPolicy", "monitoring/alertmanager"
    )
    open_to_all = {
        one["port"]
        for rule in plain(policy.inputs["spec"]["egress"])
        if "ipBlock" not in str(rule)
        for one in rule["ports"]
    }
    assert 2525 in open_to_all
    assert (8443 in open_to_all) == (proxy is None)


# --- The boundary ------------------------------------------------------------------------------


def test_dashboards_are_served_to_sessions_of_argo_cd_and_nothing_that_writes_is() -> None:
    route = run_production().one(
        "kubernetes:traefik.io/v1alpha1:IngressRoute", "monitoring/dashboards"
    )
    (rule,) = route.inputs["spec"]["routes"]
    assert rule["middlewares"] == [{"name": "argocd-session"}, {"name": "without-session"}]
    prefixes = re.findall(r"PathPrefix\(`([^`]+)`\)", rule["match"])
    assert prefixes == [*layer.SEEN]
    for path in (
        "api/v1/admin/tsdb/delete_series",
        "prometheus/api/v1/admin/tsdb/delete_series",
        "prometheus/api/v1/write",
        "prometheus/api/v1/import",
        "api/v1/write",
        "internal/force_merge",
        "snapshot/create",
        "targets",
        "config",
        "-/reload",
    ):
        assert not any(f"/monitoring/{path}".startswith(prefix) for prefix in prefixes), path


def test_no_account_of_monitoring_may_read_a_secret() -> None:
    for rights in layer.RIGHTS.values():
        for rule in rights:
            assert "secrets" not in rule.get("resources", ())
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_switched_off_nothing_of_it_is_made_or_written() -> None:
    raw = production()
    raw["services"].pop("monitoring")
    off = parse(raw)
    assert not [file.path for file in files(off) if "/services/monitoring/" in file.path]
    registered = run(on_one_machine(raw)).resources
    assert not [one.urn for one in registered if "monitoring/" in one.name]


def test_files_of_a_service_that_is_switched_off_are_named_and_removed(tmp_path: Path) -> None:
    for name in ("bootstrap", "clusters", "platform"):
        shutil.copytree(ROOT / name, tmp_path / name)
    raw = production()
    raw["services"].pop("monitoring")
    off = parse(raw)
    with pytest.raises(SettingsError) as caught:
        check(off, tmp_path)
    told = [str(one) for one in caught.value.problems]
    assert (
        "platform:services: clusters/prod/gitops/services/monitoring belongs to "
        "no service of the settings; run `python -m ops gitops write` with the stack file, commit "
        "and push what it removes"
    ) in told
    write(off, tmp_path)
    check(off, tmp_path)
    assert not (tmp_path / SERVICES / "kustomization.yaml").exists()


# --- Dashboards --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_what_vmui_asks_of_one(path: Path) -> None:
    tree = json.loads(path.read_text())
    assert tree["title"]
    for row in tree["rows"]:
        for panel in row["panels"]:
            assert panel["expr"], panel["title"]
            assert len(panel["alias"]) == len(panel["expr"])
            assert 1 <= panel["width"] <= 12
