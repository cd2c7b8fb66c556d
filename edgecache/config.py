"""The settings: ONE table, read from the environment once, into a frozen value.

A row is a field of `Settings`: its name in lower case, its kind, its default as an operator would write it, one
line of documentation, its bounds. To add a setting, add a row; `make readme` writes it into the README.
"""

# ruff: noqa: RUF009 (the calls in the table make dataclass fields, which is what RUF009 means to ask for)

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Final

from edgecache import machine
from edgecache.addresses import Address, Network, Origin, Parent
from edgecache.config_file import PREFIX
from edgecache.config_rules import contradictions
from edgecache.errors import ConfigError
from edgecache.key_pairs import Described, KeyPair
from edgecache.purge_settings import FIELD_NAMES, PURGE_TOKENS, PurgeToken
from edgecache.rules.geography import GeoRules
from edgecache.rules.residency import Residency
from edgecache.secret_files import Confidential
from edgecache.setting_types import (
    ADDRESS,
    CERTIFICATES,
    CIPHER_KEY,
    COUNT,
    DURATION,
    FILE,
    FRACTION,
    GEO_DATABASE,
    GEO_OVERRIDES,
    GEO_RULES,
    HOST_NAMES,
    HSTS,
    HTTPS_REDIRECT,
    IGNORED_PARAMETERS,
    JURISDICTIONS,
    KEY_PAIRS,
    LIST_FIELDS,
    LOG_FIELDS,
    LOG_FRACTION,
    NETWORKS,
    OPTIONAL_ADDRESS,
    ORIGIN,
    ORIGIN_HOST,
    ORIGINS,
    OTLP_ENDPOINT,
    PARENTS,
    PATH,
    PEERS,
    PREFIX_MODES,
    REGIONAL,
    SECRETS,
    SIZE,
    SWITCH,
    TOKEN,
    WORD,
    Kind,
    one_of,
)
from edgecache.sizing import MIB, Shares, Wanted, of_machine, registers, shared_out, size_of

__all__ = ["PREFIX", "Address", "Origin", "PurgeToken", "Row", "Settings", "load"]

MASK = "********"
LONGEST_QUOTE = 80
# What Kubernetes puts into the environment of every container beside a Service named `edgecache`.
_KUBERNETES = re.compile(r"EDGECACHE_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)", re.ASCII)
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_USERINFO = re.compile(r"^(\w+://)?.*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FromMachine:
    """A default that the machine decides: how to find it, and the words that document it."""

    words: str
    find: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `default`, `least` and `most` are written as an operator would write them."""

    kind: Kind[Any]
    default: str | FromMachine | None
    doc: str
    least: str | None = None
    most: str | None = None
    secret: bool = False

    def default_text(self) -> str:
        """The default as text on this machine; empty where there is none."""
        return self.default.find() if isinstance(self.default, FromMachine) else self.default or ""

    def value(self, text: str) -> Any:
        """The parsed and bounded value of `text`; ValueError says what is wrong with it."""
        value = self.kind.parse(text)
        if self.least is not None and value < self.kind.parse(self.least):
            raise ValueError(f"is less than {self.least}")
        if self.most is not None and value > self.kind.parse(self.most):
            raise ValueError(f"is more than {self.most}")
        return value

    def shown(self, text: str) -> str:
        """The text of a value as it may be printed: no secret, no user name or password of a URL."""
        return MASK if self.secret and text else _USERINFO.sub(rf"\g<1>{MASK}@", text)

    def quoted(self, text: str) -> str:
        """The text of a value inside an error: printable, on one line, bounded."""
        shown = self.shown(text)
        return shown if shown == MASK else json.dumps(shown[:LONGEST_QUOTE])


def setting(
    kind: Kind[Any],
    default: str | FromMachine,
    doc: str,
    *,
    least: str | None = None,
    most: str | None = None,
    secret: bool = False,
) -> Any:
    """A row of the table with a default."""
    row = Row(kind, default, doc, least, most, secret)
    told = not secret and kind is not REGIONAL  # whose URL may hold a password
    return field(metadata={"row": row}, default_factory=lambda: row.value(row.default_text()), repr=told)


def required(kind: Kind[Any], doc: str) -> Any:
    """A row of the table without a default: the start is refused where it is not set."""
    return field(metadata={"row": Row(kind, None, doc)})


HOST_NAME = FromMachine("the host name", machine.pop_name)
CORES = FromMachine(
    "the usable cores, or what the cgroup's limits of CPU and memory allow", lambda: str(_shares({}).workers)
)
OBJECTS = FromMachine(
    "256MiB; in a cgroup half of its limit, or what the processes leave", lambda: str(_shares({}).memory)
)
NAMES = FromMachine("100000, or fewer by the cgroup's limit", lambda: str(registers(of_machine(), _shares({}).workers)))
VALKEY_OBJECTS = FromMachine("256MiB, or what the cgroup's limit allows", lambda: str(_shares({}).regional))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The table. Sizes are bytes, durations seconds; documentation and bounds are in each row."""

    # The service and who is answered
    origin: Origin = required(ORIGIN, "The web service to stand in front of.")
    origins: Mapping[str, tuple[Origin, ...]] = setting(
        ORIGINS, "", "Instead of EDGECACHE_ORIGIN: origins by region, those of one region parted by a bar."
    )
    origin_host: str = setting(
        ORIGIN_HOST, "client", "Host sent to the origin: the client's, the origin's own, or this one."
    )
    origin_urls: str = setting(
        one_of("map", "keep"),
        "map",
        "What becomes of Location, Content-Location and Refresh that name the origin, where EDGECACHE_ORIGIN_HOST is"
        " not client: map puts the site that was asked for in its place, keep leaves them.",
    )
    origin_alt_svc: str = setting(
        one_of("drop", "keep"),
        "drop",
        "What becomes of the origin's Alt-Svc, which sends clients past this POP: drop or keep.",
    )
    hosts: tuple[str, ...] = setting(
        HOST_NAMES, "", "Site names that are answered, on any port; others get 421; empty answers any."
    )
    listen: Address = setting(ADDRESS, "127.0.0.1:8080", "Where clients are served.")
    admin_listen: Address = setting(ADDRESS, "127.0.0.1:9900", "Where health and metrics are served.")
    admin_token: str = setting(
        TOKEN,
        "",
        "Bearer token asked for on the admin listener, except health; empty asks for none, and answers"
        " addresses, localhost and own names only.",
        secret=True,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        NETWORKS,
        "",
        "Networks whose Forwarded, X-Forwarded-For and X-Forwarded-Proto are believed, but for hosts, and what they say"
        " of a client's identity (Remote-User, X-SSL-Client-*: never cached) and place (CF-IPCountry: in the key).",
    )
    forwarded: bool = setting(SWITCH, "on", "Send Forwarded and X-Forwarded-* to the origin.")

    proxy_protocol: bool = setting(
        SWITCH, "off", "Whether EDGECACHE_TRUSTED_PROXIES begin each connection with a PROXY header, version 1 or 2."
    )

    # TLS
    tls_listen: Address | None = setting(
        OPTIONAL_ADDRESS, "", "Where clients are served over TLS 1.2 and 1.3; empty is nowhere."
    )
    tls_certificates: tuple[Described, ...] = setting(
        KEY_PAIRS,
        "",
        "PEM files of chain and key, the two parted by a bar, chosen by SNI, the first (or `default`) for other names; "
        "or a directory of NAME.pem, NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem.",
    )
    https_redirect: int = setting(
        HTTPS_REDIRECT, "off", "Redirect http to https on this port, on is 443; but for /.well-known/acme-challenge/."
    )
    hsts: str = setting(
        HSTS,
        "",
        "Strict-Transport-Security for https, such as max-age=31536000; includeSubDomains, unless the origin sends it.",
    )
    pop_listen: Address | None = setting(
        OPTIONAL_ADDRESS, "", "Where other POPs are served, over TLS 1.3 with a certificate; empty is nowhere."
    )
    pop_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the authority of POPs' certificates: what it signs with a URI name edgecache:pop:NAME is a POP.",
    )

    # Geography: where clients are
    geo_db: str = setting(
        GEO_DATABASE, "", "Database in MaxMind's format, read again when it changes; empty knows no places."
    )
    geo_overrides: Mapping[Network, str] = setting(
        GEO_OVERRIDES, "", "Countries of networks, before the database; the longest prefix wins."
    )
    geo_rules: GeoRules = setting(
        GEO_RULES, "", "Which region serves whom, such as country:DE=eu,continent:NA=us,*=us; else this POP's."
    )

    residency: Mapping[str, str] = setting(
        JURISDICTIONS,
        "",
        "Jurisdictions of all regions, such as eu:EU,us:US: what clients of one get is kept and asked for in it only.",
    )

    # This POP
    pop: str = setting(WORD, HOST_NAME, "Name of this POP in Cache-Status, Via and metrics.")
    region: str = setting(WORD, "local", "Region that this POP belongs to.")
    config_file: str = setting(
        FILE,
        "",
        "File of EDGECACHE_NAME=value lines, read again on SIGHUP and when it changes; the environment wins over it.",
    )
    workers: int = setting(COUNT, CORES, "Worker processes.", least="1", most="256")
    drain_grace: float = setting(DURATION, "30s", "How long exchanges may go on after SIGTERM.", least="0s", most="1h")
    worker_timeout: float = setting(
        DURATION, "10s", "Silence of a worker's event loop after which it is replaced.", least="1s", most="1h"
    )
    access_log: float = setting(
        LOG_FRACTION, "json", "Log of requests on standard output: all, none, or a random fraction of them."
    )
    access_log_fields: tuple[str, ...] = setting(
        LOG_FIELDS,
        "default",
        "Fields of that log, out of docs/logging.md; default and all stand for many.",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "Least severity logged on standard error."
    )

    otlp_endpoint: str = setting(
        OTLP_ENDPOINT, "", "OpenTelemetry collector that gets traces (OTLP over HTTP); empty makes none."
    )
    trace_sample: float = setting(
        FRACTION, "0.01", "Fraction of requests that are traced; a trusted proxy or another POP decides for its own."
    )

    # Memory
    memory: int = setting(
        SIZE,
        OBJECTS,
        "Memory for cached objects, of all workers together.",
        least="1MiB",
        most="64TiB",
    )
    memory_policy: str = setting(
        one_of("lru", "sieve", "s3fifo"), "s3fifo", "Which object leaves when the memory is full."
    )
    max_object_memory: int = setting(SIZE, "0", "Largest object kept in memory; 0 is a tenth of one worker's share.")

    # The regional tier
    regional: str = setting(
        REGIONAL,
        "off",
        "Valkey shared by all workers and POPs of a region: embedded (a server of its own), off, or its URL: "
        "valkey://, valkeys:// (TLS), valkey+unix://, valkey+sentinel://, valkey+cluster://.",
    )
    regional_timeout: float = setting(
        DURATION, "25ms", "How long a read of the regional tier may take.", least="1ms", most="10s"
    )
    regional_lease: float = setting(
        DURATION, "2s", "Life of a lease: how soon a key is free whose leader has died.", least="100ms", most="1m"
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
        "Key by which objects in the regional tier, and invalidations, are encrypted (AES-GCM); one for all regions.",
        secret=True,
    )
    regional_ca: str = setting(
        CERTIFICATES, "", "PEM file of the authorities trusted for valkeys://; empty is the system's."
    )
    regional_certificate: str = setting(
        FILE, "", "PEM file of this POP's certificate for valkeys://; read for each new connection."
    )
    regional_certificate_key: str = setting(FILE, "", "PEM file of its key, if it is another.")
    regional_replicas: bool = setting(SWITCH, "off", "Read from replicas, with Sentinel and in a cluster.")
    regional_required: bool = setting(
        SWITCH, "off", "Refuse to start without the regional tier, instead of serving without it."
    )
    regional_memory: int = setting(SIZE, VALKEY_OBJECTS, "Memory of the embedded Valkey.", least="16MiB", most="64TiB")
    regional_directory: str = setting(
        FILE, "", "Where the embedded Valkey keeps its data over a restart; empty is nowhere."
    )

    # Invalidation: purges and writes
    peers: Mapping[str, str] = setting(
        PEERS,
        "",
        "Valkeys of other regions, whose invalidations are copied from them: us=valkey://…,ap=valkeys://….",
        secret=True,
    )
    peer_timeout: float = setting(
        DURATION,
        "650ms",
        "For a Valkey of another region to answer, then it is asked anew: a round trip, and 200ms that it may wait.",
        least="250ms",
        most="10s",
    )
    purge_tokens: tuple[PurgeToken, ...] = setting(
        PURGE_TOKENS,
        "",
        "Who may purge, beside EDGECACHE_ADMIN_TOKEN: name=secret, or name@host=secret for that site only.",
        secret=True,
    )
    purge_from: tuple[Network, ...] = setting(
        NETWORKS,
        "",
        "Networks whose PURGE, BAN and PURGEKEYS need no secret; by way of a proxy only if that is one of"
        " EDGECACHE_TRUSTED_PROXIES and names its client.",
    )
    purge_retention: int = setting(
        COUNT,
        "100000",
        "Entries kept in a region's log; who was away for longer revalidates what it has.",
        least="100",
        most="100000000",
    )
    purge_registers: int = setting(
        COUNT,
        NAMES,
        "Purged names that a worker remembers; beyond that the site with most of them revalidates its older objects.",
        least="100",
        most="100000000",
    )
    write_ack: str = setting(
        one_of("local", "region", "all"),
        "region",
        "Who has to know what a write invalidates before the writer is answered: this worker, the region's POPs, all.",
    )
    write_through: str = setting(
        one_of("invalidate", "refresh"),
        "invalidate",
        "What a write does to what is stored of its target: invalidate, or refresh it at once in the regional tiers.",
    )
    write_timeout: float = setting(
        DURATION,
        "2m",
        "After which a write whose POP died counts as ended, and invalidates; no less than the origin may take.",
        least="1s",
        most="1h",
    )
    client_writes: int = setting(
        COUNT,
        "100",
        "Writes of one address or IPv6 /64 that may wait for the origin in a worker; more get 429. 0 sets no limit.",
        most="1000000",
    )
    cut_off: str = setting(
        one_of("available", "consistent"),
        "available",
        "What is served while a region's log is silent for EDGECACHE_MAX_PURGE_LAG: what is stored, or revalidated.",
    )
    cut_off_paths: Mapping[str, str] = setting(
        PREFIX_MODES, "", "The same for path prefixes: /shop=consistent,/news=available; the longest counts."
    )
    max_purge_lag: float = setting(
        DURATION,
        "5s",
        "Silence of a region's log after which a POP counts as cut off from it.",
        least="500ms",
        most="1h",
    )
    tag_fields: str = setting(
        one_of("hide", "show"),
        "hide",
        "Whether clients see Surrogate-Key, Cache-Tag, Cache-Groups, xkey and EDGECACHE_TAG_FIELD_NAMES.",
    )
    tag_field_names: tuple[str, ...] = setting(
        FIELD_NAMES, "", "Further fields of answers whose values are tags, such as X-Magento-Tags or X-Cache-Tags."
    )
    token_cookie: bool = setting(
        SWITCH, "off", "Give writers the consistency token as the cookie edgecache-token too, beside Edgecache-Token."
    )

    # Clients: deadlines and limits
    max_connections: int = setting(
        COUNT, "0", "Most client connections of a worker; 0 is what its limit on open files allows.", most="1000000"
    )
    max_connections_per_address: int = setting(
        COUNT,
        "4096",
        "The same from one address or IPv6 /64, EDGECACHE_TRUSTED_PROXIES left out; 0 sets no limit.",
        most="1000000",
    )
    head_timeout: float = setting(DURATION, "10s", "To receive the head of a request.", least="10ms", most="10m")
    body_timeout: float = setting(
        DURATION,
        "30s",
        "Between bytes of a request's body, or of a client that reads an answer.",
        least="10ms",
        most="1h",
    )
    idle_timeout: float = setting(
        DURATION, "60s", "That a client's connection may stay idle between requests.", least="10ms", most="1h"
    )
    tunnel_timeout: float = setting(
        DURATION,
        "10m",
        "That a WebSocket may be silent in both directions, or a stream of events (text/event-stream) between two.",
        least="10ms",
        most="1d",
    )
    min_rate: int = setting(
        SIZE,
        "100",
        "Bytes per second below which a request's body is refused once EDGECACHE_BODY_TIMEOUT has passed.",
    )
    max_line: int = setting(SIZE, "8KiB", "Longest request line or field line.", least="256", most="1MiB")
    max_fields: int = setting(COUNT, "100", "Most field lines of a message.", least="1", most="10000")
    max_head: int = setting(SIZE, "32KiB", "Largest head of a message.", least="1KiB", most="1MiB")
    max_ranges: int = setting(
        COUNT, "5", "Most ranges answered at once; more get the whole object.", least="1", most="1000"
    )
    max_request_body: int = setting(SIZE, "0", "Largest request body; 0 sets no limit.")
    finish_abandoned: bool = setting(
        SWITCH,
        "off",
        "Whether the origin's answer is awaited though its client has left, where it is not for the cache.",
    )

    # The origin: connections and deadlines
    connect_timeout: float = setting(DURATION, "3s", "To connect to the origin, TLS included.", least="10ms", most="5m")
    first_byte_timeout: float = setting(DURATION, "60s", "Until the origin's answer begins.", least="10ms", most="1h")
    between_bytes_timeout: float = setting(
        DURATION, "60s", "Between bytes of the origin's answer, but of events.", least="10ms", most="1h"
    )
    origin_min_rate: int = setting(
        SIZE,
        "100",
        "Bytes per second below which an answer of known length, or one to be stored, is given up"
        " once EDGECACHE_BETWEEN_BYTES_TIMEOUT has passed.",
    )
    origin_keepalive: float = setting(
        DURATION, "4s", "That an idle connection to the origin is kept.", least="0s", most="1h"
    )
    origin_connection_age: float = setting(
        DURATION,
        "10m",
        "Greatest age of a connection to the origin or a parent: then it takes no other request. Those to an address"
        " that the name has no longer leave sooner.",
        least="1s",
        most="1d",
    )
    origin_connections: int = setting(
        COUNT, "256", "Most connections to the origin, per worker.", least="1", most="65535"
    )
    origin_queue: int = setting(
        COUNT, "1024", "Most requests that wait for such a connection, per worker.", most="1000000"
    )
    origin_queue_timeout: float = setting(DURATION, "5s", "How long they wait before 503.", least="0s", most="10m")
    origin_ca: str = setting(
        CERTIFICATES, "", "PEM file of the authorities trusted for the origin; empty is the system's."
    )
    origin_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's certificate for origins that ask for one; read again when it changes.",
    )
    origin_certificate_key: str = setting(FILE, "", "PEM file of its key, if it is another.")
    origin_tls_verify: bool = setting(SWITCH, "on", "Verify the origin's certificate and name.")
    dns_ttl: float = setting(
        DURATION, "30s", "How long an address of the origin's name is used.", least="0s", most="1d"
    )

    # Parents: other POPs that are asked instead of the origin
    parents: Mapping[str, tuple[Parent, ...]] = setting(
        PARENTS,
        "",
        "POPs asked instead of the origin, each object of one of them; of this region first."
        " #name after a URL where POPs know the same parent by several URLs.",
    )
    parent_ca: str = setting(
        CERTIFICATES, "", "PEM file of the authorities trusted for parents' own certificates; empty is the system's."
    )
    pop_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's certificate for the EDGECACHE_POP_LISTEN of parents; read again when it changes.",
    )
    pop_certificate_key: str = setting(FILE, "", "PEM file of its key, if it is another.")
    parent_bypass: int = setting(
        COUNT,
        "32",
        "Most requests at once that go past all parents to the origin, if none is well; per worker.",
        least="1",
        most="65535",
    )
    pop_secret: tuple[bytes, ...] = setting(
        SECRETS,
        "",
        "Secrets by which POPs know each other: the first signs, all are believed, so that they can be changed.",
        secret=True,
    )

    # Several origins, or parents: which one is asked
    origin_eject_after: int = setting(
        COUNT, "5", "Failures in a row that eject an origin or a parent.", least="1", most="1000"
    )
    origin_eject_for: float = setting(DURATION, "30s", "Until an ejected one is tried.", least="100ms", most="1h")
    origin_slow_start: float = setting(DURATION, "10s", "To give all its share to one that is back.", most="1h")
    origin_hedge: bool = setting(
        SWITCH, "on", "Ask a second origin too when the first is slower than 95 of 100 answers; safe methods only."
    )
    origin_check_path: str = setting(PATH, "", "What is asked of each origin to see if it is well; empty asks nothing.")
    origin_check_interval: float = setting(
        DURATION, "5s", "Between two checks, of parents too.", least="100ms", most="1h"
    )
    origin_check_fall: int = setting(COUNT, "3", "Failed checks in a row that take one out.", least="1")
    origin_check_rise: int = setting(COUNT, "2", "Good checks in a row that bring it back.", least="1")

    # What is stored, and for how long
    heuristics: bool = setting(SWITCH, "on", "Guess a freshness from Last-Modified where the origin names none.")
    heuristic_max: float = setting(DURATION, "1d", "Longest guessed freshness.", least="0s", most="365d")
    negative_ttl: float = setting(
        DURATION, "10s", "Longest freshness of errors such as 404, 410 or 501.", least="0s", most="1d"
    )
    default_stale_if_error: float = setting(
        DURATION, "0s", "stale-if-error window where the origin names none.", least="0s", most="30d"
    )
    client_revalidation: str = setting(
        one_of("ignore", "collapse", "honour"),
        "ignore",
        "What `no-cache`, `max-age`, `min-fresh` and `Pragma` of a client do to a stored response: nothing; one request"
        " to the origin for all such clients, at most one a second and object; or one for each.",
    )
    stale_wait: float = setting(
        DURATION, "1s", "How long a usable stale answer waits for a hung origin.", least="0s", most="1m"
    )
    follower_timeout: float = setting(
        DURATION, "5s", "How long a request waits for another's fetch of its object.", least="0s", most="10m"
    )
    hit_for_miss: float = setting(
        DURATION, "120s", "How long an object is remembered as not storable.", least="0s", most="1d"
    )
    ignored_parameters: tuple[str, ...] = setting(
        IGNORED_PARAMETERS,
        "",
        "Parameters of queries, such as ref,utm_*, that are left out of the cache key and of what the origin is asked;"
        " `tracking` is the usual list (utm_*, fbclid, gclid, ...). What is never cached goes on as it came.",
    )
    max_variants: int = setting(COUNT, "64", "Most stored variants of one URL (Vary).", least="1", most="10000")
    list_fields: tuple[str, ...] = setting(
        LIST_FIELDS,
        "",
        "Request fields, beside the standard ones, whose values are lists: where an answer varies by one (`Vary`),"
        " white space around its commas makes no variant of its own.",
    )
    select_language: bool = setting(
        SWITCH,
        "off",
        "Where an answer varies by Accept-Language alone, give a stored variant whose Content-Language is what the"
        " client wants most, without asking the origin, which might choose otherwise.",
    )
    store_client_errors: bool = setting(
        SWITCH,
        "off",
        "Store 400, 405 to 408, 411 to 417, 421 to 431, 501 and 505 too; one client's odd request may provoke them.",
    )
    store_set_cookie: bool = setting(
        SWITCH, "off", "Store answers with Set-Cookie where the origin explicitly allows it."
    )

    @property
    def residency_rules(self) -> Residency:
        """Which jurisdiction each region is in, and this POP."""
        return Residency(self.residency, self.residency.get(self.region, ""))

    @property
    def knows_geography(self) -> bool:
        """Whether requests are told where their client is."""
        return bool(self.geo_db or self.geo_overrides or self.geo_rules.regions)

    @property
    def origin_pair(self) -> KeyPair | None:
        """Our certificate for origins."""
        return _pair(self.origin_certificate, self.origin_certificate_key)

    @property
    def regional_pair(self) -> KeyPair | None:
        """Our certificate for the regional tier."""
        return _pair(self.regional_certificate, self.regional_certificate_key)

    @property
    def worker_memory(self) -> int:
        """Bytes for cached objects in one worker."""
        return self.memory // self.workers

    @property
    def largest_object(self) -> int:
        """Bytes of the largest object kept in memory: as set, or a tenth of one worker's share."""
        return self.max_object_memory or self.worker_memory // 10


def _pair(certificate: str, key: str) -> KeyPair | None:
    return KeyPair(certificate, key or certificate) if certificate else None


# What the way to origins and parents is made of.
TO_ORIGINS: Final = frozenset(row.name for row in fields(Settings) if row.name.startswith("origin")) | {
    *("hosts", "connect_timeout", "first_byte_timeout", "between_bytes_timeout", "dns_ttl"),
    *("parent_ca", "parent_bypass", "pop_certificate", "pop_certificate_key"),
}
# What a reload applies inside the living workers, which keep their memory; what only a restart applies; all other
# settings are applied by successors of the workers.
LIVE: Final = frozenset(
    [
        *TO_ORIGINS,
        "hosts",
        "ignored_parameters",
        "trusted_proxies",
        "forwarded",
        "tls_certificates",
        "https_redirect",
        "hsts",
        "pop_ca",
        "geo_db",
        "geo_overrides",
        "geo_rules",
        "drain_grace",
        "worker_timeout",
        "access_log",
        "access_log_fields",
        "log_level",
        "trace_sample",
        "max_connections",
        "max_connections_per_address",
        "head_timeout",
        "body_timeout",
        "idle_timeout",
        "tunnel_timeout",
        "min_rate",
        "max_line",
        "max_fields",
        "max_head",
        "max_ranges",
        "max_request_body",
        "finish_abandoned",
        "heuristics",
        "heuristic_max",
        "negative_ttl",
        "default_stale_if_error",
        "client_revalidation",
        "stale_wait",
        "follower_timeout",
        "hit_for_miss",
        "max_variants",
        "list_fields",
        "store_client_errors",
        "store_set_cookie",
    ]
)
RESTART: Final = frozenset(
    [
        "select_language",
        "listen",
        "admin_listen",
        "admin_token",
        "tls_listen",
        "pop_listen",
        "workers",
        "config_file",
        "pop",
        "region",
        "otlp_endpoint",
        "peers",
        "purge_retention",
        "regional_ca",
        "regional_certificate",
        "regional_certificate_key",
        "regional",
        "regional_required",
        "regional_memory",
        "regional_directory",
    ]
)

ROWS: Mapping[str, Row] = {PREFIX + row.name.upper(): row.metadata["row"] for row in fields(Settings)}


def load(environ: Mapping[str, str]) -> Settings:
    """The settings out of the environment; an empty value counts as not set.

    Raises ConfigError for an unknown `EDGECACHE_*` name, a bad value, a missing one, or a contradiction.
    """
    for unknown in _unknown(environ):
        raise unknown
    environ = {**environ, **found_by_machine(environ)}
    settings = Settings(**{_field(variable): _value(variable, row, environ) for variable, row in ROWS.items()})
    for contradiction in contradictions(settings):
        raise contradiction
    return settings


def found_by_machine(environ: Mapping[str, str]) -> dict[str, str]:
    """What the machine decides by the other settings, where it is not set."""
    shares = _shares(environ)
    sizes = {"MEMORY": shares.memory, "REGIONAL_MEMORY": shares.regional}
    names = registers(of_machine(), shares.workers)
    found = {"WORKERS": str(shares.workers), "PURGE_REGISTERS": str(names)}
    found |= {name: f"{size // MIB}MiB" for name, size in sizes.items()}
    return {PREFIX + name: text for name, text in found.items() if not environ.get(PREFIX + name, "").strip()}


def _shares(environ: Mapping[str, str]) -> Shares:
    """What the machine decides; what is written wrong counts as not written."""

    def written(name: str) -> Any:
        text = environ.get(PREFIX + name, "").strip()
        with suppress(ValueError):
            return ROWS[PREFIX + name].value(text) if text else None
        return None

    embedded = environ.get("EDGECACHE_REGIONAL", "").strip() == "embedded"
    kept = bool(environ.get("EDGECACHE_REGIONAL_DIRECTORY", "").strip())
    beside = size_of(environ.get("EDGECACHE_GEO_DB", "").strip())
    wanted = Wanted(written("WORKERS"), written("MEMORY"), written("REGIONAL_MEMORY"), embedded, kept, beside)
    return shared_out(of_machine(), wanted)


def _field(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower()


def _unknown(environ: Iterable[str]) -> Iterator[ConfigError]:
    for name in environ:
        if name.startswith(PREFIX) and name not in ROWS and not _KUBERNETES.fullmatch(name):
            near = difflib.get_close_matches(name, ROWS, n=1)
            suggestion = f"; did you mean {near[0]}?" if near else ""
            yield ConfigError(_UNPRINTABLE.sub("?", name), f"is no setting{suggestion}")


def _value(variable: str, row: Row, environ: Mapping[str, str]) -> Any:
    written = environ.get(variable, "")
    text = written.strip()
    if variable == "EDGECACHE_ORIGIN" and (several := environ.get("EDGECACHE_ORIGINS", "").strip()):
        return _first_of(text, several)
    if not text and row.default is None:
        raise ConfigError(variable, f"is required: {row.kind.name}. {row.doc}")
    try:
        return row.value(text or row.default_text())
    except ValueError as error:
        if isinstance(written, Confidential):  # what the error quotes may be the secret, too
            raise ConfigError(variable, f"{MASK} is not {row.kind.name}") from None
        raise ConfigError(variable, f"{row.quoted(text)} {error}") from None


def _first_of(origin: str, several: str) -> Origin:
    """What stands for EDGECACHE_ORIGIN where there are several."""
    if origin:
        raise ConfigError("EDGECACHE_ORIGINS", "is set, and so is EDGECACHE_ORIGIN: one of them is enough")
    origins = _value("EDGECACHE_ORIGINS", ROWS["EDGECACHE_ORIGINS"], {"EDGECACHE_ORIGINS": several})
    if not origins:
        raise ConfigError("EDGECACHE_ORIGINS", "names no origin")
    first: Origin = next(iter(origins.values()))[0]
    return first
