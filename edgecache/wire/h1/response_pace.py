"""How fast a response has to come: to its first byte, from byte to byte, and on the whole."""

from __future__ import annotations

from math import inf
from typing import Final

from edgecache.wire.body import Body
from edgecache.wire.lowest_rate import LowestRate
from edgecache.wire.slow_readers import SlowReaders
from edgecache.wire.upstream_connection import UpstreamPool

QUICK: Final = 0.02  # seconds in which readers that keep up take what they are given


class Pace:
    """The deadlines of one connection's responses. Time in which readers hold a response back is not the server's."""

    __slots__ = ("_held_since", "_patience", "_pool", "_rate", "_sized", "_slow_readers", "deadline")

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self.deadline = inf  # monotonic seconds; 0 = as long from the next sweep on as the first byte may take
        self._patience = 0.0  # seconds between two bytes
        self._sized = False  # the response says how long it is
        self._rate = LowestRate()
        self._held_since = inf  # monotonic seconds
        self._slow_readers = SlowReaders()

    def begin(self, *, sized: bool, quiet: bool) -> None:
        """A body begins to arrive; a `quiet` one is a stream of events, which may be seldom."""
        self._sized = sized
        self._rate.begin()
        self._patience = self._pool.tunnel_timeout if quiet else self._pool.between_bytes_timeout
        self.deadline = self._pool.clock() + self._patience

    def moved(self) -> None:
        """Bytes of the body have come."""
        if self.deadline is not inf:
            self.deadline = self._pool.clock() + self._patience

    @property
    def is_held(self) -> bool:
        """Whether the readers hold the response back."""
        return self._held_since != inf

    def held_for(self, now: float) -> float:
        """For how many seconds they have; negative infinity if they do not."""
        return now - self._held_since

    def hold(self, body: Body | None) -> None:
        """The readers of `body` do not keep up."""
        self.deadline = inf
        self._rate.held_back()
        self._held_since = self._pool.clock()
        if body is not None:
            self._slow_readers.watch(body)

    def resume(self) -> bool:
        """The readers have caught up; whether they were quick."""
        now = self._pool.clock()
        quick = self.held_for(now) <= QUICK
        self.deadline, self._held_since = now + self._patience, inf
        self._slow_readers.unwatch()
        return quick

    def overdue(self, now: float, body: Body | None, *, answered: bool) -> str:
        """Why the response is too late at `now`, in monotonic seconds: a fixed word; empty: it is not.

        A stream of unknown length that is not kept may be as slow as it is.
        """
        if self.deadline == 0.0:
            self.deadline = now + self._pool.first_byte_timeout
            return ""
        if now > self.deadline:
            return "between-bytes-timeout" if answered else "first-byte-timeout"
        if body is None or self.deadline == inf:
            return ""
        kept = self._rate.is_kept(now, body.size, self._pool.min_rate, self._patience)
        return "lowest-rate" if not kept and (self._sized or body.kept) else ""
