"""The content of a QUERY (RFC 10008) as part of its cache key.

Two contents have the same key only where no origin can distinguish them: they differ in white space between tokens of
JSON, or in the order of form fields whose names are all different and plain. All other contents, and any type that is
not listed here, are compared byte for byte. The request itself is forwarded unchanged.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Final

from edgecache.semantics.message import Framing, Request

QUERY: Final = b"QUERY"
LARGEST: Final = 64 * 1024  # bytes of a content that keys; larger ones pass to the origin
TOKENS: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\n\r]+', re.DOTALL)  # strings of JSON, or white space
UTF_8: Final = re.compile(rb'(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*', re.IGNORECASE)  # parameters of a type
FORM: Final = b"application/x-www-form-urlencoded"
PLAIN_NAME: Final = re.compile(rb"[A-Za-z0-9_-]+")
NOT_DESCRIBING: Final = b"content-length"


def with_content(request: Request, content: bytes) -> Request:
    """`request` with its `content`, by which its response may be stored and found."""
    return request._replace(content=content, framing=Framing(len(content)))


def content_digest(request: Request) -> bytes:
    """What the content of `request` is, and its media type, coding and all else that describes it. Injective."""
    fields, content = request.fields, request.content or b""
    described = sorted(
        (name, value)
        for name in fields.names()
        if name.startswith(b"content-") and name != NOT_DESCRIBING
        for value in fields.all(name)
    )
    if b"content-encoding" not in fields:
        content = normalised(content, fields.get(b"content-type") or b"")
    parts = [part for line in described for part in line] + [content]
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest().encode()


def normalised(content: bytes, content_type: bytes) -> bytes:
    """`content` in the one spelling of all that mean the same as its media type has it, if that is known."""
    kind, mark, parameters = content_type.partition(b";")
    kind = kind.strip(b" \t").lower()
    if not UTF_8.fullmatch(mark + parameters):
        return content
    if kind == b"application/json" or kind.endswith(b"+json"):
        return _without_white_space(content)
    return _sorted_form(content) if kind == FORM else content


def _without_white_space(content: bytes) -> bytes:
    """JSON without white space between its tokens.

    Members keep their order, which some origins heed; numbers and strings keep their spelling.
    """
    try:
        json.loads(content.decode(), parse_int=str, parse_float=str, parse_constant=_refused)
    except (ValueError, RecursionError):
        return content
    return TOKENS.sub(rb"\1", content)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _sorted_form(content: bytes) -> bytes:
    """Form fields by their names, where their order has no meaning: no name comes twice, in any case, or has parts."""
    pairs = content.split(b"&")
    names = [pair.partition(b"=")[0] for pair in pairs]
    if b";" in content or not all(map(PLAIN_NAME.fullmatch, names)):
        return content
    if len({name.lower() for name in names}) < len(names):
        return content
    return b"&".join([pair for _, pair in sorted(zip(names, pairs, strict=True))])
