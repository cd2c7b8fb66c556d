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
from dataclasses import dataclass, field, fields
from typing import Any

from edgecache import machine
from edgecache.errors import ConfigError
from edgecache.rules.geography import GeoRules
from edgecache.setting_types import (
    ADDRESS,
    CERTIFICATES,
    CIPHER_KEY,
    COUNT,
    DURATION,
    FILE,
    GEO_DATABASE,
    GEO_OVERRIDES,
    GEO_RULES,
    HOST_NAMES,
    LOG_FRACTION,
    NETWORKS,
    ORIGIN,
    ORIGIN_HOST,
    ORIGINS,
    PATH,
    REGIONAL,
    SIZE,
    SWITCH,
    TOKEN,
    WORD,
    Address,
    Kind,
    Network,
    Origin,
    one_of,
)

__all__ = ["Address", "Origin", "Row", "Settings", "load"]

PREFIX = "EDGECACHE_"
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
    return field(metadata={"row": row}, default_factory=lambda: row.value(row.default_text()), repr=not secret)


def required(kind: Kind[Any], doc: str) -> Any:
    """A row of the table without a default: the start is refused where it is not set."""
    return field(metadata={"row": Row(kind, None, doc)})


CORES = FromMachine("the usable cores", machine.usable_cores)
HOST_NAME = FromMachine("the host name", machine.pop_name)
HALF_OF_CGROUP = FromMachine("half of the cgroup's limit, else 256MiB", machine.object_memory)


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
    hosts: tuple[str, ...] = setting(HOST_NAMES, "", "Site names that are answered, others get 421; empty answers any.")
    listen: Address = setting(ADDRESS, "127.0.0.1:8080", "Where clients are served.")
    admin_listen: Address = setting(ADDRESS, "127.0.0.1:9900", "Where health and metrics are served.")
    admin_token: str = setting(
        TOKEN,
        "",
        "Bearer token asked for on the admin listener, except health; empty asks for none.",
        secret=True,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        NETWORKS, "", "Networks whose Forwarded, X-Forwarded-For and X-Forwarded-Proto are believed, but for hosts."
    )
    forwarded: bool = setting(SWITCH, "on", "Send Forwarded and X-Forwarded-* to the origin.")

    proxy_protocol: bool = setting(
        SWITCH, "off", "Whether EDGECACHE_TRUSTED_PROXIES begin each connection with a PROXY header, version 1 or 2."
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

    # This POP
    pop: str = setting(WORD, HOST_NAME, "Name of this POP in Cache-Status, Via and metrics.")
    region: str = setting(WORD, "local", "Region that this POP belongs to.")
    workers: int = setting(COUNT, CORES, "Worker processes.", least="1", most="256")
    drain_grace: float = setting(DURATION, "30s", "How long exchanges may go on after SIGTERM.", least="0s", most="1h")
    worker_timeout: float = setting(
        DURATION, "10s", "Silence of a worker's event loop after which it is replaced.", least="1s", most="1h"
    )
    access_log: float = setting(
        LOG_FRACTION, "json", "Log of requests on standard output: all, none, or a random fraction of them."
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "Least severity logged on standard error."
    )

    # Memory
    memory: int = setting(
        SIZE,
        HALF_OF_CGROUP,
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
        SIZE, "1GiB", "Largest object kept in the regional tier.", least="1KiB", most="64GiB"
    )
    regional_key: bytes = setting(
        CIPHER_KEY, "", "Key by which objects in the regional tier are encrypted (AES-GCM).", secret=True
    )
    regional_ca: str = setting(
        CERTIFICATES, "", "PEM file of the authorities trusted for valkeys://; empty is the system's."
    )
    regional_replicas: bool = setting(SWITCH, "off", "Read from replicas, with Sentinel and in a cluster.")
    regional_required: bool = setting(
        SWITCH, "off", "Refuse to start without the regional tier, instead of serving without it."
    )
    regional_memory: int = setting(SIZE, "256MiB", "Memory of the embedded Valkey.", least="16MiB", most="64TiB")
    regional_directory: str = setting(
        FILE, "", "Where the embedded Valkey keeps its data over a restart; empty is nowhere."
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
        DURATION, "10m", "That a WebSocket may be silent in both directions.", least="10ms", most="1d"
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

    # The origin: connections and deadlines
    connect_timeout: float = setting(DURATION, "3s", "To connect to the origin, TLS included.", least="10ms", most="5m")
    first_byte_timeout: float = setting(DURATION, "30s", "Until the origin's answer begins.", least="10ms", most="1h")
    between_bytes_timeout: float = setting(
        DURATION, "30s", "Between bytes of the origin's answer.", least="10ms", most="1h"
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
    origin_tls_verify: bool = setting(SWITCH, "on", "Verify the origin's certificate and name.")
    dns_ttl: float = setting(
        DURATION, "30s", "How long an address of the origin's name is used.", least="0s", most="1d"
    )

    # Several origins: which one is asked
    origin_eject_after: int = setting(COUNT, "5", "Failures in a row that eject an origin.", least="1", most="1000")
    origin_eject_for: float = setting(DURATION, "30s", "Until an ejected origin is tried.", least="100ms", most="1h")
    origin_slow_start: float = setting(DURATION, "10s", "To give all its share to one that is back.", most="1h")
    origin_hedge: bool = setting(
        SWITCH, "on", "Ask a second origin too when the first is slower than 95 of 100 answers; safe methods only."
    )
    origin_check_path: str = setting(PATH, "", "What is asked of each origin to see if it is well; empty asks nothing.")
    origin_check_interval: float = setting(DURATION, "5s", "Between two such checks.", least="100ms", most="1h")
    origin_check_fall: int = setting(COUNT, "3", "Failed checks in a row that take an origin out.", least="1")
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
    stale_wait: float = setting(
        DURATION, "1s", "How long a usable stale answer waits for a hung origin.", least="0s", most="1m"
    )
    follower_timeout: float = setting(
        DURATION, "5s", "How long a request waits for another's fetch of its object.", least="0s", most="10m"
    )
    hit_for_miss: float = setting(
        DURATION, "120s", "How long an object is remembered as not storable.", least="0s", most="1d"
    )
    max_variants: int = setting(COUNT, "64", "Most stored variants of one URL (Vary).", least="1", most="10000")
    store_client_errors: bool = setting(
        SWITCH,
        "off",
        "Store 400, 405 to 408, 411 to 417, 421 to 431, 501 and 505 too; one client's odd request may provoke them.",
    )
    store_set_cookie: bool = setting(
        SWITCH, "off", "Store answers with Set-Cookie where the origin explicitly allows it."
    )

    @property
    def knows_geography(self) -> bool:
        """Whether requests are told where their client is."""
        return bool(self.geo_db or self.geo_overrides or self.geo_rules.regions)

    @property
    def worker_memory(self) -> int:
        """Bytes for cached objects in one worker."""
        return self.memory // self.workers

    @property
    def largest_object(self) -> int:
        """Bytes of the largest object kept in memory: as set, or a tenth of one worker's share."""
        return self.max_object_memory or self.worker_memory // 10


ROWS: Mapping[str, Row] = {PREFIX + row.name.upper(): row.metadata["row"] for row in fields(Settings)}


def load(environ: Mapping[str, str]) -> Settings:
    """The settings out of the environment; an empty value counts as not set.

    Raises ConfigError for an unknown `EDGECACHE_*` name, a bad value, a missing one, or a contradiction.
    """
    for unknown in _unknown(environ):
        raise unknown
    settings = Settings(**{_field(variable): _value(variable, row, environ) for variable, row in ROWS.items()})
    for contradiction in _contradictions(settings):
        raise contradiction
    return settings


def _field(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower()


def _unknown(environ: Iterable[str]) -> Iterator[ConfigError]:
    for name in environ:
        if name.startswith(PREFIX) and name not in ROWS and not _KUBERNETES.fullmatch(name):
            near = difflib.get_close_matches(name, ROWS, n=1)
            suggestion = f"; did you mean {near[0]}?" if near else ""
            yield ConfigError(_UNPRINTABLE.sub("?", name), f"is no setting{suggestion}")


def _value(variable: str, row: Row, environ: Mapping[str, str]) -> Any:
    text = environ.get(variable, "").strip()
    if variable == "EDGECACHE_ORIGIN" and (several := environ.get("EDGECACHE_ORIGINS", "").strip()):
        return _first_of(text, several)
    if not text and row.default is None:
        raise ConfigError(variable, f"is required: {row.kind.name}. {row.doc}")
    try:
        return row.value(text or row.default_text())
    except ValueError as error:
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


def _contradictions(settings: Settings) -> Iterator[ConfigError]:
    if settings.max_line > settings.max_head:
        yield ConfigError("EDGECACHE_MAX_LINE", "is more than EDGECACHE_MAX_HEAD")
    if settings.max_object_memory > settings.worker_memory:
        share = f"EDGECACHE_MEMORY / EDGECACHE_WORKERS = {settings.worker_memory} bytes"
        yield ConfigError("EDGECACHE_MAX_OBJECT_MEMORY", f"is more than one worker holds: {share}")
    if settings.listen.port and settings.listen == settings.admin_listen:
        yield ConfigError("EDGECACHE_ADMIN_LISTEN", "is the same as EDGECACHE_LISTEN")
    everybody = [origin for origins in settings.origins.values() for origin in origins] or [settings.origin]
    if any((origin.host, origin.port) == (settings.listen.host, settings.listen.port) for origin in everybody):
        name = "EDGECACHE_ORIGINS" if settings.origins else "EDGECACHE_ORIGIN"
        yield ConfigError(name, "is this POP itself: the same as EDGECACHE_LISTEN")
    if settings.origins and (unknown := settings.geo_rules.regions - settings.origins.keys()):
        yield ConfigError("EDGECACHE_GEO_RULES", f"names {min(unknown)}, a region without EDGECACHE_ORIGINS")
    if settings.proxy_protocol and not settings.trusted_proxies:
        yield ConfigError("EDGECACHE_PROXY_PROTOCOL", "is on, but EDGECACHE_TRUSTED_PROXIES names nobody to believe")
    if settings.origin_ca and all(origin.scheme == "http" for origin in everybody):
        yield ConfigError("EDGECACHE_ORIGIN_CA", "is set, but EDGECACHE_ORIGIN is not https")
    if settings.origin_ca and not settings.origin_tls_verify:
        yield ConfigError("EDGECACHE_ORIGIN_CA", "is set, but EDGECACHE_ORIGIN_TLS_VERIFY is off")
