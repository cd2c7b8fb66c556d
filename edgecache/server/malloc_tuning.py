"""Tuning of glibc's allocator, so that freed memory returns to the system.

By default it raises its mmap threshold to the size of the largest block ever freed, up
to 32 MiB. From then on large bodies share one heap with others, whose freed memory returns from its end only.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # names of malloc.h
OWN_MAPPING: Final = 96 * 1024  # bytes
FREE_AT_END: Final = 1024 * 1024  # bytes that the heap keeps free at its end: room for the 256 KiB of a TLS handshake
ARENAS: Final = 2  # the event loop's, and that of all other threads


def tune_malloc() -> None:
    """Tune this process's allocator, if it is glibc's."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, OWN_MAPPING)
        mallopt(TRIM_THRESHOLD, FREE_AT_END)
        mallopt(TOP_PAD, FREE_AT_END)
        mallopt(ARENA_MAX, ARENAS)
