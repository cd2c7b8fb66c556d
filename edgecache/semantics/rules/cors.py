"""Cross-origin resource sharing (Fetch §3.2) as configured by a rule. Pure.

Stored responses are shared by all origins, and each response gets the fields of its own request: the origin that is
allowed is a part of the policy of a request (`RequestPolicy.allowed_origin`), not of what is stored.
"""

from __future__ import annotations

import re
from typing import Final

from edgecache.semantics.message import FieldLine, Fields, Request, members
from edgecache.semantics.rules.actions import Cors

ANY: Final = b"*"
ORIGIN: Final = re.compile(rb"[a-z][a-z0-9+.-]*://(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
OWN: Final = frozenset(  # fields of responses that are no preflight's
    (b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers")
)
VARY_BY_ORIGIN: Final = (b"Vary", b"Origin")


def allowed_origin(cors: Cors, origin: bytes | None) -> bytes:
    """The value of Access-Control-Allow-Origin for a request with this Origin; empty: none."""
    if cors.origins is None:
        return ANY
    if origin is None or ORIGIN.fullmatch(origin) is None:  # `null` is the origin of any sandboxed document
        return b""
    return origin if cors.origins(origin) else b""


def is_preflight(request: Request) -> bool:
    """Whether `request` is a CORS-preflight request (Fetch §3.2.2)."""
    fields = request.fields
    return request.method == b"OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields


def preflight_lines(cors: Cors) -> list[FieldLine]:
    """The fields that only the response to a preflight has."""
    lines = [(b"Access-Control-Allow-Methods", b", ".join(cors.methods))]
    if cors.headers:
        lines.append((b"Access-Control-Allow-Headers", b", ".join(cors.headers)))
    return [*lines, (b"Access-Control-Max-Age", b"%d" % cors.max_age)]


def with_cors(fields: Fields, cors: Cors, allowed: bytes) -> Fields:
    """`fields` of a response with those of CORS; what the origin server says in their stead is dropped."""
    lines: list[FieldLine] = []
    if allowed:
        lines.append((b"Access-Control-Allow-Origin", allowed))
        if cors.credentials:
            lines.append((b"Access-Control-Allow-Credentials", b"true"))
        if cors.expose:
            lines.append((b"Access-Control-Expose-Headers", b", ".join(cors.expose)))
    if cors.origins is not None and not {b"origin", b"*"} & set(members(fields.get(b"vary"))):
        lines.append(VARY_BY_ORIGIN)  # whatever this one's origin is (Fetch §3.2.5)
    return fields.without(OWN).plus(*lines)
