"""A backup is fetched, checked, refused or restored; here without storage, etcd and machines."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ClientError

from clients import age_file, backup_storage, etcd_snapshot, restore_note
from clients.backup_storage import Storage, StorageError, Stored
from clients.restore_note import Begun, NoteError, Step
from clients.talosctl import connect
from clients.waiting import Clock
from components.talos.etcd import Member
from components.talos.health import Observer
from config.schedule import longest_interval
from ops.deploy import repair
from ops.rehearsal import backup
from ops.restore import checks, command, running, state
from ops.restore.checks import RefusedError
from ops.restore.running import RestoreError
from ops.restore.stack import Stack
from tests.unit.etcd_database import CA, of_a_cluster, snapshot, stored
from tests.unit.fake_talos import FakeMachine, FakeTalos

NOW = dt.datetime(2026, 1, 31, 12, 30, tzinfo=dt.UTC)
CREATED = int(NOW.timestamp()) - 7200
KEY = "prod/prod-2026-01-31T12:00:00Z.snap.age"


# What is in a snapshot.


def read(tmp_path: Path, content: bytes) -> etcd_snapshot.Content:
    file = tmp_path / "db.snapshot"
    file.write_bytes(content)
    return etcd_snapshot.read(file)


def test_a_snapshot_tells_its_revision_and_its_objects_by_kind(tmp_path: Path) -> None:
    content = read(tmp_path, of_a_cluster(CREATED))
    assert content.revision == 27
    assert content.kinds == {
        "configmaps": 1,
        "ipaddresspools.metallb.io": 1,
        "namespaces": 1,
        "pods": 19,  # one was deleted
        "secrets": 1,
        "specs": 1,
    }


def test_a_snapshot_tells_when_its_newest_object_was_created(tmp_path: Path) -> None:
    assert read(tmp_path, of_a_cluster(CREATED)).newest == NOW - dt.timedelta(hours=2)


def test_only_the_newest_revision_of_an_object_counts(tmp_path: Path) -> None:
    key = "/registry/namespaces/default"
    content = read(tmp_path, snapshot([{key: stored("Namespace", 5)}, {key: b"newer"}]))
    assert content.objects == {key.encode(): b"newer"}


def test_a_snapshot_of_nothing_but_deletions_is_empty(tmp_path: Path) -> None:
    content = read(
        tmp_path, snapshot([{"/registry/pods/a/b": b"one"}, {"/registry/pods/a/b": None}])
    )
    assert (content.revision, content.kinds, content.newest) == (3, {}, None)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda whole: whole[:-1], "its end is missing"),
        (lambda whole: whole[:4096], "its end is missing"),
        (lambda _: b"", "its end is missing"),
        (lambda whole: whole[:9000] + b"?" + whole[9001:], "its hash does not match its content"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "its hash does not match"),
    ],
)
def test_a_damaged_snapshot_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    file = tmp_path / "db.snapshot"
    file.write_bytes(damage(of_a_cluster(CREATED)))
    with pytest.raises(
        RefusedError, match=f"^{KEY}: damaged: .*{says}.*`python -m ops restore check`"
    ):
        checks.checked(file, KEY, CA)


@pytest.mark.parametrize("content", [bytes(8192), b"x" * 8192, b"\xed\x0c\xda\xed" * 2048])
def test_a_file_that_is_no_database_is_refused_though_its_hash_is_right(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "db.snapshot"
    file.write_bytes(content + __import__("hashlib").sha256(content).digest())
    with pytest.raises(RefusedError, match="damaged: it is not a database of etcd"):
        checks.checked(file, KEY, CA)


def test_a_snapshot_of_another_cluster_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "db.snapshot"
    file.write_bytes(of_a_cluster(CREATED, authority=CA.replace(b"of-the", b"of-another")))
    with pytest.raises(RefusedError, match=f"^{KEY}: of another cluster: .*pulumi stack ls"):
        checks.checked(file, KEY, CA)


def test_a_snapshot_of_this_cluster_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "db.snapshot"
    file.write_bytes(of_a_cluster(CREATED))
    told = checks.Checked(Stored(KEY, NOW, 5), file, checks.checked(file, KEY, CA)).told(NOW)
    assert "of this cluster; revision 27, 24 objects of 6 kinds" in told
    assert "the newest was created 2 hours ago" in told


# Its age.


HOUR = dt.timedelta(hours=1)


def aged(hours: float, accepted: float | None = None, allowed: dt.timedelta = 2 * HOUR) -> None:
    taken = Stored(KEY, NOW - dt.timedelta(hours=hours), 5)
    checks.refuse_old(taken, NOW, allowed, accepted)


def test_a_backup_of_the_last_two_intervals_is_taken() -> None:
    aged(1.9)


def test_an_outdated_backup_is_refused_with_its_age_and_how_to_take_it_all_the_same() -> None:
    with pytest.raises(RefusedError, match=r"outdated: it was taken 2 days ago.*--accept-age 50`"):
        aged(49)


def test_an_age_that_was_accepted_is_taken_and_an_older_one_is_not() -> None:
    aged(49, accepted=50)
    with pytest.raises(RefusedError, match="outdated"):
        aged(51, accepted=50)


def test_a_backup_of_the_future_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"in the future.*clock"):
        aged(-1)


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("0 * * * *", 1),
        ("*/15 * * * *", 0.25),
        ("0 3 * * *", 24),
        ("0 3 * * 1", 7 * 24),
        ("0 0 1 * *", 31 * 24),
        ("0 6,18 * * 1-5", 60),
        ("0 0 1 * 1", 7 * 24),
        ("0 0 29 2 *", 4 * 366 * 24 - 72),
    ],
)
def test_the_longest_time_between_two_runs_of_a_schedule(schedule: str, hours: float) -> None:
    assert longest_interval(schedule) == dt.timedelta(hours=hours)


# Where it is.


class Bucket:
    """The library's client, with these objects."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.objects = dict(objects)

    def list_objects_v2(self, **what: Any) -> dict[str, Any]:
        assert what["Bucket"] == "etcd"
        keys = sorted(one for one in self.objects if one.startswith(what["Prefix"]))
        at = int(what.get("ContinuationToken", 0))
        page = [{"Key": one, "Size": len(self.objects[one])} for one in keys[at : at + 2]]
        more = at + 2 < len(keys)
        return {"Contents": page, "IsTruncated": more, "NextContinuationToken": str(at + 2)}

    def get_object(self, **what: Any) -> dict[str, Any]:
        content = self.objects[what["Key"]]
        return {"Body": SimpleNamespace(iter_chunks=lambda _: iter([content]))}

    def put_object(self, **what: Any) -> dict[str, Any]:
        self.objects[what["Key"]] = what["Body"]
        return {}


def storage(objects: Mapping[str, bytes]) -> Storage:
    settings: Any = SimpleNamespace(
        bucket="etcd", endpoint="https://s3.example.com", path_style=True, region="us-east-1",
        schedule="0 * * * *", age_public_key=str(IDENTITY.to_public()),
    )  # fmt: skip
    made = Storage(settings, "prod", "id", "of-the-test")
    made.__dict__["_client"] = Bucket(objects)
    return made


def objects(of: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = of.storage.__dict__["_client"].objects
    return found


IDENTITY = pyrage.x25519.Identity.generate()


def named(hour: int, name: str = "prod") -> str:
    return f"{name}/{name}-2026-01-31T{hour:02}:00:00Z.snap.age"


def test_the_backups_of_a_cluster_are_listed_by_their_time_and_nothing_else_is() -> None:
    others = ["prod/other.txt", named(9, "other"), "prod/state/prod-2026-01-31T12:00:00Z.state.age"]
    found = storage(dict.fromkeys([named(11), named(9), named(10), *others], b"")).snapshots()
    assert [one.key for one in found] == [named(9), named(10), named(11)]
    assert found[0].taken == dt.datetime(2026, 1, 31, 9, tzinfo=dt.UTC)


def stack(objects: Mapping[str, bytes], resources: list[dict[str, Any]] | None = None) -> Any:
    kept = storage(objects)
    names: Any = SimpleNamespace(cluster=SimpleNamespace(name="prod"))
    return SimpleNamespace(
        settings=names, backup=kept.backup, storage=kept, authority=CA, resources=resources or []
    )


def test_the_newest_backup_is_chosen_unless_one_is_named() -> None:
    both = stack({named(9): b"", named(11): b""})
    assert checks.choose(both, None).key == named(11)
    assert checks.choose(both, named(9)).key == named(9)


def test_a_bucket_without_backups_of_this_cluster_is_told() -> None:
    with pytest.raises(
        RefusedError, match="no backup of the cluster prod is in etcd at https://s3"
    ):
        checks.choose(stack({named(9, "other"): b""}), None)


def test_a_backup_that_is_not_there_is_told() -> None:
    with pytest.raises(RefusedError, match=rf"{named(8)}: no backup of this cluster is called so"):
        checks.choose(stack({named(9): b""}), named(8))


def test_without_keys_of_the_storage_none_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in backup_storage.OF_ENVIRONMENT:
        monkeypatch.delenv(one, raising=False)
    without = Storage(storage({}).backup, "prod")
    with pytest.raises(StorageError, match=r"platform:backupAccessKey.*AWS_ACCESS_KEY_ID"):
        without.snapshots()


RULE = {"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 90}}
LOCK = {"Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}}


def kept(no_rules: str = "NoSuchLifecycleConfiguration", **answers: Any) -> backup_storage.Kept:
    """Read how a bucket keeps its objects; what is not answered is not set."""

    def answer(name: str, missing: str) -> Any:
        def call(**_: Any) -> Any:
            if name not in answers:
                raise ClientError({"Error": {"Code": missing}}, name)
            return answers[name]

        return call

    made = storage({})
    made.__dict__["_client"] = SimpleNamespace(
        get_bucket_versioning=lambda **_: answers.get("versioning", {}),
        get_bucket_lifecycle_configuration=answer("rules", no_rules),
        get_object_lock_configuration=answer("lock", "ObjectLockConfigurationNotFoundError"),
    )
    return made.kept()


def test_a_bucket_says_how_it_keeps_its_objects() -> None:
    found = kept(
        versioning={"Status": "Enabled"},
        rules={"Rules": [RULE]},
        lock={"ObjectLockConfiguration": LOCK},
    )
    assert found == backup_storage.Kept(versioned=True, locked_days=30, expires_days=90)


@pytest.mark.parametrize("says", ["NoSuchLifecycleConfiguration", "NotImplemented"])
def test_a_bucket_without_any_rule_says_so(says: str) -> None:
    found = kept(no_rules=says)
    assert found == backup_storage.Kept(versioned=False, locked_days=0, expires_days=0)


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ({"Status": "Disabled"}, 0),
        ({"Filter": {"Prefix": "other/"}}, 0),
        ({"Filter": {"Prefix": "pr"}}, 90),
        ({"Filter": {"Prefix": "prod/"}}, 90),
        ({"Filter": {"And": {"Prefix": "prod/"}}}, 90),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, 0),
    ],
)
def test_only_rules_about_this_clusters_backups_count(rule: dict[str, Any], days: int) -> None:
    assert kept(rules={"Rules": [RULE | rule]}).expires_days == days


def test_a_private_authority_is_trusted_beside_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("of the system")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    settings = storage({}).backup
    client = Storage(settings, "prod", "id", "of-the-test", "of the site")._client  # noqa: SLF001
    trusted = Path(client._endpoint.http_session._verify).read_text()  # noqa: SLF001
    assert trusted.split("\n") == ["of the system", "of the site"]
    client.close()


# The key, and what is decrypted with it.


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    file = tmp_path / "backup.agekey"
    file.touch(mode=0o600)
    file.write_text(f"# created: today\n# public key: {IDENTITY.to_public()}\n{IDENTITY}\n")
    return file


def test_a_backup_is_decrypted_where_only_its_owner_reads_it_and_is_gone_afterwards(
    identity: Path,
) -> None:
    content = of_a_cluster(CREATED)
    there = stack({KEY: pyrage.encrypt(content, [IDENTITY.to_public()])})
    with checks.fetched(there, checks.choose(there, None), identity) as checked:
        assert checked.path.read_bytes() == content
        assert checked.path.stat().st_mode & 0o777 == 0o600
        assert checked.path.parent.stat().st_mode & 0o777 == 0o700
        assert not checked.path.is_relative_to(Path(__file__).parents[2])
    assert not checked.path.parent.exists()


def test_a_backup_that_was_damaged_under_its_encryption_is_refused(identity: Path) -> None:
    whole = pyrage.encrypt(of_a_cluster(CREATED), [IDENTITY.to_public()])
    for damaged in (whole[:-20], whole[:300] + b"?" + whole[301:], b"<Error/>", b""):
        there = stack({KEY: damaged})
        with (
            pytest.raises(age_file.AgeError, match=f"^{KEY}: damaged: age cannot decrypt it"),
            checks.fetched(there, checks.choose(there, None), identity),
        ):
            pytest.fail("it was taken")


def test_another_key_is_told_by_its_public_half(identity: Path) -> None:
    other = pyrage.x25519.Identity.generate().to_public()
    there = stack({KEY: pyrage.encrypt(b"something", [other])})
    with (
        pytest.raises(age_file.AgeError, match="not encrypted for this key") as refused,
        checks.fetched(there, checks.choose(there, None), identity),
    ):
        pytest.fail("it was taken")
    assert str(IDENTITY.to_public()) in str(refused.value)
    assert str(IDENTITY) not in str(refused.value)


def test_a_key_that_others_may_read_is_refused(identity: Path) -> None:
    identity.chmod(0o644)
    with pytest.raises(age_file.AgeError, match="others may read this key; `chmod 600"):
        age_file.identities(identity)


@pytest.mark.parametrize("text", ["", "# nothing\n", "AGE-SECRET-KEY-1WRONG\n", "age1abc\n"])
def test_a_file_without_a_key_is_told(identity: Path, text: str) -> None:
    identity.write_text(text)
    with pytest.raises(age_file.AgeError, match="holds no age key") as refused:
        age_file.identities(identity)
    assert "WRONG" not in str(refused.value)


def test_a_missing_key_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(age_file.AgeError, match=r"No such file.*--identity"):
        age_file.identities(tmp_path / "nothing")


# Into machines that run.


class Cluster:
    """Three control planes and a worker; their etcd joins a while after one has begun."""

    def __init__(self, tmp_path: Path) -> None:
        self.machines = [FakeMachine(f"node{one}", f"10.0.0.{one}") for one in (1, 2, 3)]
        self.worker = FakeMachine("node4", "10.0.0.4", etcd=False, data=False)
        self.talos = FakeTalos([*self.machines, self.worker], tick=self.join)
        self.note = tmp_path / "private" / "restore.json"
        self.snapshot = tmp_path / "db.snapshot"
        self.snapshot.write_bytes(b"of the backup")
        self.joins = True

    def join(self) -> None:
        if self.joins and any(one.etcd for one in self.machines):
            for one in self.machines:
                one.etcd = one.data = True

    @contextmanager
    def observer(self) -> Iterator[Observer]:
        members = [Member(one.name, one.address, control_plane=True) for one in self.machines]
        members.append(Member("node4", "10.0.0.4", control_plane=False))
        with connect("talosconfig", self.talos.run, self.talos.dial) as talos:
            yield Observer(talos, members, Clock(lambda: self.talos.now, self.talos.sleep))

    def restore(self, backup: str = KEY) -> None:
        with self.observer() as observer:
            running.restore(observer, backup, self.snapshot, self.note)

    @property
    def orders(self) -> list[str]:
        kinds = ("reset", "bootstrap", "service kubelet")
        found = [one for one in self.talos.commands if one.startswith(kinds)]
        return [f"{one.split()[0]} {one.split()[-1]}" for one in found]


def test_all_control_planes_lose_their_data_then_one_begins_and_the_workers_forget(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    cluster.restore()
    assert cluster.orders == [
        "reset @10.0.0.1",
        "reset @10.0.0.2",
        "reset @10.0.0.3",
        "bootstrap @10.0.0.1",
        "service @10.0.0.4",
    ]
    assert cluster.talos.recovered == [("node1", b"of the backup")]
    assert restore_note.read(cluster.note) is None


def test_a_machine_that_joins_the_old_data_again_is_wiped_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.joins = False
    first = cluster.machines[0]
    again = iter([True])

    def tick() -> None:
        if next(again, False):  # the others still ran when it was back
            first.etcd = first.data = True
        cluster.joins = bool(cluster.talos.recovered)
        cluster.join()

    cluster.talos.tick = tick
    cluster.restore()
    assert cluster.orders[:5] == [
        "reset @10.0.0.1",
        "reset @10.0.0.2",
        "reset @10.0.0.3",
        "reset @10.0.0.1",
        "bootstrap @10.0.0.1",
    ]


@pytest.mark.parametrize("away", ["10.0.0.2", "10.0.0.4"])
def test_nothing_is_wiped_while_a_machine_does_not_answer(tmp_path: Path, away: str) -> None:
    cluster = Cluster(tmp_path)
    cluster.talos.machine(away).up = False
    with pytest.raises(RestoreError, match=rf"^nothing was changed.*{away}.*No route to host"):
        cluster.restore()
    assert cluster.orders == []
    assert restore_note.read(cluster.note) is None


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", range(1, 60))
def test_a_restore_that_was_killed_at_any_call_ends_with_the_backups_data(
    tmp_path: Path, at: int
) -> None:
    cluster = Cluster(tmp_path)
    calls = 0
    whole = cluster.talos.run

    def run(arguments: Any, seconds: float) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KilledError
        answer = whole(arguments, seconds)
        if calls == at - 1 and "reset" in arguments:
            cluster.machines[0].data = True  # it has joined the others meanwhile
        return answer

    cluster.talos.run = run  # type: ignore[method-assign]
    try:
        cluster.restore()
    except KilledError:
        cluster.restore()
    else:
        assert calls < at
    assert all(one.data and one.etcd for one in cluster.machines)
    assert [name for name, _ in cluster.talos.recovered] == ["node1"]
    begun = next(at for at, one in enumerate(cluster.orders) if one.startswith("bootstrap"))
    assert not [one for one in cluster.orders[begun:] if one.startswith("reset")]
    assert restore_note.read(cluster.note) is None


def test_another_backup_than_the_one_that_was_begun_begins_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    restore_note.write(Begun(named(9), Step.RECOVERING), cluster.note)
    cluster.restore(KEY)
    assert [one for one in cluster.orders if one.startswith("reset")]


def test_machines_that_are_silent_because_they_are_wiped_stop_no_second_run(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    restore_note.write(Begun(KEY, Step.EMPTYING), cluster.note)
    second = cluster.machines[1]
    second.up = second.etcd = second.data = False

    def tick() -> None:
        second.up = cluster.talos.now > 10
        cluster.join()

    cluster.talos.tick = tick
    cluster.restore()
    assert "reset @10.0.0.2" not in cluster.orders
    assert [name for name, _ in cluster.talos.recovered] == ["node1"]


def test_nothing_is_wiped_while_etcd_has_a_member_that_nobody_names(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.talos.machines.append(FakeMachine("node9", "10.0.0.9"))
    with pytest.raises(RestoreError, match=r"^nothing was changed\. .*: node9 \(10\.0\.0\.9\)"):
        cluster.restore()
    assert cluster.orders == []
    assert restore_note.read(cluster.note) is None


def test_a_restore_whose_data_is_there_already_says_that_it_replaces_nothing(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    restore_note.write(Begun(KEY, Step.RECOVERING), cluster.note)
    told: list[str] = []
    with cluster.observer() as one:
        clock = Clock(lambda: cluster.talos.now, cluster.talos.sleep, told.append)
        running.restore(
            Observer(one.talos, one.members, clock), KEY, cluster.snapshot, cluster.note
        )
    assert cluster.talos.recovered == []
    assert [text for text in told if "only the rest is done now" in text and "restore.json" in text]


def test_a_worker_that_does_not_answer_for_a_moment_stops_no_restore(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    restore_note.write(Begun(KEY, Step.RECOVERING), cluster.note)
    cluster.worker.up = False

    def tick() -> None:
        cluster.worker.up = cluster.talos.now > 10

    cluster.talos.tick = tick
    cluster.restore()
    assert cluster.worker.kubelets == 1


def test_a_worker_that_does_not_answer_is_named_with_what_to_do(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    restore_note.write(Begun(KEY, Step.RECOVERING), cluster.note)
    cluster.worker.up = False
    with pytest.raises(RestoreError, match=r"node4 \(10\.0\.0\.4\).*No route.*run the same"):
        cluster.restore()


def test_an_etcd_that_does_not_start_from_the_backup_says_how_to_begin_again(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    cluster.joins = False
    for one in cluster.machines:
        one.etcd = False
    restore_note.write(Begun(KEY, Step.RECOVERING), cluster.note)
    with pytest.raises(RestoreError, match=r"etcd is starting.*without .*restore\.json it wipes"):
        cluster.restore()


# The note, and the program that it speaks to.


def test_an_etcd_begins_empty_unless_a_rebuild_says_otherwise(tmp_path: Path) -> None:
    assert restore_note.asked_for(tmp_path / "restore.json") is None


def test_a_rebuild_gives_the_program_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(restore_note.SNAPSHOT, "/tmp/some/db.snapshot")  # noqa: S108 not opened
    assert restore_note.asked_for(tmp_path / "restore.json") == Path("/tmp/some/db.snapshot")  # noqa: S108


def test_a_rebuild_that_was_stopped_never_goes_on_with_an_empty_etcd(tmp_path: Path) -> None:
    note = tmp_path / "restore.json"
    restore_note.write(Begun(KEY, Step.REBUILDING), note)
    with pytest.raises(NoteError, match=rf"{KEY}.*python -m ops restore rebuild.*empty etcd"):
        restore_note.asked_for(note)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"backup": "a", "step": "other"}'])
def test_a_note_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    note = tmp_path / "restore.json"
    note.write_text(text)
    with pytest.raises(NoteError, match="not a note of a restore"):
        restore_note.read(note)


def test_etcd_begins_with_the_snapshot_of_a_rebuild(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for one in cluster.machines:
        one.etcd = one.data = False
    cluster.machines[0].bootstrap_refusals = 2
    with cluster.observer() as observer:
        observer.bootstrap(observer.members[0], cluster.snapshot)
    assert cluster.talos.recovered == [("node1", b"of the backup")]


# The state's copy.


def resource(urn: str, **more: Any) -> dict[str, Any]:
    kind = urn.split("::")[-2]
    return {"urn": urn, "type": kind, **more}


ROOT = "urn:pulumi:prod::platform::pulumi:pulumi:Stack::platform-prod"
PROVIDER = "urn:pulumi:prod::platform::pulumi:providers:talos::talos"
IDENTITY_URN = "urn:pulumi:prod::platform::platform:talos:Identity::prod"
SECRETS = "urn:pulumi:prod::platform::talos:machine/secrets:Secrets::prod"
VM = "urn:pulumi:prod::platform::vsphere:index/virtualMachine:VirtualMachine::node01"
STATE = [
    resource(ROOT),
    resource(PROVIDER, parent=ROOT),
    resource(IDENTITY_URN, parent=ROOT),
    resource(SECRETS, parent=IDENTITY_URN, provider=f"{PROVIDER}::some-id", protect=True),
    resource(VM, parent=ROOT, dependencies=[SECRETS]),
]


def test_the_protected_keys_come_back_with_what_they_are_made_with_and_nothing_else() -> None:
    assert [one["urn"] for one in state.protected(STATE)] == [ROOT, PROVIDER, IDENTITY_URN, SECRETS]


class Engine:
    """The engine's state, exported and imported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, resources: list[dict[str, Any]]) -> None:
        self.document: dict[str, Any] = {"deployment": {"resources": resources}}
        monkeypatch.setattr(state, "export", lambda: json.dumps(self.document))
        monkeypatch.setattr(state, "pulumi", self.run)

    def run(self, *argv: str) -> None:
        assert argv[:3] == ("stack", "import", "--file")
        assert Path(argv[3]).stat().st_mode & 0o777 == 0o600
        self.document = json.loads(Path(argv[3]).read_text())


def test_a_copy_of_the_state_is_encrypted_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, identity: Path
) -> None:
    there, engine = stack({}), Engine(monkeypatch, STATE)
    assert "kept the state as prod/state/prod-2026-01-31T12:30:00Z.state.age" in state.keep(
        there, NOW
    )
    (copy,) = objects(there).values()
    assert copy.startswith(b"age-encryption.org/v1")
    assert b"node01" not in copy
    engine.document = {"deployment": {}}
    told = state.bring_back(there, None, identity, only_keys=False)
    assert engine.document["deployment"]["resources"] == STATE
    assert "5 resources (Secrets prod)" in told


def test_only_the_keys_come_back_when_the_machines_are_gone(
    monkeypatch: pytest.MonkeyPatch, identity: Path
) -> None:
    there, engine = stack({}), Engine(monkeypatch, STATE)
    state.keep(there, NOW)
    engine.document = {"deployment": {}}
    state.bring_back(there, None, identity, only_keys=True)
    assert len(engine.document["deployment"]["resources"]) == 4


def test_a_state_that_is_there_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, identity: Path
) -> None:
    Engine(monkeypatch, STATE)
    with pytest.raises(RefusedError, match="has a state, which is newer"):
        state.bring_back(stack({}), None, identity, only_keys=False)


def test_a_state_without_keys_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, [])
    there = stack({})
    with pytest.raises(RefusedError, match="holds no keys"):
        state.keep(there, NOW)
    assert not objects(there)


# The commands.


def test_a_refused_backup_has_an_exit_code_of_its_own_and_names_the_page(
    monkeypatch: pytest.MonkeyPatch, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(repair, "refuse_locked", lambda: None)
    monkeypatch.setattr(Stack, "read", lambda: stack({named(9): b""}))
    monkeypatch.setattr(command, "NOTE", identity.with_name("restore.json"))
    assert command.main(["rebuild", "--identity", str(identity), "--yes"]) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"not restored. {named(9)}: outdated")
    assert "docs/procedures/restore-backup.md" in said


def test_a_stack_whose_etcd_has_begun_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = resource("urn:pulumi:prod::platform::platform:index:Gate::etcd")
    note = tmp_path / "restore.json"
    restore_note.write(Begun(KEY, Step.REBUILDING), note)
    monkeypatch.setattr(command, "NOTE", note)
    monkeypatch.setattr(repair, "refuse_locked", lambda: None)
    monkeypatch.setattr(Stack, "read", lambda: stack({}, [gate]))
    assert command.main(["rebuild", "--yes"]) == 1
    assert "etcd has begun already" in capsys.readouterr().err
    assert restore_note.read(note) is None, "the next rebuild would go on with that old backup"


@pytest.mark.parametrize("what", ["running", "rebuild"])
def test_a_restore_that_stopped_days_ago_is_not_gone_on_with_unasked(
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    identity: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = Step.EMPTYING if what == "running" else Step.REBUILDING
    note = identity.with_name("restore.json")
    restore_note.write(Begun(named(9), step), note)
    os.utime(note, (0, 0))
    monkeypatch.setattr(command, "NOTE", note)
    monkeypatch.setattr(repair, "refuse_locked", lambda: None)
    found = stack({named(9): b"", KEY: b""})
    found.output = lambda _: ""
    monkeypatch.setattr(Stack, "read", lambda: found)
    assert command.main([what, "--identity", str(identity), "--yes"]) == 5
    said = capsys.readouterr().err
    assert f"{note}: a restore of {named(9)} stopped " in said
    assert f"`--backup {named(9)}` goes on with it" in said
    # Asked for it is gone on with: what is refused now is the backup itself.
    assert command.main([what, "--identity", str(identity), "--yes", "--backup", named(9)]) != 0
    assert "days ago (" not in capsys.readouterr().err


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def order(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """Give an order to end, which this process does not ignore; under nohup it would."""
    given: signal.Signals = request.param
    before = signal.signal(given, signal.SIG_DFL)
    yield given
    signal.signal(given, before)


def test_nothing_decrypted_is_left_when_the_terminal_is_lost_or_the_command_is_ended(
    order: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    identity: Path,
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    left: list[list[str]] = []

    def checked(*_: object) -> None:
        left.append(sorted(one.name for one in folder.rglob("*.snapshot")))
        os.kill(os.getpid(), order)

    found = stack({KEY: age_file.encrypt(b"every Secret", str(IDENTITY.to_public()))})
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(Stack, "read", lambda: found)
    monkeypatch.setattr(checks, "checked", checked)
    before = signal.getsignal(order)
    with pytest.raises(KeyboardInterrupt):
        command.main(["check", "--identity", str(identity)])
    assert left == [["db.snapshot"]], "it was there when the order came"
    assert list(folder.iterdir()) == []
    assert signal.getsignal(order) is before


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "0", "1e12", "x"])
def test_an_age_that_is_none_is_refused(hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["check", f"--accept-age={hours}"])
    assert "--accept-age" in capsys.readouterr().err


# The rehearsal.


def test_fewer_objects_than_in_the_backup_are_found_and_those_that_come_and_go_are_not() -> None:
    wanted = {"configmaps": 3, "pods": 5, "secrets": 2, "specs": 1}
    found = {"configmaps": 2, "pods": 1, "secrets": None, "specs": 2}
    assert backup.missing(wanted, found) == ["configmaps (2 of 3)"]


def test_what_the_lab_cannot_read_says_so() -> None:
    assert "secrets       2  not readable here" in backup.table({"secrets": 2}, {"secrets": None})


def test_a_backup_says_how_old_its_newest_object_is(tmp_path: Path) -> None:
    content = read(tmp_path, of_a_cluster(int(dt.datetime.now(tz=dt.UTC).timestamp()) - 7300))
    assert "the newest object was created 2 hours ago" in backup.youngest(content)
