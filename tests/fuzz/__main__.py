"""Fuzz the product: `python -m fuzz [--inputs 1000000] [--socket-inputs 50000] [--seed 1]`, in `tests/`.

A crash is: an exception that is no named refusal, a disagreement of three parsers on what is sent on or answered, an
input that costs more than `SLOW` seconds of CPU or hangs, or memory that grows by more than `MOST_GROWTH` after the
first tenth. Progress is on standard error, a table at the end on standard output; exit code 1 if there was a crash.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from fuzz import parse_level
from fuzz.socket_level import Crash, Sockets

HANGS = 20  # seconds after which an input counts as hung
SLOW = 0.1  # seconds of CPU that one input of at most 12 kB may cost
MOST_GROWTH = 64 * 1024 * 1024  # bytes
MOST_SHOWN = 10  # crashes
BATCH = 500  # inputs between two looks at the time


class Hung(Exception):
    """An input that does not come to an end."""


class Run:
    """One run. Mutable state: the crashes so far, and the lines of the table."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.crashes: list[tuple[str, str, bytes]] = []
        self.table: list[tuple[str, int, float, str]] = []

    def crashed(self, where: str, error: BaseException | str, data: bytes) -> None:
        """Note a crash."""
        what = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.crashes.append((where, what, data))
        print(f"fuzz: CRASH in {where}: {what[:500]}\n  {data!r}"[:4000], file=sys.stderr)

    async def parse_level(self, inputs: int) -> None:
        """So many inputs for the targets without sockets."""
        shares = sum(share for _, share in parse_level.TARGETS)
        for made, share in parse_level.TARGETS:
            count = inputs * share // shares
            target, begun = made(Random(self.seed)), time.monotonic()
            outcomes = self.without_sockets(target, count)
            outcomes["new behaviours"] = target.mutator.found
            self.table.append((target.name, count, time.monotonic() - begun, told(outcomes)))

    def without_sockets(
        self, target: parse_level.Requests | parse_level.Responses | parse_level.Values, count: int
    ) -> Counter[str]:
        """Play `count` inputs of one target."""
        outcomes: Counter[str] = Counter()
        growth = Growth(count)
        for number in range(count):
            if number % BATCH == 0:
                signal.alarm(HANGS)
                growth.look(number)
                progress(target.name, number, count)
            data = target.mutator.next()
            began = time.process_time()
            try:
                outcomes[target.one(data)] += 1
            except Exception as error:
                self.crashed(target.name, error, data)
            if time.process_time() - began > SLOW and (least := cpu_of(target, data)) > SLOW:
                self.crashed(target.name, f"slow: {least:.2f} s of CPU", data)
            if len(self.crashes) >= MOST_SHOWN:
                break
        signal.alarm(0)
        growth.judge(self, target.name)
        return outcomes

    async def socket_level(self, inputs: int) -> None:
        """So many inputs over sockets."""
        sockets, begun, done = Sockets(Random(self.seed)), time.monotonic(), 0
        growth = Growth(inputs)
        while done < inputs and len(self.crashes) < MOST_SHOWN:
            some = min(2000, inputs - done)
            growth.look(done)
            progress(sockets.name, done, inputs)
            try:
                await sockets.run(some)
            except Crash as crash:
                self.crashed(sockets.name, crash, b"\n".join(crash.inputs))
                sockets.faults.clear()
            done += some
        growth.judge(self, sockets.name)
        self.table.append((sockets.name, done, time.monotonic() - begun, told(Counter(sockets.counts))))


class Growth:
    """Resident memory after the first tenth of the inputs, and at the end."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._before = 0

    def look(self, number: int) -> None:
        """`number` inputs have been played."""
        if not self._before and number * 10 >= self._count:
            gc.collect()
            self._before = resident()

    def judge(self, run: Run, where: str) -> None:
        """All inputs have been played."""
        gc.collect()
        grown = resident() - self._before
        if self._before and grown > MOST_GROWTH:
            run.crashed(where, f"memory grew by {grown >> 20} MiB", b"")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def cpu_of(target: parse_level.Requests | parse_level.Responses | parse_level.Values, data: bytes) -> float:
    """The least CPU time that an input costs, in seconds, of three times."""
    times = []
    for _ in range(3):
        began = time.process_time()
        target.one(data)
        times.append(time.process_time() - began)
    return min(times)


def told(outcomes: Counter[str]) -> str:
    """Outcomes in a line."""
    return ", ".join(f"{count:,} {what}" for what, count in sorted(outcomes.items()))


def progress(name: str, number: int, count: int) -> None:
    """Say how far it is, now and then."""
    if number % 10_000 == 0:
        print(f"fuzz: {name}: {number:,} of {count:,}", file=sys.stderr, flush=True)


def hung(*_: object) -> None:
    """The alarm."""
    raise Hung(f"no end within {HANGS} s")


async def fuzz(inputs: int, socket_inputs: int, seed: int) -> Run:
    """A whole run."""
    run = Run(seed)
    await run.parse_level(inputs)
    await run.socket_level(socket_inputs)
    return run


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz edgecache.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs without sockets (default: 1000000)")
    parser.add_argument("--socket-inputs", type=int, default=50_000, help="inputs over sockets (default: 50000)")
    parser.add_argument("--seed", type=int, default=1, help="for the same inputs again (default: 1)")
    options = parser.parse_args(arguments)
    before = signal.signal(signal.SIGALRM, hung)
    try:
        run = asyncio.run(fuzz(options.inputs, options.socket_inputs, options.seed))
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{'level':<18}{'inputs':>10}{'seconds':>9}  outcomes")
    for name, count, seconds, outcomes in run.table:
        print(f"{name:<18}{count:>10,}{seconds:>9.1f}  {outcomes}")
    print(f"seed {options.seed}, crashes {len(run.crashes)}")
    return 1 if run.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
