"""Little that costs much: pipelines, chunks of one byte, values chosen to be long, tunnels."""

from __future__ import annotations

import asyncio
import gc

import pytest
from harness.client import HOST
from harness.often import slow
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop
from harness.streams import FakeSource

from edgecache.invalidation.purge_log import Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.storage.memory import Entry
from edgecache.wire.body import Body
from edgecache.wire.h1.body_framing import AT_ONCE, ChunkedBody

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"v"')
NO_STORE = ("Cache-Control", "no-store")


def by_target(request: ReceivedRequest) -> Reply:
    """An answer that cannot be taken for another's."""
    return Reply(200, [NO_STORE], request.target.encode())


@pytest.mark.parametrize("size", [slow(401), 999, 3001])
async def test_a_pipeline_longer_than_is_read_ahead_goes_on(origin: OriginDouble, size: int) -> None:
    """Reading stops while much waits, wherever a read has cut a head, and always goes on."""
    origin.otherwise(by_target)
    count = 600_000 // size
    heads = [f"GET /{number} HTTP/1.1\r\nHost: {HOST}\r\nX: ".encode() for number in range(count)]
    data = b"".join(head + b"x" * (size - len(head)) + b"\r\n\r\n" for head in heads)
    async with running_pop(origin) as pop, pop.client() as client:
        sending = asyncio.get_running_loop().create_task(client.send(data, None))
        for number in range(count):
            assert (await client.response("GET")).body == f"/{number}".encode()
        await sending


def test_chunks_of_one_byte_are_one_piece() -> None:
    """However small its chunks are, what one read brings of a body is one piece: memory and work follow the bytes."""
    reader = ChunkedBody()

    assert reader.feed(b"1\r\na\r\n" * AT_ONCE) == [b"a" * AT_ONCE]
    assert reader.feed(b"3\r\nabc\r\n") == [b"abc"]


def test_a_body_in_many_pieces_is_counted_once() -> None:
    """What is held is counted as it comes and goes, not added up for every piece."""
    body = Body(FakeSource())
    for _ in range(1000):
        body.write(CountedPiece(b"ab"))

    assert CountedPiece.measured < 5000


class CountedPiece(bytes):
    """A piece that counts how often anybody asks for its length."""

    measured = 0

    def __len__(self) -> int:
        CountedPiece.measured += 1
        return super().__len__()


async def test_what_selects_a_variant_counts_as_memory(origin: OriginDouble) -> None:
    """Long values of a field that a response varies by are part of what it costs: the budget holds."""
    origin.otherwise(Reply(200, [FRESH, ("Vary", "X-Long")], b"page"))
    async with running_pop(origin) as pop:
        await pop.get("/page", ("X-Long", "x" * 8000))

        assert pop.worker.edge.memory.size > 8000


@pytest.mark.parametrize(
    ("method", "upgrade", "connection"),
    [
        ("GET", "h2c", "Upgrade, HTTP2-Settings"),
        ("GET", "h2c, websocket", "Upgrade, HTTP2-Settings"),
        ("GET", "websocket, h2c", "Upgrade"),
        ("GET", "TLS/1.2", "Upgrade"),
        ("GET", "websocket", "keep-alive"),
        ("POST", "h2c", "Upgrade, HTTP2-Settings"),
        ("OPTIONS", "HTTP/2.0", "Upgrade"),
        ("GET", "websocket", "xupgrade"),
        ("GET", "websocket", "no-upgrade, close"),
        ("GET", '"websocket"', "Upgrade"),
        ("POST", "websocket", "Upgrade"),
        ("OPTIONS", "websocket", "Upgrade"),
        ("PUT", "websocket", "Upgrade"),
    ],
)
async def test_nothing_but_a_websocket_becomes_a_tunnel(
    origin: OriginDouble, method: str, upgrade: str, connection: str
) -> None:
    """A tunnel in another HTTP would pass every rule by: such an Upgrade is ignored (h2c smuggling, 2020)."""
    origin.otherwise(by_target)
    fields = [("Upgrade", upgrade), ("Connection", connection), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")]
    async with running_pop(origin) as pop:
        assert (await pop.request(method, "/page", *fields)).status == 200

    (asked,) = origin.requests
    assert asked.get("upgrade") is None
    assert "upgrade" not in (asked.get("connection") or "").lower()


async def test_an_expectation_does_not_let_bad_chunks_through(origin: OriginDouble) -> None:
    """Who says `Expect: 100-continue` and sends a malformed body all the same reaches the origin with no byte."""
    origin.otherwise(by_target)
    head = f"POST /page HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(head.encode() + b"0x5\r\nabcde\r\n0\r\n\r\n", "POST")
        assert (await client.response()).status == 400

    assert origin.bytes_received == 0


@pytest.mark.parametrize("size", [10, 100_000])
async def test_what_leaves_the_memory_is_let_go(origin: OriginDouble, size: int) -> None:
    """Heads and answers that are known keep nothing alive that was evicted or purged: the budget is the budget."""
    origin.otherwise(Reply(200, [FRESH, ETAG], bytes(size)))
    async with running_pop(origin) as pop:
        edge = pop.worker.edge
        for _ in range(4):
            await pop.get("/page")
            assert (await pop.get("/page", ("If-None-Match", '"v"'))).status == 304
        (entry,) = {id(known.rendered.entry): known.rendered.entry for known in edge.known._known.values()}.values()
        edge.memory.invalidate(entry.key)
        edge.sweep()

        assert len(edge.known) == 0
        del entry
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is Entry and len(one.content) == size]


async def test_long_urls_are_not_remembered_by_the_thousand(origin: OriginDouble) -> None:
    """What is remembered of URLs that are not shareable does not grow with their length (the log counts bytes)."""
    origin.otherwise(lambda request: Reply(200, [("Cache-Control", "private")], request.target[-5:].encode()))
    async with running_pop(origin) as pop:
        edge = pop.worker.edge
        for number in range(20):
            target = f"/{'x' * 8000}{number:05}"
            assert (await pop.get(target)).body == b"%05d" % number
            assert (await pop.request("POST", target, body=b"x")).status == 200

        assert sum(map(len, edge.flights.marks)) < 20 * 600
        assert edge.log.check(Subject(f"http://{HOST}{target}".encode()), 0) is not Verdict.USABLE


def test_a_flood_of_tiny_chunks_lets_others_have_their_turn() -> None:
    """Of chunks that come faster than they are worth, so many are read in one turn of the event loop and no more."""
    reader = ChunkedBody()
    pieces = reader.feed(b"1\r\na\r\n" * 10_000)
    turns = 1
    while reader.tired:
        pieces += reader.feed(reader.rest)
        turns += 1

    assert b"".join(pieces) == b"a" * 10_000
    assert turns == -(-10_000 // AT_ONCE)


@pytest.mark.parametrize("chunk", [b"1\r\na\r\n", b"1;a=b\r\na\r\n", b"000000000000001\r\na\r\n"])
async def test_many_tiny_chunks_of_a_request_are_refused(origin: OriginDouble, chunk: bytes) -> None:
    """A request's chunks may be of any size while they are few; of many, the mean size is bounded."""
    flood = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 40_000
    async with running_pop(origin) as pop, pop.client() as client:
        sending = asyncio.get_running_loop().create_task(client.send(flood, None))
        assert (await client.response("POST")).status == 400
        sending.cancel()
    assert [seen.whole for seen in origin.requests] in ([], [False])


async def test_a_body_of_many_chunks_is_whole_though_its_client_has_left(origin: OriginDouble) -> None:
    """What is read turn by turn is read to its end, though the client's FIN came behind it."""
    origin.on("/form", Reply())
    data = (
        b"POST /form HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9_000 + b"0\r\n\r\n"
    )
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(data, "POST")
        client.half_close()
        assert (await client.response("POST")).status == 200
    assert bytes(origin.requests[0].body) == b"a" * 9_000


async def test_an_answer_of_many_tiny_chunks_is_whole(origin: OriginDouble) -> None:
    """An origin's chunks may be tiny for as long as its answer lasts, also where it closes at once."""
    origin.on("/events", Reply(pieces=[b"a"] * 50_000, framing="chunked"))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    origin.on("/closes", Reply(raw=chunked))
    async with running_pop(origin) as pop:
        assert (await pop.get("/events")).body == b"a" * 50_000
        assert (await pop.get("/closes")).body == b"a" * 50_000
