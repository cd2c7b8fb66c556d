"""Records of one machine: an index in LMDB, and two circular logs that hold the values.

    put ──► small.log ──► used there? ──► main.log ──► used there? ──► main.log again
     └─► main.log, until it is full for the first time
                            └─► not used: gone         └─► not used: gone                 (S3-FIFO)

A change is one transaction of the index: where a record lies, and the state of the logs, become visible together or not
at all, whenever its process is killed. Bytes of a log that are about to be overwritten leave the readable range first
(`begin_small`, `begin_main` in the head page), so a reader that was overtaken finds out, and has a miss. Nothing is
synced on the way: a process that dies loses nothing, a machine that does loses the store (see `store_files.py`).

One process changes the store at a time. A change without the lock fails at once: no event loop waits for another
process. The lock is an open file's, and ends with its process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import lmdb

from edgecache.semantics.rope import Piece
from edgecache.storage.machine.read_buffer import LEAST, SIZE, ReadBuffers
from edgecache.storage.machine.record_log import CircularLog
from edgecache.storage.machine.schema import IS_RECORD, MAIN, RECORD, STATE, WHERE, Geometry
from edgecache.storage.machine.shared_state import HeadPage
from edgecache.storage.machine.site_shares import NONE, StoreShares
from edgecache.storage.machine.update import BEGINS, PARTS_KEY, STATE_KEY, Torn, Transaction

__all__ = ("Busy", "Change", "MachineStore", "Torn", "Where", "digest_of", "open_index")
MOST_READERS: Final = 1024
AT_ONCE: Final = 256  # entries of the index that are read at once
NUMBER: Final = 8  # bytes of a key of the purge log
NO_SCOPES: Final = b'{"id":"","scopes":[],"soft":false}'  # an entry that invalidates nothing


Made = TypeVar("Made")


class Busy(Exception):
    """Another process is changing the store, or is held up while it reads: try again."""


class Where(NamedTuple):
    """The place of a value."""

    log: int
    position: int
    length: int


class Change(NamedTuple):
    """A record to be put in the place of another, or dropped."""

    key: bytes
    value: bytes | None
    part: int = NONE  # the share of its site


class MachineStore:
    """A store as one process has it open."""

    def __init__(self, path: str, shape: Geometry, *, mapped: bool) -> None:
        self.path = path
        self.shape = shape
        self.mapped = mapped
        self.shares = StoreShares()
        self._lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        head = os.open(f"{path}/head", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.head = HeadPage(head, shape.head)
        finally:
            os.close(head)
        self.logs = (
            CircularLog(f"{path}/small.log", shape.small, mapped=mapped),
            CircularLog(f"{path}/main.log", shape.main, mapped=mapped),
        )
        self._env = open_index(path, shape)
        self._index = self._env.open_db(b"index")  # waits for a change that another process is making
        self._meta = self._env.open_db(b"meta")
        self._purges = self._env.open_db(b"purges")
        self._begin = self._env.begin
        self._buffers = ReadBuffers()
        self._env.reader_check()

    # --- reading

    def find_by(self, digest: bytes) -> Where | None:
        """Where the value of the key with this digest lies."""
        with self._env.begin(db=self._index) as transaction:
            found = transaction.get(digest)
        return None if found is None else Where._make(self._where(found))

    def get(self, key: bytes, *, wait: bool = True) -> bytes | None:
        """The value of `key`; raises NotInMemory unless it may `wait` for the disk, OSError, lmdb.Error."""
        found = self.read(digest_of(key), wait=wait, lent=False)
        return None if found is None else bytes(found[1])

    def read(self, digest: bytes, *, wait: bool, lent: bool = True) -> tuple[int, Piece] | None:
        """The value of the key with this digest, after a number of its place: no other value ever has it.

        A large one may lie in a buffer that is `lent`: it is used again once no view of it is left.
        """
        transaction = self._begin(db=self._index)
        try:
            found = transaction.get(digest)
        finally:
            transaction.abort()
        if found is None:
            return None
        log, position, length = self._where(found)
        place, file = position + RECORD.size, self.logs[log]
        value = self._lent(file, place, length, wait=wait) if lent else file.read(place, length, wait=wait)
        return (2 * position + log + 1, value) if self.head.use(digest, log, position) else None  # or it was overtaken

    def moves(self, key: bytes) -> bool:
        """Whether another process is moving the value of `key`: it can be read again after that change."""
        if not self.head["generation"] & 1:
            return False
        found = self.find_by(digest_of(key))
        return found is not None and self.head[BEGINS[found.log]] > found.position

    def read_again(self, digest: bytes, place: int, at: int, length: int, generation: int) -> Piece | None:
        """Bytes from `at` on of the value at a place that `read` has given since `generation`.

        None if the store was changed since, or is being changed: then it may lie elsewhere. Only where it is mapped.
        """
        log, position = (place - 1) & 1, (place - 1) >> 1
        value = self._lent(self.logs[log], position + RECORD.size + at, length, wait=True)
        return value if self.head.use(digest, log, position, generation) else None

    def _lent(self, log: CircularLog, position: int, length: int, *, wait: bool) -> Piece:
        """Bytes of a log; large ones that are mapped in a buffer that is used again."""
        if log.view is None or not LEAST <= length <= SIZE:
            return log.read(position, length, wait=wait)
        at = position % log.size
        return self._buffers.copy(log.view[at : at + length])

    def has(self, key: bytes) -> bool:
        """Whether there is a value of `key`."""
        found = self.find_by(digest_of(key))
        return found is not None and self.head[BEGINS[found.log]] <= found.position

    def _where(self, entry: bytes) -> tuple[int, int, int]:
        """An entry of the index: log, position and length of a value; raises OSError if it is none."""
        if len(entry) == WHERE.size:
            where: tuple[int, int, int] = WHERE.unpack(entry)
            if where[0] <= MAIN and where[2] <= self.logs[where[0]].size:
                return where
        raise OSError(errno.EIO, "the index holds what is no place of a record", self.path)

    # --- changing

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock of all changes; raises Busy if another process has it, unless it may `wait`."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        try:
            self.head["generation"] |= 1
            yield
        finally:
            self.head["generation"] += 1
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def apply(self, changes: Iterable[Change], *, wait: bool = False) -> list[bool]:
        """Make these changes, in one transaction; for each, whether there was room.

        Raises Busy, Torn, OSError or lmdb.Error; then none of them was made.
        """
        changes = list(changes)
        with self.locked(wait=wait):
            try:
                return self._transact(lambda txn: [self._change(txn, change) for change in changes])
            except lmdb.MapFullError:  # pages stay while a process reads: one was killed then, or is being held up
                self._env.reader_check()
                raise Busy from None

    def _transact(self, work: Callable[[Transaction], Made]) -> Made:
        with self._env.begin(write=True) as raw:
            shape, shares = self.shape, self.shares.most
            transaction = Transaction(raw, self._index, self._meta, self.logs, self.head, shape.most_objects, shares)
            done = work(transaction)
            transaction.finish()
        transaction.count()
        return done

    def _change(self, transaction: Transaction, change: Change) -> bool:
        digest = digest_of(change.key)
        if change.value is None:
            transaction.delete(digest)
            return True
        return transaction.put(digest, change.value, change.part)

    # --- the purge log of a POP without a region

    def record(self, entry: bytes, is_same: Callable[[bytes], bool]) -> int:
        """Append `entry`, unless one of the last is the same; its number. Raises Busy, OSError or lmdb.Error."""
        try:
            return self._record(entry, is_same)
        except lmdb.MapFullError:
            self._env.reader_check()
            raise Busy from None

    def _record(self, entry: bytes, is_same: Callable[[bytes], bool]) -> int:
        with self.locked():
            with self._env.begin(write=True, db=self._purges) as transaction:
                number, last = self._append_entry(transaction, entry, is_same)
            self.head["log_head"] = last  # within the lock: it never goes back
        return number

    def _append_entry(
        self, transaction: lmdb.Transaction, entry: bytes, is_same: Callable[[bytes], bool]
    ) -> tuple[int, int]:
        """The number of `entry`, which may be there already, and that of the last one."""
        cursor = transaction.cursor()
        last = int.from_bytes(cursor.key()) if cursor.last() else 0
        for _ in range(64 if last else 0):
            if is_same(bytes(cursor.value())):
                return int.from_bytes(cursor.key()), last
            if not cursor.prev():
                break
        transaction.put((last + 1).to_bytes(NUMBER), entry, append=True)
        self._trim(transaction)
        return last + 1, last + 1

    def _trim(self, transaction: lmdb.Transaction) -> None:
        """Forget the first entries, where all together are too large."""
        stat = transaction.stat(self._purges)
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        cursor = transaction.cursor()
        if pages * stat["psize"] > self.shape.purge_log and cursor.first():
            for _ in range(max(1, min(stat["entries"] // 8, 256))):
                cursor.delete()
            self.head["first_log"] = int.from_bytes(cursor.key())

    def forget_entries(self) -> None:
        """Let records that were stored up to now be validated before use: invalidations may be missing.

        One number is left out, as if its entry had been forgotten; no other process may have the store open.
        """
        with self.locked(wait=True):
            with self._env.begin(write=True, db=self._purges) as transaction:
                cursor = transaction.cursor()
                last = 2 + (int.from_bytes(cursor.key()) if cursor.last() else 0)
                transaction.drop(self._purges, delete=False)
                transaction.put(last.to_bytes(NUMBER), NO_SCOPES)
            self.head["first_log"] = self.head["log_head"] = last

    def entries_after(self, number: int) -> list[tuple[int, bytes]]:
        """The entries of the purge log after this one, as far as they are kept."""
        with self._env.begin(db=self._purges) as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range((number + 1).to_bytes(NUMBER)):
                return []
            return [(int.from_bytes(key), value) for key, value in cursor]

    def poison(self) -> None:
        """Let nothing here be used any more, in any process: an invalidation could not be recorded."""
        self.head["poisoned"] = 1

    # --- care

    def clear(self) -> None:
        """Drop all records; the purge log stays."""
        with self.locked(wait=True):
            self._clear()

    def _clear(self) -> None:
        head = self.head
        with self._env.begin(write=True) as raw:
            known = raw.get(STATE_KEY, db=self._meta) or b""
            state = STATE.unpack(known if len(known) == STATE.size else bytes(STATE.size))
            ends = [max(state[1], head["begin_small"]), max(state[3], head["begin_main"])]
            ends = [end + -end % log.size for end, log in zip(ends, self.logs, strict=True)]
            raw.drop(self._index, delete=False)
            raw.delete(PARTS_KEY, db=self._meta)
            raw.put(STATE_KEY, STATE.pack(ends[0], ends[0], ends[1], ends[1]), db=self._meta)
            head["begin_small"], head["begin_main"] = ends
        head.add("cleared", 1)

    def verify(self, check: Callable[[bytes, bytes], bool] = lambda digest, value: True) -> tuple[int, int]:
        """Read every record, and have `check` look at it: how many are right, and how many are not."""
        good = bad = 0
        for digest, where in self._entries():
            log, position, length = where
            if self._is_right(log, position, length, digest, check):
                good += 1
            elif self.find_by(digest) == where and self.head[BEGINS[log]] <= position:
                bad += 1
        return good, bad

    def _entries(self) -> Iterator[tuple[bytes, Where]]:
        """The index, some entries at a time: pages stay as long as a transaction reads."""
        last: bytes = b""
        while True:
            with self._env.begin(db=self._index) as transaction:
                cursor = transaction.cursor()
                if not cursor.set_range(last + b"\0" if last else b"\0"):
                    return
                some = list(islice(cursor.iternext(), AT_ONCE))
            yield from ((digest, Where._make(self._where(raw))) for digest, raw in some)
            last = some[-1][0]

    def _is_right(
        self, log: int, position: int, length: int, digest: bytes, check: Callable[[bytes, bytes], bool]
    ) -> bool:
        header = self.logs[log].header(position)
        value = self.logs[log].value(position, length, wait=True)
        magic, _, *others = header
        return magic == IS_RECORD and others == [length, position, digest] and check(digest, value)

    def values(self) -> Iterator[bytes]:
        """Every value."""
        for _, (log, position, length) in self._entries():
            value = self.logs[log].value(position, length, wait=True)
            if self.head[BEGINS[log]] <= position:
                yield value

    def objects(self) -> int:
        """Number of records."""
        with self._env.begin() as transaction:
            count: int = transaction.stat(self._index)["entries"]
        return count

    def used(self) -> int:
        """Bytes in use, of the logs and the index."""
        with self._env.begin() as transaction:
            state: tuple[int, ...] = STATE.unpack(transaction.get(STATE_KEY, db=self._meta) or bytes(STATE.size))
        return state[1] - state[0] + state[3] - state[2]

    def room(self) -> int:
        """Bytes of the main log that hold nothing."""
        with self._env.begin() as transaction:
            state: tuple[int, ...] = STATE.unpack(transaction.get(STATE_KEY, db=self._meta) or bytes(STATE.size))
        return self.shape.main - state[3] + state[2]

    def sync(self) -> None:
        """Write all of it to the disk."""
        self._env.sync(True)
        for log in self.logs:
            log.sync()
        self.head.flush()

    def close(self) -> None:
        """Close it in this process."""
        self._env.close()
        for log in self.logs:
            log.close()
        self.head.close()
        os.close(self._lock)


def open_index(path: str, shape: Geometry) -> lmdb.Environment:
    """The index, which other processes have open too."""
    return lmdb.open(
        f"{path}/index",
        map_size=shape.index,
        max_dbs=4,
        max_readers=MOST_READERS,
        sync=False,
        metasync=False,
        writemap=True,
        map_async=True,
        readahead=False,
        meminit=False,
        mode=0o600,
    )


def digest_of(key: bytes) -> bytes:
    """What the index has for `key`."""
    return blake2b(key, digest_size=16).digest()
