"""Rate limits by the generic cell rate algorithm (ITU-T I.371): one number for each key, the time at which the next
request is due if all come evenly. A request is admitted unless it comes more than a burst before that.

A `Bucket` limits in one process. A `Lease` limits together with others: the number lies in a region's Valkey, and the
lease holds tokens taken from there. It asks for more before they are used up, and admits up to a burst on credit until
the answer is there, so that no request waits. What was admitted on credit is charged with the next question: over time
the rate is exact, and what a client gets more at once, it gets less afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Final, Protocol

SLACK: Final = 1e-6  # seconds: times since 1970 are no more exact than that
LATE: Final = 0.25  # seconds after which a question to the region is no longer waited for
LEASED: Final = 20  # a lease has as many tokens as a twentieth of a second allows
OF_BURST: Final = 4  # and no more than a fourth of a burst
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
    """What one key has used of a rate. Times are in seconds, on any one clock."""

    __slots__ = ("_due", "_interval", "_refused", "_tolerance", "gone", "rate")

    def __init__(self, rate: Rate, share: float = 1.0) -> None:
        self.rate = rate
        self.gone = False  # its place was needed: another takes over
        self._due = 0.0
        self._interval = rate.interval / share
        self._tolerance = (max(1.0, rate.burst * share) - 1) * self._interval + SLACK
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

    def ask(self, lease: Lease, spent: int, wanted: int) -> bool:
        """Charge what was spent on credit and ask for more: `answered` or `failed` follows; False if it cannot."""

    def alone(self) -> None:
        """A lease decides by itself, because the region does not answer."""


class Lease(Bucket):
    """Tokens of one key that are held here. Without the region it is a bucket that has its share of the rate."""

    __slots__ = ("_alone", "_asked", "_held", "_lender", "_low", "_most", "_until", "_wanted", "key", "unused")

    def __init__(self, key: bytes, rate: Rate, share: float, lender: Lender) -> None:
        super().__init__(rate, share)
        self.key = key
        self.unused = 0  # tokens held when they were last looked at
        self._lender = lender
        self._most = rate.lease
        self._held = 0  # tokens; below zero, what was admitted on credit
        self._low = 0  # tokens at which more are asked for
        self._wanted = 1
        self._asked: float | None = None  # when a question was put that is not answered
        self._until = 0.0  # before that, the region has no more
        self._alone = False  # the region did not answer

    @property
    def held(self) -> int:
        """Tokens that are held; below zero, what was admitted on credit."""
        return self._held

    def take(self, now: float) -> bool:
        """Admit a request, or refuse it."""
        held = self._held
        if held > self._low:
            self._held = held - 1
            return True
        return self._take_one_of_few(now)

    def admits(self, now: float) -> bool:
        """Whether `take` would admit a request."""
        if self._alone:
            return super().admits(now)
        return self._held > (0 if now < self._until else -self.rate.burst)

    def wait(self, now: float) -> float:
        """Seconds until a request is admitted."""
        return super().wait(now) if self._alone else max(0.0, self._until - now)

    def is_limited(self, now: float) -> bool:
        """Whether a client would gain by being forgotten."""
        return self._refused and self.wait(now) > 0

    def _take_one_of_few(self, now: float) -> bool:
        self._alone = not self._is_asking(now)
        if self._alone:
            self._lender.alone()
            return super().take(now)
        if not self.admits(now):
            self._refused = True
            return False
        self._held -= 1
        return True

    def _is_asking(self, now: float) -> bool:
        """Whether an answer of the region is known or on its way; False where it has none."""
        if self._asked is not None:
            return now - self._asked <= LATE
        if now < self._until:
            return True
        self._asked = now
        if self._lender.ask(self, max(0, -self._held), self._wanted):
            return True
        self._asked = None
        return False

    def answered(self, spent: int, granted: int, wait: float, now: float) -> None:
        """The region has charged what was `spent`, granted so many tokens, and has the next one in `wait` seconds."""
        self._asked, self._alone = None, False
        self._held += spent + granted
        self._low = granted // 2
        self._until = now + wait
        self._wanted = min(self._most, 2 * self._wanted) if granted else 1

    def failed(self) -> None:
        """The region has not answered."""
        self._asked = None

    def give_up(self) -> int:
        """Hold nothing any more: the tokens to give back, or below zero those to charge."""
        held, self._held, self._low, self._wanted, self.unused = self._held, 0, 0, 1, 0
        return held

    @property
    def is_asking(self) -> bool:
        """Whether a question is not answered."""
        return self._asked is not None


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
