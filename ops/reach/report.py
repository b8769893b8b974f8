"""Reach: all questions at once, and a table of what came of them."""

from __future__ import annotations

import http.client
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from clients.explanation import meaning_of_connection
from config.shown import line_text
from ops.reach.network import Network, NotTriedError

LIMIT_SECONDS = 30.0
"""For all questions together."""


HINT = (
    "* The machines need it, and it was tried from here: a hint. Where only they may go there, "
    "try it from their network."
)


class Outcome(Enum):
    """What came of a question."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"


class RefusedError(Exception):
    """The other side answered, and something is wrong: what, and what to do."""

    def __init__(self, fault: str, fix: str) -> None:
        """Take both halves of a problem."""
        self.fault, self.fix = fault, fix
        super().__init__(fault)


@dataclass(frozen=True)
class Question:
    """Something to try: what it is, where, the key or host that it is about, and how it is tried.

    `ask` gives what is worth telling when all is well; it raises `RefusedError`, `NotTriedError`,
    `OSError` or `HTTPException`.
    """

    what: str
    where: str
    key: str
    ask: Callable[[Network], str]
    by_machines: bool = False
    """Whether the machines need it and not this computer, from where it is only tried."""


@dataclass(frozen=True)
class Row:
    """What came of a question."""

    question: Question
    outcome: Outcome
    told: str
    """What is worth telling, what is wrong, or why it was not tried."""
    fix: str = ""


def ask_all(
    questions: Sequence[Question], network: Network, limit: float = LIMIT_SECONDS
) -> list[Row]:
    """Ask all questions at once; one that is not answered by then has failed."""
    answers: queue.SimpleQueue[tuple[int, Row]] = queue.SimpleQueue()

    def ask(number: int) -> None:
        answers.put((number, _ask(questions[number], network)))

    # Of daemons: a name server that does not answer holds `getaddrinfo` longer than anybody waits.
    for number in range(len(questions)):
        threading.Thread(target=ask, args=(number,), daemon=True).start()
    rows: dict[int, Row] = {}
    end = time.monotonic() + limit
    while len(rows) < len(questions):
        try:
            number, row = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        rows[number] = row
    late = f"it has not answered after {limit:g} s"
    for number, question in enumerate(questions):
        if number not in rows:
            fix = "check the way to it, and the name servers of this computer"
            rows[number] = _failed(question, late, fix)
    return [rows[number] for number in range(len(questions))]


def _ask(question: Question, network: Network) -> Row:
    try:
        told = question.ask(network)
    except NotTriedError as error:
        return Row(question, Outcome.NOT_TRIED, str(error))
    except RefusedError as error:
        return _failed(question, error.fault, error.fix)
    except (OSError, http.client.HTTPException) as error:
        return _failed(question, *_meaning(error))
    except Exception as error:  # noqa: BLE001 one question's mistake must not hide the other answers
        fault = f"this check itself has a mistake ({type(error).__name__}: {error})"
        return _failed(question, fault, "report it; look at this point by hand")
    return Row(question, Outcome.OK, told)


def _meaning(error: Exception) -> tuple[str, str]:
    words = " ".join((str(error) or type(error).__name__).split())
    found = meaning_of_connection(words)
    if found is None:
        return f"it cannot be used ({words})", "check the name, the way there, and the proxy"
    fault, fix = found
    return fault, f"{fix} ({words})"


def _failed(question: Question, fault: str, fix: str) -> Row:
    return Row(question, Outcome.FAILED, fault, fix)


def failed(rows: Iterable[Row]) -> bool:
    """Say whether something has failed."""
    return any(row.outcome is Outcome.FAILED for row in rows)


def as_text(rows: Sequence[Row]) -> str:
    """Write a row a line in columns, then what to do about those that failed, then the count."""
    cells = [
        (*map(line_text, (_outcome(row), row.question.what, row.question.where)), row.told)
        for row in rows
    ]
    widths = [max(len(each[column]) for each in cells) for column in range(3)]
    lines = [
        "  ".join([*map(str.ljust, each[:3], widths), line_text(each[3])]).rstrip()
        for each in cells
    ]
    bad = [row for row in rows if row.outcome is Outcome.FAILED]
    if bad:
        lines += ["", "What to do:", *_advice(bad)]
    if any(row.question.by_machines for row in bad):
        lines += ["", HINT]
    counts = [sum(row.outcome is one for row in rows) for one in Outcome]
    lines += ["", "{} ok, {} failed, {} not tried".format(*counts)]
    return "\n".join(lines)


def _outcome(row: Row) -> str:
    return row.outcome.value + ("*" if row.question.by_machines else "")


def _advice(rows: Iterable[Row]) -> Iterator[str]:
    """Write each way to fix things once, and below it all that it is about."""
    groups: dict[str, list[Question]] = {}
    for row in rows:
        groups.setdefault(f"{row.told}; {row.fix}", []).append(row.question)
    for text, about in groups.items():
        yield f"  - {line_text(text)}:"
        yield from (f"      {line_text(f'{one.key} ({one.where})')}" for one in about)
