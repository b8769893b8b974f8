"""A clock that is set by hand: waits end at once, and say what they told at which second."""

from collections.abc import Callable

from clients.waiting import Clock


class Time:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[float, str]] = []
        self.after: Callable[[], None] = lambda: None
        """Called when time has passed."""

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.after()

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep, lambda text: self.told.append((self.now, text)))
