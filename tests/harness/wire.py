"""A small strict reader of HTTP/1.1 messages (RFC 9112), for both ends of a test."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

FieldLines = list[tuple[str, str]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)\Z")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/(1\.[01])\Z")
_FIELD_LINE = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*\Z"
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;.*)?\Z")


class NotHTTP(AssertionError):
    """The peer sent bytes that RFC 9112 does not allow."""


class Truncated(AssertionError):
    """The connection ended inside a message: a broken transfer, not a whole one."""

    def __init__(self, where: str, partial: bytes = b"") -> None:
        super().__init__(f"the connection ended in {where}, after {partial[-80:]!r}")
        self.partial = partial


class Closed(AssertionError):
    """The connection ended, cleanly, where a message might have begun."""


@dataclass
class Head:
    """A start line and the field lines below it."""

    start: bytes
    fields: FieldLines
    raw: bytes

    def get(self, name: str) -> str | None:
        """The combined value of `name`, its lines joined by a comma (RFC 9110 §5.2), or None."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def all(self, name: str) -> list[str]:
        """The value of each line of `name`."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


@dataclass
class Bytes:
    """Bytes as they arrive from `receive` (b"" at the end of the stream); `seen` holds every one of them."""

    receive: Callable[[], Awaitable[bytes]]
    buffer: bytearray = field(default_factory=bytearray)
    seen: bytearray = field(default_factory=bytearray)
    ended: bool = False

    async def more(self) -> bool:
        """Wait for more bytes; False if the stream has ended."""
        if self.ended:
            return False
        piece = await self.receive()
        self.buffer += piece
        self.seen += piece
        self.ended = not piece
        return bool(piece)

    def take(self, size: int) -> bytes:
        """The next `size` bytes of the buffer, removed from it."""
        piece = bytes(self.buffer[:size])
        del self.buffer[:size]
        return piece

    async def exactly(self, size: int, partial: bytearray, where: str) -> None:
        """Append the next `size` bytes to `partial`, as they come."""
        while size:
            if not self.buffer and not await self.more():
                raise Truncated(where, bytes(partial))
            piece = self.take(size)
            partial += piece
            size -= len(piece)

    async def line(self, where: str, partial: bytes = b"") -> bytes:
        """The next line, less its CR LF; a bare LF or CR is an error."""
        while b"\n" not in self.buffer:
            if not await self.more():
                raise Truncated(where, partial + bytes(self.buffer))
        line = self.take(self.buffer.index(b"\n") + 1)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise NotHTTP(f"a line that CR LF does not end, in {where}: {line!r}")
        return line[:-2]


async def read_head(source: Bytes) -> Head:
    """The next message head; `Closed` if the stream ends before its first byte."""
    if not source.buffer and not await source.more():
        raise Closed("the connection was closed")
    start = await source.line("the start line")
    lines = [start]
    fields: FieldLines = []
    while line := await source.line("the fields", b"\r\n".join(lines)):
        lines.append(line)
        match = _FIELD_LINE.match(line)
        if match is None:
            raise NotHTTP(f"not a field line: {line!r}")
        fields.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return Head(start, fields, b"\r\n".join(lines) + b"\r\n\r\n")


def parse_status_line(line: bytes) -> tuple[str, int, str]:
    """HTTP version, status and reason phrase of a status line (RFC 9112 §4)."""
    match = _STATUS_LINE.match(line)
    if match is None:
        raise NotHTTP(f"not a status line: {line!r}")
    return match[1].decode(), int(match[2]), match[3].decode("latin-1")


def parse_request_line(line: bytes) -> tuple[str, str, str]:
    """Method, target and HTTP version of a request line (RFC 9112 §3)."""
    match = _REQUEST_LINE.match(line)
    if match is None:
        raise NotHTTP(f"not a request line: {line!r}")
    return match[1].decode(), match[2].decode("latin-1"), match[3].decode()


def content_length(head: Head) -> int | None:
    """The one Content-Length of a head; several, or one that is no number, are an error (RFC 9112 §6.3)."""
    values = head.all("content-length")
    if not values:
        return None
    if len(values) > 1 or not (values[0].isascii() and values[0].isdigit()):
        raise NotHTTP(f"Content-Length: {values}")
    if head.get("transfer-encoding") is not None:
        raise NotHTTP("both Content-Length and Transfer-Encoding (RFC 9112 §6.2)")
    return int(values[0])


def is_chunked(head: Head) -> bool:
    """Whether the message is framed by chunks; any other transfer coding is an error here."""
    coding = head.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        raise NotHTTP(f"Transfer-Encoding: {coding}")
    return coding is not None


async def read_chunked(source: Bytes, into: bytearray) -> None:
    """Append a chunked body to `into`; trailer fields are read and dropped (RFC 9112 §7.1)."""
    while True:
        line = await source.line("a chunk's size", bytes(into))
        match = _CHUNK_SIZE.match(line)
        if match is None:
            raise NotHTTP(f"not a chunk size: {line!r}")
        if (size := int(match[1], 16)) == 0:
            break
        await source.exactly(size, into, "a chunk")
        if await source.line("a chunk's end", bytes(into)):
            raise NotHTTP("a chunk longer than its size")
    while await source.line("the trailers", bytes(into)):
        pass


async def read_until_close(source: Bytes, into: bytearray) -> None:
    """Append everything up to the end of the stream to `into`."""
    into += source.take(len(source.buffer))
    while await source.more():
        into += source.take(len(source.buffer))


async def read_request_body(source: Bytes, head: Head, into: bytearray) -> None:
    """Append the body of a request to `into` (RFC 9112 §6.3: without framing fields there is none)."""
    length = content_length(head)
    if is_chunked(head):
        await read_chunked(source, into)
    elif length:
        await source.exactly(length, into, "a request's body")


async def read_response_body(source: Bytes, head: Head, status: int, method: str, into: bytearray) -> None:
    """Append the body of a response to a `method` request to `into` (RFC 9112 §6.3, in its order)."""
    if method == "HEAD" or status in (204, 304) or status < 200:
        return
    length = content_length(head)
    if is_chunked(head):
        await read_chunked(source, into)
    elif length is not None:
        await source.exactly(length, into, "a response's body")
    else:
        await read_until_close(source, into)
