"""The admin listener under who asks nothing, or for ever: a health check still gets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from harness.client import RawClient, let_others_run
from harness.pop import listening_socket

from edgecache.server.admin.connections import MOST, PATIENCE, AdminConnections

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: admin\r\n\r\n"


class Listener:
    """The admin connections under test, their time, and a page that waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.connections = AdminConnections(lambda: self.now)
        self.go_on = asyncio.Event()
        self.port = 0

    async def health(self, request: web.Request) -> web.Response:
        """At once."""
        return web.Response(text="ok")

    async def slow(self, request: web.Request) -> web.Response:
        """When it is told to."""
        await self.go_on.wait()
        return web.Response(text="late")

    async def later(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        self.connections.sweep(self.now)
        for _ in range(5):
            await let_others_run()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A listener on a free port."""
    one = Listener()
    app = web.Application()
    app.router.add_get("/healthz", one.health)
    app.router.add_get("/slow", one.slow)
    sock = listening_socket()
    one.port = sock.getsockname()[1]
    runner = await one.connections.serve(app, sock)
    try:
        yield one
    finally:
        one.connections.close()
        await runner.cleanup()


async def is_healthy(port: int) -> bool:
    """Whether a health check gets in, on a connection of its own."""
    client = await RawClient.connect(port)
    await client.send(HEALTH)
    response = await client.response()
    client.close()
    return response.status == 200


@pytest.mark.parametrize("said", [b"", HEALTH[:9], b"\r\n"])
async def test_who_asks_nothing_makes_room(said: bytes) -> None:
    """The one that is longest so, however many there are; a health check always gets in."""
    async with listening() as admin:
        crowd = await asyncio.gather(*(RawClient.connect(admin.port) for _ in range(3 * MOST)))
        for client in crowd:
            if said:
                await client.send(said, None)
        assert len(admin.connections._idle) <= MOST + 1
        assert await is_healthy(admin.port)
        assert await crowd[0].closed() in ("fin", "rst")
        for client in crowd:
            client.close()


@pytest.mark.parametrize("said", [b"", HEALTH[:9], HEALTH])
async def test_who_asks_nothing_more_has_its_time(said: bytes) -> None:
    """Silent, within a head, or after an answer."""
    async with listening() as admin:
        client = await RawClient.connect(admin.port)
        if said:
            await client.send(said, "GET" if said == HEALTH else None)
        if said == HEALTH:
            await client.response()
        await admin.later(PATIENCE - 1)
        assert await is_healthy(admin.port)
        await admin.later(2)
        assert await client.closed() in ("fin", "rst")
        client.close()


async def test_who_is_being_answered_is_left_alone() -> None:
    """However long that takes, and however many others come."""
    async with listening() as admin:
        client = await RawClient.connect(admin.port)
        await client.send(b"GET /slow HTTP/1.1\r\nHost: admin\r\n\r\n")
        await let_others_run()
        crowd = [await RawClient.connect(admin.port) for _ in range(MOST + 5)]
        await admin.later(10 * PATIENCE)
        admin.go_on.set()
        assert (await client.response()).body == b"late"
        for one in (client, *crowd):
            one.close()


async def test_closed_connections_take_no_room() -> None:
    """A connection that is new is not ended because many others were opened, answered and closed just before."""
    async with listening() as admin:
        first = await RawClient.connect(admin.port)
        await let_others_run()
        for _ in range(MOST + 5):
            admin.now += 0.001
            assert await is_healthy(admin.port)
        await first.send(HEALTH)
        assert (await first.response()).status == 200
        first.close()
