"""The real Argo CD takes over its own release, and keeps it from Git."""

from __future__ import annotations

import json
import tarfile

import yaml

from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.real_programs import cluster
from tests.lab.real_programs.argocd import (
    NAMESPACE,
    PODINFO,
    Repository,
    application,
    deployment,
    is_well,
    replicas,
)
from tests.lab.real_programs.cluster import APPLICATION, APPLICATION_HOST, Object, body, curl

VALUES = "bootstrap/argo-cd/values.yaml"
SETTINGS = "clusters/prod/gitops/settings/settings.yaml"
NEXT_CHART = "10.1.2"
"""A version of the chart that its project publishes while the world runs."""
TRACKING = "argocd.argoproj.io/tracking-id"
PODINFOS_COMMAND = "/spec/template/spec/containers/0/command/-"


def kubectl(world: World, *argv: str) -> str:
    """Run kubectl in Argo CD's namespace; gives its output."""
    return cluster.kubectl(world, "--namespace", NAMESPACE, *argv)


def read(world: World, *argv: str) -> Object:
    """Read objects of Argo CD's namespace."""
    return cluster.read(world, "--namespace", NAMESPACE, *argv)


def identity(one: Object) -> str:
    """Name an object."""
    return f"{one['kind']} {one['metadata'].get('namespace', '-')}/{one['metadata']['name']}"


def declared(one: Object) -> Object:
    """Leave out what an API server and controllers add, an autoscaler's number, Argo CD's mark."""
    metadata = {
        key: value
        for key, value in one["metadata"].items()
        if key not in {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"}
    }
    metadata["annotations"] = {
        key: value for key, value in metadata.get("annotations", {}).items() if key != TRACKING
    }
    spec = {key: value for key, value in one.get("spec", {}).items() if key != "replicas"}
    rest = {key: value for key, value in one.items() if key not in {"status", "spec"}}
    return rest | {"metadata": metadata, "spec": spec}


def released(world: World) -> dict[str, Object]:
    """Read every object that Helm's record of Argo CD's release names."""
    manifest = world.stack_file.parent / "release.yaml"
    manifest.write_text(world.run("helm", "get", "manifest", "argo-cd", "-n", NAMESPACE).stdout)
    found = read(world, "--filename", str(manifest))["items"]
    return {identity(one): one for one in found}


def drift(world: World, code: int) -> dict[str, Object]:
    """Run the report of drift; gives what it finds, by who."""
    data = world.state / "drift.json"
    world.run("python", "-m", "ops", "drift", "--json", str(data), code=code)
    return {one["who"]: one for one in json.loads(data.read_text())["findings"]}


def revisions(world: World) -> list[str]:
    """Name what Deployments and StatefulSets have rolled out so far."""
    found = read(world, "replicasets,controllerrevisions")["items"]
    return sorted(identity(one) for one in found)


# --- It takes over -----------------------------------------------------------------------------


def test_argo_cd_takes_over_its_release_and_changes_nothing_but_its_mark(
    installed: World,
) -> None:
    world, before = installed, released(installed)
    rolled_out = revisions(world)
    assert before
    assert not [
        one for one in before.values() if TRACKING in one["metadata"].get("annotations", {})
    ]
    world.up()
    wait_until("Argo CD to have taken over", lambda: is_well(world, "argo-cd"))
    after = released(world)
    assert sorted(before) == sorted(after)
    changed = [name for name, one in before.items() if declared(one) != declared(after[name])]
    assert changed == []
    unmarked = {
        one["kind"]
        for one in after.values()
        if TRACKING not in one["metadata"].get("annotations", {})
    }
    # Argo CD marks every kind but this one (its repo-server, GenerateManifests).
    assert unmarked == {"CustomResourceDefinition"}
    assert revisions(world) == rolled_out


def test_the_root_and_the_applications_follow_without_a_hand(world: World) -> None:
    wait_until("the root to be synced", lambda: is_well(world, "root"))
    wait_until(
        "podinfo to run",
        lambda: application(world, "podinfo").get("sync", {}).get("status") == "Synced",
    )
    conditions = application(world, "root").get("conditions", [])
    assert conditions == []


def test_the_preview_stays_empty(world: World) -> None:
    world.expect_no_changes()


def test_what_argo_cd_has_taken_over_is_no_drift(world: World) -> None:
    assert drift(world, code=0) == {}


# --- It keeps itself from Git ------------------------------------------------------------------


def test_a_commit_that_changes_a_value_is_rolled_out(world: World, repository: Repository) -> None:
    repository.replace(
        VALUES,
        "  # What is told, and when. To whom:",
        "  podAnnotations: { example.com/rolled-out: first }\n  # What is told, and when. To whom:",
    )
    commit = repository.push("The notifications' pods get an annotation")
    wait_until("the commit to be rolled out", lambda: is_well(world, "argo-cd", commit))
    template = deployment(world, "notifications-controller")["spec"]["template"]
    assert template["metadata"]["annotations"]["example.com/rolled-out"] == "first"


def test_a_bad_commit_is_undone_by_a_revert(world: World, repository: Repository) -> None:
    good = deployment(world, "notifications-controller")["spec"]["template"]
    repository.replace(
        VALUES,
        "  podAnnotations: { example.com/rolled-out: first }\n",
        "  podAnnotations: { example.com/rolled-out: first }\n  extraArgs: [--no-such-flag]\n",
    )
    repository.push("A flag that the program does not know")

    def crashes() -> bool:
        found = read(
            world, "pods", "--selector", "app.kubernetes.io/component=notifications-controller"
        )
        states = [
            state
            for pod in found["items"]
            for one in pod["status"].get("containerStatuses", [])
            for state in (one["state"], one["lastState"])
        ]
        return any("terminated" in state for state in states)

    wait_until("the bad commit's pod to end", crashes)
    wait_until("Argo CD to tell it", lambda: not is_well(world, "argo-cd"))
    commit = repository.revert()
    wait_until("the revert to be rolled out", lambda: is_well(world, "argo-cd", commit))
    assert deployment(world, "notifications-controller")["spec"]["template"] == good


def test_a_change_by_hand_is_healed(world: World) -> None:
    kubectl(world, "scale", "deployment/argo-cd-argocd-applicationset-controller", "--replicas=1")
    wait_until("the replicas to be back", lambda: replicas(world, "applicationset-controller") == 2)


# --- Applications ------------------------------------------------------------------------------


def arguments(world: World) -> list[str]:
    """Give the command line of podinfo as it is declared in the cluster."""
    found = read(world, "deployment", "podinfo", "--namespace", APPLICATION)
    argv: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
    return argv


def test_the_application_answers_by_https_with_a_certificate_that_the_acme_server_issued(
    podinfo: World,
) -> None:
    issued = (podinfo.state / "acme" / "dns.log").read_text()
    assert " added by Cloudflare's API: _acme-challenge.platform.example.com " in issued
    # Verified: by its name, with the authority of that ACME server.
    answer = body(curl(podinfo, f"https://{APPLICATION_HOST}/", "--fail"))
    pods = read(podinfo, "pods", "--namespace", APPLICATION)["items"]
    assert json.loads(answer)["hostname"] in {one["metadata"]["name"] for one in pods}


def test_a_change_of_an_application_by_hand_is_undone(world: World) -> None:
    before = arguments(world)
    assert "--level=info" in before
    patch = [{"op": "add", "path": PODINFOS_COMMAND, "value": "--level=error"}]
    place = ("deployment", "podinfo", "--namespace", APPLICATION)
    changed = kubectl(world, "patch", *place, "--type=json", f"--patch={json.dumps(patch)}")
    assert "patched" in changed
    wait_until("the command to be Git's again", lambda: arguments(world) == before)


def test_what_a_commit_removes_is_removed_and_a_revert_brings_it_back(
    world: World, repository: Repository
) -> None:
    def scaler() -> str:
        place = ("hpa", "podinfo", "--namespace", APPLICATION)
        return kubectl(world, "get", *place, "--ignore-not-found", "--output", "name")

    assert scaler()
    repository.replace(f"{PODINFO}/kustomization.yaml", "  - autoscaler.yaml\n", "")
    repository.push("podinfo has no autoscaler")
    wait_until("the autoscaler to be removed", lambda: not scaler())
    repository.revert()
    wait_until("the autoscaler to be back", lambda: bool(scaler()))


def test_a_commit_to_apps_is_live_within_a_minute(world: World, repository: Repository) -> None:
    repository.replace(f"{PODINFO}/deployment.yaml", "--level=info", "--level=debug")
    repository.push("podinfo says more")
    wait_until("the commit to be live", lambda: "--level=debug" in arguments(world))
    kubectl(
        world,
        "rollout",
        "status",
        "deployment/podinfo",
        f"--namespace={APPLICATION}",
        "--timeout=60s",
    )


def test_an_application_may_not_make_what_belongs_to_the_whole_cluster(
    world: World, repository: Repository
) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "podinfo"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    }
    (repository.folder / PODINFO / "clusterrole.yaml").write_text(yaml.safe_dump(role))
    repository.replace(
        f"{PODINFO}/kustomization.yaml",
        "  - ingress.yaml",
        "  - ingress.yaml\n  - clusterrole.yaml",
    )
    repository.push("podinfo wants to read every Secret")

    def refused() -> bool:
        state = application(world, "podinfo").get("operationState", {})
        said = json.dumps(state.get("syncResult", {}).get("resources", [])) + state.get(
            "message", ""
        )
        return "ClusterRole is not permitted in project apps" in said

    wait_until("the sync to be refused", refused)
    assert kubectl(world, "get", "clusterrole", "podinfo", "--ignore-not-found") == ""
    found = drift(world, code=3)
    assert list(found) == [f"Application {NAMESPACE}/podinfo"]
    assert found[f"Application {NAMESPACE}/podinfo"]["owner"] == "Argo CD"
    commit = repository.revert()

    def undone() -> bool:
        state = application(world, "podinfo").get("operationState", {})
        return state.get("phase") == "Succeeded" and commit in json.dumps(state)

    # The sync that was refused is tried again, each time later; a retry takes the newest commit.
    wait_until("the revert to be synced", undone)


# --- An upgrade, and a controller that is lost in it -------------------------------------------


def publish(world: World) -> None:
    """Let the chart's project publish its next version: the present one under that number."""
    packages = PROJECT / ".lab" / "bin" / "charts"
    (present,) = packages.glob("argo-cd-*.tgz")
    folder = world.state / "charts"
    work = folder / "work"
    work.mkdir(parents=True)
    with tarfile.open(present) as package:
        package.extractall(work, filter="data")
    chart = work / "argo-cd" / "Chart.yaml"
    chart.write_text(yaml.safe_dump(yaml.safe_load(chart.read_text()) | {"version": NEXT_CHART}))
    made = folder / "next"
    with tarfile.open(made, "w:gz") as package:
        package.add(work / "argo-cd", "argo-cd")
    made.rename(folder / f"argo-cd-{NEXT_CHART}.tgz")


def test_a_chart_is_upgraded_by_a_commit_although_its_controller_is_lost_in_the_middle(
    world: World, repository: Repository
) -> None:
    publish(world)
    text = (repository.folder / SETTINGS).read_text()
    old = next(line for line in text.splitlines() if "argoCdVersion:" in line)
    repository.replace(SETTINGS, old, f"  argoCdVersion: {NEXT_CHART}")
    controller = "argo-cd-argocd-application-controller-0"
    lost = read(world, "pod", controller)["metadata"]["uid"]
    repository.push("The next version of Argo CD's chart")

    def syncs() -> bool:
        state = application(world, "argo-cd").get("operationState", {})
        at = state.get("operation", {}).get("sync", {}).get("revisions", [])
        return state.get("phase") == "Running" and NEXT_CHART in at

    wait_until("the sync of the next version to run", syncs, poll=0.05)
    kubectl(world, "delete", "pod", controller, "--grace-period=0", "--force")
    wait_until("the upgrade to be whole", lambda: is_well(world, "argo-cd", NEXT_CHART))
    assert read(world, "pod", controller)["metadata"]["uid"] != lost
    label = deployment(world, "server")["metadata"]["labels"]["helm.sh/chart"]
    assert label == f"argo-cd-{NEXT_CHART}"


def test_the_preview_is_still_empty_after_all_that_argo_cd_did(world: World) -> None:
    world.expect_no_changes()
