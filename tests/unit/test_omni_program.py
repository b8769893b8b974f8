"""The program with a cluster that Omni manages: what it registers, and what its hooks do."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from clients.omnictl import Account, Omnictl
from components import lifecycle
from components.omni import join
from components.omni.kubeconfig import AccessError, checked, ends
from components.omni.observer import OmniError
from components.omni.rollout import Rollout, Way, turned_off
from config import parse, plain_yaml
from config.resource_types import GATE, MACHINE
from config.secret_keys import SECRET_KEYS
from ops.engine.values import Resource, decode
from ops.policies.catalogue import RULES
from ops.policies.known import Known
from ops.policies.plan import check_order
from tests.edits import STACK_FILES
from tests.unit.fake_omni import UUIDS, FakeOmni
from tests.unit.hand_clock import Time
from tests.unit.recorder import Platform, is_secret, plain, public_text, run

EXAMPLE = STACK_FILES / "good" / "omni.yaml"
PROXY = "https://omni.example.internal:8095"
TOKEN = "omniJoinToken-of-the-test"  # noqa: S105 no real one
KEY = "omniServiceAccountKey-of-the-test"


def sections() -> dict[str, Any]:
    found = plain_yaml.read(EXAMPLE.read_text(encoding="utf-8"))["config"]
    return {key.removeprefix("platform:"): value for key, value in found.items()}


def kubeconfig(server: str = PROXY, expires: int = 1_900_000_000) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return yaml.safe_dump(
        {
            "clusters": [{"name": "prod", "cluster": {"server": server}}],
            "users": [{"name": "platform", "user": {"token": f"head.{claims}.signature"}}],
        }
    )


@pytest.fixture(scope="module", autouse=True)
def omnictl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put an omnictl on PATH that knows its version and nothing else."""
    folder = tmp_path_factory.mktemp("omnictl")
    file = folder / "omnictl"
    file.write_text("#!/bin/sh\necho 'omnictl version v1.9.3 (API Version: 2)'\n")
    file.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=":")
        yield


@cache
def built() -> Platform:
    """Run the program as on a platform that is there, once for all tests that only look."""
    return run(sections(), platform=Platform(kept={"kubeconfig": kubeconfig()}))


# --- What is registered ------------------------------------------------------------------------


def test_nothing_of_the_clusters_keys_and_configuration_is_the_stacks() -> None:
    types = {one.type for one in built().resources}
    assert {one for one in types if one.startswith("talos:")} == {
        "talos:imageFactory/schematic:Schematic"
    }
    assert "platform:omni:Cluster" in types
    assert not [token for token, _ in built().calls if token.startswith("talos:")]


def test_every_machine_is_made_and_waited_for_before_omni_is_told_of_the_cluster() -> None:
    gates = built().names(GATE)
    assert built().names(MACHINE) == ["node01", "node02", "node03", "node04"]
    for name in built().names(MACHINE):
        assert gates.index("omni") < gates.index(f"{name}-joined") < gates.index("omni-cluster")
    assert gates.index("omni-cluster") < gates.index("omni-kubeconfig")
    assert gates.index("omni-kubeconfig") < gates.index("kubernetes-api")


def test_a_machine_is_told_how_to_join_and_nobody_reads_it_in_the_state() -> None:
    for machine in built().all(MACHINE):
        told = machine.inputs["extraConfig"]
        assert is_secret(told) or is_secret(told[join.GUESTINFO])
        text = base64.b64decode(plain(told)[join.GUESTINFO]).decode()
        assert f"jointoken={TOKEN}" in text
        assert "guestinfo.metadata" in plain(told)


def test_what_a_machine_was_told_says_with_which_token_it_joins() -> None:
    omni = parse(sections()).omni
    assert omni is not None
    for tunnel in (False, True):
        tunnelled = omni.model_copy(update={"tunnel": tunnel})
        assert join.token_in(join.guestinfo(tunnelled, "a&b=c", None)) == "a&b=c"
    for other in ("", "no base64", base64.b64encode(b"kind: HostnameConfig\n").decode()):
        assert join.token_in(other) == ""


def test_neither_key_nor_token_is_in_anything_public() -> None:
    for one in built().resources:
        text = public_text(one.inputs)
        assert TOKEN not in text
        assert KEY not in text
        assert base64.b64encode(TOKEN.encode()).decode()[:-4] not in text
        assert "signature" not in text


def test_a_machine_that_omni_has_is_restarted_for_cpus_and_memory() -> None:
    for machine in built().all(MACHINE):
        assert machine.inputs["cpuHotAddEnabled"] is False
        assert machine.inputs["memoryHotAddEnabled"] is False


def test_a_preview_shows_the_template_by_the_machines_names() -> None:
    seen = built().one(GATE, "omni-cluster").inputs
    assert "- node01\n" in seen["template"]
    assert "hostname: node04" in seen["template"]
    assert set(seen["machines"]) == {"node01", "node02", "node03", "node04"}
    assert built().one(GATE, "omni-healthy").inputs["template"] == seen["template"]


def test_the_stack_gives_omnis_proxy_and_no_talosconfig() -> None:
    values = built().values
    assert values["endpoint"] == PROXY
    assert built().secret_outputs == {"kubeconfig"}
    assert "talosconfig" not in values
    assert values["expires"] == {"kubeconfig": "2030-03-17T17:46:40+00:00"}
    assert "omnictl talosconfig" in values["next"]


def test_without_cilium_nothing_waits_for_health_that_cannot_come() -> None:
    given = {key: value for key, value in sections().items() if key != "services"}
    platform = run(given, platform=Platform(kept={"kubeconfig": kubeconfig()}))
    assert "omni-healthy" not in platform.names(GATE)


def test_a_preview_of_the_first_run_knows_no_kubeconfig() -> None:
    platform = run(sections(), preview=True)
    assert platform.values["kubeconfig"] is None
    assert platform.values["endpoint"] == PROXY


def test_a_preview_of_a_later_run_knows_the_kubeconfig() -> None:
    platform = run(sections(), preview=True, platform=Platform(kept={"kubeconfig": kubeconfig()}))
    assert platform.values["kubeconfig"] == kubeconfig()


def test_an_omnictl_of_another_release_stops_the_run_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "omnictl"
    file.write_text("#!/bin/sh\necho 'omnictl version v1.8.0 (API Version: 1)'\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    platform = Platform()
    with pytest.raises(BaseException, match=r"does not fit platform:omni\.version = 1\.9\.3"):
        run(sections(), platform=platform)
    assert platform.names(MACHINE) == []


def test_each_way_is_picked_by_its_name() -> None:
    model = parse(sections())
    assert lifecycle.of(model) is lifecycle.WAYS["omni"]
    standalone = {key: value for key, value in sections().items() if key != "omni"}
    standalone["cluster"] = {"name": "prod"}
    assert lifecycle.of(parse(standalone)) is lifecycle.WAYS["standalone"]


# --- Policies ----------------------------------------------------------------------------------


def test_the_platform_breaks_no_policy() -> None:
    wanted = [
        Resource(
            one.urn,
            one.type,
            one.name,
            decode(one.inputs),
            one.request.protect,
            tuple(one.request.ignoreChanges),
            tuple(one.dependencies),
        )
        for one in built().resources
    ]
    keys = {f"platform:{key.name}": f"{key.name}-of-the-test" for key in SECRET_KEYS}
    stack = {f"platform:{key}": json.dumps(value) for key, value in sections().items()}
    known = Known.of(stack | keys, keys)
    assert known.settings is not None, known.settings_fault
    for one in wanted:
        known.met.learn(one.inputs)
    told = [
        f"{rule.name}: {one.name}: {text}"
        for rule in RULES
        if rule.check is not None
        for one in wanted
        for text in rule.check(one, known)
    ]
    told += [
        f"{rule.name}: {one.name}: {text}"
        for rule in RULES
        if rule.check_stack is not None
        for one, text in rule.check_stack(wanted, known)
    ]
    assert told == []


def test_control_planes_that_are_made_together_are_taken_in_by_omni_one_after_the_other() -> None:
    stack = {f"platform:{key}": json.dumps(value) for key, value in sections().items()}
    known = Known.of(stack, ())

    def machines(*after: tuple[str, ...]) -> list[Resource]:
        return [
            Resource(f"u::{MACHINE}::node0{n}", MACHINE, f"node0{n}", {}, dependencies=names)
            for n, names in enumerate(after, 1)
        ]

    first = f"u::{MACHINE}::node01"
    assert list(check_order(machines((), (), ()), known)) == []
    assert list(check_order(machines((), (first,), (first,)), known)) != []


# --- The kubeconfig ----------------------------------------------------------------------------


def test_a_kubeconfig_that_leads_elsewhere_is_refused_with_what_omni_says() -> None:
    omni = parse(sections()).omni
    assert omni is not None
    fake = FakeOmni(config=kubeconfig("https://elsewhere.example.internal"))
    with pytest.raises(AccessError, match=r"Omni's own is https://elsewhere\.example\.internal"):
        checked(fake, "prod", omni)
    fake.config = ""
    with pytest.raises(AccessError, match="omnictl wrote no kubeconfig"):
        checked(fake, "prod", omni)
    fake.config = kubeconfig()
    assert checked(fake, "prod", omni) == kubeconfig()
    assert fake.done[-1] == ("kubeconfig", "prod platform 365")


WRITES = """#!/bin/sh
case "$1" in
--version) echo 'omnictl version v1.9.3 (API Version: 2)' ;;
kubeconfig) echo "$@" >> "$0.calls"; cp "$0.kubeconfig" "$2" ;;
esac
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an omnictl on PATH that gives a kubeconfig, and notes that it was asked."""
    file = folder / "omnictl"
    file.write_text(WRITES)
    file.chmod(0o755)
    file.with_name("omnictl.kubeconfig").write_text(kubeconfig())
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return file.with_name("omnictl.calls")


def test_a_kubeconfig_that_a_killed_run_did_not_keep_is_fetched_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install(tmp_path, monkeypatch)
    assert run(sections()).values["kubeconfig"] == kubeconfig()
    (call_,) = calls.read_text().splitlines()
    assert "--cluster prod --service-account --user platform --groups system:masters" in call_
    assert KEY not in call_


def test_a_kubeconfig_that_is_kept_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install(tmp_path, monkeypatch)
    platform = run(sections(), platform=Platform(kept={"kubeconfig": kubeconfig()}))
    assert platform.values["kubeconfig"] == kubeconfig()
    assert not calls.exists()


def test_a_preview_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(tmp_path, monkeypatch)
    run(sections(), preview=True)
    assert not calls.exists()


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.bnVsbA.c", "a.e30.c"])
def test_a_token_that_says_no_end_has_none(token: str) -> None:
    assert ends(yaml.safe_dump({"users": [{"user": {"token": token}}]})) == ""


# --- Hooks -------------------------------------------------------------------------------------


def rollout(fake: FakeOmni) -> Rollout:
    @contextmanager
    def connector(account: Account) -> Iterator[Omnictl]:
        assert account == Account("https://omni.example.internal", KEY)
        yield fake

    omni = parse(sections()).omni
    assert omni is not None
    way = Way(
        pulumi.Output.from_input(Account("https://omni.example.internal", KEY)),
        pulumi.Output.from_input(None),
        connector,
        Time().clock(),
    )
    return Rollout("prod", omni, way)


def args(**more: Any) -> pulumi.ResourceHookArgs:
    return pulumi.ResourceHookArgs(
        urn="urn:x::y::node01", name="n", type="t", **({"id": ""} | more)
    )


def test_a_data_disk_is_not_taken_away_where_nobody_can_say_who_uses_it() -> None:
    machine = parse(sections()).machines[0]
    fake = FakeOmni()

    async def run_it(old: list[str], new: list[str]) -> None:
        given = args(
            id=UUIDS["node01"],
            old_inputs={"disks": [{"label": one} for one in old]},
            new_inputs={"disks": [{"label": one} for one in new]},
        )
        await rollout(fake).guard(machine)(given)

    asyncio.run(run_it(["system"], ["system", "data"]))
    with pytest.raises(OmniError, match="the data disk data would be deleted"):
        asyncio.run(run_it(["system", "data"], ["system"]))


def test_the_settings_lost_machines_are_not_waited_for() -> None:
    fake = FakeOmni().with_machines("node01")
    given = sections()
    given["omni"] = given["omni"] | {"lost": ["node05"]}
    omni = parse(given).omni
    assert omni is not None

    async def run_it() -> None:
        ways = rollout(fake)
        ways._omni = omni  # noqa: SLF001 the section with a lost machine
        uuids = {"node01": pulumi.Output.from_input(UUIDS["node01"])}
        before = {"machines": {name: UUIDS[name] for name in ("node01", "node05")}}

        def settle(made: FakeOmni) -> None:
            made.status = None

        fake.after_sync = settle
        await ways.sync(uuids, " ".join)(args(old_inputs=before))

    with pytest.raises(OmniError, match="Omni has not made the cluster yet"):
        asyncio.run(run_it())
    assert [kind for kind, _ in fake.done] == ["remove lost", "remove lost", "sync"]


def test_a_change_of_what_a_token_follows_from_is_a_change_that_a_preview_shows() -> None:
    given = sections()
    before = built().one(GATE, "omni-kubeconfig")
    assert before.hooks("before_create") == ["omni-kubeconfig-first"]
    assert before.hooks("before_update") == ["omni-kubeconfig-again"]
    for key, value in {"accessRenewed": "2027-01-31", "accessDays": 90}.items():
        changed = given | {"omni": given["omni"] | {key: value}}
        platform = run(changed, platform=Platform(kept={"kubeconfig": kubeconfig()}))
        assert platform.one(GATE, "omni-kubeconfig").inputs != before.inputs


@pytest.mark.parametrize(
    ("change", "off"),
    [
        ({}, False),
        ({"cpus": 8}, True),
        ({"memoryMiB": 4096}, True),
        ({"disksGiB": {"system": 100}}, False),
        ({"networks": ["storage", "backup"]}, False),
        ({"networks": []}, True),
        ({"networks": ["backup"]}, True),
    ],
)
def test_a_machine_that_vcenter_turned_off_has_to_show_another_boot(
    change: dict[str, Any], *, off: bool
) -> None:
    old = {"cpus": 4, "memoryMiB": 8192, "networks": ["storage"], "disksGiB": {"system": 50}}
    assert turned_off(old, old | change) is off
