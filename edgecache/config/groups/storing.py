"""Settings of the tiers, and of what is stored in them."""

from __future__ import annotations

from dataclasses import dataclass

from edgecache.config.schema import OBJECTS, STORE_OBJECTS, VALKEY_OBJECTS, setting
from edgecache.config.types import (
    CERTIFICATES,
    CIPHER_KEY,
    COUNT,
    DURATION,
    FILE,
    IGNORED_PARAMETERS,
    LIST_FIELDS,
    REGIONAL,
    SIZE,
    SLICES,
    STORE,
    SWITCH,
    one_of,
)


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Memory."""

    memory: int = setting(
        SIZE,
        OBJECTS,
        "Memory for cached objects, for all workers together and the machine's store, if that is in memory.",
        least="1MiB",
        most="64TiB",
    )
    memory_policy: str = setting(one_of("lru", "sieve", "s3fifo"), "s3fifo", "Eviction policy for memory.")
    max_object_memory: int = setting(SIZE, "0", "Largest object kept in memory; 0 is a tenth of one worker's share.")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The machine's store."""

    store: str = setting(
        STORE,
        "off",
        "Store shared by all workers of the machine: `off`, `memory` (in /dev/shm), or `disk:` and a directory that"
        " only this POP uses, whose contents survive a restart. Needs the package lmdb.",
    )
    store_gap: float = setting(
        DURATION,
        "5m",
        "Longest time for which a store on disk may be without its POP; after a longer one, its records are validated"
        " before use, since purges may have been missed. A POP with a regional tier gets them from its log.",
        least="0s",
        most="365d",
    )
    store_size: int = setting(
        SIZE,
        STORE_OBJECTS,
        "Size of the machine's store, allocated at startup; in memory it is a part of EDGECACHE_MEMORY. The largest"
        " object in it is a quarter of the size.",
        least="16MiB",
        most="64TiB",
    )


@dataclass(frozen=True, kw_only=True)
class RegionalSettings:
    """Regional tier."""

    regional: str = setting(
        REGIONAL,
        "off",
        "Valkey shared by all workers and POPs of a region: `embedded` (a server run by this POP), `off`, or a"
        " URL: valkey://, valkeys:// (TLS), valkey+unix://, valkey+sentinel://, valkey+cluster://.",
    )
    regional_timeout: float = setting(
        DURATION, "25ms", "Timeout for a read of the regional tier.", least="1ms", most="10s"
    )
    regional_lease: float = setting(
        DURATION,
        "2s",
        "Lifetime of a fetch lease: if the worker that fetches an object dies, another worker can fetch the object"
        " after this time.",
        least="100ms",
        most="1m",
    )
    regional_max_object: int = setting(
        SIZE,
        "1GiB",
        "Largest object kept in the regional tier; never more than a tenth of the memory of its server.",
        least="1KiB",
        most="64GiB",
    )
    regional_key: bytes = setting(
        CIPHER_KEY,
        "",
        "Key that encrypts objects in the regional tier and the machine's store, and entries of the purge logs of"
        " regions (AES-GCM), the same in all regions; `openssl rand -hex 32` generates one.",
        secret=True,
    )
    regional_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authorities trusted for valkeys://. Empty trusts those of the system.",
    )
    regional_certificate: str = setting(
        FILE, "", "PEM file of this POP's client certificate for valkeys://, read for each new connection."
    )
    regional_certificate_key: str = setting(FILE, "", "PEM file of the key of that certificate, if it is separate.")
    regional_replicas: bool = setting(SWITCH, "off", "Whether reads go to replicas; only with Sentinel or a cluster.")
    regional_required: bool = setting(
        SWITCH,
        "off",
        "Whether the POP refuses to start if the regional tier cannot be reached; otherwise it serves without it.",
    )
    regional_memory: int = setting(
        SIZE, VALKEY_OBJECTS, "Memory limit of the embedded Valkey.", least="16MiB", most="64TiB"
    )
    regional_directory: str = setting(
        FILE, "", "Directory where the embedded Valkey keeps its data across restarts. Empty keeps nothing."
    )


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Storing and freshness."""

    heuristics: bool = setting(
        SWITCH, "on", "Whether freshness is estimated from Last-Modified where the origin gives none (RFC 9111 §4.2.2)."
    )
    heuristic_max: float = setting(DURATION, "1d", "Longest estimated freshness.", least="0s", most="365d")
    negative_ttl: float = setting(
        DURATION,
        "10s",
        "Longest freshness of error responses (status 400 and above), even if the origin specifies a longer one.",
        least="0s",
        most="1d",
    )
    default_stale_if_error: float = setting(
        DURATION, "0s", "Length of stale-if-error (RFC 5861) where the origin gives none.", least="0s", most="30d"
    )
    client_revalidation: str = setting(
        one_of("ignore", "collapse", "honour"),
        "ignore",
        "Effect of a client's `no-cache`, `max-age`, `min-fresh` and `Pragma` on a stored response: none"
        " (`ignore`); one request to the origin for all such clients, at most one per second and object"
        " (`collapse`); or one for each (`honour`).",
    )
    stale_wait: float = setting(
        DURATION,
        "1s",
        "Time that a request waits for an origin that does not respond, before it is answered with a stale response if"
        " one may be used.",
        least="0s",
        most="1m",
    )
    follower_timeout: float = setting(
        DURATION,
        "5s",
        "Time that a request waits for another request's fetch of the same object.",
        least="0s",
        most="10m",
    )
    hit_for_miss: float = setting(
        DURATION, "120s", "Time that an object is remembered as not storable.", least="0s", most="1d"
    )
    ignored_parameters: tuple[str, ...] = setting(
        IGNORED_PARAMETERS,
        "",
        "Query parameters that are removed from the cache key and from requests to the origin; `name*` is every"
        " parameter that begins with `name`, `tracking` the usual list (utm_*, fbclid, gclid, ...). Requests that are"
        " never cached keep them.",
    )
    slice_size: int = setting(
        SLICES,
        "0",
        "Size of the slices in which larger objects are fetched, stored and served, so that ranges become hits. `auto`:"
        " 1MiB, or less where memory is small, for objects of more than 8 slices that are requested by ranges, or are"
        " too large to be stored whole; a size from 64KiB to 16MiB: for all objects, which are requested from the"
        " origin by ranges; 0: only whole objects are stored.",
        most="16MiB",
    )
    max_variants: int = setting(
        COUNT, "64", "Maximum number of stored variants of one URL (Vary).", least="1", most="10000"
    )
    list_fields: tuple[str, ...] = setting(
        LIST_FIELDS,
        "",
        "Request fields, besides the standard ones, whose values are lists: where a response varies on one (Vary),"
        " white space around commas does not create another variant.",
    )
    select_language: bool = setting(
        SWITCH,
        "off",
        "Whether a stored variant in the client's preferred language (by its Content-Language) is served without a"
        " request to the origin, where a response varies on Accept-Language only. The origin might select another"
        " variant.",
    )
    store_client_errors: bool = setting(
        SWITCH,
        "off",
        "Whether responses with 400, 405 to 408, 411 to 417, 421 to 431, 501 and 505 are also stored; an unusual"
        " request from one client may cause them.",
    )
    store_set_cookie: bool = setting(
        SWITCH, "off", "Whether responses with Set-Cookie are stored where the origin explicitly allows it."
    )
