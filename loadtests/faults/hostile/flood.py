"""Random queries at ten times the normal rate: what becomes of the hit ratio of what is asked for."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Clients, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say
from loadtests.faults.hostile.sockets import lag_figures

MIB = 1024 * 1024
HOT = 3000  # objects of 4 KiB: half of the memory
RATE = 100.0
FACTOR = 10
CAP = 16  # connections to the origin
MEMORY = 32 * MIB
KEPT = 0.95  # of the hit ratio before


def hot(seed: int) -> Iterator[bytes]:
    """Popular objects, some more than others."""
    chance = random.Random(seed)
    while True:
        yield get(f"/o/hot-{int(HOT * chance.random() ** 2)}?size=4096")


def flood() -> Iterator[bytes]:
    """No two alike."""
    for number in itertools.count():
        yield get(f"/o/page?size=4096&bust={number}-{random.getrandbits(64):x}")


async def measure(origin_port: int, seconds: float) -> list[Figure]:
    """The hot set alone, then under the flood."""
    settings = {"workers": 1, "memory": MEMORY, "access_log": "off", "origin_connections": CAP}
    with pops.running(origin_port, **settings) as pop:
        return await _measure(pop, origin_port, seconds)


async def _measure(pop: Pop, origin_port: int, seconds: float) -> list[Figure]:
    (worker,) = pop.workers()
    _most_connections(origin_port)  # those of other parts are forgotten
    idle = pops.resident(worker)
    await Clients(pop.port, hot(1), 16, RATE * FACTOR).run(seconds)
    before = await _hit_ratio(pop, seconds, None)
    say("flood: begins")
    metrics = pop.metrics()
    during = await _hit_ratio(pop, seconds, Clients(pop.port, flood(), 32, RATE * FACTOR))
    grown = pops.resident(worker) - idle
    busy = pop.metrics()["edgecache_origin_requests_total"] - metrics["edgecache_origin_requests_total"]
    return [
        Figure("hit ratio of the hot set, × before", during / before, KEPT, "×", "at least", f"{before:.3f} before"),
        Figure("requests of the flood that the origin saw", busy, note=f"at {RATE * FACTOR:g}/s for {seconds:g} s"),
        Figure("most connections to the origin", _most_connections(origin_port), CAP + 2, note="two are ours"),
        Figure("memory over idle, × the budget", grown / MEMORY, 1.1, "×"),
        *lag_figures(metrics, pop.metrics(), 0.0),
    ]


async def _hit_ratio(pop: Pop, seconds: float, attack: Clients | None) -> float:
    """Of the hot set, as its clients see it: a hit is what comes without the origin."""
    clients = HotClients(pop.port, hot(2), 16, RATE)
    if attack is not None:
        attack.start()
    await clients.run(seconds)
    if attack is not None:
        await attack.stop()
    return clients.hits / max(clients.tally.asked, 1)


class HotClients(Clients):
    """Clients that count hits by what Cache-Status says."""

    hits = 0

    def answered(self, head: bytes) -> None:
        """An answer's head."""
        self.hits += b"; hit" in head


def _most_connections(origin_port: int) -> float:
    return float(json.loads(pops.get(origin_port, "/stats"))["most_connections"])
