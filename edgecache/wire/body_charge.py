"""What one body counts for in the memory's account, from its first byte until its last reader is done.

kept ──► it is taken, piece by piece, or reserved at once where the length is known
  ├────► only flows: there is no room to keep it; what its slowest reader has not taken counts
  └────► stored: it counts in the store, and as long as it is read it is not easily evicted
"""

from __future__ import annotations

from typing import Protocol


class Room(Protocol):
    """Where the bytes count that are held of bodies."""

    @property
    def crowded(self) -> bool:
        """Whether it is time to hold back what nobody is waiting for."""

    @property
    def window(self) -> int:
        """Bytes that a body which only flows may hold for its slowest reader."""

    def take(self, size: int, *, begins: bool = False) -> bool:
        """Whether `size` more bytes may be kept; they count from now on. More may follow what `begins`."""

    def give(self, size: int) -> None:
        """`size` bytes that were taken are held no longer, or not to be kept."""

    def flow(self, size: int) -> None:
        """`size` more bytes are held for a while, or less if it is below 0, of what is not kept."""

    def read(self, size: int) -> None:
        """`size` more bytes of what is stored have readers, or less if it is below 0."""


class Holding:
    """The share of one body in a room."""

    __slots__ = ("_bytes", "_flows", "_read", "reserved", "room")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.reserved = False  # all of its length counts already
        self._bytes = 0  # that count
        self._flows = False  # they are not to be kept
        self._read = 0  # bytes of what is stored, while it is read

    def reserve(self, length: int) -> bool:
        """Whether all of `length` may be kept."""
        if self.room.take(length):
            self._bytes, self.reserved = length, True
        return self.reserved

    def add(self, size: int) -> bool:
        """Whether so many bytes more may be kept; those of what only flows count whatever there is."""
        if self.reserved:
            return True
        if self._flows:
            self.room.flow(size)
        elif not self.room.take(size, begins=not self._bytes):
            return False
        self._bytes += size
        return True

    def only_flow(self, held: int) -> None:
        """It is not to be kept; so many bytes of it are here."""
        if self._bytes:
            self.room.give(self._bytes)
        self._flows, self.reserved, self._bytes = True, False, held
        self.room.flow(held)

    def let_go(self, size: int) -> None:
        """So many bytes are no longer here."""
        if size:
            self._bytes -= size
            if self._flows:
                self.room.flow(-size)
            else:
                self.room.give(size)

    def stored(self) -> None:
        """From now on it counts in the store."""
        self.let_go(self._bytes)

    def read_on(self, size: int) -> None:
        """Of what is stored, which is so large, somebody for whom it came is not done with it."""
        if not self._read:
            self._read = size
            self.room.read(size)

    def leave(self) -> None:
        """Nobody reads it any more."""
        self.let_go(self._bytes)
        if self._read:
            self.room.read(-self._read)
            self._read = 0
