"""The pools that sites name: opened at their first request, so that a thousand sites cost what those in use do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgecache.config.settings import Settings
from edgecache.upstream.origin_group import Origins
from edgecache.upstream.pool import OriginPool
from edgecache.wire.errors import OriginError
from edgecache.wire.upstream_request import UpstreamCall

Opened = OriginPool | Origins


class SitePools:
    """Sends each request to the pool of its route."""

    def __init__(self, settings: Mapping[str, Settings], open_pool: Callable[[Settings], Opened]) -> None:
        self._settings = settings  # by the name of the pool
        self._open = open_pool
        self._pools: dict[str, Opened] = {}

    def send(self, call: UpstreamCall) -> None:
        """Send a request to the origin."""
        route = call.upstream_request.route
        if route is None:  # it must not reach the origin of another site
            call.fail(OriginError("no-site", "the request belongs to no site"))
            return
        pool = self._pools.get(route.pool) or self._opened(route.pool)
        if pool is None:
            call.fail(OriginError("no-pool", "the pool of this route is not configured any more"))
            return
        call.upstream_request = call.upstream_request.routed(self._settings[route.pool].upstream_host.encode())
        pool.send(call)

    def _opened(self, name: str) -> Opened | None:
        settings = self._settings.get(name)
        if settings is None:
            return None
        pool = self._pools[name] = self._open(settings)
        return pool

    @property
    def opened(self) -> Iterable[Opened]:
        """The pools that are in use."""
        return self._pools.values()
