"""Access control by network and by country."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from edgecache.proxy.access.admission import GRANTED, AccessRefused, Asked, Grant
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS, Network, parsed_address

MOST_ADDRESSES: Final = 4096


class Networks:
    """Admits clients of some networks, or all but those of some; a client whose address is unknown is refused."""

    order = 1
    reads = CLIENT_ADDRESS_FIELDS

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._known: BoundedCache[str, bool] = BoundedCache(MOST_ADDRESSES)

    def admit(self, asked: Asked) -> Grant:
        """Admit by the client's address."""
        if not self.admits(asked.facts.client):
            raise AccessRefused(403, "network", "clients at this address may not read this")
        return Grant(by_address=self.admits)

    def admits(self, client: str) -> bool:
        """Whether the client at this address is admitted."""
        admitted = self._known.get(client)
        if admitted is None:
            admitted = self._decide(client)
            self._known.remember(client, admitted)
        return admitted

    def _decide(self, client: str) -> bool:
        address = parsed_address(client)
        if address is None or any(address in network for network in self._deny):
            return False
        return not self._allow or any(address in network for network in self._allow)


class Countries:
    """Admits clients of some countries, or all but those of some; with an allow list, an unknown country is refused."""

    order = 2
    reads: frozenset[bytes] = frozenset()  # the place of a client is a part of what a head is known by

    def __init__(self, allow: Iterable[str], deny: Iterable[str], unknown: Callable[[], None]) -> None:
        self._allow = frozenset(allow)
        self._deny = frozenset(deny)
        self._unknown = unknown  # counts

    def admit(self, asked: Asked) -> Grant:
        """Admit by the client's country."""
        country = asked.facts.country
        if not country:
            self._unknown()
        if country in self._deny or (self._allow and country not in self._allow):
            reason = "country" if country else "country-unknown"
            raise AccessRefused(403, reason, "clients of this country may not read this")
        return GRANTED
