"""One process of the chain: started, waited for, stopped or killed, and started again; always by its process id."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class StartError(Exception):
    """A process ended or was not ready in time; the text says what it last wrote."""


@dataclass
class Process:
    """A server on 127.0.0.1 that can be stopped and started again on the same port."""

    name: str
    argv: Sequence[str]
    port: int  # where `ready` is asked for
    ready: str  # a target that gives 200; empty: it is ready when the port is open
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._running.pid if self._running is not None else 0

    @property
    def errors(self) -> Path:
        """What it writes to standard error, of all its lives."""
        return self.folder / f"{self.name}.err"

    def start(self) -> None:
        """Start it, and wait until it is ready; StartError if it will not be."""
        assert self._running is None, "it runs already"
        with self.errors.open("ab") as errors, (self.folder / f"{self.name}.out").open("ab") as output:
            try:
                self._running = subprocess.Popen(
                    self.argv,
                    env={**_environment(), **self.env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C is for us, who end it in order
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

    def _end(self, sent: signal.Signals) -> None:
        process, self._running = self._running, None
        if process is not None:
            end(process, sent)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StartError(f"{self.name} ended with exit code {process.returncode}: {self._last_line()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ready and status_of(self.port, self.ready) == 200:
                    return
                if not self.ready:
                    socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                    return
            time.sleep(0.05)
        raise StartError(f"{self.name} was not ready in {READY_SECONDS:.0f} s: {self._last_line()}")

    def _last_line(self) -> str:
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "it wrote nothing"


def end(process: subprocess.Popen[bytes], sent: signal.Signals = signal.SIGTERM) -> None:
    """End a process that leads its group: by `sent`, and SIGKILL to what is left of the group after a while."""
    process.send_signal(sent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def status_of(port: int, target: str) -> int:
    """The status of a GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", target)
        return connection.getresponse().status


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below the range that outgoing connections are given."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _environment() -> dict[str, str]:
    """Ours, without settings of edgecache that the caller's shell may hold."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGECACHE_")}
