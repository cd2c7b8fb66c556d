"""The logs of all regions as one process uses them: connections, a follower, a writer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from random import random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecache.config.settings import Settings
from edgecache.invalidation.appender import LogAppender
from edgecache.invalidation.consumer import LogConsumer
from edgecache.invalidation.metrics import LogMetrics
from edgecache.invalidation.stream_store import LogStore
from edgecache.invalidation.validity import Invalidation
from edgecache.storage.record import Codec
from edgecache.storage.regional_probe import access_of
from edgecache.valkey.availability import Availability
from edgecache.valkey.circuit_breaker import Breaker
from edgecache.valkey.client import Link

TIMEOUT = 2.0  # seconds for a reply of one's own region
BREAKER_FAILURES = 5
BREAKER_OPEN_FOR = 0.25  # seconds
_numbers = count()


class RegionLog:
    """A worker's consumer and appender."""

    def __init__(
        self,
        settings: Settings,
        invalidation: Invalidation,
        counts: LogMetrics,
        wall: Callable[[], float],
    ) -> None:
        self.follower = LogConsumer(
            own_region_store(settings),
            invalidation,
            region=settings.region,
            peers=settings.peers,
            member=f"{settings.pop}/{os.getpid()}.{next(_numbers)}",
            clock=time.monotonic,
            wall=wall,
            max_lag=settings.max_purge_lag,
            counts=counts,
        )
        self.follower.outlived = settings.store != "off"
        self.writer = appender_of(settings, counts, lambda: invalidation.log.applied(settings.region))
        counts.read(invalidation.log, self.follower, self.writer)

    async def close(self) -> None:
        """Close both."""
        await self.writer.close()
        await self.follower.close()


def appender_of(settings: Settings, counts: LogMetrics, known: Callable[[], int]) -> LogAppender:
    """Appender of the region's log; `known` is its last mark seen in this process."""
    store = own_region_store(settings)
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    guard = Availability(store.link, breaker, time.monotonic, counts)
    return LogAppender(store, guard, settings.region, known, peer_stores(settings))


def own_region_store(settings: Settings) -> LogStore:
    """The logs in the Valkey of this region, on connections of their own."""
    return LogStore(Link(access_of(settings, TIMEOUT)), settings.purge_retention, codec_of(settings))


def peer_stores(settings: Settings) -> dict[str, LogStore]:
    """The logs in the Valkeys of the other regions, by region."""
    return {region: peer_region_store(settings, url) for region, url in settings.peers.items()}


def peer_region_store(settings: Settings, url: str) -> LogStore:
    """The logs in another region's Valkey."""
    return LogStore(Link(access_of(settings, settings.peer_timeout, url)), settings.purge_retention, codec_of(settings))


def codec_of(settings: Settings) -> Codec | None:
    """Codec that seals log entries; None without EDGECACHE_REGIONAL_KEY."""
    return Codec(AESGCM(settings.regional_key), os.urandom) if settings.regional_key else None
