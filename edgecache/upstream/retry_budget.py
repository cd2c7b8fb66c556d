"""How many requests may be retried: a share of those that are sent, so that retries cannot become a storm."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2  # retries that each request earns
MOST_EARNED: Final = 256.0  # retries that may be saved up, for the moment in which every idle connection is reset
FLOOR: Final = 5  # retries in any case: as many as there are failures until an origin is ejected
WINDOW: Final = 10.0  # seconds without a wish to retry, after which trouble is over


class RetryBudget:
    """A time of trouble begins with the first wish to retry, and ends once none came for `WINDOW` seconds.

    In it, as many retries are granted as the larger of two: a share of what is asked during it, and an advance. The
    advance is what was saved up before, at least the floor. As it is the larger and not the sum, a trouble of any
    length costs no more than the share once the advance is earned. Mutable state: when the trouble began, and what was
    asked and granted since.
    """

    def __init__(self, most_earned: float = MOST_EARNED) -> None:
        self._most_earned = most_earned
        self._advance = 0.0
        self._asked_before = 0.0  # requests that earn nothing any more
        self._granted = 0  # since the trouble began
        self._wished = float("-inf")  # monotonic seconds of the last wish
        self.spent = 0
        self.refused = 0

    def spend(self, asked: int, now: float) -> bool:
        """Whether one more request may be asked again; `asked` counts all first requests ever, `now` is monotonic."""
        if now - self._wished > WINDOW:
            saved = SHARE * (asked - self._asked_before) - self._granted
            self._advance = max(FLOOR, min(self._most_earned, saved))
            self._asked_before, self._granted = asked - 1, 0  # the one that failed is of this trouble
        self._wished = now
        earned = SHARE * (asked - self._asked_before)
        if earned - self._granted > self._most_earned:  # little trouble for a long time: that does not pay for more
            self._asked_before = asked - (self._granted + self._most_earned) / SHARE
        if self._granted + 1 > max(self._advance, earned):
            self.refused += 1
            return False
        self._granted += 1
        self.spent += 1
        return True
