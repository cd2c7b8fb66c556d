"""Presets of response fields that make browsers protect a site. Pure.

`basic` adds fields that break hardly any site, and does not change fields of the origin. `strict` adds all fields, and
replaces those with few possible values. Policies of the origin are made for its own pages, with their nonces and
partners: they are kept.
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
FRAME: Final[FieldLine] = (b"X-Frame-Options", b"DENY")
STRICT: Final[tuple[FieldLine, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    FRAME,
    (b"X-Permitted-Cross-Domain-Policies", b"none"),
    (b"Content-Security-Policy", b"default-src 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
)
REPLACED: Final = frozenset((b"x-content-type-options", b"x-frame-options", b"x-permitted-cross-domain-policies"))
FRAMES: Final = b"frame-ancestors"  # CSP Level 3 §6.4.2: it is obeyed in the stead of X-Frame-Options
HSTS: Final[FieldLine] = (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains")


def with_security_headers(fields: Fields, preset: Preset | None, scheme: bytes) -> Fields:
    """`fields` of a response with those of the preset; HSTS over https only (RFC 6797 §7.2)."""
    if preset == "basic":
        return fields.plus(*(line for line in BASIC if line[0].lower() not in fields))
    if preset != "strict":
        return fields
    lines = (*STRICT, HSTS) if scheme == b"https" else STRICT
    has_frames = any(FRAMES in policy.lower() for policy in fields.all(b"content-security-policy"))
    kept = fields.names() - (REPLACED - {b"x-frame-options"} if has_frames else REPLACED)
    less = fields.without(REPLACED - kept)
    return less.plus(*(line for line in lines if line[0].lower() not in kept and not (has_frames and line is FRAME)))
