"""Each object has one owner: docs/ownership.md, held against the program and against Git."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.gitops.generated import folder
from config import load_file, versions
from config.placeholders import IN_LAB
from ops.drift.finding import ARGOCD, PULUMI
from ops.drift.ownership import Thing, table
from tests.lab.kustomize import Object, build, identity
from tests.unit.recorder import ROOT, Platform, install_talosctl, plain, root_of, run_production

SETTINGS = load_file(ROOT / "Pulumi.prod.yaml")
CLUSTER_URL = "https://kubernetes.default.svc"


@pytest.fixture(autouse=True)
def talosctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    # The project's own settings hold placeholders, which the program takes in a world only.
    monkeypatch.setenv(IN_LAB, str(tmp_path))


def thing(one: Object) -> Thing:
    group, kind, namespace, name = identity(one)
    return Thing(group, kind, namespace or "-", name)


def registered(platform: Platform) -> Iterator[Thing]:
    """Give what the program makes on the cluster."""
    for one in platform.resources:
        package, _, rest = one.type.partition(":")
        if package != "kubernetes":
            continue
        inputs = plain(one.inputs)
        group, kind = rest.partition("/")[0], rest.rpartition(":")[2]
        where = inputs if kind == "Release" else inputs["metadata"]
        name = where["name"]
        yield Thing("" if group == "core" else group, kind, where.get("namespace", "-"), name)


def bootstrapped() -> list[Object]:
    """Give what the root Application syncs."""
    return build(ROOT / folder(SETTINGS.talos.patches))


def applications() -> list[Object]:
    """Give the Applications of the cluster, with those that the ApplicationSet makes."""
    found = [one for one in bootstrapped() if one["kind"] == "Application"]
    for one in bootstrapped():
        if one["kind"] == "ApplicationSet":
            template = yaml.safe_dump(one["spec"]["template"])
            for path in overlays(one):
                text = template.replace("{{.path.basename}}", path.name)
                text = text.replace("{{.path.path}}", str(path.relative_to(ROOT)))
                made = yaml.safe_load(text)
                assert "{{" not in text
                found.append({"apiVersion": one["apiVersion"], "kind": "Application", **made})
    return [root_of(SETTINGS), *found]


def overlays(applicationset: Object) -> list[Path]:
    (generator,) = applicationset["spec"]["generators"]
    (directory,) = generator["git"]["directories"]
    return sorted(path for path in ROOT.glob(directory["path"]) if path.is_dir())


def synced(application: Object) -> list[Object]:
    """Give what an Application syncs out of this repository; a chart is the release's."""
    source = application["spec"].get("source")
    return build(ROOT / source["path"]) if source else []


def sources(application: Object) -> list[dict[str, Any]]:
    spec = application["spec"]
    return spec.get("sources") or [spec["source"]]


def project(application: Object) -> Object:
    (found,) = (
        one
        for one in bootstrapped()
        if one["kind"] == "AppProject" and one["metadata"]["name"] == application["spec"]["project"]
    )
    return found


def permits(project: Object, one: Thing) -> bool:
    spec = project["spec"]
    if one.namespace == "-":
        return any(
            (item["group"], item["kind"]) == (one.group, one.kind)
            and fnmatchcase(one.name, item.get("name", "*"))
            for item in spec["clusterResourceWhitelist"]
        )
    return any(
        fnmatchcase(one.namespace, item["namespace"]) for item in spec["destinations"]
    ) and any(
        (item["group"], item["kind"]) == (one.group, one.kind)
        for item in spec["namespaceResourceWhitelist"]
    )


# --- One owner ---------------------------------------------------------------------------------


def test_every_object_s_first_row_in_the_table_names_its_owner() -> None:
    rows = table()
    made = dict.fromkeys(registered(run_production()), PULUMI)
    made[Thing("helm.sh", "Release", "argocd", "argo-cd")] = ARGOCD  # handed over
    read = [thing(one) for app in applications() for one in (*synced(app), app)]
    made |= {one: ARGOCD for one in read if one.name != "root" or one.kind != "Application"}
    wrong = [
        f"{one.kind} {one.namespace}/{one.name}: {owner}, and the table says "
        f"{next((row.owner for row in rows if row.matches(one)), 'nothing')}"
        for one, owner in made.items()
        if next((row.owner for row in rows if row.matches(one)), None) != owner
    ]
    assert wrong == []


def test_nothing_that_pulumi_owns_is_in_an_application() -> None:
    pulumi = set(registered(run_production()))
    argocd = {thing(one) for application in applications() for one in synced(application)}
    assert len(pulumi) > 50
    assert len(argocd) > 10
    assert pulumi & argocd == set()


def test_no_project_permits_what_pulumi_owns() -> None:
    projects = [one for one in bootstrapped() if one["kind"] == "AppProject"]
    assert [one["metadata"]["name"] for one in projects] == [
        "apps",
        "default",
        "platform",
        "services",
    ]
    reached = [
        (one["metadata"]["name"], *owned)
        for one in projects
        for owned in registered(run_production())
        if permits(one, owned)
    ]
    # The root Application lies where the Applications are that it makes.
    assert reached == [("default", "argoproj.io", "Application", "argocd", "root")]


def test_projects_permit_what_their_applications_sync() -> None:
    for application in applications():
        allowed = project(application)["spec"]
        assert {one["repoURL"] for one in sources(application)} <= set(allowed["sourceRepos"])
        namespace = application["spec"]["destination"]["namespace"]
        assert any(fnmatchcase(namespace, one["namespace"]) for one in allowed["destinations"])
        assert {one["server"] for one in allowed["destinations"]} == {CLUSTER_URL}
        refused = [
            one for one in map(thing, synced(application)) if not permits({"spec": allowed}, one)
        ]
        assert refused == []


# --- The handover ------------------------------------------------------------------------------


def test_argocd_syncs_the_chart_that_pulumi_installed() -> None:
    (own,) = (one for one in applications() if one["metadata"]["name"] == "argo-cd")
    chart, values = sources(own)
    release = run_production().one("kubernetes:helm.sh/v3:Release", "argo-cd").inputs
    assert chart["targetRevision"] == release["version"] == versions.ARGO_CD
    assert chart["chart"] == release["chart"]
    assert chart["repoURL"] == release["repositoryOpts"]["repo"]
    assert chart["helm"]["releaseName"] == release["name"]
    assert own["spec"]["destination"]["namespace"] == release["namespace"]
    assert values["ref"] == "values"
    for name in chart["helm"]["valueFiles"]:
        assert (ROOT / name.removeprefix("$values/")).is_file()


def test_no_application_waits_for_a_controller_and_what_argocd_lives_on_is_never_pruned() -> None:
    for one in applications():
        assert "finalizers" not in one["metadata"]
        automated = one["spec"]["syncPolicy"]["automated"]
        assert automated["selfHeal"] is True
        assert automated["prune"] is (one["spec"]["project"] in {"apps", "services"})
        assert "CreateNamespace=false" in one["spec"]["syncPolicy"]["syncOptions"]
    for one in bootstrapped():
        if one["kind"] == "ApplicationSet":
            assert one["spec"]["syncPolicy"]["preserveResourcesOnDeletion"] is True


def test_the_root_is_in_the_project_that_is_always_there() -> None:
    root = applications()[0]
    assert root["spec"]["project"] == "default"
    assert {one["kind"] for one in synced(root)} == {"Application", "ApplicationSet", "AppProject"}


# --- Applications ------------------------------------------------------------------------------


APPLICATIONS = sorted(path.name for path in ROOT.glob("apps/overlays/prod/*"))
EACH_APPLICATION = pytest.mark.parametrize("name", APPLICATIONS)


def workloads() -> dict[str, list[Object]]:
    """Give the objects of each application of apps/."""
    return {
        one["metadata"]["name"]: synced(one)
        for one in applications()
        if one["spec"]["project"] == "apps"
    }


def of(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def test_there_is_an_application() -> None:
    assert list(workloads()) == APPLICATIONS == ["podinfo"]


@EACH_APPLICATION
def test_an_application_brings_its_namespace_and_denies_by_default(name: str) -> None:
    objects = workloads()[name]
    (namespace,) = of(objects, "Namespace")
    assert namespace["metadata"]["name"] == f"app-{name}"
    modes = ("enforce", "audit", "warn")
    labels = namespace["metadata"]["labels"]
    assert {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes} == labels
    rest = [one for one in objects if one is not namespace]
    assert {one["metadata"]["namespace"] for one in rest} == {f"app-{name}"}
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert deny in [one["spec"] for one in of(objects, "NetworkPolicy")]


@EACH_APPLICATION
def test_an_application_is_scaled_and_survives_a_drain(name: str) -> None:
    objects = workloads()[name]
    for one in of(objects, "Deployment"):
        assert "replicas" not in one["spec"]
        (scaler,) = (
            other
            for other in of(objects, "HorizontalPodAutoscaler")
            if other["spec"]["scaleTargetRef"]["name"] == one["metadata"]["name"]
        )
        assert scaler["spec"]["minReplicas"] >= 2
        labels = one["spec"]["template"]["metadata"]["labels"]
        budgets = [
            other["spec"]
            for other in of(objects, "PodDisruptionBudget")
            if other["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert [budget["maxUnavailable"] for budget in budgets] == [1], name


@EACH_APPLICATION
def test_an_application_s_pods_may_do_nothing_that_they_need_not(name: str) -> None:
    objects = workloads()[name]
    for one in of(objects, "Deployment"):
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] != "default"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert re.fullmatch(r"\S+/\S+:\d+\.\d+\.\d+", container["image"]), name
        assert {one["spec"]["type"] for one in of(objects, "Service")} == {"ClusterIP"}


@EACH_APPLICATION
def test_an_application_s_host_is_covered_by_the_platform_s_certificate(name: str) -> None:
    objects = workloads()[name]
    certificates = SETTINGS.services.cert_manager
    assert certificates is not None
    for one in of(objects, "Ingress"):
        assert one["spec"]["ingressClassName"] == "traefik"
        assert [rule["host"] for rule in one["spec"]["rules"]] == [f"{name}.{certificates.domain}"]
