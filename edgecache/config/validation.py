"""Settings that are right each by itself, and contradict each other: of a POP that must not start with them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgecache.config.addresses import Address, Origin, is_loopback
from edgecache.config.certificates import KeyPair, described
from edgecache.config.valkey_url import parse_url
from edgecache.semantics.errors import ConfigError

if TYPE_CHECKING:
    from edgecache.config.settings import Settings

LEAST_SLICE = 64 * 1024  # bytes
LEAST_WORKER_MEMORY = 1024 * 1024  # bytes of objects, beside the machine's store
ANYWHERE = ("0.0.0.0", "::")


def contradictions(settings: Settings) -> Iterator[ConfigError]:
    """Contradictions between settings, each named by the setting to change."""
    if settings.max_line > settings.max_head:
        yield ConfigError("EDGECACHE_MAX_LINE", "is more than EDGECACHE_MAX_HEAD")
    if settings.worker_memory < LEAST_WORKER_MEMORY <= settings.memory // settings.workers:
        words = "leaves less than 1MiB of EDGECACHE_MEMORY for each worker: a store in memory is a part of it"
        yield ConfigError("EDGECACHE_STORE_SIZE", words)
    elif settings.max_object_memory > settings.worker_memory:
        whole = "(EDGECACHE_MEMORY - EDGECACHE_STORE_SIZE)" if settings.store_memory else "EDGECACHE_MEMORY"
        share = f"{whole} / EDGECACHE_WORKERS = {settings.worker_memory} bytes"
        yield ConfigError("EDGECACHE_MAX_OBJECT_MEMORY", f"is more than the share of one worker: {share}")
    if 0 < settings.slice_size < LEAST_SLICE:
        yield ConfigError("EDGECACHE_SLICE_SIZE", "is less than 64KiB")
    yield from _large_slices(settings)
    if settings.listen.port and settings.listen == settings.admin_listen:
        yield ConfigError("EDGECACHE_ADMIN_LISTEN", "is the same as EDGECACHE_LISTEN")
    all_origins = _origins(settings)
    yield from _own_origins(settings, all_origins)
    yield from _wrong_regions(settings)
    if settings.peers and settings.regional == "off":
        yield ConfigError("EDGECACHE_PEERS", "is set, but EDGECACHE_REGIONAL is off: a region's log is in its Valkey")
    if settings.region in settings.peers:
        yield ConfigError("EDGECACHE_PEERS", f"names {settings.region}, which is EDGECACHE_REGION itself")
    yield from _wrong_parents(settings)
    yield from _wrong_residency(settings)
    if settings.proxy_protocol and not settings.trusted_proxies:
        yield ConfigError("EDGECACHE_PROXY_PROTOCOL", "is on, but EDGECACHE_TRUSTED_PROXIES is empty")
    yield from _tls_contradictions(settings, any(origin.scheme == "https" for origin in all_origins))
    yield from _idle_regional(settings)
    yield from _unknown_countries(settings)


def _large_slices(settings: Settings) -> Iterator[ConfigError]:
    """Slices that no worker's memory takes: they would be fetched again for each request."""
    largest = settings.largest_object
    words = f"the largest object in memory, {largest} bytes (EDGECACHE_MAX_OBJECT_MEMORY, or a tenth of one worker's)"
    if settings.slice_size > largest:
        yield ConfigError("EDGECACHE_SLICE_SIZE", f"is more than {words}")
    for site in () if settings.sites is None else settings.sites.document.sites:
        for rule in site.rules:
            if rule.cache is not None and (rule.cache.slices or 0) > largest:
                yield ConfigError(
                    "EDGECACHE_SITES", f"the slices of rule {rule.name} of {site.name} are more than {words}"
                )


def _origins(settings: Settings) -> list[Origin]:
    """The origins that requests go to."""
    if settings.sites is not None:
        return list(settings.sites.servers)
    return [origin for origins in settings.origins.values() for origin in origins] or [settings.origin]


def _tls_contradictions(settings: Settings, https_origin: bool) -> Iterator[ConfigError]:
    """Contradictions and missing settings of TLS."""
    listens = settings.tls_listen is not None or settings.pop_listen is not None
    if listens and not settings.certificates:
        name = "EDGECACHE_TLS_LISTEN" if settings.tls_listen else "EDGECACHE_POP_LISTEN"
        yield ConfigError(name, "is set, but EDGECACHE_TLS_CERTIFICATES names no certificate")
    if settings.tls_certificates and not listens:
        yield ConfigError("EDGECACHE_TLS_CERTIFICATES", "is set, but EDGECACHE_TLS_LISTEN is not")
    elif settings.certificates and not listens:
        yield ConfigError("EDGECACHE_SITES", "names certificates, but EDGECACHE_TLS_LISTEN is not set")
    if (settings.pop_listen is None) != (not settings.pop_ca):
        missing, there = ("POP_CA", "POP_LISTEN") if settings.pop_listen else ("POP_LISTEN", "POP_CA")
        yield ConfigError(f"EDGECACHE_{there}", f"is set, but EDGECACHE_{missing} is not")
    yield from _same_address(settings)
    yield from _never_https(settings)
    if not https_origin:
        for name in ("EDGECACHE_ORIGIN_CA", "EDGECACHE_ORIGIN_CERTIFICATE"):
            if _named(settings, name):
                yield ConfigError(name, "is set, but EDGECACHE_ORIGIN is not https")
    if settings.origin_ca and not settings.origin_tls_verify:
        yield ConfigError("EDGECACHE_ORIGIN_CA", "is set, but EDGECACHE_ORIGIN_TLS_VERIFY is off")
    for name in ("EDGECACHE_ORIGIN_CERTIFICATE", "EDGECACHE_REGIONAL_CERTIFICATE", "EDGECACHE_POP_CERTIFICATE"):
        yield from _pair_problems(settings, name)


def _own_origins(settings: Settings, origins: list[Origin]) -> Iterator[ConfigError]:
    """Origins that are this POP itself: loops, or admin pages exposed to clients."""
    name = "EDGECACHE_ORIGINS" if settings.origins else "EDGECACHE_ORIGIN"
    if settings.sites is not None:
        name = "EDGECACHE_SITES"
    for variable in ("EDGECACHE_LISTEN", "EDGECACHE_ADMIN_LISTEN", "EDGECACHE_TLS_LISTEN", "EDGECACHE_POP_LISTEN"):
        where = _named(settings, variable)
        if where is not None and any(is_own_listener(origin, where) for origin in origins):
            words = "is" if settings.sites is None else "names an origin that is"
            yield ConfigError(name, f"{words} this POP itself: the same as {variable}")


def _wrong_regions(settings: Settings) -> Iterator[ConfigError]:
    """Geographic rules that name a region without an origin."""
    # Of a jurisdiction without an origin clients are refused (503); the only origin is that of all regions.
    known = {*settings.origins, *settings.parents, *settings.residency}
    if settings.origins and (unknown := settings.geo_rules.regions - known):
        yield ConfigError("EDGECACHE_GEO_RULES", f"names {min(unknown)}, a region without EDGECACHE_ORIGINS")


def _unknown_countries(settings: Settings) -> Iterator[ConfigError]:
    """Rules by country where no country is known: they would refuse all clients, or none, or hold for none."""
    # EDGECACHE_GEO_RULES alone only says which regions countries belong to.
    if settings.sites is None or settings.geo_db or settings.geo_overrides:
        return
    for place in settings.sites.countries:
        yield ConfigError("EDGECACHE_SITES", f"{place}: needs EDGECACHE_GEO_DB: without it no country is known")


def not_served(settings: Settings) -> Iterator[str]:
    """Warnings about regions of geographic rules that have less effect than expected."""
    if not settings.origins:
        others = settings.geo_rules.regions - {settings.region, *settings.parents, *settings.residency}
        for region in sorted(others):
            yield f"EDGECACHE_GEO_RULES names {region}: EDGECACHE_ORIGIN serves all regions, and is told which"
        return
    asked = {*settings.origins, *settings.parents}
    served = {settings.residency.get(region) for region in asked}
    for region in sorted(settings.geo_rules.regions - asked):
        if settings.residency.get(region) not in served:
            yield f"EDGECACHE_GEO_RULES names {region}: no origin is in its jurisdiction, so its clients get 503"


def _idle_regional(settings: Settings) -> Iterator[ConfigError]:
    """Settings for another kind of regional tier, which have no effect."""
    if settings.regional_directory and settings.regional != "embedded":
        yield ConfigError("EDGECACHE_REGIONAL_DIRECTORY", "is set, but EDGECACHE_REGIONAL is not embedded")
    if settings.regional == "off":
        if settings.regional_required:
            yield ConfigError("EDGECACHE_REGIONAL_REQUIRED", "is set, but EDGECACHE_REGIONAL is off")
        if settings.regional_key and settings.store == "off":
            words = "is set, but EDGECACHE_REGIONAL is off, and so is EDGECACHE_STORE"
            yield ConfigError("EDGECACHE_REGIONAL_KEY", words)
    urls = [parse_url(url) for url in (settings.regional, *settings.peers.values()) if url not in ("off", "embedded")]
    for name in ("EDGECACHE_REGIONAL_CA", "EDGECACHE_REGIONAL_CERTIFICATE"):
        if _named(settings, name) and not any(url.tls for url in urls):
            yield ConfigError(name, "is set, but no Valkey is reached over TLS: valkeys://")
    if settings.regional_replicas and not any(url.scheme in ("valkey+sentinel", "valkey+cluster") for url in urls):
        yield ConfigError("EDGECACHE_REGIONAL_REPLICAS", "is on, but no Valkey has Sentinels or is a cluster")


def _never_https(settings: Settings) -> Iterator[ConfigError]:
    """Settings about https without a source of https requests."""
    if settings.tls_listen is not None or settings.pop_listen is not None or settings.trusted_proxies:
        return
    for name in ("EDGECACHE_HTTPS_REDIRECT", "EDGECACHE_HSTS"):
        if _named(settings, name):
            words = (
                "is set, but nothing comes over https: neither EDGECACHE_TLS_LISTEN nor EDGECACHE_TRUSTED_PROXIES is"
            )
            yield ConfigError(name, words)


def _same_address(settings: Settings) -> Iterator[ConfigError]:
    taken = {settings.listen: "EDGECACHE_LISTEN", settings.admin_listen: "EDGECACHE_ADMIN_LISTEN"}
    for name in ("EDGECACHE_TLS_LISTEN", "EDGECACHE_POP_LISTEN"):
        where = _named(settings, name)
        if where is not None and where.port and where in taken:
            yield ConfigError(name, f"is the same as {taken[where]}")
        taken[where] = name


def _pair_problems(settings: Settings, name: str) -> Iterator[ConfigError]:
    certificate, key = _named(settings, name), _named(settings, name + "_KEY")
    if key and not certificate:
        yield ConfigError(f"{name}_KEY", f"is set, but {name} is not")
    if certificate:
        try:
            described(KeyPair(certificate, key or certificate))
        except ValueError as error:
            yield ConfigError(name, str(error))


def _wrong_parents(settings: Settings) -> Iterator[ConfigError]:
    """Unusable parents: this POP itself, or parents to which it cannot authenticate."""
    parents = [parent for listed in settings.parents.values() for parent in listed]
    for name in ("EDGECACHE_LISTEN", "EDGECACHE_TLS_LISTEN", "EDGECACHE_POP_LISTEN"):
        where = _named(settings, name)
        if where is not None and any(is_own_listener(parent, where) for parent in parents):
            yield ConfigError("EDGECACHE_PARENTS", f"names this POP itself: the same as {name}")
    secure = [parent for parent in parents if parent.scheme == "https"]
    for name in ("EDGECACHE_PARENT_CA", "EDGECACHE_POP_CERTIFICATE"):
        if _named(settings, name) and not secure:
            yield ConfigError(name, "is set, but no parent of EDGECACHE_PARENTS is https")
    proved = settings.pop_certificate and secure == parents
    if parents and not settings.pop_secret and not proved:
        words = (
            "needs EDGECACHE_POP_SECRET, or https and EDGECACHE_POP_CERTIFICATE: parents answer authenticated POPs only"
        )
        yield ConfigError("EDGECACHE_PARENTS", words)
    if twice := {str(origin) for origin in _origins(settings)}.intersection(map(str, parents)):
        yield ConfigError("EDGECACHE_PARENTS", f"names {min(twice)}, which is an origin")


def _wrong_residency(settings: Settings) -> Iterator[ConfigError]:
    """Regions without a jurisdiction."""
    if not settings.residency:
        return
    regions = {settings.region, *settings.origins, *settings.geo_rules.regions, *settings.parents, *settings.peers} - {
        ""
    }
    if missing := regions - settings.residency.keys():
        yield ConfigError("EDGECACHE_RESIDENCY", f"does not say which jurisdiction {min(missing)} is in")


def is_own_listener(parent: Origin, listen: Address) -> bool:
    """Whether `parent` is an address of this POP, as far as names show."""
    if parent.port != listen.port:
        return False
    if parent.host == listen.host:
        return True
    here = is_loopback(parent.host) or parent.host == socket.gethostname().lower()
    return here and (listen.host in ANYWHERE or is_loopback(listen.host))


def _named(settings: Settings, variable: str) -> Any:
    """The value of the setting that this variable sets."""
    return getattr(settings, variable.removeprefix("EDGECACHE_").lower())
