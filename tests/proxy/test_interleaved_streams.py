"""The request path under a protocol that is not HTTP/1: several exchanges at once on one connection, as streams do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness.client import let_others_run, until
from harness.messages import Connection, ShutDown, Stream
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop

from edgecache.tasks import spawn

BODY = bytes(range(256)) * 4
LARGE = bytes(range(256)) * 16 * 1024  # 4 MiB
STORED = [("Cache-Control", "max-age=60"), ("Content-Type", "text/plain"), ("ETag", '"a"')]
NEVER = [("Cache-Control", "no-store")]
TRAILERS = b"".join(
    (
        b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n",
        b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n",
    )
)


@pytest.fixture
async def pop(origin: OriginDouble) -> AsyncIterator[Pop]:
    """A POP before an origin that has a few kinds of responses."""
    origin.otherwise(Reply(200, STORED, BODY))
    origin.on("/large", Reply(200, NEVER, LARGE))
    origin.on("/large-stored", Reply(200, STORED, LARGE))
    origin.on("/trailers", Reply(raw=TRAILERS))
    async with running_pop(origin, body_timeout="10s") as running:
        yield running


@pytest.fixture
async def client(pop: Pop) -> AsyncIterator[Connection]:
    """One connection; nothing is under way on it at the end."""
    connection = Connection(pop.worker)
    yield connection
    connection.cut()
    assert connection not in pop.worker.connections


async def over(*streams: Stream) -> None:
    """Wait for the ends of all."""
    async with asyncio.timeout(10):
        for stream in streams:
            await stream.over.wait()


async def lives(client: Connection) -> bool:
    """Whether another exchange on the connection is answered."""
    response = await client.whole(b"/other")
    return (response.status, bytes(response.content)) == (200, BODY)


async def test_exchanges_side_by_side(client: Connection, origin: OriginDouble) -> None:
    """Misses of one object collapse, and each stream gets the response to its own request."""
    first = [client.open(b"/a"), client.open(b"/b", method=b"HEAD"), client.open(b"/a"), client.open(b"/a")]
    await over(*first)
    same, part, none, head, hit = second = [
        client.open(b"/a", (b"If-None-Match", b'"a"')),
        client.open(b"/a", (b"Range", b"bytes=1-3")),
        client.open(b"/a", (b"Range", b"bytes=5000-")),
        client.open(b"/a", method=b"HEAD"),
        client.open(b"/a"),
    ]
    await over(*second)

    assert [(one.status, one.length) for one in first] == [(200, 1024)] * 4
    assert [bytes(one.content) for one in first] == [BODY, b"", BODY, BODY]
    assert (same.status, same.length, same.content) == (304, None, b"")
    assert (part.status, part.length, part.content) == (206, 3, BODY[1:4])
    assert (none.status, none.length) == (416, 0)
    assert (head.status, head.length, head.content) == (200, 1024, b"")
    assert (hit.status, hit.content, hit.fields.get(b"cache-status")) == (200, BODY, b"test; hit; ttl=60")
    assert sorted(seen.target for seen in origin.requests) == ["/a", "/b"]


@pytest.mark.parametrize("target", [b"/large", b"/large-stored"])
async def test_a_stream_that_takes_nothing_holds_up_itself_only(client: Connection, target: bytes) -> None:
    """Its origin waits, or the rest is kept in memory once; the other streams are answered; later it gets all."""
    slow = client.open(target, window=1000)
    await until(lambda: len(slow.content) == 1000)
    assert await lives(client)
    await let_others_run(200)

    assert not slow.over.is_set()
    assert not slow.room
    while not slow.over.is_set():
        slow.read(100_000)
        await asyncio.sleep(0)
    assert (slow.length, bytes(slow.content)) == (len(LARGE), LARGE)


async def test_an_upload_in_pieces(client: Connection, origin: OriginDouble) -> None:
    """Its length may be known or not; between its pieces other streams are answered."""
    known = client.open(b"/up", method=b"POST", upload=10)
    unknown = client.open(b"/up", method=b"POST", upload=None)
    for stream in (known, unknown):
        stream.write(b"01234")
        assert await lives(client)
    for stream in (unknown, known):
        stream.write(b"56789")
        stream.finish()
    await over(known, unknown)

    assert (known.status, unknown.status) == (200, 200)
    uploads = [seen for seen in origin.requests if seen.target == "/up"]
    assert [bytes(seen.body) for seen in uploads] == [b"0123456789"] * 2
    assert {(seen.get("content-length"), seen.get("transfer-encoding")) for seen in uploads} == {
        ("10", None),
        (None, "chunked"),
    }


async def test_an_upload_that_its_origin_does_not_take_is_paused(client: Connection, origin: OriginDouble) -> None:
    """Only that one; it goes on with its origin."""
    gate = asyncio.Event()
    origin.on("/up", lambda _: held(gate))
    stream = client.open(b"/up", method=b"POST", upload=None)
    sent = 0
    while not stream.paused:
        assert sent < 1 << 26, "unbounded"
        stream.write(bytes(65536))
        sent += 65536
        await asyncio.sleep(0)
    assert await lives(client)
    gate.set()
    await until(lambda: not stream.paused)
    stream.finish()
    await over(stream)

    assert stream.status == 200


async def held(gate: asyncio.Event) -> Reply:
    """The head is read, the body later."""
    await gate.wait()
    return Reply(200, NEVER, b"taken")


async def test_reset_in_the_middle_of_an_upload(client: Connection, origin: OriginDouble, pop: Pop) -> None:
    """The origin sees an incomplete request, the other streams nothing."""
    stream = client.open(b"/up", method=b"POST", upload=10)
    exchange = stream.exchange
    stream.write(b"01234")
    await origin.request_seen()
    stream.cancel()
    await until(lambda: origin.broken == 1)

    assert await lives(client)
    assert exchange is not None
    assert (exchange.gone, exchange.failure, stream.status) == (True, "client-left", 0)
    assert pop.worker.pool.busy == 0


@pytest.mark.parametrize("by", ["client", "origin"])
async def test_reset_in_the_middle_of_a_download(client: Connection, origin: OriginDouble, pop: Pop, by: str) -> None:
    """Nothing goes on upstream, and the other streams do not notice."""
    if by == "origin":
        origin.on("/cut", Reply(200, NEVER, LARGE, cut_at=100_000, cut_by="rst"))
    stream = client.open(b"/cut" if by == "origin" else b"/large", window=1000)
    if by == "client":
        await until(lambda: len(stream.content) == 1000)
        stream.cancel()
    else:
        while not stream.over.is_set():
            stream.read(100_000)
            await asyncio.sleep(0)

    assert stream.was_reset is (by == "origin")
    await until(lambda: pop.worker.pool.busy == 0)
    assert await lives(client)


async def test_a_pass_with_trailers(client: Connection, origin: OriginDouble) -> None:
    """What concerns the hop to the origin ends there: trailers, too (RFC 9110 §6.5.1)."""
    response = await client.whole(b"/trailers", (b"TE", b"trailers"))

    assert (response.status, response.length, response.content) == (200, None, b"hello")
    names = {name.lower() for name, _ in response.fields}
    assert names.isdisjoint({b"trailer", b"transfer-encoding", b"x-sum", b"x-hop", b"keep-alive", b"connection"})
    assert origin.requests[-1].get("te") is None


async def test_deadlines_are_of_the_stream(client: Connection, pop: Pop) -> None:
    """One that takes nothing is reset, one that sends nothing is refused; another goes on on the same connection."""
    stuck = client.open(b"/large", window=1000)
    silent = client.open(b"/up", method=b"POST", upload=10)
    await until(lambda: len(stuck.content) == 1000)
    pop.pass_time(11)

    assert stuck.was_reset
    assert (silent.status, silent.was_reset) == (408, False)
    assert await lives(client)


async def test_draining_ends_a_connection_with_its_last_stream(client: Connection, pop: Pop) -> None:
    """No further one begins; those under way get all of their responses."""
    one, two = client.open(b"/large", window=1000), client.open(b"/large", window=1000)
    await until(lambda: len(one.content) == len(two.content) == 1000)
    draining = spawn(pop.worker.drain(), "drain")
    await let_others_run()
    with pytest.raises(ShutDown):
        client.open(b"/a")
    for stream in (one, two):
        assert not draining.done()
        while not stream.over.is_set():
            stream.read(100_000)
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await draining

    assert bytes(one.content) == bytes(two.content) == LARGE
    assert not pop.worker.connections


async def test_an_idle_connection_leaves_a_draining_service(client: Connection, pop: Pop) -> None:
    """At the next sweep."""
    assert await lives(client)
    async with asyncio.timeout(5):
        await pop.worker.drain()


async def test_internal_fields_of_clients_are_dropped(client: Connection, origin: OriginDouble) -> None:
    """They are found by name: there are no bytes of a head."""
    await client.whole(b"/a", (b"edgecache-client", b"203.0.113.1"), (b"edgecache-seen", b"eu=1"))

    assert not [name for name, _ in origin.requests[-1].fields if name.lower().startswith("edgecache")]


async def test_nothing_is_known_by_a_fingerprint_that_is_not_there(client: Connection, pop: Pop) -> None:
    """Neither heads nor templates, however often a request comes."""
    for _ in range(4):
        await over(*[client.open(b"/a"), client.open(b"/large-stored", (b"If-None-Match", b'"a"'))])

    assert len(pop.worker.edge.known) == len(pop.worker.edge.alike) == 0
