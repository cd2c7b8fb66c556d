"""The way to the origins, which may be replaced while questions are out: those end there, the next take the new one."""

from __future__ import annotations

from typing import NamedTuple

from edgecache.origin import OriginPool
from edgecache.origins import Origins
from edgecache.wire.h1_client import Inquiry


class Retries(NamedTuple):
    """Retries ever, and those beyond the budget."""

    spent: int
    refused: int


class Switch:
    """Mutable state: the pool of the moment, those before it that still have questions, and what the ended counted."""

    def __init__(self, pool: OriginPool | Origins) -> None:
        self.current = pool
        self._former: list[OriginPool | Origins] = []
        self._past_asked = 0
        self._past_retries = Retries(0, 0)

    def ask(self, inquiry: Inquiry) -> None:
        """Send a question."""
        self.current.ask(inquiry)

    def replace(self, pool: OriginPool | Origins) -> None:
        """From now on, questions go to `pool`."""
        self._former.append(self.current)
        self.current = pool

    def sweep(self, now: float) -> None:
        """End what is overdue, and let former pools go that have nothing left to do; `now` in monotonic seconds."""
        self.current.sweep(now)
        for pool in tuple(self._former):
            pool.sweep(now)
            if not pool.busy and not pool.waiting:
                self._former.remove(pool)
                self._past_asked += pool.asked
                spent, refused = self._past_retries
                self._past_retries = Retries(spent + pool.retries.spent, refused + pool.retries.refused)
                pool.close()

    def close(self) -> None:
        """End every connection; what is under way fails."""
        for pool in self._all:
            pool.close()

    @property
    def _all(self) -> list[OriginPool | Origins]:
        return [self.current, *self._former]

    @property
    def waiting(self) -> int:
        """Questions that wait for a connection."""
        return sum(pool.waiting for pool in self._all)

    @property
    def busy(self) -> int:
        """Connections that are answering a question, or being opened for one."""
        return sum(pool.busy for pool in self._all)

    @property
    def asked(self) -> int:
        """Questions ever, those asked again included."""
        return self._past_asked + sum(pool.asked for pool in self._all)

    @property
    def retries(self) -> Retries:
        """Retries ever."""
        spent, refused = self._past_retries
        spent += sum(pool.retries.spent for pool in self._all)
        return Retries(spent, refused + sum(pool.retries.refused for pool in self._all))

    def __repr__(self) -> str:
        return f"<Switch to {self.current!r}, {len(self._former)} former>"
