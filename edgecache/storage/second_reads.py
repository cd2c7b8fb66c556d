"""Responses of a further tier that are worth a place in memory: read again while memory would have had them."""

from __future__ import annotations

from typing import Final

from edgecache.storage.memory import Memory

MOST: Final = 16384  # URLs whose first read is remembered
LEAST: Final = 64
FULL: Final = 8  # an eighth of a memory that is full may be free


class SecondReads:
    """Mutable state: URLs that were read once, lately."""

    def __init__(self, memory: Memory, *, near: bool) -> None:
        self._memory = memory
        self._near = near  # a read of the machine's store costs less than a place in memory that is of no use
        self._once: set[bytes] = set()
        self._most = self._lately()

    def again(self, url: bytes) -> bool:
        """Whether a response that was just read is to be kept in memory."""
        once = self._once
        if url in once:
            if self._near:
                once.discard(url)
            return True
        if len(once) >= self._most:
            once.clear()
            self._most = self._lately()
        once.add(url)
        return False

    def _lately(self) -> int:
        """Reads that are remembered: what comes again after more would not be in a full memory any more."""
        memory = self._memory
        if not self._near or memory.size < memory.limit - memory.limit // FULL:
            return MOST
        return min(MOST, max(LEAST, len(memory)))
