"""Collapsed forwarding: one fetch from upstream per key. The first request leads it, concurrent ones follow.

A flight lands once, when the head of the response is known; the body may still be arriving then.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
MOST_AT_ONCE: Final = 16  # followers that are woken in one turn of the event loop
LONGEST_MARKED: Final = 512  # bytes of a URL: clients make them up, and thousands are remembered


@dataclass(frozen=True, slots=True)
class Filling:
    """A new response that may be shared: its head is known, its body arrives."""

    stored: Stored
    reply: Reply


@dataclass(frozen=True, slots=True)
class Cutting(Filling):
    """A new response that may be shared, and is stored in slices: its body is for those that come before it begins."""


@dataclass(frozen=True, slots=True)
class Revalidated:
    """Upstream has confirmed that the stored response is still valid."""

    entry: Entry
    refused: Refused | None = None  # why it is not stored any longer, if upstream said that too


@dataclass(frozen=True, slots=True)
class RegionalHit:
    """Another worker of the region has fetched the response."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Unshareable:
    """The response is for the leader only."""

    reply: Reply
    reason: Refused


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no response, or an error that must not replace a usable stale response."""

    error: OriginError


Outcome = Filling | Revalidated | RegionalHit | Unshareable | Failed


@dataclass(frozen=True, slots=True)
class Stale:
    """The stale response that a request gets if the outcome is late, or a failure."""

    entry: Entry


class Flight:
    """One running fetch, for one key."""

    late_for: object = None  # whose requests get a stale response meanwhile; None: it is not late
    _followers = 0
    _crowd: deque[asyncio.Future[None]] | None = None  # a future for each group of them after the first

    def __init__(self, key: object, primary: bytes, leader: Exchange | None) -> None:
        self.key = key
        self.primary = primary  # the cache key of the URL
        self.leader = leader  # None: it runs in the background
        self.watchers = () if leader is None else (leader,)  # get interim responses, which may be for one client
        self._landed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.began = self._landed.get_loop().time()

    def land(self, outcome: Outcome) -> None:
        """The head of the response is known, or that there is none."""
        if not self._landed.done():
            self._landed.set_result(outcome)
            if self._crowd:
                self._wake_crowd(self._crowd, in_turns=_lasts(outcome))

    def _wake_crowd(self, crowd: deque[asyncio.Future[None]], *, in_turns: bool) -> None:
        """Wake the followers after the first ones: a group in each of the next turns of the event loop, or all now."""
        while crowd and not in_turns:
            crowd.popleft().set_result(None)
        if crowd:
            asyncio.get_running_loop().call_soon(self._wake_group, crowd)

    def _wake_group(self, crowd: deque[asyncio.Future[None]]) -> None:
        crowd.popleft().set_result(None)
        self._wake_crowd(crowd, in_turns=True)

    @property
    def landed(self) -> bool:
        """Whether it is known what came of it."""
        return self._landed.done()

    @property
    def client(self) -> str:
        """The address of the client that it began for; empty if it began in the background."""
        return self.watchers[0].client if self.watchers else ""

    def left_of(self, patience: float) -> float:
        """What is left of `patience`, in seconds from the flight's beginning."""
        return max(0.0, self.began + patience - asyncio.get_running_loop().time())

    async def outcome(self, within: float | None) -> Outcome | None:
        """The outcome; None if it takes longer than `within` seconds."""
        if not self._landed.done():
            self._followers += 1
            landing = self._landed if self._followers <= MOST_AT_ONCE else self._in_the_crowd()
            await asyncio.wait((landing,), timeout=within)
        return self._landed.result() if self._landed.done() else None

    def _in_the_crowd(self) -> asyncio.Future[None]:
        """What one more follower waits for."""
        if self._crowd is None:
            self._crowd = deque()
        if self._followers % MOST_AT_ONCE == 1:
            self._crowd.append(asyncio.get_running_loop().create_future())
        return self._crowd[-1]

    def abandon(self, exchange: Exchange) -> None:
        """`exchange` waits no longer; a response for its leader alone would be for nobody."""
        if self.leader is exchange:
            self.leader = None

    def __repr__(self) -> str:
        return f"<Flight {'landed' if self._landed.done() else 'out'}>"


def _lasts(outcome: Outcome) -> bool:
    """Whether the response can still be joined some turns of the event loop later."""
    if not isinstance(outcome, Filling):
        return True
    reply = outcome.reply
    return reply.body.finished or (reply.body.kept and reply.response.framing.length is not None)


class Flights:
    """The running flights. Mutable state: flights by key, and the URLs whose responses are known to be unshareable."""

    def __init__(self, hit_for_miss: float, most_marks: int = 65536) -> None:
        self._out: dict[object, Flight] = {}
        self.marks: dict[bytes, float] = {}  # URLs whose responses are not shareable, and until when
        self.hit_for_miss = hit_for_miss  # seconds
        self._most_marks = most_marks
        self._late: dict[object, Flight] = {}  # for whose requests what is stale stands in until it lands
        self._revalidated: dict[int, float] = {}  # hash of a URL → when a client last had it fetched anew
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
        """`flight` may not be followed any more."""
        if self._out.get(flight.key) is flight:
            del self._out[flight.key]
        if flight.late_for is not None and self._late.get(flight.late_for) is flight:
            del self._late[flight.late_for]

    def mark_late(self, flight: Flight, key: object) -> None:
        """Upstream hangs: until `flight` lands, what is stale stands in at once for all requests for `key`."""
        if not flight.landed and flight.late_for is None and self._out.get(flight.key) is flight:
            flight.late_for = key
            if not self.is_late(key):
                self._late[key] = flight

    def is_late(self, key: object) -> bool:
        """Whether a late flight for `key` is still out."""
        late = self._late.get(key)
        return late is not None and not late.landed

    def dissolve(self, names: frozenset[bytes]) -> None:
        """URLs were invalidated: the flights for them are not followed any more (nor stored: see `PurgeLog`)."""
        for flight in [flight for flight in self._out.values() if uri.normalised(flight.primary) in names]:
            self.end(flight)

    def mark(self, primary: bytes, now: float) -> None:
        """Responses for this URL are not shareable: for a while no request waits for another's (hit-for-miss)."""
        if len(primary) > LONGEST_MARKED:
            return
        if len(self.marks) >= self._most_marks:
            for key in list(self.marks)[: self._most_marks // 2]:
                del self.marks[key]
        self.marks[primary] = now + self.hit_for_miss

    def note_revalidation(self, primary: bytes, now: float) -> None:
        """A fetch begins at `now` because a client wants a newer response than the stored one."""
        if len(self._revalidated) >= self._most_marks:
            self._revalidated.clear()
        self._revalidated[hash(primary)] = now

    def revalidated_lately(self, primary: bytes, now: float) -> bool:
        """Whether such a fetch began within the second before `now`."""
        return now - self._revalidated.get(hash(primary), float("-inf")) < NEW_FOR

    def unmark(self, primary: bytes, fields: Fields) -> None:
        """A response to a request with `fields` was shareable after all."""
        self.marks.pop(primary, None)
        if b"authorization" in fields:
            self.marks.pop(of_authorized(primary), None)

    def renew(self, mark: bytes, asked: float, clock: Callable[[], float]) -> None:
        """A response that was `asked` for because of `mark` is not shareable either: the mark goes on from now."""
        until = self.marks.get(mark)
        if until is not None and until - asked < self.hit_for_miss - OFTEN:
            self.marks[mark] = clock() + self.hit_for_miss

    def mark_on(self, primary: bytes, fields: Fields, now: float) -> bytes | None:
        """The mark by which responses for this URL, to requests with `fields`, are known not to be shareable."""
        if self.marked(primary, now):
            return primary
        if b"authorization" in fields and self.marked(own := of_authorized(primary), now):
            return own
        return None

    def marked(self, primary: bytes, now: float) -> bool:
        """Whether responses for this URL are known not to be shareable."""
        until = self.marks.get(primary)
        if until is not None and until < now:
            del self.marks[primary]
            return False
        return until is not None

    def __len__(self) -> int:
        return len(self._out)


def of_authorized(primary: bytes) -> bytes:
    """What is marked where only responses to requests with Authorization are not shareable (RFC 9111 §3.5)."""
    return b"authorization " + primary
