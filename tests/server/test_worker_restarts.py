"""Workers relieved, killed and drained under real requests: what the clients see of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest
from harness.client import HOST, RawClient, connected
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from harness.pop_process import DEADLINE, RunningPop
from harness.pop_process import running_pop as running_process
from harness.wire import Closed, Truncated

from edgecache.wire.h1.deadlines import DRAIN_IDLE

WORKER = "edgecache.server.worker:Worker"
FRESH = ("Cache-Control", "max-age=60")


async def ask_until(pop: RunningPop, over: Callable[[], bool], target: str) -> int:
    """Ask for `target` on connections kept as long as the POP keeps them, until it is over; how many were answered.

    Any failure is the test's, except on a connection that this process has left alone for longer than a draining
    worker keeps one: as any client, it asks again then.
    """
    answered = 0
    client: RawClient | None = None
    idle_since = 0.0  # at the earliest
    while not over():
        if client is None:
            idle_since = time.monotonic()
            client = await RawClient.connect(pop.port, within=DEADLINE)
        began, left_alone = time.monotonic(), False
        try:
            await client.request("GET", target)
            left_alone = time.monotonic() - idle_since > DRAIN_IDLE
            response = await client.response()
        except (Closed, ConnectionError):
            if not left_alone:
                raise
            client.close()
            client = None
            continue
        idle_since = began
        assert response.status == 200
        answered += 1
        if "close" in (response.get("Connection") or ""):
            client.close()
            client = None
    if client is not None:
        client.close()
    return answered


@pytest.mark.slow
async def test_a_relief_fails_no_request(origin: OriginDouble) -> None:
    """While every worker is relieved, hits and misses on kept connections are answered, and a download ends whole."""
    gate = asyncio.Event()
    origin.on("/hit", Reply(fields=[FRESH], body=b"a" * 1000))
    origin.on("/miss", Reply(fields=[("Cache-Control", "no-store")], body=b"b" * 1000))
    origin.on("/download", Reply(pieces=[b"c" * 100_000, b"d" * 100_000], gates=[None, gate]))
    with running_process(worker=WORKER, workers=2, origin=origin.url, access_log="off") as pop:
        await asyncio.to_thread(lambda: [pop.expect_worker() for _ in range(2)])
        async with connected(pop.port, within=DEADLINE) as downloader:
            await downloader.request("GET", "/download")
            head = await downloader.response_head()
            whole = asyncio.get_running_loop().create_task(downloader.body_bytes(200_000))
            pop.process.send_signal(signal.SIGUSR2)
            relieved = asyncio.get_running_loop().create_task(both_relieved(pop, gate))
            asking = [ask_until(pop, relieved.done, target) for target in ("/hit", "/miss") * 8]
            answered = await asyncio.gather(*asking)
            await relieved
            body = await whole
    assert head.status == 200
    assert body == b"c" * 100_000 + b"d" * 100_000
    assert min(answered) > 0
    assert not origin.violations


async def both_relieved(pop: RunningPop, gate: asyncio.Event) -> None:
    """Wait for both successors; the download may go on once the first is there."""
    await asyncio.to_thread(pop.expect_worker)
    gate.set()
    await asyncio.to_thread(pop.expect_worker)
    assert await asyncio.to_thread(pop.metric, "edgecache_worker_reliefs_total") == 2


@pytest.mark.slow
async def test_a_killed_worker_fails_only_what_it_held(origin: OriginDouble) -> None:
    """After kill -9 the download that was under way breaks visibly, and the next request is answered."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    origin.on("/download", Reply(pieces=[b"c" * 1000, b"d" * 1000], gates=[None, asyncio.Event()]))
    with running_process(worker=WORKER, origin=origin.url, access_log="off") as pop:
        worker = await asyncio.to_thread(pop.expect_worker)
        async with connected(pop.port, within=DEADLINE) as downloader:
            await downloader.request("GET", "/download")
            await downloader.response_head()
            os.kill(worker, signal.SIGKILL)
            async with connected(pop.port, within=DEADLINE) as other:
                await other.request("GET", "/page")
                assert (await other.response()).body == b"page"
            with pytest.raises((Truncated, ConnectionResetError)):
                await downloader.body_bytes(2000)


@pytest.fixture
def full_disk() -> Iterator[IO[bytes]]:
    """A file on which no byte has room."""
    with open("/dev/full", "wb") as full:
        yield full


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full")
async def test_a_full_disk_stops_the_log_and_nothing_else(origin: OriginDouble, full_disk: IO[bytes]) -> None:
    """With its log on a full disk the POP serves as ever, and counts the lines that are lost."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    with running_process(worker=WORKER, stdout=full_disk, origin=origin.url, access_log="json") as pop:
        await asyncio.to_thread(pop.expect_worker)
        lost = 0.0
        asked = 0
        while lost < 20:
            async with connected(pop.port, within=DEADLINE) as client:
                await client.request("GET", "/page")
                assert (await client.response()).status == 200
            asked += 1
            if asked >= 20:
                lost = await asyncio.to_thread(pop.metric, "edgecache_access_log_dropped_total")


async def test_who_waits_in_the_accept_queue_is_served_by_a_drain(origin: OriginDouble) -> None:
    """Connections that the kernel has accepted, and the worker not yet, are answered when it drains."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    async with running_pop(origin, drain_grace="30s") as pop:
        waiting = [socket.create_connection(("127.0.0.1", pop.port)) for _ in range(50)]  # the loop has no turn
        for sock in waiting:
            sock.sendall(f"GET /page HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            sock.setblocking(False)
        drained = asyncio.get_running_loop().create_task(pop.worker.drain())
        for sock in waiting:
            client = RawClient(sock)
            await client.send(b"", "GET")
            response = await client.response()
            assert (response.status, response.get("Connection")) == (200, "close")
            client.close()
        await drained
