"""Rates: how much a bucket admits, what a lease spends, and which buckets a flood of keys forgets."""

from __future__ import annotations

import random

import pytest

from edgecache.semantics.rules.gcra import Bucket, Buckets, Lease, Rate, rate_of

START = 1_700_000_000.0


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


@pytest.mark.parametrize("seed", range(50))
def test_a_bucket_never_admits_more_than_its_rate_and_a_burst(seed: int) -> None:
    """In every window of any length; and what comes at the rate is never refused."""
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
    """A region whose answers come when the test says so; it keeps one bucket."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.due = START
        self.asked: list[tuple[Lease, int, int]] = []
        self.answers = True
        self.without = 0

    def ask(self, lease: Lease, spent: int, wanted: int) -> bool:
        """Note the question."""
        if self.answers:
            self.asked.append((lease, spent, wanted))
        return self.answers

    def alone(self) -> None:
        """Count."""
        self.without += 1

    def answer(self, now: float) -> None:
        """Answer all questions, as the script in Valkey does."""
        interval, burst = self.rate.interval, self.rate.burst
        for lease, spent, wanted in self.asked:
            self.due = max(now, self.due) + spent * interval
            granted = max(0, min(wanted, int((now + burst * interval - self.due) / interval + 1e-6)))
            self.due += granted * interval
            lease.answered(spent, granted, max(0.0, self.due + interval - now - burst * interval), now)
        self.asked = []


@pytest.mark.parametrize("latency", [0.001, 0.1])
@pytest.mark.parametrize("written", ["1/s", "10/s", "100/s", "1000/s"])
def test_leases_keep_to_the_rate_together(written: str, latency: float) -> None:
    """Four workers, twice the rate, answers that take a while: a minute's total is right within 5 %."""
    rate = rate_of(written)
    region = Region(rate)
    leases = [Lease(b"k", rate, 0.25, region) for _ in range(4)]
    random_, accepted, now, answer_at = random.Random(1), 0, START, START
    for _ in range(2 * rate.count * 60):
        now += rate.interval / 2
        if now >= answer_at:
            region.answer(now)
            answer_at = now + latency
        accepted += random_.choice(leases).take(now)
    assert region.without == 0
    assert accepted == pytest.approx(rate.count * 60, rel=0.05 if rate.count > 1 else 0.1)


def test_a_lease_asks_before_it_is_empty_and_seldom() -> None:
    """At 1000/s a question is worth many requests, and no request below the rate is refused meanwhile."""
    rate = Rate(1000, 1, 1000)
    region = Region(rate)
    lease, questions, now = Lease(b"k", rate, 1.0, region), 0, START
    for number in range(10_000):
        now += rate.interval
        assert lease.take(now)
        if number % 4 == 0:
            questions += len(region.asked)
            region.answer(now)
    assert questions < 10_000 / 20


def test_a_lease_without_its_region_has_its_share() -> None:
    """A quarter of the rate; and all of it again once the region answers."""
    rate = Rate(100, 1, 100)
    region = Region(rate)
    region.answers = False
    lease = Lease(b"k", rate, 0.25, region)
    accepted = sum(lease.take(START + number / 1000) for number in range(10_000))
    assert accepted == pytest.approx(25 + 250, abs=2)
    assert region.without == 10_000
    assert lease.wait(START + 10) > 0 or lease.admits(START + 10)
    region.answers = True
    assert lease.take(START + 10)
    region.answer(START + 10)
    assert [lease.take(START + 10) for _ in range(3)] == [True] * 3
    assert region.without == 10_000


def test_a_question_that_is_not_answered_is_not_waited_for() -> None:
    """A burst on credit first, then the worker's share."""
    rate = Rate(100, 1, 100)
    region = Region(rate)
    lease = Lease(b"k", rate, 0.5, region)
    assert [lease.take(START) for _ in range(102)] == [True] * 100 + [False] * 2
    assert lease.take(START + 1)
    assert region.without == 1
    assert len(region.asked) == 1


def test_what_is_not_used_goes_back() -> None:
    """Tokens that are held, and what was admitted on credit."""
    rate = Rate(100, 1, 100)
    region = Region(rate)
    lease = Lease(b"k", rate, 1.0, region)
    assert lease.take(START)
    assert lease.give_up() == -1
    region.answer(START)
    assert lease.give_up() == 1
    assert lease.give_up() == 0
