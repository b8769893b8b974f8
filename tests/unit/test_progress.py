"""What takes its time says so."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from clients import progress
from ops.rehearsal.world import wait_until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)


def test_what_ends_at_once_tells_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    with progress.told("look", out, tmp_path / "durations.json"):
        pass
    assert out.getvalue() == ""


def test_a_log_gets_lines_with_the_time_that_it_took_before(tmp_path: Path) -> None:
    last, out = tmp_path / "durations.json", io.StringIO()
    last.write_text(json.dumps({"look": 42.3}))
    with progress.told("look", out, last):
        wait_until("two lines", lambda: out.getvalue().count("\n") >= 2, poll=0.02)
    for line in out.getvalue().splitlines():
        assert re.fullmatch(r"look: \d+ s \(the last time it took 42 s\)", line)


def test_a_terminal_gets_one_line_that_goes(tmp_path: Path) -> None:
    out = Terminal()
    with progress.told("look", out, tmp_path / "durations.json"):
        wait_until("a change of the line", lambda: out.getvalue().count("\r") >= 2, poll=0.02)
    assert "\n" not in out.getvalue()
    assert re.match(r"\rlook: \d+ s\r", out.getvalue())
    assert re.search(r"s\r {9,}\r$", out.getvalue())


def test_only_what_ends_well_is_remembered(tmp_path: Path) -> None:
    last = tmp_path / "durations.json"
    with pytest.raises(KeyError), progress.told("look", io.StringIO(), last):
        raise KeyError("x")
    assert not last.exists()
    with progress.told("look", io.StringIO(), last):
        pass
    assert set(json.loads(last.read_text())) == {"look"}


@pytest.mark.parametrize("text", ["", "[1]", '{"look": "soon"}', '{"look": null}'])
def test_a_broken_memory_is_no_failure(text: str, tmp_path: Path) -> None:
    last = tmp_path / "durations.json"
    last.write_text(text)
    with progress.told("look", io.StringIO(), last):
        pass
    assert set(json.loads(last.read_text())) == {"look"}


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    with progress.told("look", io.StringIO(), tmp_path / "missing" / "durations.json"):
        pass
