"""Byte ranges (RFC 9110 §14): parsing, selection, and combination of parts.

Positions are bytes from 0; a `Span` is half-open, [first, end).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from edgecache.semantics.http_date import parse_date
from edgecache.semantics.message import Request, Response
from edgecache.semantics.rope import Content, cut, joined
from edgecache.semantics.stored_response import Stored

READS: Final = frozenset((b"range", b"if-range"))
BYTES_RANGE: Final = re.compile(rb"bytes[ \t]*=[ \t]*(.*)", re.IGNORECASE)
SPEC: Final = re.compile(rb"([0-9]+)?-([0-9]+)?")
CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
MOST_SPECS: Final = 1024  # that are read
MOST_IN_PARTS: Final = 1024 * 1024  # bytes of several parts together
MOST_SEGMENTS: Final = 64  # parts of one whole that are kept apart
MULTIPART: Final = re.compile(rb"multipart/byteranges\b.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The bytes [first, end) of a representation."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True, slots=True)
class Part:
    """A `Content-Range`: the span, and the length of the whole where it is known (RFC 9110 §14.4)."""

    first: int
    end: int
    whole: int | None


RangeSpec = tuple[int | None, int | None]  # (first, last) as written; (None, n) is the last n bytes


def parse_range(value: bytes | None) -> list[RangeSpec] | None:
    """The specs of a `Range` in bytes, or None where the field is absent, invalid or of another unit: then ignored."""
    match = BYTES_RANGE.fullmatch(value) if value is not None else None
    if match is None:
        return None
    specs: list[RangeSpec] = []
    for text in match[1].split(b","):
        if len(specs) >= MOST_SPECS:  # more than is ever served: the rest is not parsed
            break
        text = text.strip(b" \t")
        if not text:
            continue  # RFC 9110 §5.6.1: empty list members are ignored
        spec = SPEC.fullmatch(text)
        if spec is None or text == b"-":
            return None
        first, last = (None if number is None else _position(number) for number in spec.groups())
        if first is not None and last is not None and last < first:  # RFC 9110 §14.1.1
            return None
        specs.append((first, last))
    return specs or None


def _position(digits: bytes) -> int:
    return int(digits) if len(digits) <= 18 else 10**18  # beyond any representation


def satisfiable(specs: Iterable[RangeSpec], length: int) -> list[Span]:
    """The spans of a representation of `length` bytes that `specs` name, unsatisfiable ones left out (§14.1.2)."""
    spans = []
    for first, last in specs:
        if first is None:
            first, last = max(0, length - (last or 0)), length - 1
        end = length if last is None else min(last + 1, length)
        if first < end:
            spans.append(Span(first, end))
    return spans


def wanted_spans(request: Request, stored: Stored, length: int, most: int) -> list[Span] | None:
    """The spans to send of a representation of `length` bytes: None = all of it, empty = not satisfiable (416).

    More than `most` ranges, ranges that overlap, and several that are large together (they would be copied for one
    client) are ignored (RFC 9110 §14.2): the complete representation is sent.
    """
    if (request.method != b"GET" and request.content is None) or stored.status not in (200, 206):
        return None  # §14.2: Range is defined for GET alone, and by RFC 10008 for QUERY
    specs = parse_range(request.fields.get(b"range"))
    if specs is None or len(specs) > most or not if_range_holds(request, stored):
        return None
    if not length and any(first is None and last for first, last in specs):
        return None  # §14.1.2: a suffix that is longer than the whole is the whole, which no Content-Range can say
    spans = satisfiable(specs, length)
    if len(spans) > 1 and sum(span.end - span.first for span in spans) > MOST_IN_PARTS:
        return None
    ordered = sorted(spans)
    if any(before.end > after.first for before, after in pairwise(ordered)):
        return None
    return spans


def if_range_holds(request: Request, stored: Stored) -> bool:
    """RFC 9110 §13.1.5: an exact match of a strong ETag, or of a Last-Modified that is strong; absent = true."""
    value = request.fields.get(b"if-range")
    if value is None:
        return True
    if value[:1] == b'"' or value[:2] == b"W/":
        return value == stored.etag and value[:1] == b'"'
    return value == stored.last_modified and _is_strong_date(stored)


def _is_strong_date(stored: Stored) -> bool:
    """RFC 9110 §8.8.2.2: Last-Modified at least a second before Date can be trusted to name one version."""
    modified = parse_date(stored.last_modified or b"")
    date = parse_date(stored.fields.get(b"date") or b"")
    return modified is not None and date is not None and date - modified >= 1


def content_range(value: bytes | None) -> Part | None:
    """`Content-Range` as a value, or None where it is absent or invalid (RFC 9110 §14.4)."""
    match = CONTENT_RANGE.fullmatch(value) if value is not None else None
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    whole = None if match[3] == b"*" else int(match[3])
    if last < first or (whole is not None and last >= whole):
        return None
    return Part(first, last + 1, whole)


def storable_part(response: Response) -> bool:
    """Whether a 206 says which single part of a whole of known length it holds (RFC 9111 §3.3)."""
    part = content_range(response.fields.get(b"content-range"))
    if part is None or part.whole is None or MULTIPART.match(response.fields.get(b"content-type") or b""):
        return False
    length = response.fields.get(b"content-length")
    return length is None or (length.isdigit() and int(length) == part.end - part.first)


def rest_begins(response: Response, etag: bytes, at: int, end: int, whole: int) -> int | None:
    """Offset of [at, end) in the content of the response to a range request; None if it does not contain them.

    `etag` is the strong validator (RFC 9110 §13.1.5). An origin without range support sends the whole.
    """
    if response.fields.get(b"etag") != etag:
        return None
    if response.status == 200 and response.framing.length == whole == end:
        return at
    part = content_range(response.fields.get(b"content-range"))
    fits = part is not None and (part.first, part.end, part.whole) == (at, end, whole)
    return 0 if response.status == 206 and fits else None


def strong_etag(stored: Stored) -> bytes | None:
    """The validator by which parts may be joined (RFC 9111 §3.4), or None."""
    return stored.etag if stored.etag is not None and stored.etag[:1] == b'"' else None


def may_combine(stored: Stored, other: Stored) -> bool:
    """Whether both are parts of one representation: the same strong validator and length (RFC 9111 §3.4).

    Their Vary and Content-Encoding must agree too: origins exist whose ETags do not distinguish those.
    """
    etag = strong_etag(stored)
    if etag is None or etag != strong_etag(other) or stored.whole_length != other.whole_length:
        return False
    coding = b"content-encoding"
    varies_alike = (stored.vary, stored.selecting) == (other.vary, other.selecting)
    return varies_alike and stored.fields.get(coding) == other.fields.get(coding)


@dataclass(frozen=True, slots=True)
class Segments:
    """The known parts of a whole: disjoint, in order, not touching; each (first byte, content)."""

    whole: int
    parts: tuple[tuple[int, Content], ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.parts) == 1 and len(self.parts[0][1]) == self.whole

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(len(content) for _, content in self.parts)

    def slice(self, span: Span) -> Content | None:
        """The bytes of `span`, or None where one of them is unknown."""
        for first, content in self.parts:
            if first <= span.first and span.end <= first + len(content):
                return cut(content, span.first - first, span.end - first)
        return None

    def joined(self, first: int, content: Content) -> Segments:
        """These with `content` at `first`; where both know a byte the newer one counts. Of too many, the least goes."""
        spans = [(first, content)]
        for begin, old in self.parts:
            end = begin + len(old)
            if end < first or begin > first + len(content):
                spans.append((begin, old))
                continue
            left = cut(old, 0, max(0, first - begin))
            right = cut(old, min(len(old), max(0, first + len(content) - begin)), len(old))
            content, first = joined(left, content, right), min(begin, first)
            spans[0] = (first, content)
        if len(spans) > MOST_SEGMENTS:
            spans.remove(min(spans[1:], key=lambda part: len(part[1])))
        return Segments(self.whole, tuple(sorted(spans, key=lambda part: part[0])))

    def missing_after(self) -> int | None:
        """Where the one gap at the end begins if the start is known and only the end is missing; else None."""
        if len(self.parts) == 1 and self.parts[0][0] == 0 and not self.complete:
            return len(self.parts[0][1])
        return None


def content_range_field(span: Span, length: int) -> bytes:
    """The value of `Content-Range` for `span` of a whole of `length` bytes."""
    return b"bytes %d-%d/%d" % (span.first, span.end - 1, length)


def multipart(
    spans: Sequence[Span], pieces: Sequence[Content], length: int, content_type: bytes | None, boundary: bytes
) -> bytes:
    """The content of a `multipart/byteranges` response (RFC 9110 §14.6), parts in the requested order."""
    out = []
    for span, piece in zip(spans, pieces, strict=True):
        typed = b"Content-Type: " + content_type + b"\r\n" if content_type else b""
        ranged = b"Content-Range: " + content_range_field(span, length) + b"\r\n\r\n"
        out.append(b"\r\n--" + boundary + b"\r\n" + typed + ranged + bytes(piece))
    return b"".join(out) + b"\r\n--" + boundary + b"--\r\n"
