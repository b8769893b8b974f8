"""What tests do beside themselves: threads and servers that run for as long as a block does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from types import TracebackType
from typing import Self


class Background:
    """Runs each part in a thread while it is entered; a part ends once `_stop` is set."""

    def __init__(self, *parts: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=part) for part in parts]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Let a server answer while the block runs; it is closed at the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
