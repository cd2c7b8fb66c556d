"""Residency: which jurisdiction an answer belongs to, and who may have it. Pure.

Every region belongs to one jurisdiction, and so does every client: to that of the region that serves it. An answer to a
client is stored, asked for and passed on within its jurisdiction only. A POP of another one passes the request on to
a parent or an origin of the right one, and stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from edgecache.semantics.message import Request

REASON: Final = "residency"  # why a request is refused that cannot be served within its jurisdiction


class Residency(NamedTuple):
    """The jurisdictions of all regions, by their names; none if residency is not kept."""

    of_regions: Mapping[str, str]
    home: str = ""  # of this POP

    def of(self, request: Request) -> str:
        """The jurisdiction that `request` is in: as the POP says that asks, else that of the client's region."""
        child = request.child
        if child is not None and child.jurisdiction:
            return child.jurisdiction
        region = request.place[-1][1].decode() if request.place else ""  # it comes last
        return self.of_regions.get(region, self.home)

    def of_region(self, region: str) -> str:
        """The jurisdiction of what is in `region`; empty if residency is not kept."""
        return self.of_regions.get(region, "")


def may_serve(jurisdiction: str, wanted: str) -> bool:
    """Whether who is of `jurisdiction` may be asked for what has to stay in `wanted`; empty: anybody may."""
    return not wanted or jurisdiction == wanted
