"""An origin whose paths say the sizes of its answers: `/b/SIZE-NAME`. Run as a script: `sized_origin.py PORT`.

It counts its requests and the bytes of its bodies, which `/count` gives.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import uvloop

CONTENT: Final = bytes(range(256)) * 4096
HEAD: Final = b"HTTP/1.1 200 OK\r\nCache-Control: %s\r\nETag: %s\r\nContent-Length: %d\r\n\r\n"


def body(size: int) -> bytes:
    """So many bytes."""
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


class Counts:
    """What was asked for."""

    requests = 0
    sent = 0


class Connection(asyncio.Protocol):
    """One connection; its requests have no body."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(self._answer(head.split(b" ", 2)[1]))

    def _answer(self, path: bytes) -> bytes:
        if not path.startswith(b"/b/"):
            text = b"%d %d" % (self._counts.requests, self._counts.sent)
            return HEAD % (b"no-store", b'""', len(text)) + text
        size, _, name = path[3:].partition(b"-")
        self._counts.requests += 1
        self._counts.sent += int(size)
        return HEAD % (b"max-age=86400", b'"%b"' % name, int(size)) + body(int(size))


async def serve(port: int) -> None:
    """Listen until the process is stopped."""
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(counts), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
