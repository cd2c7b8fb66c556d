"""The probe of the event loop's lag, on a real loop."""

import asyncio
import time

from harness.client import let_others_run

from edgecache.telemetry.event_loop_lag import EVERY, LoopLag
from edgecache.telemetry.metrics import Registry

STALL = 0.06


async def test_a_stall_is_seen() -> None:
    """A callback that keeps the loop busy is seen as lag, whatever else the loop does."""
    registry = Registry()
    lag = LoopLag(registry)
    lag.start()
    asyncio.get_running_loop().call_soon(time.sleep, EVERY + STALL)  # the fault itself
    counts = registry.histogram(
        "edgecache_event_loop_lag_seconds",
        "How late a worker's event loop runs what is due.",
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    ).counts
    async with asyncio.timeout(5):
        while not sum(counts):
            await let_others_run()
    lag.stop()

    assert sum(counts[6:]) == 1  # more than 50 ms
