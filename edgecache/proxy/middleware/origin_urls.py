"""The origin's own URLs in its responses, mapped to the public site."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Self

from edgecache.config.addresses import bracketed
from edgecache.config.settings import Settings
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.message import Request, Response
from edgecache.semantics.origin_urls import OwnUrls, own_urls
from edgecache.semantics.rules.policy import RequestPolicy


class OriginUrls(Middleware):
    """Makes URLs public before a response is stored, and before the writes that it names are invalidated."""

    order = 1200
    reads = NOTHING

    def __init__(self, own: Callable[[Request], OwnUrls | None]) -> None:
        self._own = own  # those of the origins of a request

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where requests upstream have another Host than the client's, unless `EDGECACHE_ORIGIN_URLS` is `keep`."""
        settings = context.settings
        if settings.origin_urls != "map":
            return None
        if settings.sites is not None:
            return cls(lambda request: None).with_pools(settings)
        own = own_of(settings, settings.origin_host)
        return None if own is None else cls(lambda request: own)

    def with_pools(self, settings: Settings) -> Self:
        """Where sites have pools: what is an origin's own depends on the route of the request."""
        from edgecache.config.sites.pools import pools_of  # with libraries that only those need who have sites

        pools = pools_of(settings)

        @cache
        def of_pool(name: str, host: str) -> OwnUrls | None:
            pool = pools.get(name)
            return None if pool is None else own_of(pool, host or pool.origin_host)

        def of_request(request: Request) -> OwnUrls | None:
            policy: RequestPolicy | None = request.policy
            if policy is None:
                return None
            route = policy.actions.route
            return of_pool(route.pool or policy.site.pool, route.host or "")

        self._own = of_request
        return self

    def on_response(self, request: Request, response: Response) -> Response:
        """Map the URLs."""
        own = self._own(request)
        return response if own is None else own.as_public(request, response)


def own_of(settings: Settings, host: str) -> OwnUrls | None:
    """The own URLs of the origins of `settings`, which are asked with that Host; None where it is the client's."""
    if host == "client":
        return None
    origins = [origin for listed in settings.origins.values() for origin in listed] or [settings.origin]
    named = origins[0].authority if host == "origin" else host
    listed = [(one.scheme.encode(), bracketed(one.host).encode(), one.port) for one in origins]
    return own_urls(listed, named.encode())
