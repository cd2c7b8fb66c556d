"""The part of a cache key that rules make."""

from __future__ import annotations

import re
from typing import Final

from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.policy import RequestPolicy

MOBILE: Final = re.compile(rb"Mobi|iPhone|iPod|Windows Phone|Opera Mini|IEMobile")
TABLET: Final = re.compile(rb"iPad|Tablet|Kindle|Silk/|PlayBook")


def key_part(policy: RequestPolicy, facts: RequestFacts) -> bytes:
    """What of a request its policy adds to the cache key; empty where that is the URL alone. Injective."""
    key = policy.actions.key
    parts = [policy.group] if policy.group else []
    fields = facts.request.fields
    parts += [_written(b"h", name, fields.all(name) if name in fields else None) for name in key.headers]
    parts += [_written(b"c", name.encode("latin-1"), facts.cookies.get(name)) for name in key.cookies]
    if key.country:
        parts.append(_written(b"g", b"", [facts.country.encode()]))
    if key.device:
        parts.append(_written(b"d", b"", [device_of(fields.get(b"user-agent") or b"")]))
    return b"\n".join(parts)


def _written(kind: bytes, name: bytes, values: list[bytes] | None) -> bytes:
    """One member, with lengths, so that no two lists of members are written alike."""
    if values is None:
        return b"%b%d:%b-" % (kind, len(name), name)
    listed = b"".join([b"%d:%b" % (len(value), value) for value in values])
    return b"%b%d:%b=%d,%b" % (kind, len(name), name, len(values), listed)


def device_of(agent: bytes) -> bytes:
    """The class of a device by its User-Agent: mobile, tablet or desktop."""
    if TABLET.search(agent) or (b"Android" in agent and b"Mobile" not in agent):
        return b"tablet"
    return b"mobile" if MOBILE.search(agent) else b"desktop"
