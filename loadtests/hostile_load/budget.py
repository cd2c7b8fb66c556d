"""A working set of ten times the memory: how far the resident memory grows beyond the idle process (FAULTS 60)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench import heads

from . import pop as pops
from .clients import Clients, get
from .pop import Pop
from .report import Figure, say
from .sockets import lag_figures

MIB = 1024 * 1024
FACTOR = 10  # times the memory
OVER = 1.10  # of the memory
SETTLE = 2.0  # seconds


@dataclass(frozen=True)
class Mix:
    """What the objects of one run are like."""

    name: str
    sizes: tuple[int, ...]
    chunked: bool = False
    zipf: bool = False  # some are asked for again and again


MIXES = (
    Mix("1 KiB", (1024,)),
    Mix("12 KiB, popular ones often", (12 * 1024,), zipf=True),
    Mix("100 B to 4 MiB", (100, 2000, 15_000, 70_000, 300_000, 4 * MIB), zipf=True),
    Mix("4 MiB in chunks", (4 * MIB,), chunked=True),
)


def requests(mix: Mix, memory: int, seed: int = 7) -> Iterator[bytes]:
    """Requests for ten times the memory, each object at least once; endless."""
    chance = random.Random(seed)
    mean = sum(mix.sizes) / len(mix.sizes)
    count = int(FACTOR * memory / mean)
    more = "&chunked=1" if mix.chunked else ""
    number = 0
    while True:
        number += 1
        which = int(count * chance.random() ** 4) if mix.zipf and number % 2 else number % count
        size = mix.sizes[which % len(mix.sizes)]
        yield heads.request("GET", f"/o/{MIXES.index(mix)}-{which}?size={size}{more}")


async def measure(origin_port: int, memory: int, seconds: float, most: int) -> list[Figure]:
    """Each mix on a fresh POP, for at most `most` requests or so many seconds."""
    figures = []
    for mix in MIXES:
        say(f"budget: {mix.name}")
        settings = {"workers": 1, "memory": memory, "access_log": "off", "origin_connections": 64}
        with pops.running(origin_port, **settings) as pop:
            figures += await _one(pop, mix, memory, seconds, most)
    return figures


async def _one(pop: Pop, mix: Mix, memory: int, seconds: float, most: int) -> list[Figure]:
    (worker,) = pop.workers()
    await Clients(pop.port, (get(f"/p/{number}") for number in range(1000)), 8, 500.0).run(1.0)
    await asyncio.sleep(SETTLE)
    before, idle, waited = pop.metrics(), pops.resident(worker), pops.waited(worker)
    clients = Clients(pop.port, requests(mix, memory), 32, most / seconds)
    clients.start()
    peak = 0
    wanted = int(FACTOR * memory / (sum(mix.sizes) / len(mix.sizes)))
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end and clients.tally.asked < 2 * wanted:
        await asyncio.sleep(0.1)
        peak = max(peak, pops.resident(worker))
    tally = await clients.stop()
    await asyncio.sleep(SETTLE)
    after = pop.metrics()
    settled = pops.resident(worker) - idle
    held = after["edgecache_memory_bytes"] + after["edgecache_memory_held_bytes"]
    note = (
        f"{tally.asked:,} requests of {wanted:,} objects; {held / MIB:.1f} MiB counted; after: {settled / MIB:.1f} MiB"
    )
    growth = (peak - idle) / memory
    failed = Figure(
        f"{mix.name}: requests that failed", len(tally.failures), 0, note="; ".join(set(tally.failures))[:80]
    )
    lag = lag_figures(before, after, pops.waited(worker) - waited)
    return [Figure(f"{mix.name}: most memory over idle, × the budget", growth, OVER, "×", note=note), failed, *lag]
