"""Answers out of a stored response, as bytes: the whole, its head, a 304, a 206 of one or several parts, a 416.

Pure: what is stored, the request and the time go in, head and content come out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from edgecache.semantics import ranges
from edgecache.semantics.http_date import format_date
from edgecache.semantics.message import FieldLine, Fields, Request, Response
from edgecache.semantics.preconditions import is_not_modified
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Content, cut
from edgecache.semantics.stored_response import Stored
from edgecache.storage.memory import Entry
from edgecache.wire.h1 import serializer as render

BOUNDARY: Final = b"edgecache-3d6b6a416f9b5a1c"  # in no way secret: a part is delimited by its Content-Range too
IN_304: Final = frozenset(  # RFC 9110 §15.4.5, and what a browser or a cache applies from a 304
    b"cache-control content-location date etag expires last-modified vary cdn-cache-control cache-status "
    b"strict-transport-security surrogate-control timing-allow-origin permissions-policy document-policy "
    b"referrer-policy x-frame-options x-content-type-options x-xss-protection x-permitted-cross-domain-policies "
    b"origin-agent-cluster reporting-endpoints report-to nel accept-ch critical-ch".split()
)
FAMILIES_IN_304: Final = (b"access-control-", b"cross-origin-", b"content-security-policy")  # a browser checks these


class Answer(NamedTuple):
    """A finished answer; `head` lacks the empty line that ends it."""

    status: int
    head: bytes
    content: Content = b""
    failure: str = ""  # why it is an answer of ours: a fixed word


def from_entry(entry: Entry, request: Request, now: float, status_member: bytes, most_ranges: int) -> Answer | None:
    """The answer that `entry` gives to `request` now; None if it holds only parts, and not the ones asked for."""
    fields = request.fields
    plain = b"if-none-match" not in fields and b"if-modified-since" not in fields and b"range" not in fields
    if plain and entry.segments is None:
        return _for_method(whole(entry, now, status_member), request)
    stored = entry.stored
    if entry.segments is None and is_not_modified(request, stored):
        return not_modified(stored, entry.age(now), status_member)
    spans = ranges.wanted_spans(request, stored, entry.length, most_ranges)
    if spans is None:
        return _for_method(whole(entry, now, status_member), request) if entry.segments is None else None
    return _partial(entry, stored, spans, now, status_member)


def _for_method(answer: Answer, request: Request) -> Answer:
    return Answer(answer.status, answer.head) if request.method == b"HEAD" else answer


def whole(entry: Entry, now: float, status_member: bytes) -> Answer:
    """The whole of `entry`."""
    head = b"".join(
        (
            render.status_line(entry.status, entry.reason),
            entry.block,
            _length_line(entry.status, len(entry.content)),
            b"Age: %d\r\nCache-Status: %b\r\n" % (entry.age(now), status_member),
        )
    )
    return Answer(entry.status, head, entry.content)


def _length_line(status: int, length: int) -> bytes:
    return b"" if status in (204, 304) else b"Content-Length: %d\r\n" % length


def _head(status: int, fields: Fields, age: int, status_member: bytes, *more: FieldLine) -> bytes:
    extra = (*more, (b"Age", b"%d" % age), (b"Cache-Status", status_member))
    return render.status_line(status) + render.field_block((*fields, *extra))


def not_modified(stored: Stored, age: int, status_member: bytes) -> Answer:
    """The 304 that `stored` gives."""
    kept = Fields(
        line for line in stored.fields if (name := line[0].lower()) in IN_304 or name.startswith(FAMILIES_IN_304)
    )
    return Answer(304, _head(304, kept, age, status_member))


def unsatisfiable(stored: Stored, length: int, age: int, status_member: bytes) -> Answer:
    """The 416 of a whole of `length` bytes that has none of those asked for (RFC 9110 §15.5.17)."""
    line = (b"Content-Range", b"bytes */%d" % length)
    kept = _of_parts(stored).without((b"content-type", b"content-encoding", b"etag", b"last-modified"))
    return Answer(416, _head(416, kept, age, status_member, line, (b"Content-Length", b"0")))


def part_head(stored: Stored, span: Span, length: int, age: int, status_member: bytes) -> bytes:
    """The head of the 206 of one `span` of a whole of `length` bytes."""
    lines = (
        (b"Content-Range", ranges.content_range_field(span, length)),
        (b"Content-Length", b"%d" % len(span)),
    )
    return _head(206, _of_parts(stored), age, status_member, *lines)


def _of_parts(stored: Stored) -> Fields:
    return stored.fields.without((b"content-length", b"content-range"))


def _partial(entry: Entry, stored: Stored, spans: list[Span], now: float, status_member: bytes) -> Answer | None:
    length, age = entry.length, entry.age(now)
    if not spans:
        return unsatisfiable(stored, length, age, status_member)
    pieces = [_piece(entry, span) for span in spans]
    if None in pieces:
        return None
    known = [piece for piece in pieces if piece is not None]
    if len(spans) == 1:
        return Answer(206, part_head(stored, spans[0], length, age, status_member), known[0])
    fields = _of_parts(stored)
    content = ranges.multipart(spans, known, length, fields.get(b"content-type"), BOUNDARY)
    typed = (b"Content-Type", b"multipart/byteranges; boundary=" + BOUNDARY)
    rest = fields.without((b"content-type",))
    head = _head(206, rest, age, status_member, typed, (b"Content-Length", b"%d" % len(content)))
    return Answer(206, head, content)


def _piece(entry: Entry, span: Span) -> Content | None:
    if entry.segments is not None:
        return entry.segments.slice(span)
    return cut(entry.content, span.first, span.end)


def from_upstream(response: Response, status_member: bytes, now: float) -> bytes:
    """The head of an answer that is passed on, without its last empty line; a missing Date is added."""
    if b"date" in response.fields:
        return b"%bCache-Status: %b\r\n" % (response.passed_on, status_member)
    return b"%bDate: %b\r\nCache-Status: %b\r\n" % (response.passed_on, format_date(now), status_member)


def of_ours(status: int, reason: str, detail: str, *more: FieldLine) -> Answer:
    """An answer that this POP makes itself: problem details (RFC 9457), never stored."""
    content = render.problem(status, reason, detail)
    return Answer(status, render.problem_head(status, content, *more), content, reason)


def redirect(request: Request, location: bytes) -> Answer:
    """The answer that sends a client elsewhere for good, with the method that it used (RFC 9110 §15.4.2, §15.4.9)."""
    status = 301 if request.method in (b"GET", b"HEAD") else 308
    lines = ((b"Location", location), (b"Content-Length", b"0"))
    return Answer(status, render.status_line(status) + render.field_block(lines), failure="redirect")
