"""Bytes of the memory's budget that lie outside of its store, so that all together stay within it.

Heads and answers kept rendered, bodies that still arrive to be stored, and contents that left the store while clients
read them. What lies here the store gives up, down to half of the budget; each of them is bounded by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Final

from edgecache.rules.content import Content

LARGE: Final = 64 * 1024  # bytes of a content from which on it matters who still reads it
FILLING: Final = 4  # bodies that arrive to be stored hold a fourth of the budget at most, or the largest of them
READ: Final = 8  # contents that left the store while they are read hold an eighth at most
NOBODY: Final = 3  # references to a content that nobody reads: the list's, a variable's, `getrefcount`'s own


class Account:
    """What is held elsewhere. `changed` is told, each time, how many bytes are left for the store."""

    def __init__(self, budget: int, largest: int, changed: Callable[[int], None]) -> None:
        self.budget = budget
        self.filling = 0  # bytes of bodies that arrive
        self.lingering = 0  # bytes of contents that left the store and are still read
        self.held = 0  # all of it
        self._most_filling = max(budget // FILLING, largest)
        self._changed = changed
        self._read: list[Content] = []
        self._just_left: list[Content] = []

    def hold(self, more: int) -> None:
        """So many bytes more are held, or less if `more` is below 0."""
        self.held += more
        self._changed(max(self.budget - self.held, self.budget // 2))

    # --- bodies that arrive

    @property
    def crowded(self) -> bool:
        """Whether half of what may be held of bodies is."""
        return self.filling + self.lingering > self._most_filling // 2

    def take(self, size: int) -> bool:
        """Hold `size` more bytes of a body that arrives; False if that is too much."""
        if self.filling + size > self._most_filling:
            return False
        self.filling += size
        self.hold(size)
        return True

    def grow(self, size: int) -> None:
        """Hold `size` more bytes of a body that only flows: it is bounded by itself, and no longer to be stored."""
        self.filling += size
        self.hold(size)

    def give(self, size: int) -> None:
        """So many bytes of a body back."""
        self.filling -= size
        self.hold(-size)

    # --- contents that left the store

    def left(self, content: Content) -> None:
        """`content` is leaving the store: `look` will find out whether anybody still reads it."""
        if len(content) >= LARGE:
            self._just_left.append(content)

    def look(self) -> None:
        """Count what left the store and still has a reader, and forget what has none."""
        if not self._just_left and not self._read:
            return
        candidates, self._just_left = self._read + self._just_left, []
        self._read = candidates
        still = [content for content in candidates if getrefcount(content) > NOBODY]
        before, self.lingering, self._read = self.lingering, sum(map(len, still)), still
        if self.lingering != before:
            self.hold(self.lingering - before)

    def to_cut(self) -> set[int]:
        """The identities of contents whose readers hold too much together; empty if they do not."""
        return set() if self.lingering <= self.budget // READ else {id(content) for content in self._read}
