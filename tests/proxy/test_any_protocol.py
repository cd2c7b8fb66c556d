"""The request path under a protocol that is not HTTP/1: which responses leave it, and with which fields."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.messages import Connection, Stream
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.semantics.message import FieldLine

BODY = bytes(range(256)) * 4
STORED = [("Cache-Control", "max-age=60"), ("Content-Type", "text/plain"), ("ETag", '"a"'), ("Connection", "X-Hop")]
HOPS = (b"connection", b"transfer-encoding", b"keep-alive", b"content-length", b"x-hop")


@pytest.fixture
async def pop(origin: OriginDouble) -> AsyncIterator[Pop]:
    """A POP whose origin has one object for all paths, and one that changes each time."""

    def answer(request: Any) -> Reply:
        if request.target.startswith("/chunked"):
            return Reply(200, [("Cache-Control", "no-store")], BODY, framing="chunked")
        if request.target.startswith("/hints"):
            return Reply(200, STORED, BODY, interim=((103, [("Link", "</a>")]),))
        return Reply(200, STORED, BODY)

    origin.otherwise(answer)
    async with running_pop(origin) as running:
        yield running


async def asked(pop: Pop, target: bytes, *lines: FieldLine, method: bytes = b"GET") -> Stream:
    """The response to a request that no HTTP/1 connection has brought."""
    stream = await Connection(pop.worker).whole(target, *lines, method=method)
    assert not any(name in stream.fields for name in HOPS), "the business of one HTTP/1 connection"
    return stream


async def test_a_miss_and_a_hit(pop: Pop) -> None:
    """The same response but for what the cache says of it."""
    miss = await asked(pop, b"/a")
    hit = await asked(pop, b"/a")

    assert (miss.status, miss.length, miss.content) == (hit.status, hit.length, hit.content) == (200, 1024, BODY)
    assert miss.fields.get(b"cache-status") == b"test; fwd=uri-miss; fwd-status=200; stored"
    assert hit.fields.get(b"cache-status") == b"test; hit; ttl=60"
    assert (miss.fields.get(b"age"), hit.fields.get(b"age")) == (None, b"0")


@pytest.mark.parametrize("stored", [False, True])
async def test_head(pop: Pop, stored: bool) -> None:
    """The length is that of a GET, and there is no content."""
    if stored:
        await asked(pop, b"/a")
    head = await asked(pop, b"/a", method=b"HEAD")

    assert (head.status, head.length, head.content) == (200, 1024, b"")


async def test_conditions_and_ranges(pop: Pop) -> None:
    """304, 206 of one part and of several, 416: out of memory."""
    await asked(pop, b"/a")
    same = await asked(pop, b"/a", (b"If-None-Match", b'"a"'))
    part = await asked(pop, b"/a", (b"Range", b"bytes=1-3"))
    parts = await asked(pop, b"/a", (b"Range", b"bytes=0-0,5-6"))
    none = await asked(pop, b"/a", (b"Range", b"bytes=5000-"))

    assert (same.status, same.length, same.content) == (304, None, b"")
    assert (part.status, part.length, part.content) == (206, 3, BODY[1:4])
    assert part.fields.get(b"content-range") == b"bytes 1-3/1024"
    assert (parts.status, parts.length) == (206, len(parts.content))
    assert (parts.fields.get(b"content-type") or b"").startswith(b"multipart/byteranges")
    assert (none.status, none.length, none.fields.get(b"content-range")) == (416, 0, b"bytes */1024")


async def test_out_of_the_regional_tier(origin: OriginDouble, valkey: Server) -> None:
    """A small body, and one in chunks: the whole, HEAD, 304, one range and 416."""
    origin.otherwise(lambda request: Reply(200, STORED, BODY * 400 if request.target == "/big" else BODY))
    options: dict[str, object] = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu", "store": "off"}
    async with running_pop(origin, origin.clock, **options, pop="first") as first:
        for target in ("/big", "/small"):
            await first.get(target)
        await first.written()
    options["max_object_memory"] = "100KiB"
    async with running_pop(origin, origin.clock, **options, pop="second") as second:
        await second.caught_up()
        whole = await asked(second, b"/big")
        head = await asked(second, b"/big", method=b"HEAD")
        same = await asked(second, b"/big", (b"If-None-Match", b'"a"'))
        part = await asked(second, b"/big", (b"Range", b"bytes=300000-300002"))
        none = await asked(second, b"/big", (b"Range", b"bytes=5000000-"))
        small = await asked(second, b"/small")

    assert (whole.status, whole.length, whole.content) == (200, 409600, BODY * 400)
    assert (head.status, head.length, head.content) == (200, 409600, b"")
    assert (same.status, same.length) == (304, None)
    assert (part.status, part.length, part.content) == (206, 3, (BODY * 400)[300000:300003])
    assert (none.status, none.length) == (416, 0)
    assert (small.status, small.length, small.content) == (200, 1024, BODY)
    for response in (whole, head, same, part, none, small):
        assert (response.fields.get(b"cache-status") or b"").startswith(b"eu/regional; hit")
    assert len(origin.requests) == 2


async def test_a_response_of_unknown_length_is_passed_on(pop: Pop) -> None:
    """Its end is the writer's to say."""
    response = await asked(pop, b"/chunked")

    assert (response.status, response.length, response.content) == (200, None, BODY)


async def test_interim_responses_are_passed_on(pop: Pop) -> None:
    """Before the final one."""
    response = await asked(pop, b"/hints")

    assert (response.interims, response.status) == ([103], 200)


async def test_errors_of_our_own(pop: Pop, origin: OriginDouble) -> None:
    """Whether the request is refused or the origin is down."""
    loop = await asked(pop, b"/a", (b"CDN-Loop", b"test"))
    none = await asked(pop, b"/b", (b"Cache-Control", b"only-if-cached"))
    await origin.stop()
    down = await asked(pop, b"/c")

    assert (loop.status, none.status, down.status) == (508, 504, 502)
    for response in (loop, none, down):
        assert response.fields.get(b"content-type") == b"application/problem+json"
        assert response.length == len(response.content)


async def test_nothing_is_remembered_of_a_head_without_bytes(pop: Pop) -> None:
    """The fast path is by fingerprint: a request that has none leaves none behind."""
    for _ in range(4):
        await asked(pop, b"/a")

    assert len(pop.worker.edge.known) == len(pop.worker.edge.alike) == 0
