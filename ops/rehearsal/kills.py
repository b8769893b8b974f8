"""`python -m ops rehearse kills`: kills the engine's commands at random moments, in the lab.

A killed command is killed some more times, or another one is; then it is run again, or the other
one is, and must end in the state that was asked for: an empty preview, or an empty site. All that
is random comes from one seed; the moments of a run are those of its machine.
"""

# ruff: noqa: S311 - a command prints; nothing here is secret
from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clients.commands import documents
from components.omni.observer import OTHERS
from components.talos.etcd import LOST_QUORUM
from config import load_file
from config.resource_types import MACHINE
from ops.deploy.repair import forget
from ops.engine.urn import provider_of
from ops.rehearsal.killing import ENGINE, GROUP, HOST, PLUGIN, PROGRAM, kill, kill_tree, roles, tree
from ops.rehearsal.world import PROJECT, Result, World

KINDS = ("up", "destroy", "refresh", "import", "plan")
VICTIMS = (
    GROUP,
    ENGINE,
    HOST,
    PROGRAM,
    *(f"{PLUGIN}{one}" for one in ("vsphere", "talos", "kubernetes")),
)
WEIGHTS = (4, 2, 1, 1, 2, 1, 1)
EXPECTED = {"up": 60.0, "destroy": 10.0, "refresh": 8.0, "import": 3.0, "plan": 8.0}
"""About how long each command runs, in seconds; what is seen replaces it."""
LINES = {"up": 60, "destroy": 60, "refresh": 30, "import": 4, "plan": 30}
"""About how many lines each command writes at most before it ends."""
END_SECONDS = 180.0
"""A command of which one process was killed ends by itself within this."""
DECISION_SECONDS = 90.0
"""Until a person is told that they must decide: a minute, and the engine's start and end."""
SERIES = 3
"""At most so many kills in a row before the convergence."""

DELAYS = ("--clone-delay", "2s")
"""vCenter takes its time, so that a kill falls into it."""

YES = ("--yes", "--skip-preview", "--non-interactive")
COMMANDS: dict[str, tuple[str, ...]] = {
    "up": ("pulumi", "up", *YES),
    "destroy": ("pulumi", "destroy", *YES, "--exclude-protected"),
    "refresh": ("pulumi", "refresh", *YES),
}


@dataclass
class Kill:
    """One kill: of which command, which of its processes, and when."""

    number: int
    kind: str
    victim: str
    after: float
    """Seconds since the command's start."""
    said: int
    """Lines that it had written."""
    hung: bool = False
    """It did not end by itself after one of its processes was killed."""


@dataclass
class Round:
    """Kills in a row, and the command that had to bring all in order."""

    kills: list[Kill]
    then: str
    seconds: float = 0.0
    repaired: bool = False
    """`make repair` was needed before the command went through."""
    decided: bool = False
    """A person was asked: etcd had lost its quorum, or Omni had machines that are gone."""
    converged: bool = False
    problems: list[str] = field(default_factory=list)


Record = Callable[[Round], None]


class Campaign:
    """Kills on one world, until there are enough of each kind."""

    def __init__(self, world: World, seed: int, wanted: dict[str, int]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.wanted = Counter(wanted)
        self.killed = 0
        self.standing = False
        """The platform is whole."""
        self.there = False
        """Something of it may be there."""
        self._expected = dict(EXPECTED)
        self._settings = load_file(world.stack_file)
        self._asks = LOST_QUORUM if self._settings.omni is None else OTHERS
        """The words with which `up` leaves it to a person."""
        self._original = world.stack_file.read_text(encoding="utf-8")
        self._changed = False
        self._log = world.state / "killed.log"

    def run(self, record: Record) -> None:
        """Kill until there are enough; `record` is called with each round."""
        while +self.wanted:
            kind = self.random.choice(sorted((+self.wanted).elements()))
            done = self._changes() if kind in {"up", "destroy"} else self._looks(kind)
            if done.converged and not done.kills:
                continue  # it ended before its moment
            record(done)
            if not done.converged:
                return  # what comes after would only repeat it

    # Rounds.

    def _changes(self) -> Round:
        """Kill `up` and `destroy` in a row, then run one of both."""
        kills: list[Kill] = []
        for _ in range(self.random.randint(1, SERIES)):
            kinds = [one for one in ("up", "destroy") if self.wanted[one] > 0]
            if not kinds:
                break
            kind = self.random.choice(kinds)
            if kind == "destroy" and not self.there:
                # Of nothing there is nothing to destroy.
                result = self._run(COMMANDS["up"])
                self.there = self.standing = result.returncode == 0
            if kind == "up" and self.standing:
                self._change_settings()
            found = self._kill(kind, COMMANDS[kind])
            if found is not None:
                kills.append(found)
                self.there, self.standing = True, False
        done = Round(kills, self.random.choice(("up", "destroy")))
        self._converge(done)
        return done

    def _looks(self, kind: str) -> Round:
        """Kill a command that runs on a standing platform, then run it again, or `up`."""
        if not self.standing:
            first = Round([], "up")
            self._converge(first)
            if not first.converged:
                return first
        match kind:
            case "import":
                return self._import()
            case "plan":
                return self._plan()
        kills = [one] if (one := self._kill(kind, COMMANDS[kind])) else []
        done = Round(kills, self.random.choice((kind, "up")))
        if done.then == kind:
            self._again(done, COMMANDS[kind])
        self._converge(done)
        return done

    def _plan(self) -> Round:
        """Kill the making of a plan, or its carrying out."""
        self._change_settings()
        plan = str(self.world.state / "killed-plan.json")
        make = ("pulumi", "preview", "--non-interactive", "--save-plan", plan)
        if self.random.random() < 0.5:  # noqa: PLR2004 one of both
            one = self._kill("plan", make)
        else:
            self._cancel()
            self.world.run(*make)
            one = self._kill("plan", ("pulumi", "up", *YES, "--plan", plan))
        done = Round([one] if one else [], "up")
        self._again(done, make)
        self._converge(done)
        return done

    def _import(self) -> Round:
        """Kill the import of a machine that the state has lost; the state is restored after it."""
        self._cancel()
        saved = self.world.run("pulumi", "stack", "export").stdout
        document = json.loads(saved)
        name = self._settings.machines[-1].name
        machine = next(
            one
            for one in document["deployment"]["resources"]
            if one["type"] == MACHINE and one["urn"].endswith(f"::{name}")
        )
        forget(document["deployment"], {machine["urn"]})
        provider = provider_of(machine["provider"])
        folder = machine["inputs"]["folder"]
        where = self.world.run("govc", "find", "/", "-type", "m", "-name", name).stdout.strip()
        command = (
            "pulumi", "import", MACHINE, name, where or folder, *YES, "--protect=false",
            "--generate-code=false", "--parent", f"machines={machine['parent']}",
            "--provider", f"vcenter={provider}",
        )  # fmt: skip
        self._import_state(json.dumps(document))
        one = self._kill("import", command)
        done = Round([one] if one else [], "import")
        if machine["urn"] not in self.world.run("pulumi", "stack", "export").stdout:
            self._again(done, command)
        self._import_state(saved)
        self._converge(done, "up")
        return done

    # Steps.

    def _kill(self, kind: str, command: tuple[str, ...]) -> Kill | None:
        """Run a command and kill it, or one process of it; None when it ended before."""
        victim = self.random.choices(VICTIMS, WEIGHTS)[0]
        moment = self.random.random() * self._expected[kind]
        lines = self.random.randint(1, LINES[kind]) if self.random.random() < 0.5 else None  # noqa: PLR2004
        self._cancel()
        began = time.monotonic()
        with self._log.open("w") as stream:
            process = subprocess.Popen(
                self.world.command(*command),
                cwd=self.world.project,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        said = 0
        while process.poll() is None:
            said = len(self._log.read_bytes().splitlines())
            reached = said >= lines if lines else time.monotonic() - began >= moment
            if reached or time.monotonic() - began > 4 * self._expected[kind] + 60:
                break
            time.sleep(0.01)
        after = time.monotonic() - began
        if process.poll() is not None:
            self._expected[kind] = max(2.0, (self._expected[kind] + after) / 2)
            if process.returncode == 0 and kind in {"up", "destroy"}:
                self.standing = self.there = kind == "up"
            return None
        present = roles(process.pid)
        hung = False
        if victim not in present:
            victim = GROUP
        if victim == GROUP:
            kill_tree(process.pid)
        else:
            kill(present[victim])
            hung = self._ends_not(process)
        process.wait()
        self.wanted[kind] -= 1
        self.killed += 1
        return Kill(self.killed, kind, victim, round(after, 2), said, hung)

    def _ends_not(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until a command without one of its processes has ended; kill it if it does not."""
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in list(tree(process.pid)):
                kill(pid)
            return True
        return False

    def _converge(self, done: Round, then: str | None = None) -> None:
        """Run the command that was chosen, to its end, and see that the state is as asked for."""
        then = then or (done.then if done.then in {"up", "destroy"} else "up")
        began = time.monotonic()
        result = self._attempt(done, then)
        if result is not None:
            if then == "up":
                self._see_standing(done)
            else:
                self._see_nothing(done)
            self._see_no_notes(done)
        self.standing = self.there = then == "up"
        done.seconds = round(time.monotonic() - began, 1)
        done.converged = result is not None and not done.problems

    def _attempt(self, done: Round, then: str) -> Result | None:
        result = self._run_or_decide(done, then)
        if result.returncode != 0:
            done.repaired = True
            self._repair(done)
            result = self._run_or_decide(done, then)
        if result.returncode != 0:
            done.problems.append(f"{then} fails: {last(result)}")
            return None
        return result

    def _run_or_decide(self, done: Round, then: str) -> Result:
        result = self._run(COMMANDS[then])
        if self._asks in result.stdout + result.stderr:
            self._decide(done)
            result = self._run(COMMANDS[then])
        return result

    def _decide(self, done: Round) -> None:
        """Do as the page says when etcd's data is to be given up: destroy to the end."""
        done.decided = True
        if self._settings.omni is None and self._took > DECISION_SECONDS:
            done.problems.append(f"a person was asked only after {self._took:.0f} s")
        if self._run(COMMANDS["destroy"]).returncode != 0:
            self._repair(done)
            result = self._run(COMMANDS["destroy"])
            if result.returncode != 0:
                done.problems.append(f"destroy fails: {last(result)}")
        self._forget_in_omni()

    def _forget_in_omni(self) -> None:
        """Delete the cluster in Omni, whose machines are gone, as a person does who needs it not.

        Their links go first: else Omni would wait for machines that it takes for connected, for
        almost five minutes after their end.
        """
        if self._settings.omni is None:
            return
        self.world.run("omnictl", "delete", "link", "--all")
        name = self._settings.cluster.name
        found = self.world.run("omnictl", "get", "clusters", "--output", "json").stdout
        if name in {one["metadata"]["id"] for one in documents(found)}:
            self.world.run("omnictl", "cluster", "delete", name)

    def _repair(self, done: Round) -> None:
        self._cancel()
        result = self.world.run("python", "-m", "ops", "repair", "--yes", code=None)
        if result.returncode != 0:
            done.problems.append(f"repair fails: {last(result)}")

    def _again(self, done: Round, command: tuple[str, ...]) -> None:
        """Run the killed command again: it must go through."""
        result = self._run(command)
        if result.returncode != 0:
            done.problems.append(f"{command[1]} again fails: {last(result)}")

    def _see_standing(self, done: Round) -> None:
        preview = self.world.run(
            "pulumi", "preview", "--expect-no-changes", "--non-interactive", "--diff", code=None
        )
        if preview.returncode != 0:
            done.problems.append(f"the preview is not empty: {last(preview)}")
        if self._settings.omni is not None:
            self._see_omnis_members(done)
            return
        self.world.write_credentials()
        planes = self._settings.control_planes
        first = str(planes[0].address)
        members = self.world.run("talosctl", "--nodes", first, "etcd", "members", code=None)
        if members.stdout.count("false") != len(planes):  # none is a learner
            done.problems.append(f"etcd's members: {members.stdout or last(members)}")

    def _see_omnis_members(self, done: Round) -> None:
        """See that Omni has the machines in the cluster, each ready, and no other."""
        selector = f"omni.sidero.dev/cluster={self._settings.cluster.name}"
        kind = ("clustermachinestatus", "--selector", selector)
        found = documents(self.world.run("omnictl", "get", *kind, "--output", "json").stdout)
        states = [bool(one["spec"].get("ready")) for one in found]
        if states != [True] * len(self._settings.machines):
            ready = f"{sum(states)} of {len(states)} are ready"
            done.problems.append(
                f"Omni's machines of the cluster: {ready}, {len(self._settings.machines)} wanted"
            )

    def _see_nothing(self, done: Round) -> None:
        """See that neither vCenter nor the state has anything of the platform left.

        What a destroy leaves in Omni is deleted as a person does it: the next `up` refuses it.
        """
        self._forget_in_omni()
        folder = self._settings.site.folder.rpartition("/")[2]
        left = [
            *self.world.run("govc", "find", "/", "-type", "m").stdout.split(),
            *self.world.run("govc", "find", "/", "-type", "f", "-name", folder).stdout.split(),
            *self.world.run("govc", "library.ls").stdout.split(),
            *self.world.run("govc", "tags.category.ls").stdout.split(),
        ]
        if left:
            done.problems.append(f"vCenter still has {', '.join(left)}")
        kinds = {one["type"] for one in self._state()["resources"]}
        if rest := sorted(one for one in kinds if one.startswith(("vsphere:", "kubernetes:"))):
            done.problems.append(f"the state still has {', '.join(rest)}")

    def _see_no_notes(self, done: Round) -> None:
        """Clear what the engine noted of interrupted operations; it must not come back."""
        if self._state().get("pending_operations"):
            self._repair(done)
        if left := self._state().get("pending_operations"):
            done.problems.append(f"{len(left)} interrupted operations stay noted")

    def _run(self, command: tuple[str, ...]) -> Result:
        self._cancel()
        began = time.monotonic()
        result = self.world.run(*command, code=None, timeout=2400)
        self._took = time.monotonic() - began
        return result

    def _cancel(self) -> None:
        self.world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)

    def _state(self) -> dict[str, Any]:
        text = self.world.run("pulumi", "stack", "export").stdout
        found: dict[str, Any] = json.loads(text)["deployment"]
        return found

    def _import_state(self, text: str) -> None:
        file = self.world.state / "killed-state.json"
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        self._cancel()
        self.world.run("pulumi", "stack", "import", "--file", str(file))
        file.unlink()

    def _change_settings(self) -> None:
        """Change machines in the settings, or take that back: one in place, one by a stop."""
        self._changed = not self._changed
        document = yaml.safe_load(self._original)
        if self._changed:
            machines = document["config"]["platform:machines"]
            machines[0]["labels"] = {"rack": "r1"}
            machines[-1]["memoryMiB"] += 4096
        self.world.stack_file.write_text(yaml.safe_dump(document, sort_keys=False))


def last(result: Result, characters: int = 3000) -> str:
    """Give the end of what a command wrote."""
    return (result.stdout + result.stderr).strip()[-characters:]


def line(done: Round) -> str:
    """Write a round as a line of the table."""
    kills = ", ".join(
        f"{one.kind}: {one.victim} after {one.after:.1f} s{' (hung)' if one.hung else ''}"
        for one in done.kills
    )
    end = "converged" if done.converged else "NOT CONVERGED: " + "; ".join(done.problems)
    more = [
        *(["after `make repair`"] if done.repaired else []),
        *(["a person decided"] if done.decided else []),
    ]
    return f"[{kills}] then {done.then}: {', '.join([end, *more])}, {done.seconds:.0f} s"


def shares(kinds: list[str], kills: int) -> dict[str, int]:
    """Share kills among kinds, the first ones getting one more."""
    return {one: kills // len(kinds) + (at < kills % len(kinds)) for at, one in enumerate(kinds)}


def shares_of(wanted: dict[str, int], worlds: int, at: int) -> dict[str, int]:
    """Give the kills of each kind that one of several worlds has to make."""
    return {kind: len(range(at, many, worlds)) for kind, many in wanted.items()}


def stack_file(source: Path, folder: Path, at: int, *, services: bool) -> Path:
    """Write a world's stack file: `source`, without what runs on the cluster if so asked.

    Cilium stays in a cluster of Omni's, which calls no machine ready without a CNI.
    """
    text = source.read_text(encoding="utf-8")
    if not services:
        document = yaml.safe_load(text)
        config = document["config"]
        found = config.pop("platform:services", {})
        if "platform:omni" in config and "cilium" in found:
            config["platform:services"] = {"cilium": found["cilium"]}
        text = yaml.safe_dump(document, sort_keys=False)
    target = folder / str(at) / source.name
    target.parent.mkdir()
    target.write_text(text, encoding="utf-8")
    return target


class Report:
    """What all worlds have seen, kept as JSON after each round."""

    def __init__(self, out: Path, seed: int, wanted: dict[str, int]) -> None:
        self.rounds: list[Round] = []
        self._out = out
        self._seed = seed
        self._wanted = wanted
        self._began = time.monotonic()
        self._writing = threading.Lock()

    def record(self, done: Round) -> None:
        """Print and keep a round; worlds do so at the same time."""
        with self._writing:
            print(line(done), flush=True)
            self.rounds.append(done)
            document = {
                "seed": self._seed,
                "wanted": self._wanted,
                "kills": self.counts(),
                "seconds": round(self.seconds),
                "converged": not self.bad(),
                "rounds": [asdict(one) for one in self.rounds],
            }
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def counts(self) -> dict[str, int]:
        """Give how many kills there were of each kind."""
        return dict(Counter(one.kind for done in self.rounds for one in done.kills))

    def bad(self) -> list[Round]:
        """Give the rounds that did not converge."""
        return [one for one in self.rounds if not one.converged]

    def total(self) -> str:
        """Sum up in a line; fewer kills than wanted are said too."""
        counts = self.counts()
        kinds = ", ".join(
            f"{counts.get(one, 0)} of {many} of {one}" for one, many in self._wanted.items()
        )
        end = f"{len(self.bad())} did not converge" if self.bad() else "all converged"
        repaired = sum(one.repaired for one in self.rounds)
        return (
            f"SEED={self._seed}: {sum(counts.values())} kills ({kinds}) in "
            f"{self.seconds / 60:.0f} min: {end}, {repaired} rounds after `make repair`"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; 1 when something did not converge."""
    options = parser().parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        sys.exit(f"--kinds: {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    wanted = shares(kinds, options.kills)
    print(
        f"SEED={seed} KILLS={options.kills} KINDS={options.kinds} WORLDS={options.worlds}",
        flush=True,
    )
    report = Report(options.out, seed, wanted)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        worlds = [
            World(
                PROJECT / ".lab" / "worlds" / f"kills-{seed + at}",
                stack_file(options.stack_file, Path(folder), at, services=options.services),
                *DELAYS,
            )
            for at in range(options.worlds)
        ]
        try:
            _kill_in(worlds, seed, wanted, report)
        except KeyboardInterrupt:
            print(report.total())
            return 130
    print(report.total())
    return 1 if report.bad() else 0


def _kill_in(worlds: list[World], seed: int, wanted: dict[str, int], report: Report) -> None:
    """Run a campaign in each world at the same time; they end with it, and with a Ctrl-C."""
    with ExitStack() as ends:
        threads = ends.enter_context(ThreadPoolExecutor(len(worlds)))
        for world in worlds:
            world.start()
            ends.callback(world.stop)
        runs = [
            threads.submit(
                Campaign(world, seed + at, shares_of(wanted, len(worlds), at)).run, report.record
            )
            for at, world in enumerate(worlds)
        ]
        for run in runs:
            run.result()


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops rehearse kills", description=__doc__)
    made.add_argument("--kills", type=int, default=40, help="how many, over all commands")
    made.add_argument(
        "--kinds", default=",".join(KINDS), help="which commands, separated by commas"
    )
    made.add_argument("--seed", type=int, help="that of an earlier run, for the same kills")
    made.add_argument("--worlds", type=int, default=1, help="worlds at a time; each needs 2 GiB")
    made.add_argument(
        "--stack-file", type=Path, default=PROJECT / "Pulumi.prod.yaml", help="whose platform"
    )
    made.add_argument("--services", action="store_true", help="with all that runs on the cluster")
    made.add_argument("--out", type=Path, default=Path(".lab/out/kills.json"))
    return made
