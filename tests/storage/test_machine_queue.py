"""The machine's store on an event loop: reads and changes, one fetch per machine, and the purge log of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecache.invalidation import scopes
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.machine_log import MachineLog
from edgecache.invalidation.purge_log import EntryKind, PurgeLog, Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.validity import Invalidation
from edgecache.proxy.collapsing import Flights
from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult, LeaseWait
from edgecache.storage.machine import store_files
from edgecache.storage.machine.fetch_lock import FetchLocks
from edgecache.storage.machine.purge_entry import PurgeEntries
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.store import Change, MachineStore, digest_of
from edgecache.storage.machine.store_queue import StoreReads, StoreWrites
from edgecache.storage.machine.update import BEGINS
from edgecache.storage.memory import Memory

IDENTITY = store_files.identity_of(b"test")


class Counts:
    """What was counted."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def read(self, outcome: Any) -> None:
        """A read."""
        self.seen[f"read {outcome.value}"] += 1

    def took(self, seconds: float) -> None:
        """A read of the disk."""
        self.seen["took"] += 1

    def wrote(self, outcome: Any) -> None:
        """A change."""
        self.seen[f"write {outcome.value}"] += 1


@pytest.fixture(params=[True, False], ids=["mapped", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineStore]:
    """A store in memory, or on a disk."""
    store_files.prepare(str(tmp_path), LEAST, IDENTITY, mapped=request.param)
    opened = store_files.open_store(str(tmp_path), LEAST, IDENTITY, mapped=request.param)
    yield opened
    opened.close()


async def value_of(reads: StoreReads, key: bytes) -> tuple[bytes | None, str]:
    """What a read comes to."""
    came: asyncio.Future[tuple[bytes | None, str]] = asyncio.get_running_loop().create_future()
    reads.get(key, lambda value, word: came.set_result((value, word)))
    return await asyncio.wait_for(came, 10)


async def test_what_is_sent_is_read_once_it_is_executed(store: MachineStore) -> None:
    """The commands of the tier's client, in their order."""
    counts = Counts()
    reads, writes = StoreReads(store, counts), StoreWrites(store, counts)
    assert writes.send(("SET", b"a", b"one", "PX", b"1000"), 3)
    assert writes.send(("SET", b"b", bytes(100_000), "PX", b"1000"), 3)
    assert await writes.execute(("EXISTS", b"a", b"b", b"c")) == 2
    assert await value_of(reads, b"a") == (b"one", "near")
    assert await value_of(reads, b"b") == (bytes(100_000), "near")
    await writes.execute(("UNLINK", b"a", b"b"))
    assert await value_of(reads, b"a") == (None, "")
    assert counts.seen["write stored"] == 2
    assert writes.queued == 0
    await reads.close()
    await writes.close()


async def test_changes_wait_for_another_process_and_the_event_loop_does_not(store: MachineStore) -> None:
    """They are made as soon as that is done."""
    writes = StoreWrites(store, Counts())
    other = os.open(f"{store.path}/lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    done = asyncio.ensure_future(writes.execute(("SET", b"a", b"one"), 3))  # noqa: TID251 (of a test)
    await asyncio.sleep(0.05)
    assert not done.done()
    assert store.get(b"a") is None
    os.close(other)
    await asyncio.wait_for(done, 10)
    assert store.get(b"a") == b"one"
    await writes.close()


async def test_what_cannot_be_dropped_makes_the_store_unusable(
    store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be found again: it may be wrong. All else that fails is a miss."""
    counts = Counts()
    reads, writes = StoreReads(store, counts), StoreWrites(store, counts)
    await writes.execute(("SET", b"a", b"one"), 3)

    def broken(*_: object, **__: object) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(store, "apply", broken)
    with pytest.raises(ConnectionError):
        await writes.execute(("SET", b"b", b"two"), 3)
    assert await value_of(reads, b"a") == (b"one", "near")
    with pytest.raises(ConnectionError):
        await writes.execute(("UNLINK", b"a"))
    assert await value_of(reads, b"a") == (None, "")
    monkeypatch.setattr(store, "get", broken)
    assert await value_of(reads, b"a") == (None, "")
    assert counts.seen["read error"] == 1
    assert counts.seen["write error"] == 1
    await writes.close()


async def test_one_of_several_has_the_lock_and_the_others_are_told(store: MachineStore) -> None:
    """The outcome comes as a datagram; the next one that asks has the lock."""
    one, two = FetchLocks(store.path), FetchLocks(store.path)
    lease = await one.take(b"ec:a", 1)
    assert isinstance(lease, Lease)
    waiting = await two.take(b"ec:a", 1)
    assert isinstance(waiting, LeaseWait)
    assert await one.take(b"ec:a", 1) is None
    result = LeaseResult(LeaseOutcome.FAILED, 502, "closed")
    one.release(lease, result)
    assert await waiting.result(10) == result
    other = await two.take(b"ec:b", 1), await one.take(b"ec:a", 1)
    assert [type(each) for each in other] == [Lease, Lease]
    await one.close()
    assert isinstance(await two.take(b"ec:a", 1), Lease)
    await two.close()
    assert os.listdir(f"{store.path}/wake") == []


def process(code: str, path: str) -> subprocess.Popen[bytes]:
    """A Python process that has printed its first line."""
    started = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    return started


async def test_the_lock_of_a_process_that_is_killed_is_free(store: MachineStore) -> None:
    """Who waits tries again."""
    code = (
        "import asyncio, sys\nfrom edgecache.storage.machine.fetch_lock import FetchLocks\n"
        "async def main():\n locks = FetchLocks(sys.argv[1])\n await locks.take(b'ec:a', 1)\n"
        " print(flush=True)\n await asyncio.sleep(60)\nasyncio.run(main())"
    )
    locks = FetchLocks(store.path)
    with process(code, store.path) as other:
        waiting = await locks.take(b"ec:a", 1)
        assert isinstance(waiting, LeaseWait)
        other.kill()
        other.wait()
        assert await waiting.result(10) is None
        lease = await locks.take(b"ec:a", 1)
    assert isinstance(lease, Lease)
    locks.release(lease, LeaseResult(LeaseOutcome.STORED))  # one that is gone is not sent to
    await locks.close()


def log_of(store: MachineStore) -> tuple[MachineLog, Invalidation]:
    """The log as one more worker has it."""
    invalidation = Invalidation(PurgeLog(), Memory(1 << 20, "lru", 1 << 16, 64), Flights(60))
    return MachineLog(invalidation, PurgeEntries(store)), invalidation


def verdict(log: MachineLog, invalidation: Invalidation, seen: str, tag: bytes = b"t") -> Verdict | None:
    """What a worker says of a record with this `seen`."""
    position = log.position_of(seen)
    return None if position is None else invalidation.log.check(Subject(b"http://h/a", (tag,)), position)


async def test_a_purge_is_known_to_workers_that_were_and_that_come(store: MachineStore) -> None:
    """By the number of entries that had been applied when a response was requested."""
    one, first = log_of(store)
    before = one.written(first.log.position)
    two, second = log_of(store)
    await one.record(Draft(EntryKind.PURGE, (scopes.tag(b"t"),)))
    after = one.written(first.log.position)
    late, third = log_of(store)

    for log, invalidation in ((one, first), (two, second), (late, third)):
        assert verdict(log, invalidation, before) is Verdict.PURGED
        assert verdict(log, invalidation, before, b"u") is Verdict.USABLE
        assert verdict(log, invalidation, after) is Verdict.USABLE
        assert verdict(log, invalidation, "") is None
        assert log.written(invalidation.log.position) == after
    for number in range(1000):
        await one.record(Draft(EntryKind.PURGE, (scopes.tag(b"x%d" % number * 80),)))
    latest, fourth = log_of(store)
    assert store.head["first_log"] > 1
    assert verdict(latest, fourth, before) is None  # what purged it may be forgotten: it is validated
    assert verdict(latest, fourth, one.written(first.log.position)) is Verdict.USABLE
    assert verdict(two, second, one.written(first.log.position)) is Verdict.USABLE


async def test_a_purge_that_cannot_be_written_ends_the_store(
    store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds in this worker all the same."""
    log, invalidation = log_of(store)
    position = invalidation.log.position
    monkeypatch.setattr(store, "record", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
    await log.record(Draft(EntryKind.PURGE, (scopes.tag(b"t"),)))

    assert store.head["poisoned"] == 1
    assert invalidation.log.check(Subject(b"http://h/a", (b"t",)), position) is Verdict.PURGED


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    """Neither LMDB nor the modules of the store."""
    code = (
        "import sys, edgecache.server.worker, edgecache.server.commands, edgecache.server.supervisor\n"
        "print([name for name in sys.modules if name.startswith(('lmdb', 'edgecache.storage.machine'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


async def test_what_is_being_moved_is_read_after_that(store: MachineStore) -> None:
    """Between the moment at which its old place leaves the readable range and that at which the new one is known."""
    store.apply([Change(b"a", b"value")])
    found = store.find_by(digest_of(b"a"))
    assert found is not None
    name = BEGINS[found.log]
    begin = store.head[name]
    store.head["generation"] |= 1
    store.head[name] = found.position + 1
    read: list[bytes | None] = []

    StoreReads(store, Counts()).get(b"a", lambda value, word: read.append(value))

    assert not read
    store.head[name] = begin  # it is known where it lies
    store.head["generation"] += 1
    while not read:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.001)
    assert read == [b"value"]
