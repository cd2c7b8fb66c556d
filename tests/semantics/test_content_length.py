"""Nothing is stored whose length is not proved by its head, by its bytes, and by the tier that had it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from harness.observed import samples
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from harness.valkey import Server

from edgecache.semantics.cache_control import ResponseDirectives
from edgecache.semantics.content_length import are_consistent, content_length, is_complete
from edgecache.semantics.message import Fields
from edgecache.semantics.outcomes import Refused
from edgecache.semantics.ranges import Segments
from edgecache.semantics.rope import WHOLE, Content, Rope
from edgecache.semantics.stored_response import Stored
from edgecache.storage.memory import Entry, Memory
from edgecache.wire.body import Body

KEY = b"http://www.example.test/it"
FRESH = ("Cache-Control", "max-age=60")


def stored(length: bytes | None = None, status: int = 200, whole: int | None = None, first: int = 0) -> Stored:
    """A response whose head says `length`."""
    fields = Fields(() if length is None else [(b"Content-Length", length)])
    directives = ResponseDirectives(max_age=60)
    return Stored(status, b"", fields, directives, 0.0, 0.0, 60.0, first_byte=first, whole_length=whole)


@pytest.mark.parametrize(
    ("head", "size", "tier", "right"),
    [
        (stored(), 5, None, True),
        (stored(b"5"), 5, None, True),
        (stored(b"5"), 5, 5, True),
        (stored(b"5, 5"), 5, None, True),
        (stored(b"5"), 4, None, False),
        (stored(b"5"), 6, None, False),
        (stored(b"5, 6"), 5, None, False),
        (stored(b"five"), 5, None, False),
        (stored(b""), 0, None, False),
        (stored(), 5, 4, False),
        (stored(b"5", whole=5), 5, None, False),
        (stored(b"5", 204), 0, None, True),
        (stored(None, 204), 5, None, False),
    ],
)
def test_a_length_is_proven(head: Stored, size: int, tier: int | None, right: bool) -> None:
    """By the head, by the bytes, and by the tier; a part proves no whole."""
    assert is_complete(head, size, tier) == right


@pytest.mark.parametrize(
    ("whole", "parts", "right"),
    [
        (10, [(0, 4)], True),
        (10, [(0, 4), (6, 4)], True),
        (10, [], False),
        (10, [(0, 0)], False),
        (10, [(8, 4)], False),
        (10, [(0, 6), (5, 5)], False),
        (10, [(6, 2), (0, 2)], False),
        (11, [(0, 4)], False),
    ],
)
def test_parts_are_proven(whole: int, parts: list[tuple[int, int]], right: bool) -> None:
    """They lie apart from each other, within the whole that their head speaks of."""
    segments = Segments(whole, tuple((first, bytes(size)) for first, size in parts))

    assert are_consistent(stored(whole=10), segments) == right


def test_content_length_is_read_strictly() -> None:
    """A sign, a blank or letters are no length (RFC 9110 §8.6)."""
    assert [content_length(Fields([(b"content-length", value)])) for value in (b"7", b"+7", b"7 7", b"0x7")] == [
        7,
        -1,
        -1,
        -1,
    ]


@pytest.mark.parametrize("content", [b"12345", memoryview(b"12345"), Rope([b"123", b"45"])])
def test_the_memory_takes_nothing_else(content: Content, caplog: pytest.LogCaptureFixture) -> None:
    """Neither what is put nor what another tier has made; it is counted, and said once."""
    refused: list[Refused] = []
    memory = Memory(1 << 20, "s3fifo", 1 << 20, 8, refused.append)
    with caplog.at_level(logging.ERROR):
        for head, length in ((stored(b"6"), None), (stored(b"5"), 4), (stored(whole=5), None)):
            assert memory.put(KEY, head, content, length=length) is None
        assert memory.adopt(Entry(KEY, stored(), content), 6) is None
        assert memory.put_parts(KEY, stored(whole=4), Segments(4, ((0, content),))) is None

    assert refused == [Refused.LENGTH] * 5
    assert len(caplog.records) == 1
    assert len(memory) == 0
    assert memory.put(KEY, stored(b"5"), content, length=5) is not None
    assert memory.adopt(Entry(KEY, stored(), content), 5) is not None


@pytest.mark.parametrize("size", [1, 300, WHOLE, WHOLE + 1])
@pytest.mark.parametrize("finished", [True, False])
def test_what_a_body_begins_with_is_part_of_it(size: int, finished: bool) -> None:
    """Of a body that was complete already, too."""
    start, end = b"a" * size, b"b" * size
    body = Body.of(end) if finished else Body(keep=4 * size)
    body.begin_with(start)
    if not finished:
        body.write(end)
        body.finish()

    assert body.size == 2 * size
    assert body.whole
    assert bytes(body.move_to_store()) == b"".join(map(bytes, body.pieces)) == start + end


async def test_an_answer_that_is_not_as_long_as_its_head_says_is_cut(origin: OriginDouble) -> None:
    """No client takes it for whole, and nobody gets it from the store."""
    origin.on("/it", Reply(fields=[FRESH], body=b"x" * 100_000))
    async with running_pop(origin) as pop:
        upstream = pop.worker.edge.upstream
        reply = upstream.reply

        def shortened(*answer: object) -> Any:
            """An answer of whose body a byte was lost on the way."""
            return reply(*answer)._replace(body=Body.of(b"x" * 99_999))

        upstream.reply = shortened
        async with pop.client() as client:
            await client.request("GET", "/it")
            assert (await client.response_or_broken()).broken is not None
        upstream.reply = reply
        again = await pop.get("/it")

    assert len(again.body) == 100_000
    assert samples(pop.worker.snapshot())["edgecache_not_stored_total,length"] == 1


async def test_what_the_region_has_is_proven_when_it_rises(origin: OriginDouble, valkey: Server) -> None:
    """A record that lies about its body is corrupt; one whose body lies in chunks is no entry without it."""
    origin.on("/it", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"x" * 300_000))
    async with running_pop(origin, regional=valkey.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        await pop.get("/it")
        await pop.written()
        edge = pop.worker.edge
        edge.memory.invalidate(KEY)
        found = await edge.region.tier.find(KEY, Fields(()))

        assert found is not None
        assert not found.whole
        assert edge.memory.adopt(found.entry, found.record.length) is None
        assert len((await pop.get("/it")).body) == 300_000
