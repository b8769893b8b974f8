"""The machines' firewall: who reaches what, and that a change of it locks nobody out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from clients import talosctl
from clients.waiting import Clock
from components.talos import firewall, lockout
from components.talos.configuration import documents, patches, written
from components.talos.etcd import HealthError, Member
from components.talos.health import Observer
from components.talos.inputs import TalosInputs
from components.talos.patch_files import PatchError, check_patch_files
from config import Settings, parse, plain_yaml
from config.settings import Machine
from ops.settings.command import main
from tests.unit.fake_talos import FakeMachine, FakeTalos
from tests.unit.recorder import ROOT, machine, production, without_services

OPERATOR, USER, STRANGER = "172.16.10.7", "172.16.11.7", "192.0.2.7"
OTHER_MACHINE, GATEWAY, POD = "172.16.20.52", "172.16.20.1", "10.244.1.9"
WALL = {"operators": ["172.16.10.0/24"], "kubernetes": ["172.16.11.0/24"]}


def settings(wall: object = WALL, services: dict[str, Any] | None = None) -> Settings:
    given = production()
    given["network"] = {**given["network"], "firewall": wall}
    if services is not None:
        given["services"] = services
    given["machines"] = [*given["machines"], machine("worker01", "172.16.20.61", "worker")]
    return parse(given)


def named(model: Settings, name: str) -> Machine:
    (found,) = (one for one in model.machines if one.name == name)
    return found


def whole(model: Settings, name: str = "node01") -> str:
    return "---\n".join(
        written(one) for one in documents(TalosInputs.of(model), named(model, name))
    )


def reaches(
    model: Settings, source: str, port: int, protocol: str = "tcp", name: str = "node01"
) -> bool:
    """Decide as Talos does: any rule for a port lets in whom it names and does not except."""
    return any(
        firewall._names(one, IPv4Address(source))  # noqa: SLF001 the rule's own reading
        for one in documents(TalosInputs.of(model), named(model, name))
        if one.get("kind") == firewall.RULE
        and one["portSelector"]["protocol"] == protocol
        and port in set(ports(one["portSelector"]["ports"]))
    )


def ports(written_: list[int | str]) -> Iterator[int]:
    for one in written_:
        low, _, high = str(one).partition("-")
        yield from range(int(low), int(high or low) + 1)


# --- Who reaches what ----------------------------------------------------------------------------


def test_without_the_setting_a_machine_has_no_firewall() -> None:
    assert firewall.of(whole(parse(production() | {"network": bare()}))) == []


def bare() -> dict[str, Any]:
    return {key: value for key, value in production()["network"].items() if key != "firewall"}


def test_with_the_setting_every_machine_blocks_what_no_rule_lets_in() -> None:
    model = settings()
    for one in model.machines:
        (default,) = (
            each
            for each in documents(TalosInputs.of(model), one)
            if each.get("kind") == firewall.DEFAULT
        )
        assert default["ingress"] == "block"


@pytest.mark.parametrize(
    ("source", "port", "let_in"),
    [
        (OPERATOR, 50000, True),
        (OPERATOR, 6443, True),
        (OPERATOR, 10250, False),
        (OPERATOR, 2379, False),
        (OPERATOR, 50001, False),
        (USER, 6443, True),
        (USER, 50000, False),
        (STRANGER, 50000, False),
        (STRANGER, 6443, False),
        (OTHER_MACHINE, 50000, True),
        (OTHER_MACHINE, 50001, True),
        (OTHER_MACHINE, 6443, True),
        (OTHER_MACHINE, 2379, True),
        (OTHER_MACHINE, 2380, True),
        (OTHER_MACHINE, 10250, True),
        (OTHER_MACHINE, 4240, True),
        (OTHER_MACHINE, 7946, True),
        (POD, 6443, True),  # every controller
        (POD, 10250, True),  # metrics-server
        (POD, 50000, True),  # the backup's job
        (POD, 4244, True),  # Hubble's relay
        (POD, 2379, False),
        (POD, 50001, False),
        (POD, 7946, False),
        (GATEWAY, 50000, False),  # whoever a router hides
        (GATEWAY, 2380, False),
    ],
)
def test_a_control_plane_lets_in_whom_the_platform_needs(
    source: str, port: int, *, let_in: bool
) -> None:
    assert reaches(settings(), source, port) is let_in


@pytest.mark.parametrize("port", [2379, 2380, 6443, 50001])
def test_a_worker_has_no_port_of_a_control_plane_open(port: int) -> None:
    assert not reaches(settings(), OTHER_MACHINE, port, name="worker01")
    assert reaches(settings(), OTHER_MACHINE, 50000, name="worker01")
    assert reaches(settings(), OTHER_MACHINE, 10250, name="worker01")


def test_only_backups_open_the_talos_api_to_pods() -> None:
    services = {key: one for key, one in production()["services"].items() if key != "backup"}
    assert not reaches(settings(services=services), POD, 50000)
    assert not reaches(settings(), POD, 50000, name="worker01")


@pytest.mark.parametrize(
    ("routing", "tunnel"), [("native", None), ("vxlan", 8223), ("geneve", 6081)]
)
def test_the_tunnel_of_pods_packets_is_open_between_machines_alone(
    routing: str, tunnel: int | None
) -> None:
    services = production()["services"] | {"cilium": {"routing": routing}}
    model = settings(services=services)
    for port in (8223, 6081, 8472):
        assert reaches(model, OTHER_MACHINE, port, "udp") is (port == tunnel)
        assert not reaches(model, OPERATOR, port, "udp")


def test_a_service_that_comes_or_goes_changes_no_rule() -> None:
    kept = {key: one for key, one in production()["services"].items() if key == "backup"}
    kept["cilium"] = production()["services"]["cilium"]
    for name in ("node01", "worker01"):
        rules = [
            list(firewall.rules(TalosInputs.of(one), named(one, name)))
            for one in (settings(), settings(services=kept))
        ]
        assert rules[0] == rules[1]


def test_gateways_of_cilium_are_reached_by_everybody_since_their_packets_pass_the_firewall() -> (
    None
):
    assert reaches(settings(), STRANGER, 443)
    assert reaches(settings(), STRANGER, 80)


def test_operators_behind_the_gateways_own_address_come_in() -> None:
    model = settings({"operators": [f"{GATEWAY}/32"]})
    assert firewall.lets_in(whole(model), GATEWAY)
    assert not reaches(model, GATEWAY, 2380)


def test_no_two_documents_of_a_machine_have_one_name() -> None:
    model = settings()
    names = [one.name for one in firewall.rules(TalosInputs.of(model), named(model, "node01"))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("file", "warned", "shown"),
    [
        ("three.yaml", True, "everybody (no platform:network.firewall)"),
        (
            "three-and-two-workers.yaml",
            False,
            "operators from 172.16.10.0/24, 192.168.7.3/32; to Kubernetes alone 172.16.11.0/24",
        ),
    ],
)
def test_the_check_warns_of_open_machines_and_show_says_who_is_let_in(
    capsys: pytest.CaptureFixture[str], file: str, *, warned: bool, shown: str
) -> None:
    path = str(ROOT / "tests" / "fixtures" / "config" / "good" / file)
    assert main(["check", path]) == 0
    assert ("warning: platform:network.firewall: missing" in capsys.readouterr().out) is warned
    assert main(["show", path]) == 0
    assert shown in capsys.readouterr().out


# --- The charts' own ports -----------------------------------------------------------------------


def test_every_metrics_port_that_the_production_files_open_has_a_rule() -> None:
    text = (ROOT / "clusters" / "prod" / "controlplane.yaml").read_text()
    cluster = plain_yaml.read(text)["cluster"]
    assert cluster["etcd"]["extraArgs"]["listen-metrics-urls"].endswith(":2381")
    assert {"bind-address"} == cluster["scheduler"]["extraArgs"].keys()
    for port in (2381, 10257, 10259):
        assert reaches(settings(), POD, port)
        assert not reaches(settings(), OPERATOR, port)


@pytest.mark.parametrize("page", ["site-requirements.md", "decisions/0021-machines-firewall.md"])
def test_the_pages_name_every_port_that_is_open(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for routing in ("vxlan", "geneve"):
        services = production()["services"] | {"cilium": {"routing": routing}}
        model = settings(services=services)
        for rule in firewall.rules(TalosInputs.of(model), named(model, "node01")):
            assert [port for port in rule.ports if port not in text] == [], rule.name


# --- What operators write themselves -------------------------------------------------------------


def rule_text(name: str, port: int) -> str:
    return (
        f"apiVersion: v1alpha1\nkind: NetworkRuleConfig\nname: {name}\n"
        f"portSelector: {{ports: [{port}], protocol: tcp}}\ningress: [{{subnet: 10.1.0.0/16}}]\n"
    )


def with_file(folder: Path, model: Settings, text: str) -> None:
    (folder / model.talos.patches).mkdir(parents=True)
    (folder / model.talos.patches / "common.yaml").write_text(text)


def test_a_files_own_rule_is_added(tmp_path: Path) -> None:
    model = settings()
    text = rule_text("node-exporter", 9100)
    with_file(tmp_path, model, text)
    check_patch_files(model, tmp_path)
    assert text in patches(TalosInputs.of(model), named(model, "node01"), tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "apiVersion: v1alpha1\nkind: NetworkDefaultActionConfig\ningress: accept\n",
            (
                "NetworkDefaultActionConfig.ingress = accept: the platform sets block; remove it, "
                "and set platform:network.firewall"
            ),
        ),
        (
            rule_text("talos-api-operators", 50000),
            "or give the rule a name of its own",
        ),
    ],
)
def test_a_file_that_contradicts_the_firewall_is_refused(
    tmp_path: Path, text: str, fault: str
) -> None:
    model = settings()
    with_file(tmp_path, model, text)
    with pytest.raises(PatchError) as caught:
        check_patch_files(model, tmp_path)
    assert fault in str(caught.value)


def test_without_the_setting_files_may_make_a_firewall_of_their_own(tmp_path: Path) -> None:
    model = parse(without_services(production()) | {"network": bare()})
    with_file(tmp_path, model, rule_text("talos-api-operators", 50000))
    check_patch_files(model, tmp_path)


# --- Nobody is locked out ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "let_in"),
    [
        ("machine: {}", STRANGER, True),
        ("kind: NetworkDefaultActionConfig\ningress: block", OPERATOR, False),
        ("kind: NetworkDefaultActionConfig\ningress: accept", STRANGER, True),
        (rule_text("own", 50000), STRANGER, False),  # the default accepts; a rule keeps out
        (rule_text("own", 50000), "10.1.2.3", True),
        (rule_text("own", 50001), STRANGER, True),
        (rule_text("own", 50000).replace("10.1.0.0/16", "172.16.10.9/24"), OPERATOR, True),
        (rule_text("own", 50000).replace("10.1.0.0/16", "2001:db8::/32"), OPERATOR, False),
        (
            (
                "kind: NetworkRuleConfig\nname: own\n"
                "portSelector: {ports: [49000-51000], protocol: tcp}\n"
                "ingress: [{subnet: 172.16.0.0/16, except: 172.16.10.0/24}]"
            ),
            OPERATOR,
            False,
        ),
    ],
)
def test_who_reaches_the_talos_api_is_read_as_talos_reads_it(
    text: str, source: str, *, let_in: bool
) -> None:
    assert firewall.lets_in(text, source) is let_in


def test_only_the_firewall_of_a_new_configuration_is_tried() -> None:
    running = "machine: {sysctls: {a: '1'}}\n---\n" + rule_text("old", 1)
    wanted = "machine: {sysctls: {a: '2'}}\n---\n" + rule_text("new", 2)
    mixed = list(
        plain_yaml.read_all(lockout.with_parts_of(wanted, running, sorted(firewall.KINDS)))
    )
    assert mixed == [
        {"machine": {"sysctls": {"a": "1"}}},
        plain_yaml.read(rule_text("new", 2)),
    ]


@contextmanager
def observer(fake: FakeTalos) -> Iterator[Observer]:
    members = [Member(one.name, one.address, control_plane=True) for one in fake.machines]
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        yield Observer(talos, members, Clock(lambda: fake.now, fake.sleep))


RUNNING = "machine: {}\n"
WANTED = RUNNING + "---\n" + rule_text("talos", 50000)


def fake_with(**changes: Any) -> FakeTalos:
    first = FakeMachine("node01", "172.16.20.51", configuration=RUNNING, **changes)
    return FakeTalos([first, FakeMachine("node02", "172.16.20.52", configuration=RUNNING)])


def test_a_new_firewall_is_tried_and_taken_when_this_computer_still_comes_in() -> None:
    fake = fake_with()
    with observer(fake) as cluster:
        assert cluster.before_configuration(cluster.members[0], WANTED) is not None
    assert [name for name, _ in fake.tries] == ["node01"]
    assert fake.now >= lockout.LASTING_SECONDS
    # A dry run after it would end the try, and leave the machine on what it tried.
    applied = [one for one in fake.commands if one.startswith("apply-config")]
    assert len(applied) > 1
    assert applied[-1].startswith("apply-config --mode try --timeout 30s")


def test_a_firewall_that_talos_does_not_try_is_not_taken_for_tried() -> None:
    fake = fake_with(refuses="another apply configuration is already in progress")
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.before_configuration(cluster.members[0], WANTED)
    told = str(caught.value)
    assert "not changed. It was to try its new firewall first, and it does not run on it" in told
    assert "another apply configuration is already in progress" in told


def test_a_firewall_that_does_not_change_is_not_tried() -> None:
    fake = fake_with()
    with observer(fake) as cluster:
        cluster.before_configuration(cluster.members[0], "machine: {sysctls: {a: '1'}}")
    assert fake.tries == []


def test_a_firewall_that_keeps_this_computer_out_is_taken_back_and_the_message_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lockout, "local_address", lambda _: STRANGER)
    fake = fake_with(shuts=True)
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.before_configuration(cluster.members[0], WANTED)
    told = str(caught.value)
    assert told.startswith("node01 (172.16.20.51): not changed.")
    assert f"which reaches it from {STRANGER}" in told
    assert "It has its old one again, by itself" in told
    assert "platform:network.firewall.operators" in told
    assert fake.now >= lockout.TRY_SECONDS
    fake.dial("172.16.20.51")


LINK = (
    "---\napiVersion: v1alpha1\nkind: LinkConfig\nname: eth0\nroutes: [{gateway: 172.16.20.%s}]\n"
)


def test_a_new_network_is_tried_and_taken_when_the_machine_still_works() -> None:
    fake = fake_with()
    fake.machines[0].configuration = RUNNING + LINK % 1
    with observer(fake) as cluster:
        cluster.before_configuration(cluster.members[0], RUNNING + LINK % 254)
    ((name, tried),) = fake.tries
    assert name == "node01"
    assert list(plain_yaml.read_all(tried)) == list(plain_yaml.read_all(RUNNING + LINK % 254))


def test_a_network_that_cuts_the_machine_off_is_taken_back_and_the_message_says_so() -> None:
    fake = fake_with(shuts=True)
    fake.machines[0].configuration = RUNNING + LINK % 1
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.before_configuration(cluster.members[0], RUNNING + LINK % 254)
    told = str(caught.value)
    assert "not changed. It tried its new network, and no longer let this computer in" in told
    assert "It has its old one again, by itself. Correct platform:network" in told
    assert "firewall.operators" not in told
    fake.dial("172.16.20.51")


def test_a_network_with_which_the_machine_leaves_the_others_is_taken_back() -> None:
    fake = fake_with()
    first = fake.machines[0]
    first.configuration = RUNNING + LINK % 1

    def tick() -> None:
        first.etcd = fake.now > first.tried[0] or not fake.tries

    fake.tick = tick
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.before_configuration(cluster.members[0], RUNNING + LINK % 254)
    told = str(caught.value)
    assert "no longer worked with the other machines (etcd: " in told


def test_what_the_machine_lacked_before_a_new_network_does_not_keep_it_from_it() -> None:
    fake = fake_with(unmet={"nodeReady": "no CNI yet"})
    fake.machines[0].configuration = RUNNING + LINK % 1
    with observer(fake) as cluster:
        assert cluster.before_configuration(cluster.members[0], RUNNING + LINK % 254) is not None


def test_a_first_configuration_that_would_keep_this_computer_out_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lockout, "local_address", lambda _: STRANGER)
    fake = fake_with(maintenance=True)
    with observer(fake) as cluster, pytest.raises(HealthError) as caught:
        cluster.first_configuration(cluster.members[0], whole(settings()))
    assert f"keep this computer out, which reaches it from {STRANGER}" in str(caught.value)
    assert "platform:network.firewall.operators" in str(caught.value)


def test_a_machine_that_answers_under_the_same_rules_proves_more_than_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lockout, "local_address", lambda _: STRANGER)
    fake = fake_with(maintenance=True)
    fake.machines[1].configuration = whole(settings(), "node02")
    with observer(fake) as cluster:
        for name in ("node01", "worker01"):
            cluster.first_configuration(cluster.members[0], whole(settings(), name))
        wanted = whole(settings({"operators": ["172.16.12.0/24"]}))
        with pytest.raises(HealthError, match="keep this computer out"):
            cluster.first_configuration(cluster.members[0], wanted)


@pytest.mark.parametrize("own", [OPERATOR, None])
def test_a_first_configuration_that_lets_this_computer_in_is_sent(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.setattr(lockout, "local_address", lambda _: own)
    fake = fake_with(maintenance=True)
    with observer(fake) as cluster:
        cluster.first_configuration(cluster.members[0], whole(settings()))
    assert fake.commands == []


def test_this_computers_address_is_that_of_its_way_to_a_machine() -> None:
    assert talosctl.local_address("127.0.0.1") == "127.0.0.1"


def test_the_networks_of_a_rule_are_those_of_the_settings() -> None:
    model = settings()
    rules = {
        one.name: one.sources
        for one in firewall.rules(TalosInputs.of(model), named(model, "node01"))
    }
    operators, people = (IPv4Network(f"172.16.{one}.0/24") for one in (10, 11))
    assert rules["talos-api-operators"] == rules["kubernetes-api-operators"] == (operators,)
    assert rules["kubernetes-api-people"] == (people,)
