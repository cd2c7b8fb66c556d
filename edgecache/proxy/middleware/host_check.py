"""Refusal of requests for sites that are not served here."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.uri import host_of
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply


class HostCheck(Middleware):
    """Admits requests for the sites of `EDGECACHE_HOSTS` only."""

    order = 900
    reads = NOTHING

    def __init__(self, hosts: frozenset[bytes]) -> None:
        self.hosts = hosts

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where sites are listed."""
        hosts = context.settings.hosts
        return cls(frozenset(host.encode() for host in hosts)) if hosts else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Refuse a request for another site."""
        if host_of(exchange.request.host) in self.hosts:
            return None
        return local_reply(421, "unknown-site", "this server does not serve that site")
