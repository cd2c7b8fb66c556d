"""How a worker's request path is put together out of the settings: which part is given which."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecache.config.addresses import bracketed
from edgecache.config.settings import Settings
from edgecache.invalidation.in_process_log import OwnLog
from edgecache.invalidation.metrics import LogCounts
from edgecache.invalidation.purge_log import PurgeLog
from edgecache.invalidation.region_log import RegionLog
from edgecache.invalidation.validity import Invalidation
from edgecache.proxy.cache_fill import Fills
from edgecache.proxy.collapsing import Flights
from edgecache.proxy.components import Limits, Parts
from edgecache.proxy.edge import Edge
from edgecache.proxy.fastpath.head_memo import KnownHeads, KnownHit
from edgecache.proxy.fastpath.head_template import Alike, AlikeHeads
from edgecache.proxy.passthrough import Relays
from edgecache.proxy.purge_method import PurgeMethod
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.write_refresh import Refresher
from edgecache.proxy.write_through import WritePolicy, Writes
from edgecache.semantics.client_address import Trust
from edgecache.semantics.forwarding import Gateway
from edgecache.semantics.origin_urls import own_urls
from edgecache.semantics.outcomes import Revalidation
from edgecache.semantics.stored_response import Policy
from edgecache.server.worker_metrics import RegionalCounts, Watch
from edgecache.storage.memory import Memory
from edgecache.storage.record import Codec
from edgecache.storage.regional import Regional
from edgecache.storage.regional_probe import access_of
from edgecache.storage.resident_clock import Clock
from edgecache.upstream.active_upstream import Switch
from edgecache.upstream.fetcher import Upstream
from edgecache.upstream.peering import Parental
from edgecache.upstream.pool_options import hidden_fields
from edgecache.valkey.availability import Guard
from edgecache.valkey.batching import MOST_BYTES
from edgecache.valkey.circuit_breaker import Breaker
from edgecache.valkey.client import Link
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.tls.contexts import ServerTls

REGISTER_BYTES: Final = 1024  # allowed for each purged name
GAPS: Final = 8  # an eighth of the memory is for the allocator's gaps, and for what is not counted
ALIKE: Final = 64  # what is known of heads by the lines that matter holds a sixty-fourth at most
KNOWN: Final = 8  # known heads and rendered answers hold an eighth of the memory at most
BREAKER_FAILURES: Final = 5  # in a row, until the regional tier is let alone
BREAKER_OPEN_FOR: Final = 0.5  # seconds
LEAST_UNWRITTEN: Final = 4 * 1024 * 1024  # bytes that wait to be written to the regional tier, however small the memory


@dataclass(frozen=True, slots=True)
class Assembled:
    """A request path, and the parts of it that have a life of their own."""

    edge: Edge
    tier: Regional | None
    logs: RegionLog | None  # None without a tier: there is no log but this process's own
    own_log: OwnLog
    purges: PurgeMethod


def assemble(
    settings: Settings,
    switch: Switch,
    watch: Watch,
    is_trusted: Trust,
    clock: Clock,
    on_known_hit: Callable[[ClientConnection, KnownHit | Alike, float], None],
) -> Assembled:
    """The request path that the settings describe, on the running event loop."""
    tier = regional_tier(settings, watch.regional, clock)
    parts = _parts(settings, switch, watch, is_trusted, clock, tier)
    own_log = OwnLog(parts.invalidation)
    logs = None
    if tier is not None:
        logs = RegionLog(settings, parts.invalidation, LogCounts(watch.registry, settings.region), clock.wall)
    reaches = logs.follower.reaches if logs is not None else None
    recorder = logs.writer if logs is not None else own_log
    writes = Writes(parts.relays, parts.invalidation, write_policy_of(settings), recorder, reaches, is_trusted)
    edge = Edge(
        parts,
        limits_of(settings),
        writes=writes,
        on_known_hit=on_known_hit,
        reaches=reaches,
        token_cookie=settings.token_cookie,
    )
    if tier is not None and logs is not None and settings.write_through == "refresh":
        rules, peers = settings.residency_rules, logs.writer.peers
        near = {region: store for region, store in peers.items() if rules.of_region(region) == rules.home}
        writes.refresh = Refresher(edge, tier.codec, clock, near).refresh
    return Assembled(edge, tier, logs, own_log, PurgeMethod(settings, recorder, watch.refused, is_trusted))


def _parts(
    settings: Settings,
    switch: Switch,
    watch: Watch,
    is_trusted: Trust,
    clock: Clock,
    tier: Regional | None,
) -> Parts:
    pop, home = settings.pop.encode(), settings.residency_rules.home
    log = PurgeLog(settings.purge_registers, REGISTER_BYTES * settings.purge_registers)
    budget = settings.worker_memory - settings.worker_memory // GAPS
    memory = Memory(budget, settings.memory_policy, settings.largest_object, settings.max_variants, watch.not_stored)
    memory.select_language = settings.select_language
    flights = Flights(settings.hit_for_miss)
    invalidation = Invalidation(log, memory, flights, cut_off_modes(settings))
    fills = Fills(memory, invalidation, policy_of(settings), watch.not_stored, tier)
    parental = None
    if settings.parents:
        secret = settings.pop_secret[0] if settings.pop_secret else b""
        parental = Parental(pop, settings.region, secret, invalidation, clock.wall, is_trusted)
    upstream = Upstream(switch, gateway_of(settings), log, clock, is_trusted, parental, watch.upstream_answered)
    return Parts(
        pop=pop,
        clock=clock.now,
        memory=memory,
        invalidation=invalidation,
        flights=flights,
        fills=fills,
        upstream=upstream,
        relays=Relays(
            pop=pop,
            upstream=upstream,
            fills=fills,
            flights=flights,
            invalidation=invalidation,
            clock=clock.now,
            wall=clock.wall,
            jurisdiction=home,
        ),
        known=KnownHeads(memory.account.budget // KNOWN, memory.account.hold),
        alike=AlikeHeads(memory.account.budget // ALIKE, memory.account.hold),
        region=_region(settings, tier, memory, invalidation, upstream, clock),
        jurisdiction=home,
    )


def _region(
    settings: Settings,
    tier: Regional | None,
    memory: Memory,
    invalidation: Invalidation,
    upstream: Upstream,
    clock: Clock,
) -> Region | None:
    if tier is None:
        return None
    tier.used = memory.codings.used
    name = settings.region.encode() + b"/regional"
    return Region(tier, memory, invalidation, upstream, clock.now, settings.follower_timeout, name)


def regional_tier(settings: Settings, counts: RegionalCounts, clock: Clock) -> Regional | None:
    """The tier that the settings name, on the running event loop; None if they name none."""
    if settings.regional == "off":
        return None
    access = access_of(settings, timeout=max(4 * settings.regional_timeout, 1.5))
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    guard = Guard(Link(access), breaker, time.monotonic, counts, settings.regional_timeout)
    return Regional(
        guard,
        Codec(
            AESGCM(settings.regional_key) if settings.regional_key else None,
            scope=settings.residency_rules.home.encode(),
        ),
        budget=settings.regional_timeout,
        lease=settings.regional_lease,
        largest=settings.regional_max_object,
        count=counts.read,
        clock=clock,
        most_unwritten=min(MOST_BYTES, max(LEAST_UNWRITTEN, settings.worker_memory // 2)),
    )


def server_tls(settings: Settings) -> ServerTls | None:
    """The certificates that the settings name; raises OSError or ValueError if they cannot be read."""
    return ServerTls(settings.tls_certificates, settings.pop_ca) if settings.tls_certificates else None


def limits_of(settings: Settings) -> Limits:
    """The limits of the request path."""
    return Limits(
        follower_timeout=settings.follower_timeout,
        stale_wait=settings.stale_wait,
        max_ranges=settings.max_ranges,
        revalidation=Revalidation(settings.client_revalidation),
    )


def cut_off_modes(settings: Settings) -> dict[bytes, str]:
    """What to do while cut off, by path prefix; the empty one is for all others."""
    return {b"": settings.cut_off, **{path.encode(): mode for path, mode in settings.cut_off_paths.items()}}


def write_policy_of(settings: Settings) -> WritePolicy:
    """The operator's choices about writes."""
    return WritePolicy(
        ack=settings.write_ack,
        timeout=settings.write_timeout,
        refuse_unrecorded=settings.cut_off == "consistent",
        token_cookie=settings.token_cookie,
        author=settings.pop,
        most_of_client=settings.client_writes,
    )


def policy_of(settings: Settings) -> Policy:
    """The operator's choices, as the rules take them."""
    return Policy(
        heuristics=settings.heuristics,
        heuristic_max=settings.heuristic_max,
        negative_ttl=settings.negative_ttl,
        store_set_cookie=settings.store_set_cookie,
        store_client_errors=settings.store_client_errors,
        list_fields=frozenset(name.encode() for name in settings.list_fields),
        default_stale_if_error=settings.default_stale_if_error,
        hidden=hidden_fields(settings),
    )


def gateway_of(settings: Settings) -> Gateway:
    """Who this POP is to the origin."""
    host = {"client": "", "origin": settings.origin.authority}.get(settings.origin_host, settings.origin_host).encode()
    own = None
    if host and settings.origin_urls == "map":
        origins = [origin for listed in settings.origins.values() for origin in listed] or [settings.origin]
        parted = [(one.scheme.encode(), bracketed(one.host).encode(), one.port) for one in origins]
        own = own_urls(parted, host)
    return Gateway(settings.pop.encode(), host, settings.forwarded, own)
