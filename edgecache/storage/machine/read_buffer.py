"""Buffers for values that are read from shared memory, used again once nobody holds a view of them.

A block of this size is a mapping of its own for the allocator (`server/malloc_tuning.py`): a new one for each read
costs more than what is copied.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MOST: Final = 16  # buffers that are kept
TRIED: Final = 4  # that are looked at for one that is free
SIZE: Final = 132 * 1024  # bytes of each: a chunk, sealed
LEAST: Final = 64 * 1024  # bytes of a value that is worth one


class ReadBuffers:
    """The buffers of one process."""

    def __init__(self) -> None:
        self._buffers: deque[bytearray] = deque(maxlen=MOST)  # the one used last is the last

    def copy(self, source: memoryview) -> memoryview:
        """A copy of `source`, which has no more than `SIZE` bytes."""
        buffer = self._free() or bytearray(SIZE)
        self._buffers.append(buffer)
        view = memoryview(buffer)[: len(source)]
        view[:] = source
        return view.toreadonly()

    def _free(self) -> bytearray | None:
        for _ in range(min(TRIED, len(self._buffers))):
            buffer = self._buffers.popleft()
            try:
                buffer.append(buffer.pop())  # not while there is a view of it
            except BufferError:
                self._buffers.append(buffer)
            else:
                return buffer
        return None
