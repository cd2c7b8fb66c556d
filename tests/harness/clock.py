"""Wall clocks for tests: one that only the test moves, and one that runs."""

from __future__ import annotations

import time
from email.utils import formatdate


class FakeClock:
    """Call it for the time: float seconds since 1970. It stands still until it is told otherwise."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self._jumps = 0.0  # seconds by which it was set, all told

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if seconds < 0:
            raise ValueError("time does not run backwards; a wall clock that does is a jump")
        self.now += seconds

    def jump(self, seconds: float) -> None:
        """Set the clock by `seconds`, forwards or backwards, as an operator or NTP does."""
        self.now += seconds
        self._jumps += seconds

    def steady(self) -> float:
        """The time that has passed, in seconds: what is done to the wall clock does not count."""
        return self() - self._jumps

    def http_date(self, offset: float = 0) -> str:
        """The time, `offset` seconds from now, as an HTTP date."""
        return formatdate(self() + offset, usegmt=True)


class RunningClock(FakeClock):
    """A clock that runs as the machine's does, and can be moved as well: two readings are never the same."""

    def __init__(self) -> None:
        super().__init__(time.time())
        self._began = time.monotonic()

    def __call__(self) -> float:
        """The time."""
        return self.now + time.monotonic() - self._began
