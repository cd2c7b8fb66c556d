"""`edgecache store`, at a store that lies on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecache.server import commands
from edgecache.storage.machine import store_files
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.store import Change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with two records."""
    identity = store_files.identity_of(b"test")
    store_files.prepare(str(tmp_path), LEAST, identity, mapped=False)
    store = store_files.open_store(str(tmp_path), LEAST, identity, mapped=False)
    store.apply([Change(b"a", b"one"), Change(b"b", bytes(100))])
    store.close()
    return tmp_path


def run(what: str, folder: Path, *more: str) -> int:
    """Run the command at the store in `folder`."""
    environ = {"EDGECACHE_ORIGIN": "http://origin.example", "EDGECACHE_STORE": f"disk:{folder}"}
    return commands.run(["store", what, *more], environ)


def test_what_it_holds_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, and with --top who takes most."""
    assert run("status", folder, "--top") == 0
    said = capsys.readouterr().out
    assert "objects        2 of" in said
    assert f"size           {LEAST} bytes" in said
    assert "(encrypted)" in said


def test_it_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not where the index says is found."""
    assert run("verify", folder) == 0
    assert capsys.readouterr().out == "2 records are where the index says, 0 are not\n"
    for log in ("small.log", "main.log"):  # what is new goes where it will stay, while there is room
        with open(folder / log, "r+b") as file:
            file.write(b"\xff" * 40)
    assert run("verify", folder) == 1
    assert "1 are not" in capsys.readouterr().out


def test_it_is_emptied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records only: the purge log stays."""
    assert run("clear", folder) == 0
    assert run("status", folder) == 0
    assert "objects        0 of" in capsys.readouterr().out


def test_where_there_is_none_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an exit code of its own."""
    assert run("status", tmp_path) == 1
    assert "cannot be opened" in capsys.readouterr().err


def test_of_several_in_memory_one_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them is; the only one is meant without a word."""
    monkeypatch.setattr("edgecache.server.store_command.SHARED_MEMORY", str(tmp_path))
    environ = {"EDGECACHE_ORIGIN": "http://origin.example", "EDGECACHE_STORE": "memory", "EDGECACHE_MEMORY": "64MiB"}
    assert commands.run(["store", "status"], environ) == 1
    assert "no store of a running POP" in capsys.readouterr().err
    for number in (1, 2):
        path = tmp_path / f"{store_files.PREFIX}{number}"
        store_files.prepare(str(path), LEAST, store_files.identity_of(b"test"), mapped=True)
        assert commands.run(["store", "status"], environ) == number - 1
    assert capsys.readouterr().err.count(str(tmp_path)) == 2
