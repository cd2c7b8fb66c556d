"""Faults of the machine's store that no crash of a test meets by chance: what is left behind, and by which user."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult, LeaseWait
from edgecache.storage.machine import store_files
from edgecache.storage.machine.fetch_lock import FetchLocks
from edgecache.storage.machine.schema import LEAST, STATE, WHERE
from edgecache.storage.machine.shared_state import HeadPage
from edgecache.storage.machine.store import Change, MachineStore, digest_of
from edgecache.storage.machine.store_queue import StoreRead, StoreReads, StoreWrite, StoreWrites
from edgecache.storage.machine.update import STATE_KEY

SIZE = LEAST
IDENTITY = store_files.identity_of(b"test")


@pytest.fixture(params=[True, False], ids=["mapped", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineStore]:
    """A store that is mapped, as in shared memory, or read and written, as on a disk."""
    store_files.prepare(str(tmp_path), SIZE, IDENTITY, mapped=request.param)
    opened = store_files.open_store(str(tmp_path), SIZE, IDENTITY, mapped=request.param)
    yield opened
    opened.close()


def put(store: MachineStore, key: bytes, value: bytes | None) -> bool:
    """Put, or drop, one record."""
    return store.apply([Change(key, value)]) == [True]


@pytest.mark.parametrize("log", ["begin_small", "begin_main"])
@pytest.mark.parametrize("lost", ["all", "some"])
def test_a_store_goes_on_after_a_write_that_was_cut_off(store: MachineStore, log: str, lost: str) -> None:
    """Whichever records it had begun to overwrite, the last one of the index among them."""
    size = 1000 if log == "begin_small" else 40_000
    for number in range(store.shape.main // 100_000 + 2 if log == "begin_small" else 0):  # what is new goes there first
        put(store, b"full-%d" % number, bytes(100_000))
    others = store.objects()
    for number in range(40):
        put(store, b"%d" % number, b"x" * size)
    store.head[log] = 1 << 40 if lost == "all" else 20 * size

    assert put(store, b"after", b"y" * size)
    assert store.get(b"after") == b"y" * size
    kept = sum(store.get(b"%d" % number) == b"x" * size for number in range(40))
    assert kept == 0 if lost == "all" else 0 < kept <= 20
    assert store.objects() <= others + kept + 1
    assert store.verify() == (store.objects(), 0)


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_what_is_made_is_of_use_to_its_owner_alone(tmp_path: Path, umask: int) -> None:
    """Also where that is not root: a directory without the right to search it is of no use."""
    before = os.umask(umask)
    try:
        path = store_files.private_directory(str(tmp_path))
        owner = store_files.Owner(path)
        store_files.prepare(path, SIZE, IDENTITY, mapped=True)
    finally:
        os.umask(before)
    for made in (Path(path), *Path(path).rglob("*")):
        assert stat.S_IMODE(made.stat().st_mode) == (0o700 if made.is_dir() else 0o600), made
    owner.close()


def test_a_store_in_use_says_so_on_the_disk(store: MachineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it changes: after a power cut the head page is what reached the disk."""
    store.close()
    store_files.close_orderly(store.path, SIZE, IDENTITY, mapped=store.mapped)
    flushed: list[int] = []
    monkeypatch.setattr(HeadPage, "flush", lambda head: flushed.append(head["clean"]))

    assert store_files.prepare(store.path, SIZE, IDENTITY, mapped=store.mapped) == ""
    assert flushed == [0]
    store.__dict__.update(store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped).__dict__)


def test_the_number_of_the_last_invalidation_never_goes_back(
    store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set while no other process can append: a worker that believes an older one misses an entry."""
    told: list[int] = []

    def set_and_look(head: HeadPage, name: str, value: int) -> None:
        if name == "log_head":
            told.append(value)
            with open(f"{store.path}/lock", "rb") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        set_it(head, name, value)

    set_it = HeadPage.__setitem__
    monkeypatch.setattr(HeadPage, "__setitem__", set_and_look)
    for entry in (b"one", b"two", b"one"):
        store.record(entry, entry.__eq__)

    assert told == [1, 2, 2]


class Counted:
    """What is counted."""

    def __init__(self) -> None:
        self.outcomes: list[object] = []

    def read(self, outcome: StoreRead) -> None:
        """A read."""
        self.outcomes.append(outcome)

    def took(self, seconds: float) -> None:
        """A read of the disk."""

    def wrote(self, outcome: StoreWrite) -> None:
        """A change."""
        self.outcomes.append(outcome)


@pytest.mark.parametrize(
    "entry", [b"", b"short", WHERE.pack(7, 0, 10), WHERE.pack(1, 0, (1 << 32) - 1), WHERE.pack(0, 1 << 60, 10)]
)
async def test_an_entry_of_the_index_that_is_none_is_a_counted_miss(store: MachineStore, entry: bytes) -> None:
    """As a disk may return it; no bytes are asked for that no record can have."""
    put(store, b"a", b"one")
    with store._env.begin(write=True, db=store._index) as transaction:
        transaction.put(digest_of(b"a"), entry)
    counted, values = Counted(), asyncio.Queue[bytes | None]()
    reads = StoreReads(store, counted)
    reads.get(b"a", lambda value, word: values.put_nowait(value))

    assert await values.get() in (None, b"\0" * 10)  # the latter is no record: its digest is wrong
    assert counted.outcomes != [StoreRead.MISS]
    await reads.close()


async def test_changes_of_a_store_whose_state_is_torn_have_their_replies(store: MachineStore) -> None:
    """It is cleared, and goes on."""
    put(store, b"a", b"one")
    with store._env.begin(write=True, db=store._meta) as transaction:
        transaction.put(STATE_KEY, bytes(STATE.size - 1))
    counted, replies = Counted(), asyncio.Queue[object]()
    writes = StoreWrites(store, counted)
    for _ in range(2):
        assert writes.send(("SET", b"a", b"two"), 3, lambda size, reply: replies.put_nowait(reply))
        last = await replies.get()

    assert last == 1
    assert store.get(b"a") == b"two"
    assert store.head["cleared"] == 1
    await writes.close()


@pytest.mark.parametrize("missing", [False, True])
async def test_fetch_locks_do_without_a_name_that_is_short(tmp_path: Path, missing: bool) -> None:
    """A path may be longer than that of a socket, and the directory of the sockets may be gone."""
    path = str(tmp_path / ("x" * 120))
    os.makedirs(f"{path}/wake")
    if missing:
        shutil.rmtree(f"{path}/wake")
    one, other = FetchLocks(path), FetchLocks(path)
    lease, wait = await one.take(b"key", 1.0), await other.take(b"key", 1.0)
    assert isinstance(lease, Lease)
    assert isinstance(wait, LeaseWait)
    wait.left = 20.0
    one.release(lease, LeaseResult(LeaseOutcome.STORED))

    assert await wait.result(20.0) == LeaseResult(LeaseOutcome.STORED)
    await one.close()
    await other.close()
    assert os.listdir(f"{path}/wake") == []


@pytest.mark.parametrize("name", ["head", "small.log", "index", "index/data.mdb", "lock", "fetches", "wake"])
def test_a_link_in_the_place_of_a_file_is_not_followed(store: MachineStore, tmp_path: Path, name: str) -> None:
    """Where others may write into the directory: what it leads to stays as it is, and the store is made anew."""
    put(store, b"a", b"one")
    store.close()
    place, target = Path(store.path, name), Path(f"{tmp_path}-elsewhere")
    store_files.remove(str(place))
    target.mkdir()
    (target / "file").write_bytes(b"precious")
    place.symlink_to(target if name in ("index", "wake") else target / "file")

    assert "a link" in store_files.prepare(store.path, SIZE, IDENTITY, mapped=store.mapped)
    assert (target / "file").read_bytes() == b"precious"
    assert os.listdir(target) == ["file"]
    assert not place.is_symlink()
    store.__dict__.update(store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped).__dict__)
    assert store.get(b"a") is None


def test_a_link_in_the_place_of_the_owner_or_of_a_whole_store_is_not_followed(tmp_path: Path) -> None:
    """In shared memory, any user may make one."""
    parent, elsewhere = tmp_path / "shm", tmp_path / "elsewhere"
    parent.mkdir()
    elsewhere.mkdir()
    (parent / f"{store_files.PREFIX}1").symlink_to(elsewhere)
    (parent / f"{store_files.PREFIX}2").mkdir()
    (parent / f"{store_files.PREFIX}2" / "owner").symlink_to(elsewhere / "made")
    store_files.own_directory(str(parent)).close()

    assert os.listdir(elsewhere) == []


def test_a_directory_that_another_pop_removed_as_left_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that start together: the second takes the first one's, which has no owner yet, for that of a dead one."""
    made: list[str] = []

    def made_and_removed(parent: str) -> str:
        made.append(private(parent))
        if len(made) == 1:
            private(parent)
        return made[-1]

    private = store_files.private_directory
    monkeypatch.setattr(store_files, "private_directory", made_and_removed)
    owner = store_files.own_directory(str(tmp_path))

    assert len(made) == 2
    assert os.path.isdir(owner.path)
    owner.remove()
