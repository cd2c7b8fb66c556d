"""A TCP relay between two parts of a test that delays, throttles, swallows, cuts and corrupts what passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

Sleep = Callable[[float], Awaitable[None]]


@dataclass
class Way:
    """One direction: what happens to its bytes. Every setting may be changed while bytes pass."""

    latency: float = 0.0  # seconds, added to each piece; pieces stay in order and do not add up
    bandwidth: float | None = None  # bytes per second
    blackhole: bool = False  # what comes is read and dropped; nobody is told
    cut_after: int | None = None  # end both sides once so many bytes of one connection have passed
    cut_by: Literal["fin", "rst"] = "rst"
    corrupt_at: int | None = None  # flip the bits of the byte at this offset of one connection
    passed: int = 0  # bytes, over all connections


class CutHere(Exception):
    """The relay was told to end this connection here."""


class FaultProxy:
    """Listens on `port` and relays to `target_port`; `up` is client to target, `down` is the way back."""

    handshake = False  # whether a connection takes a round trip before its first byte, as TCP's does

    def __init__(self, target_port: int, target_host: str = "127.0.0.1", sleep: Sleep = asyncio.sleep) -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.up = Way()
        self.down = Way()
        self.connections = 0
        self._sleep = sleep
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    # Faults of the whole relay…

    def stall(self) -> None:
        """Pass nothing, in either direction, until `heal`."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass everything again, unharmed: every fault of both ways is lifted."""
        self.up = Way(passed=self.up.passed)
        self.down = Way(passed=self.down.passed)
        self._flowing.set()

    def reset_all(self) -> None:
        """End every open connection by RST, on both sides."""
        for writers in tuple(self._open.values()):
            for writer in writers:
                reset(writer)

    def finish_all(self) -> None:
        """End every open connection by FIN, on both sides."""
        for writers in tuple(self._open.values()):
            for writer in writers:
                writer.close()

    # Its life…

    async def start(self) -> None:
        """Listen; on the port it had before, if it was stopped."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server is None:
            return
        self._server.close()
        relaying = list(self._open)
        self.reset_all()
        for task in relaying:
            task.cancel()
        await asyncio.gather(*relaying, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    # One connection…

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writers = [writer]
        try:
            if self.handshake and (round_trip := self.up.latency + self.down.latency):
                await self._sleep(round_trip)
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            writers.append(far_writer)
            await asyncio.gather(
                self._pump(lambda: self.up, reader, far_writer, writers),
                self._pump(lambda: self.down, far_reader, writer, writers),
            )
        except (
            OSError,
            RuntimeError,
            CutHere,
            asyncio.CancelledError,
        ):  # uvloop's of a closed transport is a RuntimeError
            pass
        finally:
            del self._open[task]
            for each in writers:
                with contextlib.suppress(OSError):
                    each.close()

    async def _pump(
        self,
        way: Callable[[], Way],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
    ) -> None:
        """Relay one direction of one connection; `way()` is asked for each piece: `heal` replaces it."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            data = b"?"
            while data:
                data = await reader.read(65536)
                await queue.put((clock() + way().latency, data))

        async def write() -> None:
            offset = 0
            while True:
                due, data = await queue.get()
                await self._flowing.wait()
                if (early := due - clock()) > 0:
                    await self._sleep(early)
                if not data:
                    break
                await self._pass_on(way(), data, offset, writer, both)
                offset += len(data)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()

        await asyncio.gather(read(), write())

    async def _pass_on(
        self,
        way: Way,
        data: bytes,
        offset: int,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
    ) -> None:
        if way.blackhole:
            return
        if way.corrupt_at is not None and offset <= way.corrupt_at < offset + len(data):
            at = way.corrupt_at - offset
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        cut_here = way.cut_after is not None and way.cut_after <= offset + len(data)
        if way.cut_after is not None and cut_here:
            data = data[: max(way.cut_after - offset, 0)]
        if way.bandwidth is not None:
            await self._sleep(len(data) / way.bandwidth)
        way.passed += len(data)
        writer.write(data)
        await writer.drain()
        if cut_here:
            for each in both:
                reset(each) if way.cut_by == "rst" else each.close()
            raise CutHere


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    if not writer.is_closing():
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def running_proxy(target_port: int, sleep: Sleep = asyncio.sleep) -> AsyncIterator[FaultProxy]:
    """A fault proxy before `target_port`, stopped at the end."""
    proxy = FaultProxy(target_port, sleep=sleep)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
