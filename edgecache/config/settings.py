"""The settings: ONE table, read from the environment once, into a frozen value.

A row is a field of `Settings`: its name in lower case, its kind, its default as an operator would write it, one
line of documentation, its bounds. To add a setting, add a row; `make docs` writes it into docs/settings.md and the
sample file.
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

from edgecache.config import system_resources
from edgecache.config.addresses import Address, Network, Origin, Parent
from edgecache.config.certificates import Described, KeyPair
from edgecache.config.purge_types import FIELD_NAMES, PURGE_TOKENS, PurgeToken
from edgecache.config.secret_files import Confidential
from edgecache.config.sizing import MIB, Shares, Wanted, of_machine, registers, shared_out, size_of
from edgecache.config.sources import PREFIX
from edgecache.config.types import (
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
from edgecache.config.validation import contradictions
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.geo import GeoRules
from edgecache.semantics.residency import Residency

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


HOST_NAME = FromMachine("the host name", system_resources.pop_name)
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
    origin: Origin = required(ORIGIN, "Web service behind this POP; EDGECACHE_ORIGINS may name several instead.")
    origins: Mapping[str, tuple[Origin, ...]] = setting(
        ORIGINS,
        "",
        "Origins by region, instead of EDGECACHE_ORIGIN; several of one region are separated by a vertical bar.",
    )
    origin_host: str = setting(
        ORIGIN_HOST,
        "client",
        "Host field of requests to the origin: the client's own (`client`), that of the origin's URL (`origin`),"
        " or a fixed one.",
    )
    origin_urls: str = setting(
        one_of("map", "keep"),
        "map",
        "Treatment of Location, Content-Location and Refresh that name the origin, when EDGECACHE_ORIGIN_HOST is"
        " not `client`: `map` puts the requested site in the origin's place, `keep` leaves them as they are.",
    )
    origin_alt_svc: str = setting(
        one_of("drop", "keep"),
        "drop",
        "Treatment of the origin's Alt-Svc, which would lead clients past this POP: `drop` removes it, `keep`"
        " passes it on.",
    )
    hosts: tuple[str, ...] = setting(
        HOST_NAMES,
        "",
        "Names of the sites that are served, on any port; a request for another name gets 421. Empty serves every"
        " name.",
    )
    listen: Address = setting(
        ADDRESS, "127.0.0.1:8080", "Address of the plain HTTP listener for clients; port 0 picks a free one."
    )
    admin_listen: Address = setting(
        ADDRESS, "127.0.0.1:9900", "Address of the admin listener: health, metrics and purges."
    )
    admin_token: str = setting(
        TOKEN,
        "",
        "Bearer token required on the admin listener, except for health. Empty requires none; then only requests"
        " to an IP address, localhost or the machine's own name are answered.",
        secret=True,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        NETWORKS,
        "",
        "Networks of proxies in front of this POP. Forwarded, X-Forwarded-For and X-Forwarded-Proto from them are"
        " believed (but never for the host), and so are fields about the client's identity (Remote-User,"
        " X-SSL-Client-*: such requests are never cached) and place (CF-IPCountry: part of the cache key).",
    )
    forwarded: bool = setting(SWITCH, "on", "Whether Forwarded and X-Forwarded-* are sent to the origin.")

    proxy_protocol: bool = setting(
        SWITCH,
        "off",
        "Whether connections from EDGECACHE_TRUSTED_PROXIES begin with a PROXY protocol header, version 1 or 2.",
    )

    # TLS
    tls_listen: Address | None = setting(
        OPTIONAL_ADDRESS, "", "Address of the TLS listener for clients (TLS 1.2 and 1.3). Empty disables it."
    )
    tls_certificates: tuple[Described, ...] = setting(
        KEY_PAIRS,
        "",
        "Certificate chains and keys in PEM: files that hold both, or a chain and a key separated by a vertical"
        " bar; or a directory of NAME.pem, NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem. SNI"
        " selects the certificate; the first one (in a directory, `default`) serves all other names.",
    )
    https_redirect: int = setting(
        HTTPS_REDIRECT,
        "off",
        "Redirect from http to https on this port (`on` is 443). Purges and /.well-known/acme-challenge/ are not"
        " redirected.",
    )
    hsts: str = setting(
        HSTS,
        "",
        "Strict-Transport-Security field of https responses, unless the origin sends its own.",
    )
    pop_listen: Address | None = setting(
        OPTIONAL_ADDRESS,
        "",
        "Address of the listener for other POPs: TLS 1.3 with a client certificate. Empty disables it.",
    )
    pop_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authority for POPs: a certificate that it signed, with a URI name"
        " edgecache:pop:NAME, belongs to a POP.",
    )

    # Geography: where clients are
    geo_db: str = setting(GEO_DATABASE, "", "Country database in MaxMind's format, read again when it changes.")
    geo_overrides: Mapping[Network, str] = setting(
        GEO_OVERRIDES, "", "Countries of networks, looked up before the database; the longest prefix wins."
    )
    geo_rules: GeoRules = setting(
        GEO_RULES,
        "",
        "Region that serves each country or continent; `*` stands for the rest. Without a match it is this POP's own.",
    )

    residency: Mapping[str, str] = setting(
        JURISDICTIONS,
        "",
        "Jurisdiction of every region: responses for clients of one jurisdiction are stored inside it only, and come"
        " from its parents and origins only.",
    )

    # This POP
    pop: str = setting(WORD, HOST_NAME, "Name of this POP in Cache-Status, Via and metrics.")
    region: str = setting(WORD, "local", "Region that this POP belongs to.")
    config_file: str = setting(
        FILE,
        "",
        "File of EDGECACHE_NAME=value lines, read again on SIGHUP and when it changes. Variables of the"
        " environment override it.",
    )
    workers: int = setting(COUNT, CORES, "Number of worker processes.", least="1", most="256")
    drain_grace: float = setting(
        DURATION, "30s", "Time that running requests have to finish after SIGTERM.", least="0s", most="1h"
    )
    worker_timeout: float = setting(
        DURATION, "10s", "Silence of a worker's event loop after which the worker is replaced.", least="1s", most="1h"
    )
    access_log: float = setting(
        LOG_FRACTION,
        "json",
        "Requests that are logged on standard output: all (`json`), none (`off`), or a random fraction.",
    )
    access_log_fields: tuple[str, ...] = setting(
        LOG_FIELDS,
        "default",
        "Fields of the access log, named in docs/logging.md; `default` and `all` stand for many.",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "Lowest severity that is logged on standard error."
    )

    otlp_endpoint: str = setting(
        OTLP_ENDPOINT,
        "",
        "OpenTelemetry collector that receives traces (OTLP over HTTP); without a path, /v1/traces is meant. Empty"
        " disables tracing.",
    )
    trace_sample: float = setting(
        FRACTION,
        "0.01",
        "Fraction of requests that are traced. For its own requests a trusted proxy or another POP decides.",
    )

    # Memory
    memory: int = setting(
        SIZE,
        OBJECTS,
        "Memory for cached objects, of all workers together.",
        least="1MiB",
        most="64TiB",
    )
    memory_policy: str = setting(one_of("lru", "sieve", "s3fifo"), "s3fifo", "Eviction policy of the memory.")
    max_object_memory: int = setting(SIZE, "0", "Largest object kept in memory; 0 is a tenth of one worker's share.")

    # The regional tier
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

    # Invalidation: purges and writes
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

    # Clients: deadlines and limits
    max_connections: int = setting(
        COUNT,
        "0",
        "Maximum number of client connections, per worker; 0 is what the limit on open files allows.",
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
        DURATION, "10s", "Timeout for receiving a request's head, and for a TLS handshake.", least="10ms", most="10m"
    )
    body_timeout: float = setting(
        DURATION,
        "30s",
        "Timeout between bytes of a request's body, and between reads of a response by its client.",
        least="10ms",
        most="1h",
    )
    idle_timeout: float = setting(
        DURATION, "60s", "Time that a client's connection may be idle between requests.", least="10ms", most="1h"
    )
    tunnel_timeout: float = setting(
        DURATION,
        "10m",
        "Time that a WebSocket may be silent in both directions, or a stream of events (text/event-stream) between"
        " two of them.",
        least="10ms",
        most="1d",
    )
    min_rate: int = setting(
        SIZE,
        "100",
        "Bytes per second below which a request's body is refused, once it has taken EDGECACHE_BODY_TIMEOUT.",
    )
    max_line: int = setting(SIZE, "8KiB", "Longest request line or field line.", least="256", most="1MiB")
    max_fields: int = setting(COUNT, "100", "Maximum number of field lines in a head.", least="1", most="10000")
    max_head: int = setting(SIZE, "32KiB", "Largest head of a message.", least="1KiB", most="1MiB")
    max_ranges: int = setting(
        COUNT,
        "5",
        "Maximum number of ranges in one response; a request for more gets the whole object.",
        least="1",
        most="1000",
    )
    max_request_body: int = setting(SIZE, "0", "Largest request body; 0 sets no limit.")
    finish_abandoned: bool = setting(
        SWITCH,
        "off",
        "Whether the origin's response is read to its end though its client has left, where it is not for the cache.",
    )

    # The origin: connections and deadlines
    connect_timeout: float = setting(
        DURATION, "3s", "Timeout for connecting to the origin, TLS handshake included.", least="10ms", most="5m"
    )
    first_byte_timeout: float = setting(
        DURATION, "60s", "Timeout for the first byte of the origin's response.", least="10ms", most="1h"
    )
    between_bytes_timeout: float = setting(
        DURATION,
        "60s",
        "Timeout between bytes of the origin's response; streams of events have EDGECACHE_TUNNEL_TIMEOUT.",
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
        "Maximum age of a connection to the origin, a parent or Valkey; an older one takes no further request."
        " Connections"
        " to an address that the name no longer has are closed earlier.",
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
        CERTIFICATES, "", "PEM file of the certificate authorities trusted for the origin. Empty trusts the system's."
    )
    origin_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's client certificate for origins that request one; read again when it changes.",
    )
    origin_certificate_key: str = setting(FILE, "", "PEM file of that certificate's key, if it is a file of its own.")
    origin_tls_verify: bool = setting(SWITCH, "on", "Whether the origin's certificate and name are verified.")
    dns_ttl: float = setting(
        DURATION,
        "30s",
        "Time that an address of the name of an origin, parent or Valkey is used before the name is looked up again.",
        least="0s",
        most="1d",
    )

    # Parents: other POPs that are asked instead of the origin
    parents: Mapping[str, tuple[Parent, ...]] = setting(
        PARENTS,
        "",
        "POPs that are asked instead of the origin, one for each object; those of this region first. `#name` after"
        " a URL names a parent that POPs know by several URLs.",
    )
    parent_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authorities trusted for parents' own certificates. Empty trusts the system's.",
    )
    pop_certificate: str = setting(
        FILE,
        "",
        "PEM file of this POP's client certificate for the EDGECACHE_POP_LISTEN of its parents; read again when it"
        " changes.",
    )
    pop_certificate_key: str = setting(FILE, "", "PEM file of that certificate's key, if it is a file of its own.")
    parent_bypass: int = setting(
        COUNT,
        "32",
        "Maximum number of concurrent requests past all parents to the origin while no parent is healthy, per worker.",
        least="1",
        most="65535",
    )
    pop_secret: tuple[bytes, ...] = setting(
        SECRETS,
        "",
        "Secrets by which POPs recognise each other, of 16 characters at least: the first one signs, all are accepted,"
        " so that they can be rotated.",
        secret=True,
    )

    # Several origins, or parents: which one is asked
    origin_eject_after: int = setting(
        COUNT, "5", "Consecutive failures that eject an origin or a parent.", least="1", most="1000"
    )
    origin_eject_for: float = setting(
        DURATION, "30s", "Time after which an ejected origin or parent is tried again.", least="100ms", most="1h"
    )
    origin_slow_start: float = setting(
        DURATION, "10s", "Time in which an origin or parent that is back regains its full share of requests.", most="1h"
    )
    origin_hedge: bool = setting(
        SWITCH,
        "on",
        "Whether a safe request whose response is for the cache is sent to a second origin too, when it has waited"
        " for longer than 95 of 100 responses took.",
    )
    origin_check_path: str = setting(
        PATH, "", "Path (and query) that health checks request of each origin. Empty disables them."
    )
    origin_check_interval: float = setting(
        DURATION, "5s", "Time between two health checks of an origin, or of a parent.", least="100ms", most="1h"
    )
    origin_check_fall: int = setting(COUNT, "3", "Consecutive failed health checks that take an origin out.", least="1")
    origin_check_rise: int = setting(COUNT, "2", "Consecutive successful health checks that bring it back.", least="1")

    # What is stored, and for how long
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
            yield ConfigError(_UNPRINTABLE.sub("?", name), f"is not a setting{suggestion}")


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
