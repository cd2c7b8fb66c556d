"""Forwarding of messages by a gateway (RFC 9110 §7.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edgecache.semantics import uri
from edgecache.semantics.client_claims import (
    ADDRESSES,
    OVERRIDE_FAMILIES,
    OVERRIDES,
    is_claim,
    is_never_cached,
    is_override,
)
from edgecache.semantics.message import FieldLine, Fields, Request
from edgecache.semantics.stored_response import HOP_BY_HOP
from edgecache.semantics.vary import is_malformed_codings

FORWARDED: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))
CHAINS: Final = frozenset((b"forwarded", b"x-forwarded-for"))  # a trusted proxy's are kept, and appended to
NAMED_HOST: Final = re.compile(rb"(?i)(?:[;,][ \t]*)?\bhost[ \t]*=[ \t]*(?:\"[^\"]*\"|[^;, \t]*)")
NAMED_SCHEME: Final = re.compile(rb"(?i)(?:^|[;,])[ \t]*proto=\"?(https?)\"?[ \t]*(?=[;,]|\Z)")
OURS: Final = frozenset((b"host", b"content-length", b"via", b"cdn-loop", b"max-forwards"))
INTERNAL_PREFIX: Final = b"edgecache-"
PREFIXES: Final = (  # families of these, whatever else they are called, are for servers only
    INTERNAL_PREFIX,
    *(b"x-forward", b"x-envoy-", b"x-middleware-", b"x-invoke-", b"x-accel-"),
)
NOT_IN_A_NAME: Final = re.compile(rb"[^0-9a-z-]")
ACTED_ON: Final = frozenset(  # further fields that decide target, framing and authorization
    b"transfer-encoding content-length content-type content-encoding content-range accept-encoding accept-language "
    b"cache-control if-match if-none-match if-modified-since if-unmodified-since if-range fastly-key".split()
)
DISGUISES: Final = FORWARDED | OURS | HOP_BY_HOP | ACTED_ON
NOT_PASSED_ON: Final = OURS | FORWARDED | {b"proxy"}  # CVE-2016-5385: it is HTTP_PROXY to CGI
NEVER_FORWARDED: Final = NOT_PASSED_ON | ADDRESSES | OVERRIDES  # unkeyed, and could change the response
ASKING_FAMILIES: Final = (*PREFIXES, *OVERRIDE_FAMILIES)
SCHEMES: Final = frozenset((b"http", b"https"))
SCHEME_FIELDS: Final = frozenset((b"x-forwarded-proto", b"forwarded"))
LIMIT_FIELDS: Final = frozenset((b"cdn-loop", b"max-forwards"))
MOST_FORWARDS: Final = 999
CONTENT_LENGTH: Final = frozenset((b"content-length",))


@dataclass(frozen=True, slots=True)
class Gateway:
    """This gateway's identity to the origin. `host` replaces the client's Host; empty keeps it."""

    pop: bytes
    host: bytes = b""
    forwarded: bool = True


def loops(request: Request, pop: bytes) -> bool:
    """Whether this POP has already forwarded this request (RFC 8586 §2)."""
    value = request.fields.get(b"cdn-loop")
    return value is not None and any(member.partition(b";")[0].strip(b" \t") == pop for member in value.split(b","))


def as_forwarded(request: Request) -> Request:
    """`request` of a trusted proxy, with the client's scheme as the proxy names it.

    The scheme is part of the cache key: a response to `http`, such as a redirect to `https`, must not answer `https`.
    """
    said = request.fields.get(b"x-forwarded-proto")
    if said is not None:
        scheme = said.rpartition(b",")[2].strip(b" \t").lower()
    else:
        named = NAMED_SCHEME.findall(request.fields.get(b"forwarded") or b"")
        scheme = named[-1].lower() if named else request.scheme
    return under_scheme(request, scheme) if scheme in SCHEMES else request


def under_scheme(request: Request, scheme: bytes) -> Request:
    """`request` under another scheme, whose default port is not part of the site (RFC 9110 §4.2.3)."""
    if scheme == request.scheme:
        return request
    return request._replace(scheme=scheme, host=uri.under_scheme(request.host, scheme))


def is_disguised(name: bytes) -> bool:
    """Whether an origin that maps field names as CGI does (RFC 3875 §4.1.18) would read another field.

    There `_` is `-`; what else is no letter or digit may be too: `X.Forwarded.Host` (lighttpd).
    """
    if b"_" in name:
        return True
    lower = name.lower()
    plain = NOT_IN_A_NAME.sub(b"-", lower)
    if plain == lower:
        return False
    return plain in DISGUISES or plain.startswith(PREFIXES) or is_claim(plain) or is_override(plain)


def no_forwards_left(request: Request) -> bool:
    """Whether a TRACE or OPTIONS has to be answered here (RFC 9110 §7.6.2)."""
    hops = request.fields.get(b"max-forwards")
    if not hops or request.method not in (b"TRACE", b"OPTIONS"):
        return False
    return not hops.strip(b"0")


def upstream_lines(
    request: Request, fields: Fields, gateway: Gateway, client: str, *, trusted: bool = False
) -> list[FieldLine]:
    """The field lines of the request to the origin, made of `fields` (the request's, perhaps made conditional)."""
    at_stake = is_never_cached(request)
    drop, families = (NEVER_FORWARDED, ASKING_FAMILIES) if at_stake else (NOT_PASSED_ON, PREFIXES)
    if is_malformed_codings(fields.get(b"accept-encoding")):
        drop |= {b"accept-encoding"}
    if b"expect" in fields and request.framing.length == 0:  # RFC 9110 §10.1.1: it means nothing
        drop |= {b"expect"}
    lines: list[FieldLine] = [(b"Host", gateway.host or request.host)]
    for line in fields:
        name = line[0].lower()
        if name not in drop and (not name.startswith(families) or name in request.claims):
            lines.append(line)
        elif trusted and name in CHAINS:  # what it says of the host is not in the key, so the origin does not hear it
            lines.append((line[0], NAMED_HOST.sub(b"", line[1])))
    lines += request.place
    if (hops := fields.get(b"max-forwards")) is not None and request.method in (b"TRACE", b"OPTIONS"):
        lines.append((b"Max-Forwards", _one_less(hops)))
    received = b"%b %b" % (request.version.encode(), gateway.pop)
    lines.append((b"Via", _appended(fields.get(b"via"), received)))  # RFC 9110 §7.6.3
    lines.append((b"CDN-Loop", _appended(fields.get(b"cdn-loop"), gateway.pop)))  # RFC 8586 §2
    if gateway.forwarded:
        lines += _forwarded_lines(request, client)
    return lines


def downstream_lines(fields: Fields, hidden: frozenset[bytes] = frozenset()) -> list[FieldLine]:
    """The lines of a response's `fields` that go to the client: neither `hidden` nor between POPs.

    Content-Length is not among them: the length is said anew (RFC 9110 §8.6).
    """
    drop = CONTENT_LENGTH | hidden
    return [line for line in fields.lines if (name := line[0].lower()) not in drop and name[:10] != INTERNAL_PREFIX]


def _one_less(hops: bytes) -> bytes:
    """`Max-Forwards`, decremented; larger values are capped (RFC 9110 §7.6.2)."""
    if not hops.isdigit():
        return hops
    return b"%d" % (int(hops) - 1 if len(hops) < 4 else MOST_FORWARDS)


def _appended(before: bytes | None, member: bytes) -> bytes:
    return member if before is None else before + b", " + member


def _forwarded_lines(request: Request, client: str) -> list[FieldLine]:
    """Forwarded (RFC 7239) and the X-Forwarded-* fields."""
    address = client.encode()
    node = b'"[%b]"' % address if ":" in client else address or b"unknown"
    host = b'"%b"' % request.host if b":" in request.host else request.host
    return [
        (b"Forwarded", b"for=%b;host=%b;proto=%b" % (node, host, request.scheme)),
        (b"X-Forwarded-For", address),
        (b"X-Forwarded-Host", request.host),
        (b"X-Forwarded-Proto", request.scheme),
    ]


__all__ = [
    "HOP_BY_HOP",
    "Gateway",
    "loops",
    "no_forwards_left",
    "upstream_lines",
]
