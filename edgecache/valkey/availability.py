"""Whether Valkey may be asked: a breaker for who is in a hurry, silence for who has a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from edgecache.tasks import spawn
from edgecache.valkey.circuit_breaker import Breaker, State
from edgecache.valkey.client import Failure, Link

log = logging.getLogger("edgecache")
QUICK: Final = 0.025  # seconds of a round trip that proves the server well
PROBE_EVERY: Final = 0.1  # seconds between two looks whether it is time to try the server
PROBE_KEY: Final = b"ec:probe"


class Counts(Protocol):
    """Told what came of it; the words are from closed sets."""

    def batch(self, keys: int, seconds: float) -> None:
        """A batch of reads was answered."""

    def failed(self, word: str) -> None:
        """A round trip failed."""


class Guard:
    """What all lanes of one tier share: the link, the breaker, and the clock (seconds, monotonic).

    While the breaker is not closed no request reads from the server, not even to try it: a task does that, so that no
    client waits for a server that may be dead. Patient lanes are for what is worth a second: leases, and what follows
    from them. They go on asking a server that is only slow, until it is silent.
    """

    def __init__(
        self, link: Link, breaker: Breaker, clock: Callable[[], float], counts: Counts, budget: float = QUICK
    ) -> None:
        self.link = link
        link.on_drop = lambda: counts.failed("misplaced")
        self.breaker = breaker
        self.clock = clock
        self.counts = counts
        self._budget = budget  # seconds in which a server that is well answers
        self.silent = False  # the last commands had no answer at all: not even who has time waits for one
        self._lost = False  # the last command had none
        self._prober: asyncio.Task[None] | None = None
        self._closed = False  # redis-py may swallow the cancellation of a task

    @property
    def open(self) -> bool:
        """Whether the server is let alone for now. (A closed circuit is an open way: the word is the field's.)"""
        return self.breaker.state is not State.CLOSED

    def ok(self) -> None:
        """A round trip came back in time."""
        self.silent = self._lost = False
        self.breaker.succeeded(self.clock())

    def heard(self) -> None:
        """A round trip came back, if late: that says nothing of the reads that are in a hurry."""
        self.silent = self._lost = False

    def unheard(self, word: str, seconds: float) -> None:
        """Commands had no reply for so long. A timeout is proof, unless it was our event loop that stood still."""
        timed_out = word == "timeout" and seconds < 1.5 * self.link.timeout
        self.silent = self.silent or timed_out or self._lost
        self._lost = True
        self.failed(word)

    def failed(self, word: str) -> None:
        """One did not, or not in time."""
        self.breaker.failed(self.clock())
        self.counts.failed(word)
        if (self.open or self.silent) and self._prober is None:
            self._prober = spawn(self._probe(), "regional probe")

    async def _probe(self) -> None:
        """Ask behind the clients' backs until there is an answer in time."""
        try:
            while (self.open or self.silent) and not self._closed:
                await asyncio.sleep(PROBE_EVERY)
                if not self.open:
                    await self._answers()
                elif self.breaker.allows(self.clock()):
                    told = self.breaker.succeeded if await self._answers() else self.breaker.failed
                    told(self.clock())
        finally:
            self._prober = None

    async def _answers(self) -> bool:
        try:
            await self.link.get_many((PROBE_KEY,))  # to connect may take longer
            began = self.clock()
            await self.link.get_many((PROBE_KEY,))
        except Failure:
            self.silent = True
            return False
        except Exception:  # whatever a broken server makes of redis-py: it is tried again
            log.exception("a bug: the regional tier could not be tried")
            return False
        self.heard()
        return self.clock() - began <= self._budget

    async def close(self) -> None:
        """Ask no more."""
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
