"""What the machine's store promises, each figure with its bound: workers, restarts, crashes, a disk, memory.

    python -m loadtests machine-store [--only workers,objects,restart,index,disk,crashes,churn] [--trace FILE]

workers   CPU of a hit with one worker and with two: what two give on as many cores of their own
objects   distinct objects held with one worker and with four, at the same EDGECACHE_MEMORY
restart   hit ratio right after a restart (store on disk), and after the workers were relieved (store in memory)
index     a store of a million records, closed and opened again
disk      a store on disk that holds a tenth of what is requested, beside nginx with as much
crashes   processes killed at any moment, torn writes, truncated files; `--kills` of them (500)
churn     resident memory of the whole POP while objects come and go, for `--seconds` (30)

Exit code: 0 if every figure is within its bound, 1 if not, 2 if one could not be measured.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.bench import heads, peers, rawload, store_crashes, store_disk
from loadtests.bench.origin import origin
from loadtests.bench.processes import LOAD_CORE, server
from loadtests.bench.restart import zipf
from loadtests.lab import procstat
from loadtests.lab.processes import Process, StartError, free_port

MIB: Final = 1024 * 1024
SIZED: Final = Path(__file__).with_name("sized_origin.py")


class Figure(NamedTuple):
    """One figure, its bound, and whether it is within that."""

    name: str
    found: str
    bound: str
    good: bool


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    trace: Path | None
    requests: int
    records: int
    kills: int
    seconds: float
    directory: Path


def ask(running: Process, requests: Iterable[bytes], connections: int = 32) -> int:
    """Make these requests; how many there were."""
    load = rawload.run(running.port, requests, connections=connections)
    if load.problems:
        raise StartError("; ".join(load.problems))
    return load.requests


def of(numbers: Iterable[int], name: str = "n") -> list[bytes]:
    """Requests for objects of 1 KiB."""
    return [heads.request("GET", f"/o/{name}{number}") for number in numbers]


def workers(options: Options) -> Iterator[Figure]:
    """CPU of each hit, in the whole tree.

    With fewer than four cores the load holds two workers back, which wake up more often for the same requests: the
    figure is then for comparison only.
    """
    with origin(options.directory / "origin") as upstream, ExitStack() as stack:
        running, fetched = {}, {}
        for count in (1, 2):
            command = peers.edgecache(None, {"EDGECACHE_WORKERS": str(count)}).command
            one = replace(command(options.directory / str(count), upstream.port), core=None)  # on any core
            running[count] = stack.enter_context(one)
            before = upstream.asked()
            for _ in range(20):  # until what is hot has risen in each worker
                ask(one, of(range(1000)), 32 * count)
            fetched[count] = upstream.asked() - before
        rounds = [{count: _cost(one, 32 * count) for count, one in running.items()} for _ in range(5)]
    costs = {count: statistics.median(turn[count] for turn in rounds) for count in running}
    equal = fetched[1] == fetched[2]
    yield Figure("origin fetches of two workers, and of one", f"{fetched[2]} and {fetched[1]}", "equal", equal)
    gain = 2 * costs[1] / costs[2]
    found = f"{gain:.2f} x ({costs[1]:.1f} and {costs[2]:.1f} us of CPU a hit)"
    enough = (os.cpu_count() or 1) >= 4
    yield Figure("hits of two workers, to one", found, ">= 1.85" if enough else "-", gain >= 1.85 or not enough)


def _cost(running: Process, connections: int) -> float:
    """Microseconds of CPU of a hit; as many connections for each worker."""
    before = running.cpu()
    total = ask(running, of(range(1000)) * 10, connections)
    return procstat.cpu_between(before, running.cpu()).ran_ns / 1000 / total


def objects(options: Options) -> Iterator[Figure]:
    """More objects than there is room for; then a sample says how many of them are held."""
    held: dict[int, float] = {}
    many, memory = 50_000, "48MiB"
    with origin(options.directory / "origin") as upstream:
        for count in (1, 4):
            more = {"EDGECACHE_WORKERS": str(count), "EDGECACHE_MEMORY": memory, "EDGECACHE_STORE": "memory"}
            contestant = peers.edgecache(None, {**more, "EDGECACHE_STORE_SIZE": "36MiB"}, f"objects-{count}")
            with contestant.command(options.directory / contestant.name, upstream.port) as running:
                ask(running, of(range(many)))
                sample = random.Random(1).sample(range(many), 1000)
                before = upstream.asked()
                ask(running, of(sample))
                held[count] = 1 - (upstream.asked() - before) / len(sample)
    ratio = held[4] / held[1]
    found = f"{ratio:.2f} ({held[1] * many:,.0f} and {held[4] * many:,.0f} objects in {memory})"
    yield Figure("objects held by four workers, to one", found, ">= 0.9", ratio >= 0.9)


def restart(options: Options) -> Iterator[Figure]:
    """As many requests before and after; a hit is one that did not reach the origin."""
    count = options.requests
    asked = zipf(20_000, 40_000 + 3 * count, 0.9, 1)
    warming, phases = asked[:40_000], [asked[40_000 + n * count : 40_000 + (n + 1) * count] for n in range(3)]
    disk = {"EDGECACHE_STORE": f"disk:{options.directory / 'kept'}", "EDGECACHE_MEMORY": "16MiB"}
    memory = {"EDGECACHE_STORE": "memory", "EDGECACHE_MEMORY": "256MiB", "EDGECACHE_WORKERS": "2"}
    with origin(options.directory / "origin") as upstream:

        def hits(running: Process, requests: Sequence[bytes]) -> float:
            before = upstream.asked()
            ask(running, requests)
            return 1 - (upstream.asked() - before) / count

        first = peers.edgecache(None, disk, "disk")
        with first.command(options.directory / "one", upstream.port) as running:
            ask(running, warming)
            before = hits(running, phases[0])
        with first.command(options.directory / "two", upstream.port) as running:
            after = hits(running, phases[1])
        yield _kept("hit ratio left after a restart, on disk", before, after)
        second = peers.edgecache(None, memory, "memory")
        with second.command(options.directory / "three", upstream.port) as running:
            ask(running, warming)
            before = hits(running, phases[0])
            os.kill(running.pid, signal.SIGUSR2)
            _wait_for_reliefs(running, 2)
            after = hits(running, phases[1])
        yield _kept("hit ratio left after the workers were relieved, in memory", before, after)


def _wait_for_reliefs(running: Process, count: int) -> None:
    until = time.monotonic() + 60
    while running.errors.read_text(errors="replace").count("worker ready") < 2 * count:
        if time.monotonic() > until:
            raise StartError("the workers were not relieved within 60 s")
        time.sleep(0.1)


def _kept(name: str, before: float, after: float) -> Figure:
    return Figure(name, f"{after / before:.1%} ({before:.1%} and {after:.1%})", ">= 99 %", after >= 0.99 * before)


def index(options: Options) -> Iterator[Figure]:
    """Opened by a process that has never seen it."""
    seconds = store_crashes.reopened(options.directory / "index", options.records)
    yield Figure(f"store of {options.records:,} records opened again", f"{seconds:.2f} s", "<= 3 s", seconds <= 3)


def disk(options: Options) -> Iterator[Figure]:
    """Ratios side by side; those of the others are for comparison."""
    port = free_port()
    argv = [sys.executable, str(SIZED), str(port)]
    with server(argv, port, options.directory / "origin", core=LOAD_CORE):
        found = store_disk.compare(options.trace, options.requests * 4, port, options.directory)
    for name, one in found.items():
        text = f"{one.hits:.1%} of requests, {one.bytes:.1%} of bytes, {one.cpu:.0f} us of CPU a request"
        yield Figure(f"hits of {name}", text, "-", True)
    ours = found["edgecache"]
    yield Figure("bytes written for each byte stored", f"{ours.written:.2f}", "<= 1.2", ours.written <= 1.2)


def crashes(options: Options) -> Iterator[Figure]:
    """Each with a look at every record afterwards."""
    found = store_crashes.crash(options.directory / "crashes", options.kills)
    for name, count in found.items():
        bounded = name not in ("crash points", "torn records found out")
        yield Figure(name, str(count), "0" if bounded else "-", not bounded or count == 0)


def churn(options: Options) -> Iterator[Figure]:
    """New objects all the time; the proportional set size of all processes counts shared pages once."""
    memory = 64
    more = {"EDGECACHE_MEMORY": f"{memory}MiB", "EDGECACHE_WORKERS": "2"}
    started = time.monotonic()
    with origin(options.directory / "origin") as upstream:
        contestant = peers.edgecache(None, more, "churn")
        with contestant.command(options.directory / "churn", upstream.port) as running:
            ask(running, of(range(200), "rest"))
            rest = procstat.resident_bytes(running.pid)
            seen: list[int] = []
            while time.monotonic() - started < options.seconds:
                ask(running, of(range(4000), f"churn{len(seen)}-"))
                seen.append(procstat.resident_bytes(running.pid))
    over = (max(seen) - rest) / MIB
    yield Figure("resident above the processes at rest", f"{over:.0f} MiB", f"<= {memory} MiB", over <= memory)
    half = seen[len(seen) // 2 :]
    growth = (max(half) - half[0]) / half[0]
    yield Figure(f"growth over the second half of {len(seen)} rounds", f"{growth:.1%}", "<= 3 %", growth <= 0.03)


CHECKS: Final[dict[str, Callable[[Options], Iterator[Figure]]]] = {
    check.__name__: check for check in (workers, objects, restart, index, disk, crashes, churn)
}


@contextmanager
def _options(given: argparse.Namespace, name: str) -> Iterator[Options]:
    with tempfile.TemporaryDirectory(prefix=f"edgecache-{name}-", dir=given.directory or None) as directory:
        yield Options(given.trace, given.requests, given.records, given.kills, given.seconds, Path(directory))


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(CHECKS), help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--trace", type=Path, help="file of id,size lines for disk, gzipped or plain (default: Zipf)")
    parser.add_argument("--requests", type=int, default=10_000, help="of each phase (10,000)")
    parser.add_argument("--records", type=int, default=1_000_000, help="for index (1,000,000)")
    parser.add_argument("--kills", type=int, default=500, help="for crashes (500)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for churn (30)")
    parser.add_argument("--directory", default="", help="on the file system to be measured (default: that of TMPDIR)")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"--only: {unknown[0]} is none of {','.join(CHECKS)}")
    code = 0
    print("| what | figure | bound | |\n|---|---|---|---|")
    for name in names:
        try:
            with _options(given, name) as options:
                for figure in CHECKS[name](options):
                    code = max(code, 0 if figure.good else 1)
                    word = "" if figure.bound == "-" else "good" if figure.good else "MISSED"
                    print(f"| {figure.name} | {figure.found} | {figure.bound} | {word} |", flush=True)
        except StartError as error:
            print(f"machine-store: {name}: {error}", file=sys.stderr)
            code = 2
    return code
