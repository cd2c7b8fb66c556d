"""Request metrics of a worker: result, tier, reason, duration and size.

A hit by a known head costs two additions; one in `SAMPLED` of them is timed, and counts for all.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import orjson

from edgecache.semantics.outcomes import TIERS, Forward, Result, Tier
from edgecache.telemetry.metrics import Counter, Registry

if TYPE_CHECKING:
    from edgecache.telemetry.exchange import Exchange

REGIONAL: Final = Result.REGIONAL
HIT: Final = Result.HIT  # to name a member by its class costs a call of Python before Python 3.12
SECONDS: Final = (  # from a memory hit, which takes microseconds, to an origin that hangs
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ASKED: Final = frozenset((Result.MISS, Result.REVALIDATED, Result.COLLAPSED))  # answered by different tiers
SAMPLED: Final = 64  # a power of two
CLASSES: Final = (
    "none",
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "6xx",
    "7xx",
    "8xx",
    "9xx",
)  # of statuses; none: unanswered
USUAL: Final = (  # exported from the start, so that a rate sees the first of each
    *((Result.HIT, None, None, status) for status in (2, 3, 4)),
    (Result.STALE, None, None, 2),
    (Result.REGIONAL, None, Forward.URI_MISS, 2),
    *((Result.MISS, None, why, 2) for why in (Forward.URI_MISS, Forward.VARY_MISS, Forward.STALE)),
    *((Result.MISS, None, Forward.URI_MISS, status) for status in (3, 4, 5)),
    (Result.MISS, Tier.PARENT, Forward.URI_MISS, 2),
    (Result.REVALIDATED, None, Forward.STALE, 2),
    (Result.COLLAPSED, None, Forward.URI_MISS, 2),
    *((Result.PASS, None, why, 2) for why in (Forward.METHOD, Forward.HIT_FOR_MISS)),
    (Result.PURGE, None, None, 2),
    (Result.ERROR, None, None, 5),
    *((Result.ABORTED, None, why, 2) for why in ("client-left", "cut-short")),
    (Result.ABORTED, None, "client-left", 0),
)

Outcome = tuple[Result, Tier | None, Forward | str | None, int]  # the last is the first digit of the status


class Tally:
    """Metrics of one outcome; `words` are its members in the access log."""

    __slots__ = ("bytes_out", "reason", "requests", "result", "seconds", "tier", "words")

    def __init__(self, registry: Registry, outcome: Outcome) -> None:
        result, tier, why, status = outcome
        tier = tier or TIERS[result]
        reason = self.reason = reason_of(result, why)
        self.result, self.tier = result.value, tier.value
        self.words = orjson.dumps({"result": result.value, "tier": tier.value, "reason": reason}).decode()[1:-1]
        self.requests = registry.counter(
            "edgecache_requests",
            "Requests by tier, result, reason and class of status.",
            result=result.value,
            tier=tier.value,
            reason=reason,
            status=CLASSES[status],
        )
        self.bytes_out = registry.counter(
            "edgecache_client_bytes_out", "Bytes of response bodies, by tier.", tier=tier.value
        )
        self.seconds = registry.histogram(
            "edgecache_request_seconds",
            "Time from a request's head to the last byte sent; one in 64 hits with a known head is timed,"
            " and counts for 64.",
            SECONDS,
            tier=tier.value,
        )


def reason_of(result: Result, why: Forward | str | None) -> str:
    """The reason label: the failure of a local reply, else why it was not a fresh memory hit."""
    if result is Result.HIT:
        return "fresh"
    if isinstance(why, str):
        return why
    return why.value.decode() if why is not None else result.value


class Passes:
    """How often responses of one kind were passed on since the last fold. The hot path adds to `count`."""

    __slots__ = ("count", "tally")

    def __init__(self, tally: Tally) -> None:
        self.tally = tally  # where their requests are counted
        self.count = 0


class RequestMetrics:
    """Request metrics of one worker. Labels come from closed vocabularies only."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.known_hits = 0  # answered by a known head, since the last `fold`
        self.known_bytes = 0
        self.store_hits = 0  # likewise, out of the machine's store
        self.known_others = [0] * len(CLASSES)  # of the known hits, those that are no 2xx, by the class of their status
        self.bytes_in: Counter = registry.counter("edgecache_client_bytes_in", "Bytes received from clients.")
        self._tallies: dict[Outcome, Tally] = {outcome: Tally(registry, outcome) for outcome in USUAL}
        self._hit = self._tallies[Result.HIT, None, None, 2]
        self.observe_hit = self._hit.seconds.observe

    def answered(self, exchange: Exchange, took: float) -> Tally:
        """Count a completed response, which took `took` seconds."""
        tally = exchange.tally
        if tally is None:
            result = exchange.result
            why = None if result is HIT else exchange.failure or exchange.why
            outcome: Outcome = (result, exchange.tier if result in ASKED else None, why, exchange.status // 100)
            tally = self._tallies.get(outcome) or self.tally(outcome)  # the look-up is here, too: this runs for misses
        tally.requests.value += 1
        tally.bytes_out.value += exchange.bytes_out
        seconds = tally.seconds  # as its `observe` does: a call less for every request
        seconds.counts[bisect_left(seconds.bounds, took)] += 1
        seconds.total += took
        return tally

    def tally(self, outcome: Outcome) -> Tally:
        """Where responses of this outcome are counted."""
        tally = self._tallies.get(outcome)
        if tally is None:
            tally = self._tallies[outcome] = Tally(self._registry, outcome)
        return tally

    def store_hit(self, why: Forward, status: int, size: int) -> Tally:
        """Count a hit of the machine's store by a known head, with `size` bytes of content."""
        tally = self._tallies.get((REGIONAL, None, why, status // 100)) or self.tally(
            (REGIONAL, None, why, status // 100)
        )
        self.store_hits += 1
        tally.requests.value += 1
        tally.bytes_out.value += size
        return tally

    @property
    def hit(self) -> Tally:
        """The memory hits."""
        return self._hit

    @property
    def hit_words(self) -> str:
        """The members of a memory hit in the access log."""
        return self._hit.words

    def fold(self) -> None:
        """Add hits by known heads to the counters."""
        hits, self.known_hits = self.known_hits, 0
        size, self.known_bytes = self.known_bytes, 0
        others, self.known_others = self.known_others, [0] * len(CLASSES)
        for status, count in enumerate(others):
            if count:
                self.tally((Result.HIT, None, None, status)).requests.value += count
        self._hit.requests.value += hits - sum(others)
        self._hit.bytes_out.value += size
