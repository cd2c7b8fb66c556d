"""Selecting a stored response by `Vary` (RFC 9111 §4.1), with the request's values normalised.

Two requests whose normalised values are equal would get the same response: white space around commas means nothing,
the order of equally wanted languages or codings means nothing. A malformed Accept-Encoding is taken as `identity`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from edgecache.rules.memo import memo
from edgecache.rules.message import Fields

VARY_STAR: Final = b"*"
MEMBER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?))?")
MAX_MEMBERS: Final = 64
LONGEST_REMEMBERED: Final = 512  # bytes of a value: clients choose them


@memo(1024)
def _names(value: bytes | None) -> tuple[bytes, ...]:
    if value is None:
        return ()
    names = {name.strip(b" \t").lower() for name in value.split(b",")} - {b""}
    return (VARY_STAR,) if VARY_STAR in names else tuple(sorted(names))


def vary_names(fields: Fields) -> tuple[bytes, ...]:
    """The lower-case field names that a response's `Vary` nominates, sorted; `("*",)` if it holds a star."""
    return _names(fields.get(b"vary"))


def selecting_values(names: tuple[bytes, ...], fields: Fields) -> tuple[bytes | None, ...]:
    """The request's normalised values of the nominated fields; None where a field is absent."""
    return tuple([_selecting(name, fields.get(name)) for name in names])


def suits(vary: tuple[bytes, ...], selecting: tuple[bytes | None, ...], fields: Fields) -> bool:
    """Whether a response that varies by `vary`, made for `selecting`, suits a request with `fields` (§4.1)."""
    return not vary or selecting_values(vary, fields) == selecting


def _selecting(name: bytes, value: bytes | None) -> bytes | None:
    if value is None:
        return None
    return _normal(name, value) if len(value) <= LONGEST_REMEMBERED else _normal.__wrapped__(name, value)


@lru_cache(maxsize=4096)
def _normal(name: bytes, value: bytes) -> bytes:
    if name == b"accept-encoding":
        return _normal_codings(value)
    if name == b"accept-language":
        return _normal_preferences(value)
    return value if b'"' in value else b",".join([part.strip(b" \t") for part in value.split(b",")])


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
    """Whether an Accept-Encoding cannot be read: then it is not sent on, so that the answer suits everybody."""
    return value is not None and _members(value) is None


def _normal_codings(value: bytes) -> bytes:
    """The content codings that are acceptable, in the order of the alphabet: any of them suits the client."""
    members = _members(value)
    if members is None:
        return b"identity"
    names = {name.removeprefix(b"x-") for name, weight in members if weight > 0}
    refused = {b"!" + name for name, weight in members if weight == 0 and name in (b"identity", b"*")}
    return b",".join(sorted(names - {b"identity"} | refused)) or b"identity"


def _normal_preferences(value: bytes) -> bytes:
    members = _members(value)
    if members is None:
        return value
    ordered = sorted((-weight, name) for name, weight in members)
    return b",".join(b"%s;q=%.3f" % (name, -weight) for weight, name in ordered)


def preferred_language(accept_language: bytes | None) -> bytes | None:
    """The one language that the client wants above all others, or None if there is none."""
    members = _members(accept_language or b"")
    if not members:
        return None
    best = max(weight for _, weight in members)
    wanted = [name for name, weight in members if weight == best]
    return wanted[0] if len(wanted) == 1 and wanted[0] != b"*" and best > 0 else None
