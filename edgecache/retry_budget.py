"""How many questions may be asked again: a share of those that are asked, so that retries cannot become a storm."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2  # retries that each question earns
MOST_EARNED: Final = 256.0  # retries that may be saved up, for the moment in which every idle connection is reset
FLOOR: Final = 3  # retries beside those, so that a quiet origin gets its second chance
WINDOW: Final = 10.0  # seconds in which the floor is granted once


class RetryBudget:
    """Mutable state: the retries that were earned and not spent, and what is left of the floor."""

    def __init__(self, most_earned: float = MOST_EARNED) -> None:
        self._most_earned = most_earned
        self._asked = 0
        self._earned = 0.0
        self._floor = FLOOR
        self._floor_since = float("-inf")  # monotonic seconds
        self.spent = 0
        self.refused = 0

    def spend(self, asked: int, now: float) -> bool:
        """Whether one more question may be asked again; `asked` counts all first questions ever, `now` is monotonic."""
        self._earned = min(self._most_earned, self._earned + SHARE * (asked - self._asked))
        self._asked = asked
        if now - self._floor_since > WINDOW:
            self._floor, self._floor_since = FLOOR, now
        if self._earned >= 1.0:
            self._earned -= 1.0
        elif self._floor:
            self._floor -= 1
        else:
            self.refused += 1
            return False
        self.spent += 1
        return True
