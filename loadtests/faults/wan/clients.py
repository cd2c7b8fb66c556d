"""Clients: a Zipf workload or ever new objects, at a rate or as fast as answers come; what they saw."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator

PATIENCE = 15.0  # seconds until a request without an answer has failed
NUMBERS = itertools.count()


class Seen:
    """What one group of clients saw."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()  # by method: an error, no answer, or not a whole one
        self.asked = 0

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return self.failures.total()

    @property
    def failed_reads(self) -> int:
        """Those of them that are safe to ask twice."""
        return self.failures["GET"]

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of the answers took at most."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else float("nan")


class Client:
    """One connection, made anew when it is lost."""

    def __init__(self, port: int, seen: Seen) -> None:
        self._port = port
        self._seen = seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, target: str, method: str = "GET") -> None:
        """One request and its whole answer."""
        clock = time.perf_counter  # uvloop's own counts milliseconds
        began = clock()
        seen = self._seen
        seen.asked += 1
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._exchange(target, method)
        except (OSError, EOFError, TimeoutError, ValueError):
            seen.failures[method] += 1
            self.close()
            return
        seen.latencies.append(clock() - began)
        seen.failures[method] += status >= 500

    async def _exchange(self, target: str, method: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = b"x" if method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: load\r\n{length}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(size)
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head[9:12])

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def zipf(objects: int, exponent: float, seed: int) -> Iterator[str]:
    """Targets, the n-th most popular in proportion to 1/n^exponent."""
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, objects + 1)))
    chance = random.Random(seed)
    while True:
        yield f"/object/{bisect(weights, chance.random() * weights[-1])}"


def always_new() -> Iterator[str]:
    """Targets that nobody has, and that nobody may keep."""
    while True:
        yield f"/once/{next(NUMBERS)}"


async def closed_loop(port: int, targets: Iterator[str], requests: int, connections: int) -> Seen:
    """So many requests, each connection asking again when it has its answer."""
    seen = Seen()
    left = iter(range(requests))

    async def one() -> None:
        client = Client(port, seen)
        for _ in left:
            await client.ask(next(targets))
        client.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return seen


async def at_a_rate(
    port: int, targets: Iterator[str], rate: float, seconds: float, method_of: Callable[[int], str] = lambda n: "GET"
) -> Seen:
    """So many requests a second, whether answers come or not."""
    seen = Seen()
    idle: list[Client] = []
    asking: set[asyncio.Task[None]] = set()
    clock = time.perf_counter
    began = clock()

    async def one(number: int) -> None:
        client = idle.pop() if idle else Client(port, seen)
        await client.ask(next(targets), method_of(number))
        idle.append(client)

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - clock()))
        task = asyncio.get_running_loop().create_task(one(number))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    for client in idle:
        client.close()
    return seen
