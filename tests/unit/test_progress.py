"""What takes its time says so."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from clients import progress


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
        time.sleep(0.3)
    lines = out.getvalue().splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"look: 0 s (the last time it took 42 s)"}


def test_a_terminal_gets_one_line_that_goes(tmp_path: Path) -> None:
    out = Terminal()
    with progress.told("look", out, tmp_path / "durations.json"):
        time.sleep(0.3)
    assert "\n" not in out.getvalue()
    assert out.getvalue().startswith("\rlook: 0 s")
    assert out.getvalue().endswith(f"\r{' ' * len('look: 0 s')}\r")


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
