"""The product as an operator starts it: `edgecache serve` in a process of its own, asked over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO

DEADLINE = 30.0  # seconds: how long a test waits before it fails, never how long it takes
TESTS = Path(__file__).parent.parent


class RunningPop:
    """`edgecache serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.log = ""
        self.whole_log = ""
        self._told(r"starting (workers)=")

    @cached_property
    def port(self) -> int:
        """The port for clients, once the POP has told it."""
        return int(self._told(r"serves   http://127\.0\.0\.1:(\d+)/"))

    @cached_property
    def admin_port(self) -> int:
        """The port of the admin listener, once the POP has told it."""
        return int(self._told(r"metrics  http://127\.0\.0\.1:(\d+)/"))

    def _told(self, pattern: str) -> str:
        """What a line says, whether or not it was seen before."""
        until = time.monotonic() + DEADLINE
        while (match := re.search(pattern, self.whole_log)) is None:
            assert self._read(until), f"no {pattern!r} in:\n{self.whole_log}"
        return match[1]

    def _read(self, until: float) -> bool:
        """Read more of the log; False at its end, or if nothing has come in time."""
        assert self.process.stderr is not None
        readable, _, _ = select.select([self.process.stderr], [], [], max(0.0, until - time.monotonic()))
        more = os.read(self.process.stderr.fileno(), 65536).decode() if readable else ""
        self.log += more
        self.whole_log += more
        return bool(more)

    def expect(self, pattern: str) -> str:
        """Wait for a log line that matches, after those seen before; its first group, or the match."""
        until = time.monotonic() + DEADLINE
        while (match := re.search(pattern, self.log)) is None:
            assert self._read(until), f"no {pattern!r} in:\n{self.log}"
        self.log = self.log[match.end() :]
        return match[1] if match.groups() else match[0]

    @property
    def tls_port(self) -> int:
        """The port of the listener for TLS."""
        return int(self._told(r"serves   https://127\.0\.0\.1:(\d+)/"))

    def expect_worker(self) -> int:
        """Wait until one more worker is ready; its process id."""
        return int(self.expect(r"worker ready slot=\d+ pid=(\d+)"))

    def open(self, target: str) -> socket.socket:
        """A connection on which `target` has been asked."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        try:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
        except OSError:
            client.close()
            raise
        return client

    def ask(self, target: str = "/") -> int:
        """The process id of the worker that answers."""
        with self.open(target) as client, client.makefile("rb") as answer:
            return int(answer.read().split(b"\r\n\r\n")[1])

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of an admin page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, name: str) -> float:
        """The value of a metric, its labels included in its name as they are printed; 0 if it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.admin("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found is not None else 0.0

    def exit_code(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def running_pop(
    *,
    worker: str = "harness.fake_worker:FakeWorker",
    stdout: IO[bytes] | None = None,
    limit: int = 0,
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[RunningPop]:
    """A POP with one worker on free ports, killed at the end if it still lives.

    The worker is a stand-in unless named; `limit` bounds the open files of each process; `environment` is what else
    it finds there.
    """
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(TESTS),
        "EDGECACHE_ORIGIN": "http://127.0.0.1:1",
        "EDGECACHE_LISTEN": "127.0.0.1:0",
        "EDGECACHE_ADMIN_LISTEN": "127.0.0.1:0",
        "EDGECACHE_WORKERS": "1",
        **(environment or {}),
        **{f"EDGECACHE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "edgecache", "serve", "--worker", worker]
    if limit:
        command = ["prlimit", f"--nofile={limit}", *command]
    with subprocess.Popen(command, env=environ, cwd=TESTS.parent, stderr=subprocess.PIPE, stdout=stdout) as process:
        try:
            yield RunningPop(process)
        finally:
            process.kill()
