"""The budget for retries: a fifth of what is asked, or a floor, or what was saved up: the largest, never the sum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.upstream.retry_budget import FLOOR, MOST_EARNED, SHARE, WINDOW, RetryBudget


def test_a_quiet_origin_has_the_floor() -> None:
    """With next to nothing asked, five retries are granted, and again once there was peace for a while."""
    budget = RetryBudget()
    assert [budget.spend(1, 0.0) for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2
    assert budget.spend(1, WINDOW + 1)
    assert (budget.spent, budget.refused) == (FLOOR + 1, 2)


def test_a_busy_origin_has_a_fifth_and_not_one_more() -> None:
    """Where every question fails and asks for a retry, a fifth of them is granted: the floor does not add to it."""
    budget = RetryBudget()
    granted = sum(budget.spend(asked, 0.0) for asked in range(1, 1001))
    assert granted == 200


def test_what_is_saved_up_is_an_advance() -> None:
    """A hundred good answers pay for the first twenty retries at once; those are then earned before there are more."""
    budget = RetryBudget()
    granted = [budget.spend(100, 0.0) for _ in range(21)]
    assert granted == [True] * 20 + [False]
    assert sum(budget.spend(asked, 1.0) for asked in range(101, 200)) == 0
    assert sum(budget.spend(asked, 1.0) for asked in range(200, 300)) == 20


def test_what_is_saved_up_is_bounded() -> None:
    """A million good answers do not pay for a storm, nor do a million with a little trouble all the while."""
    budget = RetryBudget()
    assert sum(budget.spend(1_000_000, 0.0) for _ in range(10_000)) == MOST_EARNED
    budget = RetryBudget()
    for second in range(1000):
        assert budget.spend(1 + 1000 * second, float(second))
    assert sum(budget.spend(1_000_000, 1000.0) for _ in range(10_000)) <= MOST_EARNED + 1


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 5.0), st.integers(0, 20)), max_size=60))
def test_retries_never_exceed_the_share_or_the_floor(steps: list[tuple[int, float, int]]) -> None:
    """Whatever fails when: in one trouble, no more than a fifth of its questions, the floor, or what was saved."""
    budget, asked, now, began, wished = RetryBudget(), 0, 0.0, 0, -100.0
    before = saved = 0.0
    for more, later, wanted in steps:
        asked, now = asked + more, now + later
        for _ in range(wanted):
            if now - wished > WINDOW:
                saved = max(0.0, SHARE * (asked - began) - (budget.spent - before))
                began, before = asked - 1, budget.spent
            wished = now
            budget.spend(asked, now)
            assert budget.spent - before <= max(SHARE * (asked - began), FLOOR, saved) + 1e-6
