"""A client over TLS: the same strict reading as `RawClient`, on the event loop's own TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness.client import TIMEOUT, ReceivedResponse, request_bytes
from harness.wire import Bytes, parse_status_line, read_head, read_response_body


class TlsClient:
    """One connection over TLS; every wait ends within a bound."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.source = Bytes(lambda: reader.read(65536))

    async def send(self, data: bytes) -> None:
        """Send `data` as it is."""
        self.writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()

    async def ask(self, target: str, host: str, *fields: tuple[str, str], method: str = "GET") -> ReceivedResponse:
        """One request and its whole response."""
        await self.send(request_bytes(method, target, [("Host", host), *fields]))
        return await self.response(method)

    async def response(self, method: str = "GET") -> ReceivedResponse:
        """The next response, whole."""
        async with asyncio.timeout(TIMEOUT):
            head = await read_head(self.source)
            response = ReceivedResponse(head, *parse_status_line(head.start))
            progress = bytearray()
            await read_response_body(self.source, head, response.status, method, progress)
        response.body = bytes(progress)
        return response

    async def ended(self) -> bytes:
        """Wait until the peer ends the connection; what came before."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                return await self.source.receive()
        return b""

    def info(self, name: str) -> Any:
        """What the transport knows, such as `peercert`."""
        return self.writer.get_extra_info(name)


@asynccontextmanager
async def secured(
    port: int, context: ssl.SSLContext, name: str | None = "www.example.test", before: bytes = b""
) -> AsyncIterator[TlsClient]:
    """A client whose handshake is over; `name` None sends none. `before` goes before the handshake, in the clear."""
    if name is None:
        context.check_hostname = False
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if before:
                writer.write(before)
            await writer.start_tls(context, server_hostname=name)
        except BaseException:
            writer.close()
            raise
    try:
        yield TlsClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                await writer.wait_closed()
