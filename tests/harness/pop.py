"""The product, started in the test's own process and event loop, in front of an origin double."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from edgecache.config.types import SIZE
from edgecache.storage.resident_clock import Clock
from harness.client import RawClient, ReceivedResponse, connected, let_others_run
from harness.clock import FakeClock
from harness.origin import OriginDouble

WITHIN = 20.0  # seconds: how long a test waits before it fails
DEFAULTS = {
    "EDGECACHE_POP": "test",
    "EDGECACHE_ACCESS_LOG": "off",
    "EDGECACHE_MEMORY": "64MiB",
    "EDGECACHE_WORKERS": "1",
}
STORE_SIZE = 16 * 1024 * 1024  # bytes
if os.environ.get("TEST_STORE"):  # TEST_STORE=memory runs any test with a store between memory and the origin
    DEFAULTS |= {"EDGECACHE_STORE": os.environ["TEST_STORE"], "EDGECACHE_STORE_SIZE": str(STORE_SIZE)}
else:
    DEFAULTS |= {"EDGECACHE_STORE": "off"}
if os.environ.get("TEST_SLICES"):  # TEST_SLICES=1MiB runs any test with slices
    DEFAULTS |= {"EDGECACHE_SLICE_SIZE": os.environ["TEST_SLICES"]}


class Pop:
    """One running point of presence."""

    def __init__(self, worker: Any, port: int, clock: Any, tls_port: int = 0, pop_port: int = 0) -> None:
        self.worker = worker
        self.port = port
        self.tls_port = tls_port  # 0: it has no such listener
        self.pop_port = pop_port
        self.clock = clock

    def client(self, **options: object) -> Any:
        """`async with pop.client() as client:` gives a RawClient connected to the POP."""
        return connected(self.port, **options)

    async def request(
        self, method: str, target: str, *fields: tuple[str, str], body: bytes = b"", version: str = "1.1"
    ) -> ReceivedResponse:
        """One request on a connection of its own, and its whole response."""
        async with self.client() as client:
            await client.request(method, target, fields, body, version)
            response: ReceivedResponse = await client.response()
            return response

    async def get(self, target: str, *fields: tuple[str, str]) -> ReceivedResponse:
        """One GET on a connection of its own, and its whole response."""
        return await self.request("GET", target, *fields)

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass for everything that has a deadline: connections on both sides, and who waits in line.

        What has reached a socket, and was not read yet, comes too late.
        """
        worker, before = self.worker, self.worker.clock
        for now in (before, lambda: before() + seconds):  # the first look notes since when some have waited
            worker.clock = worker.pool.clock = now
            worker._sweep_parts()
            for connection in tuple(worker.connections):
                connection.sweep(now())

    async def caught_up(self) -> None:
        """Wait until it has read the log of invalidations: before that it proves nothing that it finds."""
        await asyncio.wait_for(self.worker.logs.follower.caught_up.wait(), WITHIN)

    async def written(self) -> None:
        """Wait until everything that it wanted to write to the regional tier is written."""
        tier = self.worker.edge.region.tier
        async with asyncio.timeout(WITHIN):
            while tier.writes.queued or len(tier.leases) or tier.guard.open:
                await let_others_run(5)
            await tier.writes.execute(("GET", "ec:barrier"))

    async def open(self, **options: Any) -> RawClient:
        """A RawClient that the test closes itself."""
        return await RawClient.connect(self.port, **options)


def environment(origin_url: str, settings: Iterable[tuple[str, object]]) -> dict[str, str]:
    """The environment of a POP: the tests' defaults, and each setting under its EDGECACHE_ name."""
    named = {f"EDGECACHE_{name.upper()}": str(value) for name, value in settings}
    environ = {**DEFAULTS, "EDGECACHE_ORIGIN": origin_url, "EDGECACHE_LISTEN": "127.0.0.1:0", **named}
    if environ["EDGECACHE_STORE"] == "memory" and environ.get("EDGECACHE_STORE_SIZE") == str(STORE_SIZE):
        environ["EDGECACHE_MEMORY"] = str(SIZE.parse(environ["EDGECACHE_MEMORY"]) + STORE_SIZE)  # it is a part of that
    return environ


def listening_socket() -> socket.socket:
    """A socket that listens on a free port of this machine."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


REFUSING: list[socket.socket] = []  # held, so that nobody else gets their ports


def refusing_port(number: int = 0) -> int:
    """A port of this machine on which every connection is refused, as long as the tests run: one for each number."""
    while len(REFUSING) <= number:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        REFUSING.append(sock)
    port: int = REFUSING[number].getsockname()[1]
    return port


@asynccontextmanager
async def running_pop(
    origin: OriginDouble | str, clock: FakeClock | Clock | None = None, /, **settings: object
) -> AsyncIterator[Pop]:
    """A POP in front of `origin` (a double or a URL); `max_head="16KiB"` sets EDGECACHE_MAX_HEAD."""
    from edgecache.config.settings import load
    from edgecache.server.worker import Worker

    url = origin if isinstance(origin, str) else origin.url
    clock = clock or (FakeClock() if isinstance(origin, str) else origin.clock)
    loaded = load(environment(url, settings.items()))
    if isinstance(clock, FakeClock):
        worker = Worker(loaded, clock=Clock(clock, clock.steady, clock.steady, id(clock)))
    else:
        worker = Worker(loaded, clock=clock)
    wanted = [True, loaded.tls_listen is not None, loaded.pop_listen is not None]
    plain, tls, pops = ([listening_socket()] if wants else [] for wants in wanted)
    ports = [one[0].getsockname()[1] if one else 0 for one in (plain, tls, pops)]
    await worker.start(plain, tls=tls, pops=pops)
    try:
        yield Pop(worker, ports[0], clock, *ports[1:])
    finally:
        await worker.stop()
        for sock in (*plain, *tls, *pops):
            sock.close()
