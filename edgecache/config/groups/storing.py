"""Settings of the tiers, and of what is stored in them."""

from __future__ import annotations

from dataclasses import dataclass

from edgecache.config.schema import OBJECTS, VALKEY_OBJECTS, setting
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
        "Memory for cached objects, of all workers together.",
        least="1MiB",
        most="64TiB",
    )
    memory_policy: str = setting(one_of("lru", "sieve", "s3fifo"), "s3fifo", "Eviction policy of the memory.")
    max_object_memory: int = setting(SIZE, "0", "Largest object kept in memory; 0 is a tenth of one worker's share.")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The machine's store."""

    store: str = setting(
        STORE,
        "off",
        "Store that all workers of the machine share: `off`, `memory` (in /dev/shm), or `disk:` and a directory of"
        " this POP's own, whose contents outlive a restart. Needs the wheel lmdb.",
    )
    store_size: int = setting(
        SIZE,
        "256MiB",
        "Size of that store, allocated at the start; the largest object in it is a sixteenth.",
        least="16MiB",
        most="64TiB",
    )


@dataclass(frozen=True, kw_only=True)
class RegionalSettings:
    """Regional tier."""

    regional: str = setting(
        REGIONAL,
        "off",
        "Valkey shared by all workers and POPs of a region: `embedded` (a server of this POP's own), `off`, or a"
        " URL: valkey://, valkeys:// (TLS), valkey+unix://, valkey+sentinel://, valkey+cluster://.",
    )
    regional_timeout: float = setting(
        DURATION, "25ms", "Timeout for a read of the regional tier.", least="1ms", most="10s"
    )
    regional_lease: float = setting(
        DURATION,
        "2s",
        "Lifetime of a fetch lease: the time after which an object whose fetching worker died can be fetched by"
        " another.",
        least="100ms",
        most="1m",
    )
    regional_max_object: int = setting(
        SIZE,
        "1GiB",
        "Largest object kept in the regional tier; never more than a tenth of its server's memory.",
        least="1KiB",
        most="64GiB",
    )
    regional_key: bytes = setting(
        CIPHER_KEY,
        "",
        "Key that encrypts objects in the regional tier and entries of purge logs (AES-GCM), the same in all"
        " regions; `openssl rand -hex 32` makes one.",
        secret=True,
    )
    regional_ca: str = setting(
        CERTIFICATES, "", "PEM file of the certificate authorities trusted for valkeys://. Empty trusts the system's."
    )
    regional_certificate: str = setting(
        FILE, "", "PEM file of this POP's client certificate for valkeys://, read for each new connection."
    )
    regional_certificate_key: str = setting(FILE, "", "PEM file of that certificate's key, if it is a file of its own.")
    regional_replicas: bool = setting(SWITCH, "off", "Whether reads go to replicas; with Sentinel or a cluster only.")
    regional_required: bool = setting(
        SWITCH,
        "off",
        "Whether a regional tier that cannot be reached refuses the start; otherwise the POP serves without it.",
    )
    regional_memory: int = setting(
        SIZE, VALKEY_OBJECTS, "Memory limit of the embedded Valkey.", least="16MiB", most="64TiB"
    )
    regional_directory: str = setting(
        FILE, "", "Directory where the embedded Valkey keeps its data across restarts. Empty keeps nothing."
    )


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """What is stored, and for how long."""

    heuristics: bool = setting(
        SWITCH, "on", "Whether freshness is estimated from Last-Modified where the origin gives none (RFC 9111 §4.2.2)."
    )
    heuristic_max: float = setting(DURATION, "1d", "Longest estimated freshness.", least="0s", most="365d")
    negative_ttl: float = setting(
        DURATION,
        "10s",
        "Longest freshness of error responses (status 400 and above), even if the origin names a longer one.",
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
        " (`ignore`); one request to the origin for all such clients, at most one a second and object (`collapse`);"
        " or one for each (`honour`).",
    )
    stale_wait: float = setting(
        DURATION,
        "1s",
        "Time that a request waits for a hung origin before it is answered by a stale response, if there is a"
        " usable one.",
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
        "Query parameters that are left out of the cache key and of requests to the origin; `name*` is every one"
        " that begins so, `tracking` the usual list (utm_*, fbclid, gclid, ...). Requests that are never cached"
        " keep them.",
    )
    slice_size: int = setting(
        SIZE,
        "0",
        "Size of the slices in which larger objects are fetched, stored and served, so that ranges become hits; 64KiB"
        " to 16MiB, 1MiB is usual; 0 stores objects whole only.",
        most="16MiB",
    )
    max_variants: int = setting(
        COUNT, "64", "Maximum number of stored variants of one URL (Vary).", least="1", most="10000"
    )
    list_fields: tuple[str, ...] = setting(
        LIST_FIELDS,
        "",
        "Request fields, besides the standard ones, whose values are lists: where a response varies by one (Vary),"
        " white space around its commas makes no variant of its own.",
    )
    select_language: bool = setting(
        SWITCH,
        "off",
        "Whether, where a response varies by Accept-Language alone, a stored variant in the language that the"
        " client prefers (by its Content-Language) is served without asking the origin, which might choose another.",
    )
    store_client_errors: bool = setting(
        SWITCH,
        "off",
        "Whether 400, 405 to 408, 411 to 417, 421 to 431, 501 and 505 are stored too; one client's odd request may"
        " provoke them.",
    )
    store_set_cookie: bool = setting(
        SWITCH, "off", "Whether responses with Set-Cookie are stored where the origin explicitly allows it."
    )
