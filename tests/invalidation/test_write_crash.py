"""A POP's worker is killed by -9 at each step of a write: what it changed is invalidated all the same, everywhere."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from harness.pop_process import RunningPop, running_pop
from harness.valkey import Server

from edgecache.server.worker_main import DEFAULT_WORKER

DEADLINE = 20.0


class Origin(ThreadingHTTPServer):
    """Its one page says its version. A PUT waits for leave before it changes it, and before it is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = 1
        self.arrived, self.may_change, self.changed, self.may_answer = (threading.Event() for _ in range(4))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One connection of a POP."""

    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        """The page, or 304."""
        etag = f'"{self.server.version}"'
        fresh = self.headers.get("If-None-Match") == etag
        self._answer(304 if fresh else 200, b"" if fresh else b"v%d" % self.server.version, etag)

    def do_PUT(self) -> None:
        """A new version, in its time."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.set()
        self.server.may_change.wait(DEADLINE)
        self.server.version += 1
        self.server.changed.set()
        self.server.may_answer.wait(DEADLINE)
        self._answer(200, b"written", '"x"')

    def _answer(self, status: int, content: bytes, etag: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Cache-Control", "max-age=600")
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    """The origin, in a thread of its own."""
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        for event in (server.may_change, server.may_answer):
            event.set()
        server.shutdown()
        thread.join()


def get(pop: RunningPop) -> bytes:
    """The page, by one POP."""
    connection = http.client.HTTPConnection("127.0.0.1", pop.port, timeout=DEADLINE)
    try:
        connection.request("GET", "/page", headers={"Host": "site"})
        return connection.getresponse().read()
    finally:
        connection.close()


def begin_write(pop: RunningPop) -> socket.socket:
    """A connection on which a PUT was sent."""
    client = socket.create_connection(("127.0.0.1", pop.port), timeout=DEADLINE)
    client.sendall(b"PUT /page HTTP/1.1\r\nHost: site\r\nContent-Length: 1\r\n\r\nx")
    return client


def in_log(valkey: Server, kind: bytes) -> int:
    """How many entries of a kind the log holds."""
    return sum(fields[b"k"] == kind for _, fields in valkey.db.xrange("ec:{log}:region:local"))


def wait_for_end(valkey: Server) -> None:
    """Wait until somebody has ended the write."""
    until = time.monotonic() + DEADLINE
    while not in_log(valkey, b"end"):
        assert time.monotonic() < until, "nobody ended the write"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["before the origin has changed", "before the origin answers", "before the writer knows"]
)
def test_killed_in_the_middle_of_a_write(origin: Origin, valkey: Server, step: str) -> None:
    """The other POP never serves what is older than the origin, and the write is ended for the one that died."""
    settings = {"origin": origin.url, "regional": valkey.url, "write_timeout": "3s", "worker": DEFAULT_WORKER}
    last = step == "before the writer knows"
    unreachable = {"write_ack": "all", "peers": "us=valkey://127.0.0.1:1"} if last else {}
    with ExitStack() as stack:
        one = stack.enter_context(running_pop(pop="one", **settings, **unreachable))
        two = stack.enter_context(running_pop(pop="two", **settings))
        pid = one.expect_worker()
        two.expect_worker()
        assert get(one) == get(two) == get(two) == b"v1"
        stack.enter_context(begin_write(one))
        assert origin.arrived.wait(DEADLINE)
        assert in_log(valkey, b"begin") == 1
        if step == "before the origin has changed":
            os.kill(pid, signal.SIGKILL)
            assert get(two) == b"v1"  # validated: it is not written yet
            origin.may_change.set()
        else:
            origin.may_change.set()
            assert origin.changed.wait(DEADLINE)
            assert get(two) == b"v2"  # in doubt: validated
            if last:
                origin.may_answer.set()
                wait_for_end(valkey)
            os.kill(pid, signal.SIGKILL)
        assert origin.changed.wait(DEADLINE)
        for _ in range(5):
            assert get(two) == b"v2"
        wait_for_end(valkey)
        assert get(two) == b"v2"
        one.expect_worker()
        assert get(one) == b"v2"
