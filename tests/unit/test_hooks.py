"""What hooks share: work beside the event loop, what it tells, and how it ends."""

import asyncio
import re
import threading
from pathlib import Path

import pulumi
import pytest

from clients.waiting import Clock, Stop, StoppedError
from components import hooks, run_log
from components.hooks import in_thread

ARGS = pulumi.ResourceHookArgs(
    urn="urn:pulumi:prod::platform::platform:index:Gate::node01-healthy",
    id="",
    name="node01-healthy",
    type="platform:index:Gate",
)


def test_the_works_result_and_its_error_are_the_hooks() -> None:
    def fail(_: Clock) -> None:
        raise ValueError("node01: refuses")

    assert asyncio.run(in_thread(ARGS, lambda _: 42, Stop())) == 42
    with pytest.raises(ValueError, match=r"^node01: refuses$"):
        asyncio.run(in_thread(ARGS, fail, Stop()))


def test_a_wait_in_a_hook_ends_soon_after_the_run_is_asked_to_end() -> None:
    stop = Stop()

    def wait(clock: Clock) -> None:
        threading.Timer(0.05, lambda: stop.request(hooks.INTERRUPTED)).start()
        clock.wait("it", lambda: "all", seconds=900, poll=600)

    with pytest.raises(StoppedError, match=r"^stopped by Ctrl-C"):
        asyncio.run(in_thread(ARGS, wait, stop))


def test_a_call_that_hangs_does_not_keep_a_stopped_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "GRACE_SECONDS", 0.1)
    stop, never = Stop(), threading.Event()
    stop.request(hooks.INTERRUPTED)
    try:
        with pytest.raises(StoppedError):
            asyncio.run(in_thread(ARGS, lambda _: never.wait(), stop))
    finally:
        never.set()


def test_a_hook_that_the_sdk_cancels_ends_its_wait_too() -> None:
    stop, ended = Stop(), threading.Event()

    def wait(clock: Clock) -> None:
        try:
            clock.wait("it", lambda: "all", seconds=900, poll=600)
        finally:
            ended.set()

    async def cancelled() -> None:
        hook = asyncio.create_task(in_thread(ARGS, wait, stop))
        await asyncio.sleep(0.05)
        hook.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hook

    asyncio.run(cancelled())
    assert ended.wait(60)
    assert stop.requested()


def test_what_is_told_is_shown_on_the_resource_and_kept_in_the_runs_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[tuple[str, str | None, bool | None]] = []

    async def show(text: str, resource: pulumi.Resource, *, ephemeral: bool) -> None:
        shown.append((text, await resource.urn.future(), ephemeral))

    def info(text: str, resource: pulumi.Resource, *, ephemeral: bool) -> None:
        shows.append(asyncio.ensure_future(show(text, resource, ephemeral=ephemeral)))

    shows: list[asyncio.Future[None]] = []
    log = run_log.RunLog(tmp_path / "logs", "prod")
    monkeypatch.setattr(pulumi.log, "info", info)
    monkeypatch.setattr(hooks, "this_run", lambda: log)

    async def test() -> None:
        await in_thread(ARGS, lambda clock: clock.tell("waiting for etcd"), Stop())
        await asyncio.sleep(0)
        await asyncio.gather(*shows)

    asyncio.run(test())
    assert shown == [("waiting for etcd", ARGS.urn, True)]
    assert log.path.read_text().endswith("Z node01-healthy: waiting for etcd\n")
    assert log.path.name.startswith("prod-")


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    assert not run_log.RunLog(tmp_path / "logs", "prod").write("waiting")


def test_old_logs_are_removed(tmp_path: Path) -> None:
    for number in range(run_log.KEPT + 5):
        (tmp_path / f"prod-{number:03}.log").touch()
    assert run_log.RunLog(tmp_path, "prod").write("waiting")
    assert len(list(tmp_path.iterdir())) == run_log.KEPT


def test_the_logs_lie_in_the_engines_own_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path))
    assert run_log.folder() == tmp_path / "platform-logs"
    monkeypatch.delenv("PULUMI_HOME")
    assert run_log.folder() == Path.home() / ".pulumi" / "platform-logs"


class GateError(Exception):
    page = "docs/operations.md"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GateError("node01: unhealthy"), "node01: unhealthy\nmore: docs/operations.md"),
        (GateError("node01: unhealthy, docs/drift.md"), "node01: unhealthy, docs/drift.md"),
        (ValueError("a bug"), "a bug"),
    ],
)
def test_a_hook_that_fails_names_the_page_that_helps(error: Exception, text: str) -> None:
    def fail(_: Clock) -> None:
        raise error

    with pytest.raises(type(error), match=f"^{re.escape(text)}$"):
        asyncio.run(in_thread(ARGS, fail, Stop()))
