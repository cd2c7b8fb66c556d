"""The POP's own member of `Cache-Status` (RFC 9211)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from edgecache.semantics.outcomes import Forward, Refused

KNOWN_HIT: Final = b"hit"  # a memory hit in the access log: its ttl is in the response head only


def hit(pop: bytes, ttl: float, detail: bytes = b"") -> bytes:
    """A stored response was used. `ttl` in seconds, negative once it is stale (RFC 9211 §2.5)."""
    return b"%s; hit; ttl=%d%s" % (pop, int(ttl), _detail(detail))


@lru_cache(maxsize=1024)
def forwarded(
    pop: bytes,
    why: Forward,
    *,
    status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    detail: bytes = b"",
    refused: Refused | None = None,
) -> bytes:
    """The request went towards the origin; `status` is what came back (RFC 9211 §2.2 to §2.8).

    `refused` is why the response is not stored: the detail, unless there is another.
    """
    hit_for_miss = why is Forward.HIT_FOR_MISS
    member = pop + b"; fwd=" + (Forward.BYPASS if hit_for_miss else why).value
    if hit_for_miss:
        detail = detail or why.value
    elif refused is not None:
        detail = detail or refused.value.encode()
    if status is not None:
        member += b"; fwd-status=%d" % status
    if stored:
        member += b"; stored"
    if collapsed:
        member += b"; collapsed"
    return member + _detail(detail)


def from_tier(pop: bytes, tier: bytes, why: Forward, *, collapsed: bool = False) -> bytes:
    """A hit in a further tier: its member first, then the POP's (RFC 9211 §2)."""
    return tier + b", " + forwarded(pop, why, collapsed=collapsed)


def _detail(detail: bytes) -> bytes:
    return b"; detail=" + detail if detail else b""
