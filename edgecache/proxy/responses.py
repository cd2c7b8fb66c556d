"""Responses made from a stored one: the whole, its head, a 304, a 206 of one or several parts, a 416.

Pure: from the stored response, the request and the time to a `FullResponse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from edgecache.semantics import ranges
from edgecache.semantics.field_codec import pack
from edgecache.semantics.forwarding import downstream_lines
from edgecache.semantics.http_date import format_date
from edgecache.semantics.message import FieldLine, Fields, Request, Response
from edgecache.semantics.outcomes import Result
from edgecache.semantics.preconditions import is_not_modified
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Content, cut
from edgecache.semantics.stored_response import Stored, current_age
from edgecache.storage.memory import Entry
from edgecache.telemetry.exchange import StoredResponse
from edgecache.wire.body import Body
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse

BOUNDARY: Final = b"edgecache-3d6b6a416f9b5a1c"  # in no way secret: a part is delimited by its Content-Range too
IN_304: Final = frozenset(  # RFC 9110 §15.4.5, and what a browser or a cache applies from a 304
    b"cache-control content-location date etag expires last-modified vary cdn-cache-control cache-status "
    b"strict-transport-security surrogate-control timing-allow-origin permissions-policy document-policy "
    b"referrer-policy x-frame-options x-content-type-options x-xss-protection x-permitted-cross-domain-policies "
    b"origin-agent-cluster reporting-endpoints report-to nel accept-ch critical-ch".split()
)
FAMILIES_IN_304: Final = (b"access-control-", b"cross-origin-", b"content-security-policy")  # a browser checks these
PROBLEM: Final = b"Content-Type: application/problem+json\r\n"
HTML: Final = b"Content-Type: text/html; charset=utf-8\r\n"
WITHOUT_LENGTH: Final = frozenset((204, 304))


class Kept(Protocol):
    """A stored response, in memory or as a record."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def reason(self) -> bytes:
        """The phrase that came with it."""

    @property
    def block(self) -> bytes:
        """Its packed fields."""

    @property
    def received(self) -> float:
        """When it came: epoch seconds."""

    @property
    def initial_age(self) -> float:
        """How old it was then, in seconds."""

    @property
    def lifetime(self) -> float:
        """How old it may become and be fresh, in seconds."""


def respond(
    entry: Entry, request: Request, now: float, outcome: bytes, most_ranges: int, elsewhere: int | None = None
) -> FullResponse | None:
    """The response to `request` out of `entry`; `outcome` is its Cache-Status.

    None if the bytes that are wanted are not in `entry`: it holds other parts, or its content, of `elsewhere` bytes,
    lies elsewhere.
    """
    fields = request.fields
    here = entry.segments is None and elsewhere is None
    if b"if-none-match" not in fields and b"if-modified-since" not in fields and b"range" not in fields and here:
        return whole(entry, now, outcome, entry.content, len(entry.content))
    stored = entry.stored
    if entry.segments is None and is_not_modified(request, stored):
        return not_modified(stored, now, outcome)
    length = entry.length if elsewhere is None else elsewhere
    if elsewhere is not None and request.method == b"HEAD":
        return whole(entry, now, outcome, b"", length)
    spans = ranges.wanted_spans(request, stored, length, most_ranges)
    if spans is None:
        return whole(entry, now, outcome, entry.content, length) if here else None
    if not spans:
        return _unsatisfiable(stored, length, now, outcome)
    pieces = [_piece(entry, span) for span in spans] if elsewhere is None else [None]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces):
        return None
    if len(spans) == 1:
        return part(stored, spans[0], length, now, outcome, known[0])
    return multipart(stored, spans, known, length, now, outcome)


def whole(kept: Kept, now: float, outcome: bytes, content: Content, length: int) -> FullResponse:
    """The whole of `kept`, of `length` bytes."""
    age = int(current_age(kept, now))
    fields = b"%bAge: %d\r\nCache-Status: %b\r\n" % (kept.block, age, outcome)
    said = None if kept.status in WITHOUT_LENGTH else length
    return FullResponse(kept.status, fields, content, said, kept.reason)


def not_modified(stored: Stored, now: float, outcome: bytes) -> FullResponse:
    """The 304 that `stored` gives."""
    kept = [line for line in stored.fields if (name := line[0].lower()) in IN_304 or name.startswith(FAMILIES_IN_304)]
    return _made(304, kept, stored, now, outcome)


def part(stored: Stored, span: Span, length: int, now: float, outcome: bytes, content: Content = b"") -> FullResponse:
    """The 206 of one `span` of a whole of `length` bytes."""
    line = (b"Content-Range", ranges.content_range_field(span, length))
    return _made(206, _of_parts(stored), stored, now, outcome, line, content=content, length=len(span))


def part_head(stored: Stored, now: float, outcome: bytes) -> FullResponse:
    """The head of a 206 out of `stored`, without its Content-Range and Content-Length."""
    return _made(206, _of_parts(stored), stored, now, outcome)


def _unsatisfiable(stored: Stored, length: int, now: float, outcome: bytes) -> FullResponse:
    """The 416 of a whole of `length` bytes that has none of those asked for (RFC 9110 §15.5.17)."""
    line = (b"Content-Range", b"bytes */%d" % length)
    kept = _of_parts(stored).without((b"content-type", b"content-encoding", b"etag", b"last-modified"))
    return _made(416, kept, stored, now, outcome, line, length=0)


def multipart(
    stored: Stored, spans: list[Span], pieces: list[Content], length: int, now: float, outcome: bytes
) -> FullResponse:
    """The 206 of several `spans` of a whole of `length` bytes."""
    fields = _of_parts(stored)
    content = ranges.multipart(spans, pieces, length, fields.get(b"content-type"), BOUNDARY)
    typed = (b"Content-Type", b"multipart/byteranges; boundary=" + BOUNDARY)
    rest = fields.without((b"content-type",))
    return _made(206, rest, stored, now, outcome, typed, content=content, length=len(content))


def _made(
    status: int,
    lines: Iterable[FieldLine],
    stored: Stored,
    now: float,
    outcome: bytes,
    *more: FieldLine,
    content: Content = b"",
    length: int | None = None,
) -> FullResponse:
    age = int(current_age(stored, now))
    fields = pack((*more, *lines, (b"Age", b"%d" % age), (b"Cache-Status", outcome)))
    return FullResponse(status, fields, content, length)


def _of_parts(stored: Stored) -> Fields:
    return stored.fields.without((b"content-length", b"content-range"))


def _piece(entry: Entry, span: Span) -> Content | None:
    if entry.segments is not None:
        return entry.segments.slice(span)
    return cut(entry.content, span.first, span.end)


def relayed(response: Response, outcome: bytes, now: float, hidden: frozenset[bytes]) -> bytes:
    """The fields, packed, of a response that is passed on without those that are `hidden`; a missing Date is added."""
    lines: list[FieldLine] = downstream_lines(response.fields, hidden)
    if b"date" not in response.fields:
        lines.append((b"Date", format_date(now)))
    lines.append((b"Cache-Status", outcome))
    return pack(lines)


def redirect(request: Request, location: bytes) -> FullResponse:
    """The response that sends a client elsewhere for good, with the method that it used (RFC 9110 §15.4.2, §15.4.9)."""
    status = 301 if request.method in (b"GET", b"HEAD") else 308
    return FullResponse(status, pack([(b"Location", location)]), length=0, failure="redirect")


def send_stored(
    exchange: Exchange,
    response: FullResponse,
    entry: StoredResponse,
    result: Result,
    outcome: bytes,
    body: Body | None = None,
) -> None:
    """Answer with a `response` built out of `entry`, or its head and `body`; `outcome` is its Cache-Status."""
    exchange.result, exchange.cache_status, exchange.entry = result, outcome, entry
    if body is None:
        exchange.send(response)
    else:
        exchange.stream(response.status, response.fields, response.length, body, response.reason)


def for_people(request: Request, response: FullResponse) -> FullResponse:
    """`response`, of our own, as the page that its site has for browsers, if it has one."""
    if not response.fields.startswith(PROBLEM):
        return response
    accept = b",".join(request.fields.all(b"accept")) if b"accept" in request.fields else b""
    page = request.policy.site.error_pages.page_for(response.status, accept)
    if page is None:
        return response
    fields = HTML + response.fields.removeprefix(PROBLEM)
    return response._replace(fields=fields, content=page, length=len(page))


def reply_locally(exchange: Exchange, response: FullResponse, outcome: bytes = b"") -> None:
    """Answer with a `response` of our own; `outcome` is its Cache-Status, if it has one."""
    exchange.result, exchange.failure = Result.ERROR, response.failure
    policy = exchange.request.policy
    if policy is not None and policy.site.error_pages is not None:
        response = for_people(exchange.request, response)
    if outcome:
        exchange.cache_status = outcome
        response = response._replace(fields=response.fields + pack([(b"Cache-Status", outcome)]))
    exchange.send(response)
