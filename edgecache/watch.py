"""What a worker counts: one object holds every metric, so that the request path only adds."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Final

from edgecache.lag import LoopLag
from edgecache.metrics import Counter, Histogram, Registry
from edgecache.regional import Read
from edgecache.rules.breaker import State
from edgecache.rules.reasons import Refused, Result

if TYPE_CHECKING:
    from edgecache.access_log import AccessLog
    from edgecache.edge import Edge
    from edgecache.geo import Geo
    from edgecache.origin import OriginPool
    from edgecache.origins import Member, Origins
    from edgecache.regional import Regional
    from edgecache.wire.exchange import Exchange

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROUND_TRIPS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Watch:
    """The metrics of one worker. Label values come from closed sets only."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._latency = {result: self._histogram(result) for result in Result}
        self._observe = {result: latency.observe for result, latency in self._latency.items()}
        self.known_hits = 0  # answered by a known head, and not timed
        for result, latency in self._latency.items():
            self.registry.counter(
                "edgecache_requests",
                "Requests answered, by what they came to.",
                read=self._requests_read(result, latency),
                result=result.value,
            )
        self._bytes = self.registry.counter("edgecache_body_bytes", "Bytes of answers' bodies; without known heads.")
        self._not_stored = {
            reason: self.registry.counter(
                "edgecache_not_stored", "Responses not stored, by reason.", reason=reason.value
            )
            for reason in Refused
        }
        self._refused: dict[str, Counter] = {}
        self.regional = RegionalCounts(self.registry)
        self.lag = LoopLag(self.registry)

    def _histogram(self, result: Result) -> Histogram:
        return self.registry.histogram(
            "edgecache_request_seconds",
            "From a request's head to the last byte handed over; memory hits by a known head are not timed.",
            SECONDS,
            result=result.value,
        )

    def _requests_read(self, result: Result, latency: Histogram) -> Callable[[], float]:
        """How many requests came to `result`: those timed, and the known hits."""
        if result is Result.HIT:
            return lambda: sum(latency.counts) + self.known_hits
        return lambda: sum(latency.counts)

    def read(self, edge: Edge, pool: OriginPool | Origins, connections: Sized, log: AccessLog) -> None:
        """Export what these parts know of themselves."""
        gauge, counter = self.registry.gauge, self.registry.counter
        gauge("edgecache_memory_bytes", "Bytes in the memory tier.", read=lambda: edge.memory.size)
        account = edge.memory.account
        gauge("edgecache_memory_held_bytes", "Of its budget, but held elsewhere.", read=lambda: account.held)
        gauge("edgecache_memory_objects", "URLs in the memory tier.", read=lambda: len(edge.memory))
        counter("edgecache_memory_evictions", "URLs that left for want of memory.", read=lambda: edge.memory.evictions)
        gauge("edgecache_flights", "Questions upstream that may be followed.", read=lambda: len(edge.flights))
        gauge("edgecache_known_heads", "Request heads whose answer is known.", read=lambda: len(edge.known))
        gauge("edgecache_connections", "Client connections.", read=lambda: len(connections))
        gauge("edgecache_origin_connections_busy", "Connections to the origin in use.", read=lambda: pool.busy)
        gauge(
            "edgecache_origin_waiting", "Requests that wait for a connection to the origin.", read=lambda: pool.waiting
        )
        counter("edgecache_origin_requests", "Requests to the origin, retries included.", read=lambda: pool.asked)
        counter("edgecache_origin_retries", "Requests sent to it again.", read=lambda: pool.retries.spent)
        counter("edgecache_origin_retries_refused", "Retries beyond the budget.", read=lambda: pool.retries.refused)
        counter("edgecache_access_log_dropped", "Log records lost.", read=lambda: log.dropped)

    def read_geography(self, geo: Geo) -> None:
        """Export what `geo` knows of its database."""
        gauge, counter = self.registry.gauge, self.registry.counter
        gauge(
            "edgecache_geo_built_seconds",
            "When the geographic database was built.",
            across="max",
            read=lambda: geo.built,
        )
        counter(
            "edgecache_geo_reload_failures",
            "Geographic databases that could not be read.",
            read=lambda: geo.reload_failures,
        )

    def read_origins(self, origins: Origins) -> None:
        """Export how each origin is doing."""
        self.registry.counter(
            "edgecache_origin_hedges",
            "Requests put to a second origin because the first was slow.",
            read=lambda: origins.hedged,
        )
        for member in origins.members:
            self._read_member(member)

    def _read_member(self, member: Member) -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        health, name, region = member.health, str(member.origin), member.region
        gauge(
            "edgecache_origin_up",
            "Workers that hold the origin to be well.",
            read=lambda: float(health.checked_up and health.breaker.state is State.CLOSED),
            origin=name,
            region=region,
        )
        gauge(
            "edgecache_origin_latency_seconds",
            "Moving average of the time to the origin's answer, quick to rise.",
            across="max",
            read=lambda: health.latency,
            origin=name,
            region=region,
        )
        counter(
            "edgecache_origin_ejections",
            "Times that the origin was ejected.",
            read=lambda: health.breaker.opened,
            origin=name,
            region=region,
        )

    def answered(self, exchange: Exchange, took: float) -> None:
        """An answer is complete, after `took` seconds."""
        self._observe[exchange.result](took)
        self._bytes.value += exchange.bytes_out

    def not_stored(self, reason: Refused) -> None:
        """A response was not stored."""
        self._not_stored[reason].value += 1

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one of the fixed words in `wire/`."""
        counter = self._refused.get(reason)
        if counter is None:
            counter = self._refused[reason] = self.registry.counter(
                "edgecache_refused", "Requests refused, by reason.", reason=reason
            )
        counter.value += 1

    def origin_failed(self, reason: str) -> None:
        """The origin has let us down; `reason` is one of the fixed words in `wire/` and `origin.py`."""
        self.registry.counter(
            "edgecache_origin_failures", "Failures of the origin, by reason.", reason=reason
        ).value += 1


class RegionalCounts:
    """The metrics of the regional tier."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reads: dict[Read, Counter] = {}
        self._failures: dict[str, Counter] = {}
        self._keys: Histogram | None = None
        self._seconds: Histogram | None = None

    def read_state(self, tier: Regional) -> None:
        """Export what `tier` knows of itself."""
        for outcome in Read:
            self._reads[outcome] = self._registry.counter(
                "edgecache_regional_reads", "Reads of the regional tier, by what they came to.", result=outcome.value
            )
        self._keys = self._registry.histogram(
            "edgecache_regional_batch_keys", "Reads that shared one round trip.", BATCHES
        )
        self._seconds = self._registry.histogram(
            "edgecache_regional_read_seconds", "Round trips of reads.", ROUND_TRIPS
        )
        for state in State:
            self._registry.gauge(
                "edgecache_regional_breaker",
                "1 for the state that the regional tier's breaker is in, of each worker.",
                read=lambda state=state: float(tier.guard.breaker.state is state),  # type: ignore[misc]
                state=state.value,
            )
        self._registry.gauge(
            "edgecache_regional_write_backlog_bytes", "Bytes that wait to be written.", read=lambda: tier.writes.queued
        )
        self._registry.gauge("edgecache_regional_leases", "Keys that a worker leads.", read=lambda: len(tier.leases))

    def read(self, outcome: Read) -> None:
        """A read came to `outcome`."""
        self._reads[outcome].value += 1

    def batch(self, keys: int, seconds: float) -> None:
        """A batch of reads was answered."""
        if self._keys is not None and self._seconds is not None:
            self._keys.observe(keys)
            self._seconds.observe(seconds)

    def failed(self, word: str) -> None:
        """A round trip failed; `word` is one of the fixed words in `lanes.py` and `leases.py`."""
        counter = self._failures.get(word)
        if counter is None:
            counter = self._failures[word] = self._registry.counter(
                "edgecache_regional_failures", "What went wrong with the regional tier, by kind.", kind=word
            )
        counter.value += 1
