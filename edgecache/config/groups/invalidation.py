"""Settings of purges, writes, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgecache.config.addresses import Network
from edgecache.config.purge_types import FIELD_NAMES, PURGE_TOKENS, PurgeToken
from edgecache.config.schema import NAMES, setting
from edgecache.config.types import (
    COUNT,
    DURATION,
    NETWORKS,
    PEERS,
    PREFIX_MODES,
    SWITCH,
    one_of,
)


@dataclass(frozen=True, kw_only=True)
class PurgeSettings:
    """Purges and regions."""

    peers: Mapping[str, str] = setting(
        PEERS,
        "",
        "Valkey servers of the other regions; the purge logs of those regions are copied from them.",
        secret=True,
    )
    peer_timeout: float = setting(
        DURATION,
        "650ms",
        "Timeout for replies from the Valkey of another region; at least one round trip plus 200 ms.",
        least="250ms",
        most="10s",
    )
    purge_tokens: tuple[PurgeToken, ...] = setting(
        PURGE_TOKENS,
        "",
        "Tokens that may purge, besides EDGECACHE_ADMIN_TOKEN: name=secret, or name@host=secret for that site only;"
        " several hosts are separated by a vertical bar. A secret has at least 16 characters.",
        secret=True,
    )
    purge_from: tuple[Network, ...] = setting(
        NETWORKS,
        "",
        "Networks whose PURGE, BAN and PURGEKEYS requests need no secret; through a proxy, only if it is one of"
        " EDGECACHE_TRUSTED_PROXIES and names its client.",
    )
    purge_retention: int = setting(
        COUNT,
        "100000",
        "Number of entries kept in the purge log of a region. A POP that has missed more entries revalidates its stored"
        " responses.",
        least="100",
        most="100000000",
    )
    purge_registers: int = setting(
        COUNT,
        NAMES,
        "Number of purged names (tags, URLs, prefixes) that a worker remembers. Above it, older objects of the site"
        " with the most names are revalidated.",
        least="100",
        most="100000000",
    )


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """Writes."""

    write_ack: str = setting(
        one_of("local", "region", "all"),
        "region",
        "How far the invalidations of a write must have been applied before its response is sent: in this worker"
        " (`local`), in the POPs of the region (`region`), or everywhere (`all`).",
    )
    write_through: str = setting(
        one_of("invalidate", "refresh"),
        "invalidate",
        "Effect of a write on the stored responses of its target: `invalidate` them, or `refresh` them at once in the"
        " regional tiers.",
    )
    write_timeout: float = setting(
        DURATION,
        "2m",
        "Time after which a write whose POP died counts as ended and takes effect as an invalidation; at least the"
        " longest time that the origin takes for a write.",
        least="1s",
        most="1h",
    )
    client_writes: int = setting(
        COUNT,
        "100",
        "Maximum number of writes from one address or IPv6 /64 that wait for the origin, per worker; further ones get"
        " 429. 0 sets no limit.",
        most="1000000",
    )


@dataclass(frozen=True, kw_only=True)
class CutOffSettings:
    """Regions that are cut off."""

    cut_off: str = setting(
        one_of("available", "consistent"),
        "available",
        "Use of stored responses while the purge log of a region has been silent for EDGECACHE_MAX_PURGE_LAG:"
        " `available` serves them, `consistent` validates them with the origin on each use.",
    )
    cut_off_paths: Mapping[str, str] = setting(
        PREFIX_MODES, "", "Exceptions to EDGECACHE_CUT_OFF by path prefix; the longest prefix wins."
    )
    max_purge_lag: float = setting(
        DURATION,
        "5s",
        "Time without news from the purge log of a region after which a POP counts as cut off from that region.",
        least="500ms",
        most="1h",
    )


@dataclass(frozen=True, kw_only=True)
class TagSettings:
    """Tags and consistency tokens."""

    tag_fields: str = setting(
        one_of("hide", "show"),
        "hide",
        "Whether clients receive Surrogate-Key, Cache-Tag, Cache-Groups, xkey and the fields in"
        " EDGECACHE_TAG_FIELD_NAMES.",
    )
    tag_field_names: tuple[str, ...] = setting(FIELD_NAMES, "", "Additional response fields whose values are tags.")
    token_cookie: bool = setting(
        SWITCH,
        "off",
        "Whether the consistency token of a write is also sent as the cookie edgecache-token, besides the field"
        " Edgecache-Token.",
    )
