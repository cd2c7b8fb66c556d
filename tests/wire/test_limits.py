"""Bounds on what a client may send, how slowly, and what one that reads nothing may cost."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from harness.client import HOST, RawClient, let_others_run, until
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.wire import Closed

from edgecache.semantics.message import Fields
from edgecache.wire.h1.server import ClientConnection

FRESH = ("Cache-Control", "max-age=60")
LINE, FIELDS, HEAD = 512, 10, 2048
LIMITS = {"max_line": LINE, "max_fields": FIELDS, "max_head": HEAD}


async def answered(pop: Pop, head: bytes) -> int:
    """The status that these bytes get on a connection of their own."""
    async with pop.client() as client:
        await client.send(head)
        return (await client.response()).status


def body_bytes(connection: ClientConnection) -> int:
    """The bytes of content that it has read of the request's body under way."""
    return connection.incoming.size if connection.incoming is not None else 0


async def ended(client: RawClient) -> int:
    """Wait until the POP ends this connection: the status that it says, or 0 if it says none."""
    try:
        response = await client.response()
    except (Closed, ConnectionResetError):
        return 0
    return response.status


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 414)])
async def test_the_request_line_is_bounded(origin: OriginDouble, more: int, status: int) -> None:
    """A request line of exactly the limit is taken; one byte more is 414."""
    origin.otherwise(Reply())
    target = b"/" + b"a" * (LINE + more - len(b"GET / HTTP/1.1"))
    async with running_pop(origin, **LIMITS) as pop:
        assert await answered(pop, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target) == status


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_a_field_line_is_bounded(origin: OriginDouble, more: int, status: int) -> None:
    """A field line of exactly the limit is taken; one byte more is 431."""
    origin.otherwise(Reply())
    value = b"a" * (LINE + more - len(b"X-Long: "))
    async with running_pop(origin, **LIMITS) as pop:
        assert await answered(pop, b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: %b\r\n\r\n" % value) == status


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_the_number_of_fields_is_bounded(origin: OriginDouble, more: int, status: int) -> None:
    """As many field lines as the limit says are taken; one more is 431."""
    origin.otherwise(Reply())
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(FIELDS + more - 1))
    async with running_pop(origin, **LIMITS) as pop:
        assert await answered(pop, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % fields) == status


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_the_head_is_bounded(origin: OriginDouble, more: int, status: int) -> None:
    """A head of exactly the limit is taken; one byte more is 431."""
    origin.otherwise(Reply())
    start = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %b\r\n" % (at, b"a" * 400) for at in range(4))
    rest = HEAD + more - len(start) - len(b"X-Rest: \r\n\r\n")
    head = start + b"X-Rest: " + b"a" * rest + b"\r\n\r\n"
    assert len(head) == HEAD + more
    async with running_pop(origin, **LIMITS) as pop:
        assert await answered(pop, head) == status


async def read(pop: Pop, count: int) -> None:
    """Wait until the one connection of `pop` holds so many bytes that are no whole head."""
    await until(lambda: [connection.unread for connection in pop.worker.connections] == [count])


@pytest.mark.parametrize("start", [b"", b"GET / HT"], ids=["silent", "half a head"])
async def test_a_head_has_its_time(origin: OriginDouble, start: bytes) -> None:
    """Who has not sent a whole head in time is ended, by 408 if it had begun, while others are served."""
    origin.otherwise(Reply(fields=[FRESH]))
    async with running_pop(origin, head_timeout="10s") as pop, pop.client() as client:
        if start:
            await client.send(start)
        await read(pop, len(start))
        pop.pass_time(9)
        assert (await pop.get("/")).status == 200
        pop.pass_time(2)
        assert await ended(client) == (408 if start else 0)


async def test_dripping_bytes_buys_no_time(origin: OriginDouble) -> None:
    """A byte now and then does not extend the time for a head."""
    origin.otherwise(Reply())
    async with running_pop(origin, head_timeout="10s") as pop, pop.client() as client:
        for count in range(1, 4):
            await client.send(b"G", method=None)
            await read(pop, count)
            pop.pass_time(4)
        assert await ended(client) == 408


async def test_a_body_has_its_time(origin: OriginDouble) -> None:
    """A request's body that stops coming is 408, and the origin does not get it for a whole one."""
    origin.otherwise(Reply())
    async with running_pop(origin, body_timeout="10s") as pop, pop.client() as client:
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nhalf".encode(), "POST")
        await until(lambda: [body_bytes(one) for one in pop.worker.connections] == [4])
        pop.pass_time(9)
        await let_others_run()
        assert len(pop.worker.connections) == 1
        pop.pass_time(2)
        assert await ended(client) == 408
    assert not any(seen.whole for seen in origin.requests)


async def test_an_idle_connection_is_closed(origin: OriginDouble) -> None:
    """Between requests a connection may be idle for a while, then it is closed without a word."""
    origin.otherwise(Reply(fields=[FRESH]))
    async with running_pop(origin, idle_timeout="10s") as pop, pop.client() as client:
        for _ in range(3):
            await client.request("GET", "/")
            await client.response()
            pop.pass_time(9)
        pop.pass_time(2)
        assert await client.closed() == "fin"


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 413)])
async def test_a_body_of_a_known_length_is_bounded(origin: OriginDouble, size: int, status: int) -> None:
    """A body of exactly the limit is taken; one byte more is 413, and the origin hears nothing of it."""
    origin.otherwise(Reply())
    async with running_pop(origin, max_request_body="1000") as pop:
        assert (await pop.request("POST", "/", body=bytes(size))).status == status
    assert len(origin.requests) == (status == 200)


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 413)])
async def test_a_chunked_body_is_bounded_by_its_content(origin: OriginDouble, size: int, status: int) -> None:
    """The limit of a chunked body counts its content, as that of any other: the framing is no part of it."""
    origin.otherwise(Reply())
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
    coding = ("Transfer-Encoding", "chunked")
    async with running_pop(origin, max_request_body="1000") as pop:
        assert (await pop.request("POST", "/", coding, body=body)).status == status
    assert len(origin.requests) == (status == 200)


async def test_what_follows_a_body_is_no_part_of_it(origin: OriginDouble) -> None:
    """A request pipelined behind a body that is within the limit does not count towards that body."""
    origin.otherwise(Reply())
    post = f"POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n".encode() + bytes(1000)
    async with running_pop(origin, max_request_body="1000") as pop, pop.client() as client:
        await client.send(post + f"GET /b HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), "POST")
        assert (await client.response("POST")).status == 200
        assert (await client.response("GET")).status == 200


@pytest.mark.slow
async def test_pipelined_hits_that_nobody_reads_are_bounded(origin: OriginDouble) -> None:
    """Ten thousand requests whose answers are not read stop the POP reading; then all come, in order."""
    origin.on("/page", Reply(fields=[FRESH], body=b"a" * 2000))
    count = 10_000
    async with running_pop(origin) as pop:
        await pop.get("/page")
        async with pop.client(receive_buffer=4096, within=20.0) as client:
            one = f"GET /page HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            sending = asyncio.get_running_loop().create_task(client.send(one * count, method=None))
            await let_others_run(2000)
            (connection,) = pop.worker.connections
            held = connection.transport.get_write_buffer_size() + connection.unread
            assert held < 1024 * 1024
            assert not sending.done() or connection.reading_paused
            for _ in range(count):
                assert (await client.response("GET")).body == b"a" * 2000
            await sending


async def test_a_slow_reader_of_a_stored_object_costs_no_copy(origin: OriginDouble) -> None:
    """A client that reads nothing of a big stored object holds less than 256 KiB beyond the object itself."""
    size = 16 * 1024 * 1024
    origin.on("/big", Reply(fields=[FRESH], body=bytes(size)))
    async with running_pop(origin, memory="256MiB") as pop:
        await pop.get("/big")
        assert "hit" in (await pop.get("/big")).get("Cache-Status")
        async with pop.client(receive_buffer=4096) as client:
            tracemalloc.start()
            try:
                await client.request("GET", "/big")
                await let_others_run(200)
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            (connection,) = pop.worker.connections
            assert [one.reads for one in connection.exchanges if one.reads is not None]  # it is behind, indeed
            assert held < 256 * 1024


async def test_a_body_that_only_trickles_is_ended(origin: OriginDouble) -> None:
    """A body that keeps moving, but slower than the lowest rate, is 408 once it has had its time."""
    origin.otherwise(Reply())
    async with running_pop(origin, body_timeout="10s", min_rate="1000") as pop, pop.client() as client:
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9999\r\n\r\n".encode(), "POST")
        for count in range(1, 4):
            await client.send(b"a", method=None)
            await until(lambda count=count: [body_bytes(one) for one in pop.worker.connections] == [count])
            pop.pass_time(4)
        assert await ended(client) == 408


async def test_waiting_for_the_origin_has_its_time(origin: OriginDouble) -> None:
    """Who waits in line for a connection to the origin longer than it may is 503; who has it is answered."""
    gate = asyncio.Event()
    origin.otherwise(Reply(fields=[("Cache-Control", "no-store")], body=b"at last", wait=gate))
    async with running_pop(origin, origin_connections=1, origin_queue_timeout="5s") as pop, pop.client() as first:
        await first.request("GET", "/a")
        await origin.request_seen()
        async with pop.client() as second:
            await second.request("GET", "/b")
            await until(lambda: pop.worker.pool.waiting == 1)
            pop.pass_time(4)
            assert pop.worker.pool.waiting == 1
            pop.pass_time(2)
            assert (await second.response()).status == 503
        gate.set()
        assert (await first.response()).body == b"at last"
    assert [seen.target for seen in origin.requests] == ["/a"]


class Value(bytes):
    """A value that counts how often anything is appended to it."""

    appended = 0

    def __add__(self, other: bytes) -> Value:  # type: ignore[override]
        Value.appended += 1
        return Value(bytes(self) + other)


@pytest.mark.parametrize("count", [2, 41, 10_000])
def test_lines_of_one_name_are_combined_at_once(count: int) -> None:
    """However many lines have one name, each byte of their values is copied once (RFC 9110 §5.2)."""
    fields = Fields([(b"X-A", Value(b"%d" % number)) for number in range(count)])
    assert fields.get(b"x-a") == b", ".join(b"%d" % number for number in range(count))
    assert Value.appended == 0
