"""Origins that answer at once, badly or not at all, and count what they are asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from email.utils import formatdate

BODY = bytes(range(256)) * 80  # objects are slices of it


class Origin:
    """One web service. What it does wrong may be changed while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.bad = 0.0  # the share of requests that get 503
        self.asked = 0
        self.moments: deque[float] = deque(maxlen=200_000)  # when, by the performance counter
        self.writes: Counter[str] = Counter()  # unsafe requests, by their number
        self.now = self.most = 0  # requests under way, and the most there were
        self.delay = 0.0
        self._chance = random.Random(11)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on the port it had before if it was stopped."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last: uvloop, of what is closed
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        length = next((int(f[15:]) for f in rest.split(b"\r\n") if f.lower().startswith(b"content-length:")), 0)
        if length:
            await reader.readexactly(length)
        if target == "/ready":
            writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n")
            return
        self.asked += 1
        self.moments.append(time.perf_counter())
        if method not in ("GET", "HEAD"):
            self.writes[target] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        if self.delay:
            await asyncio.sleep(self.delay)
        self.now -= 1
        writer.write(self._reply(method, target))

    def _reply(self, method: str, target: str) -> bytes:
        if self.bad and self._chance.random() < self.bad:
            return b"HTTP/1.1 503 Service Unavailable\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n"
        kept = target.startswith("/object/")
        body = BODY[: 1000 + hash(target) % 15_000] if kept else b"once"
        control = "public, max-age=3600" if kept else "no-store"
        date = formatdate(usegmt=True)
        head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nCache-Control: {control}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + (b"" if method == "HEAD" else body)
