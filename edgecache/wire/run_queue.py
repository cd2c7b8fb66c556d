"""The run queue of a worker: requests beyond those that the fast path answers take turns on the event loop.

A burst of new connections is read in a few turns of the loop, and each request costs what many known hits cost, or
fills the kernel's buffers with a long response. Handled at once, they keep all others waiting for as long. So a few are
handled as they come, and the rest in the order in which they came, for about a millisecond in each of the next turns:
what comes meanwhile is read between two turns. As long as connections are accepted, of which the loop takes one in each
turn, requests off the fast path wait a little, so that those behind them do not wait to be accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MOST_AT_ONCE: Final = 8  # requests that are handled in the turn in which they come
LONG_HITS: Final = 8  # long responses at hand take as much of a turn as one such request
ROOM: Final = MOST_AT_ONCE * LONG_HITS
LONGEST_TURN: Final = 0.001  # seconds of each further turn, unless one request takes longer
MOST_HELD: Final = 16  # turns in a row in which connections are accepted and nothing else is done


class RunQueue:
    """What waits for its turn. Mutable state: the callbacks, and how many more the running turn takes."""

    __slots__ = ("_accepted", "_clock", "_held", "_room", "_scheduled", "_waiting")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._room = ROOM  # long hits that the running turn still takes; 0 or less: the next turn is scheduled
        self._scheduled = False  # the next turn
        self._accepted = False  # a connection, since the last turn
        self._held = 0  # turns in a row
        self._waiting: deque[Callable[[], None]] = deque()

    def note_accepted(self) -> None:
        """A connection was accepted, and more may wait for that."""
        self._accepted = True
        if self._room > 0:
            self._room = 0
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def has_room(self) -> bool:
        """Whether one more is handled in this turn; it counts if so. Else, it is to be added."""
        return self._takes(LONG_HITS)

    def has_room_for_a_hit(self) -> bool:
        """Whether one more long response that is at hand leaves in this turn; it counts if so."""
        if self._room == ROOM:
            self._schedule()  # those of the next turn are counted anew
        return self._takes(1)

    def _takes(self, units: int) -> bool:
        if self._room <= 0:
            return False
        self._room -= units
        if self._room <= 0:
            self._schedule()
        return True

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback` in one of the next turns; only if there was no room."""
        self._waiting.append(callback)

    def __len__(self) -> int:
        return len(self._waiting)

    def _turn(self) -> None:
        """Call what waits, for so long; the rest waits for the turn after this one."""
        self._scheduled = False
        held = self._accepted and self._held < MOST_HELD
        self._accepted = False
        try:
            if not held:
                self._call_some()
        finally:
            self._held = self._held + 1 if held else 0
            self._room = 0 if held or self._waiting else ROOM
            if not self._room:
                self._schedule()

    def _call_some(self) -> None:
        waiting, clock = self._waiting, self._clock
        end = clock() + LONGEST_TURN if waiting else 0.0
        while waiting:
            waiting.popleft()()
            if clock() >= end:
                break
