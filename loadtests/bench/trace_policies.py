"""Replay recorded request traces through the eviction policies: what each keeps, and what each costs.

    python -m loadtests trace-policies [TRACE.csv.gz ...] [--data DIR] [--fraction 0.01 0.1] [--cap 0.1]

A trace is a gzipped CSV of `id,size` per request (sizes in bytes). For each trace and cache size (a fraction of the
footprint: the bytes of all distinct objects) it prints, per policy, the object and byte hit ratio of the whole
replay from an empty cache, then, on the cache the replay left behind:

- ns/hit: CPU time of `cache[key]` for the trace's own requests that hit, in their order, less that of an empty loop;
- ns/set: CPU time of storing a new object (sizes as in the trace) with the evictions that makes, likewise.

Both are medians over rounds that alternate between the policies. `--cap` repeats each line with objects above that
fraction of the cache left out of it; a trace with none that large is not repeated.
"""

import argparse
import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from edgecache.storage.eviction import POLICIES, EvictionPolicy
from loadtests import ROOT
from loadtests.locust.traces import Request, read_trace

SAMPLE = 10_000  # hits, and sets, per round: milliseconds, far above the clock's grain
Item = TypeVar("Item")


class Replay(NamedTuple):
    """What one policy made of one trace."""

    cache: EvictionPolicy[str, int]
    hits: int
    hit_bytes: int


def main() -> None:
    """Print the table for the traces named on the command line, or for all in the data directory."""
    options = parse_arguments()
    traces = options.traces or sorted(options.data.glob("*.csv.gz"))
    if not traces:
        sys.exit(f"trace_policies: no trace found: no *.csv.gz in {options.data} (name files, or set --data)")
    print(f"{'trace':<24}{'cache':>7}{'cap':>6}  {'policy':<8}{'object %':>9}{'byte %':>8}{'ns/hit':>8}{'ns/set':>8}")
    for path in traces:
        try:
            requests = read_trace(path)
        except (OSError, EOFError, ValueError) as error:
            sys.exit(f"trace_policies: cannot read {path}: {error}")
        for fraction, cap in itertools.product(options.fraction, (None, options.cap)):
            print_comparison(path.name.removesuffix(".csv.gz"), requests, fraction, cap, options.rounds)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE.csv.gz", help="default: all of --data")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/traces", help="default: %(default)s")
    parser.add_argument(
        "--fraction", nargs="+", type=above_zero, default=[0.01, 0.1], help="cache sizes, as fractions of the footprint"
    )
    parser.add_argument("--cap", type=above_zero, default=0.1, help="largest object, as a fraction of the cache")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds per policy, at least 5")
    options = parser.parse_args()
    if options.rounds < 5:
        parser.error("--rounds: a median wants at least 5")
    return options


def above_zero(text: str) -> float:
    """Parse a fraction."""
    fraction = float(text)
    if not 0 < fraction <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return fraction


def print_comparison(trace: str, requests: Sequence[Request], fraction: float, cap: float | None, rounds: int) -> None:
    """Print one line per policy, or nothing if the cap leaves nothing out."""
    sizes = dict(requests)
    maxsize = max(1, int(sum(sizes.values()) * fraction))
    limit = maxsize if cap is None else int(maxsize * cap)
    if cap is not None and max(sizes.values()) <= limit:
        return
    replays = {name: replay(policy(maxsize, int), requests, limit) for name, policy in POLICIES.items()}
    costs = measure([r.cache for r in replays.values()], requests, limit, rounds)
    total_bytes = sum(size for _, size in requests)
    for (name, (_, hits, hit_bytes)), (hit_ns, set_ns) in zip(replays.items(), costs, strict=True):
        ratios = f"{100 * hits / len(requests):>9.2f}{100 * hit_bytes / total_bytes:>8.2f}"
        capped = "none" if cap is None else f"{cap:.0%}"
        print(f"{trace:<24}{fraction:>7.1%}{capped:>6}  {name:<8}{ratios}{hit_ns:>8.0f}{set_ns:>8.0f}", flush=True)


def replay(cache: EvictionPolicy[str, int], requests: Sequence[Request], limit: int) -> Replay:
    """Ask the cache for each object and store what it lacks, up to `limit` bytes; an object of a new size is new."""
    hits = hit_bytes = 0
    for key, size in requests:
        if cache.get(key) == size:
            hits += 1
            hit_bytes += size
        elif size <= limit:
            cache[key] = size
        else:
            cache.pop(key, None)
    return Replay(cache, hits, hit_bytes)


def measure(
    caches: Sequence[EvictionPolicy[str, int]], requests: Sequence[Request], limit: int, rounds: int
) -> list[tuple[float, float]]:
    """Return each cache's median (ns per hit, ns per set); sets come last, for they change what is in it."""
    hits = [[key for key, _ in requests if key in cache][-SAMPLE:] for cache in caches]
    hit_ns = medians(hit_all, caches, lambda i: hits[i], rounds)
    sizes = itertools.cycle([size for _, size in requests if size <= limit])
    newcomers: Iterator[Request] = zip(map("new {}".format, itertools.count()), sizes, strict=False)
    set_ns = medians(set_all, caches, lambda _: list(itertools.islice(newcomers, SAMPLE)), rounds)
    return list(zip(hit_ns, set_ns, strict=True))


def medians(
    run: Callable[[EvictionPolicy[str, int], Sequence[Item]], float],
    caches: Sequence[EvictionPolicy[str, int]],
    work: Callable[[int], Sequence[Item]],
    rounds: int,
) -> list[float]:
    """Return the median of `run` over the rounds for each cache, the caches taking turns within each round."""
    results: list[list[float]] = [[] for _ in caches]
    gc.disable()
    try:
        for _, (i, cache) in itertools.product(range(rounds), enumerate(caches)):
            results[i].append(run(cache, work(i)))
    finally:
        gc.enable()
    return [statistics.median(result) for result in results]


def hit_all(cache: EvictionPolicy[str, int], keys: Sequence[str]) -> float:
    """Return the ns per hit of asking for all keys; all of them are in the cache."""
    start = time.process_time_ns()
    for key in keys:
        cache[key]
    middle = time.process_time_ns()
    for _key in keys:
        pass
    return (2 * middle - start - time.process_time_ns()) / len(keys) if keys else math.nan


def set_all(cache: EvictionPolicy[str, int], requests: Sequence[Request]) -> float:
    """Return the ns per set of storing all objects; none of them is in the cache."""
    start = time.process_time_ns()
    for key, size in requests:
        cache[key] = size
    middle = time.process_time_ns()
    for _key, _size in requests:
        pass
    return (2 * middle - start - time.process_time_ns()) / len(requests) if requests else math.nan
