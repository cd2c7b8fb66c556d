"""Settings of connections: to clients, origins and parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgecache.config.addresses import Parent
from edgecache.config.schema import setting
from edgecache.config.types import (
    CERTIFICATES,
    COUNT,
    DURATION,
    FILE,
    PARENTS,
    PATH,
    SECRETS,
    SIZE,
    SWITCH,
)


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Clients: limits and timeouts."""

    max_connections: int = setting(
        COUNT,
        "0",
        "Maximum number of client connections, per worker; 0 is as many as the limit on open files allows.",
        most="1000000",
    )
    max_connections_per_address: int = setting(
        COUNT,
        "4096",
        "Maximum number of client connections from one address or IPv6 /64, per worker; EDGECACHE_TRUSTED_PROXIES"
        " are exempt. 0 sets no limit.",
        most="1000000",
    )
    head_timeout: float = setting(
        DURATION, "10s", "Timeout for receiving a request head, and for a TLS handshake.", least="10ms", most="10m"
    )
    body_timeout: float = setting(
        DURATION,
        "30s",
        "Timeout between bytes of a request body, and between reads of a response by its client.",
        least="10ms",
        most="1h",
    )
    idle_timeout: float = setting(
        DURATION, "60s", "Time that a client connection may be idle between requests.", least="10ms", most="1h"
    )
    tunnel_timeout: float = setting(
        DURATION,
        "10m",
        "Time that a WebSocket may be silent in both directions, or an event stream (text/event-stream) between two"
        " events.",
        least="10ms",
        most="1d",
    )
    min_rate: int = setting(
        SIZE,
        "100",
        "Bytes per second below which a request body is refused, once it has taken EDGECACHE_BODY_TIMEOUT.",
    )
    max_line: int = setting(SIZE, "8KiB", "Longest request line or field line.", least="256", most="1MiB")
    max_fields: int = setting(COUNT, "100", "Maximum number of field lines in a head.", least="1", most="10000")
    max_head: int = setting(SIZE, "32KiB", "Largest head of a message.", least="1KiB", most="1MiB")
    max_ranges: int = setting(
        COUNT,
        "5",
        "Maximum number of ranges in one response; a request for more ranges gets the whole object.",
        least="1",
        most="1000",
    )
    max_request_body: int = setting(SIZE, "0", "Largest request body; 0 sets no limit.")
    finish_abandoned: bool = setting(
        SWITCH,
        "off",
        "Whether a response of the origin that is not for the cache is read to its end after its client has"
        " disconnected.",
    )


@dataclass(frozen=True, kw_only=True)
class OriginSettings:
    """Origin: connections and timeouts."""

    connect_timeout: float = setting(
        DURATION, "3s", "Timeout for connecting to the origin, TLS handshake included.", least="10ms", most="5m"
    )
    first_byte_timeout: float = setting(
        DURATION, "60s", "Timeout for the first byte of the origin's response.", least="10ms", most="1h"
    )
    between_bytes_timeout: float = setting(
        DURATION,
        "60s",
        "Timeout between bytes of the origin's response; for event streams it is EDGECACHE_TUNNEL_TIMEOUT.",
        least="10ms",
        most="1h",
    )
    origin_min_rate: int = setting(
        SIZE,
        "100",
        "Bytes per second below which a response of known length, or one that is being stored, is abandoned once"
        " it has taken EDGECACHE_BETWEEN_BYTES_TIMEOUT.",
    )
    origin_keepalive: float = setting(
        DURATION, "4s", "Time that an idle connection to the origin is kept open.", least="0s", most="1h"
    )
    origin_connection_age: float = setting(
        DURATION,
        "10m",
        "Maximum age of a connection to the origin, a parent or Valkey; an older one is not used for further requests."
        " Connections to an address that the name no longer has are closed earlier.",
        least="1s",
        most="1d",
    )
    origin_connections: int = setting(
        COUNT, "256", "Maximum number of connections to the origin, per worker.", least="1", most="65535"
    )
    origin_queue: int = setting(
        COUNT, "1024", "Maximum number of requests that wait for such a connection, per worker.", most="1000000"
    )
    origin_queue_timeout: float = setting(
        DURATION, "5s", "Time that a request waits for such a connection before it gets 503.", least="0s", most="10m"
    )
    origin_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authorities trusted for the origin. Empty trusts those of the system.",
    )
    origin_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's client certificate for origins that request one; read again when it changes.",
    )
    origin_certificate_key: str = setting(FILE, "", "PEM file of the key of that certificate, if it is separate.")
    origin_tls_verify: bool = setting(SWITCH, "on", "Whether the origin's certificate and name are verified.")
    dns_ttl: float = setting(
        DURATION,
        "30s",
        "Time that a resolved address of an origin, parent or Valkey is used before its name is looked up again.",
        least="0s",
        most="1d",
    )


@dataclass(frozen=True, kw_only=True)
class ParentSettings:
    """Parents."""

    parents: Mapping[str, tuple[Parent, ...]] = setting(
        PARENTS,
        "",
        "POPs that receive requests instead of the origin, one for each object; those of this region first. `#name`"
        " after a URL names a parent that POPs know by several URLs.",
    )
    parent_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authorities trusted for the certificates of parents. Empty trusts those of the"
        " system.",
    )
    pop_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's client certificate for the EDGECACHE_POP_LISTEN of its parents; read again when it"
        " changes.",
    )
    pop_certificate_key: str = setting(FILE, "", "PEM file of the key of that certificate, if it is separate.")
    parent_bypass: int = setting(
        COUNT,
        "32",
        "Maximum number of concurrent requests that bypass the parents and go to the origin while no parent is healthy,"
        " per worker.",
        least="1",
        most="65535",
    )
    pop_secret: tuple[bytes, ...] = setting(
        SECRETS,
        "",
        "Secrets with which POPs authenticate each other, of at least 16 characters: the first one signs, all are"
        " accepted, so that they can be rotated.",
        secret=True,
    )


@dataclass(frozen=True, kw_only=True)
class BalancingSettings:
    """Balancing and health of origins and parents."""

    origin_eject_after: int = setting(
        COUNT, "5", "Consecutive failures that eject an origin or a parent.", least="1", most="1000"
    )
    origin_eject_for: float = setting(
        DURATION, "30s", "Time after which an ejected origin or parent is tried again.", least="100ms", most="1h"
    )
    origin_slow_start: float = setting(
        DURATION,
        "10s",
        "Time in which an origin or parent that has recovered regains its full share of requests.",
        most="1h",
    )
    origin_hedge: bool = setting(
        SWITCH,
        "on",
        "Whether a safe request whose response can be cached is also sent to a second origin, when it has waited"
        " longer than 95 of 100 responses took.",
    )
    origin_check_path: str = setting(
        PATH, "", "Path (and query) that health checks request from each origin. Empty disables them."
    )
    origin_check_interval: float = setting(
        DURATION, "5s", "Time between two health checks of an origin, or of a parent.", least="100ms", most="1h"
    )
    origin_check_fall: int = setting(
        COUNT, "3", "Consecutive failed health checks after which an origin is not used.", least="1"
    )
    origin_check_rise: int = setting(
        COUNT, "2", "Consecutive successful health checks after which it is used again.", least="1"
    )
