"""Bodies of HTTP/1.1 messages: readers that take bytes as they arrive and give the content back, framing removed.

Each reader has `feed(data) -> list of content pieces`, `done`, and `rest`, the bytes after the body's end. Sans-IO.
Trailers are read, bounded and dropped (RFC 9110 §6.5.1: a recipient may discard them).
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from edgecache.semantics.message import Framing
from edgecache.wire.errors import WireError

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'  # RFC 9110 §5.6.4
BLANKS: Final = rb"[\t ]*+"  # RFC 9110 §5.6.3: a sender must not, but a recipient must take them
VALUE: Final = BLANKS + rb"=" + BLANKS + rb"(?:" + TOKEN + rb"|" + QUOTED + rb")"
EXTENSION: Final = BLANKS + rb";" + BLANKS + TOKEN + rb"(?:" + VALUE + rb")?+"
SIZE_LINE: Final = rb"([0-9A-Fa-f]{1,15}+)(?:" + EXTENSION + rb")*+"  # RFC 9112 §7.1, §7.1.1: no sign, no prefix
CHUNK_LINE: Final = re.compile(SIZE_LINE)
CHUNK_START: Final = re.compile(SIZE_LINE + rb"\r\n")
TRAILER_LINE: Final = re.compile(TOKEN + rb":[\t -~\x80-\xff]*")
MAX_CHUNK_LINE: Final = 1024
AT_ONCE: Final = 1024  # chunks that are read before others have their turn
FREE_CHUNKS: Final = 16 * 1024  # chunks of a request's body that may be of any size
LEAST_MEAN: Final = 8  # bytes that chunks must hold on average, beyond those
SPARE: Final = 16  # bytes of framing that a chunk may have beside twice its content
MAX_EXCESS: Final = 16 * 1024  # bytes of framing beyond that in all; CVE-2023-39326
MAX_TRAILERS: Final = 8 * 1024


class BadBody(WireError):
    """The framing inside a body is broken, or it is larger than is taken."""

    def __init__(self, reason: str, detail: str = "", *, status: int = 400) -> None:
        super().__init__(reason, detail)
        self.status = status


class BodyReader(Protocol):
    """Content out of framed bytes."""

    done: bool
    tired: bool  # it has done its share of this turn of the event loop: `rest` is to be fed again in the next one
    rest: bytes

    def feed(self, data: bytes) -> list[bytes]:
        """The content in `data`; raises `BadBody`."""

    def end(self) -> bool:
        """The connection has ended: whether the body is complete."""


class LengthBody:
    """A body of a known number of bytes (RFC 9112 §6.2)."""

    __slots__ = ("done", "left", "rest")
    tired = False

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The content in `data`."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return [data]
        piece, self.rest = (data, b"") if size == self.left else (data[: self.left], data[self.left :])
        self.left, self.done = 0, True
        return [piece] if piece else []

    def end(self) -> bool:
        """Whether every byte has arrived."""
        return self.done


class CloseBody:
    """A body that ends with the connection (RFC 9112 §6.3 step 8)."""

    __slots__ = ("done", "rest")
    tired = False

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """All of `data`."""
        return [data]

    def end(self) -> bool:
        """The connection's end is the body's end."""
        self.done = True
        return True


class ChunkedBody:
    """A body in chunks (RFC 9112 §7.1). Nothing is allocated from a size that was only announced.

    A client's chunks are `bounded`: each costs as much work as its bytes, however few they are. An origin's are not:
    streams of events may be made of small ones for as long as they last.
    """

    __slots__ = (
        "_bounded",
        "_buffer",
        "_excess",
        "_left",
        "_short",
        "_state",
        "_trailer_bytes",
        "_turn",
        "done",
        "rest",
        "tired",
    )

    def __init__(self, *, bounded: bool = False) -> None:
        self.done = self.tired = False
        self._bounded = bounded
        self._short = 0  # bytes that the chunks so far hold less than they should on average
        self._turn = 0  # chunks that may still be read in this turn
        self.rest = b""
        self._buffer = b""
        self._excess = 0  # bytes of framing beyond what is allowed for the chunks so far
        self._left = 0  # bytes of the current chunk still to come
        self._state = self._size_line
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The content in `data`; raises `BadBody`."""
        self._buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        position = 0
        self._turn = AT_ONCE
        while not self.done and self._turn > 0:
            after = self._state(position, pieces)
            if after is None:
                break
            position = after
        self._buffer = self._buffer[position:]
        if self._short > LEAST_MEAN * FREE_CHUNKS and self._bounded:
            raise BadBody("chunks-too-small", "the chunks hold hardly anything")
        self.tired = not self.done and self._turn <= 0 and bool(self._buffer)
        if self.done or self.tired:
            self.rest, self._buffer = self._buffer, b""
        return pieces if len(pieces) < 2 else [b"".join(pieces)]  # a piece per read, however small the chunks are

    def end(self) -> bool:
        """Whether the last chunk and the trailers have arrived."""
        return self.done

    def _line(self, position: int, limit: int) -> bytes | None:
        """The line at `position` without its CRLF, or None while it is incomplete."""
        at = self._buffer.find(b"\n", position, position + limit + 2)
        if at < 0:
            if len(self._buffer) - position > limit:
                raise BadBody("chunk-line", "a line of the chunked framing is too long")
            return None
        if at == position or self._buffer[at - 1] != 0x0D:
            raise BadBody("chunk-line", "a line of the chunked framing ends in a bare LF")
        return self._buffer[position : at - 1]

    def _whole_chunks(self, position: int, pieces: list[bytes]) -> int:
        """Take the whole chunks at `position`, however small; where the first begins that is not all here."""
        buffer, excess, first, held = self._buffer, self._excess, len(pieces), 0
        last = first + self._turn
        while len(pieces) < last and (match := CHUNK_START.match(buffer, position)) is not None:
            start = match.end()
            size = int(match[1], 16)
            end = start + size
            if not size or buffer[end : end + 2] != b"\r\n" or start - position > MAX_CHUNK_LINE:
                break
            pieces.append(buffer[start:end])
            held += size
            if excess or start - position > SPARE:
                excess = max(0, excess + start - position - SPARE - 2 * size)
                if excess > MAX_EXCESS:
                    raise BadBody("chunk-overhead", "the chunks hold hardly anything but extensions")
            position = end + 2
        count = len(pieces) - first
        self._excess, self._turn = excess, self._turn - count
        self._short += LEAST_MEAN * count - held
        return position

    def _size_line(self, position: int, pieces: list[bytes]) -> int | None:
        after = self._whole_chunks(position, pieces)
        if after != position:
            return after
        line = self._line(position, MAX_CHUNK_LINE)
        if line is None:
            return None
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            raise BadBody("chunk-size", "a chunk's size is malformed")
        self._left = int(match[1], 16)
        self._turn -= 1
        self._short += LEAST_MEAN - self._left
        self._excess = max(0, self._excess + len(line) + 2 - SPARE - 2 * self._left)
        if self._excess > MAX_EXCESS:
            raise BadBody("chunk-overhead", "the chunks hold hardly anything but extensions")
        self._state = self._chunk if self._left else self._trailer
        return position + len(line) + 2

    def _chunk(self, position: int, pieces: list[bytes]) -> int | None:
        available = len(self._buffer) - position
        if not available:
            return None
        piece = self._buffer[position : position + self._left]
        pieces.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._state = self._chunk_end
        return position + len(piece)

    def _chunk_end(self, position: int, pieces: list[bytes]) -> int | None:
        end = self._buffer[position : position + 2]
        if end == b"\r\n":
            self._state = self._size_line
            return position + 2
        if end in (b"", b"\r"):
            return None
        raise BadBody("chunk-end", "a chunk is longer than its size")

    def _trailer(self, position: int, pieces: list[bytes]) -> int | None:
        line = self._line(position, MAX_TRAILERS)
        if line is None:
            return None
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > MAX_TRAILERS:
            raise BadBody("trailers", "the trailers are too large")
        if not line:
            self.done = True
        elif not TRAILER_LINE.fullmatch(line):
            raise BadBody("trailers", "a trailer is malformed")
        return position + len(line) + 2


def body_reader(framing: Framing, *, bounded: bool = False) -> BodyReader:
    """The reader for a body delimited as `framing` says; `bounded`: by somebody who may want to keep us busy."""
    if framing.chunked:
        return ChunkedBody(bounded=bounded)
    if framing.length is None:
        return CloseBody()
    return LengthBody(framing.length)
