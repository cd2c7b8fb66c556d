"""What one pool of connections needs of the settings: for an origin, or for a parent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edgecache.config.addresses import Origin
from edgecache.config.certificates import KeyPair
from edgecache.config.settings import Settings
from edgecache.semantics.cache_tags import BETWEEN_POPS, TAG_FIELDS
from edgecache.upstream.peer_fields import SEEN
from edgecache.wire.upstream_connection import ResponseRules

ALT_SVC: Final = frozenset((b"alt-svc",))  # RFC 7838 §2.1: of the origin as clients reach it, which is this POP
OF_POPS: Final = frozenset((SEEN, BETWEEN_POPS))  # response fields that are believed of POPs only
ADDED: Final = 6  # field lines that a response has more of when it leaves this POP
FEWEST_BOUND: Final = 32  # field lines that every response may have


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Where the connections of a pool lead to, how many there may be, and how long each step may take, in seconds."""

    origin: Origin
    responses: ResponseRules
    connect_timeout: float
    first_byte_timeout: float
    between_bytes_timeout: float
    tunnel_timeout: float
    min_rate: int  # bytes per second
    connections: int  # at most
    queue: int  # requests that wait for one, at most
    queue_timeout: float
    keepalive: float  # that a connection may be idle
    connection_age: float  # of a connection, at most
    dns_ttl: float
    ca: str  # a file of certificates; empty: the system's store
    verify: bool  # whether the server's certificate and name are verified
    pair: KeyPair | None  # our certificate, if the server may ask for one


def for_origin(settings: Settings, origin: Origin) -> PoolOptions:
    """Options of connections to `origin`."""
    return PoolOptions(
        origin=origin,
        responses=response_rules(settings, is_pop=False),
        connect_timeout=settings.connect_timeout,
        first_byte_timeout=settings.first_byte_timeout,
        between_bytes_timeout=settings.between_bytes_timeout,
        tunnel_timeout=settings.tunnel_timeout,
        min_rate=settings.origin_min_rate,
        connections=settings.origin_connections,
        queue=settings.origin_queue,
        queue_timeout=settings.origin_queue_timeout,
        keepalive=settings.origin_keepalive,
        connection_age=settings.origin_connection_age,
        dns_ttl=settings.dns_ttl,
        ca=settings.origin_ca,
        verify=settings.origin_tls_verify,
        pair=settings.origin_pair,
    )


def for_parent(settings: Settings, parent: Origin) -> PoolOptions:
    """Options of connections to `parent`, which is always verified, and may ask for this POP's certificate.

    A parent's own error comes before ours: it has the time to connect, too.
    """
    return replace(
        for_origin(settings, parent),
        responses=response_rules(settings, is_pop=True),
        first_byte_timeout=settings.first_byte_timeout + settings.connect_timeout,
        ca=settings.parent_ca,
        verify=True,
        pair=settings.pop_pair,
    )


def response_rules(settings: Settings, *, is_pop: bool) -> ResponseRules:
    """How the responses of an origin, or of another POP, are read."""
    return ResponseRules(
        hidden=hidden_fields(settings),
        unbelieved=frozenset() if is_pop else OF_POPS,
        tagging=tag_field_names(settings),
        max_fields=max_response_fields(settings.max_fields, is_pop=is_pop),
        max_head=settings.max_head,
    )


def max_response_fields(most: int, *, is_pop: bool) -> int:
    """How many field lines a response may have, so that no client gets more than `most`: a POP has added its own."""
    return max(FEWEST_BOUND, most if is_pop else most - ADDED)


def tag_field_names(settings: Settings) -> frozenset[bytes]:
    """The response fields that bear tags by the operator's word, in lower case."""
    return frozenset(name.encode() for name in settings.tag_field_names)


def hidden_fields(settings: Settings) -> frozenset[bytes]:
    """The response fields that clients do not see."""
    tags = TAG_FIELDS | tag_field_names(settings) if settings.tag_fields == "hide" else frozenset()
    return tags | (ALT_SVC if settings.origin_alt_svc == "drop" else frozenset())
