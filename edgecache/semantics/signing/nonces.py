"""A bounded memory of nonces: each is remembered until the signature that it belongs to has expired."""

from __future__ import annotations

from enum import StrEnum
from heapq import heappop, heappush
from typing import Final

MOST: Final = 131_072  # nonces, some 30 MiB
SLACK: Final = 60.0  # seconds beyond the expiry, for clocks that differ


class Nonce(StrEnum):
    """The state of a nonce."""

    NEW = "new"
    USED = "used"
    UNKNOWN = "unknown"  # it cannot be told, or not be remembered


class SeenNonces:
    """Nonces that were used. None is forgotten before its time: a memory that is full takes no new ones.

    What it cannot know is whether a signature that was made before it began was used: `since`, in epoch seconds.
    """

    def __init__(self, most: int = MOST, since: float = 0.0) -> None:
        self._most = most
        self._since = since
        self._seen: set[bytes] = set()
        self._ends: list[tuple[float, bytes]] = []  # a heap

    def use(self, nonce: bytes, created: float, until: float, now: float) -> Nonce:
        """Use `nonce`, whose signature is good from and until then (epoch seconds, as `now`)."""
        while self._ends and self._ends[0][0] + SLACK <= now:
            self._seen.discard(heappop(self._ends)[1])
        if nonce in self._seen:
            return Nonce.USED
        if len(self._seen) >= self._most or created < self._since:
            return Nonce.UNKNOWN
        self._seen.add(nonce)
        heappush(self._ends, (until, nonce))
        return Nonce.NEW

    def __len__(self) -> int:
        """Nonces that are remembered."""
        return len(self._seen)
