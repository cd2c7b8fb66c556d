"""How much is repeated: every example and case in `make test`, a share of them in `make check`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, settings

FULL, CHECK = 100, 10  # examples of a property that says nothing of its own
FEWEST, MANY = 10, 200  # of any that does, in `make check`
BATCH = 40  # cases of a table in one test: each test costs more than most of them

One = TypeVar("One")


def register() -> None:
    """Make both known, and take the full one unless `--hypothesis-profile` says otherwise.

    No example has a time limit, nor has making them: how fast it goes is no property.
    """
    patient = [HealthCheck.too_slow]
    settings.register_profile("full", deadline=None, max_examples=FULL, suppress_health_check=patient)
    settings.register_profile("check", deadline=None, max_examples=CHECK, suppress_health_check=patient)
    settings.load_profile("full")


def examples(count: int, **more: int) -> settings:
    """So many examples, or the profile's share of them."""
    some = max(min(count * CHECK // FULL, MANY), min(count, FEWEST))
    return settings(max_examples=count if is_full() else some, **more)


def share(count: int, parts: int = 2) -> int:
    """So many rounds, or the first of so many parts of them in `make check`."""
    return count if is_full() else count // parts


def is_full() -> bool:
    """Whether all is repeated as often as it says."""
    return bool(settings.default.max_examples == FULL)


def one_in(every: int, cases: Iterable[object]) -> list[object]:
    """Parameters, all but one in `every` of them marked slow: for cases that are many and much the same."""
    return [case if number % every == 0 else slow(case) for number, case in enumerate(cases)]


def batches(cases: Sequence[One], named: Callable[[One], str], size: int = BATCH) -> list[ParameterSet]:
    """Parameters that are lists of cases, called by their first and last; `each_case` judges every one of a list."""
    lists = [cases[at : at + size] for at in range(0, len(cases), size)]
    return [pytest.param(some, id=f"{named(some[0])}..{named(some[-1])}") for some in lists]


@contextmanager
def each_case() -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """`with case(name):` around each of many: all are judged, and those that fail are raised at the end by name."""
    failed: dict[str, Exception] = {}

    @contextmanager
    def case(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"case {name}")
            failed[name] = error

    yield case
    if failed:
        raise ExceptionGroup(f"cases {', '.join(failed)} fail", list(failed.values()))


def slow(case: object) -> object:
    """A parameter that is left out of `make check`."""
    if not isinstance(case, ParameterSet):
        return pytest.param(case, marks=pytest.mark.slow)
    return pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id)
