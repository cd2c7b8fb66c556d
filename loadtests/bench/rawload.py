"""A small epoll load generator for what wrk cannot do.

wrk waits for the body that the Content-Length of a 304 or of an answer to HEAD speaks of;
and it runs for a time, where filling a cache needs every request sent exactly once. This one runs in the
harness's process, hence on core 1.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable, Iterator

from loadtests.bench.load import Load

LAST_CHUNK = b"0\r\n\r\n"
CHUNK = 1 << 18
SILENCE_SECONDS = 10.0


class _Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_awaited", "_chunked", "_has_body", "_tail", "socket", "started", "status")

    def __init__(self, port: int, has_body: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started = 0
        self.status = 0  # of the answer that is arriving; 0 until its head is complete
        self._has_body = has_body
        self._awaited = 0  # bytes of body still to come, when it is not chunked
        self._chunked = False
        self._tail = b""  # a head that is not complete, or the last bytes of a chunked body

    def send(self, request: bytes) -> None:
        """Send the next request; it is far smaller than a socket buffer."""
        self.started, self.status, self._tail = time.perf_counter_ns(), 0, b""
        self.socket.sendall(request)

    def complete(self, data: bytes) -> bool:
        """Take what arrived; whether it ends the answer."""
        if not self.status:
            data = self._take_head(self._tail + data)
            if not self.status:
                return False
        if self._chunked:
            self._tail = (self._tail + data)[-5:]
            return self._tail == LAST_CHUNK
        self._awaited -= len(data)
        if self._awaited < 0:
            raise OSError("more bytes than the head announced")
        return self._awaited == 0

    def _take_head(self, data: bytes) -> bytes:
        """Read status and framing once the head is whole; what follows it, which belongs to the body."""
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            self._tail = data
            return b""
        fields = head.lower()
        length = fields.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0]
        self._chunked = self._has_body and b"\r\ntransfer-encoding: chunked" in fields
        self._awaited = int(length or 0) if self._has_body else 0
        self.status, self._tail = int(head[9:12]), b""
        return body


class _Run:
    """One load: connections, the requests still to be sent, and what was seen."""

    def __init__(self, requests: Iterator[bytes], deadline: float) -> None:
        self._requests = requests
        self._deadline = deadline
        self.poll = select.epoll()
        self.open: dict[int, _Connection] = {}
        self.latencies: list[int] = []
        self.received = 0
        self.refused = 0
        self.problems: list[str] = []

    def send_next(self, connection: _Connection) -> None:
        """Give the connection its next request, or close it when there is none or the time is up."""
        request = next(self._requests, None) if time.monotonic() < self._deadline else None
        if request is not None:
            connection.send(request)
            return
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if self.open.pop(connection.socket.fileno(), None):
            self.poll.unregister(connection.socket)
            connection.socket.close()

    def read(self, connection: _Connection) -> None:
        """Read what arrived on a connection, and go on with the next request if that ends an answer."""
        try:
            data = connection.socket.recv(CHUNK)
            if not data:
                raise OSError("the server closed a connection in mid-request")
            self.received += len(data)
            complete = connection.complete(data)
        except OSError as error:
            self.problems.append(f"read error: {error}")
            self._close(connection)
            return
        if complete:
            self.latencies.append(time.perf_counter_ns() - connection.started)
            self.refused += not 200 <= connection.status < 400
            self.send_next(connection)

    def finish(self) -> None:
        """Answer by answer until every connection was closed, or nothing was heard for too long."""
        while self.open:
            events = self.poll.poll(SILENCE_SECONDS)
            if not events:
                self.problems.append(f"{len(self.open)} answers did not end within {SILENCE_SECONDS:.0f} s")
                for connection in list(self.open.values()):
                    self._close(connection)
            for descriptor, _ in events:
                self.read(self.open[descriptor])
        self.poll.close()


def run(
    port: int,
    requests: Iterable[bytes],
    *,
    has_body: bool = True,
    connections: int = 32,
    seconds: float = 300.0,
) -> Load:
    """Send `requests` to 127.0.0.1:`port`, each once and in order, for at most `seconds`."""
    began = time.monotonic()
    load = _Run(iter(requests), began + seconds)
    try:
        for _ in range(connections):
            connection = _Connection(port, has_body)
            load.open[connection.socket.fileno()] = connection
            load.poll.register(connection.socket, select.EPOLLIN)
        for connection in list(load.open.values()):
            load.send_next(connection)
        load.finish()
    except OSError as error:
        load.problems.append(f"socket error: {error}")
    return _summary(load, time.monotonic() - began)


def _summary(load: _Run, seconds: float) -> Load:
    problems = sorted(set(load.problems))
    if load.refused:
        problems.append(f"{load.refused} answers were neither 2xx nor 3xx")
    ordered = sorted(load.latencies) or [0]
    if not load.latencies:
        problems.append("no request was completed")
    return Load(
        requests=len(load.latencies),
        seconds=seconds,
        received=load.received,
        p50_ms=ordered[len(ordered) // 2] / 1e6,
        p99_ms=ordered[len(ordered) * 99 // 100] / 1e6,
        problems=problems,
    )
