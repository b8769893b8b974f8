"""The rules of the rollout, against machines that answer as talosctl prints."""

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pulumi
import pytest

from clients import talosctl
from clients.talosctl import Talosctl, TalosctlError, check_talosctl, parse_members
from clients.waiting import Clock, Result
from components.hooks import Hook
from components.talos import etcd, health
from components.talos.etcd import HealthError, Member
from components.talos.health import Observer
from components.talos.rollout import Rollout
from tests.unit.fake_talos import NO_ETCD, FakeMachine, FakeTalos

NO_CNI = {"nodeReady": 'node "x" is not ready'}


def nodes(count: int = 3, **state: object) -> list[FakeMachine]:
    found = [FakeMachine(f"node0{n}", f"172.16.20.5{n}") for n in range(1, count + 1)]
    for one in found:
        vars(one).update(copy.deepcopy(state))
    return found


def member(machine: FakeMachine, *, control_plane: bool = True) -> Member:
    return Member(machine.name, machine.address, control_plane=control_plane)


@contextmanager
def observer(fake: FakeTalos, settings: list[Member] | None = None) -> Iterator[Observer]:
    members = [member(one) for one in fake.machines] if settings is None else settings
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        yield Observer(talos, members, Clock(lambda: fake.now, fake.sleep))


def at(fake: FakeTalos, seconds: float, act: Callable[[], None]) -> None:
    """Let something happen once, after so many seconds."""
    done: list[bool] = []

    def tick() -> None:
        if not done and fake.now >= seconds:
            done.append(True)
            act()

    fake.tick = tick


# --- Health ---------------------------------------------------------------------------------------


def test_a_machine_that_runs_and_serves_lacks_nothing() -> None:
    fake = FakeTalos(nodes())
    with observer(fake) as cluster:
        assert cluster.missing(member(fake.machines[0])) == {}


@pytest.mark.parametrize(
    ("change", "lack"),
    [
        ({"up": False}, {"Talos API": "172.16.20.51:50000: No route to host"}),
        ({"stage": "rebooting"}, {"stage": "rebooting, not running"}),
        ({"unmet": {"time": "time is not synced"}}, {"time": "time is not synced"}),
        ({"learner": True}, {"etcd": "the machine is still a learner, without a vote"}),
        (
            {"etcd": False},
            {"etcd": NO_ETCD},
        ),
        (
            {"pods": False},
            {
                "static pods": "kube-apiserver, kube-controller-manager, kube-scheduler "
                "not running and ready"
            },
        ),
    ],
)
def test_what_a_machine_lacks_is_named(change: dict[str, Any], lack: dict[str, str]) -> None:
    fake = FakeTalos(nodes())
    for name, value in change.items():
        setattr(fake.machines[0], name, value)
    with observer(fake) as cluster:
        assert cluster.missing(member(fake.machines[0])) == lack


def test_a_worker_needs_neither_etcd_nor_control_plane_pods() -> None:
    fake = FakeTalos(nodes(1, etcd=False, pods=False))
    worker = member(fake.machines[0], control_plane=False)
    with observer(fake, [worker]) as cluster:
        assert cluster.missing(worker) == {}


# --- The guard ------------------------------------------------------------------------------------


def test_the_guard_lets_a_machine_be_touched_while_all_others_are_healthy() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].stage = "booting"  # the one to be touched
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))
    assert fake.now == 0


def test_the_guard_refuses_while_another_control_plane_is_unhealthy_and_names_it_and_the_fix() -> (
    None
):
    fake = FakeTalos(nodes())
    fake.machines[2].up = False
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.guard(member(fake.machines[0]))
    text = str(caught.value)
    assert text.startswith("node01 (172.16.20.51): not touched, since etcd could lose its quorum.")
    assert "node03 (172.16.20.53) lacks Talos API: 172.16.20.53:50000: No route to host" in text
    assert "docs/procedures/replace-machine.md" in text
    assert "then run `pulumi up` again" in text
    assert fake.now >= health.GUARD_SECONDS


def test_the_guard_waits_for_a_blip_to_pass() -> None:
    fake = FakeTalos(nodes())
    fake.machines[1].unmet = {"services": "etcd not healthy"}
    at(fake, 20, fake.machines[1].unmet.clear)
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))
    assert 20 <= fake.now < health.GUARD_SECONDS


def test_the_guard_accepts_nodes_that_are_not_ready_before_there_is_a_cni() -> None:
    fake = FakeTalos(nodes(unmet=dict(NO_CNI)))
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))


def test_the_guard_refuses_a_node_that_is_not_ready_once_another_one_is() -> None:
    fake = FakeTalos(nodes())
    fake.machines[1].unmet = dict(NO_CNI)
    with observer(fake) as cluster, pytest.raises(HealthError, match=r"node02 .* lacks nodeReady"):
        cluster.guard(member(fake.machines[0]))


def test_the_guard_counts_a_member_of_etcd_that_the_settings_no_longer_name() -> None:
    fake = FakeTalos(nodes())
    fake.machines[2].up = False
    settings = [member(one) for one in fake.machines[:2]]
    with observer(fake, settings) as cluster, pytest.raises(HealthError, match="node03"):
        cluster.guard(settings[0])


def test_the_guard_has_nothing_to_guard_before_etcd_exists() -> None:
    fake = FakeTalos(nodes(etcd=False, up=False))
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))
    assert fake.now == 0


def test_the_guard_never_stops_the_only_control_plane() -> None:
    fake = FakeTalos(nodes(1))
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))


def test_the_guard_protects_etcd_from_a_change_of_a_worker_too() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].up = False
    worker = Member("worker01", "172.16.20.61", control_plane=False)
    with observer(fake) as cluster, pytest.raises(HealthError, match="worker01"):
        cluster.guard(worker)


# --- An etcd without its majority -----------------------------------------------------------------


def stranded() -> FakeTalos:
    """Give what a killed destroy leaves: node01 with etcd's data, node02 new, node03 gone."""
    first, second, third = nodes()
    first.alone, second.etcd, third.up, third.etcd = True, False, False, False
    return FakeTalos([first, second, third])


@pytest.mark.parametrize(
    "waiting",
    [
        lambda cluster, _: cluster.guard(cluster.members[0]),
        lambda cluster, _: cluster.bootstrap(cluster.members[0]),
        lambda cluster, _: cluster.wait_healthy(cluster.members[0], None, settle=False),
        lambda cluster, _: cluster.wait_healthy(cluster.members[1], None, settle=False),
    ],
    ids=["guard", "bootstrap", "health of the last member", "health of one that would join"],
)
def test_a_lost_quorum_is_told_within_a_minute_with_every_machine_and_the_page(
    waiting: Callable[[Observer, None], None],
) -> None:
    fake = stranded()
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        waiting(cluster, None)
    assert fake.now < 60
    text = str(caught.value)
    assert text.startswith("etcd has lost its quorum: it runs on node01 (172.16.20.51), and")
    assert "node02 (172.16.20.52): it waits for an etcd to join." in text
    assert "node03 (172.16.20.53): 172.16.20.53:50000: No route to host." in text
    assert etcd.LOST_QUORUM in text
    assert (Path(__file__).parents[2] / etcd.LOST_QUORUM).is_file()
    assert not any(one.startswith("bootstrap") for one in fake.commands)


def test_an_election_is_no_lost_quorum() -> None:
    fake = FakeTalos(nodes(alone=True))

    def elect() -> None:
        for one in fake.machines:
            one.alone = False

    at(fake, etcd.QUORUM_SECONDS - 5, elect)
    with observer(fake) as cluster:
        cluster.guard(member(fake.machines[0]))
    assert fake.now < etcd.QUORUM_SECONDS


def test_a_quorum_that_comes_and_goes_is_counted_again() -> None:
    fake = FakeTalos(nodes(alone=True, pods=False))
    first = fake.machines[0]

    def tick() -> None:
        first.alone = fake.now % 20 > 4
        first.pods = fake.now > 300

    fake.tick = tick
    with observer(fake) as cluster:
        cluster.wait_healthy(member(first), None, settle=False)
    assert fake.now > 300


def test_one_answer_is_enough_for_a_majority() -> None:
    fake = FakeTalos(nodes())
    fake.machines[1].alone = fake.machines[2].alone = True
    at(fake, 100, lambda: vars(fake.machines[1]).update(alone=False))
    with observer(fake) as cluster:
        cluster.wait_healthy(member(fake.machines[1]), None, settle=False)
    assert fake.now >= 100


# --- No machine has etcd's data -------------------------------------------------------------------


@pytest.mark.parametrize("others", ["recreated", "gone"])
def test_lost_data_is_told_within_a_minute_with_every_machine_and_the_page(others: str) -> None:
    fake = FakeTalos(nodes(etcd=False, data=False, unmet={"services": "etcd"}))
    for one in fake.machines[1:]:
        one.up = others == "recreated"
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.wait_healthy(cluster.members[0], None, settle=False)
    assert fake.now < 60
    text = str(caught.value)
    assert text.startswith("etcd's data is lost: node01 (172.16.20.51) has none, and no control")
    state = "it waits for an etcd to join." if others == "recreated" else "No route to host."
    assert (
        f"node03 (172.16.20.53): {'' if others == 'recreated' else '172.16.20.53:50000: '}" in text
    )
    assert state in text
    file, _, heading = etcd.LOST_DATA.partition("#")
    page = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
    assert heading == "no-machine-has-etcds-data"
    assert "## No machine has etcd's data\n" in page
    assert not any(one.startswith("bootstrap") for one in fake.commands)


@pytest.mark.parametrize("lives", ["its own data", "another's etcd"])
def test_an_etcd_that_is_only_slow_to_start_has_not_lost_its_data(lives: str) -> None:
    fake = FakeTalos(nodes(etcd=False, data=False))
    first, second, _ = fake.machines
    first.data = lives == "its own data"
    second.etcd = lives == "another's etcd"
    at(fake, 300, lambda: vars(first).update(etcd=True))
    with observer(fake) as cluster:
        cluster.wait_healthy(cluster.members[0], None, settle=False)
    assert fake.now >= 300


# --- Before and after a configuration -------------------------------------------------------------


def test_a_dry_run_tells_whether_the_machine_will_reboot_and_its_diff_is_kept_nowhere() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].reboots = True
    with observer(fake) as cluster:
        before = cluster.before_configuration(member(fake.machines[0]), "the configuration")
    assert before == health.Before(boot_id="boot-1", reboots=True, node_ready=True)
    assert fake.files == [(0o600, "the configuration")]


def configured(kubernetes: str, talos: str) -> str:
    kubelet, installer = f"ghcr.io/siderolabs/kubelet:{kubernetes}", f"factory.example/i/x:{talos}"
    return f"machine: {{kubelet: {{image: {kubelet}}}, install: {{image: {installer}}}}}"


@pytest.mark.parametrize(
    ("kubernetes", "talos", "refusal"),
    [
        ("v1.34.1", "v1.13.9", ""),
        ("v1.34.9", "v1.13.10", ""),
        ("v1.34.0", "v1.14.0", ""),
        ("v1.35.0", "v1.13.9", "platform:kubernetes.version = 1.35.0: it runs v1.34.1"),
        ("v1.36.0", "v1.13.9", "upgrade in order, one at a time"),
        ("v1.33.5", "v1.13.9", "platform:kubernetes.version = 1.33.5"),
        ("v1.34.1", "v1.15.0", "platform:talos.version = 1.15.0: it runs v1.13.9"),
        ("v1.34.1", "v1.12.9", "not down across one"),
    ],
)
def test_a_configuration_moves_no_machine_to_a_version_that_is_an_upgrades_business(
    kubernetes: str, talos: str, refusal: str
) -> None:
    fake = FakeTalos(nodes(configuration=configured("v1.34.1", "v1.13.9")))
    first, wanted = member(fake.machines[0]), configured(kubernetes, talos)
    with observer(fake) as cluster:
        if not refusal:
            assert cluster.before_configuration(first, wanted) is not None
            return
        with pytest.raises(HealthError) as caught:
            cluster.before_configuration(first, wanted)
    assert str(caught.value).startswith("node01 (172.16.20.51): not touched. platform:")
    assert refusal in str(caught.value)
    assert fake.files == [], "Talos was asked, and its own refusal would hide the reason"


@pytest.mark.parametrize(("runs", "wanted"), [("", "nodeID"), ("nodeID", ""), ("nodeID", "kms")])
def test_a_configuration_changes_nothing_about_the_encryption_of_what_is_installed(
    runs: str, wanted: str
) -> None:
    def encrypted(key: str) -> str:
        text = configured("v1.34.1", "v1.13.9")
        volume = (
            f"kind: VolumeConfig\nname: STATE\nencryption: {{keys: [{{slot: 0, {key}: {{}}}}]}}"
        )
        return f"{text}\n---\n{volume}" if key else text

    fake = FakeTalos(nodes(configuration=encrypted(runs)))
    first = member(fake.machines[0])
    with observer(fake) as cluster:
        assert cluster.before_configuration(first, encrypted(runs)) is not None
        with pytest.raises(HealthError, match=r"not touched\. platform:talos\.diskEncryption"):
            cluster.before_configuration(first, encrypted(wanted))


def test_after_an_upgrade_by_hand_the_settings_may_follow() -> None:
    fake = FakeTalos(nodes(configuration=configured("v1.35.0", "v1.13.9")))
    with observer(fake) as cluster:
        assert cluster.before_configuration(
            member(fake.machines[0]), configured("v1.35.0", "v1.13.9")
        )


def test_a_machine_in_maintenance_mode_has_nothing_to_remember() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].maintenance = True
    with observer(fake) as cluster:
        assert cluster.before_configuration(member(fake.machines[0]), "x") is None


def test_a_machine_that_does_not_answer_is_named_before_its_configuration_is_sent() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].up = False
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.before_configuration(member(fake.machines[0]), "private key")
    assert "node01 (172.16.20.51): refuses or cannot take its new configuration" in str(
        caught.value
    )
    assert "No route to host" in str(caught.value)
    assert "private key" not in str(caught.value)


def test_a_reboot_is_over_only_when_another_boot_answers() -> None:
    fake = FakeTalos(nodes())
    first = fake.machines[0]
    history: list[str] = []

    def tick() -> None:
        # The machine still answers for 6 s, is gone until 30 s, and comes back.
        first.up = fake.now < 6 or fake.now >= 30
        first.boot = "boot-1" if fake.now < 6 else "boot-2"
        history.append(first.boot)

    fake.tick = tick
    before = health.Before(boot_id="boot-1", reboots=True, node_ready=True)
    with observer(fake) as cluster:
        cluster.wait_rebooted(member(first), before)
    assert fake.now >= 30


def test_a_reboot_that_never_begins_is_an_error_that_says_so() -> None:
    fake = FakeTalos(nodes())
    before = health.Before(boot_id="boot-1", reboots=True, node_ready=True)
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.wait_rebooted(member(fake.machines[1]), before)
    assert str(caught.value).startswith(
        "node02 (172.16.20.52): not rebooted after 600 s; last seen: reboot: not begun."
    )


def test_health_after_a_change_without_reboot_must_last() -> None:
    fake = FakeTalos(nodes())
    first = fake.machines[0]

    def tick() -> None:
        # The API server restarts some seconds after the change.
        first.pods = not 4 <= fake.now < 9

    fake.tick = tick
    with observer(fake) as cluster:
        cluster.wait_healthy(member(first), None, settle=True)
    assert fake.now >= 9 + health.SETTLE_SECONDS


def test_a_node_that_was_ready_must_be_ready_again() -> None:
    fake = FakeTalos(nodes(1))
    fake.machines[0].unmet = dict(NO_CNI)
    at(fake, 40, fake.machines[0].unmet.clear)
    before = health.Before(boot_id="boot-1", reboots=False, node_ready=True)
    with observer(fake) as cluster:
        cluster.wait_healthy(member(fake.machines[0]), before, settle=False)
    assert fake.now >= 40


def test_a_new_node_must_be_ready_where_others_are() -> None:
    fake = FakeTalos(nodes())
    fake.machines[2].unmet = dict(NO_CNI)
    at(fake, 40, fake.machines[2].unmet.clear)
    with observer(fake) as cluster:
        cluster.wait_healthy(member(fake.machines[2]), None, settle=False)
    assert fake.now >= 40


def test_the_first_nodes_need_not_be_ready_without_a_cni() -> None:
    fake = FakeTalos(nodes(unmet=dict(NO_CNI)))
    with observer(fake) as cluster:
        cluster.wait_healthy(member(fake.machines[2]), None, settle=False)
    assert fake.now == 0


def test_waiting_for_health_ends_with_the_machine_and_what_it_lacks() -> None:
    fake = FakeTalos(nodes())
    fake.machines[1].learner = True
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.wait_healthy(member(fake.machines[1]), None, settle=False)
    assert str(caught.value) == (
        "node02 (172.16.20.52): not healthy after 900 s; last seen: etcd: the machine is still a "
        "learner, without a vote. See `talosctl -n 172.16.20.52 dmesg` and `talosctl -n "
        "172.16.20.52 service`, fix it, then run `pulumi up` again: it goes on from here"
    )


# --- Bootstrap ------------------------------------------------------------------------------------


def test_etcd_is_bootstrapped_once_talos_allows_it() -> None:
    fake = FakeTalos(nodes(etcd=False))
    fake.machines[0].bootstrap_refusals = 3
    with observer(fake) as cluster:
        cluster.bootstrap(member(fake.machines[0]))
    assert fake.machines[0].etcd
    assert fake.commands.count("bootstrap @172.16.20.51") == 4
    assert not any(one.startswith("bootstrap") and "51" not in one for one in fake.commands)


def test_a_bootstrap_that_was_killed_after_its_work_is_not_repeated() -> None:
    fake = FakeTalos(nodes(1))
    with observer(fake) as cluster:
        cluster.bootstrap(member(fake.machines[0]))
    assert "bootstrap @172.16.20.51" not in fake.commands


def test_an_etcd_that_exists_but_does_not_answer_yet_is_no_error() -> None:
    fake = FakeTalos(nodes(1))
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        talos.bootstrap("172.16.20.51")
    assert fake.commands == ["bootstrap @172.16.20.51"]


def test_a_machine_is_never_bootstrapped_while_another_one_runs_etcd() -> None:
    fake = FakeTalos(nodes())
    fake.machines[0].etcd = False
    with observer(fake) as cluster:
        cluster.bootstrap(member(fake.machines[0]))
    assert not any(one.startswith("bootstrap") for one in fake.commands)


def test_a_bootstrap_that_talos_keeps_refusing_ends_with_talos_reason() -> None:
    fake = FakeTalos(nodes(1, etcd=False, bootstrap_refusals=10_000))
    with observer(fake) as cluster, pytest.raises(HealthError, match="FailedPrecondition"):
        cluster.bootstrap(member(fake.machines[0]))


# --- Leaving --------------------------------------------------------------------------------------


def test_a_removed_control_plane_leaves_etcd_by_itself() -> None:
    fake = FakeTalos(nodes(5))
    settings = [member(one) for one in fake.machines[:3]]
    with observer(fake, settings) as cluster:
        cluster.retire({one.name: one.address for one in fake.machines})
    left = [one for one in fake.commands if "leave" in one or "remove" in one]
    assert left == ["etcd leave @172.16.20.54", "etcd leave @172.16.20.55"]


def test_a_removed_control_plane_that_does_not_answer_is_removed_by_another() -> None:
    fake = FakeTalos(nodes(3))
    fake.machines[2].up = False
    settings = [member(one) for one in fake.machines[:2]]
    with observer(fake, settings) as cluster:
        cluster.retire({one.name: one.address for one in fake.machines})
    assert fake.commands[-1] == "etcd remove-member idnode03 @172.16.20.51"
    assert not fake.machines[2].etcd


def test_no_control_plane_leaves_etcd_while_one_that_stays_is_unhealthy() -> None:
    fake = FakeTalos(nodes(3))
    fake.machines[0].pods = False
    settings = [member(fake.machines[0])]
    refusal = r"node02 .*not touched.*node01 .*lacks static pods"
    with observer(fake, settings) as cluster, pytest.raises(HealthError, match=refusal):
        cluster.retire({one.name: one.address for one in fake.machines})
    assert all(one.etcd for one in fake.machines)


def test_a_member_that_the_platform_never_had_is_left_alone() -> None:
    fake = FakeTalos(nodes(4))
    settings = [member(one) for one in fake.machines[:3]]
    with observer(fake, settings) as cluster:
        cluster.retire({one.name: one.address for one in settings})
    assert fake.machines[3].etcd


# --- Hooks ----------------------------------------------------------------------------------------


def rollout(fake: FakeTalos, staying: int | None = None) -> Rollout:
    @contextmanager
    def connector(talosconfig: str) -> Iterator[Talosctl]:
        assert talosconfig == "talosconfig"
        with talosctl.connect(talosconfig, fake.run, fake.dial) as talos:
            yield talos

    return Rollout(
        [member(one) for one in fake.machines[:staying]],
        pulumi.Output.secret("talosconfig"),
        connector=connector,
        clock=Clock(lambda: fake.now, fake.sleep),
    )


async def call(hook: Hook, old_inputs: Mapping[str, Any] | None = None) -> None:
    args = pulumi.ResourceHookArgs(urn="", id="", name="", type="", old_inputs=old_inputs)
    await hook(args)


def test_a_change_that_reboots_is_seen_to_go_and_to_come_back() -> None:
    async def test() -> None:
        fake = FakeTalos(nodes())
        first = fake.machines[0]
        first.reboots = True
        hooks = rollout(fake)
        await call(hooks.before_configuration(member(first), pulumi.Output.secret("new")))

        def reboot() -> None:
            first.boot = "boot-2"

        at(fake, 30, reboot)
        await call(hooks.health_again(member(first)))
        assert fake.now >= 30
        waited = fake.now
        # What was remembered is used up: the next wait is not for a reboot.
        await call(hooks.health_again(member(first)))
        assert fake.now - waited < 2 * health.SETTLE_SECONDS

    asyncio.run(test())


def test_a_hook_does_not_block_the_event_loop() -> None:
    async def test() -> None:
        fake = FakeTalos(nodes())
        loop = asyncio.get_running_loop()
        served = asyncio.Event()

        def tick() -> None:
            # Called in the hook's thread: the loop must be free to answer.
            asyncio.run_coroutine_threadsafe(_set(served), loop).result(timeout=60)

        fake.tick = tick
        await call(rollout(fake).health_again(member(fake.machines[0])))
        assert served.is_set()

    async def _set(event: asyncio.Event) -> None:
        event.set()

    asyncio.run(test())


def test_the_hook_of_removed_control_planes_reads_the_earlier_ones_from_its_gate() -> None:
    async def test() -> None:
        fake = FakeTalos(nodes(4))
        old = {one.name: one.address for one in fake.machines}
        await call(rollout(fake, staying=3).retire(), old_inputs={"controlPlanes": old})
        assert "etcd leave @172.16.20.54" in fake.commands

    asyncio.run(test())


# --- talosctl -------------------------------------------------------------------------------------


def test_credentials_exist_only_while_they_are_used_and_only_for_their_owner() -> None:
    seen: list[Path] = []

    def run(arguments: Sequence[str], _: float) -> Result:
        file = Path(arguments[arguments.index("--talosconfig") + 1])
        assert file.read_text() == "secret"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert file.is_relative_to(gettempdir())
        seen.append(file)
        return Result(0, "boot", "")

    with talosctl.connect("secret", run, lambda _: None) as talos:
        talos.boot_id("172.16.20.51")
    assert len(seen) == 1
    assert not seen[0].parent.exists()


def test_credentials_are_removed_after_a_failure_too() -> None:
    seen: list[Path] = []

    def run(arguments: Sequence[str], _: float) -> Result:
        seen.append(Path(arguments[arguments.index("--talosconfig") + 1]))
        return Result(1, "", "rpc error")

    with (
        pytest.raises(TalosctlError, match="rpc error"),
        talosctl.connect("secret", run, lambda _: None) as talos,
    ):
        talos.boot_id("172.16.20.51")
    assert not seen[0].parent.exists()


def test_members_are_read_by_the_columns_of_the_heading() -> None:
    widths = (15, 19, 11, 28, 28, 0)
    rows = (
        ("NODE", "ID", "HOSTNAME", "PEER URLS", "CLIENT URLS", "LEARNER"),
        ("172.16.20.51", "1cd9fa1e2e4c3a05", "node01", "https://172.16.20.51:2380", "x", "false"),
        ("172.16.20.51", "9e1ab0b1b4d1b7b2", "", "https://172.16.20.52:2380", "", "true"),
    )
    table = "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
    assert [(one.id, one.name, one.address, one.learner) for one in parse_members(table)] == [
        ("1cd9fa1e2e4c3a05", "node01", "172.16.20.51", False),
        ("9e1ab0b1b4d1b7b2", "", "172.16.20.52", True),
    ]


def test_an_unknown_table_of_members_is_refused() -> None:
    with pytest.raises(TalosctlError, match="unknown table"):
        parse_members("MEMBER   NAME\n1   node01\n")


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("Client:\nTalos v1.13.2\n", None),
        ("Client:\nTalos v1.12.9\n", "version 1.12.9 does not fit Talos v1.13.9"),
        ("nonsense", "install talosctl v1.13.9"),
    ],
)
def test_talosctl_must_be_of_the_machines_minor_version(output: str, error: str | None) -> None:
    def run(*_: object) -> Result:
        return Result(0, output, "")

    if error is None:
        check_talosctl("v1.13.9", run)
    else:
        with pytest.raises(TalosctlError, match=error):
            check_talosctl("v1.13.9", run)
