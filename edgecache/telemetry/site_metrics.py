"""Requests and bytes by site. Labels are bounded: the first sites have their own, all others share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgecache.semantics.outcomes import Result
from edgecache.telemetry.metrics import Counter, Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecache.telemetry.request_metrics import Tally

MOST_LABELS: Final = 200  # sites with a label of their own in one worker
OTHERS: Final = "-others"  # no name of a site begins so


class SiteCounts:
    """Counts of one label. The hot path adds to the two numbers, `fold` to the counters."""

    __slots__ = ("_bytes", "_label", "_registry", "_requests", "known_bytes", "known_hits")

    def __init__(self, registry: Registry, label: str) -> None:
        self.known_hits = 0  # by known heads, since the last `fold`
        self.known_bytes = 0
        self._registry = registry
        self._label = label
        self._requests: dict[str, Counter] = {}
        self._bytes = registry.counter("edgecache_site_bytes_out", "Bytes of response bodies, by site.", site=label)

    def add(self, result: str, requests: int, size: int) -> None:
        """Count requests with that result, whose bodies had `size` bytes together."""
        counter = self._requests.get(result)
        if counter is None:
            words = f"Requests by site and result; {OTHERS}: those beyond {MOST_LABELS} sites."
            counter = self._registry.counter("edgecache_site_requests", words, site=self._label, result=result)
            self._requests[result] = counter
        counter.value += requests
        self._bytes.value += size

    def fold(self) -> None:
        """Add hits by known heads."""
        hits, self.known_hits = self.known_hits, 0
        size, self.known_bytes = self.known_bytes, 0
        if hits:
            self.add("hit", hits, size)


class SiteMetrics:
    """Counts by site, over all reloads of one worker."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        registry.bound("edgecache_site_requests", (MOST_LABELS + 1) * len(Result))
        registry.bound("edgecache_site_bytes_out", MOST_LABELS + 1)
        self._counts: dict[str, SiteCounts] = {}

    def counts_of(self, site: str) -> SiteCounts:
        """Where requests for a site are counted."""
        label = site if site in self._counts or len(self._counts) < MOST_LABELS else OTHERS
        counts = self._counts.get(label)
        if counts is None:
            counts = self._counts[label] = SiteCounts(self._registry, label)
        return counts

    def fold(self) -> None:
        """Add hits by known heads to the counters."""
        for counts in self._counts.values():
            counts.fold()


def counting(answered: Callable[[Any, float], Tally]) -> Callable[[Any, float], Tally]:
    """`answered`, which counts by site, too."""

    def answered_of_site(exchange: Any, took: float) -> Tally:
        tally = answered(exchange, took)
        policy = exchange.request.policy
        if policy is not None:
            policy.site.counts.add(tally.result, 1, exchange.bytes_out)
        return tally

    return answered_of_site


def counting_hits(known_hit: Callable[[Any, Any, float], None]) -> Callable[[Any, Any, float], None]:
    """`known_hit`, which counts by site, too."""

    def known_hit_of_site(connection: Any, known: Any, now: float) -> None:
        counts = known.rendered.counts
        if counts is not None:
            counts.known_hits += 1
            counts.known_bytes += known.rendered.size
        known_hit(connection, known, now)

    return known_hit_of_site
