"""A bounded cache of derived values, with eviction of the oldest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

MOST_SEEN: Final = 8192

K = TypeVar("K")
T = TypeVar("T")


class BoundedCache(dict[K, T]):
    """Derived values by their input, such as parsed heads by their exact bytes.

    When it is full, the oldest eighth is evicted. `most_bytes` bounds the total weight, whose changes `hold` receives;
    `weigh` must return the same weight for a pair while it is stored.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int = 0,
        weigh: Callable[[K, T], int] | None = None,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self._most = most
        self._most_bytes = most_bytes
        self._weigh = weigh
        self._hold = hold
        self.bytes = 0

    def remember(self, raw: K, value: T) -> None:
        """Store `value` for `raw`."""
        if len(self) >= self._most:
            self._forget_oldest()
        if self._weigh is None:
            self[raw] = value
            return
        self.forget(raw)
        weight = self._weigh(raw, value)
        while self and self.bytes + weight > self._most_bytes:
            self._forget_oldest()
        if weight <= self._most_bytes:
            self[raw] = value
            self._add(weight)

    def forget(self, raw: K) -> None:
        """Remove `raw`."""
        value = self.pop(raw, None)
        if value is not None and self._weigh is not None:
            self._add(-self._weigh(raw, value))

    @property
    def half_full(self) -> bool:
        """Whether it is half full."""
        return 2 * len(self) >= self._most or 2 * self.bytes >= self._most_bytes > 0

    def clear(self) -> None:
        """Remove everything."""
        super().clear()
        if self.bytes:
            self._add(-self.bytes)

    def _forget_oldest(self) -> None:
        for raw in list(self)[: 1 + len(self) // 8]:
            self.forget(raw)

    def _add(self, weight: int) -> None:
        self.bytes += weight
        if self._hold is not None:
            self._hold(weight)


class RecentlySeen:
    """Hashes of recent inputs, bounded: an input that occurs once is not worth caching."""

    def __init__(self, most: int = MOST_SEEN) -> None:
        self._most = most
        self._marks: set[int] = set()

    def again(self, one: object) -> bool:
        """Whether `one` was seen recently; marks it as seen."""
        marks, mark = self._marks, hash(one)
        if mark in marks:
            return True
        if len(marks) >= self._most:
            marks.clear()
        marks.add(mark)
        return False


def weight_of_head(raw: bytes, request: object) -> int:
    """What a head and what it parses to keep in memory, in bytes: about so much, measured on heads of browsers."""
    return 1000 + 4 * len(raw)
