"""How one POP proves to another that it is one: a request's head signed with a shared secret. Pure; not yet used.

    Edgecache-Pop: v1;NAME;SECONDS;SIGNATURE

The signature is HMAC-SHA256 over everything that the receiver acts on because of it: who asks, when, method, scheme,
site and target, each internal field, and the content of a QUERY. It holds for `WINDOW` seconds around the receiver's
clock, and only for requests that may be repeated at will (GET and HEAD without a body, QUERY): whoever replays one
within that time gets what the same bytes would have got anyway, and changes nothing.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from edgecache.semantics.message import FieldLine, Request
from edgecache.semantics.outcomes import Label

FIELD: Final = b"edgecache-pop"
INTERNAL_PREFIX: Final = b"edgecache-"
WINDOW: Final = 30  # seconds that two POPs' clocks, and the way, may differ
VALUE: Final = re.compile(rb"v1;([A-Za-z0-9._-]{1,64});([0-9]{1,12});([A-Za-z0-9_-]{43})")
REPEATABLE: Final = (b"GET", b"HEAD")


class Distrust(Label):
    """Why a request is not taken for another POP's."""

    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    METHOD = "method"  # it is no GET or HEAD, or has a body, and is no QUERY whose content is here
    EXPIRED = "expired"  # it was signed too long ago, or the clocks differ
    FORGED = "forged"  # the signature is not that of any secret, for this request


def signature_line(secret: bytes, pop: bytes, now: float, request: Request, internal: Iterable[FieldLine]) -> FieldLine:
    """The field that proves at `now`, in epoch seconds, that `pop` asks `request`, with its `internal` fields."""
    seconds = b"%d" % now
    return b"Edgecache-Pop", b"v1;%b;%b;%b" % (pop, seconds, _signature(secret, pop, seconds, request, internal))


def verified_pop(secrets: Sequence[bytes], now: float, request: Request) -> bytes | Distrust:
    """The name of the POP that asks `request`, by one of `secrets` (several while they are changed), or why none does.

    To be asked of the request as received, before anything is taken from its internal fields.
    """
    value = request.fields.get(FIELD)
    if value is None:
        return Distrust.UNSIGNED
    match = VALUE.fullmatch(value)  # two such fields are joined by a comma, which it does not match
    if match is None:
        return Distrust.MALFORMED
    pop, seconds, signature = match.groups()
    if request.content is None and (request.method not in REPEATABLE or request.framing.length != 0):
        return Distrust.METHOD
    internal = [line for line in request.fields if _is_internal(line[0])]
    expected = [_signature(secret, pop, seconds, request, internal) for secret in secrets if secret]
    if not any(hmac.compare_digest(signature, own) for own in expected):
        return Distrust.FORGED
    return pop if abs(now - int(seconds)) <= WINDOW else Distrust.EXPIRED


def _is_internal(name: bytes) -> bool:
    lower = name.lower()
    return lower.startswith(INTERNAL_PREFIX) and lower != FIELD


def _signature(secret: bytes, pop: bytes, seconds: bytes, request: Request, internal: Iterable[FieldLine]) -> bytes:
    fields = sorted((name.lower(), value) for name, value in internal)
    parts = [b"edgecache-pop-v1", pop, seconds, request.method, request.scheme, request.host, request.target]
    for line in fields:
        parts += line
    if request.content is not None:
        parts.append(b"content " + sha256(request.content).digest())
    message = b"".join([b"%d:%b" % (len(part), part) for part in parts])  # no part can run into the next
    return urlsafe_b64encode(hmac.digest(secret, message, sha256)).rstrip(b"=")
