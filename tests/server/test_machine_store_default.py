"""The machine's store in memory by its default size: a part of EDGECACHE_MEMORY, as large as fits."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.pop_process import running_pop

from edgecache.config.settings import Settings, found_by_machine, load
from edgecache.config.sources import Source
from edgecache.server import machine_store
from edgecache.storage.machine import store_files

MIB = 1024 * 1024
Log = pytest.LogCaptureFixture
ORIGIN = {
    "EDGECACHE_ORIGIN": "http://origin.example",
    "EDGECACHE_MEMORY": "256MiB",
    "EDGECACHE_WORKERS": "2",
    "EDGECACHE_STORE": "memory",
}


class Usage(NamedTuple):
    """Of a file system."""

    total: int
    used: int
    free: int


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of that of the machine."""
    for function in (store_files.private_directory, store_files.own_directory, store_files.remove_left):
        monkeypatch.setattr(function, "__defaults__", (str(tmp_path),))
    return tmp_path


def started(monkeypatch: pytest.MonkeyPatch, free: int, **more: str) -> tuple[Settings, list[str]]:
    """The settings of workers where shared memory has so many MiB free, and the files of the store meanwhile."""
    monkeypatch.setattr(machine_store.shutil, "disk_usage", lambda path: Usage(free * MIB, 0, free * MIB))
    source = Source(
        {**ORIGIN, "EDGECACHE_STORE": "memory", **{f"EDGECACHE_{name}": value for name, value in more.items()}}
    )
    source.read()
    source.found = found_by_machine(source.merged())
    with machine_store.prepared(load(source.merged()), source):
        settings = load(source.merged())
        path = settings.store.partition(":")[2]
        return settings, sorted(os.listdir(path)) if path else []


@pytest.mark.parametrize(
    ("free", "size", "worker"),
    [(4096, 192, 32), (205, 192, 32), (64, 60, 98), (18, 16, 120), (16, 0, 128)],
)
def test_the_store_has_what_shared_memory_has(
    shared_memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    size: int,
    worker: int,
) -> None:
    """Docker gives a container 64 MB; the workers have all the rest of the memory. One line says so."""
    with caplog.at_level(logging.WARNING):
        settings, files = started(monkeypatch, free)

    assert settings.store_memory == size * MIB
    assert settings.worker_memory == worker * MIB
    assert ("main.log" in files) == (size > 0)
    assert caplog.text.count(f"MiB free: the machine's store has {size} MiB instead of 192") == (size < 192)
    assert os.listdir(shared_memory) == []


def test_a_size_that_is_configured_is_not_made_smaller(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It fits, or there is none."""
    settings, files = started(monkeypatch, 20, STORE_SIZE="64MiB")

    assert (settings.store_memory, settings.worker_memory) == (64 * MIB, 96 * MIB)
    assert "main.log" in files


@pytest.mark.slow
def test_a_store_in_memory_ends_with_its_pop() -> None:
    """And nothing else is said."""
    with running_pop(worker="edgecache.server.worker:Worker", workers=2, memory="64MiB", store="memory") as pop:
        for _ in range(2):
            pop.expect_worker()
        assert pop.metric("edgecache_store_size_bytes") == pytest.approx(42 * MIB, rel=0.02)
        assert pop.metric("edgecache_store_usable") == 1
        pop.process.terminate()
        assert pop.exit_code() == 0
    assert "WARNING" not in pop.whole_log
    assert not [name for name in os.listdir("/dev/shm") if f"-{pop.process.pid}-" in name]
