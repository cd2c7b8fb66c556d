"""The machine's store as the tier's client uses it: reads that call back, and changes that are made in batches.

It speaks the commands that the client of the regional tier sends: GET, SET, UNLINK, EXISTS; what only a server needs
(PEXPIRE, EVAL) has no effect. Values in memory are read at once. On a disk, what would have to wait for it is read in
one of a few threads, and a read that takes longer than `LATE` is passed by.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import lmdb

from edgecache.semantics.outcomes import Label
from edgecache.semantics.rope import Piece
from edgecache.storage.machine.record_log import NotInMemory
from edgecache.storage.machine.store import Busy, Change, MachineStore, Torn, digest_of
from edgecache.storage.tier_queue import NEAR, OnReply, OnValue
from edgecache.tasks import spawn

log = logging.getLogger("edgecache")
LATE: Final = 0.05  # seconds that a read of the disk may take
READERS: Final = 4  # threads that read from a disk
MOST_COLD: Final = 64  # reads that wait for a disk
MOST_CHANGES: Final = 32  # of one transaction
BATCH_BYTES: Final = 1024 * 1024
MOST_QUEUED: Final = 32 * 1024 * 1024  # bytes of changes that wait
AGAIN: Final = 0.0005  # seconds, after which a store that another process was changing is tried again
SLOWER: Final = 20  # times as long, after as many tries
GIVES_UP: Final = 200  # tries, after which what waits is dropped: about two seconds
FAILURES: Final = (OSError, lmdb.Error)


class StoreRead(Label):
    """The outcome of a read of the machine's store."""

    HIT = "hit"
    MISS = "miss"
    COLD = "cold"  # a hit, read from the disk in a thread
    SLOW = "slow"  # the disk took too long
    CROWDED = "crowded"  # too many reads wait for the disk
    ERROR = "error"


class StoreWrite(Label):
    """The outcome of a change of it."""

    STORED = "stored"
    TOO_LARGE = "too-large"
    FULL = "full"  # too many changes wait
    BUSY = "busy"  # other processes were changing it all the time
    ERROR = "error"


class StoreCounts(Protocol):
    """The counters; see `server/store_metrics.py`."""

    def read(self, outcome: StoreRead) -> None:
        """A read of the store."""

    def took(self, seconds: float) -> None:
        """A read of the disk in a thread."""

    def wrote(self, outcome: StoreWrite) -> None:
        """A change of the store."""

    def unreadable(self) -> None:
        """A message of another worker that cannot be read."""


class StoreReads:
    """Reads of values by key; each callback is called once."""

    def __init__(self, store: MachineStore, counts: StoreCounts, *, in_turn: bool = False) -> None:
        self._store = store
        self._counts = counts
        self.count_hit = partial(counts.read, StoreRead.HIT)
        self._in_turn = in_turn  # call back in a later turn of the event loop: for chunks, one after the other
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._failed = False

    def get(self, key: bytes, on_value: OnValue) -> None:
        """Have `on_value` called with the value of `key` and NEAR, or with None and the reason."""
        self._get(key, on_value, again=True)

    def _get(self, key: bytes, on_value: OnValue, *, again: bool) -> None:
        try:
            value = self._store.get(key, wait=self._store.mapped)
            if value is None and again and self._store.moves(key):
                asyncio.get_running_loop().call_later(AGAIN, partial(self._get, key, on_value, again=False))
                return
        except NotInMemory:
            self._get_in_thread(key, on_value)
            return
        except FAILURES as error:
            value = None
            self._fail(error)
        else:
            self._counts.read(StoreRead.MISS if value is None else StoreRead.HIT)
        word = "" if value is None else NEAR
        if self._in_turn:
            asyncio.get_running_loop().call_soon(on_value, value, word)
        else:
            on_value(value, word)

    def digest_of(self, key: bytes) -> bytes:
        """What the index has for `key`."""
        return digest_of(key)

    def at_hand(self, digest: bytes) -> tuple[int, Piece] | None:
        """The value of the key with this digest if it can be read at once, after a number of its place."""
        try:
            return self._store.read(digest, wait=self._store.mapped)
        except NotInMemory:
            return None
        except FAILURES as error:
            self._fail(error)
            return None

    def place_of(self, digest: bytes) -> int | None:
        """The number of the place of a value, as `read` gives it."""
        try:
            found = self._store.find_by(digest)
        except FAILURES:
            return None
        return None if found is None else 2 * found.position + found.log + 1

    def generation(self) -> int:
        """A number that changes with each change of the store; odd while one is made."""
        return self._store.head["generation"]

    @property
    def again(self) -> Callable[[bytes, int, int, int, int], Piece | None]:
        """Reads bytes of a value of which the place is known, as `MachineStore.read_again`."""
        return self._store.read_again

    @property
    def stays(self) -> bool:
        """Whether what was read once is read alike ever after: it lies in memory."""
        return self._store.mapped

    def _fail(self, error: BaseException) -> None:
        self._counts.read(StoreRead.ERROR)
        if not self._failed:
            self._failed = True
            log.warning("the machine's store cannot be read, which counts as a miss: %s", error)

    def _get_in_thread(self, key: bytes, on_value: OnValue) -> None:
        if self._waiting >= MOST_COLD:
            self._counts.read(StoreRead.CROWDED)
            on_value(None, "")
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(READERS, "store")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        read = _ColdRead(on_value, loop.time())
        read.timer = loop.call_later(LATE, self._late, read)
        done = self._threads.submit(self._store.get, key)
        done.add_done_callback(lambda future: loop.call_soon_threadsafe(self._read, read, future))

    def _late(self, read: _ColdRead) -> None:
        read.timer = None
        self._counts.read(StoreRead.SLOW)
        read.on_value(None, "")

    def _read(self, read: _ColdRead, future: Future[bytes | None]) -> None:
        self._waiting -= 1
        self._counts.took(asyncio.get_running_loop().time() - read.began)
        if read.timer is None:
            return
        read.timer.cancel()
        error = future.exception()
        value = None if error is not None else future.result()
        if error is not None:
            self._fail(error)
        else:
            self._counts.read(StoreRead.MISS if value is None else StoreRead.COLD)
        read.on_value(value, "" if value is None else NEAR)

    async def close(self) -> None:
        """Read no more."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)


class _ColdRead:
    """A read that waits for the disk."""

    __slots__ = ("began", "on_value", "timer")

    def __init__(self, on_value: OnValue, began: float) -> None:
        self.on_value = on_value
        self.began = began
        self.timer: asyncio.TimerHandle | None = None


class _Item(NamedTuple):
    """A waiting change; without a key, only the callback."""

    key: bytes
    value: bytes | None
    size: int
    on_reply: OnReply | None


class StoreWrites:
    """Changes, in order; those of one turn of the event loop are one transaction. On a disk a thread makes them."""

    def __init__(self, store: MachineStore, counts: StoreCounts, most_queued: int = MOST_QUEUED) -> None:
        self._store = store
        self._counts = counts
        self._most_queued = most_queued
        self._queue: deque[_Item] = deque()
        self.queued = 0  # bytes
        self._scheduled = False
        self._tries = 0
        self._failed = False
        self._threads = None if store.mapped else ThreadPoolExecutor(1, "store-writes")

    def send(self, command: tuple[object, ...], size: int = 0, on_reply: OnReply | None = None) -> bool:
        """Enqueue `command`, and have `on_reply` called; False if it is dropped at once."""
        match command:
            case ("SET", bytes(key), bytes(value), *_):
                if self.queued + len(value) > self._most_queued:
                    self._counts.wrote(StoreWrite.FULL)
                    return False
                self._enqueue(_Item(key, value, size, on_reply))
            case ("UNLINK", *keys):
                for one in keys[:-1]:
                    self._enqueue(_Item(_bytes(one), None, 0, None))
                self._enqueue(_Item(_bytes(keys[-1]), None, size, on_reply))
            case ("EXISTS", *keys):
                self._enqueue(_Item(b"", None, size, partial(self._tell_how_many, keys, on_reply)))
            case _:
                self._enqueue(_Item(b"", None, size, on_reply))
        return True

    def _tell_how_many(self, keys: list[object], on_reply: OnReply | None, size: int, _: object) -> None:
        """Reply with the number of `keys` that there are."""
        if on_reply is None:
            return
        try:
            there = sum(self._store.has(_bytes(key)) for key in keys)
        except FAILURES as error:
            on_reply(size, ConnectionError(str(error)))
        else:
            on_reply(size, there)

    async def execute(self, command: tuple[object, ...], size: int = 0, within: float | None = None) -> Any:
        """The reply to `command`, once the changes before it are made."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.send(command, size, lambda _, value: None if reply.done() else reply.set_result(value)):
            raise ConnectionError("too many changes of the store wait")
        value = await asyncio.wait_for(reply, within)
        if isinstance(value, Exception):
            raise value
        return value

    def after(self, work: Callable[[], None]) -> None:
        """Do `work` once the changes that wait are made; at once if there are none."""
        if self._queue or self._tries:
            self._enqueue(_Item(b"", None, 0, lambda _, reply: work()))
        else:
            work()

    def _enqueue(self, item: _Item) -> None:
        self._queue.append(item)
        self.queued += len(item.value or b"")
        self._schedule()

    def _schedule(self, delay: float = 0.0) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop = asyncio.get_running_loop()
            if delay:
                loop.call_later(delay, self._flush)
            else:
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Make the changes that wait, or some of them."""
        self._scheduled = False
        batch = self._take()
        part_of = self._store.shares.part_of
        changes = [Change(item.key, item.value, part_of(item.key)) for item in batch if item.key]
        if not changes or self._store.head["poisoned"]:  # then nothing of it is found any more
            self._made(batch, [change.value is None for change in changes])
        elif self._threads is None:
            try:
                self._made(batch, self._store.apply(changes))
            except Exception as error:  # whatever it is, each change has its reply, as from a thread
                self._refused(batch, error)
        else:
            self._tries += 1
            self._scheduled = True  # one after the other
            loop = asyncio.get_running_loop()
            done = self._threads.submit(self._store.apply, changes)
            done.add_done_callback(lambda future: loop.call_soon_threadsafe(self._made_in_thread, batch, future))

    def _made_in_thread(self, batch: list[_Item], future: Future[list[bool]]) -> None:
        self._scheduled = False
        error = future.exception()
        if error is not None:
            self._refused(batch, error)
        else:
            self._made(batch, future.result())

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._queue and len(batch) < MOST_CHANGES and size < BATCH_BYTES:
            item = self._queue.popleft()
            batch.append(item)
            size += len(item.value or b"")
        return batch

    def _made(self, batch: list[_Item], taken: list[bool]) -> None:
        self._tries = 0
        outcomes = iter(taken)
        for item in batch:
            if not item.key:
                self._reply(item, None)
                continue
            good = next(outcomes)
            if item.value is not None:
                self._counts.wrote(StoreWrite.STORED if good else StoreWrite.TOO_LARGE)
            self._reply(item, 1 if good else ConnectionError("too large for the machine's store"))
        if self._queue:
            self._schedule()

    def _refused(self, batch: list[_Item], error: BaseException) -> None:
        if isinstance(error, Busy) and self._tries < GIVES_UP:
            self._tries += 1
            self._queue.extendleft(reversed(batch))
            self._schedule(AGAIN * min(self._tries, SLOWER))
            return
        self._tries = 0
        if isinstance(error, Torn):
            self._clear(batch, error)
            return
        if not isinstance(error, Busy) and not self._failed:
            self._failed = True
            log.warning("the machine's store cannot be written, new responses are not stored there: %s", error)
        self._tell_refusal(batch, error)

    def _tell_refusal(self, batch: list[_Item], error: BaseException) -> None:
        for item in batch:
            if item.value is not None:
                self._counts.wrote(StoreWrite.BUSY if isinstance(error, Busy) else StoreWrite.ERROR)
            self._reply(item, ConnectionError(str(error)))
        self._drop_if_unmade(batch)
        if self._queue:
            self._schedule()

    def _drop_if_unmade(self, batch: list[_Item]) -> None:
        """What could not be dropped must not be found: it was `Corrupt`, or one that may not be kept."""
        if any(item.key and item.value is None for item in batch):
            log.warning("a record of the machine's store could not be dropped: the store is no longer used")
            self._store.poison()

    def _clear(self, batch: list[_Item], error: BaseException) -> None:
        """Clear the store, in a thread: a large index takes a while. Other changes wait."""
        log.warning("the machine's store does not match its index, and is cleared: %s", error)
        self._tries += 1
        self._scheduled = True
        spawn(self._clear_in_thread(batch, error), "clear the machine's store")

    async def _clear_in_thread(self, batch: list[_Item], error: BaseException) -> None:
        try:
            await asyncio.to_thread(self._store.clear)
        except Exception as another:  # whatever it is, as above
            log.warning("the machine's store cannot be cleared, and is no longer used: %s", another)
            self._store.poison()
        self._tries = 0
        self._scheduled = False
        self._tell_refusal(batch, error)

    def _reply(self, item: _Item, reply: object) -> None:
        self.queued -= len(item.value or b"")
        if item.on_reply is not None:
            item.on_reply(item.size, reply)

    async def close(self) -> None:
        """Make the changes that wait, and no more."""
        for _ in range(SLOWER * GIVES_UP):
            if not self._queue and not self._tries:
                break
            await asyncio.sleep(AGAIN)
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, wait=True)


def _bytes(key: object) -> bytes:
    assert isinstance(key, bytes), "keys are bytes"
    return key
