"""The platform watches itself: every alert is caused, told and resolved, by the real programs.

VictoriaMetrics, vmalert and Alertmanager are real, and so are nearly all that they read. Simulated
are who is told (`alert-receivers`), kubelets and Cilium; kube-state-metrics and Dex are stand-ins.
What would take hours is quicker here: a commit shortens how long a thing must be wrong, and in some
tests how wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from ops.rehearsal import alerts
from ops.rehearsal import repository as copies
from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.conftest import WORLDS, write_generated
from tests.lab.real_programs.argocd import HOST, Repository, is_well
from tests.lab.real_programs.cluster import INGRESS_ADDRESS, Object, kinds, kubectl, read

pytestmark = pytest.mark.campaign

NAMESPACE = "monitoring"
FOLDER = "platform/monitoring"
GENERATED = "clusters/prod/gitops"
KNOWN = {"SupportEnded"}
"""What fires on a healthy platform, since it is true: Talos 1.13 and Kubernetes 1.34 are past their
last day."""
LATER = re.compile(r"(alert: ControlPlaneComponentAway\n(?:.*\n)*?        for: )5s")
"""It comes after NodeAway, which explains it: that a node is away is known after a minute."""
LONG = re.compile(r"\[(?:5m|10m|15m|1h)\]")
"""Windows that rules look back on."""
GROUPED = ("group_wait: 10s\n  group_interval: 1m", "group_wait: 1s\n  group_interval: 5s")
"""How long Alertmanager waits for more alerts of a kind, which people get together."""
QUICK = 300
"""Seconds in which an alert comes or goes, on a machine with other work."""
ISSUER = r"issuer: private-ca\n\1"
RECEIVERS = """\
      receivers:
        webhook: {}
        slack: { channel: "#platform" }
        email:
          to: platform@example.com
          sender: alerts@example.com
          server: mail.example.com:587
          user: alerts
        pagerDuty: {}
"""
AMBIGUOUS = """\
      - alert: Ambiguous
        expr: up * on() up
"""
CERTIFICATE = """
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {{ name: {name}, namespace: traefik }}
spec:
  secretName: {name}
  duration: 24h
  renewBefore: 8h
  dnsNames: [{name}.platform.example.com]
  issuerRef: {{ kind: ClusterIssuer, name: {issuer} }}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{ name: taken-{number}, namespace: default }}
spec:
  type: LoadBalancer
  allocateLoadBalancerNodePorts: false
  ports: [{{ port: 80 }}]
"""


@pytest.fixture(scope="module")
def installed() -> Iterator[World]:
    """Build production with all receivers, and an authority of its own.

    Let's Encrypt's certificate takes three minutes.
    """
    tree = copies.copy(WORLDS / "watching.repository")
    stack_file = tree / "Pulumi.prod.yaml"
    text = stack_file.read_text()
    for known, instead in (
        (r"issuer: letsencrypt-production\n(.*domain: .*\n).*email: .*\n.*dns: .*\n", ISSUER),
        (r" +receivers:\n +webhook: \{\}\n", RECEIVERS),
    ):
        text, found = re.subn(known, instead, text)
        assert found == 1
    stack_file.write_text(text)
    world = World(WORLDS / "watching", stack_file, "--programs", "real", project=tree)
    write_generated(stack_file)
    copies.keep(tree, "everybody is told")
    world.start()
    try:
        world.up(timeout=1200)
        world.write_credentials()
        wait_until("Argo CD to have taken over", lambda: is_well(world, "argo-cd"))
        wait_until("what watches to run", lambda: is_well(world, NAMESPACE), seconds=600)
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="module")
def repository(installed: World, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Give a clone of the world's repository."""
    return Repository(installed, tmp_path_factory.mktemp("repository") / "clone", "--insecure")


@pytest.fixture(scope="module")
def world(installed: World, repository: Repository) -> World:
    """Let Argo CD have its administrator, as whom the tests look: nobody logs in at GitHub here."""
    off = "    admin.enabled: false # people come by single sign-on; there is no password to guess"
    repository.replace("bootstrap/argo-cd/values.yaml", off, "    admin.enabled: true #")
    repository.push("Argo CD has an administrator")

    def is_known() -> bool:
        settings = read(installed, "configmap", "argocd-cm", "--namespace", "argocd")
        return bool(settings["data"]["admin.enabled"] == "true" and samples(installed, "up"))

    wait_until("the administrator to be known", is_known, seconds=QUICK)
    return installed


@pytest.fixture(scope="module")
def quick(world: World, repository: Repository) -> Repository:
    """Shorten by a commit how long a thing must be wrong, and how long others are waited for."""
    for path in (repository.folder / FOLDER / "rules").glob("*.yaml"):
        text = re.sub(r"\bfor: (&for )?\d+[mh]", r"for: \g<1>5s", path.read_text())
        path.write_text(LATER.sub(r"\g<1>3m", LONG.sub("[2m]", text)))
    told = repository.folder / GENERATED / "services/monitoring/alertmanager.yaml"
    told.write_text(told.read_text().replace(*GROUPED, 1))
    commit = repository.push("alerts wait no longer")
    wait_until("the rules", lambda: is_well(world, NAMESPACE, commit), seconds=QUICK)
    return repository


# --- What is asked -----------------------------------------------------------------------------


def visit(world: World, path: str, *options: str) -> str:
    """Ask Argo CD's host through the ingress, as anybody does; gives the answer."""
    how = ("--silent", "--show-error", "--insecure", "--max-time", "20")
    to = ("--resolve", f"{HOST}:443:{INGRESS_ADDRESS}")
    return world.run("curl", *how, *to, *options, f"https://{HOST}/{path}").stdout


def session(world: World) -> tuple[str, str]:
    """Give curl's options for who is logged in to Argo CD."""
    return "--header", f"Cookie: argocd.token={token(world)}"


def ask(world: World, path: str, **query: str) -> Any:
    """Ask as a person does who is logged in; gives the answer's JSON."""
    words = "&".join(f"{key}={quote(text)}" for key, text in query.items())
    asked = f"{path}?{words}" if words else path
    return json.loads(visit(world, asked, "--fail-with-body", *session(world)))


def samples(world: World, expression: str) -> list[Object]:
    """Evaluate an expression now; gives its series."""
    path = "monitoring/prometheus/api/v1/query"
    found: list[Object] = ask(world, path, query=expression, nocache="1")["data"]["result"]
    return found


def firing(world: World) -> set[str]:
    """Name the alerts that fire now, as vmalert says."""
    alerts = ask(world, "monitoring/prometheus/vmalert/api/v1/alerts")["data"]["alerts"]
    names = {one["name"] for one in alerts if one["state"] == "firing"}
    return names - {"Heartbeat"}


def messages(world: World, service: str = "webhook") -> list[Object]:
    """Read what a simulated receiver was told, the newest last."""
    return list(alerts.told(world.state, service))


def told(world: World, alert: str, status: str, says: str, after: int = 0) -> Object | None:
    """Give an alert with these words that the webhook got, behind the first `after` messages."""
    for message in reversed(messages(world)[after:]):
        for one in message["alerts"]:
            found: Object = one
            is_it = (one["labels"]["alertname"], one["status"]) == (alert, status)
            if is_it and re.search(says, one["annotations"].get("summary", "")):
                return found
    return None


def wait_told(world: World, alert: str, status: str, says: str = "", after: int = 0) -> Object:
    """Wait until the webhook got it."""
    wait_until(
        f"{alert} to be {status}",
        lambda: told(world, alert, status, says, after) is not None,
        seconds=QUICK,
    )
    found = told(world, alert, status, says, after)
    assert found is not None
    return found


def count(world: World) -> int:
    """Say how many messages the webhook has got."""
    return len(messages(world))


@contextmanager
def caused(
    world: World, alert: str, says: str, page: str, after: int | None = None
) -> Iterator[None]:
    """Hold that what was done before is told as this alert, and what is done inside resolves it."""
    before = count(world) if after is None else after
    message = wait_told(world, alert, "firing", says, before)
    assert message["annotations"]["page"] == f"docs/procedures/{page}.md"
    assert message["labels"]["cluster"] == "prod"
    yield
    wait_told(world, alert, "resolved", says, before)


# --- A healthy platform ------------------------------------------------------------------------


def test_the_programs_that_watch_are_real_and_who_is_told_is_simulated(world: World) -> None:
    programs = kinds(world)
    for name in ("victoria-metrics", "vmalert", "alertmanager", "victoria-logs", "vlagent"):
        assert programs[name] == "real", programs
    for name in ("kube-state-metrics", "dex"):
        assert programs[name] == "stand-in", programs
    assert programs["alert-receivers"] == "simulated"


def test_every_target_of_the_table_is_there_and_answers(world: World) -> None:
    missed = (PROJECT / FOLDER / "rules" / "targets.yaml").read_text()
    jobs = [*re.findall(r'absent\(up\{job="([a-z-]+)"', missed), "applications"]
    assert len(jobs) > 20

    def away() -> list[str]:
        there = {one["metric"]["job"] for one in samples(world, "up == 1")}
        not_read = [str(one["metric"]) for one in samples(world, "up == 0")]
        return [*(job for job in jobs if job not in there), *not_read]

    wait_until("all targets to answer", lambda: not away(), seconds=QUICK)
    print("targets:", sum(1 for _ in samples(world, "up")))
    (series,) = samples(world, 'vm_cache_entries{type="storage/hour_metric_ids"}')
    print("series:", series["value"][1])


def test_on_a_healthy_platform_nothing_fires_but_what_is_true(world: World) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert firing(world) <= KNOWN
        time.sleep(5)
    assert firing(world) == KNOWN


def test_the_heartbeat_is_heard_outside_every_minute(world: World) -> None:
    first = len(messages(world, "heartbeat"))
    wait_until("two beats", lambda: len(messages(world, "heartbeat")) >= first + 2, seconds=QUICK)


def test_the_second_preview_is_empty(world: World) -> None:
    world.expect_no_changes()


def test_dashboards_are_shown_to_who_is_logged_in_to_argo_cd_and_to_nobody_else(
    world: World,
) -> None:
    def get(path: str, *options: str) -> str:
        code = ("--output", "/dev/null", "--write-out", "%{http_code}")
        return visit(world, f"monitoring/{path}", *code, *options)

    assert get("vmui/") == "401"
    assert get("prometheus/api/v1/query?query=up") == "401"
    person = session(world)
    assert get("vmui/", *person) == "200"
    assert get("prometheus/api/v1/query?query=up", *person) == "200"
    assert get("prometheus/vmui/custom-dashboards", *person) == "200"
    # It falls to Argo CD's own page, which knows nothing of metrics.
    write = ("--request", "POST", "--data-binary", "forged 1")
    get("prometheus/api/v1/import/prometheus", *person, *write)
    assert samples(world, "forged") == []


def token(world: World) -> str:
    """Make a session of Argo CD's, with its own key, for an administrator."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    secret = read(world, "secret", "argocd-secret", "--namespace", "argocd")["data"]
    key = base64.b64decode(secret["server.secretkey"])
    now = int(time.time())
    claims = {"iss": "argocd", "sub": "admin:login", "iat": now, "nbf": now, "exp": now + 3600}
    claims["jti"] = "of-the-test"
    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


def test_what_it_costs_is_measured(world: World) -> None:
    """Print memory and processor time of each pod, after some minutes of work."""
    print(kubectl(world, "top", "pods", "--namespace", NAMESPACE, "--containers"))
    pods = read(world, "pods", "--namespace", NAMESPACE)["items"]
    restarts = [one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"]]
    assert not any(restarts), "no pod was ended, so each stays below its limit"


# --- Logs --------------------------------------------------------------------------------------


def lines(world: World, query: str) -> list[Object]:
    """Search as a person does; gives at most five entries of the last hour."""
    asked = ("--fail-with-body", "--data-urlencode", f"query=_time:1h {query} | limit 5")
    said = visit(world, "logs/select/logsql/query", *asked, *session(world))
    return [json.loads(line) for line in said.splitlines()]


def found(world: World, query: str) -> Object:
    """Wait until an entry is found."""
    wait_until(query, lambda: bool(lines(world, query)), seconds=QUICK)
    return lines(world, query)[0]


def test_a_line_of_talos_etcd_is_found_by_its_machine(world: World) -> None:
    of_etcd = "talos:=service | unpack_json | filter machine:=node02 talos-service:=etcd"
    entry = found(world, of_etcd)
    assert entry["msg"]
    assert entry["source"] == "Talos service"


def test_a_line_of_the_kernel_is_found(world: World) -> None:
    entry = found(world, "talos:=kernel | unpack_json")
    assert entry["hostname"] in {"172.16.20.51", "172.16.20.52", "172.16.20.53"}
    assert entry["msg"]


def test_a_request_is_found_in_the_access_log_of_a_container(world: World) -> None:
    name = f"asked-{int(time.time())}"
    host = "podinfo.platform.example.com"
    to = ("--resolve", f"{host}:443:{INGRESS_ADDRESS}")
    world.run("curl", "--silent", "--insecure", *to, f"https://{host}/{name}")
    entry = found(world, f"kubernetes.container_name:=traefik RequestPath:/{name}")
    assert entry["RequestHost"] == host
    assert entry["kubernetes.pod_namespace"] == "traefik"
    assert entry["kubernetes.pod_node_name"].startswith("node")


def test_who_opened_a_shell_in_a_pod_is_found_in_the_audit_log(world: World) -> None:
    kubectl(world, "exec", "--namespace", "app-podinfo", "deployment/podinfo", "--", "ls")
    entry = found(world, "log:=audit objectRef.subresource:=exec")
    assert entry["objectRef.namespace"] == "app-podinfo"
    assert entry["user.username"]
    assert entry["node"].startswith("node")


# --- Alerts ------------------------------------------------------------------------------------


def test_a_backup_that_is_too_old_is_told_until_the_next_one(
    world: World, quick: Repository
) -> None:
    job = ("create", "job", "--namespace", "platform-backup", "--from", "cronjob/etcd-backup")
    kubectl(world, *job, "first")
    quick.replace(f"{FOLDER}/rules/backup.yaml", "> 2 * 3600", "> 45")
    quick.push("a backup is old after 45 seconds")
    with caused(world, "BackupOld", r"newest backup of etcd is .* old", "rebuild-from-backup"):
        kubectl(world, *job, "second")
    quick.revert()


def test_a_certificate_of_one_day_is_told_until_it_is_gone(world: World, quick: Repository) -> None:
    assert quick
    manifest(world, CERTIFICATE.format(name="short", issuer="private-ca"))
    with caused(world, "CertificateEnds", r"certificate short of traefik", "rotate-secret"):
        kubectl(world, "delete", "certificate", "short", "--namespace", "traefik")


def test_a_certificate_that_nobody_issues_is_told(world: World, quick: Repository) -> None:
    assert quick
    manifest(world, CERTIFICATE.format(name="never", issuer="unknown"))
    with caused(world, "CertificateNotReady", r"no certificate never for traefik", "rotate-secret"):
        kubectl(world, "delete", "certificate", "never", "--namespace", "traefik")


def manifest(world: World, text: str) -> None:
    file = world.stack_file.parent / "manifest.yaml"
    file.write_text(text)
    kubectl(world, "apply", "--filename", str(file))


def test_a_pool_that_is_nearly_full_is_told(world: World, quick: Repository) -> None:
    assert quick
    manifest(world, "---".join(SERVICE.format(number=number) for number in range(48)))
    with caused(world, "AddressPoolNearlyEmpty", r"9[0-9.]*% of .* pool default", "expand-pool"):
        kubectl(world, "delete", "services", "--namespace", "default", "--all")


def test_an_application_that_is_not_as_git_says_is_told(world: World, quick: Repository) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "refused"},
        "rules": [],
    }
    (quick.folder / "apps/base/podinfo/role.yaml").write_text(yaml.safe_dump(role))
    quick.replace(
        "apps/base/podinfo/kustomization.yaml",
        "  - ingress.yaml",
        "  - ingress.yaml\n  - role.yaml",
    )
    quick.push("podinfo wants a role of the whole cluster")
    with caused(world, "ApplicationNotAsInGit", r"podinfo .*OutOfSync", "undo-change"):
        quick.revert()


def test_an_application_that_does_not_get_ready_is_told(world: World, quick: Repository) -> None:
    deployment = "apps/base/podinfo/deployment.yaml"
    quick.replace(deployment, "path: /readyz", "path: /never")
    quick.replace(deployment, "  revisionHistoryLimit: 3\n", "  progressDeadlineSeconds: 10\n")
    quick.push("podinfo's new pods are never ready")
    with caused(world, "ApplicationUnhealthy", r"podinfo is Degraded", "recover-application"):
        quick.revert()


def test_an_autoscaler_with_no_pod_left_to_add_is_told(world: World, quick: Repository) -> None:
    path = "apps/base/podinfo/autoscaler.yaml"
    (most,) = re.findall(r"maxReplicas: \d+", (quick.folder / path).read_text())
    quick.replace(path, most, "maxReplicas: 2")
    quick.push("podinfo has two pods at most")
    with caused(
        world, "AutoscalerAtMaximum", r"podinfo of app-podinfo .* 2 pods", "everyday-change"
    ):
        quick.revert()


def test_a_way_that_a_policy_closes_is_told_and_names_what_is_not_read(
    world: World, quick: Repository
) -> None:
    assert quick
    policy = ("networkpolicy", "ingress", "--namespace", "traefik")
    spec = read(world, *policy)["spec"]
    closed = [rule for rule in spec["ingress"] if rule.get("ports") != metrics_of(spec)]
    assert len(closed) == len(spec["ingress"]) - 1
    with (
        patched(world, policy, {"spec": {"ingress": closed}}, {"spec": spec}) as opens,
        caused(world, "TargetAway", r"traefik \(traefik-.*is not read", "alerts"),
    ):
        opens()


def metrics_of(spec: Object) -> Any:
    """Give the ports of the rule that lets monitoring in."""
    (ports,) = (
        rule["ports"]
        for rule in spec["ingress"]
        for peer in rule.get("from", ())
        if "platform.io/scrapes-metrics" in str(peer)
    )
    return ports


@contextmanager
def patched(
    world: World, what: tuple[str, ...], change: Object, back: Object
) -> Iterator[Callable[[], None]]:
    """Change an object; gives what changes it back, which happens at the end at the latest."""

    def patch(to: Object) -> None:
        kubectl(world, "patch", *what, "--type", "merge", "--patch", json.dumps(to))

    patch(change)
    try:
        yield lambda: patch(back)
    finally:
        patch(back)


def test_a_target_that_is_gone_is_told(world: World, quick: Repository) -> None:
    assert quick
    scale = ("scale", "deployment", "metrics-server", "--namespace", "metrics-server")
    replicas = read(world, "deployment", "metrics-server", "--namespace", "metrics-server")
    kubectl(world, *scale, "--replicas", "0")
    with caused(world, "TargetMissing", r"metrics-server has no target", "alerts"):
        kubectl(world, *scale, "--replicas", str(replicas["spec"]["replicas"]))


def test_a_secret_that_ends_soon_is_told(world: World, quick: Repository) -> None:
    assert quick
    whole = world.stack_file.read_text()
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * 86400))
    name = "    name: prod\n"
    assert name in whole
    expiry = f'    expiries: [{{ name: heartbeatUrl, ends: "{day}" }}]\n'
    try:
        world.stack_file.write_text(whole.replace(name, name + expiry))
        world.up()
        with caused(world, "SecretEnds", rf"heartbeatUrl ends on {day}", "rotate-secret"):
            world.stack_file.write_text(whole)
            world.up()
    finally:
        world.stack_file.write_text(whole)


def test_a_machine_that_is_away_is_told_once_and_what_is_missing_on_it_is_not(
    world: World, quick: Repository
) -> None:
    assert quick
    lost = next(one for one in ("node03", "node02", "node01") if one not in watched_from(world))
    before = count(world)
    world.run("govc", "vm.power", "-off", "-force", lost)
    try:
        with caused(world, "NodeAway", rf"^{lost} does not answer", "replace-machine"):
            wait_told(world, "EtcdNoSpareMember", "firing", after=before)
            away = "ControlPlaneComponentAway"
            wait_until("its etcd to be missed", lambda: away in firing(world), seconds=QUICK)
            time.sleep(30)  # until somebody would have been told
            assert told(world, away, "firing", lost, before) is None
            world.run("govc", "vm.power", "-on", lost)
        wait_told(world, "EtcdNoSpareMember", "resolved", after=before)
    finally:
        world.run("govc", "vm.power", "-on", lost, code=None)


def watched_from(world: World) -> set[str]:
    """Name the machines on which the pods that watch run."""
    pods = read(world, "pods", "--namespace", NAMESPACE)["items"]
    return {one["spec"]["nodeName"] for one in pods if "kube-state" not in one["metadata"]["name"]}


# What no test can cause in minutes is written as series, with times in the past: the rules, who is
# told and what it says are the real ones.
HOURS = 6
FED: dict[str, tuple[dict[str, tuple[float, float]], str, str]] = {
    "EtcdWithoutLeader": (
        {'etcd_server_has_leader{job="etcd",node="fed"}': (0, 1)},
        r"no leader",
        "lost-quorum",
    ),
    "EtcdNearlyFull": (
        {
            'etcd_mvcc_db_total_size_in_bytes{job="etcd",node="fed"}': (7e9, 1e9),
            'etcd_server_quota_backend_bytes{job="etcd",node="fed"}': (8e9, 8e9),
        },
        r"etcd of fed uses 87.5%",
        "etcd-maintenance",
    ),
    "ControlPlaneComponentAway": (
        {'up{job="kube-scheduler",node="fed"}': (0, 1)},
        r"kube-scheduler of fed does not answer",
        "replace-machine",
    ),
    "ApiUnanswered": (
        {'up{job="api",instance="192.0.2.1:6443"}': (0, 1)},
        r"not answer at 192.0.2.1:6443",
        "lost-quorum",
    ),
}
"""Of each alert: series with a value that causes it and one that does not, its words, its page."""


def feed(world: World, lines: list[str]) -> None:
    """Write samples into VictoriaMetrics, as Prometheus' text with times in milliseconds.

    By a forwarded port: no policy lets anybody else write.
    """
    file = world.stack_file.parent / "samples"
    file.write_text("\n".join(lines) + "\n")
    path = "localhost:18428/monitoring/api/v1/import/prometheus"
    forward = f"kubectl port-forward --namespace {NAMESPACE} deployment/victoria-metrics 18428:8428"
    retry = "--retry 20 --retry-delay 1 --retry-connrefused"
    send = f"curl --silent --show-error --fail {retry} --data-binary @{file} {path}"
    world.run("bash", "-c", f"{forward} > /dev/null & trap 'kill %1' EXIT; {send}")


def now() -> int:
    return int(time.time() * 1000)


@pytest.mark.parametrize("alert", FED)
def test_an_alert_is_told_from_series_that_are_written_for_it(
    world: World, quick: Repository, alert: str
) -> None:
    assert quick
    series, says, page = FED[alert]
    before, end = count(world), time.monotonic() + 2 * QUICK
    while told(world, alert, "firing", says, before) is None and time.monotonic() < end:
        feed(world, [f"{name} {bad} {now()}" for name, (bad, _) in series.items()])
        time.sleep(10)
    with caused(world, alert, says, page, before):
        feed(world, [f"{name} {good} {now()}" for name, (_, good) in series.items()])


def test_a_disk_that_fills_is_told_days_before(world: World, quick: Repository) -> None:
    assert quick
    labels = 'job="cadvisor",id="/",node="fed"'
    claim = 'persistentvolumeclaim="fed",namespace="x"'
    lines = []
    for minute in range(HOURS * 60, -1, -5):
        used = 90e9 - minute / (HOURS * 60) * 10e9
        at = now() - minute * 60_000
        lines += [
            f"container_fs_usage_bytes{{{labels}}} {used} {at}",
            f"container_fs_limit_bytes{{{labels}}} 1e11 {at}",
            f"kubelet_volume_stats_available_bytes{{{claim}}} {1e11 - used} {at}",
            f"kubelet_volume_stats_capacity_bytes{{{claim}}} 1e11 {at}",
        ]
    before = count(world)
    feed(world, lines)
    disk, volume = r"disk of fed is full within", r"volume fed of x"
    with (
        caused(world, "DiskFilling", disk, "everyday-change", before),
        caused(world, "VolumeFilling", volume, "local-volumes", before),
    ):
        emptied = [
            f"container_fs_usage_bytes{{{labels}}} 1e9 {now()}",
            f"kubelet_volume_stats_available_bytes{{{claim}}} 9e10 {now()}",
        ]
        feed(world, emptied)


def test_a_slow_disk_of_etcd_and_a_client_certificate_that_ends_are_told(
    world: World, quick: Repository
) -> None:
    """Wait for both at once: each is over when nothing of it is left in what its rule looks at."""
    assert quick
    before = count(world)
    feed(world, [*slow_writes(), *short_certificates()])
    slow, ends = r"disk of fed takes ", r"shows a certificate that ends in"
    with (
        caused(world, "EtcdSlowDisk", slow, "etcd-maintenance", before),
        caused(world, "ClientCertificateEnds", ends, "rotate-secret", before),
    ):
        pass


def slow_writes() -> Iterator[str]:
    """Give etcd's histogram for a disk that has taken a second for each write, for five minutes."""
    for minute in range(5, -1, -1):
        number, at = (5 - minute) * 100, now() - minute * 60_000
        for limit, part in (("0.512", 0), ("1.024", number), ("+Inf", number)):
            labels = f'job="etcd",node="fed",le="{limit}"'
            yield f"etcd_disk_wal_fsync_duration_seconds_bucket{{{labels}}} {part} {at}"


def short_certificates() -> Iterator[str]:
    """Give an API server's histogram of clients whose certificates end within thirty days."""
    name = "apiserver_client_certificate_expiration_seconds"
    labels = 'job="kube-apiserver",instance="fed"'
    for minute in range(5, -1, -1):
        number, at = (5 - minute) * 10_000, now() - minute * 60_000
        for limit in ("86400", "2.592e+06", "+Inf"):
            part = 0 if limit == "86400" else number
            yield f'{name}_bucket{{{labels},le="{limit}"}} {part} {at}'
        yield f"{name}_count{{{labels}}} {number} {at}"


def test_a_release_past_its_support_is_told_until_it_is_replaced(
    world: World, quick: Repository
) -> None:
    path = f"{FOLDER}/rules/support.yaml"
    for product, ended in (("Talos 1.13", "1795910400"), ("Kubernetes 1.34", "1793145600")):
        wait_told(world, "SupportEnded", "firing", f"{product} has got no more fixes")
        quick.replace(path, f"> {ended}", "> 4102444800")
    before = count(world)
    quick.push("no release is old")
    for product in ("Talos 1.13", "Kubernetes 1.34"):
        wait_told(world, "SupportEnded", "resolved", f"{product} has got no more fixes", before)
    quick.revert()


def said(world: World, service: str, words: str) -> list[str]:
    """Give what a receiver was told that has these words, as JSON."""
    every = [json.dumps(one) for one in messages(world, service)]
    return [one for one in every if words in one]


def wait_said(world: World, service: str, words: str) -> str:
    """Wait until a receiver was told these words; gives the newest message with them."""
    wait_until(f"{service}: {words}", lambda: bool(said(world, service, words)), seconds=QUICK)
    return said(world, service, words)[-1]


def test_each_receiver_is_told_in_its_own_form_and_the_pager_of_critical_alerts_alone(
    world: World, quick: Repository
) -> None:
    assert quick
    before = count(world)
    series = 'etcd_server_has_leader{job="etcd",node="told"}'
    feed(world, [f"{series} 0 {now()}"])
    with caused(world, "EtcdWithoutLeader", "no leader", "lost-quorum", before):
        feed(world, [f"{series} 1 {now()}"])

    for service in ("slack", "email", "pagerduty"):
        told_of = wait_said(world, service, "prod: EtcdWithoutLeader (firing)")
        assert "critical: A member of etcd has no leader" in told_of
        assert "docs/procedures/lost-quorum.md" in told_of
        wait_said(world, service, "prod: EtcdWithoutLeader (resolved)")
    assert said(world, "slack", "prod: CertificateEnds (firing)")
    assert not said(world, "pagerduty", "CertificateEnds")
    events = messages(world, "pagerduty")
    assert {one["payload"]["severity"] for one in events} == {"critical"}
    assert [one["event_action"] for one in events[-2:]] == ["trigger", "resolve"]
    assert events[-2]["dedup_key"] == events[-1]["dedup_key"]
    (mail,) = messages(world, "email")[-1:]
    assert (mail["from"], mail["to"]) == ("alerts@example.com", ["platform@example.com"])


# --- What watches fails itself -----------------------------------------------------------------


def test_a_receiver_that_refuses_is_told_by_the_others(world: World, quick: Repository) -> None:
    """Let the webhook's URL be another one, of which Alertmanager learns with the Secret."""
    assert quick
    secret = ("secret", "receivers", "--namespace", NAMESPACE)
    was = read(world, *secret)["data"]["webhook"]
    wrong = base64.b64encode(b"https://alerts.example.net/alerts/unknown").decode()

    def told_in_slack(state: str) -> bool:
        found = said(world, "slack", f"PeopleNotTold ({state})")
        return any("cannot tell the receiver webhook" in one for one in found)

    with patched(world, secret, {"data": {"webhook": wrong}}, {"data": {"webhook": was}}) as back:
        quick.replace(f"{FOLDER}/rules/support.yaml", "> 1795910400", "> 4102444800")
        quick.push("something to tell")
        wait_until("the others to be told", lambda: told_in_slack("firing"), seconds=2 * QUICK)
        back()
        wait_until("it to be over", lambda: told_in_slack("resolved"), seconds=3 * QUICK)
    quick.revert()


def test_when_hardly_anything_is_read_any_more_that_is_told(
    world: World, quick: Repository
) -> None:
    assert quick
    policy = ("networkpolicy", "victoria-metrics", "--namespace", NAMESPACE)
    spec = read(world, *policy)["spec"]
    with (
        patched(world, policy, {"spec": {"egress": []}}, {"spec": spec}) as opens,
        caused(world, "MostNotRead", r"Most targets do not answer", "alerts"),
    ):
        opens()


def test_a_rule_that_cannot_be_evaluated_is_told(world: World, quick: Repository) -> None:
    rules = quick.folder / FOLDER / "rules" / "network.yaml"
    rules.write_text(rules.read_text() + AMBIGUOUS)
    quick.push("a rule that compares each target with all others")
    with caused(world, "RuleFails", r"A rule of the group network cannot be evaluated", "alerts"):
        quick.revert()


# --- Switched off ------------------------------------------------------------------------------

OF_WATCHING = re.compile(
    r"(?<!system:)monitoring|logging|victoria|vmalert|alertmanager|vlagent|kube-state"
)
"""But not Kubernetes' own role `system:monitoring`."""
KINDS = "namespaces,clusterroles,clusterrolebindings,persistentvolumes"


def left_of_watching(world: World) -> list[str]:
    """Name what is there of monitoring and logging: in the cluster, in Argo CD, in the stack."""
    there = kubectl(world, "get", KINDS, "--output", "name").splitlines()
    applications = ("get", "applications,applicationsets", "--namespace", "argocd")
    there += kubectl(world, *applications, "--output", "name").splitlines()
    resources = world.state_with_secrets()["deployment"]["resources"]
    there += [one["urn"].rpartition("::")[2] for one in resources]
    return [one for one in there if OF_WATCHING.search(one)]


def follow(world: World, repository: Repository, subject: str) -> str:
    """Write what follows from the stack file, commit and push it; gives the commit."""
    write_generated(world.stack_file)
    shutil.rmtree(repository.folder / GENERATED)
    shutil.copytree(world.stack_file.parent / GENERATED, repository.folder / GENERATED)
    return repository.push(subject)


def test_switched_off_nothing_of_it_is_there_and_switched_on_it_watches_again(
    world: World, quick: Repository
) -> None:
    whole = world.stack_file.read_text()
    without, cut = re.subn(r"    logging: .*\n    monitoring:\n(?:      .*\n)+", "", whole)
    assert cut == 1
    assert left_of_watching(world)

    world.stack_file.write_text(without)
    follow(world, quick, "nothing watches")
    world.up()
    wait_until("nothing of it to be there", lambda: not left_of_watching(world), seconds=QUICK)
    world.expect_no_changes()

    world.stack_file.write_text(whole)
    commit = follow(world, quick, "the platform is watched")
    world.up()
    for name in (NAMESPACE, "logging"):
        wait_until(f"{name} to run", lambda: is_well(world, name, commit), seconds=600)  # noqa: B023 called at once
    wait_until("targets to be read", lambda: len(samples(world, "up == 1")) > 50, seconds=QUICK)
    world.expect_no_changes()
