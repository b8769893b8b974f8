"""The lab's tests tell where their time went."""

from __future__ import annotations

from tests.lab.workers import SLOWEST, Workers


def test_each_worker_has_its_files_in_order_and_what_it_was_idle_for() -> None:
    workers = Workers()
    workers.add("gw0", "tests/lab/test_long.py::test_one", 100.0, 130.0)
    workers.add("gw0", "tests/lab/test_long.py::test_one", 130.0, 160.0)
    workers.add("gw1", "tests/lab/test_short.py::test_two[a/b]", 101.0, 121.0)
    workers.add("gw1", "tests/lab/test_other.py::test_three", 121.0, 125.0)
    assert list(workers.lines()) == [
        "gw0           0 s to     60 s     60 s  test_long.py",
        "gw0           0 s idle at the end",
        "gw1           1 s to     21 s     20 s  test_short.py",
        "gw1          21 s to     25 s      4 s  test_other.py",
        "gw1          35 s idle at the end",
        "    60.0 s  test_long.py::test_one",
        "    20.0 s  test_short.py::test_two[a/b]",
        "     4.0 s  test_other.py::test_three",
    ]


def test_only_the_slowest_tests_are_told() -> None:
    workers = Workers()
    for number in range(2 * SLOWEST):
        workers.add("gw0", f"tests/lab/test_x.py::test_{number}", 0.0, float(number))
    assert len(list(workers.lines())) == SLOWEST + 2


def test_a_run_without_a_test_tells_nothing() -> None:
    assert list(Workers().lines()) == []
