"""One reader at a byte a second of an object of 50 MiB that twenty others share: what it costs, and whom it slows."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import download, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say
from loadtests.faults.hostile.sockets import lag_figures

MIB = 1024 * 1024
OTHERS = 20
COST = 256 * 1024
SLOWED = 1.5  # × the time of the others without a slow reader: a shared machine's noise, not a wait
SETTLE = 1.5  # seconds


@contextmanager
def slow_readers(port: int, targets: Iterable[str]) -> Iterator[list[socket.socket]]:
    """Clients that have each asked for a target, with the smallest of buffers, and read at a byte a second."""
    sockets = []
    for target in targets:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", port))
        sock.sendall(get(target))
        sock.setblocking(False)
        sockets.append(sock)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


async def drip(sockets: list[socket.socket], seconds: float) -> None:
    """Read a byte a second from each."""
    for _ in range(int(seconds)):
        await asyncio.sleep(1.0)
        for sock in sockets:
            try:
                sock.recv(1)
            except BlockingIOError:
                continue


async def measure(origin_port: int, size: int, rounds: int, slow: int) -> list[Figure]:
    """With room in memory; without, each for itself; and through the regional tier alone."""
    figures = []
    room = {"memory": f"{size * 12 // MIB + 64}MiB"}
    for name, settings in (
        ("in memory", room),
        ("too large for memory", {"memory": "64MiB"}),
        ("regional only", {"memory": "64MiB", "regional": "embedded"}),
    ):
        say(f"readers: {name}")
        with pops.running(origin_port, workers=1, access_log="off", body_timeout="60s", **settings) as pop:
            figures += await Run(pop, name, size, slow).all(rounds)
    return figures


class Run:
    """One POP, its slow readers and the twenty others."""

    def __init__(self, pop: Pop, name: str, size: int, slow: int) -> None:
        self._pop, self._name, self._size, self._slow = pop, name, size, slow
        (self._worker,) = pop.workers()
        self._problems: list[str] = []
        self._number = 0

    async def all(self, rounds: int) -> list[Figure]:
        """Alternate between fills without a slow reader, with one, and with many; then the same for what is stored."""
        await self._fill(0)
        before, waited = self._pop.metrics(), pops.waited(self._worker)
        quiet, slowed, costs = [], [], []
        for _ in range(rounds):
            took, grown = await self._fill(0)
            quiet.append(took)
            took, _ = await self._fill(1)
            slowed.append(took)
            _, more = await self._fill(self._slow)
            costs.append((more - grown) / self._slow)
        figures = self._figures("joined while it was fetched", quiet, slowed, costs)
        if self._name != "too large for memory":
            figures += await self._stored(rounds)
        lag = lag_figures(before, self._pop.metrics(), pops.waited(self._worker) - waited)
        failed = Figure(
            f"{self._name}: downloads that failed", len(self._problems), 0, note="; ".join(self._problems)[:80]
        )
        return [*figures, failed, *lag]

    def _figures(self, how: str, quiet: list[float], slowed: list[float], costs: list[float]) -> list[Figure]:
        what, note = f"{self._name}, {how}", f"of {self._slow} slow ones; {self._size // MIB} MiB; {OTHERS} others"
        ratio = min(slowed) / min(quiet)  # of the best rounds: what else runs here only adds
        times = f"one slow reader; {min(slowed):.2f} s against {min(quiet):.2f} s, the best of {len(quiet)} each"
        return [
            Figure(f"{what}: cost of one slow reader", statistics.median(costs) / 1024, COST / 1024, "KiB", note=note),
            Figure(f"{what}: time of the others, × without", ratio, SLOWED, "×", note=times),
        ]

    async def _fill(self, slow: int) -> tuple[float, float]:
        """Twenty clients and `slow` slow ones ask for a new object: seconds until all have it, and bytes grown."""
        self._number += 1
        target = f"/o/{self._name[:3].strip()}-{self._number}?size={self._size}"
        return await self._downloads(target, slow)

    async def _downloads(self, target: str, slow: int) -> tuple[float, float]:
        before = pops.resident(self._worker)
        with slow_readers(self._pop.port, [target] * slow) as sockets:
            took = await asyncio.gather(*(download(self._pop.port, target) for _ in range(OTHERS)))
            self._problems += [problem for _, problem in took if problem]
            await drip(sockets, 2.0)
            await asyncio.sleep(SETTLE)
            grown = pops.resident(self._worker) - before
        await asyncio.sleep(SETTLE)
        return max(seconds for seconds, _ in took), grown

    async def _stored(self, rounds: int) -> list[Figure]:
        target = f"/o/{self._name[:3].strip()}-1?size={self._size}"
        quiet, slowed, costs = [], [], []
        for _ in range(rounds):
            took, grown = await self._downloads(target, 0)
            quiet.append(took)
            took, _ = await self._downloads(target, 1)
            slowed.append(took)
            _, more = await self._downloads(target, self._slow)
            costs.append((more - grown) / self._slow)
        return self._figures("stored", quiet, slowed, costs)
