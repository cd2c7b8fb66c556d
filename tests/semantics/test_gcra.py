"""Rates: how much a bucket admits, what a lease spends, and which buckets a flood of keys forgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count, islice
from math import inf

import pytest
from harness.often import each_case, one_in

from edgecache.semantics.rules.gcra import Bucket, Buckets, Lease, Rate, rate_of

START = 1_000_000.0  # seconds on any clock: by one since 1970, sums have seven digits only


@pytest.mark.parametrize(
    ("written", "burst", "rate"),
    [
        ("100/s", None, Rate(100, 1, 100)),
        ("90/m", None, Rate(90, 60, 2)),
        ("10/h", None, Rate(10, 3600, 1)),
        ("10/s", 3, Rate(10, 1, 3)),
    ],
)
def test_a_rate_as_it_is_written(written: str, burst: int | None, rate: Rate) -> None:
    """A burst that is not given is what one second allows."""
    assert rate_of(written, burst) == rate


def test_a_bucket_never_admits_more_than_its_rate_and_a_burst() -> None:
    """In every window of any length; and what comes at the rate is never refused."""
    with each_case() as case:
        for seed in range(50):
            with case(f"seed {seed}"):
                admits_no_more(seed)


def admits_no_more(seed: int) -> None:
    """Of a random bucket, asked at random times."""
    random_ = random.Random(seed)
    rate = Rate(random_.randint(1, 50), random_.choice((1, 60)), random_.randint(1, 20))
    bucket, now, admitted = Bucket(rate), START, []
    for _ in range(500):
        now += random_.choice((0.0, random_.random() * rate.interval))
        before = bucket.admits(now), bucket.wait(now)
        taken = bucket.take(now)
        assert before[0] is taken
        assert (before[1] == 0.0) is taken
        if taken:
            admitted.append(now)
    assert len(admitted) < 500
    for first, begin in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= rate.burst + (admitted[last] - begin + 1e-3) / rate.interval
    even = Bucket(rate)
    assert all(even.take(START + number * rate.interval * 1.001) for number in range(200))


def test_a_flood_of_new_keys_forgets_none_that_is_refused() -> None:
    """The table is bounded; limited keys stay while ten times as many others come as it holds."""
    buckets, rate = Buckets(100), Rate(1, 60, 1)
    limited = [buckets.of(("limited", number), START, lambda: Bucket(rate)) for number in range(20)]
    for bucket in limited:
        assert bucket.take(START)
        assert not bucket.take(START)
    for number in range(1000):
        buckets.of(number, START + 1, lambda: Bucket(rate)).take(START + 1)
    assert len(buckets) == 100
    assert [buckets.of(("limited", number), START + 1, lambda: Bucket(rate)) for number in range(20)] == limited
    assert not any(bucket.gone for bucket in limited)
    for number in range(1000):  # their time is over: they are forgotten as others are
        buckets.of(("later", number), START + 100, lambda: Bucket(rate)).take(START + 100)
    assert all(bucket.gone for bucket in limited)


class Region:
    """A region of one bucket, as the script in Valkey is; its answers come later, and those that are lost fail."""

    share = 0.25

    def __init__(self, rate: Rate, latency: Callable[[], float] = lambda: 0.001) -> None:
        self.rate = rate
        self.latency = latency  # seconds each way; below zero, the question is lost
        self.now = START
        self.due = START
        self.answers = True
        self.asked = 0
        self.without = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def ask(self, lease: Lease, spent: int, wanted: int, backlog: float) -> bool:
        """Have the question reach the region later."""
        if self.answers:
            self.asked += 1
            took = self.latency()
            if took < 0:
                self._later(0.3, lease.failed)
            else:
                self._later(took, partial(self._lend, lease, spent, wanted, backlog))
        return self.answers

    def alone(self) -> None:
        """Count."""
        self.without += 1

    def run(self, until: float) -> None:
        """Let time go on."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heappop(self._events)
            event()
        self.now = until

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def _lend(self, lease: Lease, spent: int, wanted: int, backlog: float) -> None:
        lost = self.due <= self.now or self.now + backlog - self.due > 0.3
        self.due = max(self.now, self.due, self.now + backlog if lost else 0.0)
        self.due += spent * self.rate.interval
        burst = self.rate.burst * self.rate.interval
        granted = max(0, min(wanted, int((self.now + burst - self.due) / self.rate.interval + 1e-6)))
        self.due += granted * self.rate.interval
        left = max(0.0, self.due - self.now)
        self._later(abs(self.latency()), lambda: lease.answered(granted, left, self.now))


def burst_of(admitted: Sequence[float], rate: Rate) -> float:
    """How many were admitted at most, in any time, beyond what the rate allows in it."""
    found, lowest = 0.0, inf
    for number, at in enumerate(admitted):
        beyond = number - (at - START) / rate.interval
        lowest = min(lowest, beyond)
        found = max(found, beyond - lowest + 1)
    return found


def arrivals(random_: random.Random, rate: Rate) -> Iterator[float]:
    """Times of requests: bursts, pauses, and more than the rate in between."""
    now = START
    while True:
        gap = random_.choice((0.0, 0.1, 0.5, 1.0))
        if random_.random() < 0.02:
            now += random_.random() * 3 * rate.burst * rate.interval
        for _ in range(random_.randint(1, 2 * rate.burst + 20)):
            now += gap * random_.random() * rate.interval
            yield now


@pytest.mark.parametrize("seed", one_in(3, range(150)))
def test_no_worker_exceeds_a_burst_and_all_together_what_is_documented(seed: int) -> None:
    """Any rate, any number of workers, any latencies and, in half of the runs, lost questions; in every window."""
    random_ = random.Random(seed)
    rate = Rate(random_.choice((1, 7, 50, 400, 3000)), random_.choice((1, 1, 60)), random_.choice((1, 2, 12, 90)))
    workers, slowest, lossy = random_.randint(1, 5), random_.choice((0.0005, 0.01, 0.1)), seed % 2
    region = Region(rate, lambda: -1 if lossy and random_.random() < 0.1 else random_.random() * slowest)
    region.share = 1 / workers
    leases = [Lease(b"k", rate, region) for _ in range(workers)]
    admitted: list[list[float]] = [[] for _ in leases]
    one = random_.randrange(workers)  # that a client stays with for a while
    for now in islice(arrivals(random_, rate), 6000):
        region.run(now)
        one = random_.randrange(workers) if random_.random() < random_.choice((0.01, 0.5)) else one
        if leases[one].take(now):
            admitted[one].append(now)
    for times in admitted:
        assert burst_of(times, rate) <= rate.burst + 0.01
    together = sorted(time for times in admitted for time in times)
    assert len(together) < 6000
    if not lossy:
        unknown = 4 * slowest / rate.interval  # what comes by the rate in the time of two questions
        assert burst_of(together, rate) <= workers * (rate.burst + rate.lease + unknown) + 0.01
        assert region.without == 0


@pytest.mark.parametrize("latency", [0.0005, 0.05])
@pytest.mark.parametrize("written", ["1/s", "10/s", "100/s", "1000/s"])
def test_leases_keep_to_the_rate_together(written: str, latency: float) -> None:
    """Four workers, twice the rate for a minute: a burst, the rate, and what the answers are late by."""
    rate = rate_of(written)
    region = Region(rate, lambda: latency)
    leases = [Lease(b"k", rate, region) for _ in range(4)]
    random_, accepted, now = random.Random(1), 0, START
    for _ in range(2 * rate.count * 60):
        now += rate.interval / 2
        region.run(now)
        accepted += random_.choice(leases).take(now)
    assert region.without == 0
    late = 4 * (1 + 2 * latency / rate.interval)
    assert rate.count * 60 - late <= accepted <= rate.count * 60 + rate.burst + late


@pytest.mark.parametrize("burst", [1, 2, 12, 200])
def test_a_burst_at_once_is_the_burst(burst: int) -> None:
    """Also where no answer is there meanwhile, and where answers come in between."""
    for latency in (0.0, 0.002, 10.0):
        rate = Rate(1, 3600, burst)
        region = Region(rate, lambda latency=latency: latency)
        lease, found = Lease(b"k", rate, region), []
        for number in range(2 * burst + 5):
            now = START + number * 0.0005
            region.run(now)
            found.append(lease.take(now))
        assert found == [True] * burst + [False] * (burst + 5)


def test_a_lease_asks_before_it_is_empty_and_seldom() -> None:
    """At 1000/s a question is worth many requests, and no request below the rate is refused meanwhile."""
    rate = Rate(1000, 1, 1000)
    region = Region(rate)
    lease, now = Lease(b"k", rate, region), START
    for _ in range(10_000):
        now += rate.interval
        region.run(now)
        assert lease.take(now)
    assert region.asked < 10_000 / 20


def test_a_lease_without_its_region_has_its_share() -> None:
    """A quarter of the rate; and all of it again once the region answers, which begins no new burst."""
    rate = Rate(100, 1, 100)
    region = Region(rate)
    region.answers = False
    lease = Lease(b"k", rate, region)
    accepted = sum(lease.take(START + number / 1000) for number in range(10_000))
    assert accepted == pytest.approx(25 + 250, abs=2)
    assert region.without == 10_000 - 1  # the first of all was admitted before it was known
    assert lease.wait(START + 10) > 0 or lease.admits(START + 10)
    region.answers, region.now = True, START + 10.05
    assert lease.take(START + 10.05)
    region.run(START + 10.1)
    assert [lease.take(START + 10.1) for _ in range(20)].count(True) in (3, 4, 5)
    assert region.without == 10_000


def test_a_region_that_loses_its_number_gets_it_again() -> None:
    """What a worker knows is restored: another worker's burst is not a new one."""
    rate = Rate(10, 60, 10)
    region = Region(rate)
    one, two = Lease(b"k", rate, region), Lease(b"k", rate, region)
    assert sum(one.take(START) for _ in range(20)) == 10
    region.run(START + 5.9)
    region.due = 0.0
    assert not one.take(START + 5.9)
    region.run(START + 6.1)
    assert one.take(START + 6.1)
    region.run(START + 6.2)
    assert two.take(START + 6.2)
    region.run(START + 6.3)
    assert not two.take(START + 6.3)


def test_a_question_that_is_not_answered_is_not_waited_for() -> None:
    """A burst on credit, the rate for a quarter of a second, then the worker's share."""
    rate = Rate(100, 1, 100)
    region = Region(rate, lambda: 100.0)
    lease = Lease(b"k", rate, region)
    assert [lease.take(START) for _ in range(102)] == [True] * 100 + [False] * 2
    assert sum(lease.take(START + number / 1000) for number in range(2000)) == pytest.approx(25 + 25 * 1.75, abs=2)
    assert region.without > 1500
    assert region.asked == 1


def test_a_region_that_fails_again_and_again_gives_no_credit() -> None:
    """Each retry goes on with the share: a burst is admitted once."""
    rate = Rate(100, 1, 50)
    region = Region(rate, lambda: -1.0)
    lease = Lease(b"k", rate, region)
    now, accepted = START, 0
    for _ in range(20_000):
        now += 0.001
        region.run(now)
        accepted += lease.take(now)
    assert region.asked > 50
    assert accepted <= 50 + 0.31 * 100 + 20 * 25


def test_what_is_not_used_goes_back() -> None:
    """Tokens that are held, and what was admitted on credit and is not being charged."""
    rate = Rate(100, 1, 100)
    region = Region(rate)
    lease = Lease(b"k", rate, region)
    assert [lease.take(START) for _ in range(3)] == [True] * 3
    assert lease.give_up() == -2
    region.run(START + 1)
    assert lease.give_up() == 1
    assert lease.give_up() == 0


def test_a_flood_of_keys_gives_no_second_burst() -> None:
    """A lease that makes room is charged; the one that takes over learns of it from its first answer."""
    rate = Rate(1, 60, 10)
    region = Region(rate)
    buckets = Buckets(100)

    def lease() -> Bucket:
        return buckets.of("k", region.now, lambda: Lease(b"k", rate, region))

    assert all(lease().take(START) for _ in range(10))
    first = lease()
    region.run(START + 300)
    for number in range(200):
        buckets.of(number, region.now, lambda number=number: Lease(b"%d" % number, rate, region))
    assert first.gone
    assert lease().take(region.now)
    region.run(START + 300.1)
    assert [lease().take(region.now) for _ in range(10)] == [True] * 4 + [False] * 6
