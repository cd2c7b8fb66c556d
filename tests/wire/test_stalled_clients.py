"""What a POP holds of its own for a client that stops reading, by every way that a large body takes to it."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Sequence
from typing import Any, Final

import pytest
from harness.client import let_others_run, request_bytes
from harness.often import slow
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.wire.h1.server import ClientConnection

KIB, MIB = 1024, 1024 * 1024
BOUND: Final = 256 * KIB
HIGH: Final = 64 * KIB  # as the event loop's transports have it
STEADY: Final = 4  # looks that find the same
CONTENT: Final = os.urandom(4 * MIB)
FRESH, ETAG, NO_STORE = ("Cache-Control", "max-age=600"), ("ETag", '"v"'), ("Cache-Control", "no-store")
RANGES: Final = [("Range", "bytes=0-2000000,2000002-")]


class Stalls(asyncio.Transport):
    """A transport whose client takes `room` bytes and no more; a piece begun is held whole, as by uvloop."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._unsent: list[bytes] = []
        self._protocol: Any = None

    def begin(self, protocol: ClientConnection) -> None:
        """The client has connected."""
        self._protocol = protocol
        protocol.connection_made(self)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        return max(0, sum(map(len, self._unsent)) - self._room)

    def write(self, data: bytes) -> None:
        """Send what the client takes."""
        if len(data) <= self._room:
            self._room -= len(data)
            return
        self._unsent.append(data)
        if self.get_write_buffer_size() > HIGH:
            self._protocol.pause_writing()

    def writelines(self, pieces: Sequence[bytes]) -> None:  # type: ignore[override]
        """One after the other."""
        for piece in pieces:
            self.write(piece)

    def is_closing(self) -> bool:
        """It stays open."""
        return False

    def abort(self) -> None:
        """It must not come to that."""
        raise AssertionError("aborted")


def answer(request: ReceivedRequest) -> Reply:
    """The whole, or the range, of an object that may be stored, or that may not."""
    fields = [ETAG, NO_STORE if "private" in request.target else FRESH]
    return Reply(fields=fields, body=CONTENT, framing="chunked" if "chunked" in request.target else "length")


async def is_in_the_tier(pop: Pop, origin: OriginDouble, target: str) -> None:
    """Wait until it is: a tier that is too slow for once, on a machine that is busy, does not take a large body."""
    asked = 0
    while len(origin.requests) > asked:
        await pop.written()
        asked = len(origin.requests)
        await pop.get(target)


async def held_for(pop: Pop, target: str, fields: Sequence[tuple[str, str]], room: int) -> int:
    """Bytes that the POP allocates for one client that takes `room` bytes and stalls."""
    transport, connection = Stalls(room), ClientConnection(pop.worker, client="127.0.0.1")
    transport.begin(connection)
    tracemalloc.start()
    try:
        connection.data_received(request_bytes("GET", target, fields))
        looks = [0]
        while len(looks) < STEADY or max(looks[-STEADY:]) - min(looks[-STEADY:]) > KIB:  # until it goes no further
            await asyncio.sleep(0.04)
            await let_others_run(20)
            if pop.worker.edge.region is not None:  # what is under way to the tier is not the client's
                await pop.written()
            snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/edgecache/*")])
            looks.append(sum(trace.size for trace in snapshot.traces))
        return looks[-1]
    finally:
        tracemalloc.stop()
        connection.connection_lost(None)


@pytest.mark.parametrize("room", [0, 2 * MIB + 5 * KIB], ids=["at once", "after it kept up"])
@pytest.mark.parametrize(
    ("way", "target", "fields"),
    [
        ("memory", "/big", []),
        slow(pytest.param("memory", "/big", [("Range", "bytes=1-")])),
        ("memory", "/big", RANGES),
        ("origin", "/private", []),
        slow(pytest.param("origin", "/private-chunked", [])),
        ("origin", "/big", []),
        ("tier", "/big", []),
        slow(pytest.param("tier", "/big", [("Range", "bytes=1-")])),
        slow(pytest.param("tier", "/big", RANGES)),
    ],
)
async def test_one_that_stalls_costs_no_more_than_256_kib(
    origin: OriginDouble, valkey: Server, way: str, target: str, fields: list[tuple[str, str]], room: int
) -> None:
    """Wherever it stops: what the transport holds, what is read ahead, and what is under way to it."""
    origin.otherwise(answer)
    settings: dict[str, object] = {"memory": "64MiB", "max_object_memory": "8MiB" if way == "memory" else "1MiB"}
    if way == "tier":
        settings |= {"regional": valkey.url, "regional_timeout": "5s"}
    async with running_pop(origin, **settings) as pop:
        if way == "tier":
            await pop.caught_up()
        if way != "origin":
            await pop.get(target)
            await pop.get("/warm")
        if way == "tier":
            await is_in_the_tier(pop, origin, target)
        assert await held_for(pop, target, fields, room) <= BOUND
