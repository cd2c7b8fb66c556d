"""The circuit breaker: by examples, and by properties over every run of events."""

from __future__ import annotations

import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from edgecache.valkey.circuit_breaker import Breaker, State

FAILURES, OPEN_FOR, LONGEST = 3, 10.0, 35.0


def opened(**options: float) -> Breaker:
    """A breaker that opened at 0."""
    breaker = Breaker(FAILURES, OPEN_FOR, **options)  # type: ignore[arg-type]
    for _ in range(FAILURES):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    assert breaker.state is State.OPEN
    return breaker


def test_it_stays_closed_while_failures_are_not_in_a_row() -> None:
    """Only failures in a row count."""
    breaker = Breaker(FAILURES, OPEN_FOR)
    for _ in range(20):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded(0.0)
    assert breaker.state is State.CLOSED
    assert breaker.opened == 0


def test_open_it_allows_nothing_until_its_time_is_over() -> None:
    """Open means that nothing goes through."""
    breaker = opened()
    assert not breaker.allows(0.0)
    assert not breaker.allows(OPEN_FOR - 0.001)
    assert breaker.allows(OPEN_FOR)


def test_half_open_it_lets_one_probe_through_and_closes_on_its_success() -> None:
    """The return is not a crowd."""
    breaker = opened()
    assert breaker.allows(OPEN_FOR)
    assert breaker.state is State.HALF_OPEN
    assert not any(breaker.allows(OPEN_FOR + delay) for delay in (0.0, 1.0, 9.9))
    breaker.succeeded(OPEN_FOR + 9.9)
    assert breaker.state is State.CLOSED
    assert all(breaker.allows(OPEN_FOR + 10) for _ in range(5))


def test_each_failed_probe_doubles_the_time_up_to_the_longest() -> None:
    """What stays down is asked less and less often."""
    breaker = opened(longest=LONGEST)
    now = 0.0
    for expected in (10.0, 20.0, 35.0, 35.0):
        assert not breaker.allows(now + expected - 0.001)
        now += expected
        assert breaker.allows(now)
        breaker.failed(now)
    assert breaker.opened == 1, "a probe that fails is no new outage"


def test_a_success_resets_the_time_that_had_grown() -> None:
    """The next outage begins anew."""
    breaker = opened(longest=LONGEST)
    assert breaker.allows(10.0)
    breaker.failed(10.0)
    assert breaker.allows(30.0)
    breaker.succeeded(30.0)
    for _ in range(FAILURES):
        breaker.failed(30.0)
    assert breaker.allows(40.0)


def test_a_probe_that_is_never_told_of_is_given_up() -> None:
    """It cannot stay shut because a client left."""
    breaker = opened()
    assert breaker.allows(10.0)
    assert not breaker.allows(19.9)
    assert breaker.allows(20.0)
    assert not breaker.allows(20.1)


def test_late_news_of_older_questions_changes_nothing_while_open() -> None:
    """What was asked before it opened says nothing new."""
    breaker = opened()
    breaker.succeeded(5.0)
    breaker.failed(9.0)
    assert breaker.state is State.OPEN
    assert not breaker.allows(9.9)
    assert breaker.allows(10.0)


def test_jitter_adds_its_fraction_of_the_time() -> None:
    """Many breakers do not probe at once."""
    breaker = Breaker(1, OPEN_FOR, jitter=lambda: 0.5)
    breaker.failed(0.0)
    assert not breaker.allows(14.9)
    assert breaker.allows(15.0)


@pytest.mark.parametrize(("failures", "open_for"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0)])
def test_a_breaker_that_could_not_work_is_refused(failures: int, open_for: float) -> None:
    """Bad arguments are an error, not a breaker that never opens."""
    with pytest.raises(ValueError, match="a breaker needs"):
        Breaker(failures, open_for)


@given(st.lists(st.sampled_from(("ok", "bad")), max_size=60), st.integers(1, 6))
def test_closed_it_opens_exactly_at_the_first_run_of_enough_failures(events: list[str], failures: int) -> None:
    """For every run of outcomes."""
    breaker = Breaker(failures, OPEN_FOR)
    run = 0
    for event in events:
        if run >= failures:
            break
        run = run + 1 if event == "bad" else 0
        breaker.failed(0.0) if event == "bad" else breaker.succeeded(0.0)
        assert (breaker.state is State.OPEN) == (run >= failures)


class Runs(RuleBasedStateMachine):
    """Any order of time, questions and outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(FAILURES, OPEN_FOR, longest=LONGEST, jitter=lambda: 0.25)
        self.opened_at = 0.0
        self.probes: list[float] = []  # allowed since it last opened

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += seconds

    @rule()
    def ask(self) -> None:
        """One probe at a time, none too early."""
        before = self.breaker.state
        allowed = self.breaker.allows(self.now)
        if before is State.CLOSED:
            assert allowed
        elif allowed:
            assert self.breaker.state is State.HALF_OPEN
            assert self.now >= self.opened_at + OPEN_FOR * 1.25
            assert all(self.now - probe >= OPEN_FOR for probe in self.probes), "two probes at a time"
            self.probes.append(self.now)

    @rule()
    def success(self) -> None:
        """It closes, unless it is open."""
        before = self.breaker.state
        self.breaker.succeeded(self.now)
        assert self.breaker.state is (State.OPEN if before is State.OPEN else State.CLOSED)

    @rule()
    def failure(self) -> None:
        """Note when it opens."""
        before = self.breaker.state
        self.breaker.failed(self.now)
        if before is not State.OPEN and self.breaker.state is State.OPEN:
            self.opened_at, self.probes = self.now, []

    @precondition(lambda self: self.breaker.state is not State.CLOSED)
    @rule()
    def left_alone_it_always_asks_again(self) -> None:
        """However it came there, its time is over some day."""
        self.now += LONGEST * 1.25
        assert self.breaker.allows(self.now)
        self.probes = [self.now]


TestRuns = Runs.TestCase
TestRuns.settings = examples(60, stateful_step_count=40)
