"""Reduction of `Accept-Encoding` to the codings that a site uses (RFC 9110 §12.5.3, RFC 9111 §4.1). Pure.

Clients send a handful of values, and most sites have two or three representations. Once the codings used by a site's
responses are known, a value is reduced to those of them that it accepts, and to whether it refuses `identity`. The
selecting value of a stored response always names the response's own codings, so that no client gets a coding that it
does not accept.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

ACCEPT_ENCODING: Final = b"accept-encoding"
READS: Final = frozenset((ACCEPT_ENCODING,))
IDENTITY: Final = b"identity"
OTHERS: Final = b"others"  # codings that no response has used yet
REFUSED: Final = b"!"  # before the name of a coding that is not acceptable
BLOCK: Final = re.compile(rb"(?i)(?:\A|(?<=\n))content-encoding:[ \t]*([^\r]*)")

Codings = frozenset[bytes]
Values = tuple[bytes | None, ...]


def codings_in(value: bytes | None) -> Codings:
    """The codings that `Content-Encoding` names (RFC 9110 §8.4)."""
    if value is None:
        return frozenset()
    names = [name.strip(b" \t").lower().removeprefix(b"x-") for name in value.split(b",")]  # §8.4.1: x-gzip is gzip
    return frozenset(names) - {b"", IDENTITY}


def codings_in_block(block: bytes) -> Codings:
    """The same of a head's field lines."""
    return codings_in(b",".join(BLOCK.findall(block)))


def accepts(normal: bytes | None, codings: Codings) -> bool:
    """Whether a request with this Accept-Encoding, normalised, accepts content in `codings`; None accepts any."""
    if normal is None or not codings:
        return True
    members = frozenset(normal.split(b","))
    return all(_accepts(members, coding) for coding in codings)


def _accepts(members: Codings, coding: bytes) -> bool:
    return coding in members or (b"*" in members and REFUSED + coding not in members)


@lru_cache(maxsize=4096)
def reduced(normal: bytes, used: Codings) -> bytes:
    """A normalised Accept-Encoding as far as it matters where answers have used the codings `used`."""
    members = frozenset(normal.split(b","))
    accepted = sorted(coding for coding in used if _accepts(members, coding))
    if not accepted:
        accepted = [OTHERS if any(name[:1] != REFUSED for name in members - {IDENTITY}) else IDENTITY]
    if REFUSED + IDENTITY in members:
        accepted.insert(0, REFUSED + IDENTITY)
    return b",".join(accepted)


def keyed(names: tuple[bytes, ...], values: Values, used: Codings | None) -> Values:
    """Selecting values as they part variants; `used` None: it is not known what answers have used."""
    if used is None or ACCEPT_ENCODING not in names:
        return values
    return keyed_at(names.index(ACCEPT_ENCODING), values, used)


def keyed_at(at: int, values: Values, used: Codings) -> Values:
    """The same where it is known at which place Accept-Encoding is."""
    value = values[at]
    if value is None:
        return values
    one = (reduced(value, used),)
    return one if len(values) == 1 else values[:at] + one + values[at + 1 :]


def keyed_under(names: tuple[bytes, ...], values: Values, used: Codings | None, codings: Codings) -> Values:
    """The same of a stored response in `codings`, which was made for these values."""
    return keyed(names, values, None if used is None else used | codings)
