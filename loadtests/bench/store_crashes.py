"""Crashes of the machine's store: processes killed at any moment, torn writes, truncated files; and its reopening.

Two processes write records and invalidations until they are killed. Then every record is looked at: each has a digest
of its own, bound to its key, as those of the product have. As script: `store_crashes.py write|fill|open …`.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Final

from edgecache.storage.machine import store_files
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.store import Busy, Change, MachineStore, Torn

IDENTITY: Final = store_files.identity_of(b"crashes")
KEYS: Final = 500
LARGEST: Final = 200_000
KINDS: Final = ("kill", "kill", "kill", "torn", "truncated")
RECORD: Final = 100  # bytes of a record of `fill`
BATCH: Final = 500


def value_of(key: bytes, version: int, size: int) -> bytes:
    """A value that says whether it is whole, and whose it is."""
    content = (b"%b#%d|" % (key, version) * (size // (len(key) + 4) + 1))[:size]
    return blake2b(key + content, digest_size=16).digest() + content


def is_whole(key: bytes, value: bytes) -> bool:
    """Whether it is one of this key's."""
    return value[:16] == blake2b(key + value[16:], digest_size=16).digest()


def opened(path: str, *, mapped: bool, size: int = LEAST) -> MachineStore:
    """The store at `path`, as a process of the POP opens it."""
    return store_files.open_store(path, size, IDENTITY, mapped=mapped)


def write(path: str, mapped: bool) -> None:
    """Change it until this process is killed; each invalidation that is recorded is said, by its number."""
    store = opened(path, mapped=mapped)
    chance = random.Random()
    while True:
        keys = [b"%d" % chance.randrange(KEYS) for _ in range(chance.randrange(1, 8))]
        sizes = [int(chance.paretovariate(0.4)) * 100 % LARGEST for _ in keys]
        try:
            if chance.random() < 0.1:
                entry = os.urandom(chance.randrange(20, 400))
                os.write(1, b"%d\n" % store.record(entry, entry.__eq__))
            if chance.random() < 0.05:
                store.apply([Change(chance.choice(keys), None)])
            store.apply([Change(k, value_of(k, chance.getrandbits(30), s)) for k, s in zip(keys, sizes, strict=True)])
            store.get(chance.choice(keys))
        except Busy:
            pass


def crash(directory: Path, kills: int) -> dict[str, int]:
    """So many crashes; what was wrong after them."""
    found = Counter(
        {
            "crash points": 0,
            "torn records found out": 0,
            "wrong bytes": 0,
            "lost invalidations": 0,
            "unusable afterwards": 0,
        }
    )
    for number in range(kills):
        mapped, kind = bool(number % 2), KINDS[number % len(KINDS)]
        path = str(directory / ("mapped" if mapped else "disk"))
        store_files.prepare(path, LEAST, IDENTITY, mapped=mapped)
        said = _until_killed(path, mapped=mapped)
        found["crash points"] += 1
        if kind == "torn":
            _tear(path)
        elif kind == "truncated":
            _truncate(path)
        kept = store_files.prepare(path, LEAST, IDENTITY, mapped=mapped) == ""
        store = opened(path, mapped=mapped)
        found.update(_checked(store, said if kept else 0, torn=kind == "torn"))
        store.close()
    return dict(found)


def _until_killed(path: str, *, mapped: bool) -> int:
    """Have two processes write, and kill them; the number of the last invalidation that was recorded."""
    argv = [sys.executable, "-m", "loadtests.bench.store_crashes", "write", path, str(int(mapped))]
    writers = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]
    ready = [writer.stdout for writer in writers if writer.stdout is not None]
    select.select(ready, [], [], 10)
    time.sleep(random.uniform(0, 0.05))
    said = 0
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        told = writer.communicate()[0].split(b"\n")[:-1]
        said = max([said, *(int(line) for line in told)])
    return said


def _tear(path: str) -> None:
    """Some bytes of a log are not what was written there."""
    name = random.choice(("small.log", "main.log"))
    with open(f"{path}/{name}", "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(random.randrange(1, 20)):
            file.seek(random.randrange(size - 4096))
            file.write(random.choice((bytes(4096), os.urandom(512), b"\xff" * 8)))


def _truncate(path: str) -> None:
    name = random.choice(("head", "small.log", "main.log", "index/data.mdb"))
    os.truncate(f"{path}/{name}", random.randrange(os.path.getsize(f"{path}/{name}")))


def _checked(store: MachineStore, said: int, *, torn: bool) -> Counter[str]:
    """What is wrong; a torn record is one that its digest betrays, as the product's does: a miss."""
    wrong: Counter[str] = Counter()
    for number in range(KEYS):
        key = b"%d" % number
        try:
            value = store.get(key)
        except OSError:
            continue
        broken = value is not None and not is_whole(key, value)
        wrong["torn records found out"] += broken and torn
        wrong["wrong bytes"] += broken and not torn
    wrong["lost invalidations"] += store.head["log_head"] < said
    for attempt in range(3):
        try:
            good = store.apply([Change(b"probe", value_of(b"probe", attempt, 500))], wait=True) == [True]
            wrong["unusable afterwards"] += not good or not is_whole(b"probe", store.get(b"probe") or b"")
            break
        except Torn:  # a log that does not match its index: it is cleared, as the POP does
            store.clear()
            wrong["unusable afterwards"] += attempt == 2
    if torn:
        store.clear()
    return wrong


def fill(path: str, records: int) -> None:
    """So many small records."""
    store = opened(path, mapped=False, size=_size(records))
    for start in range(0, records, BATCH):
        store.apply([Change(b"%d" % n, bytes(RECORD)) for n in range(start, min(start + BATCH, records))])
    store.close()


def _size(records: int) -> int:
    return max(LEAST, records * 1400)


def reopened(directory: Path, records: int) -> float:
    """Seconds that a new process takes to open a store of so many records, and to read one of them."""
    path = str(directory)
    store_files.prepare(path, _size(records), IDENTITY, mapped=False)
    _run("fill", path, str(records))
    store_files.close_orderly(path, _size(records), IDENTITY, mapped=False)
    return float(_run("open", path, str(records)))


def _run(*arguments: str) -> bytes:
    argv = [sys.executable, "-m", "loadtests.bench.store_crashes", *arguments]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout


def open_again(path: str, records: int) -> None:
    """Print the seconds until the last record was read."""
    began = time.perf_counter()
    why = store_files.prepare(path, _size(records), IDENTITY, mapped=False)
    store = opened(path, mapped=False, size=_size(records))
    assert not why, why
    assert store.get(b"%d" % (records - 1)) == bytes(RECORD)
    print(time.perf_counter() - began)
    assert store.objects() > 0.99 * records, store.objects()


if __name__ == "__main__":
    what, where, more = sys.argv[1:]
    if what == "write":
        write(where, bool(int(more)))
    elif what == "fill":
        fill(where, int(more))
    else:
        open_again(where, int(more))
