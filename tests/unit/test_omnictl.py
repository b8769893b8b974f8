"""The client of Omni: what it asks, what it makes of the answers, and that it keeps the key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from clients import omnictl
from clients.omnictl import (
    AbsentError,
    Account,
    AwayError,
    Omnictl,
    OmnictlError,
    check_omnictl,
    find_omnictl,
    validate,
)
from clients.waiting import TIMED_OUT, Result, Stop, StoppedError, run_group

ROOT = Path(__file__).parents[2]
KEY = "a2V5LW9mLXRoZS10ZXN0LWFjY291bnQ"
ACCOUNT = Account("https://omni.example.internal", KEY)
UUID = "5c241f42-a87f-fa60-6af6-1f245c7fa860"


class Recorded:
    """Answers like omnictl, and keeps what it was asked."""

    def __init__(self, *answers: Result) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[list[str], Mapping[str, str]]] = []
        self.files: list[str] = []

    def __call__(self, arguments: Sequence[str], seconds: float, env: Mapping[str, str]) -> Result:
        assert seconds > 0
        self.asked.append((list(arguments), env))
        if "--file" in arguments:
            file = Path(arguments[list(arguments).index("--file") + 1])
            assert file.stat().st_mode & 0o077 == 0
            self.files.append(file.read_text())
        return self.answers.pop(0)


def good(text: str = "") -> Result:
    return Result(0, text, "")


def bad(text: str) -> Result:
    return Result(1, "", f"Error: {text}\n")


def resource(spec: Mapping[str, object], name: str = UUID) -> str:
    return json.dumps({"metadata": {"id": name}, "spec": spec}, indent=4)


def client(home: Path, *answers: Result) -> tuple[Omnictl, Recorded]:
    recorded = Recorded(*answers)
    return Omnictl(ACCOUNT, home, recorded), recorded


def test_the_key_is_in_the_environment_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDERO_SERVICE_ACCOUNT_KEY", "another")
    monkeypatch.setenv("OMNICONFIG", "/home/operator/omniconfig")
    omni, recorded = client(tmp_path, good())
    omni.sync("kind: Cluster\n")
    ((arguments, env),) = recorded.asked
    assert KEY not in " ".join(arguments)
    assert env["OMNI_SERVICE_ACCOUNT_KEY"] == KEY
    assert env["OMNI_ENDPOINT"] == "https://omni.example.internal"
    assert env["HOME"] == str(tmp_path)
    assert env.keys() & {"SIDERO_SERVICE_ACCOUNT_KEY", "OMNICONFIG"} == set()
    assert KEY not in repr(ACCOUNT)


def test_no_error_tells_the_key(tmp_path: Path) -> None:
    omni, _ = client(tmp_path, bad(f"cannot use {KEY}"))
    with pytest.raises(OmnictlError) as caught:
        omni.sync("kind: Cluster\n")
    assert KEY not in str(caught.value)
    assert "(the key)" in str(caught.value)


def test_a_template_is_gone_after_its_sync(tmp_path: Path) -> None:
    omni, recorded = client(tmp_path, good("* creating Clusters(prod)\n"))
    assert omni.sync("kind: Cluster\n") == "* creating Clusters(prod)\n"
    assert recorded.files == ["kind: Cluster\n"]
    assert list(tmp_path.iterdir()) == []


def test_a_machine_is_read_whatever_the_case_of_its_fields(tmp_path: Path) -> None:
    spec = {
        "connected": True,
        "maintenance": True,
        "cluster": "",
        "talos_version": "v1.13.9",
        "network": {"hostname": "node01", "addresses": ["172.16.20.51/24", "fdae::1/64"]},
        "lasterror": None,
    }
    omni, recorded = client(tmp_path, good(resource(spec)))
    (found,) = omni.machines([UUID, "a.b"])
    assert found.connected
    assert found.maintenance
    assert (found.hostname, found.cluster, found.error) == ("node01", "", "")
    assert found.addresses == ("172.16.20.51", "fdae::1")
    assert found.talos == "v1.13.9"
    pattern = recorded.asked[0][0][3]
    assert re.match(pattern, UUID)
    assert not re.match(pattern, "axb")


def test_a_machine_that_omni_does_not_know_is_left_out(tmp_path: Path) -> None:
    omni, _ = client(tmp_path, good())
    assert omni.machines([UUID]) == []


def test_a_cluster_that_omni_does_not_know_is_none(tmp_path: Path) -> None:
    omni, _ = client(tmp_path, bad("rpc error: code = NotFound desc = resource doesn't exist"))
    assert omni.cluster("prod") is None


def test_a_cluster_is_judged_by_its_api_and_as_a_whole(tmp_path: Path) -> None:
    spec = {"ready": False, "kubernetesapiready": True, "talosversion": "1.13.9"}
    omni, _ = client(tmp_path, good(resource(spec, "prod")))
    found = omni.cluster("prod")
    assert found is not None
    assert (found.ready, found.kubernetes_ready) == (False, True)


def test_the_machines_of_a_cluster_tell_why_they_refuse_a_configuration(tmp_path: Path) -> None:
    text = resource({"ready": True, "stage": 4}, "a") + resource(
        {"stage": 3, "lastconfigerror": "no such disk"}, "b"
    )
    omni, recorded = client(tmp_path, good(text))
    one, other = omni.members("prod")
    assert (one.id, one.ready, one.stage) == ("a", True, "running")
    assert (other.ready, other.stage, other.error) == (False, "configuring", "no such disk")
    assert "omni.sidero.dev/cluster=prod" in recorded.asked[0][0]


def test_an_upgrade_says_how_far_it_is(tmp_path: Path) -> None:
    omni, _ = client(
        tmp_path,
        good(resource({"phase": 1, "step": "node02", "status": "installing"}, "prod")),
        good(resource({"phase": "Failed", "error": "image not found"}, "prod")),
    )
    found = omni.upgrades("prod")
    assert found["Talos"].is_running
    assert found["Talos"].step == "node02 installing"
    assert not found["Kubernetes"].is_running
    assert (found["Kubernetes"].phase, found["Kubernetes"].error) == ("failed", "image not found")


def test_backups_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    texts = [resource({"createdat": {"seconds": one, "nanos": 0}}, str(one)) for one in (20, 10)]
    omni, _ = client(tmp_path, good("".join(texts)))
    assert omni.backups("prod") == [10, 20]


@pytest.mark.parametrize(
    ("token", "state"), [("one", "active"), ("two", "revoked"), ("three", "expired"), ("four", "")]
)
def test_a_join_token_is_looked_for_without_naming_it(
    tmp_path: Path, token: str, state: str
) -> None:
    states = {"one": 1, "two": 2, "three": 3}
    texts = [resource({"state": number}, name) for name, number in states.items()]
    omni, recorded = client(tmp_path, good("".join(texts)))
    assert omni.join_token(token) == state
    assert token not in recorded.asked[0][0]


def test_join_tokens_that_the_account_may_not_read_are_no_fault(tmp_path: Path) -> None:
    denied = bad("rpc error: code = PermissionDenied desc = not allowed")
    expired = bad("rpc error: code = Unauthenticated desc = invalid signature")
    omni, _ = client(tmp_path, denied, expired)
    assert omni.join_token("one") is None
    with pytest.raises(OmnictlError, match="platform:omniServiceAccountKey"):
        omni.join_token("one")


def test_what_control_planes_began_with_is_read_as_a_template_says_it(tmp_path: Path) -> None:
    began = {"bootstrapspec": {"clusteruuid": "u", "snapshot": "s.snapshot"}}
    gone = bad("resource MachineSets(prod-control-planes) doesn't exist")
    answers = (good(resource(began)), good(resource({"bootstrapspec": None})), gone)
    omni, recorded = client(tmp_path, *answers)
    assert omni.begun_with("prod") == {"clusterUUID": "u", "snapshot": "s.snapshot"}
    assert omni.begun_with("prod") is None
    assert omni.begun_with("prod") is None
    assert recorded.asked[0][0][:3] == ["get", "machineset", "prod-control-planes"]


def test_a_kubeconfig_is_read_from_a_private_file_that_is_gone_after(tmp_path: Path) -> None:
    def run(arguments: Sequence[str], _: float, __: Mapping[str, str]) -> Result:
        file = Path(arguments[1])
        assert file.stat().st_mode & 0o077 == 0
        file.write_text("apiVersion: v1")
        assert arguments[arguments.index("--ttl") + 1] == "8760h"
        return good()

    assert Omnictl(ACCOUNT, tmp_path, run).kubeconfig("prod", "platform", 365) == "apiVersion: v1"
    assert list(tmp_path.iterdir()) == []


def test_a_lost_machine_that_omni_has_forgotten_is_no_fault(tmp_path: Path) -> None:
    omni, recorded = client(tmp_path, bad("resource ClusterMachines(x) doesn't exist"))
    omni.remove_lost(UUID)
    assert recorded.asked[0][0][:4] == ["cluster", "machine", "delete", UUID]
    assert "--yes-i-am-really-sure" in recorded.asked[0][0]


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("rpc error: code = Unauthenticated desc = expired", OmnictlError, "serviceaccount create"),
        ("rpc error: code = PermissionDenied desc = role", OmnictlError, "role Operator"),
        ("failed to sign message: gopenpgp: no valid signing keys", OmnictlError, "has it ended"),
        ("gopenpgp: error in reading key ring", OmnictlError, "serviceaccount create"),
        ("unexpected end of JSON input", OmnictlError, "serviceaccount create"),
        ("code = Unavailable desc = connection refused", AwayError, "platform:omni.endpoint"),
        ("dial tcp: lookup omni: no such host", AwayError, "platform:omni.endpoint"),
        ("tls: x509: certificate signed by unknown", OmnictlError, "SSL_CERT_FILE"),
        ("FailedPrecondition: EULA has not been accepted", OmnictlError, "terms"),
        ("client API version mismatch: 1 and 2", OmnictlError, "platform:omni.version"),
        ("code = NotFound desc = cluster", AbsentError, "NotFound"),
        ("something else", OmnictlError, "something else"),
        ("", OmnictlError, "omnictl failed without a message"),
    ],
)
def test_an_error_says_which_setting_it_is_about(
    tmp_path: Path, said: str, kind: type[OmnictlError], told: str
) -> None:
    answer = bad(said) if said else Result(1, "", "")
    omni, _ = client(tmp_path, answer)
    with pytest.raises(kind) as caught:
        omni.sync("kind: Cluster\n")
    assert type(caught.value) is kind
    assert told in str(caught.value)


def test_status_is_never_asked_quietly_or_without_a_time(tmp_path: Path) -> None:
    omni, recorded = client(tmp_path, good())
    omni.wait_ready("kind: Cluster\n", 600)
    arguments = recorded.asked[0][0]
    assert arguments[arguments.index("--wait") + 1] == "600s"
    assert not {"-q", "--quiet"} & set(arguments)


# --- The program itself ------------------------------------------------------------------------


def install(folder: Path, text: str) -> None:
    file = folder / "omnictl"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_an_omnictl_of_another_minor_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    install(tmp_path, "echo 'omnictl version v1.8.2 (API Version: 1)'")
    with pytest.raises(OmnictlError, match=r"version v1\.8\.2 does not fit platform:omni\.version"):
        check_omnictl("v1.9.3")
    install(tmp_path, "echo 'omnictl version v1.9.1 (API Version: 2)'")
    check_omnictl("v1.9.3")
    install(tmp_path, "exit 1")
    with pytest.raises(OmnictlError, match="`omnictl --version` failed"):
        check_omnictl("v1.9.3")


def test_a_missing_omnictl_is_told_with_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OmnictlError, match=r"not found on PATH; install omnictl v1\.9\.3"):
        find_omnictl(tmp_path, "v1.9.3")


def test_omnictl_checks_a_template_without_omni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    install(tmp_path, 'test -z "$OMNI_ENDPOINT" && test -f "$5"')
    assert validate("kind: Cluster\n") == ""
    install(tmp_path, "echo 'machine \"x\" is invalid' >&2; exit 1")
    assert 'machine "x" is invalid' in validate("kind: Cluster\n")


STARTS_ANOTHER = 'sleep 3600 & echo $! > "$1.part" && mv "$1.part" "$1"; wait'


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_what_takes_too_long_is_given_up() -> None:
    result = run_group(["sleep", "3600"], 0.3, dict(os.environ))
    assert result == (TIMED_OUT, "", "no answer within 0 s")


def test_a_run_that_is_stopped_ends_omnictl_and_all_that_it_started(tmp_path: Path) -> None:
    stop, note = Stop(), tmp_path / "pid"

    def ask() -> None:
        wait_until(note.exists)
        stop.request("asked by the test")

    asker = threading.Thread(target=ask)
    asker.start()
    with pytest.raises(StoppedError, match="asked by the test"):
        run_group(["sh", "-c", STARTS_ANOTHER, "sh", str(note)], 600, dict(os.environ), stop)
    asker.join()
    pid = int(note.read_text())
    wait_until(lambda: not is_running(pid))


KILLED = """
import os, sys
from clients.waiting import run_group
run_group(["sh", "-c", sys.argv[1], "sh", sys.argv[2]], 3600, dict(os.environ))
"""
ALONE = 'echo $$ > "$1.part" && mv "$1.part" "$1"; exec sleep 3600'


def test_omnictl_does_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", KILLED, ALONE, str(note)], cwd=ROOT) as run_:
        wait_until(note.exists)
        run_.kill()
    pid = int(note.read_text())
    wait_until(lambda: not is_running(pid))


def test_the_exit_code_and_both_outputs_are_the_programs_own() -> None:
    said = run_group(["sh", "-c", "echo out; echo err >&2; exit 7"], 300, dict(os.environ))
    assert said == (7, "out\n", "err\n")
    with pytest.raises(FileNotFoundError):
        run_group(["no-such-program"], 300, dict(os.environ))


def wait_until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_number_of_a_stage_has_a_name() -> None:
    assert set(omnictl.STAGES) == set(range(12))
