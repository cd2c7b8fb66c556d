"""Hits out of the machine's store, beside those out of a worker's memory and nginx's cached files; what a store costs.

Each figure has its bound. Contestants take turns on the server's core; nothing goes into the memory of the one with the
store, so that each of its hits comes out of that.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.bench import heads, peers, rawload
from loadtests.bench.origin import Origin
from loadtests.bench.processes import LOAD_CORE
from loadtests.lab import procstat
from loadtests.lab.processes import Process, StartError

IN_STORE: Final = {
    "EDGECACHE_STORE": "memory",
    "EDGECACHE_STORE_SIZE": "64MiB",
    "EDGECACHE_MEMORY": "512MiB",
    "EDGECACHE_MAX_OBJECT_MEMORY": "100B",
}
KNOWN: Final = 1000  # objects whose heads are all known
SMALL: Final = 1024  # bytes of each
PER_SECOND: Final = 2000  # objects stored while hits are timed
AT_ONCE: Final = 8  # of one transaction then
FEW: Final = 2  # connections then: neither core is busy all the time
WRITER: Final = """
import itertools, os, sys, time
from edgecache.storage.machine import store_files
from edgecache.storage.machine.store import Busy, Change
path, size, per_second, at_once = sys.argv[1], *map(int, sys.argv[2:5])
store = store_files.open_store(path, size, store_files.identity_of(b"own", b"", b""), mapped=True)
names, value, next_at = itertools.count(), os.urandom(1300), 0.0
def put(count):
    changes = [Change(b"another %d" % next(names), value) for _ in range(count)]
    while True:
        try:
            return store.apply(changes)
        except Busy:
            time.sleep(0.0002)
for _ in range(size // 1300 // 32):
    put(32)
print(flush=True)
before, began, stored = store.head["evicted"], time.monotonic(), 0
while os.getppid() == int(sys.argv[5]):
    put(at_once)
    stored += at_once
    time.sleep(max(0.0, began + stored / per_second - time.monotonic()))
"""


class Figure(NamedTuple):
    """One figure, and its bound."""

    name: str
    found: float
    unit: str
    bound: float
    at_least: bool = False

    @property
    def good(self) -> bool:
        """Whether it is within that."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "" if self.good else ", missed"
        return f"| {self.name} | {self.found:.2f} {self.unit} | {sign} {self.bound:g}{verdict} |"


class Round(NamedTuple):
    """One round of requests."""

    cpu: float  # microseconds by request
    per_second: float
    p99: float  # milliseconds


def asked(server: Process, requests: Sequence[bytes], connections: int) -> Round:
    """Ask."""
    before = server.cpu()
    load = rawload.run(server.port, requests, connections=connections)
    if load.problems:
        raise StartError("; ".join(load.problems))
    use = procstat.cpu_between(before, server.cpu())
    return Round(use.ran_ns / 1000 / len(requests), load.requests / load.seconds, load.p99_ms)


class Contest:
    """Servers that answer the same requests by turns."""

    def __init__(self, upstream: Origin, directory: Path, rounds: int) -> None:
        starts: dict[str, Callable[[Path, int], Process]] = {
            "memory": peers.edgecache(None, {"EDGECACHE_STORE": "off"}, "memory").command,
            "store": peers.edgecache(None, IN_STORE, "store").command,
        }
        if peers.installed(["nginx"])[0]:
            starts |= {"nginx": peers.nginx, "nginx-tuned": peers.nginx_tuned}
        self.upstream = upstream
        self._rounds = rounds
        self.servers = {name: start(directory / name, upstream.port) for name, start in starts.items()}

    def start(self) -> None:
        """Start all."""
        for server in self.servers.values():
            server.start()

    def stop(self) -> None:
        """Stop all."""
        for server in self.servers.values():
            server.stop()

    def hits(self, requests: Sequence[bytes], names: Sequence[str], connections: int = 16) -> dict[str, Round]:
        """Medians of each; what is asked is fetched, and its heads are known, before."""
        names = [name for name in names if name in self.servers]
        for name in names:
            for _ in range(4):
                asked(self.servers[name], requests, 2)
        before = self.upstream.asked()
        rounds: dict[str, list[Round]] = {name: [] for name in names}
        for _ in range(self._rounds):
            for name in names:
                rounds[name].append(asked(self.servers[name], requests, connections))
        if (again := self.upstream.asked() - before) > 0:
            print(f"fetched again: {again}, so these are not all hits")
        return {name: Round(*map(statistics.median, zip(*all_of, strict=True))) for name, all_of in rounds.items()}


def small(contest: Contest, count: int) -> Iterator[Figure]:
    """1 KiB: of few objects, whose heads are known, and of many, whose heads have a template."""
    for number, kind in ((KNOWN, "known heads"), (count, f"{count:,} objects")):
        requests = [heads.request("GET", f"/o/{kind[:3].strip()}{one}") for one in range(number)]
        repeated = requests * max(1, 8000 // number)
        found = contest.hits(repeated, ("memory", "store"))
        yield Figure(f"hit of 1 KiB, {kind}: CPU to memory's", found["store"].cpu / found["memory"].cpu, "×", 1.35)


def large(contest: Contest) -> Iterator[Figure]:
    """100 KiB and 10 MiB."""
    names = ("store", "nginx", "nginx-tuned")
    if "nginx" not in contest.servers:
        print("nginx is not installed: no figures of large objects")
        return
    found = contest.hits([heads.request("GET", "/medium")] * 1500, names, 8)
    best = min(found[name].cpu for name in names[1:])
    yield Figure("hit of 100 KiB: CPU to nginx's cached file", found["store"].cpu / best, "×", 1.2)
    found = contest.hits([heads.request("GET", "/big")] * 60, names, 8)
    best = max(found[name].per_second for name in names[1:])
    yield Figure("10 MiB: throughput to nginx's", found["store"].per_second / best, "×", 0.9, at_least=True)


def stored(rounds: int) -> Figure:
    """Storing records of 1 KiB, in batches, while others are evicted."""
    from edgecache.storage.machine import store_files
    from edgecache.storage.machine.schema import LEAST
    from edgecache.storage.machine.store import Change

    path, identity = store_files.private_directory(), store_files.identity_of(b"bench")
    value, took = bytes(SMALL + 300), []
    try:
        store_files.prepare(path, LEAST, identity, mapped=True)
        store = store_files.open_store(path, LEAST, identity, mapped=True)
        for turn in range(rounds + 3):
            batches = [[Change(b"%d %d %d" % (turn, batch, one), value) for one in range(32)] for batch in range(200)]
            began = time.process_time()
            for changes in batches:
                store.apply(changes)
            took.append((time.process_time() - began) / (32 * len(batches)) * 1e6)
        evicted = store.head["evicted"]
        store.close()
    finally:
        store_files.remove(path)
    if not evicted:
        raise StartError("nothing was evicted while records were stored")
    return Figure("store of 1 KiB, others evicted: CPU", statistics.median(took[3:]), "µs", 8)


@contextmanager
def writing(server: Process) -> Iterator[None]:
    """Meanwhile, another process stores objects in its store, and evicts others."""
    paths = list(Path("/dev/shm").glob(f"edgecache-store-{server.pid}-*"))
    if len(paths) != 1:
        raise StartError(f"the store of the POP was not found: {paths}")
    arguments = [str(paths[0]), str(64 << 20), str(PER_SECOND), str(AT_ONCE)]
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-c", WRITER, *arguments, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            if not writer.stdout.readline():
                raise StartError("the process that stores has ended")
            yield
        finally:
            writer.terminate()
            with suppress(subprocess.TimeoutExpired):
                writer.wait(10)


def tail(contest: Contest, rounds: int) -> Figure:
    """p99 of hits while objects are stored and evicted, to that of hits alone."""
    server = contest.servers["store"]
    requests = [heads.request("GET", f"/o/kno{one}") for one in range(KNOWN)]
    ratios = []
    for _ in range(2 * rounds + 1):
        alone = asked(server, requests * 10, FEW).p99
        with writing(server):
            asked(server, requests * 2, FEW)  # what the first of those that are stored have evicted
            before = contest.upstream.asked()
            ratios.append(asked(server, requests * 10, FEW).p99 / alone)
            if (again := contest.upstream.asked() - before) > 0:
                print(f"fetched again while objects are stored: {again} of {10 * KNOWN}")
    return Figure(f"p99 of hits while {PER_SECOND:,} objects/s are stored", statistics.median(ratios), "×", 1.3)


def figures(count: int, rounds: int, upstream: Origin, directory: Path) -> list[Figure]:
    """All of them, printed as they come."""
    contest = Contest(upstream, directory, rounds)
    found = []
    print("\n| hits of the machine's store | found | bound |\n|---|---|---|", flush=True)

    def told(figure: Figure) -> None:
        found.append(figure)
        print(figure, flush=True)

    try:
        contest.start()
        for figure in chain(small(contest, count), large(contest)):
            told(figure)
        told(stored(rounds))
        told(tail(contest, rounds))
    finally:
        contest.stop()
    return found
