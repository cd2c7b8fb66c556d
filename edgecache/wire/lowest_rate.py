"""The lowest rate that an answer must keep, judged sweep by sweep."""

from __future__ import annotations


class LowestRate:
    """How long an answer has been coming in while somebody took it. Mutable state: that time, up to the last sweep."""

    __slots__ = ("_rated", "_until")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """An answer begins."""
        self._rated = 0.0  # seconds
        self._until = 0.0  # monotonic seconds of the last sweep; 0 = none since it began or was held back

    def held_back(self) -> None:
        """Its readers take nothing: that time does not count."""
        self._until = 0.0

    def is_kept(self, now: float, size: int, rate: int, grace: float) -> bool:
        """Whether `size` bytes so far are enough for `rate` bytes per second, once it had `grace` seconds."""
        if self._until:
            self._rated += now - self._until
        self._until = now
        return self._rated <= grace or size >= self._rated * rate
