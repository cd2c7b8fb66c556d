"""Purges measured on three regions of real processes, with delays and cuts between them.

exact    polled every 10 ms over all paths: old answers after acknowledgement, and how soon the last old byte came
cut      a region cut off for 1,000 purges, and healed
cost     100,000 objects with 10 tags each; 2,000 purges a second; 1,000,000 purged names remembered
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtests.faults.purges.cost import cost
from loadtests.faults.purges.exactness import cut_off, exactness

PARTS = ("exact", "cut", "cost")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Report:
    """Figures beside their bounds; what exceeds one fails the run."""

    def __init__(self) -> None:
        self.failed = 0

    def line(self, what: str, figure: str, bound: str = "", good: bool = True) -> None:
        """One figure."""
        self.failed += not good
        mark = "" if not bound else "ok" if good else "EXCEEDED"
        print(f"  {what:<66} {figure:>22}   {bound:<16} {mark}", flush=True)


async def measure(options: argparse.Namespace, report: Report) -> None:
    """All parts that are wanted."""
    for delay in options.delays if "exact" in options.only else ():
        with tempfile.TemporaryDirectory(prefix="edgecache-purges-") as folder:
            found = await exactness(Path(folder), delay, options.purges)
        print(
            f"exact: 3 regions × 2 workers, {delay * 1000:g} ms each way, {found.purges} purges, {found.polled} polls"
        )
        report.line("old answers after acknowledgement by all", f"{found.old}", "0", found.old == 0)
        report.line("failed requests", f"{found.errors}", "0", found.errors == 0)
        bound = 0.05 + delay
        p50, p99, most = (percentile(found.last_old, share) for share in (0.5, 0.99, 1.0))
        figure = f"{p50 * 1000:.0f} / {p99 * 1000:.0f} / {most * 1000:.0f} ms"
        report.line(
            "acknowledged in the region to last old byte, p50/p99/max",
            figure,
            f"p99 ≤ {bound * 1000:.0f} ms",
            p99 <= bound,
        )
        p50, p99 = (percentile(found.waits, share) for share in (0.5, 0.99))
        report.line("asked to acknowledged by all, p50/p99", f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms")
    if "cut" in options.only:
        with tempfile.TemporaryDirectory(prefix="edgecache-purges-") as folder:
            cut = await cut_off(Path(folder), options.cut)
        print(f"cut: one region of three cut off for {cut.purges} purges, 40 ms each way")
        report.line("healed to converged", f"{cut.converged * 1000:.0f} ms", "≤ 1000 ms", cut.converged <= 1.0)
        report.line(
            "old answers after that", f"{cut.old} of {cut.asked}", "0", cut.old == 0 and cut.asked == cut.purges
        )
    if "cost" in options.only:
        await cost(options, report)


def main() -> int:
    """Measure; 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--purges", type=int, default=120, help="of each delay (120)")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.04, 0.09], help="one way, in seconds")
    parser.add_argument("--cut", type=int, default=1000, help="purges while one region is cut off (1000)")
    parser.add_argument("--objects", type=int, default=100_000, help="with ten tags each (100000)")
    parser.add_argument("--storm", type=float, default=30.0, help="seconds of 2,000 purges a second (30)")
    parser.add_argument("--registers", type=int, default=1_000_000, help="purged names (1000000)")
    report = Report()
    uvloop.run(measure(parser.parse_args(), report))
    return 1 if report.failed else 0
