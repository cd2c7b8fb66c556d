"""Shares of sites in the memory of a worker: one budget, and separate queues for each site with a share.

While memory is free, a site can use as much as it needs. Eviction takes first from sites above their shares, then
from sites without a share, and from a site within its share only if no other site holds anything. So a site with a
share keeps it whatever others store, and beyond it evicts nothing of theirs, except for its last response.

A hit costs the same as without shares: it marks the node in the one dict of all. Storing and evicting look up the
site of a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecache.semantics.rules.directory import Sites
    from edgecache.storage.eviction import EvictionPolicy

Queues = Any  # an `EvictionPolicy` whose queues, and whose count of bytes, are those of one site


class SiteShares:
    """The sites that have shares. Mutable state: the queues of each, and which are above their share."""

    def __init__(self, whole: EvictionPolicy[Any, Any], sites: Sites) -> None:
        self._whole: Queues = whole
        self._sites = sites
        self._shares = {site.name: site.memory_share for site in sites.all if site.memory_share is not None}
        self._parts: dict[str, Queues] = {name: self._new_part() for name in self._shares}
        self._above: dict[int, Queues] = {}  # by identity
        self.rest = 0  # bytes of sites that have no share
        self.limit(whole.maxsize)

    def _new_part(self) -> Queues:
        part: Queues = type(self._whole)(0)
        part._nodes = self._whole._nodes
        return part

    def limit(self, maxsize: int) -> None:
        """Follow the budget, in bytes."""
        for name, part in self._parts.items():
            part.set_budget(int(self._shares[name] * maxsize))
            self._note(part)

    def part_of(self, key: Any) -> Queues:
        """The queues that have `key`, or would have it."""
        site = self._sites.site_of(key.partition(b"://")[2].partition(b"/")[0])
        return self._whole if site is None else self._parts.get(site.name, self._whole)

    def grown(self, key: Any, growth: int) -> Queues:
        """Count `growth` bytes more of the site of `key`, or less; its queues."""
        part = self.part_of(key)
        if part is self._whole:
            self.rest += growth
        else:
            part._used += growth
            self._note(part)
        return part

    def _note(self, part: Queues) -> None:
        if part.currsize > part.maxsize:
            self._above[id(part)] = part
        else:
            self._above.pop(id(part), None)

    def victim(self) -> Any:
        """The node to evict next."""
        if self._above:
            return next(iter(self._above.values()))._victim()
        if self.rest:
            return self._whole._victim()
        fullest = max(self._parts.values(), key=lambda part: part.currsize / (part.maxsize or 1))
        return fullest._victim()


def share_out(whole: EvictionPolicy[Any, Any], sites: Sites | None) -> None:
    """Have `sites` hold their shares from now on, if any has one; what is stored stays."""
    shared = sites is not None and any(site.memory_share is not None for site in sites.all)
    if shared or whole.shares is not None:
        nodes = whole.unqueued()
        whole.shares = SiteShares(whole, sites) if shared and sites is not None else None
        whole.queue_again(nodes)
