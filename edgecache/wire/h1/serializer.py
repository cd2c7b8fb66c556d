"""Messages to bytes. Every value was validated when it came in, so nothing here can split a line."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import orjson

from edgecache.semantics.memoize import memoize
from edgecache.semantics.message import FieldLine
from edgecache.semantics.rope import Piece

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def status_line(status: int, reason: bytes = b"") -> bytes:
    """The status line of a response, with its CRLF."""
    return _status_line(status, reason)


@memoize(1024)
def _status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, reason or REASONS.get(status, b""))


def field_block(lines: Iterable[FieldLine]) -> bytes:
    """Field lines, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % line for line in lines])


def request_line(method: bytes, target: bytes) -> bytes:
    """The request line, with its CRLF."""
    return method + b" " + target + b" HTTP/1.1\r\n"


def chunk(piece: Piece) -> bytes:
    """`piece` as one chunk (RFC 9112 §7.1)."""
    return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))


LAST_CHUNK: Final = b"0\r\n\r\n"


def problem(status: int, reason: str, detail: str) -> bytes:
    """The content of one of our own errors (RFC 9457): nothing in it comes from a request or from the origin."""
    title = REASONS.get(status, b"Error").decode()
    return orjson.dumps({"title": title, "status": status, "detail": detail, "reason": reason})


def problem_head(status: int, content: bytes, *more: FieldLine) -> bytes:
    """The head of one of our own errors, without its last empty line; never stored."""
    lines = (
        (b"Content-Type", b"application/problem+json"),
        (b"Content-Length", b"%d" % len(content)),
        (b"Cache-Control", b"no-store"),
        *more,
    )
    return status_line(status) + field_block(lines)


def refusal(status: int, reason: str, detail: str, *, head_only: bool = False) -> bytes:
    """A whole answer that refuses a message and announces the end of the connection; `head_only` to a HEAD."""
    content = problem(status, reason, detail)
    head = problem_head(status, content, (b"Connection", b"close")) + b"\r\n"
    return head if head_only else head + content


def says_hsts(head: bytes) -> bool:
    """Whether the origin has said it: one such field is the most there may be (RFC 6797 §7.1)."""
    return b"\nstrict-transport-security:" in head.lower()
