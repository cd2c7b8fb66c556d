"""One process of a load test: started, waited for, stopped or killed, and started again; always by its process id."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from harness.ports import free_port as free_port

from loadtests import ROOT
from loadtests.lab import procstat

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 8.0


class StartError(Exception):
    """A process ended or was not ready in time; the text says what it last wrote."""


class Missing(StartError):
    """A program or a package that is needed is not installed; the text says which, in one line."""


@dataclass(frozen=True)
class Answer:
    """The response to one probe."""

    status: int
    fields: Mapping[str, str]  # names in lower case
    body: bytes


def probe(
    port: int, method: str, target: str, fields: Mapping[str, str] | None = None, host: str = "localhost"
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, target, headers={"Host": host, **(fields or {})})
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def last_line(written: bytes) -> str:
    """The last line of what a program wrote, to be quoted in ours."""
    lines = written.decode(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it wrote nothing"


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without settings of edgecache that the caller's shell may hold, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGECACHE_")}
    return {**kept, **(more or {})}


def settings(**named: object) -> dict[str, str]:
    """Settings of edgecache as variables of an environment: `max_head="16KiB"` is EDGECACHE_MAX_HEAD."""
    return {f"EDGECACHE_{name.upper()}": str(value) for name, value in named.items()}


@dataclass
class Process:
    """A server on 127.0.0.1 that can be stopped and started again on the same port.

    As a context manager it runs while the block does.
    """

    name: str
    argv: Sequence[str]
    port: int
    ready: str  # a target that gives `status` or less; empty: it is ready when the port is open
    folder: Path  # of its files: temporary ones, and what it writes to standard output and error
    env: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    core: int | None = None  # the only one that it and its children run on
    ready_port: int = 0  # where `ready` is asked for, if that is another port
    output: Path | None = None  # where standard output goes; None: into `folder`
    tls_port: int = 0  # 0: it speaks no TLS
    _running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._running.pid if self._running is not None else 0

    @property
    def errors(self) -> Path:
        """What it writes to standard error, of all its lives."""
        return self.folder / f"{self.name}.err"

    @property
    def written(self) -> Path:
        """What it writes to standard output."""
        return self.output or self.folder / f"{self.name}.out"

    def start(self) -> None:
        """Start it, and wait until it is ready; StartError if it will not be."""
        assert self._running is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.errors.open("ab") as errors, self.written.open("ab") as output:
            try:
                self._running = subprocess.Popen(
                    self.argv,
                    cwd=self.folder,
                    env=environment({"TMPDIR": str(self.folder), **self.env}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C is for us, who end it in order
                    preexec_fn=self._pinned if self.core is not None else None,
                )
            except OSError as error:
                raise StartError(f"{self.name} does not start: {error}") from error
        try:
            self._wait_ready(self._running)
        except StartError:
            self.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left of its group after a while."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no drain, no goodbye."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cpu(self) -> procstat.CpuTimes:
        """CPU time so far of the process, its children and all their threads."""
        return procstat.cpu_times(self.pid)

    def resident(self) -> int:
        """Bytes that the process and its children keep resident."""
        return procstat.resident_bytes(self.pid)

    def _pinned(self) -> None:
        assert self.core is not None
        os.sched_setaffinity(0, {self.core})

    def _end(self, sent: signal.Signals) -> None:
        process, self._running = self._running, None
        if process is not None:
            end(process, sent)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StartError(f"{self.name} ended with exit code {process.returncode}: {self._last_words()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._is_ready():
                    return
            time.sleep(0.05)
        raise StartError(f"{self.name} was not ready in {READY_SECONDS:.0f} s: {self._last_words()}")

    def _is_ready(self) -> bool:
        if self.ready:
            return probe(self.ready_port or self.port, "GET", self.ready).status <= self.status
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def _last_words(self) -> str:
        return last_line(self.errors.read_bytes())


def end(process: subprocess.Popen[bytes], sent: signal.Signals = signal.SIGTERM) -> None:
    """End a process that leads its group: by `sent`, and SIGKILL to what is left of the group after a while."""
    process.send_signal(sent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass
class Pop:
    """`edgecache serve` as a process."""

    name: str
    port: int
    admin_port: int
    process: Process

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where it is administered."""
        return f"http://127.0.0.1:{self.admin_port}"


SERVE: Final = (sys.executable, "-m", "edgecache", "serve")


def pop(name: str, folder: Path, more: Mapping[str, str] | None = None, /, **named: object) -> Pop:
    """A POP on free ports, to be started; `named` are settings, `more` variables that come before those."""
    port, admin_port = free_port(), free_port()
    own = settings(pop=name, listen=f"127.0.0.1:{port}", admin_listen=f"127.0.0.1:{admin_port}", access_log="off")
    variables = {"PYTHONPATH": str(ROOT), **own, **settings(**named), **(more or {})}
    return Pop(name, port, admin_port, Process(name, SERVE, port, "/readyz", folder, variables, ready_port=admin_port))


@contextlib.contextmanager
def running_origin(folder: Path) -> Iterator[int]:
    """The port of the origin of versioned objects, which is counted and told by `/_origin/`, while the block runs."""
    with origin_of(folder) as process:
        yield process.port


def origin_of(folder: Path) -> Process:
    """The origin of versioned objects, to be started."""
    port = free_port()
    command = (sys.executable, "-m", "loadtests.lab.origin", str(port))
    return Process("origin", command, port, "/_origin/ready", folder, {"PYTHONPATH": str(ROOT)})
