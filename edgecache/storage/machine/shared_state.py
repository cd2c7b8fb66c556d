"""The page that all processes of a store map: flags, the ends of what may be read, counters, and marks of use.

Each field is eight bytes, aligned, and written whole. Only the holder of the write lock changes them, except `poisoned`
and the marks, for which any order will do.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from edgecache.storage.machine.schema import PAGE, VERSION

WORD: Final = struct.Struct("@Q")  # native: it is copied as a whole
MAGIC: Final = int.from_bytes(b"ecstore\x00", "little") + VERSION
FIELDS: Final = (
    "magic",
    "poisoned",  # an invalidation could not be recorded: nothing here may be used any more
    "clean",  # closed in order, and written to the disk
    "log_head",  # the number of the last entry of the purge log
    "begin_small",  # what lies before it may have been overwritten
    "begin_main",
    "evicted",  # records
    "written",  # bytes into the logs, those carried over included
    "stored",  # bytes of values as they were given
    "carried",  # records that were used, and so were kept
    "cleared",  # times that it was emptied
    "first_log",  # the number of the first entry of the purge log that is kept
    "size",  # of the store, as it was configured
    "mapped",  # the logs are in memory
    "sweeping",  # the index may have entries of records that were lost
    "last_used",  # the second, since 1970, up to which a POP is known to have recorded invalidations here
    "generation",  # of all but the marks; odd while it is changed, and after a process was killed in that
)
USED: Final = 1  # of the marks in a slot
REFUSED: Final = 2
BOOT_AT: Final = 1024  # sixteen bytes: the boot of the machine in which it was opened last
IDENTITY_AT: Final = 1040  # 32 bytes: what records here are bound to
AT: Final = {name: 8 * number for number, name in enumerate(FIELDS)}
AT_GUARD: Final = AT["poisoned"]
BETWEEN: Final = AT["generation"] - AT["begin_main"] - WORD.size
GUARD: Final = struct.Struct(f"@Q16xQQ{BETWEEN}xQ")  # poisoned, the begins of both logs, the generation
ANY: Final = -2  # any generation


class HeadPage:
    """The mapped page of one process."""

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size)
        self._slots = size - PAGE
        self._mask = self._slots - 1

    def __getitem__(self, name: str) -> int:
        """The value of a field."""
        number: int = WORD.unpack_from(self._map, AT[name])[0]
        return number

    def __setitem__(self, name: str, value: int) -> None:
        WORD.pack_into(self._map, AT[name], value)

    def word(self, at: int) -> int:
        """The field at byte `at`."""
        number: int = WORD.unpack_from(self._map, at)[0]
        return number

    def use(self, digest: bytes, log: int, position: int, since: int = ANY) -> bool:
        """The record there, whose key has this digest, was read. False if it may not be used, or was overwritten.

        False too if anything was changed `since` a generation, or is being changed.
        """
        poisoned, small, main, generation = GUARD.unpack_from(self._map, AT_GUARD)
        if poisoned or (main if log else small) > position or (since != generation and since != ANY) or since & 1:
            return False
        at = PAGE + (int.from_bytes(digest[:4], "little") & self._mask)
        if not (marks := self._map[at]) & USED:
            self._map[at] = marks | USED
        return True

    def add(self, name: str, value: int) -> None:
        """Count."""
        self[name] = self[name] + value

    def was_touched(self, digest: bytes) -> bool:
        """Whether it was used since this was last asked."""
        at = PAGE + (int.from_bytes(digest[:4], "little") & self._mask)
        marks = self._map[at]
        self._map[at] = marks & ~USED
        return bool(marks & USED)

    def was_refused(self, digest: bytes) -> bool:
        """Whether the body with this key was refused before; from now on it was."""
        at = PAGE + (int.from_bytes(digest[4:8], "little") & self._mask)
        before = self._map[at]
        self._map[at] = before | REFUSED
        return bool(before & REFUSED)

    def text(self, at: int, length: int) -> bytes:
        """Bytes of the page."""
        return self._map[at : at + length]

    def put_text(self, at: int, text: bytes) -> None:
        """Set bytes of the page."""
        self._map[at : at + len(text)] = text

    def flush(self) -> None:
        """Write it to the disk."""
        self._map.flush()

    def close(self) -> None:
        """Unmap it."""
        self._map.close()
