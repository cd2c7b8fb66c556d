"""Bounds on the heads of requests, whatever protocol brings them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_FIELDS: Final = 100


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head: bytes of a line, number of field lines, bytes in all (RFC 9112 §3, RFC 6585 §5).

    `body` bounds the length of the body that it announces, in bytes; 0 sets no limit (RFC 9110 §15.5.14).
    """

    line: int = 8 * 1024
    fields: int = MOST_FIELDS
    head: int = 32 * 1024
    body: int = 0
