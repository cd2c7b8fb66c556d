"""Availability of the server: a circuit breaker for latency-bound reads; `unresponsive` stops other commands too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from edgecache.tasks import spawn
from edgecache.valkey.circuit_breaker import Breaker, State
from edgecache.valkey.client import Failure, Link

log = logging.getLogger("edgecache")
QUICK: Final = 0.025  # seconds of a round trip that proves the server healthy
PROBE_EVERY: Final = 0.1  # seconds between two checks whether the server may be probed
PROBE_KEY: Final = b"ec:probe"


class CommandMetrics(Protocol):
    """Counters of round trips; the words are from closed sets."""

    def batch(self, keys: int, seconds: float) -> None:
        """A batch of reads was answered."""

    def failed(self, word: str) -> None:
        """A round trip failed."""


class Availability:
    """Whether the server of one tier is used: shared by all of its queues. `clock` is monotonic, in seconds.

    While the breaker is not closed no request reads from the server, not even as a probe: a task probes it, so that no
    client waits for a server that may be dead. Patient queues are for commands that are worth a second: leases, and
    what follows from them. They keep using a server that is only slow, until it is unresponsive.
    """

    def __init__(
        self, link: Link, breaker: Breaker, clock: Callable[[], float], counts: CommandMetrics, budget: float = QUICK
    ) -> None:
        self.link = link
        link.on_drop = lambda: counts.failed("misplaced")
        self.breaker = breaker
        self.clock = clock
        self.counts = counts
        self._budget = budget  # seconds in which a healthy server answers
        self.unresponsive = False  # the last commands had no reply at all: none is sent
        self._lost = False  # the last command had no reply
        self._prober: asyncio.Task[None] | None = None
        self._closed = False  # redis-py may swallow the cancellation of a task

    @property
    def open(self) -> bool:
        """Whether the circuit is open or half open: no request reads from the server."""
        return self.breaker.state is not State.CLOSED

    def answered(self) -> None:
        """A round trip came back in time."""
        self.unresponsive = self._lost = False
        self.breaker.succeeded(self.clock())

    def answered_late(self) -> None:
        """A round trip came back late: that does not close the breaker."""
        self.unresponsive = self._lost = False

    def unanswered(self, word: str, seconds: float) -> None:
        """Commands had no reply for `seconds`. A timeout is proof, unless our own event loop was blocked."""
        timed_out = word == "timeout" and seconds < 1.5 * self.link.timeout
        self.unresponsive = self.unresponsive or timed_out or self._lost
        self._lost = True
        self.failed(word)

    def failed(self, word: str) -> None:
        """A round trip failed, or came too late."""
        self.breaker.failed(self.clock())
        self.counts.failed(word)
        if (self.open or self.unresponsive) and self._prober is None:
            self._prober = spawn(self._probe(), "regional probe")

    async def _probe(self) -> None:
        """Probe the server in the background until it answers in time."""
        try:
            while (self.open or self.unresponsive) and not self._closed:
                await asyncio.sleep(PROBE_EVERY)
                if not self.open:
                    await self._answers()
                elif self.breaker.allows(self.clock()):
                    record = self.breaker.succeeded if await self._answers() else self.breaker.failed
                    record(self.clock())
        finally:
            self._prober = None

    async def _answers(self) -> bool:
        try:
            await self.link.get_many((PROBE_KEY,))  # to connect may take longer
            began = self.clock()
            await self.link.get_many((PROBE_KEY,))
        except Failure:
            self.unresponsive = True
            return False
        except Exception:  # whatever redis-py makes of a broken server: it is probed again
            log.exception("a bug: the regional tier could not be tried")
            return False
        self.answered_late()
        return self.clock() - began <= self._budget

    async def close(self) -> None:
        """Probe no more."""
        self._closed = True
        if self._prober is not None:
            await cancel((self._prober,))


def failure_word(error: BaseException) -> str:
    """The kind of a failure, for the metrics."""
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return "timeout"
    if isinstance(error, ConnectionError | OSError) or type(error).__name__ == "ConnectionError":
        return "connection"
    return "reply"


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End `tasks`, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
