"""Bad requests get the real systems' errors, and bad settings never reach a system."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ops.rehearsal.world import PROJECT, World, wait_until
from tests.edits import STACK_FILES, refused

BAD = STACK_FILES / "bad"

# One file of each kind goes through the engine. The unit tests give all of them to the check and,
# as the engine would hand them on, to the program: what only a rule refuses is one kind.
REFUSED_BY_THE_PROGRAM = (
    "invisible-characters",
    "long-number",
    "many-problems",
    "numbers-for-texts",
    "other-namespace",
    "secret-in-url",
    "secret-of-another-namespace",
    "section-twice",
    "two-documents",
    "unknown-key",
)
REFUSED_BY_THE_ENGINE = (
    "alias-bomb",
    "alias-in-itself",
    "empty",
    "no-config",
    "not-yaml",
    "repeated-key",
    "secret-in-plain-text",
    "tags-and-keys",
    "wrong-type-section",
)
"""The program does not run: the message is the engine's own."""
LOST_IN_THE_COPY = ("encrypted-section",)
"""The lab's copy leaves out what is encrypted, so the program misses the section instead."""


SITES: Mapping[tuple[str, ...], Sequence[str]] = {
    ("vcenter-password",): [
        "platform:vspherePassword, platform:site.user: vcenter.example.internal refuses",
        "Cannot complete login due to an incorrect user name or password",
    ],
    ("vcenter-certificate-expired",): [
        'platform:site.vcenter = "vcenter.example.internal": its certificate has expired',
        "certificate has expired or is not yet valid",
    ],
    ("cluster-missing", "datastore-missing", "network-missing"): [
        "3 problems:",
        'platform:site.cluster = "cluster01": vcenter.example.internal has no such cluster',
        "cluster 'cluster01' not found",
        'platform:site.datastore = "datastore01": vcenter.example.internal has no such',
        "datastore 'datastore01' not found",
        'platform:site.network = "platform": vcenter.example.internal has no such',
    ],
    ("chart-missing",): [
        "6 problems:",
        "platform:services.metallb.version = ",
        "https://metallb.github.io/metallb has no such version of the chart metallb; set",
    ],
    ("vcenter-down",): [
        'platform:site.vcenter = "vcenter.example.internal": nothing listens there; check',
        "connect: connection refused",
    ],
    ("vcenter-certificate-unknown",): [
        'platform:site.vcenter = "vcenter.example.internal": its certificate is signed by',
        "certificate signed by unknown authority",
    ],
    ("datacenter-missing",): [
        'platform:site.datacenter = "dc01": vcenter.example.internal has no such datacenter',
        "datacenter 'dc01' not found",
    ],
    ("resource-pool-missing",): [
        'platform:site.resourcePool = "pool01": vcenter.example.internal has no such resource pool',
        "resource pool 'cluster01/Resources/pool01' not found",
    ],
    ("charts-down",): [
        "6 problems:",
        "platform:services.argocd: its chart repository https://argoproj.github.io/argo-helm",
        "platform:services.cilium.gatewayApiVersion = 1.4.1: https://raw.githubusercontent.com/",
    ],
}
"""Faults of a site, and what is said of them."""
NODES = ["node01", "node02", "node03"]
OF_CHARTS = {"chart-missing", "charts-down"}


@pytest.mark.parametrize("faults", SITES, ids="+".join)
def test_a_broken_site_is_told_once_with_key_fix_and_the_real_words(
    make_world: Callable[..., World], stack_file: Path, faults: tuple[str, ...]
) -> None:
    before = stack_file.read_text()
    if OF_CHARTS & set(faults):  # only the whole platform has charts to miss
        shutil.copy(PROJECT / "Pulumi.prod.yaml", stack_file)
    if "resource-pool-missing" in faults:  # production is in its cluster's root
        cluster = "cluster: cluster01\n"
        assert cluster in before
        stack_file.write_text(before.replace(cluster, f"{cluster}    resourcePool: pool01\n"))
    world = make_world(*(option for one in faults for option in ("--fault", one)))
    try:
        result = world.run("pulumi", "preview", "--non-interactive", code=1)
        said = result.stdout + result.stderr
        diagnostics = said.partition("Diagnostics:")[2]
        for message in SITES[faults]:
            assert diagnostics.count(message) == 1, diagnostics
        assert diagnostics.count("error: ") == 1, diagnostics
        assert "Traceback" not in said
    finally:
        stack_file.write_text(before)
        world.stop()


def test_each_machine_that_vcenter_refuses_is_told_once_with_key_fix_and_the_real_words(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--fault", "datastore-full")
    try:
        said = world.up(code=1).stdout
        diagnostics = said.partition("Diagnostics:")[2]
        key = 'platform:site.datastore = "datastore01": it has no room for VirtualMachine '
        for name in NODES:  # all are made at once, and none has room
            assert diagnostics.count(f"{key}{name}") == 1, diagnostics
        assert "free space on it, or make it larger, then `pulumi up` again (" in diagnostics
        assert diagnostics.count("Insufficient disk space on datastore") == len(NODES), diagnostics
        assert "Traceback" not in said
    finally:
        world.stop()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.mark.parametrize(
    "bad", [*REFUSED_BY_THE_PROGRAM, *REFUSED_BY_THE_ENGINE, *LOST_IN_THE_COPY]
)
def test_bad_settings_are_refused_and_the_engine_registers_nothing(world: World, bad: str) -> None:
    before = world.stack_file.read_text()
    world.stack_file.write_text(refused(BAD / f"{bad}.yaml"))
    try:
        result = world.up(code=None)
    finally:
        world.stack_file.write_text(before)
    assert result.returncode != 0
    if bad in REFUSED_BY_THE_PROGRAM:
        for problem in (BAD / f"{bad}.txt").read_text().splitlines():
            # What is wrong with the whole file begins with its name, here the world's copy's.
            assert problem.strip(" -").removeprefix(f"{bad}.yaml: ") in result.stdout
    assert registered(world) in ([], ["pulumi:pulumi:Stack"])


def registered(world: World) -> list[str]:
    """Give the types of what the state has, from the engine's own file of it."""
    (file,) = world.state.glob("backend/**/stacks/platform/prod.json")
    latest = json.loads(file.read_text())["checkpoint"]["latest"] or {}
    return [one["type"] for one in latest.get("resources") or []]


@pytest.mark.campaign
def test_a_machine_that_does_not_answer_is_waited_for_until_a_ctrl_c_and_picked_up_after_it(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world("--fault", "machine-silent=node01")
    cable = world.state / "machines" / "unreachable" / "node01"
    log = tmp_path / "up.log"
    up = world.command("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
    try:
        with log.open("w") as stream:
            deployment = subprocess.Popen(
                up, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )

        def says(text: str) -> Callable[[], bool]:
            return lambda: text in log.read_text()

        wait_until("node01 is powered on", lambda: bool(world.machines()))
        time.sleep(8)
        assert deployment.poll() is None, "up gave up without the machine"
        # The others are there, and wait for their turn.
        assert [machine["name"] for machine in world.machines()] == NODES
        assert {machine["stage"] for machine in world.machines()} == {"maintenance"}
        cable.unlink()
        wait_until(
            "node01 has its configuration",
            says("ConfigurationApply node01 created"),
            poll=0.05,
        )
        cable.touch()
        wait_until("the gate tells what it waits for", says("waiting for node01 (172.16.20.51)"))
        assert deployment.poll() is None, log.read_text()
        os.killpg(deployment.pid, signal.SIGINT)
        wait_until("the engine has ended", says("\nResources:"))
        diagnostics = log.read_text().partition("Diagnostics:")[2]
        assert diagnostics.count("stopped by Ctrl-C; `pulumi up` goes on from here") == 1
        assert "Traceback" not in diagnostics
        deployment.wait(120)
        cable.unlink()
        wait_until(
            "the lock is free", lambda: not list(world.state.glob("backend/**/locks/**/*.json"))
        )
        world.up()
        world.expect_no_changes()
    finally:
        world.stop()
