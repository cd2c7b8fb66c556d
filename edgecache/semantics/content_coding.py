"""Content codings applied here to stored responses (RFC 9110 §8.4): which, for which clients, and with which ETag.

A coded representation differs from its source, so it has its own strong ETag (RFC 9110 §8.8.3.3): the
opaque tag with `;gzip` after it. A weak one holds for both. Ranges refer to the uncoded representation only. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from edgecache.semantics.memoize import LONGEST
from edgecache.semantics.message import Fields, Request, members
from edgecache.semantics.rules.actions import Compress
from edgecache.semantics.stored_response import Stored
from edgecache.semantics.vary import weighted_codings

LARGEST: Final = 10 * 1024 * 1024  # bytes of a content that is coded
ACCEPT_ENCODING: Final = b"accept-encoding"
VARIES: Final = (b"Vary", b"Accept-Encoding")
NO_TRANSFORM: Final = b"no-transform"  # RFC 9110 §7.7, RFC 9111 §5.2.1.6 and §5.2.2.6
OF_ONE_CLIENT: Final = frozenset((b"set-cookie", b"set-cookie2"))
PER_USER: Final = frozenset((b"cookie", b"authorization"))
OF_THE_CONTENT: Final = frozenset(  # of the uncoded content, or of its bytes (RFC 9530)
    b"accept-ranges content-length content-md5 content-digest repr-digest digest etag".split()
)
MARK: Final = re.compile(rb';(?:gzip|zstd|br)"(?=[ \t]*(?:,|\Z))')
ESSENCE: Final = re.compile(rb"[ \t]*([^;, \t]*)")


def media_type(content_type: bytes) -> bytes:
    """The media type without its parameters, in lower case (RFC 9110 §8.3.1)."""
    match = ESSENCE.match(content_type)
    return b"" if match is None else match[1].lower()


def may_vary_by_coding(compress: Compress | None, status: int, fields: Fields, content_type: bytes) -> bool:
    """Whether a response with these fields may come in several codings, so that it has to say so."""
    if compress is None or not compress.codings or status not in (200, 206, 304):
        return False
    if b"content-encoding" in fields or NO_TRANSFORM in (fields.get(b"cache-control") or b"").lower():
        return False
    return bool(compress.types(media_type(content_type)))


def may_be_coded(stored: Stored) -> bool:
    """Whether the content may be transformed at all, and is the same for all clients.

    What one client's secrets and another's input go into must not be compressed together: its length tells them
    (BREACH, https://breachattack.com).
    """
    fields = stored.fields
    if stored.status != 200 or stored.whole_length is not None or b"content-encoding" in fields:
        return False
    if b"content-range" in fields:  # a slice
        return False
    if not OF_ONE_CLIENT.isdisjoint(fields.index) or not PER_USER.isdisjoint(stored.vary):
        return False
    said = {member.partition(b"=")[0] for member in members(fields.get(b"cache-control"))}
    return said.isdisjoint((NO_TRANSFORM, b"private", b"no-store"))


def codings_for(compress: Compress | None, request: Request, stored: Stored, length: int) -> tuple[bytes, ...]:
    """The codings to make of the content of `stored`, of `length` bytes, which came in response to `request`."""
    if compress is None or not max(compress.min_size, 1) <= length <= LARGEST or not may_be_coded(stored):
        return ()
    key = request.policy.actions.key
    by_user = key.cookies or not PER_USER.isdisjoint(key.headers)
    if by_user or b"authorization" in request.fields:
        return ()
    return compress.codings if compress.types(media_type(stored.content_type)) else ()


def accepts_coded(fields: Fields) -> bool:
    """Whether a request may be answered with a coded representation: not for a range, nor against its wish."""
    index = fields.index
    if b"range" in index:
        return False
    return b"cache-control" not in index or NO_TRANSFORM not in index[b"cache-control"].lower()


def preferred(accept_encoding: bytes | None, codings: tuple[bytes, ...]) -> bytes | None:
    """Which of `codings`, the best first, a client wants most; None: none of them (RFC 9110 §12.5.3)."""
    if accept_encoding is None:  # it accepts any, but those are clients that can decode none
        return None
    choose = _preferred if len(accept_encoding) <= LONGEST else _preferred.__wrapped__
    return choose(accept_encoding, codings)


@lru_cache(maxsize=4096)
def _preferred(accept_encoding: bytes, codings: tuple[bytes, ...]) -> bytes | None:
    weights = weighted_codings(accept_encoding)
    if weights is None:
        return None
    others = weights.get(b"*", 0.0)
    best, most = None, weights.get(b"identity", 0.0)
    for coding in codings:
        weight = weights.get(coding, others)
        if weight > most or (weight == most and weight > 0 and best is None):
            best, most = coding, weight
    return best


def coded(stored: Stored, coding: bytes) -> Stored:
    """The head of the representation of `stored` in a coding."""
    lines = [(b"Content-Encoding", coding)]
    etag = None if stored.etag is None else tag_of(stored.etag, coding)
    if etag is not None:
        lines.append((b"ETag", etag))
    fields = varying_by_coding(stored.fields.without(OF_THE_CONTENT)).plus(*lines)
    return stored._replace(fields=fields, etag=etag)


def varying_by_coding(fields: Fields) -> Fields:
    """`fields` of a response that comes in several codings."""
    varies = {b"*", ACCEPT_ENCODING} & set(members(fields.get(b"vary")))
    return fields if varies else fields.plus(VARIES)


def tag_of(etag: bytes, coding: bytes) -> bytes:
    """The ETag of a representation in a coding."""
    return etag[:-1] + b";" + coding + b'"' if etag[:1] == b'"' else etag


def uncoded_tags(value: bytes) -> bytes:
    """A list of entity tags with those of coded representations in the form that the origin knows."""
    return MARK.sub(b'"', value)
