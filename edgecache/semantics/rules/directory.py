"""All sites, and the look-up of a site by host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from edgecache.semantics import uri
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.client_address import Network
from edgecache.semantics.rules.key_parts import spellings
from edgecache.semantics.rules.policy import Site

UP_TO_A_WILDCARD = re.compile(r"[^*?\x80-\U0010ffff]*")
MOST_HOSTS = 65536  # whose site is remembered


class Sites:
    """The sites by host. A name comes before a wildcard, a longer wildcard before a shorter one, `*` last."""

    def __init__(self, named: Iterable[tuple[str, Site]]) -> None:
        self._exact: dict[bytes, Site] = {}
        self._under: dict[bytes, Site] = {}
        self._default: Site | None = None
        once: dict[int, Site] = {}
        for host, site in named:
            once[id(site)] = site
            if host == "*":
                self._default = site
            elif host.startswith("*."):
                self._under[host[1:].encode()] = site
            else:
                self._exact[host.encode()] = site
        self.all = list(once.values())
        self._found: BoundedCache[bytes, Site] = BoundedCache(MOST_HOSTS)

    def site_of(self, host: bytes) -> Site | None:
        """The site that `host`, normalised and with its port if it has one, belongs to; None if to none."""
        found = self._found.get(host)
        if found is None:
            found = self._look_up(uri.host_of(host))
            if found is not None:
                self._found.remember(host, found)
        return found

    def _look_up(self, host: bytes) -> Site | None:
        site = self._exact.get(host)
        at = host.find(b".")
        while site is None and at >= 0:
            site = self._under.get(host[at:])
            at = host.find(b".", at + 1)
        return site or self._default

    def wildcard_of(self, host: bytes) -> bytes:
        """The wildcard by which `host`, normalised and with its port, belongs to its site; empty if it has a name."""
        if not self._under and self._default is None:
            return b""
        host = uri.host_of(host)
        if host in self._exact:
            return b""
        at = host.find(b".")
        while at >= 0 and host[at:] not in self._under:
            at = host.find(b".", at + 1)
        return b"*" + host[at:] if at >= 0 else b"*" if self._default is not None else b""

    def replies_with(self, kind: type) -> bool:
        """Whether any rule answers with a reply of that kind."""
        return any(isinstance(rule.actions.reply, kind) for site in self.all for rule in site.rules)

    def spellings(self, url: bytes) -> list[bytes]:
        """`url` as rules of its site may reduce it (`key.query`)."""
        site = self.site_of(url.partition(b"://")[2].partition(b"/")[0])
        return [] if site is None or b"?" not in url else spellings(site, url)

    @cached_property
    def reads(self) -> frozenset[bytes]:
        """Request fields that decide which rules hold, of any site."""
        return frozenset().union(*(site.reads for site in self.all))

    @cached_property
    def cookies(self) -> frozenset[bytes]:
        """How the names of cookies that decide which rules hold begin, of any site."""
        names = frozenset[str]().union(*(site.cookies for site in self.all))
        return frozenset(UP_TO_A_WILDCARD.match(name)[0].encode() for name in names)  # type: ignore[index]

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Networks of clients that decide which rules hold, of any site."""
        tests = (test for site in self.all for rule in site.rules for test in rule.tests)
        return tuple(dict.fromkeys(network for test in tests for network in test.networks))
