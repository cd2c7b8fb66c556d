"""The components of a worker's request path, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecache.invalidation.validity import Invalidation
from edgecache.proxy.cache_fill import Fills
from edgecache.proxy.collapsing import Flights
from edgecache.proxy.compression import Compressor
from edgecache.proxy.fastpath.head_memo import KnownHeads
from edgecache.proxy.fastpath.head_template import HeadTemplates
from edgecache.proxy.passthrough import Relays
from edgecache.proxy.regional_fetch import Region
from edgecache.semantics.outcomes import Revalidation
from edgecache.storage.memory import Memory
from edgecache.upstream.fetcher import Upstream


@dataclass(frozen=True, slots=True)
class Parts:
    """Components that `edge.py`, `fetch.py` and `deliver.py` share. They hold all mutable state of the path."""

    pop: bytes
    clock: Callable[[], float]  # resident time: epoch seconds that never step
    memory: Memory
    invalidation: Invalidation
    flights: Flights
    fills: Fills
    upstream: Upstream
    relays: Relays
    known: KnownHeads
    alike: HeadTemplates
    compressor: Compressor
    region: Region | None = None  # None: there is no regional tier
    jurisdiction: str = ""  # of this POP and all that it stores; empty: residency is not kept


@dataclass(frozen=True, slots=True)
class Limits:
    """Values that an operator can change while requests are running."""

    follower_timeout: float  # seconds that a request waits for the flight of another
    stale_wait: float  # seconds that a request waits where something stale may stand in
    max_ranges: int
    revalidation: Revalidation = Revalidation.HONOUR  # what becomes of clients' wishes for something newer
    slice_size: int = 0  # bytes; 0: objects are stored whole, unless a rule says otherwise
    slices_by_length: bool = False  # the origin is asked for slices where a range is wanted, or some are stored
