"""The settings: ONE table, read from the environment once, into a frozen value.

A row is a field of a group (`config/groups/`): its name in lower case, its kind, its default as an operator would write
it, one line of documentation, its bounds. To add a setting, add a row; `make docs` writes it into docs/settings.md and
the sample file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

from edgecache.config.addresses import Address, Origin
from edgecache.config.certificates import Described, KeyPair
from edgecache.config.groups.invalidation import (
    CutOffSettings,
    PurgeSettings,
    TagSettings,
    WriteSettings,
)
from edgecache.config.groups.serving import (
    GeographySettings,
    ListenerSettings,
    LogSettings,
    PopListenerSettings,
    PopSettings,
    SiteSettings,
    TlsSettings,
)
from edgecache.config.groups.storing import (
    MemorySettings,
    RegionalSettings,
    StorageSettings,
    StoreSettings,
)
from edgecache.config.groups.traffic import (
    BalancingSettings,
    ClientSettings,
    OriginSettings,
    ParentSettings,
)
from edgecache.config.purge_types import PurgeToken
from edgecache.config.schema import MASK, Row
from edgecache.config.secret_files import Confidential
from edgecache.config.sizing import (
    MIB,
    ConfiguredSizes,
    Shares,
    of_machine,
    registers,
    shared_out,
    size_of,
    store_size,
)
from edgecache.config.sources import PREFIX
from edgecache.config.types import AUTOMATIC_SLICES, Explained
from edgecache.config.validation import contradictions
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.residency import Residency

__all__ = ["PREFIX", "Address", "Origin", "PurgeToken", "Row", "Settings", "load"]

# What Kubernetes puts into the environment of every container beside a Service named `edgecache`.
_KUBERNETES = re.compile(r"EDGECACHE_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)", re.ASCII)
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(
    SiteSettings,
    ListenerSettings,
    TlsSettings,
    PopListenerSettings,
    GeographySettings,
    PopSettings,
    LogSettings,
    MemorySettings,
    StoreSettings,
    RegionalSettings,
    PurgeSettings,
    WriteSettings,
    CutOffSettings,
    TagSettings,
    ClientSettings,
    OriginSettings,
    ParentSettings,
    BalancingSettings,
    StorageSettings,
):
    """The table, its groups in the order of docs/settings.md. Sizes are bytes, durations seconds."""

    @property
    def residency_rules(self) -> Residency:
        """Jurisdictions of all regions and of this POP."""
        return Residency(self.residency, self.residency.get(self.region, ""))

    @property
    def knows_geography(self) -> bool:
        """Whether requests carry fields with their client's place."""
        return bool(self.geo_db or self.geo_overrides or self.geo_rules.regions)

    @property
    def upstream_host(self) -> str:
        """Host of requests to origins; empty: the client's."""
        return {"client": "", "origin": self.origin.authority}.get(self.origin_host, self.origin_host)

    @property
    def secret_parameters(self) -> frozenset[bytes]:
        """Query parameters that logs and pages do not show."""
        return frozenset() if self.sites is None else self.sites.secret_parameters

    @property
    def certificates(self) -> tuple[Described, ...]:
        """Those of the listeners, the default first, and those of sites."""
        return self.tls_certificates if self.sites is None else (*self.tls_certificates, *self.sites.certificates)

    @property
    def origin_pair(self) -> KeyPair | None:
        """Client certificate for origins."""
        return _pair(self.origin_certificate, self.origin_certificate_key)

    @property
    def pop_pair(self) -> KeyPair | None:
        """Client certificate for parents."""
        return _pair(self.pop_certificate, self.pop_certificate_key)

    @property
    def regional_pair(self) -> KeyPair | None:
        """Client certificate for the regional tier."""
        return _pair(self.regional_certificate, self.regional_certificate_key)

    @property
    def worker_memory(self) -> int:
        """Bytes for cached objects in one worker."""
        return (self.memory - self.store_memory) // self.workers

    @property
    def store_memory(self) -> int:
        """Bytes of the machine's store that are a part of the memory for cached objects."""
        return self.store_size if self.store.startswith("memory") else 0

    @property
    def largest_object(self) -> int:
        """Bytes of the largest object kept in memory: as set, or a tenth of one worker's share."""
        return self.max_object_memory or self.worker_memory // 10

    @property
    def fitting_slice(self) -> int:
        """Bytes of a slice: as set, or the largest usual one that fits into a worker's memory; 0: no slices."""
        if self.slice_size != AUTOMATIC_SLICES:
            return self.slice_size
        return next((size for size in USUAL_SLICES if size <= self.largest_object), 0)


USUAL_SLICES: Final = (MIB, MIB // 2, MIB // 4, MIB // 8, MIB // 16)  # bytes, where none is set


def _pair(certificate: str, key: str) -> KeyPair | None:
    return KeyPair(certificate, key or certificate) if certificate else None


# Settings of the pools of origins and parents.
TO_ORIGINS: Final = frozenset(row.name for row in fields(Settings) if row.name.startswith("origin")) | {
    *("hosts", "connect_timeout", "first_byte_timeout", "between_bytes_timeout", "dns_ttl"),
    *("parent_ca", "parent_bypass", "pop_certificate", "pop_certificate_key"),
}
# LIVE: applied by a reload in running workers, which keep their memory. RESTART: applied by a restart only. All others:
# applied by replacing the workers.
LIVE: Final = frozenset(
    [
        *TO_ORIGINS,
        "hosts",
        "sites",
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
        "slice_size",
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
        "store",
        "store_size",
    ]
)

GROUPS: Mapping[str, Mapping[str, Row]] = {  # heading → variable → row
    (group.__doc__ or "").rstrip("."): {PREFIX + row.name.upper(): row.metadata["row"] for row in fields(group)}
    for group in Settings.__bases__
}
ROWS: Mapping[str, Row] = {variable: row for group in GROUPS.values() for variable, row in group.items()}


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
    """Defaults that the machine decides by the other settings, for settings that are not set."""
    shares = _shares(environ)
    sizes = {"MEMORY": shares.memory, "REGIONAL_MEMORY": shares.regional}
    names = registers(of_machine(), shares.workers)
    found = {"WORKERS": str(shares.workers), "PURGE_REGISTERS": str(names)}
    found |= {name: f"{size // MIB}MiB" for name, size in sizes.items()}
    found["STORE_SIZE"] = _store_size(environ, shares)
    return {PREFIX + name: text for name, text in found.items() if not environ.get(PREFIX + name, "").strip()}


def _shares(environ: Mapping[str, str]) -> Shares:
    """The machine's workers and memory, shared out; malformed values count as not set."""
    written = partial(_written, environ)
    embedded = environ.get("EDGECACHE_REGIONAL", "").strip() == "embedded"
    kept = bool(environ.get("EDGECACHE_REGIONAL_DIRECTORY", "").strip())
    beside = size_of(environ.get("EDGECACHE_GEO_DB", "").strip())
    wanted = ConfiguredSizes(written("WORKERS"), written("MEMORY"), written("REGIONAL_MEMORY"), embedded, kept, beside)
    return shared_out(of_machine(), wanted)


def _written(environ: Mapping[str, str], name: str) -> Any:
    """The value of a setting; None if it is not set, or malformed."""
    text = environ.get(PREFIX + name, "").strip()
    with suppress(ValueError):
        return ROWS[PREFIX + name].value(text) if text else None
    return None


def _store_size(environ: Mapping[str, str], shares: Shares) -> str:
    """The default size of the machine's store: in memory, out of that for objects."""
    each = max(_written(environ, "MAX_OBJECT_MEMORY") or 0, 10 * (_written(environ, "SLICE_SIZE") or 0))
    on_disk = environ.get("EDGECACHE_STORE", "").strip().startswith("disk")
    return "1GiB" if on_disk else store_size(shares, each)


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
    if variable == "EDGECACHE_ORIGIN" and not text and environ.get("EDGECACHE_SITES", "").strip():
        return _of_first_site(environ)
    if not text and row.default is None:
        raise ConfigError(variable, f"is required: {row.kind.name}. {row.doc}")
    try:
        return row.value(text or row.default_text())
    except Explained as error:
        raise ConfigError(variable, str(error)) from None
    except ValueError as error:
        if isinstance(written, Confidential):  # what the error quotes may be the secret, too
            raise ConfigError(variable, f"{MASK} is not {row.kind.name}") from None
        raise ConfigError(variable, f"{row.quoted(text)} {error}") from None


def _of_first_site(environ: Mapping[str, str]) -> Origin:
    """The first origin of EDGECACHE_SITES, in the place of EDGECACHE_ORIGIN."""
    first: Origin = _value("EDGECACHE_SITES", ROWS["EDGECACHE_SITES"], environ).first_origin
    return first


def _first_of(origin: str, several: str) -> Origin:
    """The first of EDGECACHE_ORIGINS, in the place of EDGECACHE_ORIGIN."""
    if origin:
        raise ConfigError("EDGECACHE_ORIGINS", "is set, and so is EDGECACHE_ORIGIN: one of them is enough")
    origins = _value("EDGECACHE_ORIGINS", ROWS["EDGECACHE_ORIGINS"], {"EDGECACHE_ORIGINS": several})
    if not origins:
        raise ConfigError("EDGECACHE_ORIGINS", "names no origin")
    first: Origin = next(iter(origins.values()))[0]
    return first
