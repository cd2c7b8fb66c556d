"""Counts and logs completed requests of a worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from edgecache.proxy.fastpath.head_memo import Hit, RegionalRead
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.proxy.store_hits import Plan
from edgecache.semantics.cache_status import KNOWN_HIT
from edgecache.semantics.outcomes import Forward
from edgecache.semantics.secret_parameters import Redact
from edgecache.storage.near_records import NearRecord
from edgecache.storage.resident_clock import Clock
from edgecache.telemetry.access_log import AccessLog, Quoted, members_of, members_of_templated
from edgecache.telemetry.log_fields import LineFormat, LogContext
from edgecache.telemetry.request_metrics import SAMPLED, RequestMetrics, Tally
from edgecache.wire.exchange import Exchange
from edgecache.wire.response_writer import ResponseWriter


class RequestLog:
    """Counts and logs every response of a worker. The request path only adds a number and a tuple.

    `layout` writes lines with chosen fields; None writes the usual ones.
    """

    def __init__(
        self,
        log: AccessLog,
        requests: RequestMetrics,
        clock: Clock,
        *,
        logging: bool,
        layout: LineFormat | None = None,
    ) -> None:
        self.logging = logging  # whether any requests are logged
        self.layout = layout
        self.redact: Redact | None = None  # hides secrets in URLs
        self._log = log
        self._requests = requests
        self._clock = clock
        self._quoted = Quoted()

    @property
    def answered(self) -> Callable[[Exchange, float], Tally]:
        """Callback for completed exchanges, with their duration in seconds."""
        return self._count_and_log if self.logging else self._requests.answered

    def _count_and_log(self, exchange: Exchange, took: float) -> Tally:
        tally = self._requests.answered(exchange, took)
        began = self._clock.wall() - took
        layout, more = self.layout, ""
        if layout is not None:
            seen = _seen(exchange, began, took, tally)
            if not layout.extends:
                self._log.add_line(partial(layout.line, seen))
                return tally
            more = layout.more(seen)
        self._log.add(
            (
                began,
                exchange.client,
                members_of(exchange.request, self._quoted, self.redact),
                exchange.status,
                exchange.bytes_out,
                took * 1000,
                exchange.cache_status,
                tally.words,
                self._more(exchange) + more,
            )
        )
        return tally

    def _more(self, exchange: Exchange) -> str:
        """Optional members of the usual line."""
        more = ""
        if (refused := exchange.not_stored) is not None:
            more += f',"not_stored":"{refused.value}"'
        if (answered_on := exchange.answered_on) is not None:
            more += f',"upstream":{self._quoted[answered_on.origin_text]},"upstream_status":{exchange.upstream_status}'
        if exchange.upstream_took:
            more += f',"upstream_ms":{exchange.upstream_took * 1000:.3f}'
        if exchange.regional_took:
            more += f',"regional_ms":{exchange.regional_took * 1000:.3f}'
        return more

    def known_hit(self, connection: ResponseWriter, known: Hit | TemplateHit, now: float) -> None:
        """Record a hit by a known head or a template, at `now` in resident time."""
        requests = self._requests
        rendered = known.rendered
        requests.known_hits += 1
        requests.known_bytes += rendered.size
        if rendered.status >= 300:
            requests.known_others[rendered.status // 100] += 1
        if not requests.known_hits & (SAMPLED - 1):
            requests.observe_hit(max(0.0, self._clock.now() - now), SAMPLED)
        if not self.logging:
            return
        wall = self._clock.wall()
        layout, more = self.layout, ""
        if layout is not None:
            seen = self._seen_hit(connection, known, wall)
            if not layout.extends:
                self._log.add_line(partial(layout.line, seen))
                return
            more = layout.more(seen)
        if type(known) is Hit:
            request = known.logged or self._remember(known)
        else:
            request = members_of_templated(known, self._quoted, self.redact)
        self._log.add(
            (wall, connection.peer, request, rendered.status, rendered.size, 0.0, KNOWN_HIT, requests.hit_words, more)
        )

    def store_hit(
        self, connection: ResponseWriter, plan: Plan, record: NearRecord, why: Forward, policy: Any, now: float
    ) -> None:
        """Record a hit of the machine's store by a known head or a template, at `now` in resident time."""
        requests = self._requests
        tally = requests.store_hit(why, record.status, record.length)
        if not requests.store_hits & (SAMPLED - 1):
            tally.seconds.observe(max(0.0, self._clock.now() - now), SAMPLED)
        if policy is not None:
            policy.site.counts.add(tally.result, 1, record.length)
        if not self.logging:
            return
        wall = self._clock.wall()
        layout, more = self.layout, ""
        if layout is not None:
            seen = _seen_store_hit(connection, plan, record, tally, wall)
            if not layout.extends:
                self._log.add_line(partial(layout.line, seen))
                return
            more = layout.more(seen)
        if type(plan) is TemplateHit:
            request = members_of_templated(plan, self._quoted, self.redact)
        else:
            request = plan.logged or self._remember(plan)
        self._log.add(
            (wall, connection.peer, request, record.status, record.length, 0.0, record.outcome, tally.words, more)
        )

    def _remember(self, known: Hit | RegionalRead) -> str:
        known.logged = members_of(known.request, self._quoted, self.redact)
        return known.logged

    def _seen_hit(self, connection: ResponseWriter, known: Hit | TemplateHit, now: float) -> LogContext:
        rendered = known.rendered
        return LogContext(
            time=now,
            took=0.0,
            client=connection.peer,
            request=known.request,
            place=known.place,
            head_in=known.size,
            status=rendered.status,
            size=rendered.size,
            fields=rendered.head,
            head_out=len(rendered.head),
            cache=KNOWN_HIT,
            tally=self._requests.hit,
            entry=rendered.entry,
            connection=connection,
        )


def _seen(exchange: Exchange, began: float, took: float, tally: Tally) -> LogContext:
    request = exchange.request
    return LogContext(
        time=began,
        took=took,
        client=exchange.client,
        request=request,
        place=request.fields,
        head_in=exchange.head_in,
        status=exchange.status,
        size=exchange.bytes_out,
        fields=exchange.fields_out,
        head_out=exchange.head_out,
        cache=exchange.cache_status,
        tally=tally,
        entry=exchange.entry,
        connection=exchange.opened_on,
        exchange=exchange,
    )


def _seen_store_hit(connection: ResponseWriter, plan: Plan, record: NearRecord, tally: Tally, now: float) -> LogContext:
    return LogContext(
        time=now,
        took=0.0,
        client=connection.peer,
        request=plan.request,
        place=plan.place,
        head_in=plan.size,
        status=record.status,
        size=record.length,
        fields=record.head,
        head_out=len(record.head),
        cache=record.outcome,
        tally=tally,
        entry=record,
        connection=connection,
    )
