"""Bytes of the memory budget that are used outside of the store, so that the total stays within the budget.

Heads and responses kept serialised, bodies that arrive to be stored, transient bodies, and contents that are read but
not stored. The store shrinks by these bytes. Readers of contents are counted: evicting a content that is being read
frees nothing until its readers have finished, so few such contents are evicted for an arriving body, which can be
passed through instead. Slow readers are cut off if they prevent others from being stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from edgecache.semantics.rope import Content, whole_of
from edgecache.wire.body_charge import LARGE

FILLING: Final = 4  # bodies that arrive, and what is read outside of the store: a fourth, or the largest body
FLOWING: Final = 2  # transient bodies take half of the budget from the store at most
CALM: Final = 8  # while they hold less than an eighth, each of them may hold more
WIDE: Final = 256 * 1024  # bytes
NARROW: Final = 32 * 1024  # bytes
READ: Final = 8  # an eighth of the budget may be evicted while it is read, for bodies that arrive
LEAST: Final = 8  # the store has an eighth of the budget, whatever happens


class Account:
    """What is held outside of the store, and the readers of contents.

    `limit_store` is called with what is left for the store, whenever that changes, and returns whether it fits.
    """

    def __init__(self, budget: int, largest: int, limit_store: Callable[[int], bool]) -> None:
        self.budget = budget
        self.filling = 0  # bytes of bodies that arrive to be stored
        self.flowing = 0  # bytes of transient bodies, which wait for their readers
        self.lingering = 0  # bytes of contents that are read, and not in the store
        self.read_on = 0  # bytes of contents that those still read for whom they were fetched
        self.held = 0  # all of it but `read_on`
        self._most_filling = max(budget // FILLING, largest)
        self._limit_store = limit_store
        self._fits = True
        self._grew = False  # `held` has changed in the midst of an eviction
        # Contents go by their identities: a reader, and the store, hold on to what they have announced.
        self._readers: dict[int, int] = {}  # how many there are
        self._stored: set[int] = set()
        self._lingering: set[int] = set()
        self._unsent: dict[asyncio.WriteTransport, list[Content]] = {}  # written whole, and not yet flushed
        self._in_the_way: set[int] = set()  # what was spared since `to_cut` was last called

    def hold(self, more: int) -> None:
        """Charge `more` bytes; a negative number returns them."""
        self.held += more
        self._resize_store()
        self.settle()

    def _resize_store(self) -> None:
        excess = max(0, self.flowing - self.budget // FLOWING)
        self._fits = self._limit_store(max(self.budget - self.held + excess, self.budget // LEAST))

    # --- bodies that arrive

    @property
    def crowded(self) -> bool:
        """Whether more than half of the room for bodies that arrive is taken, or much is held by transient ones.

        A body that runs ahead of its readers, and finds no room later, holds what they have not taken until they do.
        """
        return self._half_taken or self.flowing > self.budget // CALM

    @property
    def _half_taken(self) -> bool:
        return self.filling + self.lingering > self._most_filling // 2

    @property
    def window(self) -> int:
        """Bytes that a transient body may hold for its slowest reader: fewer while there are many such bodies."""
        return WIDE if self.flowing <= self.budget // CALM else NARROW

    def take(self, size: int, *, begins: bool = False) -> bool:
        """Charge `size` more bytes of a body that arrives; False if there is no room.

        One that `begins`, of unknown length, is refused where bodies under way need what is left to get to their ends.
        """
        if not self._has_room(size, begins=begins):
            self.look()  # some may be flushed by now
            if not self._has_room(size, begins=begins):
                return False
        self.filling += size
        self.hold(size)
        if not (fits := self._fits):
            self.give(size)
        return fits

    def _has_room(self, size: int, *, begins: bool) -> bool:
        if begins and self._half_taken:
            return False
        return self.filling + self.lingering + self.read_on + size <= self._most_filling

    def give(self, size: int) -> None:
        """Return `size` bytes that were taken."""
        self.filling -= size
        self.hold(-size)

    def flow(self, size: int) -> None:
        """Charge `size` more bytes of transient bodies, which bound themselves; a negative size returns them."""
        self.flowing += size
        self.hold(size)

    # --- contents and their readers

    def acquire(self, content: Content, *, filled: bool = False) -> None:
        """Count one more reader of `content`; `filled` if it reads since before the content was complete."""
        if filled:
            self.read_on += len(content)
        whole = whole_of(content)
        if len(whole) < LARGE:
            return
        number = id(whole)
        readers = self._readers.get(number, 0)
        self._readers[number] = readers + 1
        if not readers and number not in self._stored:
            self._linger(number, len(whole))
            self.settle()

    def release(self, content: Content, *, filled: bool = False) -> None:
        """Count one reader of `content` less."""
        if filled:
            self.read_on -= len(content)
        whole = whole_of(content)
        if len(whole) < LARGE:
            return
        number = id(whole)
        self._readers[number] -= 1
        if not self._readers[number]:
            del self._readers[number]
            self._linger_no_more(number, len(whole))
            self.settle()

    def entered(self, content: Content) -> None:
        """`content` is in the store from now on."""
        whole = whole_of(content)
        if len(whole) >= LARGE:
            self._stored.add(id(whole))
            self._linger_no_more(id(whole), len(whole))

    def left(self, content: Content) -> None:
        """`content` is leaving the store; that frees nothing as long as it is read."""
        whole = whole_of(content)
        if len(whole) >= LARGE:
            self._stored.discard(id(whole))
            if id(whole) in self._readers:
                self._linger(id(whole), len(whole))

    def _linger(self, number: int, size: int) -> None:
        if number not in self._lingering:
            self._lingering.add(number)
            self._add_lingering(size)

    def _linger_no_more(self, number: int, size: int) -> None:
        if number in self._lingering:
            self._lingering.remove(number)
            self._add_lingering(-size)

    def _add_lingering(self, size: int) -> None:
        self.lingering += size
        self.held += size
        self._grew = True

    def settle(self) -> None:
        """Fit the store to what has changed while it evicted."""
        while self._grew:
            self._grew = False
            self._resize_store()

    def sent(self, content: Content, transport: asyncio.WriteTransport) -> None:
        """Count `transport` as a reader of `content`, written to it whole, until it has flushed it."""
        if transport.get_write_buffer_size():
            self._unsent.setdefault(transport, []).append(content)
            self.acquire(content)

    def closed(self, transport: asyncio.WriteTransport) -> None:
        """`transport` holds nothing any more."""
        for content in self._unsent.pop(transport, ()):
            self.release(content)

    def look(self) -> None:
        """Find out which transports have flushed what was written to them."""
        for transport in [one for one in self._unsent if not one.get_write_buffer_size()]:
            self.closed(transport)
        if not self._fits:
            self._resize_store()

    def spares(self, content: Content) -> bool:
        """Whether `content`, a large one that would be evicted, is to stay because it is read."""
        number = id(whole_of(content))
        if number not in self._readers or self.lingering + len(content) <= self.budget // READ:
            return False
        self._in_the_way.add(number)
        return True

    def to_cut(self) -> set[int]:
        """The identities of contents whose readers have been in the way of others since the last call."""
        if self.lingering > self.budget // READ:
            self._in_the_way |= self._lingering
        there, self._in_the_way = self._in_the_way, set()
        return there
