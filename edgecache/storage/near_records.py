"""Records of the machine's store as a plain hit needs them: read where they lie, without an entry made of them.

    digest ──► index, log ──► bytes ──► checked? ──► numbers, fields and content out of their places ──► a response

A value is checked against its digest when this process reads it first. What lies in memory stays as it is: its place is
noted, and no other value ever has that place. Beside it is noted the position of the purge log at which its response
was last known to be usable, as an entry in memory notes it. Both are bounded; what is not noted is checked again.
"""

from __future__ import annotations

import asyncio
import mmap
from math import inf, isfinite
from typing import Final

from edgecache.semantics.field_codec import content_type_in
from edgecache.semantics.rope import Piece
from edgecache.semantics.stored_response import NO_POSITION
from edgecache.storage.record import FIXED, PREFIX, Codec, Corrupt, meta_of
from edgecache.storage.resident_clock import Clock
from edgecache.storage.tier_queue import NEAR, NearLane, OnValue, ReadLane

PLACES: Final = 131071  # that are noted; a prime, so that records of one size do not meet
NEVER: Final = 1  # no generation of a store that is not being changed
SAME: Final = 0.001  # seconds by which two clocks may differ and be the same


class NearRecord:
    """A record with its body, of which only what a plain hit needs is taken out."""

    __slots__ = (
        *("_block_at", "_head", "_seen_at", "_tags_at", "body_at", "content", "digest", "generation", "head"),
        *("initial_age", "key", "length", "lifetime", "outcome", "passed", "place", "reason", "received", "stale_at"),
        *("status", "until", "url"),
    )

    status: int
    received: float
    initial_age: float
    lifetime: float
    stale_at: float
    reason: bytes
    body_at: int  # in the value
    length: int  # of the body
    content: Piece  # the body
    head: bytes  # of the response, serialized, with its empty line
    outcome: bytes  # its Cache-Status
    _head: bytes
    _block_at: tuple[int, int]
    _tags_at: int
    _seen_at: int

    def __init__(self, url: bytes, key: bytes, digest: bytes, place: int, passed: int, generation: int) -> None:
        self.url = url
        self.key = key  # under which it lies
        self.digest = digest  # of that
        self.place = place
        self.generation = generation  # of the store, in which it was known to lie there
        self.passed = passed  # the position of the purge log at which it was last known to be usable
        self.until = -inf  # until when `head` is right: no time

    @property
    def block(self) -> bytes:
        """Its packed fields."""
        begin, end = self._block_at
        return self._head[begin:end]

    @property
    def tags(self) -> tuple[bytes, ...]:
        """Tags by which it can be purged."""
        tags = self._head[self._tags_at : self._seen_at]
        return tuple(tags.split(b"\n")) if tags else ()

    @property
    def seen(self) -> str:
        """The version vector of the invalidation log when the origin was asked."""
        return self._head[self._seen_at :].decode("ascii", "replace")

    @property
    def content_type(self) -> bytes:
        """Its Content-Type; empty where it has none."""
        return content_type_in(self.block)


class NearRecords:
    """The records that one process can read at once. Mutable state: what is noted of places."""

    def __init__(self, lane: NearLane, codec: Codec, clock: Clock) -> None:
        self.count_hit = lane.count_hit
        self._at_hand = lane.at_hand
        self._again = lane.again
        self._generation = lane.generation
        self._digest_of = lane.digest_of
        self._place_of = lane.place_of
        self._codec = codec
        self._clock = clock
        self._begins = 0 if codec.encrypts else PREFIX
        self.stays = lane.stays and not codec.encrypts
        self._checked = memoryview(mmap.mmap(-1, 8 * PLACES)).cast("Q")  # place of a value, by that modulo `PLACES`
        self._passed = memoryview(mmap.mmap(-1, 8 * PLACES)).cast("q")  # position of the purge log, of the same

    def read(self, url: bytes, key: bytes) -> NearRecord | None:
        """The record of `url` that lies under `key`, whole with its body; None if there is none that is at hand."""
        return self._read(url, key, self._digest_of(key), None, NEVER)

    def read_again(self, url: bytes, key: bytes, known: NearRecord | None) -> NearRecord | None:
        """The same where it may be `known` by now."""
        if not self.stays:
            return self.read(url, key)
        if known is None or known.key is not key:
            return self._read(url, key, self._digest_of(key), None, self._generation())
        content = self._again(known.digest, known.place, known.body_at, known.length, known.generation)
        if content is None:
            return self._read(url, key, known.digest, known, self._generation())
        known.content = content
        return known

    def _read(
        self, url: bytes, key: bytes, digest: bytes, known: NearRecord | None, generation: int
    ) -> NearRecord | None:
        found = self._at_hand(digest)
        if found is None:
            return None
        place, data = found
        if known is not None and known.place == place:
            known.content, known.generation = data[known.body_at :], generation
            return known
        if not self.stays or self._checked[place % PLACES] != place:
            try:
                data = self.check(key, place, data)
            except Corrupt:
                return None
        record = NearRecord(url, key, digest, place, self._passed[place % PLACES], generation)
        return record if self._fill(record, data) else None

    def check(self, key: bytes, place: int, data: Piece) -> Piece:
        """The value, which is what was sealed for `key`; raises Corrupt."""
        plain = self._codec.open(key, bytes(data))
        at = place % PLACES
        if self._checked[at] != place:
            self._checked[at], self._passed[at] = place, NO_POSITION
        return plain if self._codec.encrypts else data

    def _fill(self, record: NearRecord, data: Piece) -> bool:
        """Take out what a hit needs; False if it is not a record of that URL whose body follows."""
        at = self._begins
        status, url, block, meta, tags, seen, chunks, length, received, age, lifetime, stale_at, _, machine, up = (
            FIXED.unpack_from(data, at)
        )
        block_at = at + FIXED.size + url
        meta_at = block_at + block
        tags_at = meta_at + meta
        seen_at = tags_at + tags
        body_at = seen_at + seen
        if chunks or not status or data[block_at - url : block_at] != record.url or body_at + length != len(data):
            return False
        arrived = self._clock.arrived(received, machine, up)
        if arrived is None or not isfinite(received + age + lifetime + stale_at):
            return False
        if not -SAME < (shift := arrived - received) < SAME:
            received, stale_at = arrived, stale_at + shift if stale_at else 0.0
        record.status, record.received, record.initial_age = status, received, age
        record.lifetime, record.stale_at = lifetime, stale_at
        record._head = head = bytes(data[:body_at])
        record._tags_at, record._seen_at = tags_at, seen_at
        record.reason = meta_of(head[meta_at:tags_at])[0]
        record._block_at = block_at, meta_at
        record.body_at, record.length, record.content = body_at, length, data[body_at:]
        return True

    def is_checked(self, place: int) -> bool:
        """Whether the value there was checked, and stays as it was then."""
        return self.stays and self._checked[place % PLACES] == place

    def has_checked(self, key: bytes) -> bool:
        """Whether what lies under `key` now was checked: what was read just before is that, or what it replaced."""
        place = self._place_of(self._digest_of(key)) if self.stays else None
        return place is not None and self._checked[place % PLACES] == place

    def at_hand(self, key: bytes) -> tuple[int, Piece] | None:
        """The value of `key`, after its place."""
        return self._at_hand(self._digest_of(key))

    def note(self, record: NearRecord, position: int) -> None:
        """It was usable at `position`."""
        record.passed = position
        at = record.place % PLACES
        if self._checked[at] == record.place:
            self._passed[at] = position


class NearChunks:
    """Reads of chunks that lie in the machine's store at hand, before those of `reads`; each is checked once.

    A codec, too, of what was read: it opens what was sealed for a key.
    """

    def __init__(self, near: NearRecords, reads: ReadLane, codec: Codec) -> None:
        self._near = near
        self._reads = reads
        self._codec = codec
        self._read: dict[bytes, tuple[int, Piece]] = {}  # and not opened yet: places and values

    def get(self, key: bytes, on_value: OnValue) -> None:
        """As of `reads`; in a later turn of the event loop."""
        found = self._near.at_hand(key)
        if found is None:
            self._reads.get(key, on_value)
            return
        self._read[key] = found
        self._near.count_hit()
        asyncio.get_running_loop().call_soon(on_value, b"", NEAR)

    def open(self, key: bytes, data: bytes) -> Piece:
        """The plaintext that was sealed for `key`; raises `Corrupt`."""
        found = self._read.pop(key, None)
        if found is None:
            return self._codec.open(key, data)
        place, value = found
        if not self._near.is_checked(place):
            self._near.check(key, place, value)
        return memoryview(value)[PREFIX:]

    async def close(self) -> None:
        """There is nothing to be closed."""
