"""The machine's store alone: what was put is read again or is gone, by any process, whenever one is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from harness.often import slow
from hypothesis import given
from hypothesis import strategies as st

from edgecache.storage.machine import store_files
from edgecache.storage.machine.schema import LEAST, PAGE
from edgecache.storage.machine.shared_state import BOOT_AT
from edgecache.storage.machine.store import Busy, Change, MachineStore

SIZE = LEAST
IDENTITY = store_files.identity_of(b"test")


@pytest.fixture(params=[True, False], ids=["mapped", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineStore]:
    """A store that is mapped, as in shared memory, or read and written, as on a disk."""
    path = str(tmp_path)
    assert store_files.prepare(path, SIZE, IDENTITY, mapped=request.param) == "there is none"
    opened = store_files.open_store(path, SIZE, IDENTITY, mapped=request.param)
    yield opened
    opened.close()


def put(store: MachineStore, key: bytes, value: bytes | None) -> bool:
    """Put, or drop, one record."""
    return store.apply([Change(key, value)]) == [True]


def value_of(key: bytes, version: int, size: int) -> bytes:
    """A value that says which it is: its own digest, its version, and bytes that follow from them."""
    body = (b"%b#%d|" % (key, version) * (size // (len(key) + 4) + 1))[:size]
    return blake2b(key + body, digest_size=16).digest() + body


def is_whole(key: bytes, value: bytes) -> bool:
    """Whether a value is one that `value_of` made for this key."""
    return value[:16] == blake2b(key + value[16:], digest_size=16).digest()


def test_what_is_put_is_found_replaced_and_dropped(store: MachineStore) -> None:
    """The three changes."""
    assert store.get(b"a") is None
    assert put(store, b"a", b"one")
    assert put(store, b"b", b"")
    assert store.get(b"a") == b"one"
    assert store.get(b"b") == b""
    assert put(store, b"a", b"two" * 1000)
    assert store.get(b"a") == b"two" * 1000
    assert store.has(b"a")
    assert put(store, b"a", None)
    assert store.get(b"a") is None
    assert not store.has(b"a")
    assert store.verify() == (1, 0)


def test_a_value_too_large_replaces_what_was_there_by_nothing(store: MachineStore) -> None:
    """Otherwise the older one would be found."""
    put(store, b"a", b"one")

    assert not put(store, b"a", bytes(store.shape.main))
    assert store.get(b"a") is None


def test_the_files_have_their_budget_from_the_start_and_keep_it(store: MachineStore) -> None:
    """Exactly the size, within two percent, and allocated: a full file system is met at the start or never."""
    for number in range(0, 25_000, 50):
        store.apply([Change(b"%d" % one, os.urandom(1400)) for one in range(number, number + 50)])

    files = [Path(store.path, name) for name in ("head", "small.log", "main.log", "index/data.mdb")]
    assert sum(file.stat().st_size for file in files) == pytest.approx(SIZE, rel=0.02)
    assert sum(file.stat().st_blocks * 512 for file in files) == pytest.approx(SIZE, rel=0.02)
    assert store.used() > 0.9 * (store.shape.small + store.shape.main)
    assert store.head["evicted"] > 0
    good, bad = store.verify()
    assert good == store.objects()
    assert bad == 0


def test_what_was_used_stays_while_others_pass_by(store: MachineStore) -> None:
    """A scan of five times the budget takes nothing that is used meanwhile."""
    hot = [b"hot-%d" % number for number in range(500)]
    for key in hot:
        put(store, key, key * 100)
    for number in range(0, 25_000, 10):
        store.apply([Change(b"%d" % one, bytes(1000)) for one in range(number, number + 10)])
        for one in range(number, number + 10):
            store.get(hot[one % 500])

    assert [store.get(key) for key in hot] == [key * 100 for key in hot]


@pytest.mark.slow
def test_a_disk_is_written_little_more_than_what_is_stored(store: MachineStore) -> None:
    """Even if all is used again and again; in memory, all that is used stays."""
    for number in range(40_000):
        put(store, b"%d" % number, bytes(1500))
        store.get(b"%d" % number)
        store.get(b"%d" % (number - random.randrange(5000)))

    assert store.head["stored"] == 40_000 * 1500
    assert store.head["carried"] > 1000
    again = store.head["written"] / store.head["stored"]
    assert again > 1.3 if store.mapped else again <= 1.2


def test_an_index_that_is_full_makes_room_for_itself(store: MachineStore) -> None:
    """Values so small that the index is full before the logs are."""
    for number in range(0, 40_000, 50):
        store.apply([Change(b"%d" % one, b"x") for one in range(number, number + 50)])

    assert store.objects() < 20_000
    assert store.get(b"39999") == b"x"
    assert store.verify()[1] == 0


def test_another_process_that_changes_the_store_is_not_waited_for(store: MachineStore) -> None:
    """The caller is told so at once, and may try again."""
    code = "import fcntl,os,sys; fd=os.open(sys.argv[1],os.O_RDWR); fcntl.flock(fd,2); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, f"{store.path}/lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Busy):
            put(store, b"a", b"one")
        other.kill()
    assert put(store, b"a", b"one")


def test_a_cleared_store_is_empty_and_goes_on(store: MachineStore) -> None:
    """Readers that are under way see nothing of what was there."""
    for number in range(0, 5000, 50):
        store.apply([Change(b"%d" % one, bytes(1000)) for one in range(number, number + 50)])
    store.clear()
    assert store.objects() == 0
    assert store.get(b"4999") is None
    put(store, b"a", b"one")
    assert store.get(b"a") == b"one"
    assert store.verify() == (1, 0)


def test_a_poisoned_store_is_not_read_and_not_found_again(store: MachineStore) -> None:
    """An invalidation is missing in it."""
    put(store, b"a", b"one")
    store.poison()
    assert store.get(b"a") is None
    store.close()

    assert "invalidation" in store_files.prepare(store.path, SIZE, IDENTITY, mapped=store.mapped)
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped)
    assert again.objects() == 0
    store.__dict__.update(again.__dict__)


@pytest.mark.parametrize(
    ("size", "identity", "why"),
    [
        (SIZE, IDENTITY, ""),
        (2 * SIZE, IDENTITY, "another size"),
        (SIZE, store_files.identity_of(b"other"), "another key"),
    ],
)
def test_only_a_store_of_the_same_kind_is_found_again(
    store: MachineStore, size: int, identity: bytes, why: str
) -> None:
    """After a restart of the POP."""
    put(store, b"a", b"one")
    store.close()

    assert why in store_files.prepare(store.path, size, identity, mapped=store.mapped)
    again = store_files.open_store(store.path, size, identity, mapped=store.mapped)
    assert again.get(b"a") == (None if why else b"one")
    store.__dict__.update(again.__dict__)


@pytest.mark.parametrize(("clean", "kept"), [(True, b"one"), (False, None)])
def test_a_store_outlives_the_machine_if_it_was_closed(store: MachineStore, clean: bool, kept: bytes | None) -> None:
    """What was not written to the disk in order is not trusted."""
    put(store, b"a", b"one")
    store.close()
    if clean:
        store_files.close_orderly(store.path, SIZE, IDENTITY, mapped=store.mapped)
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped)
    again.head.put_text(BOOT_AT, bytes(16))
    again.close()

    store_files.prepare(store.path, SIZE, IDENTITY, mapped=store.mapped)
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped)
    assert again.get(b"a") == kept
    store.__dict__.update(again.__dict__)


@pytest.mark.parametrize("name", ["head", "small.log", "main.log", "index/data.mdb"])
@pytest.mark.parametrize("length", [0, 100, 3 * PAGE])
def test_a_truncated_file_is_found_at_the_start(store: MachineStore, name: str, length: int) -> None:
    """The store is made anew."""
    put(store, b"a", b"one")
    store.close()
    os.truncate(f"{store.path}/{name}", length)

    store_files.prepare(store.path, SIZE, IDENTITY, mapped=store.mapped)
    again = store_files.open_store(store.path, SIZE, IDENTITY, mapped=store.mapped)
    assert again.get(b"a") is None
    put(again, b"a", b"two")
    assert again.get(b"a") == b"two"
    store.__dict__.update(again.__dict__)


def test_a_directory_is_one_pops(tmp_path: Path) -> None:
    """Another that comes is refused, until the first has ended."""
    first = store_files.Owner(str(tmp_path))
    with pytest.raises(store_files.Taken):
        store_files.Owner(str(tmp_path))
    first.close()
    store_files.Owner(str(tmp_path)).close()


def test_directories_of_pops_that_were_killed_are_removed(tmp_path: Path) -> None:
    """Those of living ones stay."""
    killed, living = store_files.private_directory(str(tmp_path)), store_files.private_directory(str(tmp_path))
    owner = store_files.Owner(living)
    store_files.private_directory(str(tmp_path))

    assert not Path(killed).exists()
    assert Path(living).exists()
    owner.close()


def test_the_purge_log_is_bounded_and_knows_what_it_has_forgotten(store: MachineStore) -> None:
    """Entries are numbered without a gap; the same one twice is one."""
    for number in range(1, 6001):
        entry = b"%d" % number * 40
        assert store.record(entry, entry.__eq__) == number
        if number % 100 == 0:
            assert store.record(entry, entry.__eq__) == number
    entries = store.entries_after(0)

    assert store.head["log_head"] == 6000
    assert entries[0][0] == store.head["first_log"] > 1
    assert [number for number, _ in entries] == list(range(entries[0][0], 6001))
    assert store.entries_after(5999) == [(6000, b"6000" * 40)]


Step = tuple[int, int | None]


@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 300_000)), max_size=60),
    batch=st.integers(1, 9),
    mapped=st.booleans(),
)
def test_what_is_read_is_what_was_put_last_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], batch: int, mapped: bool
) -> None:
    """Over all sizes, in batches, with more bytes than there is room for."""
    path = str(tmp_path_factory.mktemp("store"))
    store_files.prepare(path, SIZE, IDENTITY, mapped=mapped)
    store = store_files.open_store(path, SIZE, IDENTITY, mapped=mapped)
    model: dict[bytes, bytes | None] = {}
    for start in range(0, len(steps), batch):
        changes = [
            Change(b"%d" % key, None if size is None else value_of(b"%d" % key, start, size))
            for key, size in steps[start : start + batch]
        ]
        store.apply(changes)
        model.update((change.key, change.value) for change in changes)
        for change in changes:
            assert store.get(change.key) == model[change.key]
    assert all(store.get(key) in (None, value) for key, value in model.items())
    assert store.verify()[1] == 0
    store.close()
    store_files.remove(path)


WRITER = """
import os, random, sys
sys.path[:0] = [sys.argv[3]]
from test_machine_store import IDENTITY, SIZE, value_of
from edgecache.storage.machine import store_files
from edgecache.storage.machine.store import Busy, Change
store = store_files.open_store(sys.argv[1], SIZE, IDENTITY, mapped=sys.argv[2] == "True")
print(flush=True)
while True:
    names = [b"%d" % random.randrange(400) for _ in range(random.randrange(1, 8))]
    sizes = [int(random.paretovariate(0.4)) * 100 % 200_000 for _ in names]
    try:
        store.apply([Change(n, value_of(n, random.randrange(1 << 30), s)) for n, s in zip(names, sizes)])
        store.get(random.choice(names))
    except Busy:
        pass
"""


@pytest.mark.parametrize("kills", [1, slow(int(os.environ.get("KILLS", "6")))])
def test_processes_killed_at_any_moment_leave_nothing_wrong(store: MachineStore, kills: int) -> None:
    """Two that write are killed again and again: each value is whole and its key's, and the store goes on."""
    arguments = [sys.executable, "-c", WRITER, store.path, str(store.mapped), str(Path(__file__).parent)]
    for _ in range(kills):
        writers = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(random.uniform(0, 0.2))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        for number in range(400):
            value = store.get(b"%d" % number)
            assert value is None or is_whole(b"%d" % number, value)
        assert store.apply([Change(b"probe", b"alive")], wait=True) == [True]
        assert store.get(b"probe") == b"alive"
    assert store.head["cleared"] == 0
    assert store.verify()[1] == 0
