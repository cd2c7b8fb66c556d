"""What the machine's store costs and brings: hits out of it beside hits of memory, and fetches of several workers.

    python -m loadtests store [--objects 20000] [--rounds 3] [--only hits]

One worker answers each object out of its memory (no store), out of the store (its memory is too small for them), and
nginx out of its cache; CPU is that of the worker's process tree, by request. Then 50 objects in 20 rounds with 1, 2, 4
and 8 workers, and what hits and stores cost, each with its bound (`store_hits.py`; these alone: `--only hits`). Exit
code: 1 if an object was fetched more than once, or a bound was missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtests.bench import heads, peers, rawload, store_hits
from loadtests.bench.origin import Origin, origin
from loadtests.lab import procstat
from loadtests.lab.processes import Process, StartError

LITTLE: Final = "4MiB"  # of memory, so that hits come out of the store
SIZE: Final = "256MiB"  # of the store
BOTH: Final = "260MiB"  # together, if it is in memory


def asked(server: Process, requests: Sequence[bytes], connections: int = 32) -> tuple[float, float]:
    """Ask; CPU microseconds by request, and milliseconds of the 99th percentile."""
    before = server.cpu()
    load = rawload.run(server.port, requests, connections=connections)
    if load.problems:
        raise StartError("; ".join(load.problems))
    use = procstat.cpu_between(before, server.cpu())
    return use.ran_ns / 1000 / len(requests), load.p99_ms


def requests_for(count: int, seed: int) -> list[bytes]:
    """One request for each object, in an order that no cache likes."""
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    return [heads.request("GET", f"/o/{number}") for number in numbers]


def costs(count: int, rounds: int, upstream: Origin, directory: Path) -> dict[str, float]:
    """CPU of a hit, by where it comes from, in rounds by turns: medians."""
    little = {"EDGECACHE_MEMORY": LITTLE, "EDGECACHE_STORE_SIZE": SIZE}
    shared = {"EDGECACHE_MEMORY": BOTH, "EDGECACHE_STORE_SIZE": SIZE, "EDGECACHE_STORE": "memory"}
    contestants = {
        "memory": peers.edgecache(None, {"EDGECACHE_STORE": "off"}, "memory").command,
        "store": peers.edgecache(None, shared, "store").command,
        "disk": peers.edgecache(None, {**little, "EDGECACHE_STORE": f"disk:{directory / 'kept'}"}, "disk").command,
        "nginx": peers.nginx,
    }
    if not peers.installed(["nginx"])[0]:
        del contestants["nginx"]
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    running = {name: start(directory / name, upstream.port) for name, start in contestants.items()}
    try:
        for number, server in enumerate(running.values()):
            server.start()
            asked(server, requests_for(count, number))
        before = upstream.asked()
        for turn in range(rounds):
            for name, server in running.items():
                figures[name].append(asked(server, requests_for(count, 100 + turn))[0])
        print(f"fetched again: {upstream.asked() - before} of {rounds * count * len(running)} requests")
    finally:
        for server in running.values():
            server.stop()
    return {name: statistics.median(several) for name, several in figures.items()}


def fetches(workers: int, upstream: Origin, directory: Path, store: str) -> int:
    """Origin fetches for 50 objects in 20 rounds."""
    settings = {"EDGECACHE_WORKERS": str(workers), "EDGECACHE_STORE": store, "EDGECACHE_STORE_SIZE": "64MiB"}
    with peers.edgecache(None, settings).command(directory, upstream.port) as server:
        before = upstream.asked()
        for turn in range(20):
            asked(server, [heads.request("GET", f"/o/{workers}-{store}-{n}") for n in range(50)], 8 + turn % 8)
        return upstream.asked() - before


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("hits",), help="nothing but the costs of hits and stores")
    options = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory(prefix="edgecache-store-") as name:
        directory = Path(name)
        try:
            with origin(directory / "origin") as upstream:
                hits = store_hits.figures(options.objects, options.rounds, upstream, directory / "hits")
                wrong = not all(figure.good for figure in hits)
                if options.only:
                    return int(wrong)
                found = costs(options.objects, options.rounds, upstream, directory / "costs")
                print("\n| hit out of | CPU µs | to memory |\n|---|---|---|")
                for where, cost in found.items():
                    print(f"| {where} | {cost:.1f} | {cost / found['memory']:.2f} |")
                print("\n| workers | fetches without a store | with it |\n|---|---|---|")
                for workers in (1, 2, 4, 8):
                    without, shared = (
                        fetches(workers, upstream, directory / f"{workers}-{store}", store)
                        for store in ("off", "memory")
                    )
                    wrong = wrong or shared != 50
                    print(f"| {workers} | {without} | {shared} |")
        except StartError as error:
            print(f"store: {error}", file=sys.stderr)
            return 2
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
