"""What one body costs the memory budget, from its first byte until its last reader has left.

kept ──► charged piece by piece, or reserved at once where the length is known
  ├────► transient: there is no room to keep it; only what its slowest reader has not taken is charged
  └────► stored: charged to the store; its readers are counted, so that the store does not evict it for nothing
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from edgecache.semantics.rope import Content

LARGE: Final = 64 * 1024  # bytes of a content from which on its readers are counted


class Room(Protocol):
    """The memory budget that bodies are charged to."""

    @property
    def crowded(self) -> bool:
        """Whether memory is short: bodies that run ahead of all of their readers are held back."""

    @property
    def window(self) -> int:
        """Bytes that a transient body may hold for its slowest reader."""

    def take(self, size: int, *, begins: bool = False) -> bool:
        """Charge `size` more bytes that are to be kept, if there is room; `begins` marks a body's first bytes."""

    def give(self, size: int) -> None:
        """Return `size` bytes that were taken."""

    def flow(self, size: int) -> None:
        """Charge `size` more bytes of transient bodies; a negative size returns them."""

    def acquire(self, content: Content, *, filled: bool = False) -> None:
        """Count one more reader of `content`; `filled` if it reads since before the content was complete."""

    def release(self, content: Content, *, filled: bool = False) -> None:
        """Count one reader of `content` less."""

    def sent(self, content: Content, transport: asyncio.WriteTransport) -> None:
        """Count `transport` as a reader of `content`, written to it whole, until it has flushed it."""

    def closed(self, transport: asyncio.WriteTransport) -> None:
        """`transport` holds nothing any more."""


class Charge:
    """The share of one body in the budget."""

    __slots__ = ("_bytes", "_complete", "_reads", "_transient", "reserved", "room")

    def __init__(self, room: Room, *, complete: bool = False) -> None:
        self.room = room
        self.reserved = False  # its whole length is charged already
        self._complete = complete  # from the beginning: no fill of this process
        self._bytes = 0  # charged
        self._transient = False
        self._reads: Content | None = None  # the complete content, while this body has readers

    def reserve(self, length: int) -> bool:
        """Charge the whole `length`, if there is room."""
        if self.room.take(length):
            self._bytes, self.reserved = length, True
        return self.reserved

    def add(self, size: int) -> bool:
        """Charge `size` more bytes; False if there is no room, which a transient body does not need."""
        if self.reserved:
            return True
        if self._transient:
            self.room.flow(size)
        elif not self.room.take(size, begins=not self._bytes):
            return False
        self._bytes += size
        return True

    def make_transient(self, held: int) -> None:
        """Charge the body as transient from now on, with the `held` bytes that are here."""
        self.drop(self._bytes)
        self._transient, self.reserved, self._bytes = True, False, held
        self.room.flow(held)

    def drop(self, size: int) -> None:
        """Return the charge of `size` bytes that are no longer held."""
        if size:
            self._bytes -= size
            if self._transient:
                self.room.flow(-size)
            else:
                self.room.give(size)

    def move_to_store(self) -> None:
        """Return the whole charge: the store is charged from now on."""
        self.drop(self._bytes)

    def acquire(self, content: Content) -> None:
        """Count this body as a reader of its complete `content`, once."""
        if self._reads is None:
            self._reads = content
            self.room.acquire(content, filled=not self._complete)

    def release(self) -> None:
        """Return everything: the body has ended and has no readers."""
        self.drop(self._bytes)
        if self._reads is not None:
            self.room.release(self._reads, filled=not self._complete)
            self._reads = None
