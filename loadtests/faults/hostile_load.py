"""What hostile clients and accidents do to a running POP: the figures, each beside its bound.

    python -m loadtests hostile-load [--only sockets,readers] [--quick] [--json FILE]

Everything happens on 127.0.0.1. The table goes to stdout, progress to stderr. Exit code: 0; 1 when a bound is
exceeded or a part failed. A full run takes about ten minutes and wants two cores; `--quick` is for orientation.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from loadtests.faults.hostile import budget, crash, descriptors, flood, pop, readers, rolling, sockets
from loadtests.faults.hostile.report import Figure, say, table
from loadtests.lab.processes import StartError

Part = Callable[[int, bool], Awaitable[list[Figure]]]
DESCRIPTORS = 16_384
MIB = 1024 * 1024


async def slow_sockets(origin: int, quick: bool) -> list[Figure]:
    """Slow and silent sockets."""
    return await sockets.measure(origin, *((600, 1, 4.0) if quick else (2000, 3, 8.0)))


async def slow_readers(origin: int, quick: bool) -> list[Figure]:
    """One reader at a byte a second."""
    return await readers.measure(origin, *((20 * MIB, 1, 16) if quick else (50 * MIB, 3, 16)))


async def rolling_restart(origin: int, quick: bool) -> list[Figure]:
    """Workers relieved under load."""
    return await rolling.measure(origin, *((10_000, 600.0) if quick else (100_000, 1000.0)))


async def accidents(origin: int, quick: bool) -> list[Figure]:
    """kill -9 and a full disk."""
    return await crash.measure(origin, *((1, 2.0) if quick else (4, 5.0)))


async def working_set(origin: int, quick: bool) -> list[Figure]:
    """Ten times the memory."""
    return await budget.measure(origin, *((16 * MIB, 12.0, 60_000) if quick else (48 * MIB, 25.0, 100_000)))


async def cache_busting(origin: int, quick: bool) -> list[Figure]:
    """Random queries."""
    return await flood.measure(origin, 5.0 if quick else 20.0)


async def no_files(origin: int, quick: bool) -> list[Figure]:
    """More connects than open files."""
    return await descriptors.measure(origin, 3.0 if quick else 8.0)


PARTS: dict[str, tuple[str, Part]] = {
    "sockets": ("Silent and dripping sockets", slow_sockets),
    "readers": ("A reader at a byte a second of what twenty others share", slow_readers),
    "rolling": ("Rolling restart of the workers", rolling_restart),
    "crash": ("kill -9 of a worker; a full disk for the log", accidents),
    "budget": ("A working set of ten times the memory", working_set),
    "descriptors": ("1,000 connects to a POP of 256 open files", no_files),
    "flood": ("A flood of random queries", cache_busting),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of: {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for orientation: some bounds mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    return options


def main() -> int:
    """Run what the command line asks for."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` still runs
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    began = time.monotonic()
    results: dict[str, list[Figure]] = {}
    failed = False
    with pop.origin() as origin:
        for name in options.only:
            title, part = PARTS[name]
            figures = _figures(name, part, origin, options.quick)
            failed = failed or figures is None or not all(figure.holds for figure in figures)
            results[name] = figures or []
            print(table(title, figures) if figures is not None else f"### {title}\n\nFAILED", end="\n\n", flush=True)
    say(f"hostile-load: {time.monotonic() - began:.0f} s")
    if options.json:
        document = {name: [vars(figure) for figure in figures] for name, figures in results.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


def _figures(name: str, part: Part, origin: int, quick: bool) -> list[Figure] | None:
    """What a part came to; None if it could not be measured."""
    say(f"{name}: begins")
    try:
        return uvloop.run(_awaited(part(origin, quick)))
    except (StartError, OSError, AssertionError, KeyError, ValueError):
        say(traceback.format_exc())
        return None


async def _awaited(figures: Awaitable[list[Figure]]) -> list[Figure]:
    return await figures
