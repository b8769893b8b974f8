"""The site's own way out: a proxy, mirrors, and authorities of the company."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
from typing import Any

import pytest

from clients.vcenter.connection import VCenter
from components.gitops.generated import SETTINGS, VALUES, files
from components.kubernetes import cert_manager
from components.kubernetes.argocd import merged
from components.kubernetes.dns_solver import SolverError, wait_served
from components.kubernetes.foundation import _files
from components.layers import plans
from components.talos.configuration import documents, patches
from components.talos.inputs import TalosInputs
from components.talos.patch_files import PatchError, check_patch_files
from config import Settings, SettingsError, parse, plain_yaml
from config.charts import ChartPlan
from config.needed_secrets import needed
from config.settings import API_PORT
from config.way_out import ROOTS, ROOTS_FOLDER, WayOut
from ops.render import facts
from tests.unit.certificates import certificate
from tests.unit.hand_clock import Time
from tests.unit.recorder import (
    ROOT,
    Platform,
    is_secret,
    on_one_machine,
    plain,
    production,
    public_text,
    run,
    with_services,
)

AUTHORITY = base64.b64decode(certificate(dt.datetime(2031, 1, 1, tzinfo=dt.UTC))).decode()
PROXY = {"url": "http://172.16.30.9:3128", "direct": [".corp.net", "10.0.0.0/8"]}
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
TO_THE_PROXY = {
    "to": [{"ipBlock": {"cidr": "172.16.30.9/32"}}],
    "ports": [{"port": 3128, "protocol": "TCP"}],
}

pytestmark = pytest.mark.usefixtures("talosctl")


def given(**changes: dict[str, Any]) -> dict[str, Any]:
    """Give production's settings, on one machine, with more keys in some sections or services."""
    settings = on_one_machine(production())
    for section, more in changes.items():
        place = settings if section in settings else settings["services"]
        place[section] |= more
    return settings


def problems(**changes: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(given(**changes))
    return str(caught.value)


def egress(platform: Platform, policy: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.one(POLICY, policy).inputs["spec"]["egress"]
    return found


def open_ports(rules: list[dict[str, Any]]) -> set[int]:
    """Give the TCP ports on which everybody may be reached."""
    return {
        one["port"]
        for rule in rules
        if "to" not in rule
        for one in rule["ports"]
        if one["protocol"] == "TCP"
    }


def backup_pod(platform: Platform) -> dict[str, Any]:
    job = platform.one("kubernetes:batch/v1:CronJob", "etcd-backup").inputs["spec"]
    found: dict[str, Any] = job["jobTemplate"]["spec"]["template"]["spec"]
    return found


def argo_values(settings: Settings) -> dict[str, Any]:
    (file,) = (one for one in files(settings) if one.path.endswith(VALUES))
    found: dict[str, Any] = plain_yaml.read(file.text)
    return found


def machine_documents(settings: Settings) -> dict[str, dict[str, Any]]:
    made = documents(TalosInputs.of(settings), settings.machines[0])
    return {one["kind"]: one for one in made if "kind" in one}


# --- A proxy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("172.16.20.51", True),  # a machine
        ("10.96.0.1", True),  # the API's Service
        ("kubernetes.default.svc", True),
        ("s3.corp.net", True),
        ("corp.net", False),  # a leading dot means the names below it
        ("xcorp.net", False),
        ("github.com", False),
        ("203.0.113.9", False),
    ],
)
def test_what_is_direct_is_what_go_and_curl_take_for_it(host: str, *, direct: bool) -> None:
    way = WayOut.of(parse(given(network={"proxy": PROXY})))
    assert way.is_direct(host) is direct
    assert WayOut().is_direct(host)


def of_backups(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave of settings what backups need."""
    return with_services(settings, "cilium", "backup")


def test_machines_are_told_of_the_proxy_and_of_what_stays_direct() -> None:
    document = machine_documents(parse(given(network={"proxy": PROXY})))["EnvironmentConfig"]
    assert document["variables"]["https_proxy"] == "http://172.16.30.9:3128"
    direct = document["variables"]["no_proxy"].split(",")
    for one in ("172.16.20.0/24", "10.244.0.0/16", "10.96.0.0/12", ".svc", ".corp.net"):
        assert one in direct
    assert "EnvironmentConfig" not in machine_documents(parse(production()))


def test_what_goes_outside_uses_the_proxy_and_may_reach_nothing_else() -> None:
    platform = run(given(network={"proxy": PROXY}, backup={"endpoint": "https://s3.example.com"}))
    backup = egress(platform, "platform-backup/backup")
    assert open_ports(backup) == {50000}
    assert TO_THE_PROXY in backup
    manager = egress(platform, "cert-manager/controller")
    assert open_ports(manager) == {53, API_PORT}
    assert TO_THE_PROXY in manager
    for part, ports in {
        "repo-server": {22},
        "dex": {API_PORT},
        "notifications": {API_PORT},
    }.items():
        rules = egress(platform, f"argocd/{part}")
        assert open_ports(rules) == ports
        assert TO_THE_PROXY in rules
    for part in ("server", "controller", "applicationset"):
        assert TO_THE_PROXY not in egress(platform, f"argocd/{part}")


def test_what_is_direct_stays_open_on_its_own_port_and_the_proxy_is_not() -> None:
    storage = {"endpoint": "https://s3.corp.net:9000"}
    platform = run(of_backups(given(network={"proxy": PROXY}, backup=storage)))
    backup = egress(platform, "platform-backup/backup")
    assert open_ports(backup) == {9000, 50000}
    assert TO_THE_PROXY not in backup


def test_a_proxy_with_a_name_is_opened_by_its_port() -> None:
    named = {"url": "http://proxy.corp.net:8080"}
    platform = run(of_backups(given(network={"proxy": named})))
    assert open_ports(egress(platform, "platform-backup/backup")) == {8080, 50000}


def test_the_job_asks_talos_without_the_proxy() -> None:
    (container,) = backup_pod(run(of_backups(given(network={"proxy": PROXY}))))["containers"]
    told = {one["name"]: one["value"] for one in container["env"]}
    assert told["https_proxy"] == "http://172.16.30.9:3128"
    assert "talos.default" in told["no_proxy"].split(",")


def test_argo_cds_parts_call_each_other_without_the_proxy() -> None:
    values = argo_values(parse(given(network={"proxy": PROXY})))
    for part, key in (("repoServer", "env"), ("dex", "env"), ("notifications", "extraEnv")):
        told = {one["name"]: one["value"] for one in values[part][key]}
        assert told["https_proxy"] == "http://172.16.30.9:3128"
        assert "argo-cd-argocd-repo-server" in told["no_proxy"].split(",")


def test_charts_know_every_key_of_a_proxy_and_of_authorities() -> None:
    site = {"trustedRoots": AUTHORITY}
    own = {"repositoryUrl": "https://git.corp.net/p", "repositoryAuthority": "company"}
    settings = parse(given(network={"proxy": PROXY}, site=site, argocd=own))
    base = plain_yaml.read((ROOT / "bootstrap/argo-cd/values.yaml").read_text())
    charts = {one.chart: one for one in plans(settings)}
    argo = charts["argo-cd"]
    values = merged(base, argo_values(settings))
    assert values["repoServer"]["volumes"]
    found = ChartPlan(argo.chart, argo.repository, argo.version, argo.namespace, values)
    assert facts.problems((charts["cert-manager"], found)) == []
    assert charts["cert-manager"].values["https_proxy"] == "http://172.16.30.9:3128"


@pytest.mark.parametrize(
    ("proxy", "fault"),
    [
        ({"url": "http://user:word@proxy.corp.net:3128"}, "secret in plain text"),
        ({"url": "http://proxy.corp.net"}, "with its port"),
        ({"url": "http://172.16.20.100:3128"}, "overlaps"),  # of a pool
        (
            {"url": "http://proxy.corp.net:3128", "direct": ["*.corp.net"]},
            r"\.example\.com for all",
        ),
        ({"url": "http://proxy.corp.net:3128", "direct": ["10.0.0.1/8"]}, "host bits"),
    ],
)
def test_a_proxy_that_cannot_be_is_refused(proxy: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        parse(given(network={"proxy": proxy}))
    assert "user:word" not in str(caught.value)


# --- Authorities of the company ----------------------------------------------------------------


def test_everything_that_goes_outside_trusts_the_companys_authorities() -> None:
    settings = given(site={"trustedRoots": AUTHORITY})
    platform = run(settings)
    maps = {one.inputs["metadata"]["namespace"]: one for one in platform.all(CONFIG_MAP)}
    assert set(maps) == {"argocd", "cert-manager", "monitoring", "platform-backup"}
    assert all(one.inputs["data"] == {"ca.crt": AUTHORITY} for one in maps.values())
    pod = backup_pod(platform)
    assert {"name": ROOTS, "configMap": {"name": ROOTS}} in pod["volumes"]
    (container,) = pod["containers"]
    assert {"name": "SSL_CERT_DIR", "value": ROOTS_FOLDER} in container["env"]
    assert ROOTS_FOLDER in [one["mountPath"] for one in container["volumeMounts"]]
    model = parse(settings)
    assert machine_documents(model)["TrustedRootsConfig"]["certificates"] == AUTHORITY
    assert model.services.cert_manager is not None
    manager = cert_manager.plan(model.services.cert_manager, WayOut.of(model))
    for values, key in (
        (manager.values, "extraEnv"),
        (argo_values(model)["repoServer"], "env"),
        (argo_values(model)["dex"], "env"),
    ):
        assert {"name": "SSL_CERT_DIR", "value": ROOTS_FOLDER} in values[key]
    for chart in ("cert-manager", "argo-cd"):
        release = platform.one("kubernetes:helm.sh/v3:Release", chart)
        namespace = "cert-manager" if chart == "cert-manager" else "argocd"
        assert maps[namespace].urn in release.dependencies


def test_other_authorities_start_the_pods_again_that_read_them_once() -> None:
    other = base64.b64decode(certificate(dt.datetime(2032, 1, 1, tzinfo=dt.UTC))).decode()
    one, two = (WayOut(trusted_roots=text).annotations for text in (AUTHORITY, other))
    assert one != two
    model = parse(given(site={"trustedRoots": AUTHORITY}))
    assert model.services.cert_manager is not None
    manager = cert_manager.plan(model.services.cert_manager, WayOut.of(model))
    assert manager.values["podAnnotations"] == one


def test_git_trusts_the_company_in_place_of_public_authorities_only_where_it_is_said() -> None:
    site, url = {"trustedRoots": AUTHORITY}, "https://git.corp.net/team/platform"
    own = {"repositoryUrl": url, "repositoryAuthority": "company"}
    values = argo_values(parse(given(site=site, argocd=own)))
    assert values["configs"]["tls"] == {"certificates": {"git.corp.net": AUTHORITY}}
    assert "tls" not in argo_values(parse(given(site=site)))["configs"]  # github.com
    public = own | {"repositoryAuthority": "public"}
    assert "tls" not in argo_values(parse(given(site=site, argocd=public)))["configs"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {
                "site": {"trustedRoots": AUTHORITY},
                "argocd": {"repositoryUrl": "https://git.corp.net/p"},
            },
            "repositoryAuthority: missing, with site.trustedRoots",
        ),
        ({"argocd": {"repositoryAuthority": "company"}}, "without site.trustedRoots"),
        ({"site": {"trustedRoots": "company.pem"}}, "not certificates in PEM"),
    ],
)
def test_authorities_that_do_not_fit_are_refused(
    changes: dict[str, dict[str, Any]], fault: str
) -> None:
    assert fault in problems(**changes)


def test_vcenter_is_trusted_when_an_authority_of_the_company_signed_it() -> None:
    def trusted(settings: dict[str, Any]) -> int:
        context = VCenter.of(parse(settings).site).tls()
        assert context.verify_mode is ssl.CERT_REQUIRED
        return context.cert_store_stats()["x509"]

    assert trusted(given(site={"trustedRoots": AUTHORITY})) == trusted(production()) + 1


# --- Storage by http ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://s3.corp.net", 80),
        ("http://s3.corp.net:9000", 9000),
        ("https://s3.corp.net", 443),
    ],
)
def test_storage_is_reached_on_the_port_of_its_scheme(endpoint: str, port: int) -> None:
    platform = run(of_backups(given(backup={"endpoint": endpoint})))
    assert open_ports(egress(platform, "platform-backup/backup")) == {50000, port}


# --- Mirrors -----------------------------------------------------------------------------------


def test_images_come_from_mirrors() -> None:
    mirrors = [
        {
            "registry": "docker.io",
            "endpoints": ["https://mirror.corp.net/v2/hub"],
            "overridePath": True,
            "skipFallback": True,
        },
        {"registry": "*", "endpoints": ["https://mirror.corp.net"]},
    ]
    settings = parse(given(talos={"mirrors": mirrors}))
    made = documents(TalosInputs.of(settings), settings.machines[0])
    assert [one for one in made if one.get("kind") == "RegistryMirrorConfig"] == [
        {
            "apiVersion": "v1alpha1",
            "kind": "RegistryMirrorConfig",
            "name": "docker.io",
            "endpoints": [{"url": "https://mirror.corp.net/v2/hub", "overridePath": True}],
            "skipFallback": True,
        },
        {
            "apiVersion": "v1alpha1",
            "kind": "RegistryMirrorConfig",
            "name": "*",
            "endpoints": [{"url": "https://mirror.corp.net"}],
        },
    ]
    twice = {"mirrors": [mirrors[0], mirrors[0]]}
    assert "the name of another mirror's registry" in problems(talos=twice)


def test_a_registrys_password_is_a_secret_of_the_stack_and_nowhere_in_clear() -> None:
    login = {"registry": "mirror.corp.net", "user": "pull"}
    settings = given(talos={"registryLogin": login}) | {"machines": production()["machines"]}
    platform = run(settings)
    password = "registryPassword-of-the-test"  # noqa: S105 no real one
    asked = [args for name, args in platform.calls if name.startswith("talos:machine/")]
    assert len(asked) == 3
    for args in asked:
        last = plain_yaml.read(plain(args["configPatches"])[-1])
        assert last == {
            "apiVersion": "v1alpha1",
            "kind": "RegistryAuthConfig",
            "name": "mirror.corp.net",
            "username": "pull",
            "password": password,
        }
    for one in platform.resources:
        assert password not in public_text(one.inputs)
    for one in platform.all("talos:machine/configurationApply:ConfigurationApply"):
        assert is_secret(one.inputs["machineConfigurationInput"])
    model = parse(settings)
    assert all(
        password not in one for one in patches(TalosInputs.of(model), model.machines[0], ROOT)
    )
    assert "registryPassword" in [one.name for one in needed(model.services, model.talos)]
    assert "registryPassword" not in [one.name for one in needed(model.services)]


def test_charts_and_definitions_come_from_mirrors() -> None:
    mirror = "https://mirror.corp.net"
    names = ("cilium", "metallb", "certManager", "traefik", "metricsServer", "argocd")
    services = {name: {"repository": f"{mirror}/{name}"} for name in names}
    settings = parse(given(site={"definitions": f"{mirror}/raw/"}, **services))
    assert {one.repository for one in plans(settings)} == {f"{mirror}/{name}" for name in names}
    urls = [manifest.url for _, manifest in _files(settings.services, settings.site.definitions)]
    assert urls
    assert all(
        one.startswith((f"{mirror}/raw/kubernetes-sigs/", f"{mirror}/raw/traefik/")) for one in urls
    )
    (file,) = (one for one in files(settings) if one.path.endswith(SETTINGS))
    assert file.tree["data"]["argoCdRepository"] == f"{mirror}/argocd"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("kind: EnvironmentConfig\nvariables: {https_proxy: http://x:1}\n", "network.proxy"),
        ("kind: TrustedRootsConfig\nname: company\ncertificates: x\n", "site.trustedRoots"),
        (
            "kind: RegistryMirrorConfig\nname: docker.io\nendpoints: [{url: https://x.net}]\n",
            "talos.mirrors",
        ),
    ],
)
def test_a_patch_that_says_otherwise_leads_to_the_setting(
    tmp_path: Any,
    text: str,
    key: str,
) -> None:
    mirrors = [{"registry": "docker.io", "endpoints": ["https://mirror.corp.net"]}]
    settings = parse(
        given(
            network={"proxy": PROXY}, site={"trustedRoots": AUTHORITY}, talos={"mirrors": mirrors}
        )
    )
    folder = tmp_path / settings.talos.patches
    folder.mkdir(parents=True)
    (folder / "common.yaml").write_text(f"apiVersion: v1alpha1\n{text}")
    with pytest.raises(PatchError, match=f"platform:{key}"):
        check_patch_files(settings, tmp_path)


# --- Solvers of one's own ----------------------------------------------------------------------


SOLVER = {
    "provider": "webhook",
    "groupName": "acme.corp.net",
    "solverName": "corp-dns",
    "config": {"zone": "corp.net", "tokenSecretRef": {"name": "dns-token", "key": "token"}},
}


def test_a_domain_is_proven_by_a_solver_of_ones_own_once_that_is_there() -> None:
    platform = run(with_services(given(certManager={"dns": SOLVER}), "cilium", "certManager"))
    issuer = platform.one(
        "kubernetes:cert-manager.io/v1:ClusterIssuer", "issuer-letsencrypt-production"
    )
    (solver,) = issuer.inputs["spec"]["acme"]["solvers"]
    assert solver["dns01"]["webhook"] == {
        "groupName": "acme.corp.net",
        "solverName": "corp-dns",
        "config": SOLVER["config"],
    }
    gate = next(one for one in platform.resources if one.name == "dns-solver")
    assert gate.hooks("before_create") == ["dns-solver-first"]
    assert platform.one("kubernetes:helm.sh/v3:Release", "cert-manager").urn in issuer.dependencies


@pytest.mark.parametrize("lacking", ["groupName", "solverName"])
def test_a_solver_is_named_whole(lacking: str) -> None:
    dns = {key: value for key, value in SOLVER.items() if key != lacking}
    assert f"webhook without `{lacking}`" in problems(certManager={"dns": dns})
    told = SOLVER | {"config": {"apiToken": "word-of-the-test"}}
    said = problems(certManager={"dns": told})
    assert "config.apiToken: a secret in plain text" in said
    assert "word-of-the-test" not in said
    other = {"provider": "cloudflare", "config": {"zone": "x"}}
    assert "cloudflare with `config`" in problems(certManager={"dns": other})


def test_a_solver_that_is_not_there_is_told_with_the_order_that_works() -> None:
    class Api:
        def find(self, path: str) -> dict[str, Any] | None:
            assert path == "/apis/acme.corp.net"
            return None

    with pytest.raises(SolverError, match=r"private-ca.*deliver the solver by Argo CD") as caught:
        wait_served(Api(), "acme.corp.net", Time().clock())  # type: ignore[arg-type]
    assert "acme.corp.net" in str(caught.value)
