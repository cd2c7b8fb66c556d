"""How messages are framed on their way through, and whose leaving or waiting stops whom, over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from harness.client import HOST, let_others_run, until
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop

FRESH = ("Cache-Control", "max-age=60")
NO_STORE = ("Cache-Control", "no-store")
UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
MIB = 1024 * 1024


async def test_an_upgrade_that_is_not_granted_stays_http(origin: OriginDouble) -> None:
    """An Upgrade that the origin answers 200 leaves both connections in HTTP."""
    origin.otherwise(Reply(fields=[NO_STORE], body=b"no"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/chat", UPGRADE)
        assert (await client.response()).body == b"no"
        await client.request("GET", "/next")
        assert (await client.response()).body == b"no"


async def test_early_hints_are_relayed_but_not_to_http_1_0(origin: OriginDouble) -> None:
    """A 103 reaches an HTTP/1.1 client before the answer, and an HTTP/1.0 client never (RFC 9110 §15.2)."""
    origin.otherwise(Reply(fields=[NO_STORE], body=b"page", interim=[(103, [("Link", "</a.css>")])]))
    async with running_pop(origin) as pop:
        new = await pop.request("GET", "/new")
        old = await pop.request("GET", "/old", version="1.0")

    assert [(one.status, one.get("Link")) for one in new.interim] == [(103, "</a.css>")]
    assert (old.interim, old.body) == ([], b"page")


async def test_a_client_that_expects_100_gets_it_before_it_sends(origin: OriginDouble) -> None:
    """The origin's 100 is relayed before the body is sent, and then the answer (RFC 9110 §10.1.1)."""
    origin.otherwise(Reply(fields=[NO_STORE], body=b"thanks"))
    head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(head.encode(), "POST")
        interim = await client.body_bytes(12)
        await client.source.exactly(0, bytearray(), "")
        assert interim == b"HTTP/1.1 100"
        while b"\r\n\r\n" not in client.source.seen:
            await client.source.more()
        client.source.buffer.clear()
        await client.send(b"body", method=None)
        assert (await client.response()).body == b"thanks"
    assert bytes(origin.requests[0].body) == b"body"


async def test_a_final_answer_may_come_instead_of_100(origin: OriginDouble) -> None:
    """A refusal of the origin reaches a client that waits for 100, which then sends no body."""
    origin.otherwise(Reply(417, fields=[NO_STORE], body=b"no", before_body=True))
    fields = [("Content-Length", "4"), ("Expect", "100-continue")]
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("POST", "/", fields)
        response = await client.response()

    assert (response.status, response.interim) == (417, [])
    assert response.get("Connection") == "close"


@pytest.mark.parametrize("store", [FRESH, NO_STORE])
async def test_a_body_that_ends_with_its_connection_becomes_chunked(
    origin: OriginDouble, store: tuple[str, str]
) -> None:
    """A body of unknown length is chunked for HTTP/1.1, and ends with the connection for HTTP/1.0."""
    origin.otherwise(Reply(fields=[store], body=b"all of it", framing="close"))
    async with running_pop(origin) as pop:
        new = await pop.request("GET", "/new")
        old = await pop.request("GET", "/old", version="1.0")

    assert (new.get("Transfer-Encoding"), new.body) == ("chunked", b"all of it")
    assert (old.get("Transfer-Encoding"), old.get("Connection"), old.body) == (None, "close", b"all of it")


async def test_trailers_are_dropped(origin: OriginDouble) -> None:
    """Trailer fields end where they arrive (RFC 9110 §6.5.1)."""
    head = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
    origin.otherwise(Reply(raw=head + b"4\r\nbody\r\n0\r\nX-Trailer: evil\r\n\r\n"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/")
        assert (await client.response()).body == b"body"
        assert b"evil" not in client.source.seen


async def test_a_head_has_no_body_stored_or_not(origin: OriginDouble) -> None:
    """HEAD gives the length and no body, whether its object is stored or not, and the connection goes on."""
    origin.otherwise(Reply(fields=[FRESH], body=b"seven b"))
    async with running_pop(origin) as pop, pop.client() as client:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            await client.request(method, "/page")
            response = await client.response()
            assert (response.status, response.get("Content-Length")) == (200, "7")
            assert response.body == (b"" if method == "HEAD" else b"seven b")


@pytest.mark.parametrize("keep", [False, True])
async def test_http_1_0_is_closed_unless_it_asks(origin: OriginDouble, keep: bool) -> None:
    """An HTTP/1.0 connection is closed after its answer, but kept where it asks for that, and told so."""
    origin.otherwise(Reply(fields=[FRESH], body=b"page"))
    fields = [("Connection", "keep-alive")] if keep else []
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(3 if keep else 1):
            await client.request("GET", "/page", fields, version="1.0")
            response = await client.response()
            assert (response.body, response.get("Connection")) == (b"page", "keep-alive" if keep else "close")
        if not keep:
            assert await client.closed() == "fin"


async def test_requests_may_come_byte_by_byte(origin: OriginDouble) -> None:
    """However a request is cut into segments, it is the same request."""
    origin.otherwise(Reply(fields=[NO_STORE], body=b"page"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("POST", "/a", body=b"0123456789", segment=1)
        assert (await client.response()).body == b"page"
    assert bytes(origin.requests[0].body) == b"0123456789"


async def test_a_client_that_leaves_ends_what_is_for_it_alone(origin: OriginDouble) -> None:
    """When the client of an uncacheable answer leaves in the middle, the origin's connection is closed."""
    origin.otherwise(Reply(fields=[NO_STORE], body=bytes(64 * MIB)))
    async with running_pop(origin) as pop:
        async with pop.client(receive_buffer=4096) as client:
            await client.request("GET", "/big")
            await client.response_head()
        await until(lambda: not origin.writers)


async def test_a_stream_that_outgrew_the_cache_is_for_nobody(origin: OriginDouble) -> None:
    """A cacheable stream whose client has left ends once it is too large to be stored: nobody will ever read it."""
    gate = asyncio.Event()
    pieces = [bytes(1000), *[bytes(MIB)] * 3, b"."]
    origin.otherwise(
        Reply(fields=[FRESH], pieces=pieces, gates=[None, gate, None, None, asyncio.Event()], framing="chunked")
    )
    async with running_pop(origin, max_object_memory="1MiB", store="off") as pop:
        async with pop.client() as client:
            await client.request("GET", "/stream")
            await client.response_head()
            client.reset()  # a FIN alone would be a client that still reads
        await until(lambda: not pop.worker.connections)
        assert pop.worker.pool.busy == 1
        gate.set()
        await until(lambda: pop.worker.pool.busy == 0)


async def test_an_origin_that_does_not_read_stops_the_client(origin: OriginDouble) -> None:
    """Of an upload that the origin does not take, only a bounded part is taken from the client; then it goes on."""
    gate = asyncio.Event()

    async def late(request: ReceivedRequest) -> Reply:
        await gate.wait()
        return Reply(fields=[NO_STORE], body=b"taken")

    origin.otherwise(late)
    size = 32 * MIB
    async with running_pop(origin) as pop, pop.client(within=20.0) as client:
        sending = asyncio.get_running_loop().create_task(client.request("PUT", "/file", body=bytes(size)))
        await origin.request_seen()
        (connection,) = pop.worker.connections
        await until(lambda: connection.reading_paused)
        await let_others_run(500)
        assert connection.incoming is not None
        assert connection.incoming.size < 16 * MIB
        assert not sending.done()
        gate.set()
        assert (await client.response("PUT")).body == b"taken"
        await sending
    assert len(origin.requests[0].body) == size
