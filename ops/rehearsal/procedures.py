"""The procedures in docs/procedures, read: what an operator types, and what must come of it.

docs/procedures/README.md is the convention for people; this file holds the pages to it. Nothing
here runs a command: tests/lab/test_procedures.py does, in the lab.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from config import versions
from ops.rehearsal.world import PROJECT

FOLDER = PROJECT / "docs" / "procedures"
INDEX = "README.md"
NOT_BUILT, BY_TEST = "Not built yet", "Rehearsed by a test"
STARTS = re.compile(
    r"^Rehearsed on: (?P<start>an empty site|the whole platform|the machines"
    r"|an empty site with Omni|the cluster that Omni manages)"
    r"(, after \[[^\]]+\]\((?P<after>[^)/]+\.md)\))?\.$",
    re.MULTILINE,
)
VERSIONS = re.compile(
    r"^Versions on this page: (?P<program>Talos|Kubernetes|cert-manager) "
    r"(?P<old>[\d.]+\d), then (?P<new>[\d.]+\d)\.$",
    re.MULTILINE,
)
FENCE = re.compile(r"^```(?P<kind>.*)$")
EXPECTATION = re.compile(r"^\s*# (?P<kind>expect|fails|until): (?P<pattern>.+)$")


class ProcedureError(Exception):
    """A page breaks the convention; the text names page and line."""


class Start(StrEnum):
    """What a procedure is rehearsed on, as its page says it."""

    EMPTY = "an empty site"
    PLATFORM = "the whole platform"
    MACHINES = "the machines"
    EMPTY_OMNI = "an empty site with Omni"
    OMNI = "the cluster that Omni manages"

    @property
    def first(self) -> Start:
        """What the pages begin from that build what this one is rehearsed on; itself if none do."""
        return {Start.PLATFORM: Start.EMPTY, Start.OMNI: Start.EMPTY_OMNI}.get(self, self)


@dataclass
class Command:
    """A command line and what must come of it; patterns are searched in all that it prints."""

    text: str
    where: str
    expected: list[re.Pattern[str]] = field(default_factory=list)
    fails: bool = False
    until: bool = False
    """It is repeated until it prints what is expected."""
    writes: bool = False
    """It writes files of the repository, which a world cannot: it runs outside."""


@dataclass(frozen=True)
class Edit:
    """A change of files of the repository, as a unified diff."""

    diff: str
    where: str


Step = Command | Edit


@dataclass(frozen=True)
class Procedure:
    """A page: its steps in order, and where they start from."""

    path: Path
    start: Start | None
    """None when the page says that it is not built yet, or that a test rehearses it."""
    after: str | None
    """The page that goes before, by its file's name."""
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The page's name, as tests are called."""
        return self.path.stem

    @property
    def commands(self) -> list[Command]:
        """The commands among the steps."""
        return [one for one in self.steps if isinstance(one, Command)]


def read_all(folder: Path = FOLDER) -> list[Procedure]:
    """Read every page, each directly after the one that it goes on from. Raises ProcedureError."""
    pages = {path.name: read(path) for path in sorted(folder.glob("*.md")) if path.name != INDEX}
    return list(ordered(pages))


def ordered(pages: Mapping[str, Procedure]) -> Iterator[Procedure]:
    """Bring pages into an order in which they can run. Raises ProcedureError."""
    followers: dict[str, Procedure] = {}
    for page in pages.values():
        if page.after is None:
            continue
        first = pages.get(page.after)
        if first is None or first.start != page.start:
            message = f"{page.path.name}: goes on from {page.after}, which has no such start"
            raise ProcedureError(message)
        if page.after in followers:
            both = f"{followers[page.after].path.name} and {page.path.name}"
            message = f"{both}: both go on from {page.after}; only one can"
            raise ProcedureError(message)
        followers[page.after] = page
    found = 0
    for page in pages.values():
        one: Procedure | None = page if page.after is None else None
        while one is not None:
            found += 1
            yield one
            one = followers.get(one.path.name)
    if found != len(pages):
        message = f"{', '.join(sorted(followers))}: go on from each other in a circle"
        raise ProcedureError(message)


def read(path: Path) -> Procedure:
    """Read one page, with the versions that are pinned today. Raises ProcedureError."""
    text = with_pinned_versions(path.read_text(encoding="utf-8"))
    steps = tuple(_steps(path.name, text.splitlines()))
    starts = list(STARTS.finditer(text))
    for said in (one for one in (NOT_BUILT, BY_TEST) if f"\n{one}" in text):
        if steps or starts:
            message = f"{path.name}: says `{said}`, and has steps to run; remove one of both"
            raise ProcedureError(message)
        return Procedure(path, None, None, ())
    if not any(isinstance(one, Command) for one in steps):
        message = (
            f"{path.name}: has no command to run; give it a ```sh block, or a line that begins "
            f"with `{NOT_BUILT}` or `{BY_TEST}`"
        )
        raise ProcedureError(message)
    if len(starts) != 1:
        message = (
            f"{path.name}: has {len(starts)} lines as `Rehearsed on: the machines.`; write one, "
            f"with {', '.join(Start)}"
        )
        raise ProcedureError(message)
    return Procedure(path, Start(starts[0]["start"]), starts[0]["after"], steps)


def with_pinned_versions(text: str) -> str:
    """Put the pinned version, and the one after it, in the place of those that a page names.

    A page of an upgrade was written for the versions of its day. A pull request that moves a pin
    changes no page, and must pass.
    """
    instead: dict[str, str] = {}
    for named in VERSIONS.finditer(text):
        old, new = _pinned(named["program"])
        instead |= {named["old"]: old, named["new"]: new}
    if not instead:
        return text
    instead |= {re.escape(page): re.escape(today) for page, today in instead.items()}
    either = "|".join(re.escape(one) for one in instead)
    return re.sub(rf"(?<![\d.])({either})(?!\d)", lambda found: instead[found[0]], text)


def _pinned(program: str) -> tuple[str, str]:
    """Give the pinned version of a program, and the one that the lab has for an upgrade."""
    match program:
        case "Talos":
            return versions.TALOS, next_patch(versions.TALOS)
        case "Kubernetes":
            return versions.KUBERNETES, kubernetes_to_upgrade_to()
        case _:
            return versions.CERT_MANAGER, next_patch(versions.CERT_MANAGER)


def next_patch(version: str, steps: int = 1) -> str:
    """Count a version's patch number on: `1.13.9` becomes `1.13.10`; -1 goes back by one."""
    minor, _, patch = version.rpartition(".")
    return f"{minor}.{int(patch) + steps}"


def kubernetes_to_upgrade_to() -> str:
    """Read which patch release of the pinned minor the lab builds for its campaigns."""
    minor = versions.KUBERNETES.rpartition(".")[0]
    file = PROJECT / "lab" / "tools" / f"kubernetes-{minor}" / "go.mod"
    found = re.search(r"k8s\.io/kubernetes v(\S+)", file.read_text(encoding="utf-8"))
    if found is None:
        message = f"{file}: requires no k8s.io/kubernetes"
        raise ProcedureError(message)
    return found[1]


def _steps(page: str, lines: Sequence[str]) -> Iterator[Step]:
    """Give the steps of all blocks, in order."""
    for number, kind, block in _blocks(page, lines):
        match kind:
            case "sh" | "lab":
                yield from _commands(page, number, block)
            case "sh tree":
                yield from (replace(one, writes=True) for one in _commands(page, number, block))
            case "diff":
                yield Edit("\n".join(block) + "\n", f"{page}:{number}")
            case "text":
                continue
            case _:
                message = (
                    f"{page}:{number}: a block of the kind `{kind}`; "
                    "the convention has sh, sh tree, lab, diff and text"
                )
                raise ProcedureError(message)


def _blocks(page: str, lines: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Give each fenced block: the number of its fence's line, its kind, its lines."""
    begin, kind, block = 0, "", list[str]()
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if fence is None:
            block.append(line)
        elif begin == 0:
            begin, kind, block = number, fence["kind"], []
        else:
            yield begin, kind, block
            begin = 0
    if begin:
        message = f"{page}:{begin}: the block has no end"
        raise ProcedureError(message)


def _commands(page: str, begin: int, block: Iterable[str]) -> Iterator[Command]:
    """Read the commands of a block, each with the expectations below it."""
    command: Command | None = None
    unfinished = ""
    for number, line in enumerate(block, begin + 1):
        where = f"{page}:{number}"
        expectation = EXPECTATION.match(line)
        if expectation is not None:
            if command is None or unfinished:
                message = f"{where}: an expectation without a command above it"
                raise ProcedureError(message)
            _expect(command, where, expectation["kind"], expectation["pattern"])
        elif line.endswith("\\"):
            unfinished += f"{line}\n"
        elif line.strip() and not line.lstrip().startswith("#"):
            if command is not None:
                yield command
            command = Command(unfinished + line, where)
            unfinished = ""
    if unfinished:
        message = f"{page}:{begin}: the last line of the block goes on, and nothing follows"
        raise ProcedureError(message)
    if command is not None:
        yield command


def _expect(command: Command, where: str, kind: str, pattern: str) -> None:
    try:
        command.expected.append(re.compile(pattern, re.MULTILINE))
    except re.error as error:
        message = f"{where}: {pattern!r} is not a regular expression: {error}"
        raise ProcedureError(message) from None
    command.fails |= kind == "fails"
    command.until |= kind == "until"
    if command.fails and command.until:
        message = f"{where}: `fails` and `until` for the same command; it is one of both"
        raise ProcedureError(message)


def apply(edit: Edit, repository: Path) -> None:
    """Apply an edit to a copy of the repository that is one of its own. Raises ProcedureError."""
    done = subprocess.run(
        ["git", "apply", "-"],
        cwd=repository,
        input=edit.diff,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"{edit.where}: the edit does not apply: {done.stderr.strip()}"
        raise ProcedureError(message)


def edited(edit: Edit) -> set[str]:
    """Name the files that an edit changes."""
    return set(re.findall(r"^\+\+\+ b/(\S+)", edit.diff, re.MULTILINE))
