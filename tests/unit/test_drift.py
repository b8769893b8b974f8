"""What counts as drift, and whose it is, without a cluster."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components import redaction
from components.kubernetes_api import InvalidError
from components.talosctl import Talosctl, TalosctlError
from components.waiting import Result
from drift import backups, cluster, machines, state
from drift.__main__ import main
from drift.finding import DriftError, Field, Finding
from drift.ownership import Thing, owner_of
from drift.report import MARKER, Report, markdown
from review.preview import Preview

VM = "vsphere:index/virtualMachine:VirtualMachine"
APPLY = "talos:machine/configurationApply:ConfigurationApply"
GATE = "platform:index:Gate"
URN = f"urn:pulumi:prod::platform::{APPLY}::node01"


def refreshed(op: str, kind: str, old: Any, new: Any, paths: tuple[str, ...] = ()) -> list[Finding]:
    step = {
        "op": op,
        "urn": f"urn:pulumi:prod::platform::{kind}::it",
        "oldState": {"type": kind, **old},
        "newState": {"type": kind, **new} if new else None,
        "detailedDiff": {path: {"kind": "update"} for path in paths},
    }
    return list(state.findings(Preview.of(json.dumps({"config": {}, "steps": [step]}))))


# What a refresh sees.


def test_a_changed_input_is_told_with_both_values() -> None:
    (found,) = refreshed("update", VM, {"inputs": {"memory": 1}}, {"inputs": {"memory": 2}})
    assert found.fields == (Field(where="memory", wanted="1", found="2"),)
    assert (found.place, found.owner) == ("vCenter", "Pulumi")


def test_how_a_machine_is_at_the_moment_is_no_drift() -> None:
    old, new = ({"outputs": {"powerState": one, "changeVersion": one}} for one in ("a", "b"))
    assert refreshed("update", VM, old, new) == []


def test_a_thing_that_is_gone_is_told() -> None:
    (found,) = refreshed("delete", VM, {"inputs": {}}, None)
    assert found.what == "gone"


def test_what_only_the_server_counts_is_no_drift() -> None:
    kind = "kubernetes:core/v1:ConfigMap"
    old, new = (
        {"inputs": {"metadata": {"name": "a", "namespace": "traefik", "resourceVersion": one}}}
        for one in ("1", "2")
    )
    assert refreshed("update", kind, old, new) == []


@pytest.mark.parametrize(
    ("thing", "owner"),
    [
        (Thing("", "Namespace", "-", "traefik"), "Pulumi"),
        (Thing("", "Namespace", "-", "app-podinfo"), "Argo CD"),
        (Thing("apps", "Deployment", "app-podinfo", "podinfo"), "Argo CD"),
        (Thing("helm.sh", "Release", "argocd", "argo-cd"), "Argo CD"),
        (Thing("helm.sh", "Release", "traefik", "traefik"), "Pulumi"),
        (Thing("argoproj.io", "Application", "argocd", "root"), "Pulumi"),
    ],
)
def test_the_owner_is_the_one_of_the_table(thing: Thing, owner: str) -> None:
    assert owner_of(thing) == owner


def test_an_object_that_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(DriftError, match="Gizmo default/it"):
        owner_of(Thing("example.com", "Gizmo", "default", "it"))


# Machines.


class Machine:
    """A machine that answers as it is told to."""

    def __init__(
        self, text: str | None, *, maintenance: bool = False, runs: str = "v1.13.9"
    ) -> None:
        self.text, self.maintenance, self.runs = text, maintenance, runs

    def version(self, _: str) -> str:
        return self.runs

    def in_maintenance(self, _: str) -> bool:
        return self.maintenance

    def configuration(self, address: str) -> str:
        if self.text is None:
            raise TalosctlError(f"{address}:50000: connection refused")
        return self.text


SECRETS = {"token": "a-machine-token"}
APPLIED = "machine: {token: a-machine-token, nodeLabels: {a: b}}"


INSTALLED = "machine: {install: {image: factory.talos.dev/vmware-installer/abc:v1.13.9}}"


def asked(machine: Machine, fields: Any = None, applied: str = APPLIED) -> list[Finding]:
    wanted = redaction.fields(applied, SECRETS) if fields is None else fields
    resources = [
        {"urn": URN, "type": APPLY, "inputs": {"node": "172.16.20.51"}},
        {"urn": f"u::{GATE}::node01-healthy", "type": GATE, "inputs": {"fields": wanted}},
    ]
    return list(machines.findings(resources, SECRETS, machine))  # type: ignore[arg-type]


def test_a_machine_as_it_was_configured_has_no_drift() -> None:
    assert asked(Machine(APPLIED)) == []


def test_a_label_set_by_hand_is_told_with_the_command_that_mends_it() -> None:
    (found,) = asked(Machine(APPLIED.replace("a: b", "a: c")))
    assert [(one.wanted, one.found) for one in found.fields] == [("b", "c")]
    assert f"pulumi up --target-replace '{URN}'" in found.mend


def test_a_changed_token_is_told_and_never_shown() -> None:
    (found,) = asked(Machine(APPLIED.replace("a-machine-token", "another-token")))
    text = found.model_dump_json()
    assert "(secret, changed)" in text
    assert "another-token" not in text
    assert "a-machine-token" not in text


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine(None), "does not answer: 172.16.20.51:50000: connection refused"),
        (Machine(None, maintenance=True), "waits in maintenance mode"),
    ],
)
def test_a_machine_that_cannot_be_compared_is_told(machine: Machine, says: str) -> None:
    (found,) = asked(machine)
    assert says in found.what


def test_a_state_that_does_not_know_what_was_applied_is_told() -> None:
    (found,) = asked(Machine(APPLIED), fields="unknown")
    assert "cannot be compared" in found.what


def test_a_machine_that_runs_another_talos_than_it_was_configured_for_is_told() -> None:
    (found,) = asked(Machine(INSTALLED, runs="v1.13.8"), applied=INSTALLED)
    assert found.fields == (Field(where="Talos", wanted="v1.13.9", found="v1.13.8"),)
    assert "docs/procedures/upgrade-talos.md" in found.mend


def test_a_machine_that_runs_the_talos_it_was_configured_for_has_no_drift() -> None:
    assert asked(Machine(INSTALLED), applied=INSTALLED) == []


@pytest.mark.parametrize(
    ("tail", "told"), [(":v1.13.9@sha256:00ff", 1), ("@sha256:00ff", 0), (":latest", 0)]
)
def test_the_version_is_the_one_in_the_image_s_name_if_it_has_one(tail: str, told: int) -> None:
    applied = f"machine: {{install: {{image: 'factory.talos.dev/installer/abc{tail}'}}}}"
    assert len(asked(Machine(applied, runs="v1.13.8"), applied=applied)) == told


def test_a_state_without_machine_secrets_is_refused_since_nothing_would_be_hidden() -> None:
    with pytest.raises(DriftError, match="is it the right stack"):
        machines.machine_secrets([{"urn": URN, "type": APPLY, "inputs": {}}])


VERSION = """Client:
\tTag:         v1.13.7
Server:
\tNODE:        172.16.20.51
\tTag:         v1.13.9
\tSHA:         abcdef
"""


def said(text: str) -> str:
    def run(arguments: Sequence[str], _: float) -> Result:
        assert arguments[0] == "version"
        return Result(0, text, "")

    return Talosctl(Path("talosconfig"), run, lambda _: None).version("172.16.20.51")


def test_the_version_is_the_machine_s_and_not_the_client_s() -> None:
    assert said(VERSION) == "v1.13.9"


def test_a_machine_that_does_not_say_its_version_is_an_error() -> None:
    with pytest.raises(TalosctlError, match=r"172\.16\.20\.51 does not say which Talos"):
        said(VERSION.partition("Server:")[0])


# The cluster.


class Api:
    """An API server with some objects; an apply leaves what `wanted` says."""

    def __init__(self, live: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        self.live, self.wanted = live, wanted

    def find(self, path: str) -> Any:
        return self.live.get(path)

    def would_apply(self, path: str, body: Any, manager: str) -> Any:
        assert manager == cluster.MANAGER
        return self.wanted[path] if path in self.wanted else {**self.live[path], **body}


KINDS = {
    "/apis/apps/v1": {
        "resources": [{"kind": "Deployment", "name": "deployments", "namespaced": True}]
    },
    "/api/v1": {"resources": [{"kind": "Secret", "name": "secrets", "namespaced": True}]},
}
PATH = "/apis/apps/v1/namespaces/traefik/deployments/traefik"
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: traefik}
spec: {minReadySeconds: 0}
"""


def deployment(seconds: int, **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "traefik", **metadata},
        "spec": {"minReadySeconds": seconds},
    }


def released(
    live: Mapping[str, Any], wanted: Mapping[str, Any], name: str = "traefik"
) -> list[Finding]:
    manifests = {("traefik", name): MANIFEST}
    return list(cluster.findings(Api({**KINDS, **live}, wanted), manifests))  # type: ignore[arg-type]


def test_an_object_as_its_release_made_it_has_no_drift() -> None:
    same = deployment(0, resourceVersion="1"), deployment(0, resourceVersion="2")
    assert released({PATH: same[0]}, {PATH: same[1]}) == []


def test_a_changed_object_of_a_release_is_told_with_the_command_that_mends_it() -> None:
    (found,) = released({PATH: deployment(77)}, {PATH: deployment(0)})
    assert found.fields == (Field(where="spec.minReadySeconds", wanted="0", found="77"),)
    assert "python -m render objects traefik | kubectl apply --server-side" in found.mend


class Fixed(Api):
    """An API server that takes no change."""

    def would_apply(self, path: str, body: Any, manager: str) -> Any:
        raise InvalidError(f"{path}: {body['kind']} of {manager}: a-value: field is immutable")


@pytest.mark.parametrize(
    ("kind", "plural", "what", "mend"),
    [
        ("Deployment", "deployments", "a-value: field is immutable", (
            "`kubectl -n traefik delete deployment/it && python -m render objects traefik | "
            "kubectl apply --server-side --force-conflicts -f -` makes it as it was; its pods are"
        )),
        ("Secret", "secrets", cluster.FIXED, "what it holds is lost"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_put_back_hides_no_other_finding_and_is_to_be_mended_first(
    kind: str, plural: str, what: str, mend: str
) -> None:
    served = {"resources": [{"kind": kind, "name": plural, "namespaced": True}]}
    one = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "it"}}
    other = {**one, "metadata": {"name": "other"}}
    api = Fixed({"/api/v1": served, f"/api/v1/namespaces/traefik/{plural}/it": one}, {})
    manifest = f"{json.dumps(other)}\n---\n{json.dumps(one)}"
    changed, gone = cluster.findings(api, {("traefik", "traefik"): manifest})  # type: ignore[arg-type]
    assert what in changed.what
    assert mend in changed.mend
    assert ("a-value" in changed.model_dump_json()) == (kind != "Secret")
    assert gone.what == "gone (release traefik)"


def test_an_object_of_a_release_that_is_gone_is_told() -> None:
    (found,) = released({}, {})
    assert found.what == "gone (release traefik)"


def test_objects_in_a_list_are_compared_one_by_one() -> None:
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment(0)]})
    api = Api({**KINDS, PATH: deployment(77)}, {PATH: deployment(0)})
    (found,) = cluster.findings(api, {("traefik", "traefik"): listed})  # type: ignore[arg-type]
    assert found.who == "Deployment traefik/traefik"


ARGO_CD = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/argo-cd"


def test_a_release_that_argo_cd_syncs_is_argo_cd_s_to_tell_of() -> None:
    api = Api({**KINDS, ARGO_CD: {"status": {"sync": {"status": "Synced"}}}}, {})
    assert list(cluster.findings(api, {("argocd", "argo-cd"): MANIFEST})) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("application", [{}, {ARGO_CD: {"spec": {}}}])
def test_until_argo_cd_syncs_its_own_release_a_change_of_it_is_told_as_argo_cd_s(
    application: Mapping[str, Any],
) -> None:
    api = Api({**KINDS, **application}, {})
    (found,) = cluster.findings(api, {("argocd", "argo-cd"): MANIFEST})  # type: ignore[arg-type]
    assert (found.owner, found.what) == ("Argo CD", "gone (release argo-cd)")


def test_a_rendered_secret_is_told_and_never_shown() -> None:
    path = "/api/v1/namespaces/traefik/secrets/s"
    manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: b2xk}\n"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    api = Api(
        {**KINDS, path: {**secret, "data": {"a": "bmV3"}}},
        {path: {**secret, "data": {"a": "b2xk"}}},
    )
    (found,) = cluster.findings(api, {("traefik", "traefik"): manifest})  # type: ignore[arg-type]
    assert found.fields == (Field(where="data.a", wanted="(secret)", found="(secret, changed)"),)


def test_what_argo_cd_calls_out_of_sync_is_argo_cds() -> None:
    def application(name: str, status: str) -> dict[str, Any]:
        each = {"kind": "Deployment", "namespace": "app-x", "name": "x", "status": status}
        return {
            "metadata": {"namespace": "argocd", "name": name},
            "status": {"sync": {"status": status}, "resources": [each]},
        }

    items = {"items": [application("a", "Synced"), application("b", "OutOfSync")]}
    (found,) = cluster.applications(Api({cluster.APPLICATIONS: items}, {}))  # type: ignore[arg-type]
    assert (found.who, found.owner) == ("Application argocd/b", "Argo CD")
    assert found.fields[0].where == "Deployment app-x/x"


def test_an_application_that_argo_cd_cannot_compare_is_told() -> None:
    item = {
        "metadata": {"namespace": "argocd", "name": "a"},
        "status": {"sync": {"status": "Unknown"}},
    }
    (found,) = cluster.applications(Api({cluster.APPLICATIONS: {"items": [item]}}, {}))  # type: ignore[arg-type]
    assert found.owner == "Argo CD"
    assert "cannot compare" in found.what


def test_an_application_that_argo_cd_has_not_looked_at_yet_is_no_drift() -> None:
    item = {"metadata": {"namespace": "argocd", "name": "a"}}
    api = Api({cluster.APPLICATIONS: {"items": [item]}}, {})
    assert list(cluster.applications(api)) == []  # type: ignore[arg-type]


# Backups.


NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


def backup(newest: str | None, created: str = "2026-01-01T00:00:00Z") -> list[str]:
    status = {"lastSuccessfulTime": newest} if newest else {}
    job = {"metadata": {"creationTimestamp": created}, "status": status}
    return list(backups.watch(Api({backups.CRONJOB: job}, {}), NOW))  # type: ignore[arg-type]


def test_a_backup_of_the_last_two_hours_is_well() -> None:
    assert backup("2026-01-02T10:00:00Z") == []


def test_an_older_backup_is_told_with_its_age() -> None:
    (line,) = backup("2026-01-02T08:59:00Z")
    assert "the newest backup is 3 hours old (2026-01-02T08:59:00Z)" in line


def test_a_job_that_never_made_a_backup_is_told_once_it_should_have() -> None:
    assert backup(None, created="2026-01-02T11:00:00Z") == []
    (line,) = backup(None)
    assert "no backup has succeeded in the 36 hours" in line


def test_without_backups_there_is_nothing_to_tell_of_them() -> None:
    assert list(backups.watch(Api({}, {}), NOW)) == []  # type: ignore[arg-type]


# The command.


def run_with(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, str]) -> int:
    """Run it with a pulumi that gives these answers, by its first word."""
    cases = "".join(f"{word}) echo {shlex.quote(text)};;\n" for word, text in answers.items())
    refusal = "*) echo 'error: no such stack' >&2; exit 255;;"
    pulumi = folder / "pulumi"
    pulumi.write_text(f"#!/bin/sh\ncase $1-$2 in\n{cases}{refusal}\nesac\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return main([])


REFRESH = json.dumps({"config": {}, "steps": []})
STATE = json.dumps(
    {"deployment": {"resources": [{"urn": "u::x::stack", "type": "pulumi:pulumi:Stack"}]}}
)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, "--show-sames --non-interactive` failed: error: no such stack"),
        ({"refresh-*": "{}", "stack-export": '{"deployment": {}}'}, "is it the right one?"),
        ({"refresh-*": REFRESH, "stack-export": STATE, "stack-output": "{}"},
         "the stack has no output kubeconfig: an `up` has not ended well; run `pulumi up` first"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_named_with_its_mend_and_is_never_no_drift(
    answers: Mapping[str, str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(tmp_path, monkeypatch, answers) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("could not look: ")
    assert says in printed.err
    assert printed.out == ""


def test_without_pulumi_the_error_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 1
    assert "pulumi is not on PATH" in capsys.readouterr().err


@pytest.mark.parametrize(("findings", "code"), [((), 0), (("one",), 3)])
def test_the_exit_code_says_whether_there_is_drift(
    findings: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuple(
        Finding(place="cluster", who=who, owner="Pulumi", what="gone", mend="m") for who in findings
    )
    monkeypatch.setattr("drift.__main__.look", lambda _: Report(findings=found))
    data, comment = tmp_path / "drift.json", tmp_path / "drift.md"
    assert main(["--json", str(data), "--markdown", str(comment)]) == code
    assert [one["who"] for one in json.loads(data.read_text())["findings"]] == list(findings)
    assert comment.read_text().startswith(MARKER)


# The report.


def test_the_report_begins_with_its_marker_and_says_when_there_is_nothing() -> None:
    text = markdown(Report(findings=()))
    assert text.startswith(f"{MARKER}\n## No drift")


def test_the_report_counts_by_owner_and_survives_what_is_in_a_field() -> None:
    field = Field(where="a|b", wanted="`1`", found="2\n3")
    mine = Finding(place="cluster", who="x", owner="Pulumi", what="y", fields=(field,), mend="z")
    other = mine.model_copy(update={"owner": "Argo CD"})
    text = markdown(Report(findings=(mine, other)))
    assert "1 of Argo CD's, 1 of Pulumi's" in text
    assert "wanted `'1'`, found `2 3`" in text
