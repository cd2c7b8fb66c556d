"""What a store does about what it missed or lost: time without a POP, entries of lost records, unreadable messages."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecache.storage.machine import store_files
from edgecache.storage.machine.fetch_lock import FetchLocks
from edgecache.storage.machine.record_log import CircularLog, NotInMemory
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.store import Change, MachineStore, digest_of
from edgecache.storage.machine.store_queue import MOST_COLD, StoreRead, StoreReads, StoreWrite
from edgecache.storage.machine.update import SWEPT

SIZE = LEAST
IDENTITY = store_files.identity_of(b"test")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MachineStore]:
    """A store on a disk."""
    store_files.prepare(str(tmp_path), SIZE, IDENTITY, mapped=False)
    opened = store_files.open_store(str(tmp_path), SIZE, IDENTITY, mapped=False)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("last_used", "away", "kept"),
    [(0, 300.0, True), (-299, 300.0, True), (-302, 300.0, False), (+10, 300.0, False), (0, 0.0, False)],
)
def test_records_of_a_store_that_was_without_its_pop_are_from_before_a_gap(
    store: MachineStore, last_used: int, away: float, kept: bool
) -> None:
    """Seconds before now, or after it, as when the clock was set back; none at all may be allowed."""
    store.record(b"one", b"one".__eq__)
    store_files.note_use(store)
    store.head["last_used"] += last_used
    store.close()

    assert store_files.prepare(store.path, SIZE, IDENTITY, mapped=False, away=away) == ""
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=False)
    numbers = [number for number, _ in again.entries_after(0)]
    assert numbers == ([1] if kept else [3])
    assert again.head["log_head"] == numbers[-1]
    store.__dict__.update(again.__dict__)


def test_a_store_that_a_pop_serves_without_is_from_before_a_gap(store: MachineStore) -> None:
    """However short that is."""
    store.close()
    store_files.abandon(store.path)

    store_files.prepare(store.path, SIZE, IDENTITY, mapped=False, away=3600.0)
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=False)
    assert [number for number, _ in again.entries_after(0)] == [2]
    store.__dict__.update(again.__dict__)


@pytest.mark.parametrize("count", [SWEPT // 2, SWEPT, 4 * SWEPT])
def test_entries_of_lost_records_are_removed_some_at_a_time(store: MachineStore, count: int) -> None:
    """No change takes long, whatever a killed process has left."""
    for start in range(0, count, 64):
        store.apply([Change(b"%d" % number, b"x") for number in range(start, start + 64)])
    store.head["begin_small"] = store.head["begin_main"] = 1 << 40
    changes = 0
    while store.head["sweeping"] or not changes:
        before = store.objects()
        store.apply([Change(b"after", b"y")])
        changes += 1
        assert store.objects() >= before - SWEPT
        assert store.get(b"1") is None
        assert store.get(b"after") == b"y"

    assert changes >= count / SWEPT
    assert store.objects() == 1
    assert store.verify() == (1, 0)


def test_an_index_full_of_lost_records_takes_new_ones(store: MachineStore) -> None:
    """All are removed then, and nothing that was stored since."""
    most = store.shape.most_objects
    with store._env.begin(write=True, db=store._index) as transaction:
        for number in range(most):
            transaction.put(digest_of(b"%d" % number), b"no entry")
    store.head["sweeping"] = 1

    assert store.apply([Change(b"a", b"one"), Change(b"b", b"two")]) == [True, True]
    for number in range(most // SWEPT + 2):
        store.apply([Change(b"%d" % number, None)])
    assert (store.get(b"a"), store.get(b"b"), store.objects()) == (b"one", b"two", 2)


async def test_a_disk_that_does_not_respond_is_passed_by(store: MachineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read is a miss after 50 ms, those beyond a number at once; the event loop goes on, and so does the tier."""
    store.apply([Change(b"a", b"one")])
    responds, counted = threading.Event(), Counted()
    read = CircularLog.read

    def stuck(log: CircularLog, position: int, length: int, *, wait: bool) -> bytes:
        if not wait:
            raise NotInMemory
        responds.wait(60)
        return read(log, position, length, wait=wait)

    monkeypatch.setattr(CircularLog, "read", stuck)
    reads, values = StoreReads(store, counted), asyncio.Queue[bytes | None]()
    for _ in range(MOST_COLD + 3):
        reads.get(b"a", lambda value, word: values.put_nowait(value))
    assert [await asyncio.wait_for(values.get(), 20) for _ in range(MOST_COLD + 3)] == [None] * (MOST_COLD + 3)
    assert counted.reads == {StoreRead.CROWDED: 3, StoreRead.SLOW: MOST_COLD}

    responds.set()
    await asyncio.wait_for(counted.all_took.wait(), 20)
    reads.get(b"a", lambda value, word: values.put_nowait(value))
    assert await asyncio.wait_for(values.get(), 20) == b"one"
    assert counted.reads[StoreRead.COLD] == 1
    await reads.close()


class Counted:
    """What is counted of reads."""

    def __init__(self) -> None:
        self.reads: Counter[StoreRead] = Counter()
        self.took_times = 0
        self.all_took = asyncio.Event()

    def read(self, outcome: StoreRead) -> None:
        """A read."""
        self.reads[outcome] += 1

    def took(self, seconds: float) -> None:
        """A read of the disk."""
        self.took_times += 1
        if self.took_times == MOST_COLD:
            self.all_took.set()

    def wrote(self, outcome: StoreWrite) -> None:
        """A change."""

    def unreadable(self) -> None:
        """A message."""


async def test_a_message_that_cannot_be_read_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each one; a line of the log says so once. Later ones are read."""
    counted: list[None] = []
    locks = FetchLocks(str(tmp_path), lambda: counted.append(None))
    (name,) = os.listdir(tmp_path / "wake")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, caplog.at_level(logging.WARNING):
        for message in (b"", b"{", b"[1]", b'["key","no-outcome",0,""]', b'["key","stored","x",""]'):
            other.sendto(message, str(tmp_path / "wake" / name))
        waiting = locks.wait_for(b"key")
        waiting.left = 20.0
        other.sendto(b'["key","stored",200,""]', str(tmp_path / "wake" / name))
        result = await asyncio.wait_for(waiting.result(20.0), 20.0)

    assert result is not None
    assert result.status == 200
    assert len(counted) == 5
    assert caplog.text.count("cannot be read") == 1
    await locks.close()
