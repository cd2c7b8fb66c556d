"""The embedded Valkey as a process: it is started again, ends with its POP, and has its directory to itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from harness.pop_process import DEADLINE, RunningPop, running_pop
from harness.serving import get, refusal, regional_state, socket_of
from redis import Redis, RedisError

from edgecache.config.settings import Settings, load
from edgecache.invalidation import log_runs
from edgecache.semantics.errors import ConfigError
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Registry
from edgecache.valkey import embedded_server

REAL = "edgecache.server.worker:Worker"


def settings(**more: str) -> Settings:
    """Of a POP with an embedded Valkey."""
    named = {f"EDGECACHE_{name.upper()}": value for name, value in more.items()}
    return load({"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": "embedded", **named})


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Look until it is so."""
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def process_of(path: Path, *, other_than: int = 0) -> int:
    """The process id of the server on a socket, once it answers."""
    found = 0

    def answers() -> bool:
        nonlocal found
        with suppress(RedisError, OSError), closing(Redis(unix_socket_path=str(path), socket_timeout=1.0)) as client:
            found = int(client.info("server")["process_id"])
        return found not in (0, other_than)

    wait_until(answers, "no server answers")
    return found


def stat(pid: int) -> list[str]:
    """State, parent and more of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or a zombie of somebody else's."""
    return stat(pid)[:1] in ([], ["Z"])


def lineage(pid: int, up_to: int) -> list[int]:
    """A process and its ancestors below `up_to`, the nearest to it first."""
    found: list[int] = []
    while pid != up_to:
        found.insert(0, pid)
        pid = int(stat(pid)[1])
    return found


def children(pid: int) -> dict[int, str]:
    """The states of the children of a process."""
    known = {int(entry.name): stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return {child: words[0] for child, words in known.items() if words and int(words[1]) == pid}


def end(pop: RunningPop) -> None:
    """Drain the POP."""
    pop.process.terminate()
    assert pop.exit_code() == 0


@pytest.mark.slow
def test_it_is_reached_by_its_socket_only() -> None:
    """It has no password: what other users of the machine can reach is nothing at all."""
    with embedded_server.running(settings(), log_runs) as server:
        path = Path(server.url.removeprefix("valkey+unix://"))
        with closing(Redis(unix_socket_path=str(path))) as client:
            assert client.config_get("port") == {"port": "0"}
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_whatever_is_killed_of_it_comes_back(page: str) -> None:
    """Each process that belongs to it is killed: the POP serves, it is back and used, and no zombie is left."""
    with running_pop(worker=REAL, origin=page, regional="embedded") as pop:
        path = socket_of(pop.expect_worker())
        server = process_of(path)
        for number, pid in enumerate(lineage(server, pop.process.pid)):
            os.kill(pid, signal.SIGKILL)
            assert get(pop.port, f"/{number}")[0] == 200
            process_of(path, other_than=server)
        assert has_ended(server)
        assert regional_state(pop, "ready") == "ready"
        assert "Z" not in children(pop.process.pid).values()
        assert pop.metric('edgecache_embedded_valkey_restarts_total{reason="died"}') == 1
        end(pop)


@pytest.mark.slow
def test_it_does_not_outlive_its_supervisor(page: str) -> None:
    """The supervisor is killed, and whatever stands between the two: the server ends by itself."""
    with running_pop(worker=REAL, origin=page, regional="embedded") as pop:
        path = socket_of(pop.expect_worker())
        server = process_of(path)
        whole = lineage(server, pop.process.pid)
        for pid in (pop.process.pid, *whole[:-1]):
            os.kill(pid, signal.SIGKILL)
        pop.process.wait()
        wait_until(lambda: all(has_ended(pid) for pid in whole), "it outlives its POP")
    shutil.rmtree(path.parent)


@pytest.mark.slow
async def test_one_that_hangs_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopped answers nothing: another takes its place, and the reason is counted."""
    monkeypatch.setattr(embedded_server, "SILENT_FOR", 2.0)
    registry = Registry()
    with embedded_server.running(settings(), log_runs) as server:
        path = Path(server.url.removeprefix("valkey+unix://"))
        first = process_of(path)
        keeping = spawn(server.keep(registry), "keeper")
        os.kill(first, signal.SIGSTOP)
        second = await asyncio.to_thread(process_of, path, other_than=first)
        keeping.cancel()

    assert (has_ended(first), has_ended(second)) == (True, True)
    assert registry.counter("edgecache_embedded_valkey_restarts", embedded_server.RESTARTS, reason="hangs").value == 1


@pytest.mark.slow
async def test_what_it_keeps_survives_a_kill_of_its_directory_s_writer(tmp_path: Path) -> None:
    """A server that is killed while its child writes a dump leaves nobody who writes into the directory."""
    with embedded_server.running(settings(regional_directory=str(tmp_path / "a b")), log_runs) as server:
        path = Path(server.url.removeprefix("valkey+unix://"))
        first = process_of(path)
        with closing(Redis(unix_socket_path=str(path))) as client:
            client.set("kept", "1")
            client.save()
            client.config_set("rdb-key-save-delay", "60000000")  # microseconds: for ever
            client.bgsave()
            writer = client.info("persistence")["rdb_bgsave_in_progress"]
        writers = children(first)
        keeping = spawn(server.keep(Registry()), "keeper")
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(process_of, path, other_than=first)
        keeping.cancel()
        with closing(Redis(unix_socket_path=str(path))) as client:
            assert client.get("kept") == b"1"

    assert (writer, len(writers)) == (1, 1)
    assert all(has_ended(pid) for pid in writers)


@pytest.mark.slow
def test_a_directory_belongs_to_one_pop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second POP on the same directory is refused in one line; once the first has ended it may have it."""
    monkeypatch.setattr(embedded_server, "END_WITHIN", 0.5)
    kept = str(tmp_path / "data")
    with embedded_server.running(settings(regional_directory=kept), log_runs):
        with (
            pytest.raises(ConfigError) as refused,
            embedded_server.running(settings(regional_directory=kept), log_runs),
        ):
            pass
        assert str(refused.value) == f"EDGECACHE_REGIONAL_DIRECTORY: {kept} is in use by another POP"
    with embedded_server.running(settings(regional_directory=kept), log_runs):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "below a file", "proc"])
def test_an_unusable_directory_refuses_the_start(tmp_path: Path, kind: str) -> None:
    """One line and exit code 2, whatever is wrong with it."""
    (tmp_path / "file").write_text("")
    kept = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x", "proc": "/proc/x"}[kind]
    code, said = refusal(regional="embedded", regional_directory=str(kept))

    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"EDGECACHE_REGIONAL_DIRECTORY: {kept} cannot be written: ")


def test_no_place_for_temporary_files_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /tmp and any other place, the start is refused in one line that names what to set."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/tmp")
    with (
        pytest.raises(ConfigError, match=r"^EDGECACHE_REGIONAL: .* TMPDIR .*") as refused,
        embedded_server.running(settings(), log_runs),
    ):
        pass
    assert "\n" not in str(refused.value)
