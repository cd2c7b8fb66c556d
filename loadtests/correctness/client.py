"""A client over one socket that may read slowly, or leave in the middle of a response."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field

HOST = "www.example.test"
WITHIN = 30.0  # seconds for one response
PART = re.compile(rb"content-range: bytes (\d+)-(\d+)/(\d+)", re.IGNORECASE)


class Cut(Exception):
    """The connection ended, or was reset, before the response was complete."""


@dataclass
class Received:
    """A response; `left` if the client left before its end."""

    status: int
    fields: dict[str, str]
    body: bytes = b""
    left: bool = False
    parts: list[tuple[int, int, int, bytes]] = field(default_factory=list)  # of a multipart: first, last, size, bytes


class Client:
    """One connection at a time to one POP."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, target: str, fields: dict[str, str], body: bytes = b"", slow: float = 0.0, leave: int = -1
    ) -> Received:
        """One exchange. `slow` is the pause before each piece, in seconds; `leave` the bytes of body after which to go.

        Raises Cut if the response is visibly incomplete.
        """
        try:
            async with asyncio.timeout(WITHIN):
                return await self._ask(method, target, fields, body, slow, leave)
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise Cut(str(error) or type(error).__name__) from None

    async def _ask(
        self, method: str, target: str, fields: dict[str, str], body: bytes, slow: float, leave: int
    ) -> Received:
        if self._writer is None or self._reader is None or self._writer.is_closing() or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 18)
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": HOST, **fields}.items())
        length = f"Content-Length: {len(body)}\r\n" if body or method not in ("GET", "HEAD") else ""
        self._writer.write(f"{method} {target} HTTP/1.1\r\n{lines}{length}\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        got = Received(int(head[0][9:12]), {})
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            got.fields[name.lower()] = value.strip()
        if method != "HEAD" and got.status not in (204, 304):
            await self._body(self._reader, got, slow, leave)
        if got.left or got.fields.get("connection", "").lower() == "close":
            await self.close()
        return got

    async def _body(self, reader: asyncio.StreamReader, got: Received, slow: float, leave: int) -> None:
        content = bytearray()
        async for piece in self._pieces(reader, got):
            content += piece
            if 0 <= leave <= len(content):
                got.left = True
                break
            if slow:
                await asyncio.sleep(slow)
        got.body = bytes(content)
        kind = got.fields.get("content-type", "")
        if got.status == 206 and kind.startswith("multipart/byteranges") and not got.left:
            got.parts = parts_of(got.body, kind.partition("boundary=")[2].strip('"').encode())

    async def _pieces(self, reader: asyncio.StreamReader, got: Received):  # type: ignore[no-untyped-def]
        if got.fields.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                yield await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
            return
        rest = int(got.fields.get("content-length", "0"))
        while rest:
            piece = await reader.read(min(rest, 32 * 1024))
            if not piece:
                raise asyncio.IncompleteReadError(b"", rest)
            rest -= len(piece)
            yield piece

    async def close(self) -> None:
        """Leave."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def parts_of(body: bytes, boundary: bytes) -> list[tuple[int, int, int, bytes]]:
    """The parts of a multipart/byteranges body (RFC 9110 §14.6)."""
    found = []
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        said = PART.search(head)
        if said is not None:
            found.append((int(said[1]), int(said[2]), int(said[3]), content.removesuffix(b"\r\n")))
    return found
