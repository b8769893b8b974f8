"""What people type: `make help` tells it all, and `--help` of a module starts nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ops.commands import COMMANDS, find
from ops.completion import FUNCTION
from ops.former import NEW
from ops.rehearsal.world import wait_until
from tests import fresh

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def make(*arguments: str) -> str:
    argv = ["make", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_every_target_of_make_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    assert "lab-shell" in targets
    lines = make("help").splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  \S", line)]
    assert sorted(listed) == sorted(targets)


def test_the_help_of_make_is_in_groups_and_fits_a_terminal() -> None:
    lines = make("help").splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "First minutes",
        "The platform",
        "Recovery",
        "Rehearsals",
        "Checks",
        "Workflows",
    ]
    assert max(len(line) for line in lines) <= 80


def test_the_help_of_make_names_the_files_and_no_variable() -> None:
    text = make("help", "STACK_FILE=Pulumi.mine.yaml")
    assert "$" not in text
    assert "Pulumi.mine.yaml" in text


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a module where no tool could be called; the folder is all that it knows."""
    environment = {"PATH": str(tmp_path), "LAB_WORLD": str(tmp_path)}
    said = tmp_path_factory.mktemp("said")
    return partial(fresh.run, folder=said, environment=environment)


@pytest.mark.parametrize("name", [one.name for one in COMMANDS])
def test_the_help_of_a_command_starts_nothing(name: str, run: Run, tmp_path: Path) -> None:
    result = run("ops", *name.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m ops {name}" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_one_command_lists_all_others_with_examples_that_they_take(run: Run) -> None:
    listed = run("ops").stdout
    for command in COMMANDS:
        assert f"  {command.name} " in listed
        name, rest = find(command.example.split())
        assert name == command
        command.parser().parse_args(rest)


def test_an_unknown_command_is_refused_with_the_one_that_was_meant(run: Run) -> None:
    result = run("ops", "reveiw")
    assert result.returncode == 2
    assert "no command reveiw; did you mean review?" in result.stderr


@pytest.mark.parametrize(("former", "words"), NEW.items())
def test_a_former_name_still_works_and_says_the_new_one(former: str, words: str, run: Run) -> None:
    first = {"config": ["check"], "deploy": ["preview"]}.get(former, [])
    result = run(former, *first, "--help")
    assert result.returncode == 0, result.stderr
    new = " ".join(words.split() or first)
    assert result.stderr == f"`python -m {former}` is now `python -m ops {new}`\n"
    assert f"usage: python -m ops {new}" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_every_command(shell: str, run: Run) -> None:
    text = run("ops", "completion", shell).stdout
    assert FUNCTION in text
    for command in COMMANDS:
        assert command.name.split()[-1] in text


def test_a_module_that_is_interrupted_shows_no_traceback() -> None:
    code = "import ops; raise KeyboardInterrupt"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr == "\ninterrupted\n"
    assert result.returncode == -2  # by the signal, as `make` and shells expect it


RUNNER = """
import signal
from clients import interrupts
# A test run that was started in the background ignores it, and what it starts does too.
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.quiet()
interrupts.{how}
"""


@pytest.mark.parametrize("how", ["run([{}])", "attached([{}], {{}})"], ids=["kept", "attached"])
@pytest.mark.parametrize(
    "handler",
    ["signal.default_int_handler", "signal.SIG_IGN"],
    ids=["ends-by-itself", "does-not-end"],
)
def test_a_command_that_is_interrupted_ends_soon_and_leaves_no_program_behind(
    handler: str, how: str, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    program = (
        f"import os, signal, sys, time; signal.signal(signal.SIGINT, {handler}); "
        f"open({str(started)!r}, 'w').write(str(os.getpid())); sys.excepthook = lambda *_: None; "
        "time.sleep(60)"
    )
    argv = f"{sys.executable!r}, '-c', {program!r}"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(how=how.format(argv))],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until("the program runs", lambda: started.exists() and bool(started.read_text()))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert errors == "\ninterrupted\n"
    assert process.returncode == -signal.SIGINT
    assert not Path(f"/proc/{started.read_text()}").exists()


def test_an_engine_on_the_terminal_gets_the_time_to_free_its_lock(tmp_path: Path) -> None:
    started, freed = tmp_path / "started", tmp_path / "freed"
    program = (
        "import os, signal, time\n"
        "def end(*_):\n"
        f"    time.sleep(1); open({str(freed)!r}, 'w').close(); os._exit(0)\n"
        "signal.signal(signal.SIGINT, end)\n"
        f"open({str(started)!r}, 'w').close(); time.sleep(60)"
    )
    how = f"attached([{sys.executable!r}, '-c', {program!r}], {{}})"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(how=how)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until("the program runs", started.exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=30)
    assert freed.exists()


def test_a_thread_that_hangs_does_not_keep_an_interrupted_command() -> None:
    code = (
        "import time\nfrom clients import interrupts\ninterrupts.quiet()\n"
        "with interrupts.threads(1) as pool:\n"
        "    pool.submit(time.sleep, 60)\n"
        "    raise KeyboardInterrupt"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "\ninterrupted\n")
