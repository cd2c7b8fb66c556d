"""A body read out of the tier chunk by chunk: what happens where a chunk cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgecache.semantics.ranges import Span
from edgecache.storage.record import Codec, Record
from edgecache.storage.regional_chunks import CHUNK, KEPT_UP, ChunkReader, chunk_keys
from edgecache.valkey.batching import Reads
from edgecache.wire.body_readers import WINDOW

BASE = b"ec:{x}"
Told = Callable[[Any, str], None]


class Tier:
    """Reads that are answered when the test says so; once it is `open`, at once and with nothing, as by a breaker."""

    def __init__(self) -> None:
        self.asked: dict[bytes, Told] = {}  # and not answered, in their order
        self.told: dict[bytes, Told] = {}  # whatever was asked
        self.open = False

    def get(self, key: bytes, told: Told) -> None:
        """As `Reads.get`."""
        if self.open:
            told(None, "open")
        else:
            self.asked[key] = self.told[key] = told


class Slow:
    """A reader that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.got = b""
        self.writable = False

    def write(self, piece: bytes) -> None:
        """Take it."""
        self.got += piece

    def finish(self) -> None:
        """Never."""

    abort = finish

    def goes_alone(self, at: int) -> bool:
        """It does not."""
        return False


class Opened(Codec):
    """Chunks that lie there as they are."""

    def open(self, key: bytes, data: bytes) -> bytes:
        """As it is."""
        return data


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_readers_that_stop_after_they_kept_up_hold_no_more_than_the_window(count: int) -> None:
    """What was being read ahead for them arrives all the same: it is bounded beforehand, and nothing follows it."""
    tier, slow = Tier(), [Slow() for _ in range(count)]
    record = cast(Record, SimpleNamespace(length=64 * CHUNK, chunks=b"name"))
    reader = ChunkReader(
        cast(Reads, tier), Opened(), BASE, record, Span(0, 64 * CHUNK), lambda *_: pytest.fail("no chunk is missing")
    )
    cursors = [reader.body.read_into(one) for one in slow]
    for one in slow:
        one.writable = True
    reader.start()
    for cursor in cursors:
        reader.body.taken(cursor)

    def arrives() -> None:
        del tier.asked[key := next(iter(tier.asked))]  # the oldest
        tier.told[key](bytes(CHUNK), "")

    most = 0
    for _ in range(2 * KEPT_UP // CHUNK):
        most = max(most, len(tier.asked))
        arrives()
    assert most > 1  # it was read ahead
    for one in slow:
        one.writable = False
    while tier.asked:
        arrives()

    assert reader.body.held <= WINDOW + CHUNK
    for one in slow:
        one.writable = True
    while not reader.body.ended:
        for cursor in cursors:
            reader.body.taken(cursor)
        while tier.asked:
            arrives()
    assert [len(one.got) for one in slow] == [64 * CHUNK] * count


def test_a_hole_met_while_a_piece_is_taken_ends_the_body_there() -> None:
    """Chunks that are here already do not come after the hole is told: what follows it comes from elsewhere.

    The reader has become slow, so no more was asked for; as it takes what there is, the next is asked for and refused.
    """
    codec, tier, slow = Codec(), Tier(), Slow()
    holes: list[int] = []
    record = cast(Record, SimpleNamespace(length=16 * CHUNK, chunks=b"name"))
    keys = list(chunk_keys(BASE, record, Span(0, 16 * CHUNK)))
    contents = [bytes([number]) * CHUNK for number in range(16)]
    reader = ChunkReader(cast(Reads, tier), codec, BASE, record, Span(0, 16 * CHUNK), lambda _, at: holes.append(at))
    slow.writable = True
    reader.body.read_into(slow)
    reader.start()

    def arrives(number: int) -> None:
        tier.asked[keys[number]](codec.seal(keys[number], contents[number]), "")

    for number in range(8):  # it keeps up: more is asked for ahead
        arrives(number)
    slow.writable = False
    for number in (8, 10):
        arrives(number)
    slow.writable = tier.open = True
    arrives(9)
    assert holes == [10 * CHUNK]
    assert reader.body.size == holes[0]
    assert slow.got == b"".join(contents)[: holes[0]]
