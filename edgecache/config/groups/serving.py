"""Settings of the service: its sites, listeners, clients' places, processes and logs."""

# ruff: noqa: RUF009 (the calls in the table make dataclass fields, which is what RUF009 means to ask for)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecache.config.addresses import Address, Network, Origin
from edgecache.config.certificates import Described
from edgecache.config.schema import CORES, HOST_NAME, required, setting
from edgecache.config.types import (
    ADDRESS,
    CERTIFICATES,
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
    JURISDICTIONS,
    KEY_PAIRS,
    LOG_FIELDS,
    LOG_FRACTION,
    NETWORKS,
    OPTIONAL_ADDRESS,
    ORIGIN,
    ORIGIN_HOST,
    ORIGINS,
    OTLP_ENDPOINT,
    SITES,
    SWITCH,
    TOKEN,
    WORD,
    one_of,
)
from edgecache.semantics.geo import GeoRules

if TYPE_CHECKING:
    from edgecache.config.sites.parser import WrittenSites


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """Site and origin."""

    origin: Origin = required(
        ORIGIN, "Web service behind this POP; EDGECACHE_ORIGINS or EDGECACHE_SITES may name several instead."
    )
    sites: WrittenSites | None = setting(
        SITES,
        "",
        "Sites and their rules, in TOML: the path of a file, or the text itself. Empty serves one site from"
        " EDGECACHE_ORIGIN.",
    )
    origins: Mapping[str, tuple[Origin, ...]] = setting(
        ORIGINS,
        "",
        "Origins by region, instead of EDGECACHE_ORIGIN; several origins of one region are separated by a vertical"
        " bar.",
    )
    origin_host: str = setting(
        ORIGIN_HOST,
        "client",
        "Host field of requests to the origin: that of the client's request (`client`), that of the origin's URL"
        " (`origin`), or a fixed one.",
    )
    origin_urls: str = setting(
        one_of("map", "keep"),
        "map",
        "Treatment of Location, Content-Location and Refresh that name the origin, when EDGECACHE_ORIGIN_HOST is"
        " not `client`: `map` replaces the origin with the requested site, `keep` leaves them unchanged.",
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
        "Host names of the sites that are served, on any port; a request for another name gets 421. Empty serves every"
        " name.",
    )


@dataclass(frozen=True, kw_only=True)
class ListenerSettings:
    """Listeners, and proxies in front."""

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
        " trusted (but never for the host), and so are fields with the client's identity (Remote-User,"
        " X-SSL-Client-*: such requests are never cached) and location (CF-IPCountry: part of the cache key).",
    )
    forwarded: bool = setting(SWITCH, "on", "Whether Forwarded and X-Forwarded-* are sent to the origin.")
    proxy_protocol: bool = setting(
        SWITCH,
        "off",
        "Whether connections from EDGECACHE_TRUSTED_PROXIES begin with a PROXY protocol header, version 1 or 2.",
    )


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """TLS."""

    tls_listen: Address | None = setting(
        OPTIONAL_ADDRESS, "", "Address of the TLS listener for clients (TLS 1.2 and 1.3). Empty disables it."
    )
    tls_certificates: tuple[Described, ...] = setting(
        KEY_PAIRS,
        "",
        "Certificate chains and keys in PEM: files that contain both, or a chain and a key separated by a vertical"
        " bar; or a directory with NAME.pem, NAME.crt and NAME.key, or NAME/fullchain.pem and NAME/privkey.pem. SNI"
        " selects the certificate; the first one (in a directory, `default`) is used for all other names.",
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
        "Value of Strict-Transport-Security in https responses, unless the origin sends its own.",
    )


@dataclass(frozen=True, kw_only=True)
class PopListenerSettings:
    """Listener for other POPs."""

    pop_listen: Address | None = setting(
        OPTIONAL_ADDRESS,
        "",
        "Address of the listener for other POPs: TLS 1.3 with a client certificate. Empty disables it.",
    )
    pop_ca: str = setting(
        CERTIFICATES,
        "",
        "PEM file of the certificate authority for POPs: a certificate signed by it, with a URI name"
        " edgecache:pop:NAME, identifies a POP.",
    )


@dataclass(frozen=True, kw_only=True)
class GeographySettings:
    """Geography and residency."""

    geo_db: str = setting(GEO_DATABASE, "", "Country database in MaxMind format, read again when it changes.")
    geo_overrides: Mapping[Network, str] = setting(
        GEO_OVERRIDES, "", "Countries of networks, looked up before the database; the longest prefix wins."
    )
    geo_rules: GeoRules = setting(
        GEO_RULES,
        "",
        "Region that serves each country or continent; `*` stands for all others. Without a match, it is the region of"
        " this POP.",
    )
    residency: Mapping[str, str] = setting(
        JURISDICTIONS,
        "",
        "Jurisdiction of every region: responses for clients of a jurisdiction are stored only inside it, and come"
        " only from its parents and origins.",
    )


@dataclass(frozen=True, kw_only=True)
class PopSettings:
    """This POP and its workers."""

    pop: str = setting(WORD, HOST_NAME, "Name of this POP in Cache-Status, Via and metrics.")
    region: str = setting(WORD, "local", "Region that this POP belongs to.")
    config_file: str = setting(
        FILE,
        "",
        "File of EDGECACHE_NAME=value lines, read again on SIGHUP and when it changes. Environment variables"
        " override it.",
    )
    workers: int = setting(COUNT, CORES, "Number of worker processes.", least="1", most="256")
    drain_grace: float = setting(
        DURATION, "30s", "Time for running requests to finish after SIGTERM.", least="0s", most="1h"
    )
    worker_timeout: float = setting(
        DURATION,
        "10s",
        "Time without a response from the event loop of a worker after which the worker is replaced.",
        least="1s",
        most="1h",
    )


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Logs and traces."""

    access_log: float = setting(
        LOG_FRACTION,
        "json",
        "Requests that are logged on standard output: all (`json`), none (`off`), or a random fraction.",
    )
    access_log_fields: tuple[str, ...] = setting(
        LOG_FIELDS,
        "default",
        "Fields of the access log, as listed in docs/logging.md; `default` and `all` stand for several.",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "Lowest severity that is logged on standard error."
    )
    otlp_endpoint: str = setting(
        OTLP_ENDPOINT,
        "",
        "OpenTelemetry collector that receives traces (OTLP over HTTP); the path defaults to /v1/traces. Empty"
        " disables tracing.",
    )
    trace_sample: float = setting(
        FRACTION,
        "0.01",
        "Fraction of requests that are traced. A trusted proxy or another POP decides for its own requests.",
    )
