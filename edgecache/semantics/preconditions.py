"""Conditional requests answered from stored responses (RFC 9110 §13, RFC 9111 §4.3.2)."""

from __future__ import annotations

import re
from typing import Final

from edgecache.semantics.http_date import parse_date
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.stored_response import Stored

READS: Final = frozenset((b"if-none-match", b"if-modified-since", b"range"))
ENTITY_TAG: Final = re.compile(rb"[ \t]*((?:W/)?\"[!#-~\x80-\xff]*\")[ \t]*(?:,|\Z)")


def is_not_modified(request: Request, stored: Stored) -> bool:
    """Whether the client already has `stored`, so that the response is 304.

    The order is RFC 9110 §13.2.2's: `If-None-Match` where it is present, else `If-Modified-Since`.
    """
    if stored.status != 200:
        return False
    none_match = request.fields.get(b"if-none-match")
    if none_match is not None:
        return _names(none_match, stored.etag)
    since = request.fields.get(b"if-modified-since")
    return since is not None and _unmodified_since(since, stored)


def is_unconditional(fields: Fields) -> bool:
    """Whether a request wants the whole, whatever it has already."""
    index = fields.index
    return b"if-none-match" not in index and b"if-modified-since" not in index and b"range" not in index


def _names(none_match: bytes, etag: bytes | None) -> bool:
    """RFC 9110 §13.1.2: `*` names whatever is stored; tags compare weakly (§8.8.3.2)."""
    if none_match.strip(b" \t") == b"*":
        return True
    if etag is None:
        return False
    opaque = etag.removeprefix(b"W/")
    position = 0
    while match := ENTITY_TAG.match(none_match, position):
        if match[1].removeprefix(b"W/") == opaque:
            return True
        position = match.end()
        if position >= len(none_match):
            break
    return False


def _unmodified_since(since: bytes, stored: Stored) -> bool:
    """RFC 9110 §13.1.3, and RFC 9111 §4.3.2: Date, or its arrival, for an absent Last-Modified."""
    moment = parse_date(since, int(stored.received))
    if moment is None:
        return False
    modified = parse_date(stored.last_modified or stored.fields.get(b"date") or b"", int(stored.received))
    return (stored.received if modified is None else modified) <= moment
