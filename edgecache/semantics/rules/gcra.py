"""Rate limits by the generic cell rate algorithm (ITU-T I.371): one number for each key, the time at which the next
request is due if all come evenly. A request is admitted unless it comes more than a burst before that.

A `Bucket` limits in one process. A `Lease` limits together with others: the number lies in a region's Valkey, and the
lease has an estimate of it, by which it decides at once:

    estimate  =  what the region answered last  +  what was admitted here since
    admitted  ──► charged in the background: out of tokens that were taken in advance, else on credit
    answer    ──► the estimate is never below the region's number, nor below what was admitted here

In any time t, one worker admits at most burst + rate * t, whatever the region does. W workers that know nothing of each
other admit W * (burst + rate * l) + rate * t at most, l being the time until an answer is there, and the tokens that
they held before. In the long run they admit the rate, because what was admitted on credit is charged: a client that
gets more at once gets less afterwards. Once each of them has had an answer, a round trip is worth to each of them
one request, and what comes by the rate in it.

Without the region a lease has its share of the rate. It goes on with its estimate, then and when the region is back:
neither begins a new burst. A region that has forgotten its number, or whose clock was set, gets the estimate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Final, Protocol

SLACK: Final = 1e-6  # seconds: times since 1970 are no more exact than that
LATE: Final = 0.2  # seconds after which a question to the region is late
GRACE: Final = 0.05  # seconds that a late one is waited for: the answer may be there, and not yet read
LEASED: Final = 20  # a lease has as many tokens as a twentieth of a second allows
OF_BURST: Final = 4  # and no more than a fourth of a burst
ALL: Final = 1 << 62  # tokens: more than a lease has
LOOKED_AT: Final = 64  # of the oldest buckets, one of which makes room for another


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate of requests, and how many may come at once."""

    count: int
    seconds: int
    burst: int

    @property
    def interval(self) -> float:
        """Seconds between two requests that come evenly."""
        return self.seconds / self.count

    @property
    def lease(self) -> int:
        """Tokens that one worker holds at most."""
        return max(1, min(int(self.count / self.seconds / LEASED), self.burst // OF_BURST))


def rate_of(written: str, burst: int | None = None) -> Rate:
    """The rate written as `100/s`, `100/m` or `100/h`; without a burst, it is what one second allows."""
    count, _, unit = written.partition("/")
    seconds = {"s": 1, "m": 60, "h": 3600}[unit]
    return Rate(int(count), seconds, burst or max(1, ceil(int(count) / seconds)))


class Bucket:
    """What one key has used of a rate, or of a share of it. Times are in seconds, on any one clock.

    With a share, the same time passes until a burst is made up for: a burst is shared as well, and rounded up.
    """

    __slots__ = ("_due", "_interval", "_refused", "_tolerance", "gone", "rate")

    def __init__(self, rate: Rate, share: float = 1.0) -> None:
        self.rate = rate
        self.gone = False  # its place was needed: another takes over
        self._due = 0.0
        self._interval = rate.interval / share
        self._tolerance = (rate.burst - 1) * rate.interval + SLACK
        self._refused = False

    def take(self, now: float) -> bool:
        """Admit a request, or refuse it."""
        due = self._due
        if due < now:
            due = now
        elif due - now > self._tolerance:
            self._refused = True
            return False
        self._due = due + self._interval
        return True

    def admits(self, now: float) -> bool:
        """Whether `take` would admit a request."""
        return self._due - now <= self._tolerance

    def wait(self, now: float) -> float:
        """Seconds until a request is admitted."""
        return max(0.0, self._due - self._tolerance - now)

    def is_limited(self, now: float) -> bool:
        """Whether a client would gain by being forgotten: it was refused, or has used more than half of a burst."""
        used = self._due - now
        return used > 0 and (self._refused or used > self._tolerance / 2 + self._interval)


class Lender(Protocol):
    """Lends the tokens of a region, without waiting."""

    share: float  # of each rate, while the region does not answer

    def ask(self, lease: Lease, spent: int, wanted: int, backlog: float) -> bool:
        """Charge what was spent on credit and ask for more: `answered` or `failed` follows; False if it cannot.

        `backlog` is what the region's number should be by what is known here, in seconds from now.
        """

    def alone(self) -> None:
        """A lease decides by itself, because the region does not answer."""


class Lease(Bucket):
    """The estimate of a region's bucket, and tokens of it that are held here."""

    __slots__ = ("_alone", "_asked", "_held", "_late", "_least", "_lender", "_low", "_most", "_wanted", "key", "unused")

    def __init__(self, key: bytes, rate: Rate, lender: Lender) -> None:
        super().__init__(rate)
        self.key = key
        self.unused = 0  # tokens held when they were last looked at
        self._lender = lender
        self._most = rate.lease
        self._least = min(1, rate.lease - 1)  # a slow rate is charged request by request: no token lies idle
        self._wanted = self._least
        self._held = 0  # tokens; below zero, what was admitted on credit and is not yet being charged
        self._low = 0  # with fewer tokens, more are asked for
        self._asked: float | None = None  # when a question was put that is not answered
        self._late: float | None = None  # when that was found late
        self._alone = False  # the region did not answer

    @property
    def held(self) -> int:
        """Tokens that are held; below zero, what was admitted on credit."""
        return self._held

    @property
    def is_asking(self) -> bool:
        """Whether a question is not answered."""
        return self._asked is not None

    def take(self, now: float) -> bool:
        """Admit a request, or refuse it."""
        due = self._due
        if due < now:
            due = now
        elif due - now > self._tolerance:
            self._refused = True
            if self._alone:
                self._lender.alone()
            return False
        self._due = due + self._interval
        held = self._held = self._held - 1
        if held < self._low:
            self._ask_for_more(now)
        return True

    def _ask_for_more(self, now: float) -> None:
        if self._alone:
            self._held += 1  # what it admits by itself is not charged
            self._lender.alone()
        if self._asked is None:
            self._ask(now)
        elif self._late is not None and now - self._late > GRACE:
            self._decide_alone()
        elif self._late is None and now - self._asked > LATE:
            self._late = now

    def _ask(self, now: float) -> None:
        spent, backlog = max(0, -self._held), self._due - now + self._held * self.rate.interval
        self._asked, self._late = now, None
        self._held += spent
        if not self._lender.ask(self, spent, self._wanted, max(0.0, backlog)):
            self.failed()

    def _decide_alone(self) -> None:
        self._alone = True
        self._interval = self.rate.interval / self._lender.share
        self._low = ALL

    def answered(self, granted: int, backlog: float, now: float) -> None:
        """The region has charged what was spent and granted so many tokens; both are in its `backlog`, in seconds."""
        self._asked, self._alone = None, False
        self._interval = interval = self.rate.interval
        self._held += granted
        self._low = granted // 2
        self._due = max(self._due, now + backlog - self._held * interval)
        self._wanted = min(self._most, 2 * self._wanted) if granted else self._least
        if self._held < 0:
            self._ask(now)

    def failed(self) -> None:
        """The region has not answered: it may have charged what was spent, or not, which the estimate knows."""
        self._asked = None
        self._held = max(0, self._held)
        self._decide_alone()

    def give_up(self) -> int:
        """Hold nothing any more: the tokens to give back, or below zero those to charge."""
        held, self._held, self.unused = self._held, 0, 0
        self._wanted = self._least
        return held


class Buckets:
    """The buckets of all keys, a bounded number: the oldest makes room, and those that are limited stay longer."""

    def __init__(self, most: int, on_gone: Callable[[Bucket], None] = lambda bucket: None) -> None:
        self._most = most
        self._on_gone = on_gone
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def of(self, key: Hashable, now: float, make: Callable[[], Bucket]) -> Bucket:
        """The bucket of `key`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._make_room(now)
            bucket = self._buckets[key] = make()
        return bucket

    def _make_room(self, now: float) -> None:
        oldest = list(islice(self._buckets, LOOKED_AT))
        chosen = next((key for key in oldest if not self._buckets[key].is_limited(now)), oldest[0])
        for key in oldest[: oldest.index(chosen)]:
            self._buckets.move_to_end(key)
        bucket = self._buckets.pop(chosen)
        bucket.gone = True
        self._on_gone(bucket)

    def __len__(self) -> int:
        return len(self._buckets)
