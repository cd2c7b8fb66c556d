"""What a worker's request path is made of, and the limits that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecache.alike import AlikeHeads
from edgecache.fills import Fills
from edgecache.flights import Flights
from edgecache.invalidation import Invalidation
from edgecache.known import KnownHeads
from edgecache.memory import Memory
from edgecache.region import Region
from edgecache.relay import Relays
from edgecache.rules.reasons import Revalidation
from edgecache.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that `edge.py`, `refill.py` and `delivery.py` share. All mutable state of the path lies in them."""

    pop: bytes
    clock: Callable[[], float]  # resident time: epoch seconds that never step
    memory: Memory
    invalidation: Invalidation
    flights: Flights
    fills: Fills
    upstream: Upstream
    relays: Relays
    known: KnownHeads
    alike: AlikeHeads
    region: Region | None = None  # None: there is no regional tier
    jurisdiction: str = ""  # of this POP and all that it stores; empty: residency is not kept


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator may change while requests are under way."""

    hosts: frozenset[bytes]  # site names answered; empty = any
    follower_timeout: float  # seconds that a request waits for the flight of another
    stale_wait: float  # seconds that a request waits where something stale may stand in
    max_ranges: int
    revalidation: Revalidation = Revalidation.HONOUR  # what becomes of clients' wishes for something newer
