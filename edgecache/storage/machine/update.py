"""One change of a store: the index first, then the bytes of the logs, then all of it at once becomes what is.

    drop what is in the way ──► index, state of the logs ──► `begin_…` in the head page ──► bytes ──► commit

Whatever fails before the head page is touched has changed nothing. A process that is killed after that leaves records
that cannot be read any more in the index; the next changes remove them, some at a time: no change takes long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import lmdb

from edgecache.storage.machine.record_log import CircularLog
from edgecache.storage.machine.schema import (
    IS_GAP,
    IS_RECORD,
    MAIN,
    RECORD,
    SMALL,
    STATE,
    WHERE,
    extent,
    gap_before,
)
from edgecache.storage.machine.shared_state import HeadPage
from edgecache.storage.machine.site_shares import NONE, PartSizes

BEGINS: Final = ("begin_small", "begin_main")
STATE_KEY: Final = b"state"
PARTS_KEY: Final = b"parts"
SWEEP_KEY: Final = b"sweep"  # the entry of the index up to which lost records were removed
SWEPT: Final = 512  # entries that one change looks at for that
MOST_CARRIED: Final = 32  # records that one put carries over; beyond these, use does not count
MOST_AGAIN: Final = 6  # of the bytes stored on a disk, a sixth may be written again
MOST_KEPT: Final = 512 * 1024  # bytes of what shares keep, in one put
CHUNK: Final = 128 * 1024  # most bytes of a value, usually
LARGE: Final = 32 * 1024  # values above go into the main log at once: they would push all else out of the small one
LARGEST_SHARE: Final = 4  # of a log, that one value may take
Write = tuple[int, int, bytes, bytes]


class Torn(Exception):
    """A log does not match the index: the store must be cleared."""


class Transaction:
    """One change, as its process makes it."""

    def __init__(
        self,
        raw: lmdb.Transaction,
        index: Any,
        meta: Any,
        logs: Sequence[CircularLog],
        head: HeadPage,
        most_objects: int,
        shares: Mapping[int, float],
    ) -> None:
        self._raw = raw
        self._free = most_objects - raw.stat(index)["entries"]
        self._index = index
        self._meta = meta
        self._logs = logs
        self._head = head
        state = raw.get(STATE_KEY, db=meta)
        if state is not None and len(state) != STATE.size:
            raise Torn("the state of the logs is not one")
        self._state = list(STATE.unpack(state)) if state is not None else [0, 0, 0, 0]
        self._written_up_to = [self._state[1], self._state[3]]
        self._writes: list[Write] = []
        self._survivors: list[tuple[bytes, bytes, int]] = []
        self._shares = shares
        self._sizes: PartSizes | None = None  # read when it is needed: most stores have no shares
        self._owed = self._kept_bytes = self._kept = self._evicted = self._carried = self._bytes = self._stored = 0
        self._swept = False  # to its end
        for log in (SMALL, MAIN):
            if head[BEGINS[log]] > self._state[2 * log]:
                self._recover(log, head[BEGINS[log]])
        if head["sweeping"]:
            self._sweep()

    def _recover(self, log: int, begin: int) -> None:
        """A process was killed while it wrote: what lay before `begin` is lost."""
        self._state[2 * log] = begin
        self._state[2 * log + 1] = max(begin, self._state[2 * log + 1])
        self._parts.scale(sum(self._state[1::2]) - sum(self._state[::2]))
        self._raw.delete(SWEEP_KEY, db=self._meta)
        self._head["sweeping"] = 1  # at once: whatever becomes of this change, a later one begins anew

    def _sweep(self) -> None:
        """Remove some entries of lost records; where this process is killed, the next one begins there again."""
        cursor = self._raw.cursor(db=self._index)
        cursor.set_range(self._raw.get(SWEEP_KEY, db=self._meta) or b"\0")
        for _ in range(SWEPT):
            value = cursor.value()  # empty after the last, also if that was just deleted
            if not value:
                self._raw.delete(SWEEP_KEY, db=self._meta)
                self._swept = True
                return
            log, position, _ = WHERE.unpack(value) if len(value) == WHERE.size else (SMALL, -1, 0)
            if log not in (SMALL, MAIN) or position < self._state[2 * log]:
                cursor.delete()
                self._free += 1
            else:
                cursor.next()
        if cursor.key():
            self._raw.put(SWEEP_KEY, bytes(cursor.key()), db=self._meta)
        else:
            self._swept = True

    def delete(self, digest: bytes) -> None:
        """Drop the record of this digest."""
        if self._raw.delete(digest, db=self._index):
            self._free += 1

    @property
    def _parts(self) -> PartSizes:
        """Bytes of each share."""
        if self._sizes is None:
            room = sum(log.size for log in self._logs)
            self._sizes = PartSizes(bytes(self._raw.get(PARTS_KEY, db=self._meta) or b""), self._shares, room)
        return self._sizes

    def put(self, digest: bytes, value: bytes, part: int = NONE) -> bool:
        """Store `value`, whose site has that share; False if it is too large for any log, or shares keep the room."""
        size = extent(len(value))
        straight = len(value) > LARGE or size > self._logs[SMALL].size // LARGEST_SHARE or self._has_spare(size)
        log = MAIN if straight else SMALL
        if size > self._logs[log].size // LARGEST_SHARE:
            self.delete(digest)
            return False
        self._kept = self._kept_bytes = self._owed = 0
        if self._free <= 0:
            self._make_room_in_index()
        if stored := self._append(log, digest, value, part, MOST_KEPT):
            self._stored += len(value)
        else:
            self.delete(digest)
        while self._survivors:
            survivor = self._survivors.pop()
            self._owed -= extent(len(survivor[1])) if survivor[2] else 0
            self._append(MAIN, *survivor, 2 * MOST_KEPT)
            self._carried += 1
        return stored

    def _append(self, log: int, digest: bytes, value: bytes, part: int, most_kept: int) -> bool:
        size, file_size, end = extent(len(value)), self._logs[log].size, 2 * log + 1
        gap = gap_before(self._state[end], size, file_size)
        if not self.make_room(log, gap + size, most_kept):
            return False
        if gap >= RECORD.size:
            self._writes.append((log, self._state[end], RECORD.pack(IS_GAP, 0, 0, self._state[end], bytes(16)), b""))
        position = self._state[end] + gap
        self._writes.append((log, position, RECORD.pack(IS_RECORD, part, len(value), position, digest), value))
        where = WHERE.pack(log, position, len(value))
        if self._raw.put(digest, where, overwrite=False, db=self._index):
            self._free -= 1
        else:
            self._raw.put(digest, where, db=self._index)
        self._state[end] = position + size
        self._bytes += size
        if part:
            self._parts.add(part, size)
        return True

    def _make_room_in_index(self) -> None:
        """Drop records that came first until there is room for another: they are small, or there would be."""
        while self._free <= 0 and self._head["sweeping"] and not self._swept:
            self._sweep()
        for log in (SMALL, MAIN):
            while self._free <= 0 and self._state[2 * log] < self._state[2 * log + 1]:
                self.make_room(log, 4096, 0, forced=True)

    def make_room(self, log: int, size: int, most_kept: int, *, forced: bool = False) -> bool:
        """Drop the first records of `log` until `size` bytes are free, or that many are dropped if `forced`.

        False if shares have kept as much as `most_kept` before.
        """
        begin, end = 2 * log, 2 * log + 1
        until = self._state[begin] + size if forced else self._state[end] + size - self._logs[log].size
        while self._state[begin] < min(until + self._owed_to(log, most_kept), self._state[end]):
            if self._kept_bytes >= most_kept and not forced:
                return False
            if self._state[begin] >= self._written_up_to[log]:  # it is a part of this very change
                self._write()
            self._state[begin] += self._drop_first(log, self._state[begin], keep=not forced)
        return True

    def _drop_first(self, log: int, position: int, *, keep: bool) -> int:
        """Drop the record at `position`, unless it was used; the bytes that it takes."""
        file = self._logs[log]
        left = file.size - position % file.size
        if left < RECORD.size:
            return left
        magic, part, length, written_at, digest = file.header(position)
        if written_at != position or magic not in (IS_RECORD, IS_GAP) or extent(length) > left:
            raise Torn(f"no record at {position}")
        if magic == IS_GAP:
            return left
        if self._raw.get(digest, db=self._index) == WHERE.pack(log, position, length):
            self.delete(digest)
            if keep and self._is_kept(log, digest, length, part):
                self._owed += extent(length) if part else 0
                self._survivors.append((digest, file.value(position, length, wait=True), part))
            else:
                self._evicted += 1
        if part:
            self._parts.add(part, -extent(length))
        return extent(length)

    def _owed_to(self, log: int, most_kept: int) -> int:
        """Bytes that what shares keep will take, and, before that is written, a gap at the end of the file."""
        if log != MAIN or not self._owed:
            return 0
        return self._owed + (CHUNK if most_kept == MOST_KEPT else 0)

    def _is_kept(self, log: int, digest: bytes, length: int, part: int) -> bool:
        """Whether a record was used, is within a share, or may stay as there is room: the main log was never full."""
        if part and self._parts.is_within(part):
            self._kept_bytes += length
            return True
        if self._kept >= MOST_CARRIED:
            return False
        if not self._may_carry(extent(length)):
            return False
        if self._head.was_touched(digest) or (log == SMALL and self._has_spare(extent(length))):
            self._kept += 1
            return True
        return False

    def _may_carry(self, size: int) -> bool:
        """Whether so many bytes may be written again: a disk wears out by what is written to it."""
        head = self._head
        if head["mapped"]:
            return True
        written, stored = head["written"] + self._bytes, head["stored"] + self._stored
        return written + size <= stored + stored // MOST_AGAIN

    def _has_spare(self, size: int) -> bool:
        """Whether the main log was never full: what is new goes there, and need not be carried there later."""
        return self._state[3] - self._state[2] + 2 * size < self._logs[MAIN].size - LARGE

    def _write(self) -> None:
        """Write the bytes of the logs, once nobody reads any more what lies there."""
        for log in (SMALL, MAIN):
            if self._head[BEGINS[log]] < self._state[2 * log]:
                self._head[BEGINS[log]] = self._state[2 * log]
        for log, position, header, value in self._writes:
            self._logs[log].write(position, header, value)
        self._writes.clear()
        self._written_up_to = [self._state[1], self._state[3]]

    def finish(self) -> None:
        """Make ready to be committed."""
        self._raw.put(STATE_KEY, STATE.pack(*self._state), db=self._meta)
        if self._sizes is not None and self._sizes.changed:
            self._raw.put(PARTS_KEY, self._sizes.packed(), db=self._meta)
        self._write()

    def count(self) -> None:
        """It was made: count it."""
        if self._swept:
            self._head["sweeping"] = 0
        values = (self._evicted, self._bytes, self._stored, self._carried)
        for name, value in zip(("evicted", "written", "stored", "carried"), values, strict=True):
            if value:
                self._head.add(name, value)
