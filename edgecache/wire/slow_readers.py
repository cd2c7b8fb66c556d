"""Slow readers of a shared body, which hold back the others: after a while, the body goes on without them.

Readers that can fetch the rest by another way are detached; the others are cut off in the end, since clients wait.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import ref

from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor

LAG: Final = 0.1  # seconds that a reader may take nothing while others wait for it
STEADY: Final = 1.0  # seconds in which it may be the slowest each time that the others had to wait
PATIENCE: Final = 2.0  # seconds that a reader without another way may take nothing


class SlowReaders:
    """Watches the body of one source while that is paused. Mutable state: the slowest reader, since when, a timer."""

    __slots__ = ("_held_since", "_slowest", "_slowest_since", "_timer")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._held_since = self._slowest_since = 0.0  # seconds of the event loop
        self._slowest: ref[Cursor] | None = None  # weak: it keeps an exchange

    def watch(self, body: Body) -> None:
        """The source of `body` is paused from now on."""
        if len(body.readers) <= 1 or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        now = self._held_since = loop.time()
        slowest = body.readers.slowest
        if slowest is not None and (self._slowest is None or slowest is not self._slowest()):
            self._slowest, self._slowest_since = ref(slowest), now
        steady = now - self._slowest_since > STEADY
        self._timer = loop.call_later(0.0 if steady else LAG, self._look, body)

    def unwatch(self) -> None:
        """The source goes on, or has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, body: Body) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        waited = loop.time() - self._held_since
        if not body.detach_slow_readers(stuck=waited >= LAG, cut=waited > PATIENCE) and len(body.readers) > 1:
            self._timer = loop.call_later(LAG, self._look, body)
