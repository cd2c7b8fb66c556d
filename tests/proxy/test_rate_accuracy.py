"""How exactly a rate is kept by two POPs of two workers each, by a clock that nobody stops."""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import AsyncExitStack

import pytest
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.proxy.rate_limits import RateLimits
from edgecache.semantics.rules.gcra import Bucket, Rate
from edgecache.semantics.rules.limits import RequestLimit
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


async def accepted_of(client: int, workers: list[Pop], until: float) -> tuple[int, int]:
    """Send twice the rate to random workers; how many are accepted, and how many one bucket would have admitted.

    On a busy machine a client is held up, and may not get later what it did not ask for.
    """
    dice, accepted = random.Random(client), 0
    exact, due_of_exact = Bucket(Rate(RATE, 1, BURST)), 0
    connections = [await worker.open() for worker in workers]
    due = time.monotonic()
    while due < until:
        connection = dice.choice(connections)
        due_of_exact += exact.take(time.monotonic())
        await connection.request("GET", "/", [("Host", "a"), ("X-Forwarded-For", f"192.0.2.{client}")])
        accepted += (await connection.response()).status == 200
        due += 1 / (2 * RATE)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    for connection in connections:
        connection.close()
    return accepted, due_of_exact


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
async def test_ten_clients_at_twice_their_rate(origin: OriginDouble, valkey: Server, dies: bool) -> None:
    """Accepted within 5 % of the limit, and within 15 % by the workers' shares while Valkey is silent."""
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
        accepted, due = zip(*await asyncio.gather(*counts), strict=True)
        took = time.monotonic() - began
        if dies:
            valkey.db.client_unpause()
    limit = RATE * took
    print(f"accepted of {limit:.0f}: {sorted(accepted)}, of an exact limiter's {sorted(due)}")
    within = 0.15 if dies else 0.05  # a client that chooses workers at random cannot use all of each share
    assert max(accepted) <= (1 + within) * limit
    assert all(count == pytest.approx(exact, rel=within) for count, exact in zip(accepted, due, strict=True))


async def disturb(valkey: Server, until: float) -> None:
    """Have Valkey answer late, forget what it knows of rates, and forget the script."""
    dice = random.Random(1)
    while time.monotonic() < until:
        valkey.db.client_pause(dice.choice((5, 50, 150)), all=True)
        await asyncio.sleep(0.25 + dice.random() / 4)
        for key in valkey.db.keys("ec:rate:*"):
            valkey.db.delete(key)
        valkey.db.script_flush()


async def taken(workers: list[RateLimits], limit: RequestLimit, until: float) -> list[list[float]]:
    """Ask random workers at random times, often more than the rate; when each has admitted."""
    dice = random.Random(limit.name)
    admitted: list[list[float]] = [[] for _ in workers]
    assert limit.rate is not None
    while time.monotonic() < until:
        for _ in range(dice.choice((1, 1, 2, 3 * limit.rate.burst))):
            one = dice.randrange(len(workers))
            now = workers[one].clock()
            if workers[one].bucket(limit, (limit.name,), now).take(now):
                admitted[one].append(now)
        await asyncio.sleep(dice.random() * min(0.2, limit.rate.interval))
    return admitted


def burst_of(admitted: list[float], rate: Rate) -> float:
    """How many were admitted at most, in any time, beyond what the rate allows in it."""
    found, lowest = 0.0, math.inf
    for number, at in enumerate(admitted):
        beyond = number - (at - admitted[0]) / rate.interval
        lowest = min(lowest, beyond)
        found = max(found, beyond - lowest + 1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("is_disturbed", [False, True])
async def test_bounds_by_a_real_clock(origin: OriginDouble, valkey: Server, is_disturbed: bool) -> None:
    """Four workers, real time and a real Valkey: no worker exceeds a burst, in any window; nor do all together."""
    rates = [Rate(1, 60, 12), Rate(5, 1, 1), Rate(50, 1, 20), Rate(300, 1, 60)]
    limits = [RequestLimit("a", str(number), 0, ("site",), rate) for number, rate in enumerate(rates)]
    text = SITES.format(origin=origin.url, rate=RATE, burst=BURST)
    async with AsyncExitStack() as stack:
        pops = [
            await stack.enter_async_context(running_pop(origin, Clock(), sites=text, regional=valkey.url))
            for _ in range(4)
        ]
        workers = [pop.worker._rate_limits for pop in pops]
        until = time.monotonic() + 6
        disturbed = spawn(disturb(valkey, until if is_disturbed else 0.0))
        everything = await asyncio.gather(*(spawn(taken(workers, limit, until)) for limit in limits))
        await disturbed
    for admitted, rate in zip(everything, rates, strict=True):
        own = [burst_of(times, rate) for times in admitted]
        together = burst_of(sorted(time for times in admitted for time in times), rate)
        print(f"{rate}: {[round(one, 1) for one in own]}, together {together:.1f}")
        assert max(own) <= rate.burst + 0.01
        late = 2 * 0.25 / rate.interval  # what comes by the rate until an answer is not waited for any more
        assert together <= 4 * (rate.burst + rate.lease + late)
        if rate.count > 1:
            assert sum(map(len, admitted)) >= 0.7 * 6 / rate.interval
