"""What connections read into: little at once at first, and more for readers that keep up.

What was read and is not taken is held, so a client that reads slowly costs as much as is read at once.
"""

from __future__ import annotations

from typing import Final

LITTLE: Final = 64 * 1024  # bytes
MUCH: Final = 128 * 1024
KEPT_UP: Final = 1024 * 1024  # bytes that readers have taken as they came, from which on much is read at once


class ReadBuffer:
    """One for all connections of an event loop: each copies out what it has read before another one reads.

    Both sizes begin at the same byte.
    """

    def __init__(self) -> None:
        self._whole = memoryview(bytearray(MUCH))
        self._little = self._whole[:LITTLE]

    def after(self, taken: int) -> memoryview:
        """Room for what is to be read next, once readers have taken so many bytes as they came."""
        return self._little if taken < KEPT_UP else self._whole
