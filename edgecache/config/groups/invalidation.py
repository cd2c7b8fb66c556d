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
        "Valkeys of the other regions, from which their purge logs are copied.",
        secret=True,
    )
    peer_timeout: float = setting(
        DURATION,
        "650ms",
        "Timeout for replies from another region's Valkey; at least one round trip plus 200 ms.",
        least="250ms",
        most="10s",
    )
    purge_tokens: tuple[PurgeToken, ...] = setting(
        PURGE_TOKENS,
        "",
        "Tokens that may purge, besides EDGECACHE_ADMIN_TOKEN: name=secret, or name@host=secret for that site only;"
        " several hosts are separated by a vertical bar. A secret has 16 characters at least.",
        secret=True,
    )
    purge_from: tuple[Network, ...] = setting(
        NETWORKS,
        "",
        "Networks whose PURGE, BAN and PURGEKEYS need no secret; by way of a proxy, only if it is one of"
        " EDGECACHE_TRUSTED_PROXIES and names its client.",
    )
    purge_retention: int = setting(
        COUNT,
        "100000",
        "Entries kept in a region's purge log. A POP that missed more than these revalidates what it has stored.",
        least="100",
        most="100000000",
    )
    purge_registers: int = setting(
        COUNT,
        NAMES,
        "Purged names (tags, URLs, prefixes) that a worker remembers. Beyond that, the site with most of them"
        " revalidates its older objects.",
        least="100",
        most="100000000",
    )


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """Writes."""

    write_ack: str = setting(
        one_of("local", "region", "all"),
        "region",
        "How far the invalidations of a write must be known before its response is sent: in this worker (`local`),"
        " in the region's POPs (`region`), or everywhere (`all`).",
    )
    write_through: str = setting(
        one_of("invalidate", "refresh"),
        "invalidate",
        "Effect of a write on the stored responses of its target: `invalidate`, or `refresh` them at once in the"
        " regional tiers.",
    )
    write_timeout: float = setting(
        DURATION,
        "2m",
        "Time after which a write whose POP died counts as ended, and invalidates; no less than the origin may"
        " take for one.",
        least="1s",
        most="1h",
    )
    client_writes: int = setting(
        COUNT,
        "100",
        "Writes of one address or IPv6 /64 that may wait for the origin, per worker; more get 429. 0 sets no limit.",
        most="1000000",
    )


@dataclass(frozen=True, kw_only=True)
class CutOffSettings:
    """Regions that are cut off."""

    cut_off: str = setting(
        one_of("available", "consistent"),
        "available",
        "What is served while a region's purge log has been silent for EDGECACHE_MAX_PURGE_LAG: what is stored"
        " (`available`), or what the origin validates on each use (`consistent`).",
    )
    cut_off_paths: Mapping[str, str] = setting(
        PREFIX_MODES, "", "Exceptions from EDGECACHE_CUT_OFF by path prefix; the longest prefix wins."
    )
    max_purge_lag: float = setting(
        DURATION,
        "5s",
        "Silence of a region's purge log after which a POP counts as cut off from that region.",
        least="500ms",
        most="1h",
    )


@dataclass(frozen=True, kw_only=True)
class TagSettings:
    """Tags and consistency tokens."""

    tag_fields: str = setting(
        one_of("hide", "show"),
        "hide",
        "Whether clients see Surrogate-Key, Cache-Tag, Cache-Groups, xkey and EDGECACHE_TAG_FIELD_NAMES.",
    )
    tag_field_names: tuple[str, ...] = setting(FIELD_NAMES, "", "Further response fields whose values are tags.")
    token_cookie: bool = setting(
        SWITCH,
        "off",
        "Whether a write's consistency token is sent as the cookie edgecache-token too, besides the field"
        " Edgecache-Token.",
    )
