"""The parse level: request streams, response streams and field values, without sockets; each judged by itself."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any
from zlib import crc32

import h11
from hostile import rfc9112
from hostile.readers import agreed
from hostile.rig import Bench, Transport, passed_on
from hostile.tables import ANSWERS, REQUESTS, STORING, all_cases

from edgecache.semantics import cache_control, cache_key, http_date, preconditions, ranges, vary
from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.rfc9111 import Store, invalidated_keys, may_store
from edgecache.semantics.stored_response import Policy, Times, kept_response
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.client import OriginConnection
from edgecache.wire.h1.client_factory import Http1
from edgecache.wire.upstream_connection import ResponseRules
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest
from fuzz.mutate import VALUE_TOKENS, Mutator

NAMES = [
    *(
        b"cache-control",
        b"cdn-cache-control",
        b"vary",
        b"expires",
        b"date",
        b"age",
        b"last-modified",
        b"etag",
        b"range",
    ),
    *(b"if-none-match", b"if-modified-since", b"if-range", b"accept-encoding", b"accept-language", b"content-range"),
    *(b"no-vary-search", b"location", b"content-location", b"connection", b"pragma", b"x-a", b"set-cookie"),
]
OFTEN_PRIVATE = (b"private", b"no-store")


def request_seeds() -> list[bytes]:
    """The hand-written requests; those that are taken more often, because most mutations of the others are refused."""
    return [case.data for case in all_cases() if case.kind in REQUESTS for _ in range(1 if case.kind == "R" else 6)]


def response_seeds() -> list[bytes]:
    """The hand-written answers."""
    return [case.answer for case in all_cases() if case.kind in (*ANSWERS, *STORING)]


class Requests:
    """Streams of requests: refused by name, or sent on so that three parsers agree; alike however they are cut."""

    name = "request streams"

    def __init__(self, random: Random) -> None:
        self.mutator = Mutator(random, request_seeds())
        self.bench = Bench()

    def one(self, data: bytes) -> str:
        """Judge one input; in a word what came of it."""
        bench = self.bench
        outcome = bench.play(*self.mutator.pieces(data))
        assert outcome.reason != "internal", "a bug: the product's last resort caught an exception"
        sent = bench.forwarded()
        assert tuple(agreed(sent) if sent else ()) == outcome.taken, "the origin reads another request"
        if self.mutator.random.random() < 0.2:
            whole = bench.play(data)  # of two faults in one head either may be named
            assert (whole.taken, whole.status > 0) == (outcome.taken, outcome.status > 0), "cut otherwise it differs"
        shape = [(seen.method, len(seen.target).bit_length(), bool(seen.body)) for seen in outcome.taken]
        self.mutator.behaved(data, (outcome.status, outcome.reason, outcome.closing, str(shape)))
        return "refused" if outcome.status else "taken" if outcome.taken else "unfinished"


class Recorder(UpstreamCall):
    """A call that notes what it is told; the `Sink` of the answer's body."""

    writable = True

    def __init__(self, question: UpstreamRequest) -> None:
        super().__init__(question, 0.0, 0)
        self.response: Response | None = None
        self.content = bytearray()
        self.whole = False
        self.error: OriginError | None = None

    def on_answer(self, response: Response, body: Body) -> None:
        """Read the body."""
        assert self.response is None, "two answers"
        self.response = response
        body.read_into(self)

    def on_failure(self, error: OriginError) -> None:
        """No answer."""
        assert self.response is None, "an answer and a failure"
        self.error = error

    def write(self, piece: bytes) -> None:
        """A piece of the answer."""
        self.content += piece

    def finish(self) -> None:
        """The answer is whole."""
        self.whole = True

    def abort(self) -> None:
        """It never will be."""


class OneConnection:
    """The `Pool` of a connection under test."""

    first_byte_timeout = between_bytes_timeout = tunnel_timeout = 10.0
    origin_text = ""
    fastest = 0.0

    def clock(self) -> float:
        """It stands still."""
        return 1.0

    def timed(self, took: float) -> None:
        """Not looked at."""

    def idle(self, connection: OriginConnection) -> None:
        """Not looked at."""

    def closed(self, connection: OriginConnection) -> None:
        """Not looked at."""

    def failed(self, reason: str) -> None:
        """Not looked at."""

    def unanswered(self, call: UpstreamCall, error: OriginError, connection: OriginConnection, *, unread: bool) -> None:
        """Never: the connection is new."""
        raise AssertionError("a new connection was reused")


def fed(connection: OriginConnection, data: bytes) -> None:
    """`connection` has read `data`, as the event loop would let it."""
    connection.get_buffer(len(data))[: len(data)] = data
    connection.buffer_updated(len(data))


class Responses:
    """Streams of an origin: no answer, or one that is passed on in a form that h11 and our own reader read alike."""

    name = "response streams"

    def __init__(self, random: Random) -> None:
        self.mutator = Mutator(random, response_seeds())
        self.http1 = Http1(ResponseRules())

    def one(self, data: bytes) -> str:
        """Judge one input; in a word what came of it."""
        random = self.mutator.random
        method = b"HEAD" if random.random() < 0.1 else b"GET"
        conditional, ranged = random.random() < 0.2, random.random() < 0.2
        fields = [(b"If-None-Match", b"*")] * conditional + [(b"Range", b"bytes=0-")] * ranged
        call = Recorder(UpstreamRequest(method, b"/", fields))
        connection = self.http1(OneConnection())
        connection.connection_made(Transport())
        connection.send(call, 1.0)
        for piece in self.mutator.pieces(data):
            if not connection.closed:
                fed(connection, piece)
        if not connection.closed:
            connection.connection_lost(None)
        result = self.judge(call, method, data)
        status = call.response.status if call.response else 0
        reason = call.error.reason if call.error else ""
        self.mutator.behaved(data, (result, status, reason, len(call.content).bit_length()))
        return result

    def judge(self, call: Recorder, method: bytes, data: bytes) -> str:
        """What is whole must be what a strict reader of the origin's bytes has, and be passed on unambiguously."""
        if call.error is not None:
            assert call.error.reason != "internal", "a bug: the product's last resort caught an exception"
            return "refused"
        assert call.response is not None, "neither an answer nor a failure"
        if not call.whole:
            return "broken"
        content = bytes(call.content)
        if (strict := strictly(data, method)) is not None:
            assert (strict.status, strict.body) == (call.response.status, content), "a strict reader reads another"
        check_passed_on(call.response, content, method)
        return "taken" if strict is not None else "taken leniently"


def strictly(data: bytes, method: bytes) -> rfc9112.Response | None:
    """The first final response in `data` by our reading of the RFC; None if it is malformed or unfinished."""
    at = 0
    try:
        while True:
            response, at = rfc9112.read_response(data, at, method)
            if response.status >= 200:
                return response
    except (rfc9112.Malformed, rfc9112.Unfinished):
        return None


def check_passed_on(response: Response, content: bytes, method: bytes) -> None:
    """What the client gets is read alike by h11 and by our own reader, as this status with this content."""
    head = passed_on(response)
    if response.framing.length is None and method != b"HEAD":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + (render.chunk(content) if content else b"")
        data += render.LAST_CHUNK
    else:
        data = head + b"\r\n" + content
    read, end = rfc9112.read_response(data, 0, method)
    assert (read.status, read.body, end) == (response.status, content, len(data)), "our reader reads another answer"
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.receive_data(data)
    body = bytearray()
    status = 0
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Response | h11.Data), f"h11 reads {event!r}"
        if isinstance(event, h11.Response):
            status = event.status_code
        else:
            body += event.data
    assert (status, bytes(body)) == (response.status, content), "h11 reads another answer"


class Values:
    """Field values against every rule that reads one: no exception, no number out of bounds, no restriction lost."""

    name = "field values"

    def __init__(self, random: Random) -> None:
        self.mutator = Mutator(random, [*VALUE_TOKENS, b"", b"max-age=60, private", b"a, b;q=0.5"], VALUE_TOKENS)
        self._rules: list[Callable[[bytes, bytes], object]] = [
            *(message_rules, message_rules, message_rules, directive_rules, date_and_range_rules, key_rules),
        ]

    def one(self, data: bytes) -> str:
        """Judge one input; in a word what came of it."""
        value = data.translate(None, b"\x00\r\n").strip(b" \t")  # as `wire/` lets them through
        random = self.mutator.random
        other = random.choice(self.mutator.seeds)
        if random.random() < 0.3:
            value = value + b", " + other
        rule = random.choice(self._rules)
        self.mutator.behaved(data, (rule.__name__, rule(value, other)))
        return "read"


def message_rules(value: bytes, other: bytes) -> object:
    """A request and a response with this value in every field that a rule reads."""
    request = Request(b"GET", b"/a", b"a", Fields([(name, value) for name in NAMES if crc32(name + other) % 3]))
    response = Response(200, Fields([(name, value if crc32(name + value) % 2 else other) for name in NAMES]))
    kept = kept_response(request, response, Times(1e9, 1e9 + 1), Policy())
    assert 0 <= kept.lifetime <= cache_control.FOREVER
    assert 0 <= kept.initial_age <= cache_control.FOREVER
    decision = may_store(request, response, Times(1e9, 1e9 + 1), Policy())
    preconditions.is_not_modified(request, kept)
    spans = ranges.wanted_spans(request, kept, 10, 5)
    assert all(0 <= span.first < span.end <= 10 for span in spans or ())
    keys = invalidated_keys(request._replace(method=b"POST"), response)
    assert all(key.startswith(b"http://a/") for key in keys)
    return type(decision).__name__, isinstance(decision, Store), len(spans or ()), len(keys)


def directive_rules(value: bytes, other: bytes) -> object:
    """Directives of requests and responses, and the structured one."""
    asked = cache_control.parse_request_directives(value, other)
    said = cache_control.parse_response_directives(value, None)
    plain = [member.strip(b" \t").lower() for member in value.split(b",")] if b'"' not in value else []
    assert not set(OFTEN_PRIVATE) & set(plain) or said.private or said.no_store
    targeted = cache_control.parse_response_directives(other, value)
    return asked.no_cache, said.private, said.max_age is None, targeted.no_store, targeted.max_age is None


def date_and_range_rules(value: bytes, other: bytes) -> object:
    """Dates, ranges and their results."""
    specs = ranges.parse_range(value)
    part = ranges.content_range(value)
    assert part is None or 0 <= part.first < part.end
    moment = http_date.parse_date(value, 1_700_000_000)
    return len(specs or ()), part is None, moment is None


def key_rules(value: bytes, other: bytes) -> object:
    """Keys and selecting values."""
    rule = cache_key.no_vary_search(value)
    normal: Any = rule.normal(b"http://a/?" + other) if rule else None
    fields = Fields([(b"accept-encoding", value), (b"accept-language", value), (b"x-a", value)])
    selected = vary.selecting_values((b"accept-encoding", b"accept-language", b"x-a", b"x-b"), fields)
    vary.preferred_language(value)
    key = cache_key.same_origin_key(b"http://a/b", value)
    assert key is None or key.startswith(b"http://a/")
    return normal is None, key is None, len(selected[0] or b"").bit_length()


TARGETS = ((Requests, 6), (Responses, 3), (Values, 1))  # and how often, of ten
