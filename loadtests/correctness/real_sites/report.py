"""What is printed: the rules, the table, the further checks, the differences."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from loadtests.correctness.real_sites import rules, storable
from loadtests.correctness.real_sites.site import Site
from loadtests.correctness.real_sites.tally import LEAST_HITS, Tally

MOST_LINES = 30
COLUMNS = (
    "site",
    "URLs",
    "identical",
    "not comparable",
    "differences",
    "storable",
    "second-crawl hits %",
    "bytes",
    "seconds",
)


def print_rules(sites: Sequence[Site], workers: int) -> None:
    """Everything that makes two answers equal although they are not the same bytes."""
    print(
        f"Each edgecache: EDGECACHE_WORKERS={workers} (each worker has its own memory, 256 MiB), defaults otherwise\n"
    )
    print("What a proxy may change; anything else is a DIFFERENCE:\n")
    print("\n".join(f"- {rule}" for rule in rules.RULES))
    print("\nWhat the origin allows to be a hit, decided by its own fields:\n")
    print("\n".join(f"- {rule}" for rule in storable.RULES))
    for site in sites:
        print(f"\n{site.name}: {site.about}\n")
        print("\n".join(f"- {moving.rule}" for moving in site.moving) or "- no rule of its own")


def print_site(tally: Tally) -> None:
    """What one site came to, in more words than fit the table."""
    print(f"\n{tally.site}: {tally.identical} identical, of them {tally.by_rule} by a rule of the site's own\n")
    for name, (passed, every) in tally.checks.items():
        print(f"- {name}: {passed} of {every}")
    for note, count in sorted(tally.notes.items()):
        print(f"- {note}: {count}")
    for line in tally.lines[:MOST_LINES]:
        print(f"- DIFFERENCE {line}")
    if len(tally.lines) > MOST_LINES:
        print(f"- and {len(tally.lines) - MOST_LINES} more DIFFERENCES")
    sys.stdout.flush()


def print_table(tallies: Sequence[Tally]) -> None:
    """The Markdown table."""
    print(f"\nPython {platform.python_version()}, Linux {platform.release()}; hits wanted: {LEAST_HITS:.0f} %\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * len(COLUMNS)}")
    for tally in tallies:
        print(f"| {' | '.join(_cells(tally))} |")


def _cells(tally: Tally) -> list[str]:
    numbers = (tally.targets, tally.identical, tally.not_comparable, len(tally.lines), tally.storable)
    hits = f"{tally.hit_rate:.1f}" if tally.storable else "-"
    return [tally.site, *(f"{number:,}" for number in numbers), hits, f"{tally.size:,}", f"{tally.seconds:.0f}"]
