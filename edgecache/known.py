"""Request heads seen before whose answer, or whose way, is known: the fast path.

Identical bytes parse identically, and as long as an entry is in place and fresh, an identical plain request gets the
same answer but for its Age. So the bytes of a head that was parsed, accepted and answered by a hit are remembered
together with that answer; the next time they cost one look-up, two comparisons and, once a second, a new Age.
A head whose URL is known to be unshareable is remembered with the question that it becomes.
Bounded in number and bytes; only requests without a body; always behind the parser's verdict, never before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgecache.memory import Entry
from edgecache.rules.message import Request
from edgecache.wire.h1_client import Question

MOST_HEADS: Final = 4096
LONGEST_HEAD: Final = 4096  # bytes; longer ones are parsed each time
LONGEST_ANSWER: Final = 16384  # bytes; longer answers are not joined into one write


class KnownHit:
    """One head and its answer: `entry` and until when it is fresh, rendered once a second."""

    __slots__ = ("age", "entry", "make", "reply", "request", "status", "until")

    def __init__(self, request: Request, entry: Entry, status: int, make: Callable[[float], bytes]) -> None:
        self.request = request
        self.entry = entry
        self.until = entry.stale_at
        self.status = status
        self.make = make  # the answer at a time, as bytes
        self.age = -1  # seconds: what `reply` says
        self.reply = b""


class KnownPass:
    """One head that is passed through, and the question that it becomes for clients at one address."""

    __slots__ = ("client", "key", "question", "request")

    def __init__(self, request: Request, key: bytes, client: str, question: Question) -> None:
        self.request = request
        self.key = key
        self.client = client
        self.question = question


class KnownHeads:
    """The remembered heads, the oldest forgotten first."""

    def __init__(self, touch: Callable[[Entry], None]) -> None:
        self._known: dict[bytes, KnownHit | KnownPass] = {}
        self._touch = touch
        self._stopped = False
        self.get = self._known.get

    def learn(self, raw: bytes, known: KnownHit | KnownPass) -> None:
        """Remember what is known of the request whose head is exactly `raw`."""
        if self._stopped or len(raw) > LONGEST_HEAD:
            return
        if len(self._known) >= MOST_HEADS:
            for head in list(self._known)[: MOST_HEADS // 8]:
                del self._known[head]
        self._known[raw] = known

    def answer(self, raw: bytes, known: KnownHit, now: float) -> bytes | None:
        """The answer to `raw` now, or None (and forgotten) if it is not right any more."""
        entry = known.entry
        if now >= known.until or entry.gone:
            self.forget_one(raw)
            return None
        age = int(now - entry.received + entry.initial_age)
        if age != known.age:
            known.age = age
            known.reply = known.make(now)
            self._touch(entry)
        return known.reply

    def forget_one(self, raw: bytes) -> None:
        """Forget the head `raw`."""
        self._known.pop(raw, None)

    def stop(self) -> None:
        """Forget all, and learn no more: from now on every answer says `Connection: close`."""
        self._stopped = True
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)
