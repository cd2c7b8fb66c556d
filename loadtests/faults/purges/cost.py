"""What purges cost: of a tag that 100,000 objects bear, 2,000 a second, and with 1,000,000 purged names remembered."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from loadtests.faults.purges.pour import pouring
from loadtests.faults.purges.wire import Got, Wire, ask
from loadtests.faults.purges.world import Region, converged, world

TAGS: Final = 10  # of each object
HOT: Final = 1000  # objects that are asked for while purges pour in
RATE: Final = 2000  # purges a second
CONNECTIONS: Final = 8
ROUNDS: Final = 5
ROUND_SECONDS: Final = 2.0
TICK: Final = os.sysconf("SC_CLK_TCK")


class Origin(asyncio.Protocol):
    """An origin whose objects bear ten tags each, by their number."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody asks."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head, self._held = self._held[:end], self._held[end + 4 :]
            number = int(head.split(b" ", 2)[1].rpartition(b"/")[2] or b"0")
            tags = " ".join(["all", *(f"t{power}-{number % 2**power}" for power in range(1, TAGS))])
            content = b"%d\n" % number * 20
            answer = f"HTTP/1.1 200 OK\r\nCache-Control: max-age=86400\r\nSurrogate-Key: {tags}\r\n"
            assert self._transport is not None
            self._transport.write(f"{answer}Content-Length: {len(content)}\r\n\r\n".encode() + content)


@asynccontextmanager
async def tagged_region(folder: Path, **settings: str) -> AsyncIterator[Region]:
    """One region with one worker in front of such an origin."""
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        origin = f"http://127.0.0.1:{port}"
        async with world(folder, ("eu",), 1, EDGECACHE_ORIGIN=origin, EDGECACHE_MEMORY="1GiB", **settings) as found:
            yield found.regions["eu"]


async def cost(options: argparse.Namespace, report: Any) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="edgecache-purges-") as folder:
        async with tagged_region(Path(folder)) as region:
            print(f"cost: one region, one worker, {options.objects} objects with {TAGS} tags each")
            await _fill(region, range(options.objects))
            await _tag_purges(region, report)
            await _storm(region, options.storm, report)
    many = str(2 * options.registers)
    with tempfile.TemporaryDirectory(prefix="edgecache-purges-") as folder:
        async with tagged_region(
            Path(folder), EDGECACHE_PURGE_REGISTERS=many, EDGECACHE_PURGE_RETENTION=many
        ) as region:
            await _registers(region, options.registers, report)


async def _tag_purges(region: Region, report: Any) -> None:
    now = time.perf_counter
    recorded, applied = [], []
    for number in range(200):
        began = now()
        await region.purge({"tags": [f"t{1 + number % 9}-0", "all"]}, "region" if number % 2 else "none")
        (applied if number % 2 else recorded).append(now() - began)
    for what, took in (("recorded in the region", recorded), ("applied by its workers", applied)):
        p50, p99 = _percentile(took, 0.5), _percentile(took, 0.99)
        figure = f"{p50 * 1000:.1f} / {p99 * 1000:.1f} ms"
        report.line(f"purge of a tag that all of them bear, {what}, p50/p99", figure, "p50 ≤ 5 ms", p50 <= 0.005)


async def _storm(region: Region, seconds: float, report: Any) -> None:
    await _fill(region, range(HOT))
    before, calm = await _latencies(region, seconds / 3)
    async with pouring(region, RATE, seconds) as storm:
        during, stormy = await _latencies(region, seconds)
        purged = int((await storm.communicate())[0])
    p99, base = _percentile(stormy, 0.99), _percentile(calm, 0.99)
    print(f"storm: {purged} purges in {seconds:g} s, {before + during} hits of {HOT} objects meanwhile")
    report.line("hit p50/p99 without", f"{_percentile(calm, 0.5) * 1e6:.0f} / {base * 1e6:.0f} µs")
    figure = f"{_percentile(stormy, 0.5) * 1e6:.0f} / {p99 * 1e6:.0f} µs"
    report.line("hit p50/p99 during", figure, f"p99 ≤ {2 * base * 1e6:.0f} µs", p99 <= 2 * base)
    metrics = await _metrics(region)
    report.line(
        "purged names remembered, and their bytes", f"{metrics['registers']:.0f}, {metrics['bytes'] / 2**20:.1f} MiB"
    )


async def _registers(region: Region, count: int, report: Any) -> None:
    """CPU of a hit without any purged name, and with a million: asked in one process, one after the other."""
    await _fill(region, range(HOT))
    pid = _worker(region)
    await _latencies(region, ROUND_SECONDS)
    resident = _resident(pid)
    without = [await _cpu_per_hit(region, pid) for _ in range(ROUNDS)]
    began = time.perf_counter()
    async with pouring(region, count=count) as pourer:
        await pourer.communicate()
    await converged_one(region)
    took = time.perf_counter() - began
    await _fill(region, range(HOT))
    await _latencies(region, ROUND_SECONDS)
    with_many = [await _cpu_per_hit(region, pid) for _ in range(ROUNDS)]
    metrics = await _metrics(region)
    grown = _resident(pid) - resident
    print(f"registers: {metrics['registers']:.0f} purged names, poured in and applied in {took:.0f} s")
    ratio = min(with_many) / min(without)
    figure = f"{min(without):.1f} → {min(with_many):.1f} µs"
    report.line("CPU of a hit, least of 5 rounds, without and with", figure, "+ 3 %", ratio <= 1.03)
    accounted = metrics["bytes"] / 2**20
    report.line("their memory: accounted, resident", f"{accounted:.0f}, {grown / 2**20:.0f} MiB")


async def converged_one(region: Region) -> None:
    """Wait until the region's own workers have applied all that is in its log."""
    from loadtests.faults.purges.world import World

    await converged(World({region.name: region}, 0), 300)


async def _fill(region: Region, numbers: Sequence[int]) -> None:
    """Have the worker hold these objects."""

    async def some(start: int) -> None:
        wire = Wire(region.port)
        for number in numbers[start::CONNECTIONS]:
            _good(await wire.ask("GET", f"/{number}"))
        await wire.close()

    await asyncio.gather(*(some(start) for start in range(CONNECTIONS)))


async def _latencies(region: Region, seconds: float) -> tuple[int, list[float]]:
    """How long hits take at an even rate, far from what the worker could do."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def some(start: int) -> None:
        wire = Wire(region.port)
        number = start
        while (began := time.perf_counter()) < until:
            _good(await wire.ask("GET", f"/{number % HOT}"))
            took.append(time.perf_counter() - began)
            number += CONNECTIONS
            await asyncio.sleep(0.01)
        await wire.close()

    await asyncio.gather(*(some(start) for start in range(CONNECTIONS)))
    return len(took), took


async def _cpu_per_hit(region: Region, pid: int) -> float:
    """Microseconds of the worker's CPU per hit, connections asking as fast as they are answered."""
    hits = 0
    until = time.perf_counter() + ROUND_SECONDS
    before = _cpu(pid)

    async def some(start: int) -> None:
        nonlocal hits
        wire = Wire(region.port)
        number = start
        while time.perf_counter() < until:
            _good(await wire.ask("GET", f"/{number % HOT}"))
            hits += 1
            number += CONNECTIONS
        await wire.close()

    await asyncio.gather(*(some(start) for start in range(CONNECTIONS)))
    return (_cpu(pid) - before) * 1e6 / hits


def _good(got: Got) -> None:
    if got.status != 200:
        raise RuntimeError(f"answered {got.status}")


async def _metrics(region: Region) -> dict[str, float]:
    got = await ask(region.admin_port, "GET", "/metrics", f"Authorization: Bearer {region.token}\r\n")
    values = dict(line.rsplit(b" ", 1) for line in got.body.splitlines() if line and not line.startswith(b"#"))
    read: Callable[[bytes], float] = lambda name: float(values[name])  # noqa: E731
    return {"registers": read(b"edgecache_purge_registers"), "bytes": read(b"edgecache_purge_register_bytes")}


def _worker(region: Region) -> int:
    pid = region.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
