"""Agreement of a content's size with every declared length: nothing else is stored.

A declared length that is not checked would truncate the stored object for every client.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from edgecache.semantics.message import Fields
from edgecache.semantics.ranges import Segments
from edgecache.semantics.stored_response import Stored

LENGTH: Final = re.compile(rb"[0-9]{1,18}")
WITHOUT_CONTENT: Final = frozenset((204, 304))  # whatever their heads say (RFC 9110 §15.3.5, §15.4.5)
UNREADABLE: Final = -1  # agrees with no length


def content_length(fields: Fields) -> int | None:
    """The value of `Content-Length`; None if absent. Equal repeats count once (RFC 9110 §8.6)."""
    value = fields.get(b"content-length")
    if value is None:
        return None
    values = {part.strip(b" \t") for part in value.split(b",")}
    said = values.pop()
    return UNREADABLE if values or not LENGTH.fullmatch(said) else int(said)


def is_complete(stored: Stored, size: int, length: int | None = None) -> bool:
    """Whether `size` bytes are the complete content of `stored`, by its head and by `length` if known."""
    if stored.whole_length is not None:  # a part is no whole (RFC 9111 §3.3)
        return False
    said = 0 if stored.status in WITHOUT_CONTENT else content_length(stored.fields)
    return (said is None or said == size) and (length is None or length == size)


def are_consistent(stored: Stored, segments: Segments) -> bool:
    """Whether `segments` are parts of `stored`'s whole: in order, apart from each other, within it (RFC 9111 §3.4)."""
    spans = [(first, first + len(content)) for first, content in segments.parts]
    if not spans or segments.whole != stored.whole_length or spans[0][0] < 0 or spans[-1][1] > segments.whole:
        return False
    return all(first < end for first, end in spans) and all(one[1] < other[0] for one, other in pairwise(spans))
