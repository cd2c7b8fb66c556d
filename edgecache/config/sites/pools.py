"""The pools of sites, as settings: those of the process, with what a pool says in their stead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from edgecache.config.addresses import Origin, server
from edgecache.config.settings import Settings
from edgecache.config.sites import model


class Pools(Mapping[str, Settings]):
    """Settings by the name of each pool, made when they are asked for: a thousand sites cost what those in use do."""

    def __init__(self, settings: Settings, document: model.Document) -> None:
        self._settings = settings
        self._document = document
        self._written = {**document.pools, **dict(_alone(document, settings.origin_host))}
        self._made: dict[str, Settings] = {}

    def __getitem__(self, name: str) -> Settings:
        """The settings of one pool; KeyError if there is none of that name."""
        made = self._made.get(name)
        if made is None:
            hosts = tuple(self._hosts.get(name, ()))
            made = self._made[name] = _pool(self._settings, self._written[name], hosts)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)

    @cached_property
    def _hosts(self) -> dict[str, list[str]]:
        return _hosts(self._document)


def pools_of(settings: Settings) -> Mapping[str, Settings]:
    """Settings by the name of each pool; the origin of a site alone is a pool named after it."""
    if settings.sites is None:
        return {}
    return Pools(replace(settings, sites=None), settings.sites.document)


def _alone(document: model.Document, host: str) -> Iterator[tuple[str, model.Pool]]:
    """The pools that sites' own origins are."""
    for site in document.sites:
        if site.origin is not None:
            yield own_pool(site), model.Pool(servers=(site.origin,), host=host)


def own_pool(site: model.Site) -> str:
    """The name of the pool that a site's origin is; no pool of a document has it."""
    return site.pool or f"site {site.name}"


def pools_named(site: model.Site) -> Iterator[str]:
    """The pools that requests of `site` go to."""
    yield own_pool(site)
    for rule in site.rules:
        if rule.route is not None and rule.route.pool is not None:
            yield rule.route.pool
        if rule.route is not None and rule.route.canary is not None:
            yield rule.route.canary.pool


def _hosts(document: model.Document) -> dict[str, list[str]]:
    """By the name of a pool, the names of the sites that it serves: health checks are for one of them."""
    hosts: dict[str, list[str]] = {}
    for site in document.sites:
        for pool in dict.fromkeys(pools_named(site)):
            hosts.setdefault(pool, []).extend(host for host in site.hosts if "*" not in host)
    return hosts


def servers_of(pool: model.Pool) -> Iterator[tuple[str | None, Origin]]:
    """Region, if one is named, and address of each server. Raises ValueError."""
    for one in pool.servers:
        named = model.Server(url=one) if isinstance(one, str) else one
        yield named.region, server(named.url, tls_name=pool.tls_name or "", weight=named.weight)


def _pool(settings: Settings, pool: model.Pool, hosts: tuple[str, ...]) -> Settings:
    by_region: dict[str, list[Origin]] = {}
    for region, origin in servers_of(pool):
        by_region.setdefault(region or settings.region, []).append(origin)
    changes: dict[str, Any] = {
        "origin": next(iter(by_region.values()))[0],
        "origins": {region: tuple(origins) for region, origins in by_region.items()},
        "origin_host": pool.host,
        "origin_check_path": pool.check_path,
        "origin_tls_verify": settings.origin_tls_verify and pool.verify,
        "hosts": hosts,
    }
    for name, setting in (
        ("ca", "origin_ca"),
        ("connections", "origin_connections"),
        ("connect_timeout", "connect_timeout"),
        ("first_byte_timeout", "first_byte_timeout"),
        ("between_bytes_timeout", "between_bytes_timeout"),
        ("hedge", "origin_hedge"),
    ):
        if (value := getattr(pool, name)) is not None:
            changes[setting] = value
    return replace(settings, **changes)
