"""A circuit breaker: whether to call a service that has failed lately. Pure state; the time is an argument.

    closed ──`failures` failures in a row──► open ──its time is over──► half open ──a success──► closed
                                               ▲                            │
                                               └─────────a failure──────────┘

Half open, one probe at a time is let through. A probe whose outcome is never reported (its client left) is abandoned
after `open_for` seconds, so that the breaker cannot stay open for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecache.semantics.outcomes import Label


class State(Label):
    """The state of a breaker."""

    CLOSED = "closed"  # all are let through
    OPEN = "open"  # none are
    HALF_OPEN = "half-open"  # one probe at a time is


def no_jitter() -> float:
    """Nothing is added."""
    return 0.0


class Breaker:
    """One breaker. `now` is in seconds of any clock that does not go back.

    After `failures` failures in a row it is open for `open_for` seconds; each probe that fails doubles that, up to
    `longest` (as long as `open_for` if not given). `jitter` gives the fraction of that time to add, 0.0 to 1.0, so
    that many breakers do not all probe at once.
    """

    __slots__ = ("_failed", "_failures", "_jitter", "_longest", "_open_for", "_times", "_until", "opened", "state")

    def __init__(
        self,
        failures: int,
        open_for: float,
        *,
        longest: float | None = None,
        jitter: Callable[[], float] = no_jitter,
    ) -> None:
        if failures < 1 or open_for <= 0.0:
            raise ValueError("a breaker needs at least one failure, and some time to be open")
        self._failures = failures
        self._open_for = open_for
        self._longest = max(open_for, longest or 0.0)
        self._jitter = jitter
        self.state = State.CLOSED
        self.opened = 0  # how often it went from closed to open
        self._failed = 0  # in a row, while closed
        self._times = 0  # openings in a row
        self._until = 0.0  # open: the end of its time; half open: when the probe is abandoned

    def allows(self, now: float) -> bool:
        """Whether a call may be made at `now`. Half open, a True is the probe: report its outcome."""
        if self.state is State.CLOSED:
            return True
        if now < self._until:
            return False
        self.state = State.HALF_OPEN
        self._until = now + self._open_for
        return True

    def succeeded(self, now: float) -> None:
        """A call succeeded. One that was made before the breaker opened does not close it."""
        if self.state is State.OPEN:
            return
        self.state = State.CLOSED
        self._failed = self._times = 0

    def failed(self, now: float) -> None:
        """A call failed. One that was made before the breaker opened does not prolong that."""
        if self.state is State.OPEN:
            return
        self._failed += 1
        if self.state is State.HALF_OPEN:
            self._open(now)
        elif self._failed >= self._failures:
            self.opened += 1
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        time = min(self._longest, self._open_for * 2.0 ** min(self._times, 30))
        self._times += 1
        self._failed = 0
        self._until = now + time * (1.0 + self._jitter())

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}>"
