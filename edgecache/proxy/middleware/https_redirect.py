"""Redirection of http to https."""

from __future__ import annotations

from typing import Self

from edgecache.invalidation.purge_dialects import METHODS as PURGE_METHODS
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.proxy.responses import redirect
from edgecache.semantics.sni import secure_location, stays_plain
from edgecache.semantics.uri import host_of
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse


class HttpsRedirect(Middleware):
    """Redirects requests for the configured sites (without a list: all) to https, except for purges."""

    order = 500
    reads = NOTHING
    for_peers = False

    def __init__(self, port: int, hosts: frozenset[bytes]) -> None:
        self._port = port
        self._hosts = hosts

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where `EDGECACHE_HTTPS_REDIRECT` names a port."""
        settings = context.settings
        hosts = frozenset(host.encode() for host in settings.hosts)
        return cls(settings.https_redirect, hosts) if settings.https_redirect else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Redirect, unless the path has to stay plain."""
        request = exchange.request
        if request.scheme != b"http" or request.method in PURGE_METHODS:
            return None
        if self._hosts and host_of(request.host) not in self._hosts:
            return None
        if stays_plain(request.host, request.target):
            exchange.fingerprint = None  # heads alike but for their target are redirected: this one is not remembered
            return None
        return redirect(request, secure_location(request.host, request.target, self._port))
