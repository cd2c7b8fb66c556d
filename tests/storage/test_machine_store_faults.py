"""Faults of the machine's store that no crash of a test meets by chance: what is left behind, and by which user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecache.storage.machine import store_files
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.shared_state import HeadPage
from edgecache.storage.machine.store import Change, MachineStore

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
    for number in range(40):
        put(store, b"%d" % number, b"x" * size)
    store.head[log] = 1 << 40 if lost == "all" else 20 * size

    assert put(store, b"after", b"y" * size)
    assert store.get(b"after") == b"y" * size
    assert store.objects() <= (1 if lost == "all" else 40)
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
