"""Tracing in a worker: head sampling, and spans made when the response is complete.

    request ──► sampled? ──no──► nothing is made; its `traceparent` is forwarded unchanged
                   └──yes──► IDs only: of this span, and of the upstream request, whose `traceparent` names it
    response ──► spans as plain tuples, bounded in number; the supervisor exports them (`otlp_exporter.py`)

A trusted peer's sampled flag decides; for all others the configured fraction does, so that no client can cause work.
The sampled flag of an untrusted client is cleared upstream: its trace continues under its ID, unrecorded. Without a
collector none of this runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgecache.semantics import trace_context
from edgecache.semantics.outcomes import TIERS
from edgecache.semantics.trace_context import TraceParent
from edgecache.telemetry.access_log import printable

if TYPE_CHECKING:
    from edgecache.telemetry.exchange import Exchange
    from edgecache.telemetry.request_metrics import Tally

MOST_PENDING: Final = 2048  # pending spans; they are fetched every second
LONGEST_TEXT: Final = 256  # characters of an attribute, escapes included

# Trace id, span id, id of its parent or "", name, kind, begin and end in epoch seconds, whether it failed, attributes
Span = tuple[str, str, str, str, str, float, float, bool, dict[str, Any]]


class Trace(NamedTuple):
    """IDs of a sampled exchange, in hexadecimal digits."""

    trace_id: bytes
    parent: bytes  # span ID of the caller; empty for a root span
    span: bytes  # of this POP's span
    upstream: bytes  # of the upstream request, if any


class Tracer:
    """Samples requests and makes their spans. Mutable state: requests until the next sample, and pending spans."""

    def __init__(
        self,
        fraction: float,
        is_trusted: Callable[[Exchange], bool],
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._fraction = fraction
        self._is_trusted = is_trusted
        self._clock = clock  # resident time
        self._ahead = ahead  # seconds by which the wall clock, which other machines' spans are by, is ahead of it
        self._chance = chance
        self._spans: list[Span] = []
        self.made = self.dropped = 0
        self.to_pass: float = self._draw()

    def tune(self, fraction: float) -> None:
        """Sample this fraction from now on."""
        if fraction != self._fraction:
            self._fraction = fraction
            self.to_pass = self._draw()

    def _draw(self) -> float:
        """Requests until the next sample: one draw for all of them."""
        if self._fraction >= 1.0:
            return 0
        if self._fraction <= 0.0:
            return inf
        return int(log(1.0 - self._chance()) / log(1.0 - self._fraction))

    def consider(self, exchange: Exchange) -> None:
        """Sample `exchange`, or not; may replace the request's `traceparent`."""
        value = exchange.request.fields.get(trace_context.NAME)
        parent = trace_context.parse(value)
        believed = parent is not None and self._is_trusted(exchange)
        if believed:
            assert parent is not None, "only a parsed traceparent is trusted"
            sampled = parent.sampled
        elif self.to_pass < 1:
            self.to_pass = self._draw()
            sampled = True
        else:
            self.to_pass -= 1
            sampled = False
        if sampled:
            self._begin(exchange, parent)
        elif parent is not None and parent.sampled and not believed:
            _name(exchange, TraceParent(parent.trace_id, _span_id(), sampled=False))

    @staticmethod
    def _begin(exchange: Exchange, parent: TraceParent | None) -> None:
        trace_id = parent.trace_id if parent is not None else b"%032x" % (random.getrandbits(128) or 1)
        asks = parent.span_id if parent is not None else b""
        trace = exchange.trace = Trace(trace_id, asks, _span_id(), _span_id())
        _name(exchange, TraceParent(trace_id, trace.upstream, sampled=True))
        exchange.fingerprint = None  # the next like it is another trace, or none

    def finish(self, exchange: Exchange, trace: Trace, took: float, tally: Tally) -> None:
        """Make the spans of a completed exchange, which took `took` seconds."""
        ahead = self._ahead()
        end = self._clock() + ahead
        spans = [self._server_span(exchange, trace, end - took, end, tally)]
        if exchange.regional_asked:
            spans.append(_regional_span(exchange, trace, ahead, end))
        if exchange.upstream_asked:
            spans.append(_upstream_span(exchange, trace, ahead, end))
        if len(self._spans) + len(spans) > MOST_PENDING:
            self.dropped += len(spans)
            return
        self.made += len(spans)
        self._spans += spans

    def take(self, most: int) -> list[Span]:
        """Up to `most` spans, oldest first."""
        taken, self._spans = self._spans[:most], self._spans[most:]
        return taken

    @staticmethod
    def _server_span(exchange: Exchange, trace: Trace, began: float, end: float, tally: Tally) -> Span:
        request = exchange.request
        attributes: dict[str, Any] = {
            "http.request.method": _text(request.method),
            "url.scheme": _text(request.scheme),
            "url.path": _text(request.target.partition(b"?")[0]),  # a query may hold a secret
            "server.address": _text(request.host),
            "client.address": exchange.client,
            "http.response.status_code": exchange.status,
            "http.response.body.size": exchange.bytes_out,
            "edgecache.result": exchange.result.value,
            "edgecache.tier": (exchange.tier or TIERS[exchange.result]).value,
            "edgecache.reason": tally.reason,
            "edgecache.cache_status": _text(exchange.cache_status),
        }
        name, failed = _text(request.method), exchange.status >= 500 or not exchange.status
        return (
            *(trace.trace_id.decode(), trace.span.decode(), trace.parent.decode()),
            *(name, "server", began, end, failed, attributes),
        )


def _regional_span(exchange: Exchange, trace: Trace, ahead: float, end: float) -> Span:
    began, took = exchange.regional_asked + ahead, exchange.regional_took
    attributes = {"db.system.name": "valkey", "edgecache.tier": "regional"}
    return (
        *(trace.trace_id.decode(), _span_id().decode(), trace.span.decode()),
        *("regional read", "client", began, began + took if took else end, False, attributes),
    )


def _upstream_span(exchange: Exchange, trace: Trace, ahead: float, end: float) -> Span:
    began, took = exchange.upstream_asked + ahead, exchange.upstream_took
    attributes = {"http.request.method": _text(exchange.request.method)}
    if exchange.failure:
        attributes["error.type"] = exchange.failure
    return (
        *(trace.trace_id.decode(), trace.upstream.decode(), trace.span.decode()),
        *("upstream", "client", began, began + took if took else end, bool(exchange.failure), attributes),
    )


def _name(exchange: Exchange, parent: TraceParent) -> None:
    """Set the request's `traceparent` to `parent`."""
    request = exchange.request
    line = (trace_context.NAME, trace_context.render(parent))
    exchange.request = request._replace(fields=request.fields.without((trace_context.NAME,)).plus(line))


def _span_id() -> bytes:
    return b"%016x" % (random.getrandbits(64) or 1)


def _text(value: bytes) -> str:
    return printable(value[:LONGEST_TEXT])[:LONGEST_TEXT]
