"""Messages to bytes. Every value was validated when it came in, so nothing here can split a line."""

from __future__ import annotations

from typing import Final

from edgecache.semantics.field_codec import pack
from edgecache.semantics.memoize import memoize
from edgecache.semantics.rope import Piece
from edgecache.wire.response import REASONS, FullResponse, local_reply
from edgecache.wire.upstream_request import UpstreamRequest

USUAL_LINES: Final = {  # the status lines of responses with the usual reason phrase, or none
    (status, said): b"HTTP/1.1 %d %b\r\n" % (status, reason)
    for status, reason in REASONS.items()
    for said in (b"", reason)
}


@memoize(1024)
def _unusual_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, reason or REASONS.get(status, b""))


def response_head(status: int, reason: bytes, fields: bytes, length: int | None = None) -> bytes:
    """A response's status line, its packed `fields` and Content-Length, without the empty line."""
    line = USUAL_LINES.get((status, reason)) or _unusual_line(status, reason)
    return line + fields if length is None else b"%b%bContent-Length: %d\r\n" % (line, fields, length)


def persistent_head(response: FullResponse) -> bytes:
    """The head of `response` on a connection that persists after it."""
    return response_head(response.status, response.reason, response.fields, response.length) + b"\r\n"


def request_head(request: UpstreamRequest) -> bytes:
    """The head of `request`, remembered with it."""
    request.h1 = request_line(request.method, request.target) + pack(request.fields) + _hop(request) + b"\r\n"
    return request.h1


def _hop(request: UpstreamRequest) -> bytes:
    """The fields of `request` for this hop: the upgrade, and how the body is delimited (RFC 9112 §6)."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % request.upgrade if request.upgrade else b""
    if request.length is None:
        return upgrade + b"Transfer-Encoding: chunked\r\n"
    return b"%bContent-Length: %d\r\n" % (upgrade, request.length) if request.length else upgrade


def request_line(method: bytes, target: bytes) -> bytes:
    """The request line, with its CRLF."""
    return method + b" " + target + b" HTTP/1.1\r\n"


def chunk(piece: Piece) -> bytes:
    """`piece` as one chunk (RFC 9112 §7.1)."""
    return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))


LAST_CHUNK: Final = b"0\r\n\r\n"


def refusal(status: int, reason: str, detail: str, *, head_only: bool = False) -> bytes:
    """A whole answer that refuses a message and announces the end of the connection; `head_only` to a HEAD."""
    response = local_reply(status, reason, detail, (b"Connection", b"close"))
    head = response_head(status, b"", response.fields, response.length) + b"\r\n"
    return head if head_only else head + bytes(response.content)
