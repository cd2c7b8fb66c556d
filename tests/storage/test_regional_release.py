"""What a body that went to the regional tier, or came from it, leaves behind: nothing that waits for the collector."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

FIELDS = [("Cache-Control", "max-age=60"), ("ETag", '"1"')]
COUNT = 8
LARGE = 300 * 1024  # bytes of a body that lies in chunks
OF_A_BODY = ("Body", "Cursor", "ChunkWriter", "ChunkReader", "Reply", "Exchange", "Flight")


def left() -> list[str]:
    """The names of the types of what is left of bodies."""
    return [name for one in gc.get_objects() if (name := type(one).__name__) in OF_A_BODY]


@pytest.mark.parametrize("kept", [True, False], ids=["kept in memory too", "too large for the memory"])
async def test_filled_bodies_are_freed_without_the_collector(origin: OriginDouble, valkey: Server, kept: bool) -> None:
    """A body that was written in chunks, and one that was read from them, is freed when its readers have left."""
    origin.otherwise(Reply(fields=FIELDS, pieces=[bytes(LARGE // 2), bytes(LARGE // 2)]))
    options: dict[str, object] = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu"}
    if not kept:
        options["max_object_memory"] = "100KiB"
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(running_pop(origin, origin.clock, pop=name, **options))
            for name in ("one", "two")
        ]
        for pop in (one, two):
            await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        await read_all(one, two, "warm")
        gc.collect()
        before = len(left())  # other tests in this process may have left some
        gc.disable()
        try:
            await read_all(one, two, "cold")
            remaining = left()
        finally:
            gc.enable()

    assert len(origin.requests) == 2 * COUNT
    assert len(remaining) - before <= 4, remaining  # of the last request


async def read_all(one: Pop, two: Pop, name: str) -> None:
    """Have `one` fetch objects, and `two` read them from the tier."""
    async with one.client() as fetching, two.client() as reading:
        for number in range(COUNT):
            for client in (fetching, reading):
                await client.request("GET", f"/{name}/{number}")
                assert len((await client.response()).body) == LARGE
                await let_others_run(50)
