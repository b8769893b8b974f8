"""What rehearsals run with: programs, inside a world of the lab alone."""

import sys
from pathlib import Path

import pytest

from config.placeholders import IN_LAB
from ops.rehearsal import drill, life, tools


@pytest.mark.parametrize("command", [drill, life])
def test_a_rehearsal_outside_of_a_world_touches_nothing_and_says_how_it_runs(
    command: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(IN_LAB)
    monkeypatch.setattr("clients.interrupts.run", None)  # nothing may be run
    assert command.main([]) == 1  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert "LAB_WORLD is not set" in said
    assert "`make lab`, `make drill`, or `.lab/bin/lab run -- COMMAND`" in said


def test_a_program_that_is_missing_is_named_with_the_fix() -> None:
    with pytest.raises(tools.ToolError, match=r"no-such-program is not on PATH.*`make build`"):
        tools.run("no-such-program")


@pytest.mark.parametrize("show", [True, False])
def test_what_a_program_says_is_given_and_shown_if_so_asked(
    *, show: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = "import sys; print('one'); print('two'); print('fault', file=sys.stderr)"
    assert tools.run(sys.executable, "-c", lines, show=show) == "one\ntwo\n"
    assert capfd.readouterr() == (("one\ntwo\n", "fault\n") if show else ("", ""))


@pytest.mark.parametrize("show", [True, False])
def test_a_program_that_fails_is_an_error_with_its_code_and_its_words(*, show: bool) -> None:
    fails = "import sys; print('no room'); sys.exit(3)"
    with pytest.raises(tools.ToolError, match=r"exit code 3\nno room"):
        tools.run(sys.executable, "-c", fails, show=show)
    assert tools.run(sys.executable, "-c", fails, show=show, codes=(0, 3)) == "no room\n"


def test_what_a_cluster_of_omnis_has_not_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(IN_LAB, str(tmp_path))
    spec = tmp_path / "world.json"
    spec.write_text('{"settings": {"omni": null}}')
    tools.without_omni("no reason")
    spec.write_text('{"settings": {"omni": {"endpoint": "https://omni.example.internal"}}}')
    with pytest.raises(
        tools.ToolError, match=r"lifecycle = omni: it keeps its keys \(docs/procedures"
    ):
        tools.without_omni("it keeps its keys")
