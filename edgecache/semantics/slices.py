"""Slices: a large representation that is fetched, stored and served in pieces of one size, all of one version.

    head     scheme SP "slices=" size "://" …                        fields, length of the whole, and version
    slice    scheme SP "slice=" size "," number "," version "://" …  the bytes from number x size on

Both keys are that of the URL with another group (`cache_key.py`), so that a purge of the URL, its path, its site or a
tag names them too. A version is a digest of the strong validator (RFC 9110 §8.8.1), the length of the whole and the
content coding: slices of two versions have two keys, and never meet in one response (RFC 9110 §15.3.7.3).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from edgecache.semantics.cache_key import key_under
from edgecache.semantics.http_date import parse_date
from edgecache.semantics.message import Fields, Framing, Request, Response, members
from edgecache.semantics.ranges import MULTIPART, Span, content_range, content_range_field, parse_range
from edgecache.semantics.rfc9111 import unconditional
from edgecache.semantics.stored_response import etag_of

OF_THE_CONTENT: Final = frozenset((b"content-length", b"content-range", b"content-digest", b"content-md5"))
HEAD: Final = b" slices="
SLICE: Final = b" slice="


class Slice(NamedTuple):
    """One slice, numbered from 0; without a version it is the first requested slice, and brings the head."""

    size: int
    number: int
    version: bytes = b""

    @property
    def first(self) -> int:
        """Its first byte in the whole."""
        return self.number * self.size


class Head(NamedTuple):
    """The known properties of the whole object: its length and its version."""

    whole: int
    version: bytes

    def encoded(self) -> bytes:
        """As it is stored."""
        return b"%d %b" % self


class Sliced(NamedTuple):
    """A 206 that is one slice: the response as stored, as a complete one, and what it states about the whole object."""

    response: Response
    head: Head


def head_of(content: bytes) -> Head | None:
    """The head that was stored as `content`; None if it is none."""
    length, _, version = bytes(content).partition(b" ")
    return Head(int(length), version) if length.isdigit() and version else None


def head_request(request: Request, wanted: Slice) -> Request:
    """The request for the slice `wanted` of what `request` asks for, whose response tells of the head."""
    return _asking(request, wanted, HEAD + b"%d" % wanted.size)


def slice_request(request: Request, wanted: Slice) -> Request:
    """The request for the slice `wanted`, whose version is known."""
    return _asking(request, wanted, SLICE + b"%d,%d,%b" % wanted)


def head_key_of(key: bytes, size: int) -> bytes:
    """The cache key of the head of the whole whose key is `key`."""
    return key.replace(b"://", HEAD + b"%d://" % size, 1)


def head_key(request: Request, size: int) -> bytes:
    """The cache key of the head of what `request`, for the whole, asks for."""
    return key_under(request, HEAD + b"%d" % size)


def slice_key_of(key: bytes, size: int, number: int, version: bytes) -> bytes:
    """The cache key of a slice of the whole whose key is `key`."""
    return key.replace(b"://", SLICE + b"%d,%d,%b://" % (size, number, version), 1)


def slice_key(request: Request, wanted: Slice) -> bytes:
    """The cache key of the slice `wanted` of what `request`, for the whole, asks for."""
    return key_under(request, SLICE + b"%d,%d,%b" % wanted)


def _asking(request: Request, wanted: Slice, group: bytes) -> Request:
    last = wanted.first + wanted.size - 1
    fields = unconditional(request).plus((b"Range", b"bytes=%d-%d" % (wanted.first, last)))
    return request._replace(method=b"GET", fields=fields, group=whole_group(request.group) + group)


def whole_group(group: bytes) -> bytes:
    """`group` without what makes it that of a head or a slice."""
    return group.partition(b" slice")[0]


def of_whole(request: Request) -> Request:
    """The request for the whole that `request` asks for a slice of."""
    return request._replace(fields=unconditional(request), group=whole_group(request.group))


def wanted_slice(request: Request) -> Slice:
    """The slice that a request made here asks for."""
    _, _, text = request.group.rpartition(b"=")
    size, *named = text.split(b",")
    if named:
        return Slice(int(size), int(named[0]), named[1])
    specs = parse_range(request.fields.get(b"range"))
    first = specs[0][0] if specs else None
    assert first is not None, "it was made here"
    return Slice(int(size), first // int(size))


def first_wanted(request: Request, size: int) -> int:
    """The number of the slice that `request` needs first, as far as it tells without the length of the whole."""
    specs = parse_range(request.fields.get(b"range"))
    return 0 if not specs or specs[0][0] is None else min(specs[0][0] // size, 10**9)


def numbers(span: Span, size: int) -> range:
    """The numbers of the slices that hold `span`."""
    return range(span.first // size, (span.end - 1) // size + 1)


def sliced(response: Response, wanted: Slice) -> Sliced | None:
    """`response` as the slice `wanted`; None unless it is a 206 of exactly that, with a strong validator."""
    fields = response.fields
    part = content_range(fields.get(b"content-range")) if response.status == 206 else None
    if part is None or part.whole is None or MULTIPART.match(fields.get(b"content-type") or b""):
        return None
    length = part.end - part.first
    if (part.first, part.end) != (wanted.first, min(wanted.first + wanted.size, part.whole)):
        return None
    version = version_of(fields, part.whole)
    if version is None or response.framing.length not in (None, length):
        return None
    kept = fields.without((b"content-length",)).plus((b"Content-Length", b"%d" % length))
    return Sliced(response._replace(status=200, reason=b"OK", fields=kept), Head(part.whole, version))


def contained(response: Response) -> tuple[Span, int] | None:
    """The bytes of a representation that `response` contains, and the length of that; None if it does not say so."""
    length = response.framing.length
    if response.status == 200:
        return None if length is None else (Span(0, length), length)
    part = content_range(response.fields.get(b"content-range")) if response.status == 206 else None
    if part is None or part.whole is None or MULTIPART.match(response.fields.get(b"content-type") or b""):
        return None
    return (Span(part.first, part.end), part.whole) if length in (None, part.end - part.first) else None


def cut_out(response: Response, head: Head, wanted: Slice) -> Sliced:
    """The slice `wanted` of the whole that `response` is, or is a part of."""
    end = min(wanted.first + wanted.size, head.whole)
    lines = (
        (b"Content-Length", b"%d" % (end - wanted.first)),
        (b"Content-Range", content_range_field(Span(wanted.first, end), head.whole)),
    )
    fields = response.fields.without(OF_THE_CONTENT).plus(*lines)
    framing = Framing(end - wanted.first)
    return Sliced(response._replace(status=200, reason=b"OK", fields=fields, framing=framing), head)


def accepts_ranges(fields: Fields) -> bool:
    """Whether the response says that ranges of it can be requested (RFC 9110 §14.3)."""
    return b"bytes" in members(fields.get(b"accept-ranges"))


def as_head(one: Sliced) -> tuple[Response, bytes]:
    """The response and the content that are stored of the whole that `one` is a slice of."""
    content = one.head.encoded()
    fields = one.response.fields.without(OF_THE_CONTENT)
    return one.response._replace(fields=fields, framing=Framing(len(content))), content


def as_whole(one: Sliced) -> Response:
    """The response to a request for the whole, where `one` is all of it."""
    return one.response._replace(fields=one.response.fields.without((b"content-range",)))


def version_of_slice(fields: Fields) -> bytes | None:
    """The version that a stored slice with `fields` is of; None if they are not those of a slice."""
    part = content_range(fields.get(b"content-range"))
    return None if part is None or part.whole is None else version_of(fields, part.whole)


def version_of(fields: Fields, whole: int) -> bytes | None:
    """The version of a representation of `whole` bytes, by its fields; None if no validator of it is strong."""
    validator = strong_validator(fields)
    if validator is None:
        return None
    coding = fields.get(b"content-encoding") or b""
    return blake2b(b"%d %b %b" % (whole, coding, validator), digest_size=16).hexdigest().encode()


def strong_validator(fields: Fields) -> bytes | None:
    """A strong ETag, or, where there is none at all, a Last-Modified that is strong (RFC 9110 §8.8.2.2)."""
    if b"etag" in fields:
        etag = etag_of(fields)
        return etag if etag is not None and etag[:1] == b'"' else None
    modified = fields.get(b"last-modified") or b""
    when, date = parse_date(modified), parse_date(fields.get(b"date") or b"")
    return modified if when is not None and date is not None and date - when >= 1 else None
