"""Control planes on one host: who is told, and when."""

from __future__ import annotations

from clients.waiting import Clock
from components.vsphere import apart


def test_machines_on_hosts_of_their_own_are_no_matter() -> None:
    assert not apart.together({"node01": "esx01", "node02": "esx02"})


def test_machines_on_one_host_are_named_with_it() -> None:
    hosts = {"node01": "esx01", "node02": "esx02", "node03": "esx01"}
    assert apart.together(hosts) == "node01, node03 run on one host, esx01"


def test_a_host_that_nobody_knows_is_not_shared() -> None:
    assert not apart.together({"node01": "", "node02": ""})


def test_drs_is_given_time_to_move_a_machine() -> None:
    hosts = {"node01": "esx01", "node02": "esx01"}
    seconds = [0.0]

    def sleep(for_seconds: float) -> None:
        seconds[0] += for_seconds
        if seconds[0] >= apart.DRS_SECONDS / 2:
            hosts["node02"] = "esx02"

    clock = Clock(now=lambda: seconds[0], sleep=sleep)
    assert not apart.wait(clock, lambda: hosts)
    assert seconds[0] < apart.DRS_SECONDS


def test_what_drs_does_not_move_is_told_after_its_time() -> None:
    seconds = [0.0]

    def sleep(for_seconds: float) -> None:
        seconds[0] += for_seconds

    left = apart.wait(
        Clock(now=lambda: seconds[0], sleep=sleep), lambda: {"node01": "esx01", "node02": "esx01"}
    )
    assert left == "node01, node02 run on one host, esx01"
    assert seconds[0] >= apart.DRS_SECONDS
