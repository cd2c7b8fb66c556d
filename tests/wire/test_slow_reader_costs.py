"""What clients cost that read slowly or not at all: memory here, memory of the kernel, time of others."""

from __future__ import annotations

import asyncio
import fcntl
import struct

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop

from edgecache.wire.body_buffer import SLICE
from edgecache.wire.exchange import BURST
from edgecache.wire.h1.server import ClientConnection

FRESH = ("Cache-Control", "max-age=60")
MIB = 1024 * 1024
SIOCOUTQ = 0x5411  # bytes that the kernel holds for the peer


async def test_the_kernel_holds_little_for_who_does_not_read(origin: OriginDouble) -> None:
    """Of an answer that nobody reads the kernel takes no megabytes: memory that no budget of ours knows."""
    origin.on("/big", Reply(fields=[FRESH], body=bytes(16 * MIB)))
    async with running_pop(origin, memory="256MiB") as pop:
        await pop.get("/big")
        async with pop.client(receive_buffer=4096) as client:
            await client.request("GET", "/big")
            (connection,) = pop.worker.connections
            held = before = -1
            while held <= 0 or held != before:
                await let_others_run(200)
                before = held
                descriptor = connection.transport.get_extra_info("socket").fileno()
                (held,) = struct.unpack("i", fcntl.ioctl(descriptor, SIOCOUTQ, b"\0" * 4))

            assert held < 1 * MIB


class TakesAll(asyncio.Transport):
    """A transport whose client takes at once whatever is written: it never says that it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Take it."""
        self.taken += len(data)

    def is_closing(self) -> bool:
        """It stays open."""
        return False

    def abort(self) -> None:
        """It must not come to that."""
        raise AssertionError("aborted")


@pytest.mark.parametrize("pieces", [1, 3], ids=["in one piece", "in pieces"])
async def test_a_fast_reader_leaves_turns_to_others(origin: OriginDouble, pieces: int) -> None:
    """However fast a client takes a large object, the event loop is free after each slice of it."""
    origin.on("/large", Reply(fields=[FRESH], pieces=[bytes(4 * MIB)] * pieces))
    async with running_pop(origin, memory="256MiB") as pop:
        await pop.get("/large")
        connection, transport = ClientConnection(pop.worker, client="127.0.0.1"), TakesAll()
        connection.connection_made(transport)
        connection.data_received(b"GET /large HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
        turns = 0
        while transport.taken < 4 * MIB * pieces:
            before, turns = transport.taken, turns + 1
            await asyncio.sleep(0)
            assert transport.taken - before <= BURST + SLICE

        assert turns >= 4 * MIB * pieces // (BURST + SLICE)
        connection.connection_lost(None)
