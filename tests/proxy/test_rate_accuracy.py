"""How exactly a rate is kept by two POPs of two workers each, by a clock that nobody stops."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack

import pytest
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.storage.resident_clock import Clock
from edgecache.tasks import spawn

CLIENTS = 10
RATE, BURST, SECONDS = 20, 5, 30
SITES = """
[[sites]]
name = "a"
hosts = ["*"]
origin = "{origin}"
[[sites.rules]]
name = "rate"
limits = [{{ rate = "{rate}/s", burst = {burst} }}]
"""


async def accepted_of(client: int, workers: list[Pop], until: float) -> int:
    """Send twice the rate to the workers by turns, at random; how many are accepted."""
    dice, accepted = random.Random(client), 0
    connections = [await worker.open() for worker in workers]
    due = time.monotonic()
    while due < until:
        connection = dice.choice(connections)
        await connection.request("GET", "/", [("Host", "a"), ("X-Forwarded-For", f"192.0.2.{client}")])
        accepted += (await connection.response()).status == 200
        due += 1 / (2 * RATE)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    for connection in connections:
        connection.close()
    return accepted


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
async def test_ten_clients_at_twice_their_rate(origin: OriginDouble, valkey: Server, dies: bool) -> None:
    """Accepted within 5 % of the limit; without Valkey the workers' shares are about as much."""
    origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x"))
    text = SITES.format(origin=origin.url, rate=RATE, burst=BURST)
    common = {"sites": text, "workers": 2, "trusted_proxies": "127.0.0.0/8", "regional": valkey.url}
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(running_pop(origin, Clock(), pop=pop, **common))
            for pop in ("one", "one", "two", "two")
        ]
        for worker in workers:
            worker.worker._rate_limits.region.show_presence()
        began = time.monotonic()
        ends = began + SECONDS
        counts = [spawn(accepted_of(client, workers, ends)) for client in range(CLIENTS)]
        if dies:
            await asyncio.sleep(SECONDS / 4)
            valkey.db.client_pause(60_000, all=True)
        accepted = await asyncio.gather(*counts)
        took = time.monotonic() - began
        if dies:
            valkey.db.client_unpause()
    limit = RATE * took
    print(f"accepted of {limit:.0f}: {sorted(accepted)}, mean {sum(accepted) / CLIENTS / limit:.3f}")
    within = 0.25 if dies else 0.05
    assert all(count == pytest.approx(limit, rel=within) for count in accepted)
