"""How late the event loop is: a short timer that looks, each time, how long after its moment it was run.

What stands in the way of one callback stands in the way of every request, so this is the time that a request waits for
nothing but its turn. A look costs a few microseconds, fifty times a second while clients send, four times at rest.
"""

from __future__ import annotations

import asyncio
from typing import Final

from edgecache.telemetry.metrics import Counter, Registry

EVERY: Final = 0.02  # seconds between two looks while clients send
AT_REST: Final = 0.25  # seconds between two looks where nothing has come since the last one
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """Lag probe of an event loop; `bytes_in` counts what clients send."""

    def __init__(self, registry: Registry, bytes_in: Counter) -> None:
        self._bytes_in = bytes_in
        self._seen = -1.0  # bytes that had come at the last look
        self._observe = registry.histogram(
            "edgecache_event_loop_lag_seconds", "Delay with which a worker's event loop runs what is due.", SECONDS
        ).observe
        self.due = 0.0  # loop time of the next look
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start probing the running event loop."""
        loop = asyncio.get_running_loop()
        seen, self._seen = self._seen, self._bytes_in.value
        self.due = loop.time() + (AT_REST if seen == self._seen else EVERY)
        self._timer = loop.call_at(self.due, self._look)

    def stop(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._observe(max(0.0, asyncio.get_running_loop().time() - self.due))
        self.start()
