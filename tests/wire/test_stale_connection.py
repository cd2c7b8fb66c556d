"""Kept connections that the origin closes just as a question is sent: asked again if no answer can have been meant."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, cast

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply, cut
from harness.pop import Pop, listening_socket, running_pop

NOT_STORED = [("Cache-Control", "no-store")]
ANSWER = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok"
How = Literal["close", "reset"]


class Impatient(asyncio.Protocol):
    """An origin's connection: each question is answered at once, and what is idle is closed at a random moment."""

    def __init__(self, how: How, longest: float, asked: list[bytes], still_open: set[Impatient]) -> None:
        self._how, self._longest, self._asked, self._open = how, longest, asked, still_open
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        self._open.add(self)
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        """A question, in one piece."""
        self._asked.append(data.partition(b"\r\n")[0])
        if self._timer is not None:
            self._timer.cancel()
        self._transport.write(ANSWER)
        self._timer = asyncio.get_running_loop().call_later(random.random() * self._longest, self.end)

    def end(self) -> None:
        """Close it."""
        if self._how == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


@contextmanager
def impatient_origin(how: How, longest: float) -> Iterator[tuple[str, list[bytes]]]:
    """Such an origin in a thread of its own, so that nothing orders its moments: its URL, and what it has read."""
    asked: list[bytes] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = listening_socket()
    still_open: set[Impatient] = set()
    protocol = partial(Impatient, how, longest, asked, still_open)

    async def end() -> None:
        server.close()
        while still_open:
            for connection in still_open:
                connection.end()
            await asyncio.sleep(0.001)

    server = asyncio.run_coroutine_threadsafe(loop.create_server(protocol, sock=listening), loop).result()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def visit(pop: Pop, name: str, count: int, longest: float) -> list[int]:
    """The statuses of so many GETs, one after the other on one connection, at random moments."""
    statuses = []
    async with pop.client() as client:
        for number in range(count):
            await client.request("GET", f"/{name}/{number}")
            statuses.append((await client.response()).status)
            await asyncio.sleep(random.random() * longest)
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_no_get_fails_because_the_origin_closes_idle_connections(how: How) -> None:
    """Whatever moment the origin closes an idle connection at, every GET has its answer, and is read once."""
    longest = 0.004
    with impatient_origin(how, longest) as (url, asked):
        async with running_pop(url) as pop:
            visits = [visit(pop, f"visitor{number}", 700, longest) for number in range(4)]
            statuses = [status for visit in await asyncio.gather(*visits) for status in visit]
        assert set(statuses) == {200}
        assert len(asked) == len(statuses)


async def warmed(pop: Pop, origin: OriginDouble) -> None:
    """Have the pool keep one connection, which was answered on a few times."""
    origin.on("/warm", Reply(fields=NOT_STORED))
    for _ in range(5):
        await pop.get("/warm")
    origin.requests.clear()


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "QUERY"])
async def test_a_safe_question_that_met_a_close_is_asked_again(
    origin: OriginDouble, method: str, by: Literal["fin", "rst"]
) -> None:
    """A safe question that is written to a connection closed before is asked once more, on a fresh one, with its body.

    RFC 9110 §9.2.2, RFC 9112 §9.3.1.
    """
    origin.on("/page", Reply(fields=NOT_STORED))
    async with running_pop(origin) as pop:
        await warmed(pop, origin)
        await close_unseen(pop, origin, by)
        body = b"a query" if method == "QUERY" else b""
        response = await pop.request(method, "/page", body=body)
        assert response.status == 200
        asked = "GET" if method == "HEAD" else method  # by which a HEAD fills
        assert [(seen.method, bytes(seen.body)) for seen in origin.requests] == [(asked, body)]
        assert origin.requests[0].connection == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_an_unsafe_question_that_met_a_close_is_not_asked_again(origin: OriginDouble, method: str) -> None:
    """An unsafe question that was written to a connection is never written to another (RFC 9110 §9.2.2)."""
    async with running_pop(origin) as pop:
        await warmed(pop, origin)
        origin.on("/page", Reply(cut_head_at=0))
        assert (await pop.request(method, "/page", body=b"x")).status == 502
        assert [seen.method for seen in origin.requests] == [method]


async def test_an_unsafe_question_avoids_a_connection_that_was_closed(origin: OriginDouble) -> None:
    """An unsafe question is not written to a connection whose end is here already, seen or not."""
    origin.on("/form", Reply(fields=NOT_STORED))
    async with running_pop(origin) as pop:
        await warmed(pop, origin)
        await close_unseen(pop, origin, "fin")
        assert (await pop.request("POST", "/form", body=b"x")).status == 200


async def close_unseen(pop: Pop, origin: OriginDouble, by: Literal["fin", "rst"]) -> None:
    """Have the origin end its only connection, while the pool does not look before it has written to it."""
    (connection,) = pop.worker.pool._idle
    connection.transport.pause_reading()
    connection.transport = _Unseeing(connection.transport)
    for writer in origin.writers:
        cut(writer, by)
    await let_others_run(20)


class _Unseeing:
    """A transport that reads again once it has written."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        self._transport.resume_reading()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_an_origin_that_reads_the_question_and_closes_is_asked_once(origin: OriginDouble, wait: float) -> None:
    """A close that comes no sooner than an answer can is the origin's reaction: 502, and it is not asked again."""

    async def close(_: object) -> Reply:
        await asyncio.sleep(wait)
        await let_others_run(20)
        return Reply(cut_head_at=0)

    async with running_pop(origin) as pop:
        await warmed(pop, origin)
        origin.on("/page", close)
        assert (await pop.get("/page")).status == 502
        assert [seen.target for seen in origin.requests] == ["/page"]
