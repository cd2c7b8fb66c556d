"""POPs as processes, and the ways between them: relays that delay, swallow and cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.fault_proxy import FaultProxy

from loadtests.bench.processes import free_port

SECRET = "chain-of-the-load-test"
READY = 30.0  # seconds


class Pop:
    """`edgecache serve` with one worker, in a process of its own."""

    def __init__(self, name: str, directory: Path, **settings: object) -> None:
        self.name = name
        self.port = free_port()
        self._directory = directory
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGECACHE_")}
        settings = {
            "pop": self.name,
            "listen": f"127.0.0.1:{self.port}",
            "admin_listen": "127.0.0.1:0",
            "workers": 1,
            "access_log": "off",
            "memory": "256MiB",
            "pop_secret": SECRET,
            "first_byte_timeout": "5s",
            **self._settings,
        }
        named = {f"EDGECACHE_{name.upper()}": str(value) for name, value in settings.items()}
        with (self._directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (it is started between two measurements)
                [sys.executable, "-m", "edgecache", "serve"],
                env={**kept, **named},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + READY
        while not await self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not serve: {self._last_words()}")
            await asyncio.sleep(0.1)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"HEAD /ready HTTP/1.1\r\nHost: load\r\nCache-Control: only-if-cached\r\n\r\n")
                answer = await reader.readuntil(b"\r\n\r\n")
                writer.close()
                return answer.startswith(b"HTTP/1.1 ")
        return False

    def _last_words(self) -> str:
        lines = (self._directory / f"{self.name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def kill(self) -> None:
        """End it and its worker at once, as a machine that loses its power does."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


class Way(FaultProxy):
    """The way to one port: a round trip takes so long, and a connection one more."""

    handshake = True

    def __init__(self, target_port: int, round_trip: float = 0.0) -> None:
        super().__init__(target_port)
        self.round_trip = round_trip
        self._delay()

    def _delay(self) -> None:
        self.up.latency = self.down.latency = self.round_trip / 2

    def swallow(self) -> None:
        """Whatever comes is dropped, in both directions; connections are still taken."""
        self.up.blackhole = self.down.blackhole = True

    def slow_down(self, by: float) -> None:
        """Answers take that much longer."""
        self.down.latency += by

    def mend(self) -> None:
        """Everything passes again, as late as ever; what was swallowed stays lost: its connections end."""
        lost = self.up.blackhole
        self.heal()
        self._delay()
        if lost:
            self.reset_all()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"
