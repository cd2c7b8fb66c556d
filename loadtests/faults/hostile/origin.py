"""The origin of the hostile runs, a process of its own: bodies of any size, at any pace, and a count of what is asked.

`/o/NAME` may be stored, `/p/NAME` may not. The query says how: `size` (bytes), `pace` (bytes per second, in ten pieces
a second), `chunked` (no length), `wait` (seconds before the answer), `head` (bytes of fields that say nothing), `tags`
(how many), `vary` (by X-Variant). A single `Range` with both ends is kept. `/stats` tells what was asked, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import cast
from urllib.parse import parse_qsl

import uvloop

PATTERN = bytes(range(256)) * 1024
LARGEST_WRITE = len(PATTERN)
LINE = 4000  # bytes of a field that says nothing
RANGE = re.compile(rb"\r\n[Rr]ange: bytes=(\d+)-(\d+)(?:\r\n|$)")
TICK = 0.1  # seconds between two pieces of a paced answer


class Counts:
    """What was asked, and how many questions were under way at once at most."""

    def __init__(self) -> None:
        self.asked = self.under_way = self.most_under_way = self.connections = self.most_connections = 0

    def begin(self) -> None:
        """A question has come."""
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

    def accept(self) -> None:
        """A connection was made."""
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)


class Connection(asyncio.Protocol):
    """One connection; its requests are answered one after the other, a request's body is read and thrown away."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._rest = b""
        self._body = 0  # bytes of a request's body still to come
        self._request: tuple[bytes, bytes, bytes] | None = None  # method, target and head of the one whose body comes
        self._room = asyncio.Event()
        self._room.set()
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._counts.accept()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for room waits no longer."""
        self._counts.connections -= 1
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        """Enough for now."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        self._rest += data
        if self._answering is None:
            self._next()

    def _next(self) -> None:
        if self._request is None:
            head, found, rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                return
            method, target, _ = head.split(b" ", 2)
            self._request, self._rest = (method, target, head), rest
            self._body = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
        taken = min(self._body, len(self._rest))
        self._body -= taken
        self._rest = self._rest[taken:]
        if self._body:
            return
        (method, target, head), self._request = self._request, None
        self._answering = asyncio.get_running_loop().create_task(self._answer(method, target, head))
        self._answering.add_done_callback(self._answered)

    def _answered(self, _: object) -> None:
        self._answering = None
        if not self._transport.is_closing():
            self._next()

    async def _answer(self, method: bytes, target: bytes, head: bytes) -> None:
        self._counts.begin()
        try:
            await self._say(method, target, head)
        finally:
            self._counts.under_way -= 1

    async def _say(self, method: bytes, target: bytes, head: bytes) -> None:
        path, _, query = target.decode().partition("?")
        wanted = dict(parse_qsl(query, keep_blank_values=True))
        if path == "/stats":
            content = json.dumps(vars(self._counts)).encode()
            self._counts.most_connections = self._counts.connections  # the most since the last look
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
            return
        size, pace = int(wanted.get("size", 1024)), int(wanted.get("pace", 0))
        await asyncio.sleep(float(wanted.get("wait", 0)))
        chunked, span = "chunked" in wanted, RANGE.search(head)
        first, end = (int(span[1]), min(int(span[2]) + 1, size)) if span else (0, size)
        more = more_of(path, wanted) + (f"Content-Range: bytes {first}-{end - 1}/{size}\r\n" if span else "")
        self._transport.write(head_of(path, None if chunked else end - first, more, 206 if span else 200))
        if method == b"HEAD":
            return
        for start in range(first, end, step := min(LARGEST_WRITE, int(pace * TICK) or LARGEST_WRITE)):
            await self._room.wait()
            piece = PATTERN[: min(step, end - start)]
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if pace:
                await asyncio.sleep(TICK)
        if chunked:
            self._transport.write(b"0\r\n\r\n")


def more_of(path: str, wanted: dict[str, str]) -> str:
    """The field lines that are asked for beside the usual ones."""
    lines = [f"X-Nothing: {'x' * min(LINE, left)}" for left in range(int(wanted.get("head", 0)), 0, -LINE)]
    if count := int(wanted.get("tags", 0)):
        lines.append("Surrogate-Key: " + " ".join(f"{path[3:]}-{number}" for number in range(count)))
    if "vary" in wanted:
        lines.append("Vary: X-Variant")
    return "".join(line + "\r\n" for line in lines)


def head_of(path: str, size: int | None, more: str = "", status: int = 200) -> bytes:
    """The head of an answer of `size` bytes; None = it comes in chunks."""
    framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    stored = path.startswith("/o/")
    control = f'max-age=3600\r\nETag: "{abs(hash(path)):x}"' if stored else "no-store"
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: text/plain\r\nCache-Control: {control}\r\n{more}{framing}\r\n\r\n"
    return head.encode()


async def serve(port: int) -> None:
    """Listen until the process is stopped."""
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counts), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
