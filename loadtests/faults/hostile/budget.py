"""A working set of ten times the memory: how far the resident memory grows beyond the idle process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.bench import heads
from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Clients, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.readers import slow_readers
from loadtests.faults.hostile.report import Figure, say
from loadtests.faults.hostile.sockets import lag_figures

MIB = 1024 * 1024
FACTOR = 10  # times the memory
OVER = 1.10  # of the memory
SETTLE = 2.0  # seconds


@dataclass(frozen=True)
class Mix:
    """What the objects of one run are like."""

    name: str
    sizes: tuple[int, ...]  # bytes; 0 = as large as may be kept
    more: str = ""  # of the query: what else the origin is to do
    beside: int = 0  # bytes that each object costs beside its body
    zipf: bool = False  # some are asked for again and again
    variants: int = 1  # of each URL
    part: int = 0  # bytes that are asked for at once, anywhere in the object; 0 = all
    slow: int = 0  # readers that take a byte a second, each of another object of 4 MiB
    share: float = 1.0  # of the time

    def size(self, number: int, memory: int) -> int:
        """Bytes of the body of one object."""
        return self.sizes[number % len(self.sizes)] or memory // 10

    def count(self, memory: int) -> int:
        """How many objects are ten times the memory."""
        mean = sum(self.size(number, memory) for number in range(len(self.sizes))) / len(self.sizes)
        return max(1, int(FACTOR * memory / (mean + self.beside)))


MIXES = (
    Mix("1 KiB", (1024,)),
    Mix("12 KiB, popular ones often", (12 * 1024,), zipf=True),
    Mix("100 B to 4 MiB", (100, 2000, 15_000, 70_000, 300_000, 4 * MIB), zipf=True),
    Mix("4 MiB in chunks", (4 * MIB,), more="&chunked=1"),
    Mix("as large as may be kept", (0,), zipf=True, share=0.4),
    Mix("heads of 24 KiB", (100,), more="&head=24000", beside=24_500, share=0.4),
    Mix("1,000 tags each", (1000,), more="&tags=1000", beside=64_000, share=0.4),
    Mix("32 variants of each URL", (12 * 1024,), more="&vary=1", variants=32, zipf=True, share=0.4),
    Mix("parts of 1 MiB", (MIB,), part=64 * 1024, zipf=True, share=0.4),
    Mix("12 KiB beside slow readers of 4 MiB", (12 * 1024,), zipf=True, slow=100, share=0.6),
)


def requests(mix: Mix, memory: int, seed: int = 7) -> Iterator[bytes]:
    """Requests for ten times the memory, each object at least once; endless."""
    chance = random.Random(seed)
    count = mix.count(memory)
    number = 0
    while True:
        number += 1
        which = int(count * chance.random() ** 4) if mix.zipf and number % 2 else number % count
        size = mix.size(which, memory)
        more = ""
        if mix.variants > 1:
            which, variant = divmod(which, mix.variants)
            more = f"X-Variant: {variant}\r\n"
        if mix.part:
            first = chance.randrange(size - mix.part)
            more = f"Range: bytes={first}-{first + mix.part - 1}\r\n"
        head = heads.request("GET", f"/o/{MIXES.index(mix)}-{which}?size={size}{mix.more}")
        yield head[:-2] + more.encode() + b"\r\n"


async def measure(origin_port: int, memory: int, seconds: float, most: int) -> list[Figure]:
    """Each mix on a fresh POP, for at most `most` requests or so many seconds."""
    figures = []
    for mix in MIXES:
        say(f"budget: {mix.name}")
        settings = {"workers": 1, "memory": memory, "access_log": "off", "origin_connections": 64}
        with pops.running(origin_port, **settings) as pop:
            figures += await _one(pop, mix, memory, seconds * mix.share, int(most * mix.share))
    return figures


async def _one(pop: Pop, mix: Mix, memory: int, seconds: float, most: int) -> list[Figure]:
    (worker,) = pop.workers()
    await Clients(pop.port, (get(f"/p/{number}") for number in range(1000)), 8, 500.0).run(1.0)
    await asyncio.sleep(SETTLE)
    before, idle, waited = pop.metrics(), pops.resident(worker), pops.waited(worker)
    clients = Clients(pop.port, requests(mix, memory), 32, most / seconds, fine=(200, 206))
    wanted = mix.count(memory)
    with slow_readers(pop.port, (f"/o/slow-{number}?size={4 * MIB}" for number in range(mix.slow))):
        clients.start()
        peak = 0
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end and clients.tally.asked < 2 * wanted:
            await asyncio.sleep(0.1)
            peak = max(peak, pops.resident(worker))
        tally = await clients.stop()
    await asyncio.sleep(SETTLE)
    after = pop.metrics()
    settled = pops.resident(worker) - idle
    held = after["edgecache_memory_bytes"] + after["edgecache_memory_held_bytes"]
    content = (
        mix.size(0, memory) * after["edgecache_memory_objects"]
        if len(mix.sizes) == 1 and not mix.part and mix.variants == 1
        else 0
    )
    stored = f"{content / memory:.0%} of it content; " if content else ""
    note = (
        f"{tally.asked:,} requests of {wanted:,} objects; {held / MIB:.1f} MiB counted; {stored}"
        f"after: {settled / MIB:.1f} MiB"
    )
    growth = (peak - idle) / memory
    failed = Figure(
        f"{mix.name}: requests that failed", len(tally.failures), 0, note="; ".join(set(tally.failures))[:80]
    )
    lag = lag_figures(before, after, pops.waited(worker) - waited)
    return [Figure(f"{mix.name}: most memory over idle, × the budget", growth, OVER, "×", note=note), failed, *lag]
