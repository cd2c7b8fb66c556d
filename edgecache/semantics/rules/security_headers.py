"""Presets of response fields that have browsers protect a site. Pure.

`basic` adds what breaks hardly any site, and leaves alone what the origin sets. `strict` sets all of its fields,
whatever the origin says.
"""

from __future__ import annotations

from typing import Final, Literal

from edgecache.semantics.message import FieldLine, Fields

Preset = Literal["off", "basic", "strict"]
BASIC: Final[tuple[FieldLine, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"strict-origin-when-cross-origin"),
    (b"X-Frame-Options", b"SAMEORIGIN"),
    (b"X-Permitted-Cross-Domain-Policies", b"none"),
)
STRICT: Final[tuple[FieldLine, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Frame-Options", b"DENY"),
    (b"X-Permitted-Cross-Domain-Policies", b"none"),
    (b"Content-Security-Policy", b"default-src 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
)
HSTS: Final[FieldLine] = (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains")


def with_security_headers(fields: Fields, preset: Preset | None, scheme: bytes) -> Fields:
    """`fields` of a response with those of the preset; HSTS over https only (RFC 6797 §7.2)."""
    if preset == "basic":
        return fields.plus(*(line for line in BASIC if line[0].lower() not in fields))
    if preset == "strict":
        lines = (*STRICT, HSTS) if scheme == b"https" else STRICT
        return fields.without(frozenset(name.lower() for name, _ in lines)).plus(*lines)
    return fields
