"""What stops a run is told once, with all that is wrong, and without a traceback."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime.settings import SETTINGS

from components import failures
from components.failures import Questions, ToldError, cause, tell
from config.problems import Problem
from tests.unit.recorder import ROOT

Problems = list[str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Problems:
    found: Problems = []
    monkeypatch.setattr(pulumi.log, "error", found.append)
    return found


def problem_of(key: str) -> Callable[[str], Problem]:
    return lambda words: Problem(key, words, "fix it")


def answer(value: object, seconds: float = 0.0) -> Callable[[], pulumi.Output[object]]:
    async def later() -> Any:
        await asyncio.sleep(seconds)
        if isinstance(value, Exception):
            raise value
        return value

    return lambda: pulumi.Output.from_input(later()).apply(lambda given: given)


def failed(words: str, seconds: float = 0.0) -> Callable[[], pulumi.Output[object]]:
    text = f"invoke of vsphere:index/getX:getX failed: invocation of x returned an error: {words}"
    return answer(RuntimeError(text), seconds)


def run(test: Awaitable[None]) -> None:
    async def waiting() -> None:
        await test

    asyncio.run(waiting())


def test_all_failures_of_a_group_are_told_together_and_once(told: Problems) -> None:
    async def test() -> None:
        questions = Questions()
        answers = [
            questions.ask(failed("datastore not found"), problem_of("a")),
            questions.ask(failed("network not found", 0.05), problem_of("b")),
            questions.ask(answer("id-3", 0.02), problem_of("c")),
        ]
        for one in answers[:2]:
            with pytest.raises(ToldError):
                await one.future()
        assert await answers[2].future() == "id-3"

    run(test())
    assert told == [
        (
            "2 problems:\n  - a: datastore not found; fix it\n  - b: network not found; fix it\n"
            f"more: {failures.PAGE}"
        )
    ]


def test_the_sdk_does_not_see_a_failure_before_all_are_known(told: Problems) -> None:
    async def test() -> None:
        questions = Questions()
        before = set(SETTINGS.outputs)
        questions.ask(failed("datastore not found"), problem_of("a"))
        questions.ask(failed("network not found", 0.05), problem_of("b"))
        watched = set(SETTINGS.outputs) - before
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            with pytest.raises(ToldError):
                await one
        await asyncio.wait(watched)
        SETTINGS.outputs.difference_update(watched)

    run(test())
    assert len(told) == 1


def test_one_failure_is_one_line(told: Problems) -> None:
    async def test() -> None:
        with pytest.raises(ToldError):
            await Questions().ask(failed("login refused"), problem_of("password")).future()

    run(test())
    assert told == [f"password: login refused; fix it\nmore: {failures.PAGE}"]


def test_what_depends_on_a_failed_answer_is_not_told_again(told: Problems) -> None:
    async def test() -> None:
        home = Questions().ask(failed("no datacenter"), problem_of("datacenter"))
        later = Questions().ask(lambda: home.apply(lambda _: "never"), problem_of("datastore"))
        with pytest.raises(ToldError):
            await later.future()

    run(test())
    assert told == [f"datacenter: no datacenter; fix it\nmore: {failures.PAGE}"]


def test_an_error_that_is_no_providers_is_not_taken_for_one(told: Problems) -> None:
    async def test() -> None:
        broken = Questions().ask(answer(RuntimeError("it shut down")), problem_of("a"))
        with pytest.raises(RuntimeError, match="shut down"):
            await broken.future()

    run(test())
    assert told == []


def test_a_call_that_the_ending_engine_cuts_off_says_nothing(told: Problems) -> None:
    async def test() -> None:
        cut = Questions().ask(failed("grpc: the client connection is closing"), problem_of("a"))
        with pytest.raises(ToldError):
            await cut.future()

    run(test())
    assert told == []


def test_an_answer_keeps_what_it_is(told: Problems) -> None:
    async def test() -> None:
        secret = Questions().ask(lambda: pulumi.Output.secret("value"), problem_of("a"))
        assert await secret.future() == "value"
        assert await secret.is_secret()
        unknown = Questions().ask(
            lambda: pulumi.Output(set(), _soon(value=pulumi.output.UNKNOWN), _soon(value=False)),
            problem_of("a"),
        )
        assert not await unknown.is_known()

    run(test())
    assert told == []


async def _soon(*, value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "invoke of a:b:c failed: b returned an error: invoking a:b:c: datastore 'x' not found",
            "datastore 'x' not found",
        ),
        ("invoke of a failed: config_patches are invalid", "config_patches are invalid"),
        ("anything else", "anything else"),
    ],
)
def test_the_engines_words_before_the_providers_are_left_out(error: str, words: str) -> None:
    assert cause(error) == words


PROGRAM = """
import asyncio, tempfile
from components.failures import ToldError, exit_when_told
exit_when_told()
kept = tempfile.TemporaryDirectory(dir={folder!r})
async def main():
    raise {error}
asyncio.new_event_loop().run_until_complete(main())
"""


def test_a_told_error_ends_the_program_silently_with_the_sdks_exit_code(
    tmp_path: Path,
) -> None:
    program = PROGRAM.format(folder=str(tmp_path), error="ToldError('told')")
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (failures.EXIT_CODE, "", "")
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_shown_as_ever(tmp_path: Path) -> None:
    program = PROGRAM.format(folder=str(tmp_path), error="ValueError('a bug')")
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ValueError: a bug" in result.stderr


def test_a_message_that_names_no_page_is_given_one(told: Problems) -> None:
    tell("the token has ended")
    tell("see docs/gitops.md")
    assert told == [f"the token has ended\nmore: {failures.PAGE}", "see docs/gitops.md"]
