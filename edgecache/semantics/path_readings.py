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
        if decoded == path:
            return
        path = decoded


def _spellings(path: bytes) -> Iterator[bytes]:
    """`path` to servers that take backslashes for slashes, cut off what follows `;`, or merge slashes, or all of it."""
    for one in {path, path.replace(b"\\", b"/")}:
        for cut in {one, OF_SEGMENT.sub(b"", one)}:
            for merged in {cut, SLASHES.sub(b"/", cut)}:
                yield uri.path_of(merged.replace(b"?", b"%3F"))
