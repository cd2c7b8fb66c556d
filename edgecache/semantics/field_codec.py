"""Field lines packed into one bytes object: the form in which heads are stored, in memory and in records.

    packed = *( name ": " value CR LF )

A value holds neither CR nor LF (RFC 9110 §5.5) and a name no colon (§5.1), so the form is unambiguous, and packed
fields are joined with `+`. It is also the field section of HTTP/1.1 (RFC 9112 §5), which serializes it at no cost;
other protocols unpack it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from edgecache.semantics.message import FieldLine, Fields

CONTENT_TYPE: Final = re.compile(rb"(?i)(?:\A|(?<=\n))content-type:[ \t]*([^\r]*)")


def pack(lines: Iterable[FieldLine]) -> bytes:
    """`lines` in the packed form."""
    return b"".join([b"%b: %b\r\n" % line for line in lines])


def unpack(packed: bytes) -> Fields:
    """The fields that were packed."""
    lines = []
    for line in packed.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        lines.append((name, value))
    return Fields(lines)


def content_type_in(packed: bytes) -> bytes:
    """The Content-Type of packed fields; empty where they have none."""
    match = CONTENT_TYPE.search(packed)
    return b"" if match is None else match[1]
