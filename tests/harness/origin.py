"""An origin that answers as a test tells it to, faults included, and remembers every byte it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.client import TIMEOUT, TooLate
from harness.clock import FakeClock
from harness.wire import (
    Bytes,
    Closed,
    FieldLines,
    Head,
    NotHTTP,
    Truncated,
    parse_request_line,
    read_head,
    read_request_body,
)


@dataclass
class ReceivedRequest:
    """One request as the origin received it; `raw` is its head byte for byte."""

    head: Head
    method: str
    target: str
    version: str
    connection: int  # the number of its connection, from 0
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False  # set once the body has ended

    @property
    def fields(self) -> FieldLines:
        """The field lines, in the order and spelling in which they came."""
        return self.head.fields

    @property
    def raw(self) -> bytes:
        """The head, byte for byte."""
        return self.head.raw

    def get(self, name: str) -> str | None:
        """The combined value of `name`, or None."""
        return self.head.get(name)

    def all(self, name: str) -> list[str]:
        """The value of each line of `name`."""
        return self.head.all(name)


@dataclass(frozen=True)
class Reply:
    """One answer of the origin. The defaults make a well-formed 200; the rest are faults and delays."""

    status: int = 200
    fields: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    reason: str = "Scripted"
    framing: Literal["length", "chunked", "close", "none"] = "length"
    content_length: int | None = None  # what Content-Length says, if not the truth
    pieces: Sequence[bytes] | None = None  # the body in pieces: each one write, and one chunk if chunked
    gates: Sequence[asyncio.Event | None] = ()  # piece number i waits for gates[i]
    wait: asyncio.Event | None = None  # before the first byte
    interim: Sequence[tuple[int, Sequence[tuple[str, str]]]] = ()  # 1xx responses before the final one
    before_body: bool = False  # answer at the head of the request, before its body is read
    cut_at: int | None = None  # end the connection once so many bytes of the body, as framed, are sent
    cut_head_at: int | None = None  # the same, counted from the first byte of the head
    cut_by: Literal["fin", "rst"] = "fin"
    raw: bytes | None = None  # send exactly this, and nothing of the above
    tunnel: bool = False  # having sent that, speak no HTTP any more: send back what comes
    hang: bool = False  # having sent that, send nothing more, and leave the connection open
    close: bool = False  # close the connection afterwards, and say so
    date: bool = True  # add a Date field, unless `fields` has one
    version: str = "1.1"

    def field_lines(self, now: str, method: str) -> list[tuple[str, str]]:
        """The field lines to send, with Date and the framing added."""
        lines = list(self.fields)
        names = {name.lower() for name, _ in lines}
        if self.date and "date" not in names:
            lines.append(("Date", now))
        if self.framing == "chunked":
            lines.append(("Transfer-Encoding", "chunked"))
        bodiless = self.status in (204, 304) or self.status < 200
        if self.framing == "length" and "content-length" not in names and not bodiless:
            length = self.content_length
            lines.append(("Content-Length", str(len(self.whole_body) if length is None else length)))
        if self.close or self.framing == "close":
            lines.append(("Connection", "close"))
        return lines

    @property
    def whole_body(self) -> bytes:
        """The body, its pieces joined."""
        return self.body if self.pieces is None else b"".join(self.pieces)

    def writes(self, now: str, method: str) -> list[tuple[bytes, asyncio.Event | None]]:
        """What to write, in order, each with the gate that it waits for."""
        if self.raw is not None:
            return [(self.raw, self.wait)]
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.field_lines(now, method))
        head = f"HTTP/{self.version} {self.status} {self.reason}\r\n{lines}\r\n".encode("latin-1")
        writes: list[tuple[bytes, asyncio.Event | None]] = [(head, self.wait)]
        if method == "HEAD" or self.status in (204, 304):
            return writes
        pieces = [self.body] if self.pieces is None else self.pieces
        gates = [*self.gates, *[None] * len(pieces)]
        for piece, gate in zip(pieces, gates, strict=False):
            chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if self.framing == "chunked" and piece else piece
            writes.append((chunk, gate))
        if self.framing == "chunked":
            writes.append((b"0\r\n\r\n", None))
        return writes


RESET = Reply(cut_head_at=0, cut_by="rst")  # the connection is reset instead of an answer

Answer = Callable[[ReceivedRequest], Reply | Awaitable[Reply]]
UNSCRIPTED = Reply(500, [("Cache-Control", "no-store")], b"the test has scripted no answer to this")


class OriginDouble:
    """The origin: start it with `running_origin`, script it with `on`, and ask it what it saw."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.requests: list[ReceivedRequest] = []
        self.received: list[bytearray] = []  # per connection, every byte
        self.violations: list[str] = []  # what came that is not HTTP
        self.broken = 0  # requests that ended before their end
        self.version = 1  # of what `versioned` serves
        self.port = 0
        self.host = "127.0.0.1"
        self.tls = False
        self._scripts: dict[str, list[Reply] | Answer] = {}
        self._default: Answer | None = None
        self.reads_first = False  # the whole body of a request, before its answer is made
        self.server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._arrival = asyncio.Condition()

    # Scripting…

    def on(self, path: str, *replies: Reply | Answer) -> None:
        """Answer requests for `path` by these replies, in order, the last for ever; or by one callable."""
        if len(replies) == 1 and not isinstance(replies[0], Reply):
            self._scripts[path] = replies[0]
        else:
            self._scripts[path] = [reply for reply in replies if isinstance(reply, Reply)]

    def otherwise(self, answer: Answer | Reply) -> None:
        """Answer so where no path is scripted."""
        self._default = (lambda _: answer) if isinstance(answer, Reply) else answer

    def versioned(self, request: ReceivedRequest) -> Reply:
        """A reply whose body, X-Ver and ETag carry `self.version`; cacheable for a minute."""
        fields = [
            ("Cache-Control", "max-age=60"),
            ("X-Ver", str(self.version)),
            ("ETag", f'"v{self.version}"'),
        ]
        return Reply(200, fields, b"version %d" % self.version)

    @staticmethod
    def echo(request: ReceivedRequest) -> Reply:
        """A reply whose body is the request as JSON: method, target and field lines."""
        seen = {"method": request.method, "target": request.target, "fields": request.fields}
        return Reply(200, [("Content-Type", "application/json")], json.dumps(seen).encode())

    # What it saw…

    @property
    def connections(self) -> int:
        """How many connections were ever made."""
        return len(self.received)

    @property
    def writers(self) -> list[asyncio.StreamWriter]:
        """Those of its connections that are open."""
        return list(self._open.values())

    @property
    def bytes_received(self) -> int:
        """How many bytes came in all."""
        return sum(map(len, self.received))

    async def request_seen(self, count: int = 1, within: float = TIMEOUT) -> ReceivedRequest:
        """Wait until `count` requests have begun in all; the last of them."""
        await self.until(lambda: len(self.requests) >= count, f"request number {count}", within)
        return self.requests[count - 1]

    async def all_whole(self, within: float = TIMEOUT) -> None:
        """Wait until every request that has begun has ended."""
        await self.until(lambda: all(seen.whole for seen in self.requests), "the end of a request", within)

    async def until(self, true: Callable[[], bool], what: str, within: float = TIMEOUT) -> None:
        """Wait until it is so: looked at whenever something has come; `what` is what failed to come in time."""
        try:
            async with asyncio.timeout(within), self._arrival:
                await self._arrival.wait_for(true)
        except TimeoutError:
            seen = [f"{one.method} {one.target}" for one in self.requests[-5:]]
            message = f"the origin did not see {what} within {within} s; {len(self.requests)} seen, last {seen}"
            raise TooLate(message) from None

    # Serving…

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen; on the port it had before, if it was stopped."""
        self.tls = tls is not None
        self.server = await asyncio.start_server(self.serve, self.host, self.port, ssl=tls, backlog=2048)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self.server is None:
            return
        self.server.close()
        serving = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self.server.wait_closed()
        self.server = None

    @property
    def url(self) -> str:
        """Its address, as EDGECACHE_ORIGIN takes it."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: for a listener that the test opens itself, on a Unix socket for one."""
        source = Bytes(lambda: reader.read(65536))
        number = len(self.received)
        self.received.append(source.seen)
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while await self._exchange(source, writer, number):
                pass
        except (Closed, Truncated, ConnectionError, asyncio.CancelledError) as error:
            self.broken += isinstance(error, Truncated)
        except NotHTTP as error:
            self.violations.append(str(error))
        finally:
            del self._open[task]
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _exchange(self, source: Bytes, writer: asyncio.StreamWriter, number: int) -> bool:
        head = await read_head(source)
        request = ReceivedRequest(head, *parse_request_line(head.start), connection=number)
        await self._note(lambda: self.requests.append(request))
        if self.reads_first:
            await self._read_body(source, writer, request)
        reply = await self._reply_to(request)
        if not (reply.before_body or self.reads_first):
            await self._read_body(source, writer, request)
        for status, fields in reply.interim:
            await self._write(writer, interim_bytes(status, fields))
        if not await self._send(source, writer, reply, request.method):
            return False
        if reply.before_body:
            await self._read_body(source, writer, request)
        return not (reply.close or reply.framing == "close" or reply.raw is not None)

    async def _read_body(self, source: Bytes, writer: asyncio.StreamWriter, request: ReceivedRequest) -> None:
        if (request.get("expect") or "").lower() == "100-continue":
            await self._write(writer, interim_bytes(100, ()))
        await read_request_body(source, request.head, request.body)
        await self._note(lambda: setattr(request, "whole", True))

    async def _note(self, change: Callable[[], None]) -> None:
        async with self._arrival:
            change()
            self._arrival.notify_all()

    async def _reply_to(self, request: ReceivedRequest) -> Reply:
        script = self._scripts.get(request.target, self._default)
        if isinstance(script, list):
            return script.pop(0) if len(script) > 1 else script[0]
        if script is None:
            return UNSCRIPTED
        reply = script(request)
        return await reply if inspect.isawaitable(reply) else reply

    async def _send(self, source: Bytes, writer: asyncio.StreamWriter, reply: Reply, method: str) -> bool:
        writes = reply.writes(self.clock.http_date(), method)
        left = reply.cut_head_at if reply.cut_at is None else reply.cut_at + len(writes[0][0])
        for data, gate in writes:
            if gate is not None:
                await gate.wait()
            if left is not None and left <= len(data):
                await self._write(writer, data[:left])
                cut(writer, reply.cut_by)
                return False
            left = None if left is None else left - len(data)
            await self._write(writer, data)
        if reply.hang:
            await asyncio.Event().wait()
        while reply.tunnel and (source.buffer or await source.more()):
            await self._write(writer, source.take(len(source.buffer)))
        return True

    @staticmethod
    async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()


def interim_bytes(status: int, fields: Sequence[tuple[str, str]]) -> bytes:
    """An interim response (RFC 9110 §15.2)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} Interim\r\n{lines}\r\n".encode("latin-1")


def cut(writer: asyncio.StreamWriter, by: Literal["fin", "rst"]) -> None:
    """End a connection, by FIN after what was written, or by RST."""
    if by == "rst":
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


def hang() -> Reply:
    """A reply that never comes."""
    return Reply(wait=asyncio.Event())


def but(reply: Reply, **changes: object) -> Reply:
    """The same reply, but for `changes`."""
    return replace(reply, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def running_origin(
    clock: FakeClock | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[OriginDouble]:
    """An origin double on a free port, stopped at the end."""
    origin = OriginDouble(clock)
    await origin.start(tls)
    try:
        yield origin
    finally:
        await origin.stop()
