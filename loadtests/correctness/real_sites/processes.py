"""Services and the POP as processes: started, waited for, ended by their process id."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_SECONDS = 30.0
STOP_SECONDS = 8.0
POP = "real-sites"


class Missing(Exception):
    """Something that is needed is not there; the text says what, in one line."""


@dataclass(frozen=True)
class Command:
    """How to start a server, and what to ask it until it answers."""

    name: str
    argv: Sequence[str]
    port: int
    ready: str  # a target; any status below 500 counts as an answer
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pop:
    """A running edgecache: where it serves, where it is administered, and where its access log is."""

    port: int
    admin_port: int
    log: Path


def say(text: str) -> None:
    """One line of progress, on standard error."""
    print(f"real-sites: {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below the range that outgoing connections are given."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(command: Command, folder: Path) -> Iterator[Path]:
    """The server while the block runs; gives the file that its standard output goes to."""
    folder.mkdir(parents=True, exist_ok=True)
    output, errors = folder / f"{command.name}.out", folder / f"{command.name}.err"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        try:
            process = subprocess.Popen(
                command.argv,
                cwd=folder,
                env={**_environment(), **command.env, "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # what it starts is in its process group, and ends with it
            )
        except OSError as error:
            raise Missing(f"{command.name} does not start: {error}") from error
    try:
        _wait_ready(command, process, errors)
        yield output
    finally:
        _stop(process)


def _environment() -> dict[str, str]:
    """Ours, without settings of edgecache that the caller's shell may hold."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGECACHE_")}


def _wait_ready(command: Command, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Missing(f"{command.name} ended with exit code {process.returncode}: {last_line(errors.read_bytes())}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if status_of(command.port, command.ready) < 500:
                return
        time.sleep(0.1)
    raise Missing(f"{command.name} did not answer in {READY_SECONDS:.0f} s: {last_line(errors.read_bytes())}")


def status_of(port: int, target: str, host: str = "localhost") -> int:
    """The status that a port gives to a GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", target, headers={"Host": host})
        return connection.getresponse().status


def last_line(written: bytes) -> str:
    """The last line of what a program wrote, to be quoted in ours."""
    lines = written.decode(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it wrote nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process; SIGKILL to its group if it does not end in time, or leaves children behind."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def pop_before(port: int, folder: Path, workers: int, more: Mapping[str, str] | None = None) -> Iterator[Pop]:
    """An edgecache in front of a port of 127.0.0.1, with `more` settings, while the block runs."""
    listen, admin = free_port(), free_port()
    settings = {
        "EDGECACHE_ORIGIN": f"http://127.0.0.1:{port}",
        "EDGECACHE_LISTEN": f"127.0.0.1:{listen}",
        "EDGECACHE_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "EDGECACHE_POP": POP,
        "EDGECACHE_WORKERS": str(workers),
        "EDGECACHE_MEMORY": f"{256 * workers}MiB",
        "EDGECACHE_ACCESS_LOG": "json",
        "EDGECACHE_DRAIN_GRACE": "3s",
        **(more or {}),
    }
    command = Command("edgecache", [sys.executable, "-m", "edgecache", "serve"], admin, "/readyz", settings)
    with running(command, folder) as log:
        yield Pop(listen, admin, log)
