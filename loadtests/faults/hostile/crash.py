"""kill -9 of a worker in the middle of fills, and a log that cannot be written."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import NamedTuple

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Broken, Clients, Connection, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say
from loadtests.faults.hostile.rolling import requests

BACK_WITHIN = 2.0  # seconds
FILLS = 24
SIZE = 400_000  # bytes, in four seconds
RATE, CONNECTIONS = 300.0, 48


class Fill(NamedTuple):
    """One download at the moment of the kill."""

    owner: int | None
    problem: str
    after_kill: bool


async def measure(origin_port: int, rounds: int, log_seconds: float) -> list[Figure]:
    """Both accidents."""
    with pops.running(origin_port, workers=2, memory="64MiB", access_log="off") as pop:
        figures = await Kills(pop).all(rounds)
    say("crash: the log's disk is full")
    with pops.running(origin_port, "/dev/full", workers=2, memory="64MiB") as pop:
        return [*figures, *await _full_log(pop, log_seconds)]


class Kills:
    """Rounds of a kill under load."""

    def __init__(self, pop: Pop) -> None:
        self._pop = pop
        self._back: list[float] = []
        self._others = 0  # failures of what the killed worker did not serve
        self._own = 0
        self._partial = 0  # truncated bodies that were served from memory or a tier afterwards
        self._notes: list[str] = []

    async def all(self, rounds: int) -> list[Figure]:
        """Every round, and the figures."""
        for number in range(1, rounds + 1):
            say(f"crash: kill {number}/{rounds}")
            await self._once(number)
        note = "; ".join(f"{self._notes.count(one)} × {one}" for one in sorted(set(self._notes)))[:240]
        return [
            Figure("failures of what the killed worker did not serve", self._others, 0, note=note),
            Figure("failures of what it served", self._own, note=f"{rounds} kills, {FILLS} fills under way at each"),
            Figure("a successor serves after", max(self._back), BACK_WITHIN, "s", note=f"the longest of {rounds}"),
            Figure("bodies cut by a kill that came back as whole", self._partial, 0),
        ]

    async def _once(self, number: int) -> None:
        pop = self._pop
        clients = Clients(pop.port, requests(), CONNECTIONS, RATE)
        clients.start()
        targets = [f"/o/kill-{number}-{fill}?size={SIZE}&pace=100000" for fill in range(FILLS)]
        connections = [await Connection.open(pop.port) for _ in targets]
        pairs = zip(connections, targets, strict=True)
        asking = [asyncio.get_running_loop().create_task(one.ask(get(target))) for one, target in pairs]
        await asyncio.sleep(1.5)
        victim = pop.workers()[number % 2]
        theirs = {one.port: pops.owner(pop, one.port) for one in (*connections, *clients.open)}
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        ready = await asyncio.to_thread(pop.wait_for, "worker ready", killed, 20.0)
        self._back.append(ready.at - killed if ready is not None else float("inf"))
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.sleep(0.5)
        tally = await clients.stop()
        fills = zip(connections, outcomes, strict=True)
        failed = [(one.port, f"fill: {outcome}") for one, outcome in fills if outcome != 200]
        failed += [(port, why) for (_, port), why in zip(tally.failed_at, tally.failures, strict=True)]
        self._count(failed, theirs, victim)
        for one in connections:
            one.close()
        await self._whole(targets)

    def _count(self, failed: list[tuple[int, str]], owners: dict[int, int | None], victim: int) -> None:
        for port, why in failed:
            if owners.get(port) == victim:
                self._own += 1
            else:
                self._others += 1
                whose = (
                    "opened later"
                    if port not in owners
                    else "not accepted yet"
                    if owners[port] is None
                    else "another's"
                )
                self._notes.append(f"{whose}: {why}")

    async def _whole(self, targets: list[str]) -> None:
        """Ask for all of them again: whatever was cut must not come back."""
        await asyncio.gather(*(self._whole_one(target) for target in targets))

    async def _whole_one(self, target: str) -> None:
        connection = await Connection.open(self._pop.port)
        try:
            await connection.ask(get(target))
            self._partial += connection.received < SIZE
        except Broken as error:
            self._others += 1
            self._notes.append(str(error))
        connection.close()


async def _full_log(pop: Pop, seconds: float) -> list[Figure]:
    tally = await Clients(pop.port, requests(), CONNECTIONS, RATE * 2).run(seconds)
    await asyncio.sleep(1.5)
    dropped = (await asyncio.to_thread(pop.metrics)).get("edgecache_access_log_dropped_total", 0.0)
    alive = pop.process.poll() is None and len(pop.workers()) == 2
    return [
        Figure("log on a full disk: requests that failed", len(tally.failures), 0, note=f"of {tally.asked:,}"),
        Figure("log on a full disk: records counted as lost", dropped, 1, direction="at least"),
        Figure("log on a full disk: workers that live on", 2 if alive else 0, 2, direction="at least"),
    ]
