"""A bounded memory of results by what they follow from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

MOST_SEEN: Final = 8192

K = TypeVar("K")
T = TypeVar("T")


class BoundedCache(dict[K, T]):
    """Results by what they follow from, such as what heads parse to by their exact bytes.

    Bounded: when it is full, the oldest eighth is forgotten. `most_bytes` bounds what it all weighs, which is told to
    `hold` as it comes and goes; `weigh` must tell the same of a pair as long as it is remembered.
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
        """`value` follows from `raw`."""
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
        """Remember nothing of `raw`."""
        value = self.pop(raw, None)
        if value is not None and self._weigh is not None:
            self._add(-self._weigh(raw, value))

    @property
    def half_full(self) -> bool:
        """Whether half of what may be remembered is."""
        return 2 * len(self) >= self._most or 2 * self.bytes >= self._most_bytes > 0

    def clear(self) -> None:
        """Remember nothing."""
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
    """What was seen lately, by its hash: what comes once only is not worth remembering. Bounded."""

    def __init__(self, most: int = MOST_SEEN) -> None:
        self._most = most
        self._marks: set[int] = set()

    def again(self, one: object) -> bool:
        """Whether `one` was seen lately; from now on it was."""
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
