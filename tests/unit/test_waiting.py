"""How everything waits: it says what is lacking, ends in time, and stops when it is asked to."""

import sys
import threading
import time
from itertools import pairwise

import pytest

from clients.waiting import (
    TIMED_OUT,
    Clock,
    NotYetError,
    OverdueError,
    Stop,
    StoppedError,
    run_program,
)
from tests.unit.hand_clock import Time


def test_a_short_wait_needs_no_words() -> None:
    time = Time()
    lacks = time.clock().wait(
        "node01 to be healthy", lambda: "" if time.now >= 4 else "etcd", seconds=60, poll=2
    )
    assert lacks == ""
    assert time.told == []


def test_a_long_wait_tells_what_is_lacking_since_when_and_until_when_every_15_seconds() -> None:
    time = Time()

    def lacking() -> str:
        if time.now >= 40:
            return ""
        return "etcd: not started" if time.now < 15 else "nodeReady: no"

    assert time.clock().wait("node01 to be healthy", lacking, seconds=900, poll=1) == ""
    assert [(int(second), text) for second, text in time.told] == [
        (5, "waiting for node01 to be healthy; 6 s so far, at most 900 s: etcd: not started"),
        (20, "waiting for node01 to be healthy; 21 s so far, at most 900 s: nodeReady: no"),
        (35, "waiting for node01 to be healthy; 36 s so far, at most 900 s: nodeReady: no"),
        (40, "node01 to be healthy: yes, after 41 s"),
    ]


def test_a_wait_gives_what_was_lacking_when_its_time_is_over() -> None:
    time = Time()
    assert time.clock().wait("it", lambda: f"at {time.now:.0f}", seconds=10, poll=3) == "at 12"


def test_a_wait_gives_what_it_has_seen() -> None:
    time = Time()

    def look() -> str:
        if time.now < 4:
            raise NotYetError("it is booting")
        return "v1.13.9"

    found = time.clock().wait_for("node01 to tell", look, seconds=60, poll=2)
    assert (found, time.told) == ("v1.13.9", [])


def test_a_wait_for_what_never_comes_ends_with_what_was_lacking() -> None:
    time = Time()

    def look() -> None:
        raise ConnectionError

    with pytest.raises(OverdueError, match=r"^ConnectionError$"):
        time.clock().wait_for("it", look, seconds=10, poll=3, errors=OSError)
    with pytest.raises(ConnectionError):
        time.clock().wait_for("it", look, seconds=10, poll=3)


def test_a_wait_looks_often_at_first_and_then_at_its_own_pace() -> None:
    time = Time()
    looks: list[float] = []

    def lacking() -> str:
        looks.append(time.now)
        return "etcd"

    time.clock().wait("it", lacking, seconds=20, poll=2)
    steps = [later - earlier for earlier, later in pairwise(looks)]
    assert steps[:3] == [0.25, 0.25, 0.25]
    assert steps == sorted(steps)
    assert set(steps[-6:]) == {2}
    assert len(steps) < 20  # a look at a machine starts programs


def test_what_must_last_is_waited_for_again_when_it_is_lost() -> None:
    time = Time()
    blip = [4.0, 6.0]
    lacks = time.clock().wait(
        "it", lambda: "gone" if blip[0] <= time.now < blip[1] else "", seconds=60, poll=1, lasting=5
    )
    assert lacks == ""
    assert time.now == 11.53125  # it came back at 6.53, and lasted


def test_a_wait_ends_as_soon_as_the_run_is_asked_to_end() -> None:
    stop = Stop()
    threading.Timer(0.1, lambda: stop.request("stopped by Ctrl-C")).start()
    started = time.monotonic()
    with pytest.raises(StoppedError, match=r"^stopped by Ctrl-C; `pulumi up` goes on from here$"):
        Clock(sleep=stop.sleep).wait("it", lambda: "all", seconds=900, poll=600)
    assert time.monotonic() - started < 60  # and not 600


def test_the_first_reason_to_stop_is_told() -> None:
    stop = Stop()
    stop.request("stopped by Ctrl-C")
    stop.request("stopped, since the program ended")
    assert str(stop.error()).startswith("stopped by Ctrl-C")


PRINT_AND_FAIL = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
SLEEP = "import time; time.sleep(600)"


def test_a_program_leaves_its_exit_code_and_both_outputs() -> None:
    assert run_program([sys.executable, "-c", PRINT_AND_FAIL], 60) == (3, "out\n", "err\n")


def test_a_program_that_does_not_end_is_given_up() -> None:
    result = run_program([sys.executable, "-c", SLEEP], 0.3)
    assert result == (TIMED_OUT, "", "no answer within 0 s")


def test_a_program_that_runs_is_ended_once_the_run_is_asked_to_end() -> None:
    stop = Stop()
    threading.Timer(0.1, lambda: stop.request("stopped by Ctrl-C")).start()
    with pytest.raises(StoppedError):
        run_program([sys.executable, "-c", SLEEP], 600, stop)


def test_much_output_of_a_program_is_kept_whole() -> None:
    text = run_program([sys.executable, "-c", "print('x' * 1_000_000)"], 60).stdout
    assert len(text) == 1_000_001
