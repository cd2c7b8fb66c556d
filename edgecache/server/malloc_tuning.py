"""How glibc's allocator is told to give back what is freed, so that a budget of memory means something.

By itself it raises the size from which on a block is a mapping of its own to that of the largest block ever freed, up
to 32 MiB. From then on large bodies lie between others in one heap, and what was freed there returns only from its end.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # names of malloc.h
OWN_MAPPING: Final = 96 * 1024  # bytes
FREE_AT_END: Final = 1024 * 1024  # bytes that the heap keeps free at its end
ARENAS: Final = 2  # the event loop's, and that of all other threads


def give_back() -> None:
    """Set it so for this process, where it is glibc's."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, OWN_MAPPING)
        mallopt(TRIM_THRESHOLD, FREE_AT_END)
        mallopt(ARENA_MAX, ARENAS)
