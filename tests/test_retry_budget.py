"""The budget for retries: a fifth of what is asked, and a floor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.retry_budget import FLOOR, MOST_EARNED, SHARE, WINDOW, RetryBudget


def test_a_quiet_origin_has_the_floor() -> None:
    """With next to nothing asked, three retries are granted per window, and again in a later one."""
    budget = RetryBudget()
    assert [budget.spend(1, 0.0) for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2
    assert budget.spend(1, WINDOW + 1)
    assert (budget.spent, budget.refused) == (FLOOR + 1, 2)


def test_a_busy_origin_has_a_fifth() -> None:
    """Where every question fails and asks for a retry, a fifth of them is granted, and the floor."""
    budget = RetryBudget()
    granted = sum(budget.spend(asked, 0.0) for asked in range(1, 1001))
    assert granted == 200 + FLOOR


def test_what_is_saved_up_is_bounded() -> None:
    """A million good answers do not pay for a storm."""
    budget = RetryBudget()
    assert sum(budget.spend(1_000_000, 0.0) for _ in range(10_000)) == MOST_EARNED + FLOOR


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 5.0), st.integers(0, 20)), max_size=60))
def test_retries_never_exceed_the_share_and_the_floors(steps: list[tuple[int, float, int]]) -> None:
    """Whatever is asked and fails when, retries stay within a fifth of the questions and a floor per window."""
    budget, asked, now = RetryBudget(), 0, 0.0
    for more, later, wanted in steps:
        asked, now = asked + more, now + later
        for _ in range(wanted):
            budget.spend(asked, now)
    assert budget.spent <= SHARE * asked + FLOOR * (now // WINDOW + 1)
