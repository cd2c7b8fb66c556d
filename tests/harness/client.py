"""A client that sends exactly the bytes it is told to, and reads responses strictly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from harness.wire import (
    Bytes,
    FieldLines,
    Head,
    NotHTTP,
    Truncated,
    parse_status_line,
    read_head,
    read_response_body,
)

TIMEOUT = 5.0  # seconds; how long a test waits for what must come
HOST = "www.example.test"


class TooLate(AssertionError):
    """What a test waited for did not come in time."""


@dataclass
class ReceivedResponse:
    """One response as the client received it, after the interim responses that came before it."""

    head: Head
    version: str
    status: int
    reason: str
    body: bytes = b""
    interim: list[ReceivedResponse] = field(default_factory=list)
    broken: Truncated | None = None  # set when the connection ended inside the body

    @property
    def fields(self) -> FieldLines:
        """The field lines, in the order and spelling in which they came."""
        return self.head.fields

    def get(self, name: str) -> str | None:
        """The combined value of `name`, or None."""
        return self.head.get(name)

    def all(self, name: str) -> list[str]:
        """The value of each line of `name`."""
        return self.head.all(name)


class RawClient:
    """One connection. Requests go out as given; every wait ends within a bound, or says what was missing."""

    def __init__(self, sock: socket.socket, within: float = TIMEOUT) -> None:
        self.sock = sock
        self.within = within
        self.source = Bytes(self._receive)
        self._methods: deque[str] = deque()  # of the requests that await their response
        self.progress = bytearray()  # the part of the present response's body that has come

    @classmethod
    async def connect(
        cls,
        port: int,
        host: str = "127.0.0.1",
        receive_buffer: int | None = None,
        within: float = TIMEOUT,
        source: str = "",
    ) -> RawClient:
        """Connect to `host`, from `source`; a small `receive_buffer` makes a reader that takes little at a time."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.bind((source, 0))
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return cls(sock, within)

    # Sending…

    async def send(self, data: bytes, method: str | None = "GET", segment: int | None = None) -> None:
        """Send `data` as it is, in pieces of `segment` bytes if given.

        `method` is that of the request it holds: the framing of its response depends on it.
        Pass `method=None` for bytes that complete no request of their own.
        """
        if method is not None:
            self._methods.append(method)
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), segment or max(len(data), 1)):
            async with self._bounded("room to send"):
                await loop.sock_sendall(self.sock, data[start : start + (segment or len(data))])
            if segment:
                await let_others_run()

    async def request(
        self,
        method: str,
        target: str,
        fields: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        version: str = "1.1",
        segment: int | None = None,
    ) -> None:
        """Send one well-formed request; Host and Content-Length are added unless `fields` has them."""
        data = request_bytes(method, target, fields, body, version)
        await self.send(data, method, segment)

    def half_close(self) -> None:
        """Send FIN: nothing more will be sent, responses are still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Leave by FIN (or by RST, as the kernel has it, if bytes are unread)."""
        self.sock.close()

    # Receiving…

    async def response(self, method: str | None = None) -> ReceivedResponse:
        """The next final response, whole; `Truncated` if the connection ends inside it."""
        response = await self.response_or_broken(method)
        if response.broken is not None:
            raise response.broken
        return response

    async def response_or_broken(self, method: str | None = None) -> ReceivedResponse:
        """The next final response; if the connection ends inside its body, `broken` is set."""
        response = await self.response_head()
        method = method or (self._methods.popleft() if self._methods else "GET")
        try:
            async with self._bounded("the rest of the body"):
                await read_response_body(self.source, response.head, response.status, method, self.progress)
        except (Truncated, ConnectionResetError) as error:
            response.broken = error if isinstance(error, Truncated) else Truncated("a body, by RST")
        response.body = bytes(self.progress)
        return response

    async def response_head(self) -> ReceivedResponse:
        """The head of the next final response, and the interim responses before it; no body is read yet."""
        interim: list[ReceivedResponse] = []
        self.progress = bytearray()
        while True:
            async with self._bounded("a response"):
                head = await read_head(self.source)
            response = ReceivedResponse(head, *parse_status_line(head.start))
            if response.status >= 200 or response.status == 101:
                response.interim = interim
                return response
            interim.append(response)

    async def body_bytes(self, size: int) -> bytes:
        """Raw bytes off the wire, `size` of them: for a look at a body while it still arrives."""
        partial = bytearray()
        async with self._bounded(f"{size} bytes"):
            await self.source.exactly(size, partial, "raw bytes")
        return bytes(partial)

    async def closed(self) -> str:
        """Wait for the peer to close: "fin" or "rst". Bytes that come instead are an error."""
        if self.source.buffer:
            raise NotHTTP(f"bytes after the end of the responses: {bytes(self.source.buffer)!r}")
        async with self._bounded("the peer to close"):
            try:
                piece = await self.source.receive()
            except ConnectionResetError:
                return "rst"
        if piece:
            raise NotHTTP(f"bytes after the end of the responses: {piece!r}")
        return "fin"

    async def _receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, 65536)

    @asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.within):
                yield
        except TimeoutError:
            seen = bytes(self.source.seen[-200:])
            raise TooLate(f"no {what} within {self.within} s; the last bytes seen: {seen!r}") from None


def request_bytes(
    method: str, target: str, fields: Iterable[tuple[str, str]] = (), body: bytes = b"", version: str = "1.1"
) -> bytes:
    """A well-formed request; Host and Content-Length are added unless `fields` has them."""
    lines = list(fields)
    names = {name.lower() for name, _ in lines}
    if "host" not in names:
        lines.insert(0, ("Host", HOST))
    if body and not names & {"content-length", "transfer-encoding"}:
        lines.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"{method} {target} HTTP/{version}\r\n{head}\r\n".encode("latin-1") + body


async def let_others_run(turns: int = 25) -> None:
    """Let the event loop turn: what has reached a socket in this process is read, and acted on."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(true: Callable[[], object], within: float = TIMEOUT) -> None:
    """Wait until something holds that tells nobody when it does."""
    try:
        async with asyncio.timeout(within):
            while not true():  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise TooLate(f"it did not come about within {within} s") from None


@asynccontextmanager
async def connected(port: int, **options: object) -> AsyncIterator[RawClient]:
    """A client connected to `port`, closed at the end."""
    client = await RawClient.connect(port, **options)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):
            client.close()
