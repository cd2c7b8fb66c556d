"""The table at the end of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from loadtests.locust.tally import Histogram, Tally
from loadtests.locust.tiers import MEMORY, REGIONAL, TIERS

BEGUN: Final = "begun"  # GETs; those under way at the end are never answered
PURGED: Final = "purge, applied by all"  # until it was acknowledged
LATE: Final = "old byte after an acknowledgement"  # how long after it, of answers asked for before it or after
SHOWN: Final = (0.5, 0.99, 0.999)
RULE: Final = "|---|--:|--:|--:|--:|--:|--:|"
MOST_SHOWN: Final = 12  # different problems


@dataclass(frozen=True)
class Run:
    """What was run, and what the origin says it was asked meanwhile; empty if nobody could ask it."""

    title: str
    seconds: float
    origin: Mapping[str, int] = field(default_factory=dict)
    crowds: Mapping[str, int] = field(default_factory=dict)  # of the origin: questions about what a crowd wanted


def table(run: Run, tally: Tally) -> str:
    """Everything that came out."""
    lines = [f"### {run.title}", "", "| from | answers | share | p50 ms | p99 ms | p99.9 ms | most ms |", RULE]
    asked = answers(tally)
    lines += [_row(name, tally.times[name], asked) for name in TIERS if name in tally.times]
    lines += [_row(name, times, 0) for name, times in tally.times.items() if name not in TIERS]
    lines += ["", "| what | figure |", "|---|--:|"]
    lines += [f"| {name} | {figure} |" for name, figure in figures(run, tally).items()]
    for words, problems in (("error", tally.errors), ("old answer", tally.old)):
        lines += [f"\n{words}: {count} × {problem}" for problem, count in problems.most_common(MOST_SHOWN)]
    return "\n".join(lines)


def answers(tally: Tally) -> int:
    """How many answers to a GET came, of any tier."""
    return sum(tally.times[name].count for name in TIERS if name in tally.times)


def under_way(tally: Tally) -> int:
    """How many GETs were begun and not answered."""
    return tally.counts[BEGUN] - answers(tally)


def figures(run: Run, tally: Tally) -> dict[str, str]:
    """The figures of a run by name."""
    asked = answers(tally)
    hits = sum(tally.times[name].count for name in (MEMORY, REGIONAL) if name in tally.times)
    shown = {
        "GETs, per second": f"{asked:,}, {asked / max(run.seconds, 1e-9):,.0f}",
        "hit ratio at the edges": _share(hits, asked),
    }
    if run.origin:
        shown["origin offload, requests"] = _share(asked - run.origin.get("requests", 0), asked)
        shown["origin offload, bytes"] = _share(
            tally.counts["bytes"] - run.origin.get("bytes", 0), tally.counts["bytes"]
        )
    if run.crowds:
        shown["objects that crowds wanted"] = f"{run.crowds['objects']:,}"
        shown["questions for the cold object, most"] = f"{run.crowds['most_full']:,}"
        shown["questions for the expired object, most"] = f"{run.crowds['most_validated']:,}"
    if PURGED in tally.times:
        late = tally.times.get(LATE)
        shown["purges"] = f"{tally.times[PURGED].count:,}"
        shown["last old byte after an acknowledgement"] = f"{late.largest:.1f} ms" if late is not None else "none"
    shown["under way at the end"] = f"{under_way(tally):,}"
    shown |= {name: f"{count:,}" for name, count in sorted(tally.counts.items()) if name not in ("bytes", BEGUN)}
    shown["errors"] = f"{tally.errors.total():,}"
    shown["old answers"] = f"{tally.old.total():,}"
    return shown


def _row(name: str, times: Histogram, asked: int) -> str:
    share = _share(times.count, asked) if asked else ""
    shown = " | ".join(f"{times.percentile(percentile):.2f}" for percentile in SHOWN)
    return f"| {name} | {times.count:,} | {share} | {shown} | {times.largest:.2f} |"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
