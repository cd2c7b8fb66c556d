"""Selecting a stored response by `Vary` (RFC 9111 §4.1), with the request's values normalised.

Two requests whose normalised values are equal would get the same response: white space around the commas of a list
means nothing, the order of equally wanted languages or codings means nothing. Only what is known to be a list is read
as one; all other values are compared byte by byte. A malformed Accept-Encoding is taken as `identity`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from edgecache.semantics.memoize import LONGEST, memoize
from edgecache.semantics.message import Fields

VARY_STAR: Final = b"*"
NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.1
MOST_NAMES: Final = 64  # of one Vary: every request would be compared by each
LISTS: Final = frozenset(  # whose definitions make them lists (RFC 9110 §5.6.1)
    b"accept accept-charset accept-encoding accept-language access-control-request-headers cache-control prefer "
    b"te".split()
)
LISTED: Final = b","  # ends the nominated name of a field that is a list because the operator says so
MEMBER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?))?")
MAX_MEMBERS: Final = 64


@memoize(1024)
def _names(value: bytes) -> tuple[bytes, ...]:
    names = {name.strip(b" \t").lower() for name in value.split(b",")} - {b""}
    unreadable = len(names) > MOST_NAMES or not all(NAME.fullmatch(name) for name in names)
    return (VARY_STAR,) if VARY_STAR in names or unreadable else tuple(sorted(names))


def vary_names(fields: Fields, lists: frozenset[bytes] = frozenset()) -> tuple[bytes, ...]:
    """The lower-case field names that a response's `Vary` nominates, sorted; `("*",)` if it holds a star.

    Those that are lists because they are among `lists` end in a comma, which no other name does.

    So it is if it holds what is no field name (`Cookie; Accept`): no request has that field, and all would match.
    """
    value = fields.get(b"vary")
    names = () if value is None else _names(value)
    if lists.isdisjoint(names):
        return names
    return tuple([name + LISTED if name in lists - LISTS else name for name in names])


def nominated(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The field names, without the list marks of `vary_names`."""
    return tuple([name.removesuffix(LISTED) for name in names])


def selecting_values(names: tuple[bytes, ...], fields: Fields) -> tuple[bytes | None, ...]:
    """The request's normalised values of the nominated fields; None where a field is absent."""
    return tuple([_selecting(name, fields.get(name.removesuffix(LISTED))) for name in names])


def _selecting(name: bytes, value: bytes | None) -> bytes | None:
    if value is None:
        return None
    return _normal(name, value) if len(value) <= LONGEST else _normal.__wrapped__(name, value)


@lru_cache(maxsize=4096)
def _normal(name: bytes, value: bytes) -> bytes:
    if name == b"accept-encoding":
        return _normal_codings(value)
    if name == b"accept-language":
        return _normal_preferences(value)
    if b'"' in value or not (name in LISTS or name.endswith(LISTED)):
        return value
    return b",".join([part.strip(b" \t") for part in value.split(b",")])


def _members(value: bytes) -> list[tuple[bytes, float]] | None:
    """The members of a list of preferences with their weights (RFC 9110 §12.4.2), or None if one is malformed."""
    members = []
    parts = value.lower().split(b",", MAX_MEMBERS)
    if len(parts) > MAX_MEMBERS:
        return None
    for part in parts:
        text = part.strip(b" \t")
        if not text:
            continue
        match = MEMBER.fullmatch(text)
        if match is None:
            return None
        members.append((match[1], min(1.0, float(match[2] or b"1"))))
    return members


def is_malformed_codings(value: bytes | None) -> bool:
    """Whether Accept-Encoding is malformed; it is then not forwarded, so that every client can read the response."""
    return value is not None and _members(value) is None


def weighted_codings(value: bytes) -> dict[bytes, float] | None:
    """The weights of the codings that an Accept-Encoding names (RFC 9110 §12.5.3); None if it is malformed."""
    members = _members(value)
    return None if members is None else {name.removeprefix(b"x-"): weight for name, weight in members}


def _normal_codings(value: bytes) -> bytes:
    """The acceptable content codings in alphabetical order."""
    members = _members(value)
    if members is None:
        return b"identity"
    names = {name.removeprefix(b"x-") for name, weight in members if weight > 0}
    refusing = {name.removeprefix(b"x-") for name, weight in members if weight == 0}
    refused = {b"!" + name for name in refusing - {b"*"}} if b"*" in names else set()  # else it refuses the others
    if b"identity" in refusing or (b"*" in refusing and b"identity" not in names):  # RFC 9110 §12.5.3
        refused.add(b"!identity")
    return b",".join(sorted(names - {b"identity"} | refused)) or b"identity"


def _normal_preferences(value: bytes) -> bytes:
    members = _members(value)
    if members is None:
        return value
    ordered = sorted((-weight, name) for name, weight in members)
    return b",".join(b"%s;q=%.3f" % (name, -weight) for weight, name in ordered)


def preferred_language(accept_language: bytes | None) -> bytes | None:
    """The language with the highest weight; None if there is none, or several."""
    members = _members(accept_language or b"")
    if not members:
        return None
    best = max(weight for _, weight in members)
    wanted = [name for name, weight in members if weight == best]
    return wanted[0] if len(wanted) == 1 and wanted[0] != b"*" and best > 0 else None
