"""Origins that answer before they have read the request's body, and then reset the connection: the answer counts."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Literal

import pytest
from harness.client import RawClient, let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, listening_socket, running_pop

REFUSALS = {
    "413": b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
    "401-chunked": b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ntoo large\r\n0\r\n\r\n",
    "413-after-100": b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
}


async def serve(connection: socket.socket, refusal: bytes, reads: int) -> None:
    """Read the head and so many bytes more, and refuse."""
    loop, data = asyncio.get_running_loop(), b""
    with suppress(OSError):
        while b"\r\n\r\n" not in data and (more := await loop.sock_recv(connection, 4096)):
            data += more
        await loop.sock_recv(connection, reads)
    refuse(connection, refusal)


def refuse(connection: socket.socket, refusal: bytes) -> None:
    """Answer, and close while the rest is unread: the kernel resets.

    The answer has reached the POP's kernel before the reset is sent, and the POP, in the same thread, has not read it.
    """
    with suppress(OSError), connection:
        connection.send(refusal)
        while unacknowledged(connection):
            pass


def unacknowledged(connection: socket.socket) -> int:
    """Bytes that were sent, and that the other side's kernel has not acknowledged yet."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@asynccontextmanager
async def refusing_origin(refusal: bytes) -> AsyncIterator[str]:
    """Such an origin, in this event loop: its URL."""
    loop, listening = asyncio.get_running_loop(), listening_socket()

    async def accept() -> None:
        async with asyncio.TaskGroup() as connections:
            for number in count(1):
                connection, _ = await loop.sock_accept(listening)
                connections.create_task(serve(connection, refusal, 1 + number * 9973 % 200_000))

    serving = loop.create_task(accept())
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        listening.close()


async def send(client: RawClient, data: bytes) -> None:
    """Send what the POP still takes."""
    with suppress(ConnectionError):
        await client.send(data, "POST")


async def upload(pop: Pop, size: int) -> tuple[int, bytes]:
    """What comes of one upload, while its body is still on its way."""
    async with pop.client() as client:
        head = f"POST /upload HTTP/1.1\r\nHost: www.example.test\r\nContent-Length: {size}\r\n\r\n".encode()
        sending = asyncio.get_running_loop().create_task(send(client, head + bytes(size)))
        response = await client.response("POST")
        await sending
    return response.status, response.body


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_an_answer_that_came_before_the_reset_is_passed_on(refusal: bytes) -> None:
    """What the origin has said before it resets a connection that is still written to is the answer (RFC 9112 §9.6)."""
    async with refusing_origin(refusal) as url, running_pop(url) as pop:
        answers = [await upload(pop, size) for size in (80_000, 300_000, 3_000_000) for _ in range(3)]
    status = 401 if b"401" in refusal else 413
    assert answers == [(status, b"too large")] * 9


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_write_that_meets_the_reset_first_loses_no_answer(
    origin: OriginDouble, framing: Literal["length", "chunked"]
) -> None:
    """The answer is read though the event loop writes to the connection, and fails, before it looks for one."""
    gate, size = asyncio.Event(), 400_000
    refusal = Reply(413, body=b"too large", framing=framing, before_body=True, wait=gate)
    end = 9 if framing == "length" else len(b"9\r\ntoo large\r\n0\r\n\r\n")
    origin.on("/upload", replace(refusal, cut_at=end, cut_by="rst"))
    async with running_pop(origin) as pop, pop.client() as client:
        head = f"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
        await client.send(head + bytes(size // 2), "POST")
        await origin.request_seen()
        (connection,) = pop.worker.pool._open
        connection.transport.pause_reading()
        gate.set()
        await let_others_run(50)
        await client.send(bytes(size // 4), None)
        response = await client.response("POST")
    assert (response.status, response.body) == (413, b"too large")
