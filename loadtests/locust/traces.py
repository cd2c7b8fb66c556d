"""What is asked in which order: recorded traces of `id,size` lines, and synthetic ones by Zipf's law."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, cast

GZIP_MAGIC: Final = b"\x1f\x8b"
MEDIAN_SIZE: Final = 12_000.0  # bytes; sizes of a synthetic trace are log-normal, as those on the web are
SIZE_SIGMA: Final = 1.3

Request = tuple[str, int]  # id, bytes


def read_trace(path: Path, most: int | None = None) -> list[Request]:
    """All requests of a file, gzipped or plain, or the first `most`; each has an id object of its own.

    Raises OSError, EOFError or ValueError if it is no trace.
    """
    with _opened(path) as file:
        rows = (row for row in csv.reader(file) if len(row) == 2)
        requests = [(row[0], max(1, int(row[1]))) for row in itertools.islice(rows, most)]
    if not requests:
        raise ValueError("no line of the form id,size")
    return requests


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return cast(IO[str], gzip.open(path, "rt", newline="")) if zipped else path.open(newline="")


class Zipf:
    """Requests for `objects` objects, the one of rank k in proportion to 1 / k^alpha; the same for the same seed."""

    def __init__(self, objects: int, alpha: float, seed: int) -> None:
        self._sums = list(itertools.accumulate(rank**-alpha for rank in range(1, objects + 1)))
        self._drawn = random.Random(seed)

    def __iter__(self) -> Iterator[Request]:
        """For ever."""
        while True:
            rank = bisect_left(self._sums, self._drawn.random() * self._sums[-1])
            yield str(rank), size_of(rank)


def size_of(rank: int) -> int:
    """The size of a synthetic object: log-normal over all of them, the same each time."""
    normal = random.Random(rank).gauss(0.0, SIZE_SIGMA)
    return max(1, int(MEDIAN_SIZE * math.exp(normal)))


def from_trace(requests: Sequence[Request], share: int, shares: int) -> Iterator[Request]:
    """The requests of one of `shares` load generators, in the order of the trace; from its beginning after its end."""
    return itertools.cycle(itertools.islice(requests, share, None, shares))
