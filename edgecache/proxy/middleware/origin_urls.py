"""The origin's own URLs in its responses, mapped to the public site."""

from __future__ import annotations

from typing import Self

from edgecache.config.addresses import bracketed
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.message import Request, Response
from edgecache.semantics.origin_urls import OwnUrls, own_urls


class OriginUrls(Middleware):
    """Makes URLs public before a response is stored, and before the writes that it names are invalidated."""

    order = 1200
    reads = NOTHING

    def __init__(self, own: OwnUrls) -> None:
        self._own = own

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where requests upstream have another Host than the client's, unless `EDGECACHE_ORIGIN_URLS` is `keep`."""
        settings = context.settings
        host = settings.upstream_host.encode()
        if not host or settings.origin_urls != "map":
            return None
        origins = [origin for listed in settings.origins.values() for origin in listed] or [settings.origin]
        return cls(own_urls([(one.scheme.encode(), bracketed(one.host).encode(), one.port) for one in origins], host))

    def on_response(self, request: Request, response: Response) -> Response:
        """Map the URLs."""
        return self._own.as_public(request, response)
