"""Files of a store, and how its bytes are divided among them.

    head        one page of counters and flags, and a byte per slot that says what was used since it was looked at
    index       LMDB: where each record lies, the state of both logs, and the purge log of a POP without a region
    small.log   a circular log: what is new once the other one is full; a tenth of the records' bytes
    main.log    a circular log: what was used while it lay in the first one, and what came before it was full
    wake/       a datagram socket per process: outcomes of fetches

All are preallocated, so that no later write meets a full file system. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

VERSION: Final = 3  # of all formats here
PAGE: Final = 4096
LEAST: Final = 16 * 1024 * 1024  # bytes of a store
INDEX_SHARE: Final = 16  # entries of the index have a sixteenth: enough for records of 1 KiB
INDEX_SPARE: Final = 1024 * 1024  # bytes of the index beside entries: pages that changes write anew, the purge log
SPARE_SHARE: Final = 64  # and this share of the store: pages stay as they are while some process reads
ENTRY: Final = 80  # bytes of one entry, in pages that are two thirds full
SMALL_SHARE: Final = 10  # what is new has a tenth of the rest
LEAST_SMALL: Final = 512 * 1024  # bytes of the log of new records
SLOT_BYTES: Final = 1024  # of the store, for each slot that remembers use
SMALL, MAIN = 0, 1

RECORD: Final = struct.Struct("<3sBIQ16s")  # magic, share, bytes of the value, its position, digest of its key
WHERE: Final = struct.Struct("<BQI")  # which log, position, bytes of the value
STATE: Final = struct.Struct("<4Q")  # begin and end of both logs
IS_RECORD: Final = b"ecm"
IS_GAP: Final = b"ecg"  # up to the end of the file


@dataclass(frozen=True, slots=True)
class Geometry:
    """Bytes of each file."""

    head: int
    slots: int
    index: int
    small: int
    main: int

    @property
    def most_objects(self) -> int:
        """Records that the index takes."""
        return (self.index - INDEX_SPARE) * 8 // 10 // ENTRY

    @property
    def purge_log(self) -> int:
        """Bytes of the purge log."""
        return INDEX_SPARE // 4 + (self.index - INDEX_SPARE) // 16

    @property
    def total(self) -> int:
        """Of all files."""
        return self.head + self.index + self.small + self.main


def geometry(size: int) -> Geometry:
    """How `size` bytes are shared out."""
    size = max(LEAST, size)
    slots = 1 << max(12, (size // SLOT_BYTES).bit_length() - 1)
    slots = min(slots, 1 << 22)
    head, index = PAGE + slots, _whole(size // INDEX_SHARE + size // SPARE_SHARE + INDEX_SPARE)
    left = size - head - index
    small = _whole(max(left // SMALL_SHARE, LEAST_SMALL))
    return Geometry(head, slots, index, small, (left - small) // PAGE * PAGE)


def extent(length: int) -> int:
    """Bytes that a value of `length` takes in a log: a multiple of eight."""
    return (RECORD.size + length + 7) & ~7


def gap_before(position: int, extent: int, size: int) -> int:
    """Bytes between `position` and the place of a record with this extent, which lies in one piece."""
    left = size - position % size
    return left if left < extent else 0


def _whole(size: int) -> int:
    return -(-size // PAGE) * PAGE
