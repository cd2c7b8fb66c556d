"""The machine's store, as workers of a real POP share it: each object is fetched once, each purge reaches all."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness.often import slow
from harness.pop_process import RunningPop, running_pop
from harness.serving import LOOK

WORKER = "edgecache.server.worker:Worker"
TOKEN = "a-token-that-may-purge"


class Origin:
    """An origin that counts what it is asked for, and whose contents have a version."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.version = 1
        self.delay = 0.0
        self.cache_control = "max-age=600"
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                origin.asked[self.path] += 1
                time.sleep(origin.delay)
                body = content(self.path, origin.version)
                self.send_response(200)
                fields = {"Cache-Control": origin.cache_control, "Surrogate-Key": f"all {self.path[1:]}"}
                fields |= {"ETag": f'"{origin.version}"', "Content-Length": str(len(body))}
                for name, value in fields.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                origin.version += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(LOOK,), daemon=True).start()


def content(path: str, version: int) -> bytes:
    """What the origin has for `path` at `version`; `/300000-a` has that many bytes."""
    size = int(re.sub(r"\D", "", path.partition("-")[0]) or 1000)
    piece = f"{path} {version} ".encode()
    return (piece * (size // len(piece) + 1))[:size]


@pytest.fixture
def origin() -> Iterator[Origin]:
    """One of its own for each test."""
    running = Origin()
    yield running
    running.server.shutdown()
    running.server.server_close()


@contextmanager
def pop_before(origin: Origin, **settings: object) -> Iterator[RunningPop]:
    """A POP with a store, before `origin`; it is drained at the end."""
    given: dict[str, object] = {"store": "memory", "store_size": "32MiB", "memory": "48MiB", "workers": 2}
    given |= {"access_log": "off", "purge_from": "127.0.0.1", "drain_grace": "1s", "admin_token": TOKEN}
    with running_pop(worker=WORKER, origin=origin.url, **{**given, **settings}) as pop:
        for _ in range(int(str({**given, **settings}["workers"]))):
            pop.expect_worker()
        yield pop
        pop.process.terminate()
        assert pop.exit_code() == 0
        assert "Traceback" not in pop.whole_log
    assert not [name for name in os.listdir("/dev/shm") if f"-{pop.process.pid}-" in name]


Shared = tuple[RunningPop, Origin]


@pytest.fixture(scope="module", params=["memory", slow("disk")])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Two workers and their origin, for all tests that leave them as they are: each asks for paths of its own."""
    running = Origin()
    store = request.param if request.param == "memory" else f"disk:{tmp_path_factory.mktemp('store')}"
    with pop_before(running, store=store) as pop:
        yield pop, running
    running.server.shutdown()
    running.server.server_close()


def ask(
    pop: RunningPop, path: str, method: str = "GET", fields: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes, str]:
    """A request on a connection of its own: any worker may have it. Status, body, Cache-Status."""
    connection = http.client.HTTPConnection("127.0.0.1", pop.port, timeout=30)
    connection.request(method, path, body, {"Host": "site", **(fields or {})})
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers.get("Cache-Status", "")
    connection.close()
    return answer


def purge(pop: RunningPop, names: str) -> None:
    """A purge by the admin API."""
    connection = http.client.HTTPConnection("127.0.0.1", pop.admin_port, timeout=30)
    connection.request("POST", "/purges", names, {"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    assert response.status == 201, response.read()
    connection.close()


def ask_for_fifty(pop: RunningPop, origin: Origin) -> None:
    """Fifty objects in twenty rounds are fetched fifty times; without the store each worker fetches them."""
    paths = [f"/1000-fifty-{number}" for number in range(50)]
    version = origin.version
    for _ in range(20):
        for path in paths:
            assert ask(pop, path)[:2] == (200, content(path, version))

    assert [origin.asked[path] for path in paths] == [1] * 50


def test_what_one_worker_has_fetched_the_other_has_too(shared: Shared) -> None:
    """In shared memory, and on a disk."""
    ask_for_fifty(*shared)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_fifty_objects_in_twenty_rounds_are_fetched_fifty_times(origin: Origin, workers: int) -> None:
    """By any number of workers."""
    with pop_before(origin, workers=workers) as pop:
        ask_for_fifty(pop, origin)

    assert len(origin.asked) == 50


def herd(pop: RunningPop, origin: Origin, size: int) -> None:
    """So many requests for one object at once cost one fetch."""
    origin.delay = 0.3
    version, path = origin.version, "/1000-herd"
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda _: ask(pop, path)[:2], range(size)))
    origin.delay = 0.0

    assert set(answers) == {(200, content(path, version))}
    assert origin.asked[path] == 1


def test_a_herd_over_two_workers_is_one_fetch(shared: Shared) -> None:
    """Those that wait are woken by the outcome."""
    herd(*shared, 200)


@pytest.mark.slow
def test_a_herd_over_four_workers_is_one_fetch(origin: Origin) -> None:
    """A thousand."""
    with pop_before(origin, workers=4) as pop:
        herd(pop, origin, 1000)


@pytest.mark.parametrize("size", [1000, 300_000, 1_900_000])
def test_purges_and_writes_reach_what_lies_in_the_store(shared: Shared, size: int) -> None:
    """By URL, tag and site, hard and soft, by two ways; and by a write: no worker sends the older one."""
    pop, origin = shared
    path = f"/{size}-x"
    hard = {
        "url": lambda pop: purge(pop, json.dumps({"urls": [f"http://site{path}"]})),
        "tag": lambda pop: purge(pop, '{"hosts": ["site"], "tags": ["all"]}'),
        "site": lambda pop: purge(pop, '{"hosts": ["site"]}'),
        "method": lambda pop: ask(pop, path, "PURGE"),
        "write": lambda pop: ask(pop, path, "POST", body=b"x"),
        "soft": lambda pop: purge(pop, json.dumps({"urls": [f"http://site{path}"], "soft": True})),
    }
    for name, invalidate in hard.items():
        for _ in range(8):
            assert ask(pop, path)[1] == content(path, origin.version)
        before = origin.asked[path]
        origin.version += name != "write"
        invalidate(pop)
        for _ in range(8):
            assert ask(pop, path)[1] == content(path, origin.version), name
        assert origin.asked[path] - before == 1, name


@pytest.mark.slow
def test_what_is_purged_stays_purged_for_workers_that_start_later(origin: Origin, tmp_path: Path) -> None:
    """After a relief, and after a restart of the POP: the log of purges lies in the store. All else is found again."""
    disk = {"store": f"disk:{tmp_path}", "workers": 2}
    with pop_before(origin, **disk) as pop:
        for number in range(20):
            ask(pop, f"/1000-{number}")
        origin.version = 2
        ask(pop, "/1000-0", "PURGE")
        pop.process.send_signal(signal.SIGUSR2)
        for _ in range(2):
            pop.expect_worker()
        assert ask(pop, "/1000-0")[1] == content("/1000-0", 2)
        assert [ask(pop, f"/1000-{number}")[1] for number in range(1, 20)] == [
            content(f"/1000-{number}", 1) for number in range(1, 20)
        ]
        origin.version = 3
        ask(pop, "/1000-1", "PURGE")
    with pop_before(origin, **disk) as pop:
        for _ in range(4):
            assert ask(pop, "/1000-1")[1] == content("/1000-1", 3)
            assert ask(pop, "/1000-0")[1] == content("/1000-0", 2)
            assert ask(pop, "/1000-2")[1] == content("/1000-2", 1)

    assert {path: count for path, count in origin.asked.items() if count != 1} == {"/1000-0": 2, "/1000-1": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "version"), [("5m", 1), ("0s", 2)])
def test_what_was_purged_while_the_store_was_off_is_validated(
    origin: Origin, tmp_path: Path, gap: str, version: int
) -> None:
    """After more than EDGECACHE_STORE_GAP without its POP; what was purged before that stays purged."""
    disk = {"store": f"disk:{tmp_path}", "workers": 2, "store_gap": gap}
    with pop_before(origin, **disk) as pop:
        for number in range(5):
            assert ask(pop, f"/1000-{number}")[1] == content(f"/1000-{number}", 1)
    origin.version = 2
    with pop_before(origin, store="off") as pop:
        ask(pop, "/1000-0", "PURGE")
    with pop_before(origin, **disk) as pop:
        for _ in range(3):
            for number in range(5):
                assert ask(pop, f"/1000-{number}")[1] == content(f"/1000-{number}", version)

    assert set(origin.asked.values()) == {version}


@pytest.mark.slow
def test_what_lies_on_the_disk_is_encrypted_with_a_key(origin: Origin, tmp_path: Path) -> None:
    """No region is needed for that; with another key nothing is found."""
    disk = {"store": f"disk:{tmp_path}", "workers": 1, "regional_key": "42" * 32}
    for key, fetches in (("42", 1), ("42", 1), ("43", 2)):
        with pop_before(origin, **{**disk, "regional_key": key * 32}) as pop:
            for path in ("/1000-secret", "/300000-secret"):
                assert ask(pop, path)[:2] == (200, content(path, 1))
        assert set(origin.asked.values()) == {fetches}
        for name in ("small.log", "main.log", "index/data.mdb"):
            assert b"secret" not in Path(tmp_path, name).read_bytes()


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_fetches_holds_up_nobody_for_long(origin: Origin) -> None:
    """Its lock ends with it: another fetches."""
    origin.delay = 3.0
    with pop_before(origin, workers=2) as pop, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask_or_none, pop, "/1000-slow") for _ in range(8)]
        until = time.monotonic() + 10
        while not origin.asked and time.monotonic() < until:
            time.sleep(0.01)
        origin.delay = 0.0
        pids = [int(pid) for pid in re.findall(r"worker ready slot=\d+ pid=(\d+)", pop.whole_log)]
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGKILL)
        pop.expect_worker()
        pop.expect_worker()
        [one.result() for one in asked]
        assert ask(pop, "/1000-slow")[:2] == (200, content("/1000-slow", 1))
        before = sum(origin.asked.values())
        assert [ask(pop, "/1000-slow")[0] for _ in range(6)] == [200] * 6
        assert sum(origin.asked.values()) == before


def ask_or_none(pop: RunningPop, path: str) -> object:
    """The answer; None if its worker died."""
    try:
        return ask(pop, path)
    except (OSError, http.client.HTTPException):
        return None


def ask_for_ranges(pop: RunningPop, origin: Origin) -> None:
    """Of a whole that one worker has fetched. Before it lies in the store, they are passed on (RFC 9110 §14.2)."""
    path = "/1900000-film"
    whole = content(path, origin.version)
    ask(pop, path)
    until = time.monotonic() + 10
    while "/store; hit" not in (said := ask(pop, path, "HEAD")[2]) and time.monotonic() < until:
        pass
    assert "/store; hit" in said
    for first in range(0, 1_900_000, 190_000):
        status, body, _ = ask(pop, path, fields={"Range": f"bytes={first}-{first + 99}"})
        assert (status, body) == (206, whole[first : first + 100])
    assert ask(pop, path, "HEAD")[0] == 200
    assert ask(pop, path, fields={"If-None-Match": f'"{origin.version}"'})[0] == 304
    assert origin.asked[path] == 1


def test_ranges_of_what_the_other_worker_has_fetched_are_hits(shared: Shared) -> None:
    """The worker that has fetched it has it in memory."""
    ask_for_ranges(*shared)


@pytest.mark.slow
def test_ranges_of_what_lies_in_the_store_are_hits(origin: Origin) -> None:
    """And in no worker's memory."""
    with pop_before(origin, workers=2, memory="40MiB") as pop:
        ask_for_ranges(pop, origin)


@pytest.mark.slow
def test_a_directory_of_another_pop_is_not_used(origin: Origin, tmp_path: Path) -> None:
    """The second serves without a store, and says so."""
    disk = {"store": f"disk:{tmp_path}", "workers": 1}
    with pop_before(origin, **disk) as first, pop_before(origin, **disk) as second:
        assert ask(first, "/1000-a")[0] == 200
        assert ask(second, "/1000-a")[0] == 200
        assert "is used by another POP" in second.whole_log

    assert origin.asked == {"/1000-a": 2}


@pytest.mark.slow
def test_a_file_system_that_is_too_small_is_said_at_the_start(origin: Origin) -> None:
    """The POP serves without a store."""
    with pop_before(origin, store_size="60TiB", store="disk:/dev/shm/edgecache-test-too-small", workers=1) as pop:
        assert ask(pop, "/1000-a")[0] == 200
        assert "is not used" in pop.whole_log
        assert "bytes are wanted" in pop.whole_log
    shutil.rmtree("/dev/shm/edgecache-test-too-small", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV])
def test_a_store_on_which_a_worker_ends_by_a_fault_is_not_opened_again(
    origin: Origin, tmp_path: Path, number: signal.Signals
) -> None:
    """LMDB aborts on a damaged page: else each successor would, for ever. After a restart the store is made anew."""
    with pop_before(origin, store=f"disk:{tmp_path}", workers=1) as pop:
        assert ask(pop, "/1000-a")[0] == 200
        os.kill(int(re.findall(r"worker ready slot=\d+ pid=(\d+)", pop.whole_log)[0]), number)
        pop.expect(f"a worker ended by signal {number}")
        pop.expect("not used by this worker")
        pop.expect_worker()
        assert ask(pop, "/1000-a")[0] == 200
    with pop_before(origin, store=f"disk:{tmp_path}", workers=1) as pop:
        assert ask(pop, "/1000-a")[0] == 200
        assert Path(tmp_path, "head").exists()


@pytest.mark.slow
def test_what_is_purged_stays_purged_when_the_embedded_region_begins_empty(origin: Origin, tmp_path: Path) -> None:
    """Its log ends with it, the store does not: what is older is validated once, also what precedes its first entry."""
    settings = {"store": f"disk:{tmp_path}", "workers": 2, "regional": "embedded"}
    with pop_before(origin, **settings) as pop:
        for number in (1, 2):
            assert ask(pop, f"/1000-{number}")[1] == content(f"/1000-{number}", 1)
        origin.version = 2
        for number in (1, 2):
            purge(pop, json.dumps({"urls": [f"http://site/1000-{number}"]}))
    with pop_before(origin, **settings) as pop:
        for number in (1, 2, 1, 2):
            assert ask(pop, f"/1000-{number}")[1] == content(f"/1000-{number}", 2)
