"""What people type: `make help` tells it all, and `--help` of a module starts nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.world import wait_until

ROOT = Path(__file__).parents[2]
RUN_BY_THE_ENGINE = {"", "policies"}
"""Packages whose `__main__` the engine runs: nobody types their name."""
MAIN = re.compile(r"^if __name__ == .__main__.:", re.MULTILINE)


def make(*arguments: str) -> str:
    argv = ["make", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def modules() -> list[str]:
    argv = ["git", "ls-files", "*.py"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    named = (
        ".".join(Path(file).with_suffix("").parts).removesuffix("__main__").removesuffix(".")
        for file in listed.stdout.split()
        if MAIN.search((ROOT / file).read_text(encoding="utf-8"))
    )
    return sorted(set(named) - RUN_BY_THE_ENGINE)


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


@pytest.mark.parametrize("module", modules())
def test_the_help_of_a_module_starts_nothing(module: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "LAB_WORLD": str(tmp_path)},  # no tool could be called
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m {module}" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_is_interrupted_shows_no_traceback() -> None:
    code = "import rehearsal; raise KeyboardInterrupt"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr == "\ninterrupted\n"
    assert result.returncode == -2  # by the signal, as `make` and shells expect it


RUNNER = """
import signal
from commands import interrupts
# A test run that was started in the background ignores it, and what it starts does too.
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.quiet()
interrupts.run([{program}])
"""


@pytest.mark.parametrize(
    "handler",
    ["signal.default_int_handler", "signal.SIG_IGN"],
    ids=["ends-by-itself", "does-not-end"],
)
def test_a_command_that_is_interrupted_ends_soon_and_leaves_no_program_behind(
    handler: str, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    program = (
        f"import os, signal, time; signal.signal(signal.SIGINT, {handler}); "
        f"open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    argv = f"{sys.executable!r}, '-c', {program!r}"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(program=argv)],
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


def test_a_thread_that_hangs_does_not_keep_an_interrupted_command() -> None:
    code = (
        "import time\nfrom commands import interrupts\ninterrupts.quiet()\n"
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


@pytest.mark.parametrize(
    "package", ["deploy", "drift", "github_report", "reach", "render", "review"]
)
def test_every_command_that_takes_its_time_ends_without_a_traceback(package: str) -> None:
    text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    assert "interrupts.quiet()" in text
