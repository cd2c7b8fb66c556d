"""What was answered: counted, and logged if there is an access log."""

from __future__ import annotations

from collections.abc import Callable

from edgecache.access_log import AccessLog
from edgecache.alike import Alike
from edgecache.clock import Clock
from edgecache.delivery import KNOWN_HIT
from edgecache.known import KnownHit
from edgecache.request_counts import SAMPLED, RequestCounts, Tally
from edgecache.rules.trace_context import trace_id
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1_server import ClientConnection


class Journal:
    """Counts and logs every answer of a worker. The request path only adds: a number and a tuple."""

    def __init__(self, log: AccessLog, requests: RequestCounts, clock: Clock, *, logging: bool) -> None:
        self.logging = logging  # whether requests are logged, or a part of them
        self._log = log
        self._requests = requests
        self._clock = clock

    @property
    def answered(self) -> Callable[[Exchange, float], Tally]:
        """What is told of each answer that is complete, and how many seconds it took."""
        return self._count_and_log if self.logging else self._requests.answered

    def _count_and_log(self, exchange: Exchange, took: float) -> Tally:
        tally, request = self._requests.answered(exchange, took), exchange.request
        fields = request.fields
        self._log.add(
            (
                self._clock.wall() - took,
                exchange.client,
                request.method,
                request.host,
                request.received_target,
                exchange.status,
                exchange.bytes_out,
                took * 1000,
                exchange.cache_status,
                tally.words,
                fields.get(b"user-agent") or b"",
                fields.get(b"referer") or b"",
                trace_id(fields.get(b"traceparent")),
                exchange.regional_took,
                exchange.upstream_took,
                refused.value if (refused := exchange.not_stored) is not None else "",
            )
        )
        return tally

    def known_hit(self, connection: ClientConnection, known: KnownHit | Alike, now: float) -> None:
        """A request was answered at `now`, in resident time, by a known head, or by one that is like known ones."""
        requests = self._requests
        answer = known.rendered.answer
        requests.known_hits += 1
        requests.known_bytes += len(answer.content)
        if answer.status >= 300:
            requests.known_others[answer.status // 100] += 1
        if not requests.known_hits & (SAMPLED - 1):
            requests.observe_hit(max(0.0, self._clock.now() - now), SAMPLED)
        if self.logging:
            request = known.request
            fields = request.fields
            self._log.add(
                (
                    self._clock.wall(),
                    connection.peer,
                    request.method,
                    request.host,
                    request.received_target,
                    answer.status,
                    len(answer.content),
                    0.0,
                    KNOWN_HIT,
                    requests.hit_words,
                    fields.get(b"user-agent") or b"",
                    fields.get(b"referer") or b"",
                    b"",  # a head with a trace in it is not known, or hardly: its hits are logged without
                    0.0,
                    0.0,
                    "",
                )
            )
