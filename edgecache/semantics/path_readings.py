"""The paths that an origin may derive from one path: rules that protect must apply to each of them.

Servers differ in what they decode, merge and cut off before they look up a path: `/x/..%2fadmin`, `//admin`,
`/admin;x`, `/x\\..\\admin` and `/ADMIN` all reach `/admin` somewhere. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from edgecache.semantics import uri

PLAIN: Final = re.compile(rb"(?:/[a-z0-9_~!$&'()*+,=:@-][a-z0-9._~!$&'()*+,=:@-]*)*/?")
LONGEST: Final = 1024  # bytes of a path with more than one reading
ROUNDS: Final = 3  # of decoding: some servers decode twice
SLASHES: Final = re.compile(rb"//+")
UNICODE: Final = re.compile(rb"(?i)%u00([0-9a-f]{2})")  # an escape of IIS
OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]")  # invalid UTF-8 (RFC 3629 §3), as in CVE-2008-2938
OF_SEGMENT: Final = re.compile(rb";[^/]*")  # parameters of a segment (RFC 3986 §3.3)


def is_too_long(target: bytes) -> bool:
    """Whether the path of `target` is too long for its readings to be worked out."""
    path = target.partition(b"?")[0]
    return len(path) > LONGEST and not PLAIN.fullmatch(path)


def readings(target: bytes, *, fold: bool = False) -> list[bytes]:
    """Other paths, normalised, that the path of `target` may be taken for; with `fold`, whatever its case."""
    path = target.partition(b"?")[0]
    if PLAIN.fullmatch(path):
        return []
    usual = uri.path_of(path)
    found = dict.fromkeys(_read(path))
    if fold:
        found.update(dict.fromkeys([uri.path_of(one.lower()) for one in (usual, *found)]))
    found.pop(usual, None)
    return list(found)


def _read(path: bytes) -> Iterator[bytes]:
    for _ in range(ROUNDS):
        yield from _spellings(path)
        decoded = unquote_to_bytes(path)
        if (older := _leniently_decoded(path)) != decoded:
            yield from _spellings(older)
        if decoded == path:
            return
        path = decoded


def _leniently_decoded(path: bytes) -> bytes:
    """`path` decoded by servers that accept more than percent-encoded UTF-8."""
    decoded = unquote_to_bytes(UNICODE.sub(lambda match: bytes.fromhex(match[1].decode()), path))
    return OVERLONG.sub(lambda match: bytes([(match[0][0] & 1) << 6 | match[0][1] & 0x3F]), decoded)


def _spellings(path: bytes) -> Iterator[bytes]:
    """`path` to servers that take backslashes for slashes, cut off what follows `;`, or merge slashes, or all of it.

    A NUL ends a path where it ends strings.
    """
    for one in {path, path.replace(b"\\", b"/"), path.partition(b"\0")[0]}:
        for cut in {one, OF_SEGMENT.sub(b"", one)}:
            for merged in {cut, SLASHES.sub(b"/", cut)}:
                yield uri.path_of(merged.replace(b"?", b"%3F"))
