"""Workers that are relieved one by one, again and again, under requests and downloads: nothing may fail."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Clients, download, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say
from loadtests.faults.hostile.sockets import HOT, lag_figures

CONNECTIONS = 64
DOWNLOADS = 8  # under way at any time
LIFE = 6.0  # seconds that one takes
RELIEFS = "edgecache_worker_reliefs_total"


def requests() -> Iterator[bytes]:
    """Nine of ten for what is stored, one passed through; one body in a hundred."""
    for number in itertools.count():
        if number % 100 == 99:
            yield b"POST /p/form HTTP/1.1\r\nHost: site\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
        else:
            yield get(f"/p/{number}" if number % 10 == 9 else f"/o/{number % HOT}")


async def measure(origin_port: int, count: int, rate: float) -> list[Figure]:
    """Relieve the workers without end until `count` requests were made."""
    with pops.running(origin_port, workers=2, memory="64MiB", access_log="off", drain_grace="30s") as pop:
        return await _roll(pop, count, rate)


async def _roll(pop: Pop, count: int, rate: float) -> list[Figure]:
    clients = Clients(pop.port, requests(), CONNECTIONS, rate)
    began, before = time.monotonic(), pop.metrics()
    clients.start()
    loop = asyncio.get_running_loop()
    problems: list[str] = []
    downloading = [loop.create_task(_download(pop, number, clients, problems)) for number in range(DOWNLOADS)]
    rolls = 0
    while clients.tally.asked < count:
        goal = await _reliefs(pop) + 2
        pop.hang_up()
        rolls += 1
        await _relieved(pop, goal, clients, count)
        say(f"rolling: {rolls} times; {clients.tally.asked:,} requests, {len(clients.tally.failures)} failed")
    tally = await clients.stop()
    done = sum(await asyncio.gather(*downloading))
    seconds = time.monotonic() - began
    failures = [*tally.failures, *problems]
    note = "; ".join(f"{failures.count(one)} × {one}" for one in sorted(set(failures)))[:160]
    return [
        Figure("requests made while workers were relieved", tally.asked, count, direction="at least"),
        Figure("requests and downloads that failed", len(failures), 0, note=note),
        Figure("downloads made meanwhile", done, note=f"{LIFE:g} s each, {DOWNLOADS} at a time"),
        Figure("workers relieved", await _reliefs(pop), 2, direction="at least", note=f"{rolls} times all"),
        Figure(
            "rate", tally.asked / seconds, 200, "requests/s", "at least", f"{tally.reopened:,} connections reopened"
        ),
        Figure("p99", tally.p99 * 1e3, unit="ms"),
        *lag_figures(before, await asyncio.to_thread(pop.metrics), 0.0),
    ]


async def _relieved(pop: Pop, goal: float, clients: Clients, count: int) -> None:
    while await _reliefs(pop) < goal and clients.tally.asked < count:  # noqa: ASYNC110 (another process's doing)
        await asyncio.sleep(0.2)


async def _reliefs(pop: Pop) -> float:
    return (await asyncio.to_thread(pop.metrics))[RELIEFS]


async def _download(pop: Pop, number: int, clients: Clients, problems: list[str]) -> int:
    done = 0
    while not clients.stopped:
        path, size = ("o", 600_000) if number % 2 else ("p", 1_200_000)
        target = f"/{path}/slow-{number}-{done}?size={size}&pace={size / LIFE:.0f}"
        _, problem = await download(pop.port, target)
        problems += [f"download: {problem}"] if problem else []
        done += 1
    return done
