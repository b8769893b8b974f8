"""A world of the lab, driven from outside: started once, entered for every command, ended.

The lab's tests and the benchmarks use it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clients.waiting import Clock
from ops.engine.urn import kind_and_name

PROJECT = Path(__file__).resolve().parents[2]
LAB = PROJECT / ".lab" / "bin" / "lab"

PATIENCE_SECONDS = 300.0
"""What has not come by then never comes: a busy computer needs seconds for anything."""
START_SECONDS, STOP_SECONDS = 180.0, 120.0
"""Likewise, for a world."""

SIMULATED = ("--programs", "simulated")
"""Simulated pods are quicker than the programs that pods run as processes elsewhere in the lab."""

Result = subprocess.CompletedProcess[str]


class WorldError(Exception):
    """A world, or a command in it, did not do what was expected."""


class World:
    """One world of its own in `state`, on the stack file `stack_file`; see `lab up` for options.

    Its pods are simulated, unless the options say `--programs real`.
    `project` is the working tree that the program and the lab are run from.
    """

    def __init__(
        self, state: Path, stack_file: Path, *options: str, project: Path = PROJECT
    ) -> None:
        self.state = state
        self.project = project
        self._lab = project / LAB.relative_to(PROJECT)
        self.stack_file = stack_file
        self.options = options
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> World:
        """Start it and wait until it can be entered."""
        where: list[str | Path] = ["--state", self.state, "--stack-file", self.stack_file]
        self._process = subprocess.Popen(
            [self._lab, "up", *where, *SIMULATED, *self.options],
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        up = threading.Event()
        threading.Thread(target=self._read, args=(self._process, up), daemon=True).start()
        if not up.wait(START_SECONDS) or self._process.poll() is not None:
            raise WorldError("the world did not come up:\n" + "".join(self.output))
        return self

    def _read(self, process: subprocess.Popen[str], up: threading.Event) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                self.output.append(line)
                if "the world is up" in line:
                    up.set()
        process.wait()  # whoever waits for the world is to see that it has ended
        up.set()

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and give its exit code."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(sign)
        return self.wait()

    def wait(self) -> int:
        """Give the exit code of a world that ends by itself."""
        if self._process is None:
            raise WorldError("the world was never started")
        return self._process.wait(STOP_SECONDS)

    def init_pid(self) -> int:
        """Give the process id of the first process in the world, seen from outside."""
        pid: int = json.loads((self.state / "alive.json").read_text())["pid"]
        return pid

    def command(self, *argv: str) -> list[str]:
        """Give the command line that runs a command inside."""
        joined = ("run", "--join", "--quiet", "--state", str(self.state))
        return [str(self._lab), *joined, "--", *argv]

    def run(self, *argv: str, code: int | None = 0, timeout: float = 600) -> Result:
        """Run a command inside; `code` is the exit code that is expected, None for any."""
        try:
            result = subprocess.run(
                self.command(*argv),
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            # Bytes, whatever `text` says (python/cpython #87597).
            said = b"".join(part for part in (error.stdout, error.stderr) if part).decode()
            message = f"{' '.join(argv)}: not at its end after {timeout:.0f} s\n{said}"
            raise WorldError(message) from None
        if code is not None and result.returncode != code:
            raise WorldError(
                f"{' '.join(argv)}: exit code {result.returncode}, not {code}\n"
                f"{result.stdout}\n{result.stderr}"
            )
        return result

    def start_command(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command inside, in a process group of its own."""
        return subprocess.Popen(
            self.command(*argv),
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    # The engine, as an operator calls it.

    def up(self, *argv: str, code: int | None = 0, timeout: float = 600) -> Result:
        """Build what the stack file says."""
        command = ("pulumi", "up", "--yes", "--skip-preview", "--non-interactive", *argv)
        return self.run(*command, code=code, timeout=timeout)

    def destroy(self) -> Result:
        """Delete all but what is protected."""
        return self.run(
            "pulumi",
            "destroy",
            "--yes",
            "--skip-preview",
            "--non-interactive",
            "--exclude-protected",
        )

    def expect_no_changes(self, *argv: str) -> Result:
        """Fail unless a preview is empty."""
        return self.run(
            "pulumi", "preview", "--expect-no-changes", "--non-interactive", "--diff", *argv
        )

    def preview(self) -> dict[str, dict[str, Any]]:
        """Give the steps of a preview that change something, as in `VirtualMachine node01`.

        A machine, its configuration and its gate share a name: the type tells them apart.
        """
        document = json.loads(self.run("pulumi", "preview", "--json", "--non-interactive").stdout)
        steps = [step for step in document["steps"] if step["op"] != "same"]
        found = {kind_and_name(step["urn"]): step for step in steps}
        if len(found) < len({step["urn"] for step in steps}):
            raise WorldError(f"two resources have one type and name: {sorted(found)}")
        return found

    def state_with_secrets(self) -> dict[str, Any]:
        """Give the stack's state with its secrets in plain text."""
        text = self.run("pulumi", "stack", "export", "--show-secrets").stdout
        document: dict[str, Any] = json.loads(text)
        return document

    def write_credentials(self) -> None:
        """Put kubeconfig and talosconfig where the tools in the world look for them."""
        text = self.run("pulumi", "stack", "output", "--json", "--show-secrets").stdout
        outputs = json.loads(text)
        for name in {"kubeconfig", "talosconfig"} & outputs.keys():
            path = self.state / name
            path.touch(mode=0o600)
            path.write_text(outputs[name])

    def boot_ids(self, addresses: Mapping[str, str]) -> dict[str, str]:
        """Give each machine's boot id, which changes with a reboot."""
        return {
            name: self.run(
                "talosctl", "--nodes", address, "read", "/proc/sys/kernel/random/boot_id"
            ).stdout.strip()
            for name, address in addresses.items()
        }

    def machines(self) -> list[dict[str, Any]]:
        """Give what the simulated machines say of themselves."""
        result = subprocess.run(
            [self._lab, "status", "--state", self.state], capture_output=True, text=True, check=True
        )
        machines: list[dict[str, Any]] = json.loads(result.stdout)
        return machines


def wait_until(
    what: str,
    condition: Callable[[], bool],
    seconds: float = PATIENCE_SECONDS,
    poll: float = 0.25,
) -> None:
    """Poll until condition() holds; `what` names it in the failure.

    A command of the condition that fails says that it does not hold yet.
    """

    def lacking() -> str:
        try:
            return "" if condition() else "not yet"
        except WorldError as error:
            return str(error)

    if lacks := Clock().wait(what, lacking, seconds=seconds, poll=poll):
        raise AssertionError(f"not within {seconds:.0f} s: {what}: {lacks}")


def processes_of(state: Path) -> list[str]:
    """Give the command lines of all living processes that name a world's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(state) in line:
            found.append(line)
    return found
