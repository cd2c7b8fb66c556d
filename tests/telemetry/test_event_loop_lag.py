"""The probe of the event loop's lag, on a real loop."""

import asyncio
import time

from harness.client import let_others_run

from edgecache.telemetry.event_loop_lag import AT_REST, EVERY, SECONDS, LoopLag
from edgecache.telemetry.metrics import Registry

STALL = 0.06


def counts_of(registry: Registry) -> list[int]:
    """Looks by how late they were."""
    meaning = "Delay with which a worker's event loop runs what is due."
    return registry.histogram("edgecache_event_loop_lag_seconds", meaning, SECONDS).counts


async def test_a_stall_is_seen() -> None:
    """A callback that keeps the loop busy is seen as lag, whatever else the loop does."""
    registry = Registry()
    lag = LoopLag(registry, registry.counter("bytes", "Bytes."))
    lag.start()
    asyncio.get_running_loop().call_soon(time.sleep, EVERY + STALL)  # the fault itself
    counts = counts_of(registry)
    async with asyncio.timeout(5):
        while not sum(counts):
            await let_others_run()
    lag.stop()

    assert sum(counts[6:]) == 1  # more than 50 ms


async def test_a_worker_at_rest_looks_seldom_and_sees_a_stall_all_the_same() -> None:
    """The next look is near while bytes come, and far where none have come; a stall shows as a look that is late."""
    registry = Registry()
    bytes_in = registry.counter("bytes", "Bytes.")
    lag = LoopLag(registry, bytes_in)
    loop = asyncio.get_running_loop()

    def until_next() -> float:
        lag.stop()
        now = loop.time()
        lag.start()
        return lag.due - now

    assert until_next() < AT_REST / 2
    assert until_next() >= AT_REST
    bytes_in.value += 1
    assert until_next() < AT_REST / 2
    assert until_next() >= AT_REST
    loop.call_soon(time.sleep, AT_REST + STALL)
    counts = counts_of(registry)
    async with asyncio.timeout(5):
        while not sum(counts):
            await let_others_run()
    lag.stop()

    assert sum(counts[6:]) == 1
