"""The run queue of a worker: requests beyond those that the fast path answers take turns on the event loop.

A burst of new connections is read in one turn of the loop, and each request costs what a hundred known hits cost, or
fills the kernel's buffers with a long response. Handled at once, they keep all others waiting for as long. So a few are
handled as they come, and the rest in the order in which they came, for about a millisecond in each of the next turns:
what comes meanwhile is read between two turns.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MOST_AT_ONCE: Final = 8  # requests that are handled in the turn in which they come
LONGEST_TURN: Final = 0.001  # seconds of each further turn, unless one request takes longer


class RunQueue:
    """What waits for its turn. Mutable state: the callbacks, and how many more the running turn takes."""

    __slots__ = ("_clock", "_room", "_waiting")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._room = MOST_AT_ONCE  # 0 or less: the next turn is scheduled
        self._waiting: deque[Callable[[], None]] = deque()

    def has_room(self) -> bool:
        """Whether one more is handled in this turn; it counts if so. Else, it is to be added."""
        self._room -= 1
        if self._room == 0:
            asyncio.get_running_loop().call_soon(self._turn)
        return self._room >= 0

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback` in one of the next turns; only if there was no room."""
        self._waiting.append(callback)

    def __len__(self) -> int:
        return len(self._waiting)

    def _turn(self) -> None:
        """Call what waits, for so long; the rest waits for the turn after this one."""
        waiting, clock = self._waiting, self._clock
        end = clock() + LONGEST_TURN if waiting else 0.0
        try:
            while waiting:
                waiting.popleft()()
                if clock() >= end:
                    break
        finally:
            self._room = 0 if waiting else MOST_AT_ONCE
            if waiting:
                asyncio.get_running_loop().call_soon(self._turn)
