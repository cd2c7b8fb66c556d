"""Which tier an answer came from, by its Cache-Status (RFC 9211). Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

MEMORY: Final = "edge memory"
REGIONAL: Final = "edge regional"
PARENT: Final = "parent"  # what a farther POP had, in its memory or its region
SHARED: Final = "origin, shared"  # one question to the origin for several requests, of which this was not the first
ORIGIN: Final = "origin"
NONE: Final = "no Cache-Status"
TIERS: Final = (MEMORY, REGIONAL, PARENT, SHARED, ORIGIN, NONE)
REGIONAL_NAME: Final = "/regional"  # how the member of a regional tier ends its name


@lru_cache(maxsize=8192)
def tier_of(cache_status: str) -> str:
    """The tier that answered: the hit nearest to the client; members come in order, the client's edge last (§2)."""
    members = [member.strip() for member in cache_status.split(",") if member.strip()]
    if not members:
        return NONE
    if _is_hit(members[-1]):
        return MEMORY
    for distance, member in enumerate(reversed(members[:-1])):
        if _is_hit(member):
            return REGIONAL if distance == 0 and _name(member).endswith(REGIONAL_NAME) else PARENT
    return SHARED if "collapsed" in _parameters(members[-1]) else ORIGIN


def _name(member: str) -> str:
    return member.partition(";")[0].strip()


def _parameters(member: str) -> list[str]:
    return [parameter.strip() for parameter in member.split(";")[1:]]


def _is_hit(member: str) -> bool:
    return "hit" in _parameters(member)
