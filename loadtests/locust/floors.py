"""Which versions may still be seen: what was purged or written is a floor from some time on. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

MOST_REMEMBERED: Final = 256  # floors per name; older ones are covered by newer ones


class Floors:
    """The least version per name (a tag, or a target), and since when each is."""

    def __init__(self) -> None:
        self._floors: dict[str, tuple[list[int], list[float]]] = {}  # versions and times, both ascending

    def rise(self, name: str, version: int, at: float) -> None:
        """From `at` on, nothing older than `version` may be sent. One that comes out of order adds nothing."""
        versions, times = self._floors.setdefault(name, ([], []))
        if versions and (version <= versions[-1] or at < times[-1]):
            return
        versions.append(version)
        times.append(at)
        del versions[:-MOST_REMEMBERED], times[:-MOST_REMEMBERED]

    def least(self, name: str, at: float) -> int:
        """The version that a request sent at `at` must get at least."""
        versions, times = self._floors.get(name, ([], []))
        past = bisect_right(times, at)
        return versions[past - 1] if past else 1

    def lateness(self, name: str, version: int, at: float) -> float:
        """For how long, at `at`, this version had been below the floor; 0 if it was not."""
        versions, times = self._floors.get(name, ([], []))
        newer = bisect_right(versions, version)
        return max(0.0, at - times[newer]) if newer < len(versions) else 0.0
