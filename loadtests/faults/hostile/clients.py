"""Well-behaved clients: requests at a steady rate over keep-alive connections, and downloads. Every failure is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

PATIENCE = 20.0  # seconds for one answer


class Broken(Exception):
    """An answer did not come, or not whole."""


@dataclass
class Tally:
    """What came of the requests."""

    latencies: list[float] = field(default_factory=list)  # seconds
    failures: list[str] = field(default_factory=list)
    failed_at: list[tuple[float, int]] = field(default_factory=list)  # monotonic seconds, and the port it came from
    asked: int = 0
    reopened: int = 0

    def p(self, quantile: float) -> float:
        """A quantile of the latencies, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * quantile), len(ordered) - 1)] if ordered else 0.0

    @property
    def p99(self) -> float:
        """Seconds."""
        return self.p(0.99)


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way at most; bodies are counted, not kept."""

    def __init__(self) -> None:
        self.closed = False
        self.last = False  # the server has said that this was the last answer
        self._buffer = b""
        self._left = -1  # bytes of the body still to come; -1 = the head is not there yet
        self._chunked = False
        self._done: asyncio.Future[int] | None = None
        self.status = 0
        self.head = b""
        self.received = 0

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to 127.0.0.1:`port`."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.port = int(transport.get_extra_info("sockname")[1])

    async def ask(self, request: bytes, patience: float = PATIENCE) -> int:
        """Send a request; the status of its answer once its body is whole. Raises `Broken`."""
        if self.closed:
            raise Broken("the server closed an idle connection")
        self._left, self.status, self.received = -1, 0, 0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            return await asyncio.wait_for(self._done, patience)
        except TimeoutError:
            raise Broken(f"no whole answer within {patience:.0f} s") from None

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.received += len(data)
        if self._left < 0:
            self._buffer += data
            head, found, data = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._buffer = b""
            self._read_head(head)
        if self._chunked:
            self._buffer = (self._buffer + data)[-5:]
            if self._buffer == b"0\r\n\r\n":
                self._finish()
            return
        self._left -= len(data)
        if self._left == 0:
            self._finish()
        elif self._left < 0:
            self._fail("more bytes than the head announced")

    def _read_head(self, head: bytes) -> None:
        self.status, self.head = int(head[9:12]), head
        fields = head.lower() + b"\r\n"
        self.last = b"\r\nconnection: close\r\n" in fields
        self._chunked = b"\r\ntransfer-encoding: chunked\r\n" in fields
        self._left = int(fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)

    def _finish(self) -> None:
        self._buffer = b""
        if self._done is not None and not self._done.done():
            self._done.set_result(self.status)

    def _fail(self, why: str) -> None:
        self.transport.abort()
        if self._done is not None and not self._done.done():
            self._done.set_exception(Broken(why))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed."""
        self.closed = True
        if self._done is not None and not self._done.done():
            how = "reset" if exc is not None else "closed"
            self._done.set_exception(Broken(f"the server {how} the connection under a request"))

    def close(self) -> None:
        """Go."""
        self.transport.abort()


def get(target: str) -> bytes:
    """A GET as bytes."""
    return f"GET {target} HTTP/1.1\r\nHost: site\r\nUser-Agent: a well-behaved client\r\n\r\n".encode()


class Clients:
    """Clients that ask at a steady rate in all, each on its own connection, until they are stopped.

    A connection whose last answer said `Connection: close`, or that the server closed while nothing was under way, is
    opened anew, as every HTTP client does; all else is a failure.
    """

    def __init__(
        self, port: int, requests: Iterator[bytes], connections: int, rate: float, fine: tuple[int, ...] = (200,)
    ) -> None:
        self._port = port
        self._fine = fine  # statuses that are no failure
        self._requests = requests
        self._gap = connections / rate  # seconds between two requests of one client
        self._count = connections
        self.stopped = False
        self.open: set[Connection] = set()
        self.tally = Tally()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._one(number)) for number in range(self._count)]

    async def stop(self) -> Tally:
        """End after the answers that are under way."""
        self.stopped = True
        await asyncio.gather(*self._tasks)
        return self.tally

    async def run(self, seconds: float) -> Tally:
        """Ask for so long."""
        self.start()
        await asyncio.sleep(seconds)
        return await self.stop()

    def answered(self, head: bytes) -> None:
        """An answer has come whole; for those who look at heads."""

    async def _one(self, number: int) -> None:
        due = time.monotonic() + self._gap * number / self._count
        connection: Connection | None = None
        while not self.stopped:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self._gap, time.monotonic() - self._gap)  # a slow answer is not made up for by a burst
            connection = await self._once(connection)
        if connection is not None:
            connection.close()

    async def _once(self, connection: Connection | None) -> Connection | None:
        tally = self.tally
        tally.asked += 1
        began = time.monotonic()
        try:
            if connection is None or connection.closed:
                tally.reopened += connection is not None
                connection = await Connection.open(self._port)
                self.open = {one for one in self.open if not one.closed} | {connection}
            status = await connection.ask(next(self._requests))
        except (Broken, OSError) as error:
            tally.failures.append(str(error))
            tally.failed_at.append((began, connection.port if connection is not None else 0))
            if connection is not None:
                connection.close()
            return None
        tally.latencies.append(time.monotonic() - began)
        self.answered(connection.head)
        if status not in self._fine:
            tally.failures.append(f"status {status}")
            tally.failed_at.append((began, connection.port))
        if connection.last:
            connection.close()
            return None
        return connection


async def download(port: int, target: str, patience: float = 60.0) -> tuple[float, str]:
    """One download on a connection of its own: how long it took in seconds, and what went wrong."""
    began = time.monotonic()
    try:
        connection = await Connection.open(port)
        try:
            status = await connection.ask(get(target), patience)
        finally:
            connection.close()
    except (Broken, OSError) as error:
        return time.monotonic() - began, str(error)
    return time.monotonic() - began, "" if status == 200 else f"status {status}"


async def until(condition: Callable[[], bool], within: float) -> bool:
    """Wait until something holds; whether it does within so many seconds."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True
