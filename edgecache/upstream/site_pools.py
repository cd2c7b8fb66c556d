"""The pools that sites name: opened at their first request, so that a thousand sites cost what those in use do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from edgecache.config.settings import Settings
from edgecache.upstream.origin_group import Origins
from edgecache.wire.errors import OriginError
from edgecache.wire.upstream_request import Credential, UpstreamCall

log = logging.getLogger("edgecache")


class SitePools:
    """Sends each request to the pool of its route. Mutable state: the pools that are open."""

    def __init__(
        self,
        settings: Mapping[str, Settings],
        open_pool: Callable[[str, Settings], Origins],
        credentials: Mapping[str, Credential],
        on_open: Callable[[str, Origins], None],
    ) -> None:
        self._settings = settings  # by the name of the pool
        self._open = open_pool
        self._credentials = credentials  # by name
        self._on_open = on_open
        self.opened: dict[str, Origins] = {}

    def send(self, call: UpstreamCall) -> None:
        """Send a request to the origin."""
        route = call.upstream_request.route
        if route is None:  # it must not reach the origin of another site
            call.fail(OriginError("no-site", "the request belongs to no site"))
            return
        pool = self.opened.get(route.pool) or self._opened(route.pool)
        credential = self._credentials.get(route.credentials) if route.credentials else None
        if pool is None or (route.credentials and credential is None):
            call.fail(OriginError("no-pool", "the pool of this route is not configured any more, or cannot be used"))
            return
        host = self._settings[route.pool].origin_host.encode()
        call.upstream_request = call.upstream_request.routed(host, credential)
        pool.send(call)

    def _opened(self, name: str) -> Origins | None:
        settings = self._settings.get(name)
        if settings is None:
            return None
        try:
            pool = self._open(name, settings)
        except (OSError, ValueError) as error:
            log.error("the pool %s cannot be used: %s", name, error)
            return None
        self.opened[name] = pool
        self._on_open(name, pool)
        return pool

    def take_over(self, former: SitePools) -> None:
        """Go on with the open pools of `former` that are configured alike here: their connections stay."""
        for name in [name for name in former.opened if former._settings.get(name) == self._settings.get(name)]:
            pool = self.opened[name] = former.opened.pop(name)
            self._on_open(name, pool)

    @property
    def pools(self) -> Iterable[Origins]:
        """The pools that are in use."""
        return self.opened.values()
