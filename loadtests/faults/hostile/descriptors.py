"""A thousand connects to a POP of 256 open files: no spin, others are told, the admin page answers.

Three rounds of figures: a crowd that holds what it gets; a crowd that comes again as soon as it is turned away; and a
worker that has really no file left (its bound is lowered under it), which the bounds on connections cannot foresee.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import resource
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from loadtests.faults.hostile import pop as pops
from loadtests.faults.hostile.clients import Broken, Connection, get
from loadtests.faults.hostile.pop import Pop
from loadtests.faults.hostile.report import Figure, say
from loadtests.lab import procstat

FILES = 256
CROWD = 1000
BUSY = 0.2  # of a core, while nobody asks anything
BACK_WITHIN = 5.0  # seconds
PAGE_WITHIN = 1.0  # seconds for the admin page
LOOKS = 20  # at the admin page, in each round
AGAIN_RATE = 200.0  # connects a second of those who come again
REQUEST = get("/o/0")


@dataclass
class Crowd:
    """Sockets that connect, ask nothing, and are held open."""

    port: int
    sockets: list[socket.socket] = field(default_factory=list)

    async def come(self, number: int) -> None:
        """So many more connect."""
        loop = asyncio.get_running_loop()
        for _ in range(number):
            sock = socket.socket()
            sock.setblocking(False)
            self.sockets.append(sock)
            with contextlib.suppress(OSError):
                await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", self.port)), 5)

    def fates(self) -> Counter[str]:
        """What has become of them: held, told by a 503, or closed without a word."""
        return Counter(_fate(sock) for sock in self.sockets)

    def go(self) -> None:
        """All leave."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


def _fate(sock: socket.socket) -> str:
    try:
        data = sock.recv(65536, socket.MSG_PEEK)
    except BlockingIOError:
        return "held"
    except OSError:
        return "closed"
    return "told" if data.startswith(b"HTTP/1.1 503 ") else "closed"


def core_share(pid: int, before: procstat.CpuTimes, seconds: float) -> float:
    """The share of a core that a process has used since `before`."""
    after = procstat.cpu_times(pid)
    return sum(ran - before.ran_ns.get(task, 0) for task, ran in after.ran_ns.items()) / 1e9 / seconds


async def _admin(pop: Pop) -> float:
    """How long the health page takes, in seconds; infinite if it does not answer."""

    def ask() -> float:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", pop.admin_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            healthy = connection.getresponse().status == 200
        return time.monotonic() - began if healthy else float("inf")

    try:
        return await asyncio.to_thread(ask)
    except OSError:
        return float("inf")


async def _back(port: int) -> float:
    """Seconds until a clean request is answered 200."""
    began = time.monotonic()
    while time.monotonic() - began < 2 * BACK_WITHIN:
        with contextlib.suppress(Broken, OSError):
            connection = await Connection.open(port)
            status = await connection.ask(REQUEST, 2.0)
            connection.close()
            if status == 200:
                return time.monotonic() - began
        await asyncio.sleep(0.05)
    return float("inf")


async def measure(origin_port: int, seconds: float) -> list[Figure]:
    """All rounds, on one POP."""
    settings = {"workers": 1, "access_log": "off", "memory": "32MiB", "head_timeout": "60s"}
    with pops.running(origin_port, files=FILES, **settings) as pop:
        (worker,) = pop.workers()
        return await Run(pop, worker, seconds).all()


class Run:
    """The rounds and what they came to."""

    def __init__(self, pop: Pop, worker: int, seconds: float) -> None:
        self._pop, self._worker, self._seconds = pop, worker, seconds
        self._crowd = Crowd(pop.port)
        self._page = 0.0  # the slowest look at the admin page, in seconds
        self._figures: list[Figure] = []

    async def all(self) -> list[Figure]:
        """Every round, and the figures."""
        await _back(self._pop.port)  # the object is stored
        before = pops.descriptors(self._worker)
        for round_ in (self._holding, self._coming_again, self._no_file_left):
            say(f"descriptors: {(round_.__doc__ or '').splitlines()[0]}")
            try:
                await round_()
            finally:
                self._crowd.go()
            await self._recovers()
        await asyncio.sleep(BACK_WITHIN)
        left = pops.descriptors(self._worker) - before
        return [
            *self._figures,
            Figure("slowest health page meanwhile", self._page, PAGE_WITHIN, "s"),
            Figure("descriptors that did not return", max(0, left), 0, note="but one to the origin may"),
        ]

    async def _holding(self) -> None:
        """A thousand connect and hold what they get."""
        await self._crowd.come(CROWD)
        fates = self._crowd.fates()
        busy = await self._idle_loop()
        note = f"of {CROWD:,} connects with {FILES} files: {fates['held']} held, {fates['told']} told by 503"
        room = self._crowd.fates()["held"]
        self._figures += [
            Figure("connects that were turned away without a word", fates["closed"], 0, note=note),
            Figure("core used while they ask nothing", busy, BUSY, note=f"{room} still held: the idle make room"),
        ]

    async def _coming_again(self) -> None:
        """Others come again and again while the house is full."""
        others = Crowd(self._pop.port)
        fates: Counter[str] = Counter()
        before, began = procstat.cpu_times(self._worker), time.monotonic()
        while time.monotonic() - began < self._seconds:
            await self._crowd.come(FILES // 4)  # the idle make room: it is filled again
            await others.come(int(AGAIN_RATE / 10))
            await asyncio.sleep(0.1)
            fates += others.fates()
            others.go()
        busy = core_share(self._worker, before, time.monotonic() - began)
        note = f"{fates['told']:,} of {fates.total():,} told by 503, {fates['closed']} turned away without a word"
        self._figures.append(Figure("core used while others come again and again", busy, BUSY, note=note))

    async def _no_file_left(self) -> None:
        """A thousand connect to a worker that has no file left."""
        soft, hard = resource.prlimit(self._worker, resource.RLIMIT_NOFILE)
        try:
            resource.prlimit(self._worker, resource.RLIMIT_NOFILE, (pops.descriptors(self._worker), hard))
            await self._crowd.come(CROWD)
            busy = await self._idle_loop()
        finally:
            resource.prlimit(self._worker, resource.RLIMIT_NOFILE, (soft, hard))
        fates = self._crowd.fates()
        note = f"{fates['closed']} closed, {fates['held']} wait to be accepted"
        self._figures.append(Figure("core used with no file left", busy, BUSY, note=note))

    async def _idle_loop(self) -> float:
        """The share of a core that the worker uses while nobody asks anything; the admin page is looked at."""
        await asyncio.sleep(0.5)
        before, began = procstat.cpu_times(self._worker), time.monotonic()
        for _ in range(LOOKS):
            self._page = max(self._page, await _admin(self._pop))
            await asyncio.sleep(self._seconds / LOOKS)
        return core_share(self._worker, before, time.monotonic() - began)

    async def _recovers(self) -> None:
        took = await _back(self._pop.port)
        self._figures.append(Figure("a clean request is answered after", took, BACK_WITHIN, "s"))
