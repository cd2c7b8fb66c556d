"""The origin for machines without nginx: the same answers from a bare uvloop protocol.

Run as a script (`tiny_origin.py PORT BIG_FILE`); it counts its requests in the words of nginx's stub_status.
"""

from __future__ import annotations

import asyncio
import sys
from email.utils import formatdate
from pathlib import Path
from typing import cast

import uvloop

SMALL = (b"<p>The quick brown fox jumps over the lazy dog, as it did on every page before.</p>\n" * 16)[:1024]
FRESH = (
    b'Cache-Control: max-age=3600\r\nETag: "65f1c2aa-400"\r\n'
    b"Last-Modified: Wed, 13 Mar 2024 16:21:14 GMT\r\nContent-Type: text/html\r\n"
)
NO_STORE = b"Cache-Control: no-store\r\nContent-Type: text/html\r\n"


class Content:
    """What is answered to which path."""

    def __init__(self, big: bytes) -> None:
        self._big = big
        self._asked = 0

    def answer(self, method: bytes, path: bytes) -> bytes:
        """The whole answer."""
        self._asked += 1
        fields, body = self._representation(path)
        status = b"200 OK" if fields else b"404 Not Found"
        head = b"HTTP/1.1 %s\r\nDate: %s\r\n%sContent-Length: %d\r\n\r\n"
        head %= (status, formatdate(usegmt=True).encode(), fields, len(body))
        return head if method == b"HEAD" else head + body

    def _representation(self, path: bytes) -> tuple[bytes, bytes]:
        if path.startswith(b"/o/"):
            return FRESH, SMALL
        if path.startswith(b"/p/"):
            return NO_STORE, SMALL
        if path == b"/big":
            return FRESH.replace(b"-400", b"-big"), self._big
        if path == b"/count":
            return NO_STORE, b"server accepts handled requests\n 0 0 %d\n" % self._asked
        return (NO_STORE, b"ready") if path == b"/ready" else (b"", b"")


class Connection(asyncio.Protocol):
    """One connection; its requests have no body."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            method, path, _ = head.split(b" ", 2)
            self._transport.write(self._content.answer(method, path))


async def serve(port: int, big: bytes) -> None:
    """Listen until the process is stopped."""
    content = Content(big)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(content), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
