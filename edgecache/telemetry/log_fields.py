"""Fields of the access log, and how each is read from a completed request.

`table` makes the table in docs/logging.md. `access_log.line` is specialised for the usual fields; `LineFormat` writes
any other choice, field by field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from edgecache.semantics.cache_status import KNOWN_HIT
from edgecache.semantics.cache_tags import MARK
from edgecache.semantics.client_address import Trust, client_address
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.secret_parameters import Redact
from edgecache.semantics.trace_context import trace_id
from edgecache.telemetry.access_log import Quoted, Text
from edgecache.telemetry.log_field_names import USUAL

if TYPE_CHECKING:
    from edgecache.telemetry.exchange import Connection, Exchange, StoredResponse
    from edgecache.telemetry.request_metrics import Tally

COUNTRY: Final = b"edgecache-geo-country"
AGE: Final = re.compile(rb"(?mi)^age:[ \t]*([0-9]{1,10})[ \t]*\r")
TTL: Final = re.compile(rb"; ttl=(-?[0-9]{1,10})")
CONTENT_TYPE: Final = re.compile(rb"(?mi)^content-type:[ \t]*([^\r\n]*)")

Value = Text | int | float | None


class LogContext(NamedTuple):
    """A completed request."""

    time: float  # when it began, seconds since 1970
    took: float  # seconds
    client: str
    request: Request
    place: Fields  # fields with the client's place, if known
    head_in: int  # bytes of the request's head
    status: int
    size: int  # bytes of body sent
    fields: bytes  # of the response, packed
    head_out: int  # bytes of its head
    cache: bytes
    tally: Tally
    entry: StoredResponse | None  # the stored response
    connection: Connection | None
    exchange: Exchange | None = None  # None of a hit by a known head


Read = Callable[[LogContext], Value]


class LogField(NamedTuple):
    """A field: None and empty values are omitted, unless `always`."""

    name: str
    read: Read
    unit: str
    example: str  # as JSON
    meaning: str
    always: bool = False  # written even if it is empty


def _of_exchange(name: str) -> Read:
    """An attribute of the exchange, if there is one and it is not zero."""
    return lambda seen: (getattr(seen.exchange, name) or None) if seen.exchange is not None else None


def _milliseconds(name: str) -> Read:
    read = _of_exchange(name)
    return lambda seen: value * 1000 if isinstance(value := read(seen), float) else None


def _of_request(name: bytes) -> Read:
    return lambda seen: seen.request.fields.get(name)


def _site(seen: LogContext) -> Value:
    policy = seen.request.policy
    return None if policy is None else str(policy.site.name)


def _of_connection(name: str) -> Read:
    return lambda seen: getattr(seen.connection, name) if seen.connection is not None else None


def _of_fields(pattern: re.Pattern[bytes]) -> Read:
    return lambda seen: found[1] if (found := pattern.search(seen.fields)) is not None else None


def _age(seen: LogContext) -> Value:
    found = AGE.search(seen.fields)
    return int(found[1]) if found is not None else None


def _ttl(seen: LogContext) -> Value:
    """Of a hit, the ttl in Cache-Status; of a fetched response, its lifetime less its age."""
    told = TTL.findall(seen.cache if seen.cache != KNOWN_HIT else seen.fields)
    if told:
        return int(told[-1])
    if seen.entry is None:
        return None
    age = _age(seen)
    return int(seen.entry.lifetime - (age if isinstance(age, int) else seen.entry.initial_age))


def _request_bytes(seen: LogContext) -> Value:
    body = seen.exchange.body if seen.exchange is not None else None
    return seen.head_in + (0 if body is None else body.size)


def _first_byte(seen: LogContext) -> Value:
    """A response in one write has no earlier first byte."""
    exchange = seen.exchange
    if not seen.status:
        return None
    began = exchange.first_byte - exchange.began if exchange is not None and exchange.first_byte else seen.took
    return began * 1000


def _not_stored(seen: LogContext) -> Value:
    reason = seen.exchange.not_stored if seen.exchange is not None else None
    return None if reason is None else reason.value


def _tags(seen: LogContext) -> Value:
    return None if seen.entry is None else b" ".join(tag for tag in seen.entry.tags if tag[:1] != MARK)


def _upstream(seen: LogContext) -> Value:
    asked = seen.exchange.answered_on if seen.exchange is not None else None
    return None if asked is None else asked.origin_text


FIELDS: Final = (
    LogField("time", lambda seen: seen.time, "seconds since 1970", "1718000000.123", "When the request began."),
    LogField("client", lambda seen: seen.client, "", '"192.0.2.1"', "Address of the peer, or as PROXY names it."),
    LogField("forwarded_client", lambda seen: None, "", '"198.51.100.7"', "Client that trusted proxies name."),
    LogField("country", lambda seen: seen.place.get(COUNTRY), "ISO 3166", '"DE"', "Country of the client, if known."),
    LogField("connection", _of_connection("number"), "", "4711", "Number of the connection in its worker."),
    LogField("tls", _of_connection("tls_version"), "", '"TLSv1.3"', "TLS version; absent for plain HTTP."),
    LogField("method", lambda seen: seen.request.method, "", '"GET"', "Method.", always=True),
    LogField("scheme", lambda seen: seen.request.scheme, "", '"https"', "By connection or trusted proxy.", always=True),
    LogField("host", lambda seen: seen.request.host, "", '"www.example.org"', "Site, normalised.", always=True),
    LogField("site", _site, "", '"shop"', "Name of the site in EDGECACHE_SITES."),
    LogField(
        "target", lambda seen: seen.request.received_target, "", '"/a?b=c"', "Path and query as sent.", always=True
    ),
    LogField(
        "protocol",
        lambda seen: "HTTP/" + seen.request.version,
        "",
        '"HTTP/1.1"',
        "Version of HTTP.",
    ),
    LogField("range", _of_request(b"range"), "", '"bytes=0-99"', "Requested range."),
    LogField("request_id", _of_request(b"x-request-id"), "", '"7f3a-01"', "X-Request-ID of the request."),
    LogField("request_bytes", _request_bytes, "bytes", "412", "Head and body of the request."),
    LogField("status", lambda seen: seen.status, "", "200", "Status; 0 if no response was sent."),
    LogField("bytes", lambda seen: seen.size, "bytes", "1024", "Body bytes sent."),
    LogField("head_bytes", lambda seen: seen.head_out or None, "bytes", "301", "Head bytes sent."),
    LogField("content_type", _of_fields(CONTENT_TYPE), "", '"text/html"', "Content-Type of the response."),
    LogField(
        "duration_ms", lambda seen: seen.took * 1000, "milliseconds", "1.250", "Time until the last byte was sent."
    ),
    LogField("ttfb_ms", _first_byte, "milliseconds", "1.100", "Time until the first byte was sent."),
    LogField("cache", lambda seen: seen.cache, "", '"pop; hit"', "This POP's member of Cache-Status.", always=True),
    LogField("result", lambda seen: seen.tally.result, "", '"hit"', "Outcome of the request."),
    LogField("tier", lambda seen: seen.tally.tier, "", '"memory"', "Tier that answered."),
    LogField("reason", lambda seen: seen.tally.reason, "", '"fresh"', "Reason why it was not a fresh hit, or failed."),
    LogField("age", _age, "seconds", "30", "Age of the response."),
    LogField("ttl", _ttl, "seconds", "270", "Remaining freshness; negative if stale."),
    LogField("not_stored", _not_stored, "", '"no-store"', "Reason why the response was not stored."),
    LogField(
        "tags",
        _tags,
        "",
        '"blog post-7"',
        "Tags of the stored response, separated by spaces.",
    ),
    LogField("upstream", _upstream, "", '"https://origin.example"', "Origin or parent that responded."),
    LogField("upstream_status", _of_exchange("upstream_status"), "", "200", "Status of its response."),
    LogField(
        "upstream_ms", _milliseconds("upstream_took"), "milliseconds", "41.002", "Time until the head of its response."
    ),
    LogField(
        "regional_ms", _milliseconds("regional_took"), "milliseconds", "0.812", "Time of the read of the regional tier."
    ),
    LogField("user_agent", _of_request(b"user-agent"), "", '"curl/8.5"', "User-Agent.", always=True),
    LogField("referer", _of_request(b"referer"), "", '"https://example.org/"', "Referer.", always=True),
    LogField(
        "trace_id",
        lambda seen: trace_id(seen.request.fields.get(b"traceparent")),
        "32 hexadecimal digits",
        '"0af7651916cd43dd8448eb211c80319c"',
        "W3C trace ID of the request.",
    ),
)


class LineFormat:
    """Writes the chosen fields: whole lines, or if it `extends` the usual ones, those beyond them."""

    def __init__(self, names: tuple[str, ...], is_trusted: Trust, redact: Redact | None = None) -> None:
        own: dict[str, Read] = {"forwarded_client": self._forwarded_client}
        if redact is not None:
            own["target"] = lambda seen: redact(seen.request.received_target)
            own["referer"] = lambda seen: redact(seen.request.fields.get(b"referer") or b"")
        self._is_trusted = is_trusted
        self._quoted = Quoted()
        self.extends = set(USUAL) <= set(names)
        self._fields = [
            (f'"{field.name}":', own.get(field.name, field.read), field.always)
            for field in FIELDS
            if field.name in names and not (self.extends and field.name in USUAL)
        ]

    def line(self, seen: LogContext) -> str:
        """The line for a request."""
        return "{" + ",".join(self._members(seen)) + "}\n"

    def more(self, seen: LogContext) -> str:
        """The members beyond the usual ones, each with a comma before it."""
        return "".join("," + member for member in self._members(seen))

    def _members(self, seen: LogContext) -> list[str]:
        quoted, members = self._quoted, []
        for name, read, always in self._fields:
            value = read(seen)
            if isinstance(value, float):
                members.append(f"{name}{value:.3f}")
            elif isinstance(value, int):
                members.append(f"{name}{value}")
            elif value or always:
                members.append(name + quoted[value or ""])
        return members

    def _forwarded_client(self, seen: LogContext) -> Value:
        child = seen.request.child
        if child is not None:
            return child.client or None
        return client_address(seen.client, seen.request.fields, self._is_trusted)


def table() -> str:
    """The fields as a table in Markdown."""
    rows = []
    for field in FIELDS:
        mark = "" if field.name in USUAL else " †"
        rows.append(f"| `{field.name}` | {field.unit or '—'} | `{field.example}` | {field.meaning}{mark} |")
    return "\n".join(("| Field | Unit | Example | Meaning |", "| --- | --- | --- | --- |", *rows)) + "\n"
