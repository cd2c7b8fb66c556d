"""Requests over sockets, as cheap as a measuring process needs them: one connection, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

HOST = "www.example.test"


class Got(NamedTuple):
    """An answer."""

    status: int
    head: bytes
    body: bytes

    def field(self, name: bytes) -> bytes:
        """The value of a field, empty if it is absent."""
        lower = self.head.lower()
        at = lower.find(b"\r\n" + name.lower() + b": ")
        if at < 0:
            return b""
        start = at + len(name) + 4
        return self.head[start : self.head.find(b"\r\n", start)]


class Wire:
    """A connection that is opened again when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, target: str, fields: str = "", body: bytes = b"") -> Got:
        """One request and its answer."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        assert self._reader is not None
        length = f"Content-Length: {len(body)}\r\n" if body or method not in ("GET", "HEAD") else ""
        self._writer.write(f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}{length}\r\n".encode() + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        got = Got(status, head, b"")
        if method == "HEAD" or status in (204, 304):
            return got
        if got.field(b"Transfer-Encoding"):
            return got._replace(body=await self._chunks())
        return got._replace(body=await self._reader.readexactly(int(got.field(b"Content-Length") or 0)))

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        content = b""
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            content += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return content

    async def close(self) -> None:
        """End it."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()


async def ask(port: int, method: str, target: str, fields: str = "", body: bytes = b"") -> Got:
    """One request on a connection of its own."""
    wire = Wire(port)
    try:
        return await wire.ask(method, target, fields, body)
    finally:
        await wire.close()
