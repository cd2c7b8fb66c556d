"""What a memory hit costs by the kind of its head, without sockets: CPU of the parser alone, and of all that we do.

    python -m loadtests heads-cost [--rounds 7]

Heads are those of the benchmark. "Flood" are heads whose every line is new: what an attacker could send. The second
column is parsing alone, as if nothing were known; the third is everything between the socket's read and its write.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.pop import environment
from hostile.rig import Transport

from edgecache.config.settings import load
from edgecache.semantics import rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Fields, Framing, Response
from edgecache.semantics.stored_response import Times
from edgecache.server.assembly import policy_of
from edgecache.server.worker import Worker
from edgecache.wire.h1.head import RequestHeads
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.head_limits import HeadLimits
from edgecache.wire.run_queue import RunQueue
from loadtests.bench import heads

COUNT = 20_000  # heads of each kind
URLS = 1000
STORED = ((b"Content-Type", b"text/html"), (b"Cache-Control", b"max-age=36000"), (b"ETag", heads.ETAG.encode()))
DICE = random.Random(7)


class Sink(Transport):
    """Counts what is written."""

    count = 0

    def write(self, data: Any) -> None:
        """An answer, or a part of one."""
        self.count += 1


class NoQueue(RunQueue):
    """Every request is handled as it comes: there are no turns of an event loop here."""

    def has_room(self) -> bool:
        """Whether one more is handled in this turn."""
        return True


def flood(number: int, names: Callable[[], Sequence[str]]) -> bytes:
    """A head of 14 lines that nobody has seen."""
    lines = "".join(f"{name}: {DICE.getrandbits(200):x}\r\n" for name in names())
    return f"GET /o/{number % URLS} HTTP/1.1\r\nHost: {heads.SITE}\r\n{lines}\r\n".encode()


USUAL = [name for name, _ in heads.BROWSER_FIELDS if name not in ("Connection", "Accept-Encoding")]
KINDS: dict[str, Callable[[int], bytes]] = {
    "the same for each URL": lambda number: heads.request("GET", f"/o/{number % URLS}"),
    "a cookie of its own": lambda number: heads.request("GET", f"/o/{number % URLS}", number),
    "a client of its own": lambda number: heads.request("GET", f"/o/{number % URLS}", number, own=True),
    "a cookie, If-None-Match": lambda number: heads.request("GET", f"/o/{number % URLS}", number, heads.ETAG),
    "flood: usual fields": lambda number: flood(number, lambda: USUAL),
    "flood: unknown fields": lambda number: flood(number, lambda: [f"X-{DICE.getrandbits(40):x}" for _ in range(14)]),
}


def fill(worker: Worker) -> None:
    """Store an object of 1 KiB for each URL."""
    now = time.time()
    for number in range(URLS):
        request = RequestHeads(HeadLimits()).parse(heads.request("GET", f"/o/{number}"))[0]
        response = Response(200, Fields(STORED), b"OK", Framing(1024))
        store = rfc9111.may_store(request, response, Times(now, now), policy_of(worker._settings))
        assert isinstance(store, rfc9111.Store), "it may be stored"
        worker.edge.memory.put(primary_key(request), store.stored, bytes(1024), passed=worker.edge.log.position)


def timed(work: Callable[[bytes], object], batch: Sequence[bytes]) -> float:
    """CPU microseconds for each; the heads are copies, as those that a socket brings."""
    fresh = [bytes(bytearray(one)) for one in batch]
    began = time.process_time()
    for one in fresh:
        work(one)
    return (time.process_time() - began) / len(batch) * 1e6


async def measure(rounds: int) -> None:
    """Every kind, in turns."""
    worker = Worker(load(environment("http://127.0.0.1:9", {"memory": "512MiB"}.items())))
    worker.run_queue = NoQueue()
    fill(worker)
    sink = Sink()
    connection = ClientConnection(worker, client="192.0.2.1")
    connection.connection_made(sink)
    batches = {kind: [make(number) for number in range(COUNT)] for kind, make in KINDS.items()}
    took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, batch in batches.items():
            before, worker.edge.known._seen._marks = sink.count, set()
            worker.edge.known.forget_all()
            parse = timed(RequestHeads(HeadLimits()).parse, batch)
            took[kind].append((parse, timed(connection.data_received, batch)))
            assert sink.count - before == COUNT, "each is a hit"
    print("| head | parsing alone, µs | all, µs | min to max |\n|---|---|---|---|")
    for kind, pairs in took.items():
        parses, alls = zip(*pairs, strict=True)
        spread = f"{min(alls):.1f} to {max(alls):.1f}"
        print(f"| {kind} | {statistics.median(parses):.1f} | {statistics.median(alls):.1f} | {spread} |")
    await worker.stop()


def main() -> None:
    """Measure, in as many turns as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="times that each kind is measured, in turns (7)")
    asyncio.run(measure(parser.parse_args().rounds))
