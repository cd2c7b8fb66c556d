"""Tracing: some requests are sampled; those are parsed, and leave no known head behind."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import AnswerKnown, Connection, Context, Middleware
from edgecache.semantics import trace_context
from edgecache.telemetry.request_metrics import Tally
from edgecache.telemetry.tracing import Tracer
from edgecache.wire.exchange import Exchange


class Tracing(Middleware):
    """Samples requests, and makes their spans when they are answered."""

    order = 700
    reads = frozenset((trace_context.NAME,))

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where there is a collector."""
        return cls(context.tracer) if context.tracer is not None else None

    def around_known(self, answer_known: AnswerKnown) -> AnswerKnown:
        """Every so many requests, one is kept from the fast path: it is the next that is sampled."""
        tracer = self._tracer

        def unless_sampled(connection: Connection, raw: bytes) -> bool:
            if tracer.to_pass < 1 or not answer_known(connection, raw):
                return False
            tracer.to_pass -= 1
            return True

        return unless_sampled

    def on_request(self, exchange: Exchange) -> None:
        """Sample the request, or not."""
        self._tracer.consider(exchange)

    def on_log(self, exchange: Exchange, took: float, tally: Tally) -> None:
        """Make the spans of a sampled one."""
        if exchange.trace is not None:
            self._tracer.finish(exchange, exchange.trace, took, tally)
