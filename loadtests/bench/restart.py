"""Hit ratio before and after a restart of the POP, on a Zipf workload: with the regional tier, a store, and without.

    python -m loadtests restart [--urls 20000] [--requests 10000] [--alpha 0.9] [--seed 1]

One POP, one Valkey of the region, one origin, all on 127.0.0.1. A hit is a request that did not reach the origin. After
warming up, as many requests are counted before the POP is stopped (SIGTERM) and started anew as after it. Exit code: 0
if after the restart at least 95 % of the hit ratio is left with either, 1 if not, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from loadtests.bench import heads, peers, rawload, regional
from loadtests.bench.origin import Origin, origin
from loadtests.lab.processes import Process, StartError

MEMORY = "8MiB"  # a few thousand objects: fewer than are asked for
WARMING = 80_000  # requests
BOUND = 0.95


@dataclass(frozen=True)
class Ratio:
    """What a number of requests came to."""

    requests: int
    reached: int  # the origin

    @property
    def hits(self) -> float:
        """The share that did not reach the origin."""
        return 1.0 - self.reached / self.requests


@dataclass(frozen=True)
class Outcome:
    """Hit ratios of one POP: with its memory full, and at once after its restart."""

    name: str
    before: Ratio
    after: Ratio

    @property
    def kept(self) -> float:
        """How much of the hit ratio is left."""
        return self.after.hits / self.before.hits


def zipf(urls: int, count: int, alpha: float, seed: int) -> list[bytes]:
    """So many requests; the URL of rank r is asked for in proportion to r to the power of -alpha."""
    chance = random.Random(seed)
    weights = list(accumulate((rank + 1) ** -alpha for rank in range(urls)))
    return [
        heads.request("GET", f"/o/{number}") for number in chance.choices(range(urls), cum_weights=weights, k=count)
    ]


def ask(server: Process, requests: Sequence[bytes], upstream: Origin) -> Ratio:
    """Ask all of `requests`."""
    before = upstream.asked()
    load = rawload.run(server.port, requests, connections=16)
    if load.problems:
        raise StartError("; ".join(load.problems))
    return Ratio(len(requests), upstream.asked() - before)


def measure(
    name: str, url: str, phases: Sequence[Iterable[bytes]], upstream: Origin, directory: Path, *, store: bool = False
) -> Outcome:
    """Warm a POP up, count, restart it, count."""
    warming, before, after = (list(phase) for phase in phases)
    settings = {"EDGECACHE_MEMORY": MEMORY, "EDGECACHE_REGIONAL": url, "EDGECACHE_REGIONAL_TIMEOUT": "250ms"}
    if store:
        settings["EDGECACHE_STORE"] = f"disk:{directory / 'store'}"
    contestant = peers.edgecache(None, settings, name)
    with contestant.command(directory / "one", upstream.port) as server:
        ask(server, warming, upstream)
        full = ask(server, before, upstream)
    with contestant.command(directory / "two", upstream.port) as server:
        return Outcome(name, full, ask(server, after, upstream))


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = ["| POP | hit ratio before | after | left |", "|---|---|---|---|"]
    lines += [
        f"| {one.name} | {one.before.hits:.1%} ({one.before.reached:,} of {one.before.requests:,} reached the origin) "
        f"| {one.after.hits:.1%} ({one.after.reached:,}) | {one.kept:.1%} |"
        for one in outcomes
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=10_000, help="counted before, and after (10,000)")
    parser.add_argument("--alpha", type=float, default=0.9, help="of the Zipf distribution (0.9)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count = options.requests
    asked = zipf(options.urls, WARMING + 2 * count, options.alpha, options.seed)
    phases = asked[:WARMING], asked[WARMING : WARMING + count], asked[WARMING + count :]
    with tempfile.TemporaryDirectory(prefix="edgecache-restart-") as name:
        directory = Path(name)
        try:
            with origin(directory / "origin") as upstream, regional.valkey(directory / "valkey") as server:
                outcomes = [
                    measure("without the tier", "off", phases, upstream, directory / "off"),
                    measure("with a store on disk", "off", phases, upstream, directory / "store", store=True),
                    measure("with the regional tier", regional.url_of(server), phases, upstream, directory / "on"),
                ]
        except StartError as error:
            print(f"restart: {error}", file=sys.stderr)
            return 2
    print(f"{options.urls:,} URLs of 1 KiB, Zipf {options.alpha:g}, seed {options.seed}, memory {MEMORY}\n")
    print(table(outcomes))
    return 0 if min(one.kept for one in outcomes[1:]) >= BOUND else 1
