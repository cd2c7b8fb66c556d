"""A wall clock that only a test moves."""

from __future__ import annotations

from email.utils import formatdate


class FakeClock:
    """Call it for the time: float seconds since 1970. It stands still until it is told otherwise."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

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

    def http_date(self, offset: float = 0) -> str:
        """The time, `offset` seconds from now, as an HTTP date."""
        return formatdate(self.now + offset, usegmt=True)
