"""Stand-ins for the worker, so that the supervisor is tested without the data plane."""

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path

from edgecache.config.settings import Settings
from edgecache.telemetry.metrics import Registry, Snapshot


class FakeWorker:
    """Answers each request with its process id.

    `/hold` holds the answer's end back until the client says more; `/hang` stops the event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry()
        self._requests = self._registry.counter("fake_requests", "Requests.")
        self._open = 0
        self._idle = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve the sockets."""
        self._servers = [await asyncio.start_server(self._serve, sock=one.dup()) for one in sockets]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        head = await reader.readuntil(b"\r\n\r\n")
        self._requests.value += 1
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%d\n" % os.getpid())
        if b"/hang" in head:
            time.sleep(3600)  # noqa: ASYNC251 (it hangs, that is the point)
        if b"/hold" in head:
            await reader.read(1)
            writer.write(b"held\n")
        writer.close()
        self._open -= 1
        if self._open == 0:
            self._idle.set()

    async def reload(self, settings: Settings) -> None:
        """Nothing that a setting changes."""

    def snapshot(self) -> Snapshot:
        """What it counted."""
        return self._registry.snapshot()

    def take_spans(self, most: int) -> list[object]:
        """It traces nothing."""
        return []

    async def drain(self) -> None:
        """Accept no more and wait for the open exchanges, however long they take."""
        for server in self._servers:
            server.close()
        while self._open:
            self._idle.clear()
            await self._idle.wait()

    async def stop(self) -> None:
        """Nothing to stop: the process ends."""


class BrokenWorker(FakeWorker):
    """Never starts."""

    async def start(self, sockets: list[socket.socket]) -> None:
        """Fail."""
        raise RuntimeError("broken on purpose")


class SlowWorker(FakeWorker):
    """Takes its time to start."""

    async def start(self, sockets: list[socket.socket]) -> None:
        """Start late."""
        await asyncio.sleep(2)
        await super().start(sockets)


class OnlyOnce(FakeWorker):
    """Starts for the first worker of a supervisor only."""

    async def start(self, sockets: list[socket.socket]) -> None:
        """Fail, unless it is the first."""
        mark = Path(tempfile.gettempdir()) / f"edgecache-test-{os.getppid()}"
        if mark.exists():
            mark.unlink()
            raise RuntimeError("not twice")
        mark.touch()
        await super().start(sockets)
