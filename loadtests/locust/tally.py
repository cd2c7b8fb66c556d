"""What came of a run: times, counts and problems, which add up over the processes that make the load. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

GRAIN: Final = 1.02  # two neighbouring buckets of a histogram: figures are true to 2 %
LEAST: Final = 1e-3  # milliseconds
MOST_PROBLEMS: Final = 50  # different ones that are told apart


class Histogram:
    """Times in milliseconds, in buckets that grow by 2 %."""

    def __init__(self, buckets: Mapping[int, int] | None = None, largest: float = 0.0) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})
        self.largest = largest

    def add(self, milliseconds: float) -> None:
        """One more."""
        self.buckets[math.ceil(math.log(max(LEAST, milliseconds) / LEAST, GRAIN))] += 1
        self.largest = max(self.largest, milliseconds)

    def merge(self, other: Histogram) -> None:
        """All of the other's."""
        self.buckets.update(other.buckets)
        self.largest = max(self.largest, other.largest)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.buckets.total()

    def percentile(self, share: float) -> float:
        """The time that `share` (0 to 1) of them did not exceed, to 2 %; 0 if there are none."""
        wanted = math.ceil(share * self.count)
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                return min(LEAST * GRAIN**bucket, self.largest)
        return 0.0


class Tally:
    """Times by name, counts by name, and what went wrong how often."""

    def __init__(self) -> None:
        self.times: dict[str, Histogram] = {}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.old: Counter[str] = Counter()  # answers that were older than they may be

    def time(self, name: str, milliseconds: float) -> None:
        """One more time."""
        self.times.setdefault(name, Histogram()).add(milliseconds)

    def error(self, problem: str) -> None:
        """Something went wrong."""
        self.errors[problem if len(self.errors) < MOST_PROBLEMS or problem in self.errors else "others"] += 1

    def older(self, problem: str) -> None:
        """An answer was older than it may be."""
        self.old[problem if len(self.old) < MOST_PROBLEMS or problem in self.old else "others"] += 1

    @property
    def well(self) -> bool:
        """Whether nothing went wrong, and anything was asked at all."""
        return not self.errors and not self.old and any(times.count for times in self.times.values())

    def merge(self, other: Tally) -> None:
        """All of the other's."""
        for name, times in other.times.items():
            self.times.setdefault(name, Histogram()).merge(times)
        self.counts.update(other.counts)
        self.errors.update(other.errors)
        self.old.update(other.old)

    def document(self) -> dict[str, Any]:
        """Everything so far in plain values, to be sent to another process."""
        return {
            "times": {name: [list(times.buckets.items()), times.largest] for name, times in self.times.items()},
            "counts": dict(self.counts),
            "errors": dict(self.errors),
            "old": dict(self.old),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Tally:
        """What `document` gave."""
        tally = cls()
        for name, (buckets, largest) in document["times"].items():
            tally.times[name] = Histogram(dict(buckets), largest)
        tally.counts.update(document["counts"])
        tally.errors.update(document["errors"])
        tally.old.update(document["old"])
        return tally
