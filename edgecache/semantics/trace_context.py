"""W3C Trace Context: the field by which a request names the trace that it is part of.

    traceparent: 00-<trace ID, 32 hex digits>-<parent span ID, 16>-<flags, 2>

A malformed value is not a trace (§3.2.4): it is passed on like any other field, and starts nothing here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NAME: Final = b"traceparent"
SAMPLED: Final = 0x01  # §3.2.2.5: the caller may have recorded trace data
_SHAPE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16


class TraceParent(NamedTuple):
    """Trace ID, parent span ID and sampled flag; IDs in lower-case hexadecimal digits."""

    trace_id: bytes
    span_id: bytes
    sampled: bool


def parse(value: bytes | None) -> TraceParent | None:
    """The value of `traceparent`; None if there is none, or none that is well-formed (§3.2.2, §4.3 on versions)."""
    found = _SHAPE.fullmatch(value) if value else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return TraceParent(trace, span, bool(int(flags, 16) & SAMPLED))


def trace_id(value: bytes | None) -> bytes:
    """The trace id of a `traceparent`; empty if there is none."""
    if value is None:
        return b""
    parent = parse(value)
    return parent.trace_id if parent is not None else b""


def render(parent: TraceParent) -> bytes:
    """`parent` as the value of `traceparent`."""
    return b"00-%b-%b-%b" % (parent.trace_id, parent.span_id, b"01" if parent.sampled else b"00")
