"""One question upstream per key: who comes first leads, who comes while it is out follows.

A flight's question runs in a task of its own, so that no client that leaves can cancel it. It lands once, when the head
of the answer is known; the body may still be arriving then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgecache.semantics import uri
from edgecache.semantics.message import Fields
from edgecache.semantics.outcomes import Refused
from edgecache.semantics.rfc9111 import NEW_FOR
from edgecache.semantics.stored_response import Stored
from edgecache.storage.memory import Entry
from edgecache.upstream.reply import Reply
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange

OFTEN: Final = 1.0  # seconds between two renewals of a mark, at least
LONGEST_MARKED: Final = 512  # bytes of a URL: clients make them up, and thousands are remembered


@dataclass(frozen=True, slots=True)
class Filling:
    """A new response that may be shared: its head is known, its body arrives."""

    stored: Stored
    reply: Reply


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The origin said that what is stored is still good."""

    entry: Entry
    refused: Refused | None = None  # why it is not stored any longer, if it said that too


@dataclass(frozen=True, slots=True)
class Risen:
    """Another worker of the region had it."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Unshareable:
    """The answer is for the leader alone."""

    reply: Reply
    reason: Refused


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer, or an error that must not replace what may be served stale."""

    error: OriginError


Outcome = Filling | Refreshed | Risen | Unshareable | Failed


class Flight:
    """One question on its way, for one key."""

    __slots__ = ("_landed", "began", "key", "late_for", "leader", "primary", "watchers")

    def __init__(self, key: object, primary: bytes, leader: Exchange | None) -> None:
        self.key = key
        self.primary = primary  # the cache key of the URL
        self.began = asyncio.get_running_loop().time()
        self.late_for: object = None  # whose requests are answered by what is stale meanwhile; None: it is not late
        self.leader = leader  # None: it runs behind the clients' backs
        # Who gets interim responses: nobody else asked for them, and they may be for one client.
        self.watchers: list[Exchange] = [leader] if leader is not None else []
        self._landed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def land(self, outcome: Outcome) -> None:
        """The answer's head is known, or that there is none."""
        if not self._landed.done():
            self._landed.set_result(outcome)

    @property
    def landed(self) -> bool:
        """Whether it is known what came of it."""
        return self._landed.done()

    def left_of(self, patience: float) -> float:
        """What is left of `patience`, in seconds since it began."""
        return max(0.0, self.began + patience - asyncio.get_running_loop().time())

    async def outcome(self, within: float | None) -> Outcome | None:
        """What came of it; None if it takes longer than `within` seconds."""
        if not self._landed.done():
            await asyncio.wait((self._landed,), timeout=within)
        return self._landed.result() if self._landed.done() else None

    def abandon(self, exchange: Exchange) -> None:
        """`exchange` waits no longer; an answer for its leader alone would be for nobody."""
        if self.leader is exchange:
            self.leader = None

    def __repr__(self) -> str:
        return f"<Flight {'landed' if self._landed.done() else 'out'}, {len(self.watchers)} watch>"


class Flights:
    """The flights that are out. Mutable state: those, by key; and the keys known to be unshareable, until when."""

    def __init__(self, hit_for_miss: float, most_marks: int = 65536) -> None:
        self._out: dict[object, Flight] = {}
        self.marks: dict[bytes, float] = {}  # URLs whose answers are not shareable, and until when
        self.hit_for_miss = hit_for_miss  # seconds
        self._most_marks = most_marks
        self._late: dict[object, Flight] = {}  # for whose requests what is stale stands in until it lands
        self._wishes: dict[int, float] = {}  # hash of a URL → when the origin was asked because a client wished so
        self.led = self.followed = 0  # ever

    def out(self, key: object) -> Flight | None:
        """The flight to follow for `key`."""
        return self._out.get(key)

    def lead(self, key: object, primary: bytes, leader: Exchange | None) -> Flight:
        """A new flight for `key`, to be landed and ended by the caller."""
        self.led += 1
        flight = self._out[key] = Flight(key, primary, leader)
        return flight

    def end(self, flight: Flight) -> None:
        """Nobody may follow `flight` any more."""
        if self._out.get(flight.key) is flight:
            del self._out[flight.key]
        if flight.late_for is not None and self._late.get(flight.late_for) is flight:
            del self._late[flight.late_for]

    def is_late(self, flight: Flight, key: object) -> None:
        """The origin hangs: until `flight` lands, what is stale stands in at once for all requests for `key`."""
        if not flight.landed and flight.late_for is None and self._out.get(flight.key) is flight:
            flight.late_for = key
            if not self.awaits_late(key):
                self._late[key] = flight

    def awaits_late(self, key: object) -> bool:
        """Whether a late flight for `key` is still out."""
        late = self._late.get(key)
        return late is not None and not late.landed

    def dissolve(self, names: frozenset[bytes]) -> None:
        """URLs were invalidated: nobody follows what is out for them from now on (nor is it stored: see `PurgeLog`)."""
        for flight in [flight for flight in self._out.values() if uri.normalised(flight.primary) in names]:
            self.end(flight)

    def mark(self, primary: bytes, now: float) -> None:
        """Answers for this URL are not shareable: for a while nobody waits for another's (hit-for-miss)."""
        if len(primary) > LONGEST_MARKED:
            return
        if len(self.marks) >= self._most_marks:
            for key in list(self.marks)[: self._most_marks // 2]:
                del self.marks[key]
        self.marks[primary] = now + self.hit_for_miss

    def asked_by_wish(self, primary: bytes, now: float) -> None:
        """The origin is asked at `now` because a client wants a newer answer than the stored one."""
        if len(self._wishes) >= self._most_marks:
            self._wishes.clear()
        self._wishes[hash(primary)] = now

    def wished_lately(self, primary: bytes, now: float) -> bool:
        """Whether that has happened within the second before `now`."""
        return now - self._wishes.get(hash(primary), float("-inf")) < NEW_FOR

    def unmark(self, primary: bytes, fields: Fields) -> None:
        """An answer to a request with `fields` was shareable after all."""
        self.marks.pop(primary, None)
        if b"authorization" in fields:
            self.marks.pop(of_authorized(primary), None)

    def renew(self, mark: bytes, asked: float, clock: Callable[[], float]) -> None:
        """An answer that was `asked` for because of `mark` is not shareable either: the mark goes on from now."""
        until = self.marks.get(mark)
        if until is not None and until - asked < self.hit_for_miss - OFTEN:
            self.marks[mark] = clock() + self.hit_for_miss

    def mark_on(self, primary: bytes, fields: Fields, now: float) -> bytes | None:
        """The mark by which answers for this URL, to requests with `fields`, are known not to be shareable."""
        if self.marked(primary, now):
            return primary
        if b"authorization" in fields and self.marked(own := of_authorized(primary), now):
            return own
        return None

    def marked(self, primary: bytes, now: float) -> bool:
        """Whether answers for this URL are known not to be shareable."""
        until = self.marks.get(primary)
        if until is None:
            return False
        if until < now:
            del self.marks[primary]
            return False
        return True

    def __len__(self) -> int:
        return len(self._out)


def of_authorized(primary: bytes) -> bytes:
    """What is marked where only answers to requests with Authorization are not shareable (RFC 9111 §3.5)."""
    return b"authorization " + primary
