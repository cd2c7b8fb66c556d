"""Requests as counted by one worker: what each came to, who answered it and why, how long it took, how large it was.

A hit by a known head costs two additions; one in `SAMPLED` of them is timed, and counts for all of those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from edgecache.metrics import Counter, Registry
from edgecache.rules.reasons import TIERS, Forward, Result, Tier

if TYPE_CHECKING:
    from edgecache.wire.exchange import Exchange

SECONDS: Final = (  # from a memory hit, which takes microseconds, to an origin that hangs
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ASKED: Final = frozenset((Result.MISS, Result.REVALIDATED, Result.COLLAPSED))  # by whom depends
SAMPLED: Final = 64  # a power of two
USUAL: Final = (  # exported from the start, so that a rate sees the first of each
    (Result.HIT, None, None),
    (Result.STALE, None, None),
    (Result.REGIONAL, None, Forward.URI_MISS),
    *((Result.MISS, None, why) for why in (Forward.URI_MISS, Forward.VARY_MISS, Forward.STALE)),
    (Result.MISS, Tier.PARENT, Forward.URI_MISS),
    (Result.REVALIDATED, None, Forward.STALE),
    (Result.COLLAPSED, None, Forward.URI_MISS),
    *((Result.PASS, None, why) for why in (Forward.METHOD, Forward.HIT_FOR_MISS)),
    (Result.PURGE, None, None),
    (Result.ERROR, None, None),
    *((Result.ABORTED, None, why) for why in ("client-left", "cut-short")),
)

Outcome = tuple[Result, Tier | None, Forward | str | None]


class Tally:
    """The requests of one outcome; `words` are its members in the access log."""

    __slots__ = ("bytes_out", "observe", "reason", "requests", "words")

    def __init__(self, registry: Registry, outcome: Outcome) -> None:
        result, tier, why = outcome
        tier = tier or TIERS[result]
        reason = self.reason = reason_of(result, why)
        self.words = orjson.dumps({"result": result.value, "tier": tier.value, "reason": reason}).decode()[1:-1]
        self.requests = registry.counter(
            "edgecache_requests",
            "Requests answered, by who answered, what they came to, and why.",
            result=result.value,
            tier=tier.value,
            reason=reason,
        )
        self.bytes_out = registry.counter(
            "edgecache_client_bytes_out", "Bytes of answers' bodies, by who answered.", tier=tier.value
        )
        self.observe = registry.histogram(
            "edgecache_request_seconds",
            "From a request's head to the last byte handed over; one in 64 memory hits by a known head is timed,"
            " and counts for 64.",
            SECONDS,
            tier=tier.value,
        ).observe


def reason_of(result: Result, why: Forward | str | None) -> str:
    """The reason as a label: of an answer of ours the failure, of others why they were no fresh hits of the memory."""
    if result is Result.HIT:
        return "fresh"
    if isinstance(why, str):
        return why
    return why.value.decode() if why is not None else result.value


class RequestCounts:
    """The request metrics of one worker. All its labels come from closed vocabularies, whatever clients send."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.known_hits = 0  # answered by a known head, since the last `fold`
        self.known_bytes = 0
        self.bytes_in: Counter = registry.counter("edgecache_client_bytes_in", "Bytes received from clients.")
        self._tallies: dict[Outcome, Tally] = {outcome: Tally(registry, outcome) for outcome in USUAL}
        self._hit = self._tallies[Result.HIT, None, None]
        self.observe_hit = self._hit.observe

    def answered(self, exchange: Exchange, took: float) -> Tally:
        """An answer is complete, after `took` seconds."""
        result = exchange.result
        why = None if result is Result.HIT else exchange.failure or exchange.why
        outcome: Outcome = (result, exchange.tier if result in ASKED else None, why)
        tally = self._tallies.get(outcome)
        if tally is None:
            tally = self._tallies[outcome] = Tally(self._registry, outcome)
        tally.requests.value += 1
        tally.bytes_out.value += exchange.bytes_out
        tally.observe(took)
        return tally

    @property
    def hit_words(self) -> str:
        """The members of a memory hit in the access log."""
        return self._hit.words

    def fold(self) -> None:
        """Count the hits by known heads with the others."""
        hits, self.known_hits = self.known_hits, 0
        size, self.known_bytes = self.known_bytes, 0
        self._hit.requests.value += hits
        self._hit.bytes_out.value += size
