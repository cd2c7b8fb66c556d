"""Bytes of the memory's budget that lie outside of its store, so that all together stay within it.

Heads and answers kept rendered, bodies that still arrive to be stored, bodies that only flow, and contents that left
the store while clients read them. What lies here the store gives up. To evict what is being read wins nothing until its
readers are done: for a body that arrives, and may flow as well, little of that is evicted. Readers are cut if they are
in the way and had their time.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Final

from edgecache.semantics.rope import Content

LARGE: Final = 64 * 1024  # bytes of a content from which on it matters who still reads it
FILLING: Final = 4  # bodies that arrive, and what is read outside of the store: a fourth, or the largest body
FLOWING: Final = 2  # bodies that only flow take half of the budget from the store at most
CALM: Final = 8  # while they hold less than an eighth, each of them may hold more
WIDE: Final = 256 * 1024  # bytes
NARROW: Final = 32 * 1024  # bytes
READ: Final = 8  # for bodies that arrive no more is evicted that is read, where such contents hold an eighth
LEAST: Final = 8  # the store has an eighth of the budget, whatever happens
NOBODY: Final = 3  # references to a content that nobody reads: its holder's, a variable's, `getrefcount`'s own


class Account:
    """What is held elsewhere. `changed` is told, each time, what is left for the store, and says if that fits."""

    def __init__(self, budget: int, largest: int, changed: Callable[[int], bool]) -> None:
        self.budget = budget
        self.filling = 0  # bytes of bodies that arrive to be stored
        self.flowing = 0  # bytes of bodies that are not stored, and wait for their readers
        self.lingering = 0  # bytes of contents that left the store and are still read
        self.read_on = 0  # bytes of contents in the store that those still read for whom they came
        self.held = 0  # all of it
        self._most_filling = max(budget // FILLING, largest)
        self._changed = changed
        self._read: list[Content] = []
        self._just_left: list[Content] = []
        self._will_linger = 0  # bytes of those that are read, as was seen when they left
        self._in_the_way: set[int] = set()  # identities of what was spared since `to_cut` was last asked
        self._fits = True

    def hold(self, more: int) -> None:
        """So many bytes more are held, or less if `more` is below 0."""
        self.held += more
        self._tell()
        self.settle()

    def _tell(self) -> None:
        excess = max(0, self.flowing - self.budget // FLOWING)
        self._fits = self._changed(max(self.budget - self.held + excess, self.budget // LEAST))

    # --- bodies that arrive

    @property
    def crowded(self) -> bool:
        """Whether half of what may be held of bodies is."""
        return self.filling + self.lingering > self._most_filling // 2

    @property
    def window(self) -> int:
        """Bytes that a body which only flows may hold for its slowest reader: fewer while there are many of them."""
        return WIDE if self.flowing <= self.budget // CALM else NARROW

    def take(self, size: int, *, begins: bool = False) -> bool:
        """Hold `size` more bytes of a body that arrives; False if that is too much.

        What `begins`, and may become long, is not let in where others need what is left to get to their ends.
        """
        if not self._has_room(size, begins=begins):
            self.look()  # some may be read to the end by now
            if not self._has_room(size, begins=begins):
                return False
        self.filling += size
        self.hold(size)
        if not (fits := self._fits):
            self.give(size)
        return fits

    def _has_room(self, size: int, *, begins: bool) -> bool:
        if begins and self.crowded:
            return False
        return self.filling + self.lingering + self.read_on + size <= self._most_filling

    def give(self, size: int) -> None:
        """So many bytes back that were taken."""
        self.filling -= size
        self.hold(-size)

    def flow(self, size: int) -> None:
        """Hold `size` more bytes of a body that only flows, or less if it is below 0: it is bounded by itself."""
        self.flowing += size
        self.hold(size)

    def read(self, size: int) -> None:
        """`size` more bytes in the store are still read by those for whom they came, or less if it is below 0."""
        self.read_on += size

    # --- contents that left the store

    def left(self, content: Content) -> None:
        """`content` is leaving the store: `look` will find out whether anybody still reads it."""
        if len(content) >= LARGE:
            self._just_left.append(content)

    def settle(self) -> None:
        """Count what has left the store just now: it made no room if it is still read."""
        while self._just_left:
            self.look()

    def look(self) -> None:
        """Count what left the store and still has a reader, and forget what has none."""
        if not self._just_left and not self._read:
            if not self._fits:
                self._tell()
            return
        candidates, self._just_left, self._will_linger = self._read + self._just_left, [], 0
        self._read = candidates
        still = [content for content in candidates if getrefcount(content) > NOBODY]
        before, self.lingering, self._read = self.lingering, sum(map(len, still)), still
        if self.lingering != before or not self._fits:
            self.held += self.lingering - before
            self._tell()

    def spares(self, content: Content) -> bool:
        """Whether `content`, a large one that would leave the store, is to stay because it is read."""
        if getrefcount(content) <= NOBODY:
            return False
        if self.lingering + self._will_linger + len(content) <= self.budget // READ:
            self._will_linger += len(content)
            return False
        self._in_the_way.add(id(content))
        return True

    def to_cut(self) -> set[int]:
        """The identities of contents whose readers are in the way of others since this was last asked."""
        if self.lingering > self.budget // READ:
            self._in_the_way.update(map(id, self._read))
        there, self._in_the_way = self._in_the_way, set()
        return there
