"""Thousands of silent and dripping sockets: what clean requests notice of them, and whether they end."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Clients, Tally, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say

DEADLINE = 8.0  # seconds: of heads, bodies and idle connections alike, in this run
LATE = 0.75  # seconds: the sweep looks four times a second, and this machine is shared
KINDS = ("silent", "drip-head", "no-body", "drip-body", "idle", "unread")
RATE, CONNECTIONS = 400.0, 32
HOT = 200  # objects that are asked again and again


class Attacker:
    """The process that holds the slow sockets."""

    def __init__(self) -> None:
        script = Path(__file__).parent / "slow_sockets.py"
        self._process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def tell(self, command: str) -> Any:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(await asyncio.to_thread(self._process.stdout.readline))

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def attacker() -> Iterator[Attacker]:
    """The attacker while the block runs."""
    one = Attacker()
    try:
        yield one
    finally:
        one.end()


def clean_requests() -> Iterator[bytes]:
    """Of five requests, four are for what is stored and one is passed through."""
    for number in itertools.count():
        yield get(f"/p/{number}" if number % 5 == 4 else f"/o/{number % HOT}")


async def clean(pop: Pop, seconds: float) -> Tally:
    """Well-behaved clients for so long."""
    return await Clients(pop.port, clean_requests(), CONNECTIONS, RATE).run(seconds)


async def measure(origin_port: int, count: int, rounds: int, seconds: float) -> list[Figure]:
    """Alternate between quiet and attack, on one POP."""
    limits = {"head_timeout": DEADLINE, "body_timeout": DEADLINE, "idle_timeout": DEADLINE}
    settings = {name: f"{value:g}s" for name, value in limits.items()}
    with pops.running(origin_port, workers=1, memory="64MiB", access_log="off", **settings) as pop, attacker() as foe:
        return await Run(pop, foe, count, rounds, seconds).all()


class Run:
    """The rounds and what they came to."""

    def __init__(self, pop: Pop, foe: Attacker, count: int, rounds: int, seconds: float) -> None:
        self._pop, self._foe, self._count, self._rounds, self._seconds = pop, foe, count, rounds, seconds
        self._quiet, self._attacked = Tally(), Tally()
        self._latest: dict[str, float] = {}
        self._ended = 0
        self._left = 0  # descriptors that did not return

    async def all(self) -> list[Figure]:
        """Every round, and the figures."""
        await clean(self._pop, 2.0)  # fill and warm
        (worker,) = self._pop.workers()
        waited, before = pops.waited(worker), self._pop.metrics()
        await asyncio.sleep(DEADLINE + LATE)
        files = pops.descriptors(worker)
        for number in range(1, self._rounds + 1):
            say(f"sockets: round {number}/{self._rounds}")
            _add(self._quiet, await clean(self._pop, self._seconds))
            await self._attack(worker, files)
        return [*self._figures(), *lag_figures(before, self._pop.metrics(), pops.waited(worker) - waited)]

    async def _attack(self, worker: int, files: int) -> None:
        for kind in KINDS:
            await self._foe.tell(f"open {self._pop.port} {self._count // len(KINDS)} {kind}")
        _add(self._attacked, await clean(self._pop, self._seconds))
        lives = await self._foe.tell("report")
        for kind, (count, _, longest) in lives.items():
            self._ended += count
            self._latest[kind] = max(self._latest.get(kind, 0.0), longest)
        await asyncio.sleep(DEADLINE + 4)  # lingering ends, as do idle connections to the origin and clean clients' own
        self._left = max(self._left, pops.descriptors(worker) - files)
        await self._foe.tell("clear")

    def _figures(self) -> list[Figure]:
        quiet, attacked = self._quiet, self._attacked
        ratio = attacked.p99 / max(quiet.p99, 1e-6)
        note = f"p99 {attacked.p99 * 1e3:.2f} ms against {quiet.p99 * 1e3:.2f} ms, {len(attacked.latencies):,} requests"
        return [
            Figure(f"clean p99 under {self._count:,} slow sockets, × quiet", ratio, 2.0, "×", note=note),
            Figure("clean p50, × quiet", attacked.p(0.5) / max(quiet.p(0.5), 1e-6), unit="×"),
            Figure("clean requests that failed", len(quiet.failures) + len(attacked.failures), 0),
            *(
                Figure(f"last {kind} socket ended after", self._latest[kind], DEADLINE + LATE, "s")
                for kind in self._latest
            ),
            Figure("slow sockets ended by the server", self._ended, note=f"deadlines {DEADLINE:g} s"),
            Figure("descriptors that did not return", max(self._left, 0), 0),
        ]


def _add(to: Tally, more: Tally) -> None:
    to.latencies += more.latencies
    to.failures += more.failures
    to.asked += more.asked


def lag_figures(before: dict[str, float], after: dict[str, float], waited: float) -> list[Figure]:
    """How late the event loop was at worst, from the POP's own metrics."""
    name = "edgecache_event_loop_lag_seconds"
    looks = after[f"{name}_count"] - before.get(f"{name}_count", 0.0)

    def beyond(bound: str) -> float:
        bucket = f'{name}_bucket{{le="{bound}"}}'
        return looks - (after[bucket] - before.get(bucket, 0.0))

    bounds = ("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5")
    worst = next((bound for bound in bounds if not beyond(bound)), "+Inf")
    note = f"of {looks:,.0f} looks; none beyond {worst} s; the kernel kept it waiting {waited:.2f} s in all"
    return [Figure("looks at which the event loop was over 100 ms late", beyond("0.1"), 0, note=note)]
