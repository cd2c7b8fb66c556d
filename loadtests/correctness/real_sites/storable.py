"""What the origin's own fields allow a shared cache: worked out from RFC 9111 here, without asking the product.

The crawls send no Cookie, no Authorization, no Cache-Control and the same fields each time, so that a stored answer is
selected whatever its Vary names (RFC 9111 §4.1), `*` excepted.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from loadtests.correctness.real_sites.client import Answer
from loadtests.correctness.real_sites.rules import seconds

HEURISTIC_STATUS: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110 §15.1
HEURISTIC_SHARE: Final = 0.1  # RFC 9111 §4.2.2
MARGIN: Final = 3.0  # seconds; a life that ends about when it is asked for decides nothing

RULES: Final = (
    "may be a hit: an explicit lifetime (s-maxage, max-age, Expires), or for statuses that allow it a tenth of the "
    "time since Last-Modified, that is not over when the second crawl asks; no no-store, private, no-cache, Vary: *",
    "Set-Cookie: left out and counted as `kept out` (not stored by default)",
    "a hit where the origin forbids it or names no lifetime, or with Set-Cookie, is a DIFFERENCE",
)


class Allowed(Enum):
    """What the origin's fields say about a second request."""

    HIT = "it may be answered from a cache"
    POLICY = "kept out: it sets a cookie"
    EXPIRED = "its lifetime is over by then"
    NO_LIFETIME = "it names no lifetime, or must be validated"
    FORBIDDEN = "it may not be stored"


class Life(NamedTuple):
    """What is allowed, and the lifetime in seconds."""

    allowed: Allowed
    lifetime: float = 0.0


def directives(answer: Answer) -> dict[str, str]:
    """The directives of Cache-Control, names in lower case, quotes removed."""
    found: dict[str, str] = {}
    for match in re.finditer(r'([\w-]+)(?:\s*=\s*("[^"]*"|[^,\s]*))?', answer.field("cache-control") or ""):
        found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    return found


def allowed(answer: Answer, age: float) -> Life:
    """What the origin's answer to a GET allows when it is `age` seconds old."""
    control = directives(answer)
    if answer.failure or "no-store" in control or "private" in control or "*" in (answer.field("vary") or ""):
        return Life(Allowed.FORBIDDEN)
    if "no-cache" in control:
        return Life(Allowed.NO_LIFETIME)
    lifetime = _lifetime(answer, control)
    if not lifetime:
        return Life(Allowed.NO_LIFETIME)
    if answer.field("set-cookie") is not None:
        return Life(Allowed.POLICY, lifetime)
    return Life(Allowed.HIT if lifetime > age + MARGIN else Allowed.EXPIRED, lifetime)


def _lifetime(answer: Answer, control: dict[str, str]) -> float:
    """RFC 9111 §4.2.1 and §4.2.2, in seconds."""
    for name in ("s-maxage", "max-age"):
        if name in control:
            return float(control[name]) if control[name].isdigit() else 0.0
    date = seconds(answer.field("date")) or answer.received
    if answer.field("expires") is not None:
        return max(0.0, (seconds(answer.field("expires")) or 0.0) - date)
    modified = seconds(answer.field("last-modified"))
    if modified is None or (answer.status not in HEURISTIC_STATUS and "public" not in control):
        return 0.0
    return max(0.0, date - modified) * HEURISTIC_SHARE
