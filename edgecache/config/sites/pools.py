"""The pools of sites, as settings: those of the process, with what a pool says in their stead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgecache.config.addresses import origin
from edgecache.config.settings import Settings
from edgecache.config.sites import model


def pools_of(settings: Settings) -> Mapping[str, Settings]:
    """Settings by the name of each pool; the origin of a site alone is a pool named after it."""
    if settings.sites is None:
        return {}
    document = settings.sites.document
    named = {name: _pool(settings, pool) for name, pool in document.pools.items()}
    alone = {
        own_pool(site): _pool(settings, model.Pool(servers=(site.origin,), host=settings.origin_host))
        for site in document.sites
        if site.origin is not None
    }
    return named | alone


def own_pool(site: model.Site) -> str:
    """The name of the pool that a site's origin is; no pool of a document has it."""
    return site.pool or f"site {site.name}"


def _pool(settings: Settings, pool: model.Pool) -> Settings:
    by_region: dict[str, list[Any]] = {}
    for server in pool.servers:
        url, region = (server, None) if isinstance(server, str) else (server.url, server.region)
        by_region.setdefault(region or settings.region, []).append(origin(url))
    servers = {region: tuple(origins) for region, origins in by_region.items()}
    first = next(iter(servers.values()))[0]
    several = len(pool.servers) > 1 or bool(pool.check_path)
    changes: dict[str, Any] = {
        "origin": first,
        "origins": servers if several else {},
        "origin_host": pool.host,
        "origin_check_path": pool.check_path,
    }
    if pool.ca is not None:
        changes["origin_ca"] = pool.ca
    for name, setting in (
        ("connections", "origin_connections"),
        ("connect_timeout", "connect_timeout"),
        ("first_byte_timeout", "first_byte_timeout"),
        ("between_bytes_timeout", "between_bytes_timeout"),
        ("hedge", "origin_hedge"),
    ):
        if (value := getattr(pool, name)) is not None:
            changes[setting] = value
    return replace(settings, **changes)
