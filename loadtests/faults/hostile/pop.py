"""The POP under attack, `edgecache serve` as an operator starts it, and what the kernel says of its workers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import ROOT
from loadtests.lab import procstat
from loadtests.lab.processes import SERVE, Process, StartError, end, environment, free_port, probe
from loadtests.lab.processes import settings as settings_of

READY_SECONDS = 30.0
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Line:
    """One line that the supervisor has logged, and when it was read."""

    at: float  # monotonic seconds
    text: str


@dataclass
class Pop:
    """A running POP."""

    port: int
    admin_port: int
    process: subprocess.Popen[bytes]
    lines: list[Line] = field(default_factory=list)

    def workers(self) -> list[int]:
        """The process ids of the living workers, in the order in which they started."""
        return [pid for pid in procstat.tree(self.process.pid) if self._is_worker(pid)]

    @staticmethod
    def _is_worker(pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return b"_worker" in command.split(b"\0")

    def metrics(self) -> dict[str, float]:
        """Every sample by its name with its labels."""
        text = probe(self.admin_port, "GET", "/metrics").body.decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def wait_for(self, pattern: str, since: float, within: float) -> Line | None:
        """The first line logged after `since` that matches, or None."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            for line in tuple(self.lines):
                if line.at >= since and re.search(pattern, line.text):
                    return line
            time.sleep(0.01)
        return None

    def hang_up(self) -> None:
        """SIGUSR2: relieve the workers one by one."""
        self.process.send_signal(signal.SIGUSR2)


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes that a process has resident, of its own: shared pages of libraries are left out."""
    _, rss, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (rss - shared) * PAGE


def waited(pid: int) -> float:
    """Seconds that a process's main thread has waited for a core so far: lag for which the machine is to blame."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def owner(pop: Pop, client_port: int) -> int | None:
    """The worker that has accepted the connection from `client_port`; None if none has yet."""
    inode = _inode(pop.port, client_port)
    for pid in pop.workers() if inode else ():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}") == f"socket:[{inode}]":
                        return pid
    return None


def _inode(port: int, client_port: int) -> str | None:
    local, remote = f":{port:04X}", f":{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        if parts[1].endswith(local) and parts[2].endswith(remote):
            return parts[9]
    return None


@contextlib.contextmanager
def running(origin_port: int, output: str = os.devnull, files: int = 0, **settings: object) -> Iterator[Pop]:
    """A POP in front of the origin while the block runs; its access log goes to `output`.

    `files` bounds the open files of each of its processes.
    """
    port, admin_port = free_port(), free_port()
    own = settings_of(
        origin=f"http://127.0.0.1:{origin_port}",
        listen=f"127.0.0.1:{port}",
        admin_listen=f"127.0.0.1:{admin_port}",
        **settings,
    )
    environ = environment({"PYTHONPATH": str(ROOT), **own})
    with open(output, "wb") as stdout:
        command = ["prlimit", f"--nofile={files}", *SERVE] if files else SERVE
        process = subprocess.Popen(
            command, env=environ, stdout=stdout, stderr=subprocess.PIPE, cwd="/tmp", start_new_session=True
        )
    pop = Pop(port, admin_port, process)
    reading = threading.Thread(target=_read, args=(pop,), daemon=True)
    reading.start()
    try:
        _wait_ready(pop, int(str(settings["workers"])))
        yield pop
    finally:
        end(process)
        reading.join(1)


def _read(pop: Pop) -> None:
    assert pop.process.stderr is not None
    for line in pop.process.stderr:
        pop.lines.append(Line(time.monotonic(), line.decode(errors="replace").rstrip()))


def _wait_ready(pop: Pop, workers: int) -> None:
    until = time.monotonic() + READY_SECONDS
    while sum("worker ready" in line.text for line in pop.lines) < workers:
        if pop.process.poll() is not None or time.monotonic() > until:
            raise StartError("\n".join(line.text for line in pop.lines[-5:]) or "it said nothing")
        time.sleep(0.05)


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """The origin while the block runs; its port."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("origin.py")), str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="edgecache-origin-") as folder,
        Process("origin", command, port, "/stats", Path(folder)),
    ):
        yield port


def get(port: int, target: str) -> bytes:
    """The body of one response, on a connection of its own."""
    answer = probe(port, "GET", target, host="site")
    if answer.status != 200:
        raise StartError(f"{target} was answered with {answer.status}")
    return answer.body
