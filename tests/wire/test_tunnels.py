"""WebSocket tunnels: as fast as the slower side, ended when silent, and never all connections of the origin."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from harness.client import HOST, RawClient, let_others_run
from harness.pop import Pop, running_pop
from harness.raw_server import running_server

MIB = 1024 * 1024
HANDSHAKE = (
    f"GET /socket HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 4\r\n\r\npage"
Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def websocket_origin(speak: Speak) -> AsyncIterator[str]:
    """An origin that switches protocols when asked to and then speaks; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"websocket" not in (await reader.readuntil(b"\r\n\r\n")).lower():
            writer.write(PLAIN)
        writer.write(SWITCHED)
        await speak(reader, writer)

    async with running_server(serve) as port:
        yield f"http://127.0.0.1:{port}"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing, and wait for the end."""
    await reader.read()


@asynccontextmanager
async def tunnel(pop: Pop) -> AsyncIterator[RawClient]:
    """A client whose connection has become a tunnel."""
    async with pop.client() as client:
        await client.send(HANDSHAKE)
        assert (await client.response_head()).status == 101
        yield client


async def test_an_origin_does_not_outrun_a_client() -> None:
    """What a client of a tunnel does not read is not heaped up for it: the origin has to wait."""
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 48 * MIB:
            writer.write(bytes(MIB // 4))
            await writer.drain()
            sent += MIB // 4

    async with websocket_origin(flood) as url, running_pop(url) as pop, tunnel(pop) as client:
        before = -1
        while sent != before:
            before = sent
            await let_others_run(500)
        (connection,) = pop.worker.connections

        assert connection.transport.get_write_buffer_size() < MIB
        assert sent < 40 * MIB
        received = len(client.source.buffer)
        while received < 48 * MIB:  # and goes on when the client reads
            received += len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client.sock, MIB), 5))


async def test_a_client_does_not_outrun_an_origin() -> None:
    """What an origin does not read is not heaped up for it either."""
    reads = asyncio.Event()
    read = 0

    async def late(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal read
        await reads.wait()
        while piece := await reader.read(MIB):
            read += len(piece)

    async with websocket_origin(late) as url, running_pop(url) as pop, tunnel(pop) as client:
        tracemalloc.start()
        try:
            sending = asyncio.get_running_loop().create_task(client.send(bytes(64 * MIB), None))
            await let_others_run(3000)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not sending.done()
        assert held < (64 + 16) * MIB  # the test's own, and what is on its way
        reads.set()
        await sending
        client.close()  # what it sent before it left still arrives
        async with asyncio.timeout(5):
            while read < 64 * MIB:
                await let_others_run()


async def test_what_is_sent_before_the_switch_goes_through_whole() -> None:
    """However much it is: reading had stopped, and goes on; and the head is no part of it (RFC 6455 §4.1)."""
    received, data = asyncio.get_running_loop().create_future(), bytes(range(256)) * (MIB // 256)

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.readexactly(MIB))

    async with websocket_origin(keep) as url, running_pop(url) as pop, pop.client() as client:
        await client.send(HANDSHAKE + data)
        assert (await client.response_head()).status == 101
        assert await asyncio.wait_for(received, 5) == data


async def test_a_silent_tunnel_is_ended() -> None:
    """A tunnel in which neither side says anything has its time."""
    async with websocket_origin(silent) as url, running_pop(url, tunnel_timeout="10s") as pop, tunnel(pop) as client:
        pop.pass_time(9)
        await let_others_run()
        assert len(pop.worker.connections) == 1
        pop.pass_time(2)
        assert await client.closed() in ("fin", "rst")


async def test_tunnels_leave_half_of_the_connections() -> None:
    """However many tunnels are asked for, other requests still reach the origin."""
    settings = {"origin_connections": 4, "origin_queue_timeout": "10s"}
    async with websocket_origin(silent) as url, running_pop(url, **settings) as pop, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(pop.client()) for _ in range(6)]
        for client in clients:
            await client.send(HANDSHAKE)
        answers = [(await client.response_head()).status for client in clients[:2]]

        assert answers == [101, 101]
        assert (await pop.get("/page")).body == b"page"
        pop.pass_time(11)
        assert [(await client.response_head()).status for client in clients[2:]] == [503] * 4
