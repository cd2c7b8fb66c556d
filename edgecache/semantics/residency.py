"""Residency: the jurisdiction that a response must stay in. Pure.

Every region belongs to one jurisdiction, and every client to that of the region that serves it. A response is fetched,
stored and forwarded within the client's jurisdiction only. A POP in another one forwards the request to a parent or
an origin of the right one, and stores nothing.
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
        """The jurisdiction of `request`: as the child POP declares it, else that of the client's region."""
        child = request.child
        if child is not None and child.jurisdiction:
            return child.jurisdiction
        region = request.place[-1][1].decode() if request.place else ""  # it comes last
        return self.of_regions.get(region, self.home)

    def of_region(self, region: str) -> str:
        """The jurisdiction of what is in `region`; empty if residency is not kept."""
        return self.of_regions.get(region, "")


def may_serve(jurisdiction: str, wanted: str) -> bool:
    """Whether an upstream in `jurisdiction` may serve requests that must stay in `wanted`; empty: any may."""
    return not wanted or jurisdiction == wanted
