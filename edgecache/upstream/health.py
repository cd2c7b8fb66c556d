"""Which of several origins to ask: how loaded and how well each is. Pure: time and chance are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import exp, inf
from typing import Final

from edgecache.valkey.circuit_breaker import Breaker, State

DECAY: Final = 10.0  # seconds in which what is known of an origin's latency fades to a third
FAILING: Final = frozenset((500, 502, 503, 504))  # statuses that speak against the origin
UNAVAILABLE: Final = frozenset((502, 503, 504))  # of them, those that another origin may not answer
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))  # RFC 9110 §9.2.1, but TRACE
MOST_LATENCIES: Final = 256  # of the last answers, out of which the slow ones are told
FEWEST_LATENCIES: Final = 32  # before nothing is called slow
SLOWEST_START: Final = 0.1  # the share of its traffic that an origin gets at once when it comes back


class Health:
    """How one origin is doing. Mutable state: its latency, what was seen of its answers, and what its checks said.

    Latency is a peak-sensitive moving average: it follows a rise at once and a fall slowly. Ejection is the breaker's.
    """

    def __init__(self, breaker: Breaker, *, fall: int, rise: int, slow_start: float) -> None:
        self.breaker = breaker
        self.latency = 0.0  # seconds; 0 = not known
        self.checked_up = True  # what the active checks say
        self._fall, self._rise = fall, rise  # checks in a row that turn it down, or up
        self._checks = 0  # in a row that speak against `checked_up`
        self._slow_start = slow_start  # seconds
        self._back_since = float("-inf")
        self._measured = 0.0

    def is_well(self, *, may_probe: bool, now: float) -> bool:
        """Whether it may be asked at `now`. An ejected one is, once its time is over, by one that `may_probe`."""
        if not self.checked_up:
            return False
        if self.breaker.state is State.CLOSED:
            return True
        return may_probe and self.breaker.allows(now)

    def load(self, outstanding: int, now: float) -> float:
        """What asking it costs: its latency, times those who wait already; more while it has just come back."""
        return max(self.latency, 0.001) * (outstanding + 1) / self.share(now)

    def share(self, now: float) -> float:
        """How much of its full share of the traffic it is to get: less while it has just come back."""
        if now - self._back_since >= self._slow_start:
            return 1.0
        return max(SLOWEST_START, (now - self._back_since) / self._slow_start)

    def answered(self, took: float, now: float) -> None:
        """It answered, `took` seconds after it was asked."""
        was_open = self.breaker.state is not State.CLOSED
        self.breaker.succeeded(now)
        if was_open and self.breaker.state is State.CLOSED:
            self._back_since = now
        if took >= self.latency:
            self.latency = took
        else:
            weight = exp(-(now - self._measured) / DECAY)
            self.latency = self.latency * weight + took * (1.0 - weight)
        self._measured = now

    def outrun(self, took: float, now: float) -> None:
        """Another answered in its stead, `took` seconds after it was asked."""
        self.latency, self._measured = max(self.latency, took), now

    def failed(self, now: float) -> None:
        """It did not answer, or with a status that speaks against it."""
        self.breaker.failed(now)

    def checked(self, good: bool, now: float) -> None:
        """An active check is over."""
        if good == self.checked_up:
            self._checks = 0
            return
        self._checks += 1
        if self._checks >= (self._rise if good else self._fall):
            self._checks = 0
            self.checked_up = good
            if good:
                self._back_since = now


class Latencies:
    """How long the last answers took. Mutable state: those times, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=MOST_LATENCIES)

    def add(self, took: float) -> None:
        """An answer took so long."""
        self._last.append(took)

    def slow(self) -> float:
        """The time that 95 of 100 did not take; no time is long while few are known."""
        if len(self._last) < FEWEST_LATENCIES:
            return inf
        return sorted(self._last)[len(self._last) * 95 // 100]


def least_loaded(loads: Sequence[float], choose: Callable[[int], int]) -> int:
    """The index of the less loaded of two that are drawn: `choose(n)` draws a number below n.

    Two choices spread load almost as well as looking at all, and do not send everybody to the one that looks best.
    """
    if len(loads) == 1:
        return 0
    first = choose(len(loads))
    second = (first + 1 + choose(len(loads) - 1)) % len(loads)
    return first if loads[first] <= loads[second] else second


def by_weight(weights: Sequence[float], waiting: Sequence[int], draw: Callable[[Sequence[float]], int]) -> int:
    """The index of the one of two, drawn by weight, that has fewer requests under way for its weight.

    So each gets its share of the requests while all are idle, and its share of the connections while all are busy.
    """
    first, second = draw(weights), draw(weights)
    return second if waiting[second] / weights[second] < waiting[first] / weights[first] else first


def may_ask_another(method: bytes, *, sent: bool, has_body: bool) -> bool:
    """Whether a request that failed may go to another origin: if it never left, or is safe to ask twice."""
    return not sent or (method in SAFE and not has_body)
