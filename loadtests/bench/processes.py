"""Start a server on its core, wait until it answers, stop it by its pid."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.lab import procstat

SERVER_CORE = 0
LOAD_CORE = 1
READY_SECONDS = 20.0
STOP_SECONDS = 5.0


class StartError(Exception):
    """A server ended or did not answer in time; the text says what it last wrote."""


@dataclass(frozen=True)
class Command:
    """How to start a server."""

    argv: Sequence[str]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None  # where stdout goes; None: /dev/null
    tls_port: int = 0  # 0: it speaks no TLS


@dataclass(frozen=True)
class Server:
    """A server that answers on 127.0.0.1:`port`."""

    name: str
    port: int
    pid: int
    tls_port: int = 0  # 0: it speaks no TLS

    def cpu(self) -> procstat.CpuTimes:
        """CPU time so far of the process, its children and all their threads."""
        return procstat.cpu_times(self.pid)

    def resident(self) -> int:
        """Bytes the process and its children keep resident."""
        return procstat.resident_bytes(self.pid)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below the range outgoing connections are given."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(name: str, command: Command, directory: Path, core: int = SERVER_CORE) -> Iterator[Server]:
    """The server while the block runs, pinned to `core` with all its children, its own files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    errors = directory / "stderr"
    with errors.open("wb") as stderr, (command.output or Path(os.devnull)).open("wb") as stdout:
        try:
            process = subprocess.Popen(
                command.argv,
                cwd=directory,
                env={**_environment(command.env), "TMPDIR": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        except OSError as error:
            raise StartError(str(error)) from error
    try:
        _wait_ready(process, command.port, errors)
        yield Server(name, command.port, process.pid, command.tls_port)
    finally:
        _stop(process)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, without settings of edgecache that the caller's shell may hold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGECACHE_")}
    return {**kept, **extra}


def _wait_ready(process: subprocess.Popen[bytes], port: int, errors: Path) -> None:
    """Poll a GET until it is answered with 200."""
    deadline = time.monotonic() + READY_SECONDS
    seen = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"exit code {process.returncode}: {_last_line(errors)}")
        try:
            status = probe(port, "GET", "/ready").status
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        if status == 200:
            return
        seen = f"status {status}"
        time.sleep(0.05)
    raise StartError(f"not ready after {READY_SECONDS:.0f} s ({seen}): {_last_line(errors)}")


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1][-200:] if lines else "it wrote nothing to stderr"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after five seconds SIGKILL, which must also reach the children it can no longer stop."""
    family = procstat.tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
        return
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Answer:
    """The answer to one probe."""

    status: int
    fields: Mapping[str, str]  # names in lower case
    body: bytes


def probe(port: int, method: str, path: str, fields: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Host": "www.example.com", **(fields or {})})
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
