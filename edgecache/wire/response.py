"""A complete response, and the one that this server makes of its own errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple

import orjson

from edgecache.semantics.field_codec import pack
from edgecache.semantics.message import FieldLine
from edgecache.semantics.rope import Content

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class FullResponse(NamedTuple):
    """A response whose content is at hand. No field of it is one connection's business: the writer adds those."""

    status: int
    fields: bytes  # packed, without Content-Length
    content: Content = b""
    length: int | None = None  # that Content-Length announces; None: it is not sent
    reason: bytes = b""  # empty: the standard phrase
    failure: str = ""  # the reason for a response of our own: a fixed word


def local_reply(status: int, failure: str, detail: str, *more: FieldLine) -> FullResponse:
    """One of our own errors as problem details (RFC 9457), never stored; nothing in it comes from a message."""
    title = REASONS.get(status, b"Error").decode()
    content = orjson.dumps({"title": title, "status": status, "detail": detail, "reason": failure})
    fields = pack(((b"Content-Type", b"application/problem+json"), (b"Cache-Control", b"no-store"), *more))
    return FullResponse(status, fields, content, len(content), failure=failure)
