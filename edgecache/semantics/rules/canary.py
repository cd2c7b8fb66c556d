"""The clients that a canary sends to its pool: a cookie has one of a thousand numbers, and the lowest are its share.

The numbers identify no client, and a client keeps its number while the share grows: a client in a small share is also
in a larger one.
"""

from __future__ import annotations

from typing import Final

from edgecache.semantics.rules.actions import Canary
from edgecache.semantics.rules.conditions import RequestFacts

NUMBERS: Final = 1000
LASTS: Final = 30 * 86400  # seconds


def number_of(facts: RequestFacts, canary: Canary) -> int | None:
    """The number in the client's cookie; None if it has none that this proxy gave it."""
    for value in facts.cookies.get(canary.cookie.decode(), ()):
        if value.isdigit() and len(value) <= 3:
            return int(value)
    return None


def is_in_share(number: int, canary: Canary) -> bool:
    """Whether a client with that number goes to the canary."""
    return number < canary.share * NUMBERS


def cookie_line(number: int, canary: Canary, scheme: bytes) -> bytes:
    """The field that gives a client its number (RFC 6265 §4.1)."""
    secure = b"; Secure" if scheme == b"https" else b""
    words = (canary.cookie, number, LASTS, secure)
    return b"Set-Cookie: %b=%d; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b\r\n" % words
