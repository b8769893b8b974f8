"""Machines whose Talos API is this file: a stand-in for the talosctl command.

It answers with the texts that talosctl 1.13.9 prints, so that their parsing is tested too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.waiting import Result

DENIED = 'error: rpc error: code = Unavailable desc = "tls: certificate required"'
NO_LEADER = "rpc error: code = Unavailable desc = etcdserver: no leader"
NO_ETCD = "error getting members: rpc error: code = Unknown desc = etcd is not running"


@dataclass
class FakeMachine:
    """What one machine would answer."""

    name: str
    address: str
    up: bool = True
    maintenance: bool = False
    stage: str = "running"
    unmet: dict[str, str] = field(default_factory=dict)
    boot: str = "boot-1"
    etcd: bool = True
    data: bool = True
    """It has etcd's data on its disk."""
    alone: bool = False
    """Its etcd runs, and finds no majority of its members."""
    learner: bool = False
    pods: bool = True
    reboots: bool = False
    """A new configuration would reboot it."""
    bootstrap_refusals: int = 0
    configuration: str = ""
    """What it runs on."""
    version: str = "v1.13.9"
    boots: int = 0
    kubelets: int = 0
    """How often it was rebooted, and its kubelet restarted."""
    shuts: bool = False
    """A firewall that it tries lets nobody in."""
    shut: tuple[float, float] = (0.0, 0.0)
    """From when to when nobody comes in."""
    refuses: str = ""
    """What Talos answers to a configuration that it is to try."""
    tried: tuple[float, str] = (0.0, "")
    """Until when it runs on a configuration that it tries."""
    schematic: str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
    """What its image was made of; empty when it does not tell."""
    boots_into: tuple[str, str] | None = None
    """Version and schematic that an upgrade brings; None: those of the image."""
    installed: tuple[str, str] | None = None
    """Version and schematic that the next boot starts, if others than those that run."""
    busy: int = 0
    """How often it still answers that it installs already."""
    staged: str = ""
    """The configuration that its next boot takes on."""
    kernel_log: str = ""
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What it says of each of its volumes."""


@dataclass
class FakeTalos:
    """A cluster of them; `tick` runs at each pause, to let time do something."""

    machines: list[FakeMachine]
    commands: list[str] = field(default_factory=list)
    files: list[tuple[int, str]] = field(default_factory=list)
    """Mode and text of each configuration file that talosctl was given."""
    images: frozenset[str] | None = None
    """Installers that can be fetched; None: all."""
    tries: list[tuple[str, str]] = field(default_factory=list)
    """Machine and text of each configuration that was tried."""
    recovered: list[tuple[str, bytes]] = field(default_factory=list)
    """Machine and content of each snapshot that an etcd began with."""
    now: float = 0.0
    tick: Callable[[], None] | None = None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.tick is not None:
            self.tick()

    def dial(self, address: str) -> None:
        if not any(one.address == address and one.up for one in self.machines):
            raise OSError(113, "No route to host")
        begin, end = self.machine(address).shut
        if begin <= self.now < end:
            raise TimeoutError(110, "Connection timed out")

    def machine(self, address: str) -> FakeMachine:
        (found,) = (one for one in self.machines if one.address == address)
        return found

    def run(self, arguments: Sequence[str], seconds: float) -> Result:
        assert seconds > 0
        address = arguments[arguments.index("--nodes") + 1]
        words = []
        for word in arguments:
            if word in {"--talosconfig", "--endpoints", "--nodes"}:
                break
            words.append(word)
        command = " ".join(word for word in words if not word.startswith("/"))
        self.commands.append(f"{command} @{address}")
        machine = self.machine(address)
        if "--insecure" in words:
            return Result(0 if machine.maintenance else 1, "", DENIED)
        if machine.maintenance:
            return Result(1, "", DENIED)
        assert Path(arguments[arguments.index("--talosconfig") + 1]).stat().st_mode & 0o077 == 0
        return self._answer(machine, words)

    def _answer(  # noqa: C901, PLR0911, PLR0912, PLR0915 one case a command
        self, machine: FakeMachine, words: list[str]
    ) -> Result:
        match words:
            case ["get", "extensions", *_]:
                about = {"name": "schematic", "version": machine.schematic}
                found = [{"name": "vmtoolsd", "version": "1"}] + (
                    [about] if machine.schematic else []
                )
                return Result(0, "".join(_json({"spec": {"metadata": one}}) for one in found), "")
            case ["image", "pull", image, "--namespace", "system"]:
                if self.images is not None and image not in self.images:
                    return Result(1, "", f'failed to resolve reference "{image}": not found')
                return Result(0, "", "")
            case ["upgrade", "--image", image, "--wait=false", *_]:
                return self.upgrade(machine, image)
            case ["etcd", "snapshot", file]:
                Path(file).write_text(f"etcd of {machine.name}")
                return Result(0, "", "")
            case ["apply-config", "--mode", "staged", "--file", file]:
                if machine.refuses:
                    return Result(1, "", machine.refuses)
                machine.staged = Path(file).read_text()
                return Result(0, "", "")
            case ["dmesg"]:
                return Result(0, machine.kernel_log, "")
            case ["get", "machinestatus", *_]:
                return Result(0, _json(_status(machine)), "")
            case ["get", "volumestatus", *_]:
                volumes = [
                    {"metadata": {"id": one}, "spec": spec} for one, spec in machine.volumes.items()
                ]
                return Result(0, "".join(map(_json, volumes)), "")
            case ["get", "staticpodstatus", *_]:
                return Result(0, "".join(map(_json, _pods(machine))), "")
            case ["get", "services", *_]:
                return Result(0, "".join(map(_json, _services(machine))), "")
            case ["get", "machineconfig", *_]:
                end, tried = machine.tried
                text = tried if self.now < end else machine.configuration
                spec = {"metadata": {"id": "v1alpha1"}, "spec": text}
                return Result(0, _json(spec), "")
            case ["list", "/var/lib/etcd"]:
                names = [".", "member"] if machine.data else ["."]
                return Result(0, "".join(f"{machine.address}   {one}\n" for one in names), "")
            case ["version"]:
                return Result(0, f"Server:\n\tNODE: x\n\tTag:         {machine.version}\n", "")
            case ["read", *_]:
                return Result(0, machine.boot + "\n", "")
            case ["etcd", "members"]:
                return self._members(machine)
            case ["reboot", "--mode", "powercycle", "--wait=false"]:
                if machine.installed:
                    machine.version, machine.schematic = machine.installed
                machine.boots += 1
                machine.boot = f"boot-after-{machine.boots}"
                return Result(0, "", "")
            case ["service", "kubelet", "restart"]:
                machine.kubelets += 1
                return Result(0, "", "")
            case ["kubeconfig", target, "--force", "--merge=false"]:
                Path(target).write_text("kubeconfig")
                return Result(0, "", "")
            case ["etcd", "leave"]:
                machine.etcd = False
                return Result(0, "", "")
            case ["etcd", "remove-member", identity]:
                for one in self.machines:
                    if _identity(one) == identity:
                        one.etcd = False
                return Result(0, "", "")
            case ["bootstrap"]:
                return self._bootstrap(machine)
            case ["bootstrap", "--recover-from", file]:
                answer = self._bootstrap(machine)
                if answer.returncode == 0:
                    machine.data = True
                    self.recovered.append((machine.name, Path(file).read_bytes()))
                return answer
            case ["reset", "--graceful=false", "--reboot", "--wait=false",
                  "--system-labels-to-wipe", "EPHEMERAL"]:  # fmt: skip
                machine.boots += 1
                machine.boot = f"boot-after-{machine.boots}"
                machine.etcd = machine.data = False
                return Result(0, "", "")
            case ["apply-config", "--mode", "try", "--timeout", seconds, "--file", file]:
                if machine.refuses:
                    return Result(1, "", machine.refuses)
                end, text = self.now + float(seconds.removesuffix("s")), Path(file).read_text()
                self.tries.append((machine.name, text))
                machine.tried = end, text
                if machine.shuts:  # the kernel has the rules a moment later
                    machine.shut = (self.now + 1, end)
                return Result(0, "", "")
            case ["apply-config", *_]:
                given = Path(words[words.index("--file") + 1])
                self.files.append((given.stat().st_mode & 0o777, given.read_text()))
                with_ = "with a reboot" if machine.reboots else "without a reboot"
                text = f"Dry run summary:\nApplied configuration {with_} (skipped in dry-run).\n"
                return Result(0, "", f"{text}Config diff:\n-  secret: old\n+  secret: new\n")
        message = f"the fake does not know {words}"
        raise AssertionError(message)

    def _members(self, asked: FakeMachine) -> Result:
        if not asked.etcd:
            return Result(1, "", NO_ETCD)
        if asked.alone:
            return Result(1, "", NO_LEADER)
        rows = [
            [
                asked.address,
                _identity(one),
                "" if one.learner else one.name,
                f"https://{one.address}:2380",
                f"https://{one.address}:2379",
                str(one.learner).lower(),
            ]
            for one in self.machines
            if one.etcd
        ]
        heading = ["NODE", "ID", "HOSTNAME", "PEER URLS", "CLIENT URLS", "LEARNER"]
        table = [heading, *rows]
        widths = [max(len(row[column]) for row in table) + 3 for column in range(len(heading))]
        lines = [
            "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return Result(0, "\n".join(lines) + "\n", "")

    def upgrade(self, machine: FakeMachine, image: str) -> Result:
        if machine.busy:
            machine.busy -= 1
            words = "another installation/upgrade is already in progress"
            return Result(1, "", f"rpc error: code = FailedPrecondition desc = {words}")
        name, _, tag = image.rpartition(":")
        machine.version, machine.schematic = machine.boots_into or (tag, name.rpartition("/")[2])
        machine.configuration = machine.staged or machine.configuration
        machine.boots += 1
        machine.boot = f"boot-after-{machine.boots}"
        return Result(0, "", "")

    def _bootstrap(self, machine: FakeMachine) -> Result:
        if machine.etcd:
            return Result(1, "", "error executing bootstrap: rpc error: code = AlreadyExists")
        if machine.bootstrap_refusals > 0:
            machine.bootstrap_refusals -= 1
            return Result(1, "", "rpc error: code = FailedPrecondition desc = not available yet")
        machine.etcd = True
        return Result(0, "", "")


def _identity(machine: FakeMachine) -> str:
    return f"id{machine.name}"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document) + "\n"


def _status(machine: FakeMachine) -> dict[str, Any]:
    unmet = [{"name": name, "reason": reason} for name, reason in machine.unmet.items()]
    return {
        "node": machine.address,
        "metadata": {"id": "machine"},
        "spec": {
            "stage": machine.stage,
            "status": {"ready": not unmet, "unmetConditions": unmet},
        },
    }


def _services(machine: FakeMachine) -> list[dict[str, Any]]:
    running = ["apid", "etcd"] if machine.etcd else ["apid"]
    return [{"metadata": {"id": one}, "spec": {"running": True}} for one in running]


def _pods(machine: FakeMachine) -> list[dict[str, Any]]:
    if not machine.pods:
        return []
    return [
        {
            "metadata": {"id": f"kube-system/{name}-{machine.name}"},
            "spec": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    ]
