"""What the program changes of Pulumi's SDK works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from pulumi import log
from pulumi.runtime import settings

from components.sdk import DEBUG, be_quick


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log, "debug", log.debug)
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("asked", "sent"), [("", 0), ("1", 1)])
def test_debug_messages_are_sent_only_when_somebody_asks(
    monkeypatch: pytest.MonkeyPatch, asked: str, sent: int
) -> None:
    messages: list[str] = []

    class Engine:
        """Keeps what is logged."""

        def Log(self, request: Any) -> None:  # noqa: N802 the engine's name for it
            messages.append(request.message)

    monkeypatch.setattr(settings.SETTINGS, "engine", Engine(), raising=False)
    monkeypatch.setattr(log, "get_engine", Engine)
    monkeypatch.setenv(DEBUG, asked)
    be_quick()
    log.debug("beginning rpc")
    log.warn("a warning")
    assert len(messages) == sent + 1
    assert messages[-1] == "a warning"
