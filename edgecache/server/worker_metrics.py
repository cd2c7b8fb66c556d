"""What a worker counts: one object holds every metric, so that the request path only adds."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from edgecache.semantics.outcomes import Forward, Refused, Result, Tier
from edgecache.server.store_metrics import StoreMetrics
from edgecache.storage.regional import Read
from edgecache.telemetry.event_loop_lag import LoopLag
from edgecache.telemetry.metrics import Counter, Histogram, Registry, Snapshot
from edgecache.telemetry.request_metrics import CLASSES, Passes, RequestMetrics
from edgecache.telemetry.site_metrics import SiteMetrics
from edgecache.upstream.health import FAILING
from edgecache.upstream.peer_auth import Distrust
from edgecache.valkey.circuit_breaker import State

if TYPE_CHECKING:
    from edgecache.config.addresses import Origin
    from edgecache.proxy.edge import Edge
    from edgecache.proxy.geo_database import Geo
    from edgecache.storage.regional import Regional
    from edgecache.storage.resident_clock import Clock
    from edgecache.telemetry.access_log import AccessLog
    from edgecache.telemetry.tracing import Tracer
    from edgecache.upstream.active_upstream import Switch
    from edgecache.upstream.load_balancer import Member
    from edgecache.upstream.origin_group import Origins
    from edgecache.upstream.parent_selection import Parents

ROUND_TRIPS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
OF_THE_MOMENT: Final = (  # read from the members that there are now
    "edgecache_origin_hedges",
    *(f"edgecache_{kind}_{name}" for kind in ("origin", "parent") for name in ("up", "breaker", "ejections")),
    *("edgecache_origin_latency_seconds", "edgecache_parent_latency_seconds"),
    *(f"edgecache_pool_{name}" for name in ("up", "latency_seconds", "ejections")),
)


OURS: Final = frozenset(  # failures that do not speak against the origin
    ("origin-queue-full", "origin-queue-timeout", "held-back", "residency", "client-left", "internal")
)
LAPSES: Final = 60.0  # seconds without a question after which a failing origin is not held to be ill any more
MOST_SERIES: Final = 500  # of one metric: requests by result, tier, reason and status, all out of closed vocabularies
FAILURES: Final = (  # the usual ones, exported from the start, so that a rate sees the first of each
    *("connect", "connect-timeout", "dns", "tls", "closed", "first-byte-timeout", "between-bytes-timeout"),
    *("origin-queue-full", "origin-queue-timeout"),
)


class WorkerMetrics:
    """The metrics of one worker. Label values come from closed sets only."""

    def __init__(self) -> None:
        self.registry = Registry(MOST_SERIES)
        self.requests = RequestMetrics(self.registry)
        self.sites = SiteMetrics(self.registry)
        self._not_stored = {
            reason: self.registry.counter(
                "edgecache_not_stored", "Responses not stored, by reason.", reason=reason.value
            )
            for reason in Refused
        }
        self.origin_responses = self._responses("edgecache_origin_responses", "Responses of the origin, by status.")
        self.parent_responses = self._responses("edgecache_parent_responses", "Responses of parents, by status.")
        self._failed_in_a_row = 0  # answers of the origin, or of any of several
        self._passes: dict[tuple[Forward, int, Refused], Passes] = {}  # by class of status; none are failures
        self._refused: dict[str, Counter] = {}
        for reason in FAILURES:
            self._origin_failures(reason)
        self.opened = self.registry.counter("edgecache_connections_opened", "Client connections accepted.")
        self.regional = RegionalMetrics(self.registry)
        self.store = StoreMetrics(self.registry)
        self.lag = LoopLag(self.registry, self.requests.bytes_in)

    def _responses(self, name: str, meaning: str) -> list[Counter]:
        return [self.registry.counter(name, meaning, status=status) for status in CLASSES[:6]]

    def read_origin(self, origin: Origin, region: str, most_failures: int) -> None:
        """Export the health of a single origin: unhealthy after so many consecutive failures.

        Failures expire when no request has been sent for a while.
        """
        said, since = 0, 0.0

        def is_well() -> float:
            nonlocal said, since
            if self._failed_in_a_row != said:
                said, since = self._failed_in_a_row, monotonic()
            return float(said < most_failures or monotonic() - since > LAPSES)

        self.registry.gauge(
            "edgecache_origin_up",
            "Workers that consider the origin healthy.",
            read=is_well,
            origin=str(origin),
            region=region,
        )

    def snapshot(self) -> Snapshot:
        """Current metrics."""
        self.requests.fold()
        self.sites.fold()
        self._fold_passes()
        return self.registry.snapshot()

    def read(self, edge: Edge, switch: Switch, connections: Sized, log: AccessLog) -> None:
        """Export gauges of these parts."""
        gauge, counter = self.registry.gauge, self.registry.counter
        gauge("edgecache_memory_bytes", "Bytes in the memory tier.", read=lambda: edge.memory.size)
        gauge("edgecache_memory_limit_bytes", "Memory limit of the memory tier.", read=lambda: edge.memory.limit)
        account = edge.memory.account
        gauge("edgecache_memory_held_bytes", "Of its budget, held by bodies in transit.", read=lambda: account.held)
        gauge("edgecache_memory_objects", "URLs in the memory tier.", read=lambda: len(edge.memory))
        counter("edgecache_memory_evictions", "URLs evicted from the memory tier.", read=lambda: edge.memory.evictions)
        gauge("edgecache_flights", "Upstream fetches that requests can share.", read=lambda: len(edge.flights))
        counter("edgecache_flights_led", "Upstream fetches that requests could share.", read=lambda: edge.flights.led)
        counter("edgecache_flights_followed", "Requests that joined such a fetch.", read=lambda: edge.flights.followed)
        gauge("edgecache_known_heads", "Request heads with a known response.", read=lambda: len(edge.known))
        gauge("edgecache_connections", "Client connections.", read=lambda: len(connections))
        gauge("edgecache_origin_connections_busy", "Connections to the origin in use.", read=lambda: switch.busy)
        gauge(
            "edgecache_origin_waiting",
            "Requests waiting for a connection to the origin.",
            read=lambda: switch.waiting,
        )
        counter(
            "edgecache_origin_requests", "Requests to the origin, retries included.", read=lambda: switch.counts.asked
        )
        counter("edgecache_origin_retries", "Requests that were retried.", read=lambda: switch.counts.retries)
        refused = "Retries refused because the budget was exhausted."
        counter("edgecache_origin_retries_refused", refused, read=lambda: switch.counts.refused)
        counter(
            "edgecache_residency_passed",
            "Requests of another jurisdiction: passed on within it, nothing stored.",
            read=lambda: edge.foreign,
        )
        counter("edgecache_access_log_dropped", "Log records lost.", read=lambda: log.dropped)

    def read_clock(self, clock: Clock) -> None:
        """Export steps of the wall clock."""
        set_times = "Times that the wall clock was set by half a second or more."
        self.registry.counter("edgecache_wall_clock_steps", set_times, read=lambda: clock.steps)

    def read_geography(self, geo: Callable[[], Geo]) -> None:
        """Export the state of the country database."""
        self.registry.timestamp(
            "edgecache_geo_built_timestamp_seconds",
            "edgecache_geo_built_seconds",
            "Time at which the country database was built.",
            read=lambda: geo().built,
        )
        self.registry.counter(
            "edgecache_geo_reload_failures",
            "Country databases that could not be read.",
            read=lambda: geo().reload_failures,
        )

    def read_tracer(self, tracer: Tracer) -> None:
        """Export counts of spans."""
        counter = self.registry.counter
        counter("edgecache_trace_spans", "Spans created.", read=lambda: tracer.made)
        dropped = "Spans lost, by reason."
        counter("edgecache_trace_spans_dropped", dropped, read=lambda: tracer.dropped, reason="worker")

    def forget_members(self) -> None:
        """Remove the gauges of the current origins and parents, which are being replaced."""
        for name in OF_THE_MOMENT:
            self.registry.forget(name)

    def read_origins(self, origins: Origins) -> None:
        """Export the health of each origin."""
        self.registry.counter(
            "edgecache_origin_hedges",
            "Requests sent to a second origin because the first was slow.",
            read=lambda: origins.hedged,
        )
        for member in origins.members:
            self._read_member(member)

    def read_pool(self, name: str, origins: Origins) -> None:
        """Export the health of each server of the pool `name`, which is in use."""
        for member in origins.members:
            labels: dict[str, Any] = {"pool": name, "origin": str(member.origin), "region": member.region}
            self.registry.gauge(
                "edgecache_pool_up",
                "Workers that consider the server of a site's pool healthy.",
                read=partial(_is_well, member),
                **labels,
            )
            self.registry.gauge(
                "edgecache_pool_latency_seconds",
                "Moving average of the server's response time, quick to rise.",
                across="max",
                read=partial(_latency, member),
                **labels,
            )
            self.registry.counter(
                "edgecache_pool_ejections",
                "Times that the server was ejected.",
                read=partial(_ejections, member),
                **labels,
            )

    def pool_failed(self, pool: str, reason: str) -> None:
        """Count a failure of a site's pool; `reason` is as of the origin's."""
        self.registry.counter(
            "edgecache_pool_failures", "Failures of the pools of sites, by reason.", pool=pool, reason=reason
        ).value += 1

    def read_parents(self, parents: Parents) -> None:
        """Export the health of each parent."""
        for member in parents.members:
            self._read_member(member, "parent")

    def read_bypass(self, switch: Switch) -> None:
        """Export requests to parents, and past them."""
        gauge, counter = self.registry.gauge, self.registry.counter
        asked = "Requests to parents, including retries."
        counter("edgecache_parent_requests", asked, read=lambda: switch.counts.of_parents)
        again = "Requests retried at another parent."
        counter("edgecache_parent_retries", again, read=lambda: switch.counts.parent_retries)
        past = "Requests that went to the origin because no parent was available."
        counter("edgecache_parent_bypassed", past, read=lambda: switch.counts.bypassed)
        waiting = "Requests waiting to bypass the parents."
        gauge("edgecache_parent_bypass_waiting", waiting, read=lambda: switch.bypass_waiting)

    def parent_failed(self, reason: str) -> None:
        """Count a failure of a parent; `reason` is a fixed word of `wire/` or `upstream/`."""
        self.registry.counter("edgecache_parent_failures", "Failures of parents, by reason.", reason=reason).value += 1

    def pop_distrusted(self, why: Distrust) -> None:
        """Count a request that failed authentication as a POP's."""
        self.registry.counter(
            "edgecache_pop_distrusted", "Requests that failed authentication as a POP, by reason.", reason=why.value
        ).value += 1

    def _read_member(self, member: Member, kind: str = "origin") -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        health, region = member.health, member.region
        labels: dict[str, Any] = {kind: str(member.origin), "region": region}
        gauge(
            f"edgecache_{kind}_up",
            f"Workers that consider the {kind} healthy.",
            read=lambda: float(health.checked_up and health.breaker.state is State.CLOSED),
            **labels,
        )
        gauge(
            f"edgecache_{kind}_latency_seconds",
            f"Moving average of the {kind}'s response time, quick to rise.",
            across="max",
            read=lambda: health.latency,
            **labels,
        )
        for state in State:
            gauge(
                f"edgecache_{kind}_breaker",
                f"Workers whose circuit breaker for the {kind} is in this state.",
                read=lambda state=state: float(health.breaker.state is state),  # type: ignore[misc]
                state=state.value,
                **labels,
            )
        counter(
            f"edgecache_{kind}_ejections",
            f"Times that the {kind} was ejected.",
            read=lambda: health.breaker.opened,
            **labels,
        )

    def read_tls(self, ends: Callable[[], float]) -> None:
        """Export the earliest expiry of a certificate."""
        self.registry.timestamp(
            "edgecache_tls_certificate_ends_timestamp_seconds",
            "edgecache_tls_certificate_ends_seconds",
            "Time at which the first of the listeners' certificates expires.",
            read=ends,
        )

    def handshake_failed(self, reason: str) -> None:
        """Count a failed TLS handshake; `reason` is one of the fixed words in `wire/tls/failures.py`."""
        self.registry.counter(
            "edgecache_tls_handshake_failures", "TLS handshakes that failed, by reason.", reason=reason
        ).value += 1

    def not_stored(self, reason: Refused) -> None:
        """Count a response that was not stored."""
        self._not_stored[reason].value += 1

    def passed_on(self, by: Tier | None, status: int, reason: Refused) -> None:
        """Count a response of an origin or parent that was not stored."""
        self.upstream_answered(by, status)
        self._not_stored[reason].value += 1

    def passes(self, why: Forward, status: int, reason: Refused) -> Passes | None:
        """Where to count responses of the origin that are not stored and are passed on alike; None of failures."""
        if status >= 500:
            return None
        kind = (why, status // 100, reason)
        if kind not in self._passes:
            self._passes[kind] = Passes(self.requests.tally((Result.PASS, None, why, status // 100)))
        return self._passes[kind]

    def _fold_passes(self) -> None:
        for (_, status, reason), passes in self._passes.items():
            if passes.count:
                self._failed_in_a_row = 0
                self.origin_responses[status].value += passes.count
                self._not_stored[reason].value += passes.count
                passes.count = 0

    def refused(self, reason: str) -> None:
        """Count a refused request; `reason` is one of the fixed words in `wire/`."""
        counter = self._refused.get(reason)
        if counter is None:
            counter = self._refused[reason] = self.registry.counter(
                "edgecache_refused", "Requests refused, by reason.", reason=reason
            )
        counter.value += 1

    def upstream_answered(self, by: Tier | None, status: int) -> None:
        """Count a response of an origin or parent, by status."""
        responses = self.origin_responses if by is None else self.parent_responses
        responses[status // 100 if status < 600 else 5].value += 1
        if by is None:
            self._origin_is_well(status not in FAILING)

    def _origin_is_well(self, well: bool) -> None:
        self._fold_passes()  # they were before
        self._failed_in_a_row = 0 if well else self._failed_in_a_row + 1

    def origin_failed(self, reason: str) -> None:
        """Count a failure of the origin; `reason` is one of the fixed words in `wire/` and `upstream/pool.py`."""
        self._origin_failures(reason).value += 1
        if reason not in OURS:
            self._origin_is_well(False)

    def _origin_failures(self, reason: str) -> Counter:
        return self.registry.counter("edgecache_origin_failures", "Failures of the origin, by reason.", reason=reason)


def _is_well(member: Member) -> float:
    """Whether a server of a pool is well. Failures expire when none has come for a while: nobody asks it."""
    health = member.health
    well = health.breaker.state is State.CLOSED or monotonic() - member.last_failed > LAPSES
    return float(health.checked_up and well)


def _latency(member: Member) -> float:
    return member.health.latency


def _ejections(member: Member) -> float:
    return member.health.breaker.opened


class RegionalMetrics:
    """The metrics of the regional tier."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reads: dict[Read, Counter] = {}
        self._failures: dict[str, Counter] = {}
        self._keys: Histogram | None = None
        self._seconds: Histogram | None = None

    def read_state(self, tier: Regional) -> None:
        """Export gauges of `tier`, if there is a Valkey."""
        guard = tier.guard
        if guard is None:
            return
        for outcome in Read:
            self._reads[outcome] = self._registry.counter(
                "edgecache_regional_reads", "Reads of the regional tier, by result.", result=outcome.value
            )
        self._keys = self._registry.histogram(
            "edgecache_regional_batch_keys", "Reads that shared one round trip.", BATCHES
        )
        self._seconds = self._registry.histogram(
            "edgecache_regional_read_seconds", "Round-trip time of reads of the regional tier.", ROUND_TRIPS
        )
        for state in State:
            self._registry.gauge(
                "edgecache_regional_breaker",
                "Workers whose circuit breaker for the regional tier is in this state.",
                read=lambda state=state: float(guard.breaker.state is state),  # type: ignore[misc]
                state=state.value,
            )
        self._registry.gauge(
            "edgecache_regional_write_backlog_bytes", "Bytes waiting to be written.", read=lambda: tier.writes.queued
        )
        self._registry.gauge("edgecache_regional_leases", "Fetch leases of workers.", read=lambda: len(tier.leases))

    def read(self, outcome: Read) -> None:
        """Count a read by `outcome`."""
        if outcome in self._reads:
            self._reads[outcome].value += 1

    def batch(self, keys: int, seconds: float) -> None:
        """Count a batch of reads."""
        if self._keys is not None and self._seconds is not None:
            self._keys.observe(keys)
            self._seconds.observe(seconds)

    def failed(self, word: str) -> None:
        """Count a failed round trip; `word` is a fixed word of `valkey/batching.py` or `storage/fetch_lease.py`."""
        counter = self._failures.get(word)
        if counter is None:
            counter = self._failures[word] = self._registry.counter(
                "edgecache_regional_failures", "Failures of the regional tier, by kind.", kind=word
            )
        counter.value += 1
