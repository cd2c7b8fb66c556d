"""Request heads whose answer is known: the fast path of a memory hit.

Identical bytes parse identically, and as long as an entry is in place and fresh, an identical plain request gets the
same answer but for its Age. So the bytes of a head that was parsed, accepted and answered by a hit are remembered
together with that answer; the next time they cost one look-up, two comparisons and, once a second, a new Age.
Bounded in number and bytes; only requests without a body; always behind the parser's verdict, never before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgecache.memory import Entry
from edgecache.rules.message import Request

MOST_HEADS: Final = 4096
LONGEST_HEAD: Final = 4096  # bytes; longer ones are parsed each time
LONGEST_ANSWER: Final = 16384  # bytes; longer answers are not joined into one write


class Known:
    """One head and its answer: `entry` and until when it is fresh, rendered once a second."""

    __slots__ = ("count", "entry", "make", "reply", "request", "second", "status", "until")

    def __init__(self, request: Request, entry: Entry, status: int, make: Callable[[float], bytes]) -> None:
        self.request = request
        self.entry = entry
        self.until = entry.stale_at
        self.status = status
        self.make = make  # the answer at a time, as bytes
        self.second = -1
        self.reply = b""
        self.count = 0


class KnownHeads:
    """The remembered heads, the oldest forgotten first."""

    def __init__(self, touch: Callable[[Entry], None]) -> None:
        self._known: dict[bytes, Known] = {}
        self._touch = touch
        self.get = self._known.get

    def learn(self, raw: bytes, known: Known) -> None:
        """Remember the answer to the request whose head is exactly `raw`."""
        if len(raw) > LONGEST_HEAD:
            return
        if len(self._known) >= MOST_HEADS:
            for head in list(self._known)[: MOST_HEADS // 8]:
                del self._known[head]
        self._known[raw] = known

    def answer(self, raw: bytes, known: Known, now: float) -> bytes | None:
        """The answer to `raw` now, or None (and forgotten) if it is not right any more."""
        entry = known.entry
        if now >= known.until or entry.gone:
            self._known.pop(raw, None)
            return None
        second = int(now - entry.received + entry.initial_age)
        if second != known.second:
            known.second = second
            known.reply = known.make(now)
            self._touch(entry)
        return known.reply

    def forget(self) -> None:
        """Forget all."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)
