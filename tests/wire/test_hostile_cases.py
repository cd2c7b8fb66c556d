"""Every hand-written byte case in `tests/hostile/tables/`: as it is, byte by byte, and cut in two at every byte.

`tests/hostile/tables/README.md` says what each kind of case demands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet
from harness.often import batches, each_case, slow
from hostile.arena import Arena, running_arena
from hostile.rig import Bench
from hostile.tables import REQUESTS, Case, all_cases

CASES = [case for case in all_cases() if case.kind in REQUESTS]
SMALL = 400  # bytes; longer cases are not cut everywhere
BY_SOCKET = pytest.mark.asyncio(loop_scope="module")


def cases(*kinds: str) -> list[Case]:
    """The cases of some kinds."""
    return [case for case in CASES if case.kind in kinds]


def in_batches(some: list[Case]) -> list[ParameterSet]:
    """Cases as parameters, many at a time."""
    return batches(some, lambda case: case.id)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def arena() -> AsyncIterator[Arena]:
    """One POP for all cases: what one leaves behind, the next meets."""
    async with running_arena() as one:
        yield one


async def judge(arena: Arena, some: list[Case], segment: int | None = None) -> None:
    """Judge each of these."""
    with each_case() as case:
        for one in some:
            with case(one.id):
                await arena.judge(one, segment)


@BY_SOCKET
@pytest.mark.parametrize("some", in_batches(cases("R")))
async def test_refused(arena: Arena, some: list[Case]) -> None:
    """One refusal, nothing at the origin, nothing stored, the next client unharmed, the reason counted."""
    await judge(arena, some)


@BY_SOCKET
@pytest.mark.parametrize("some", in_batches(cases("N", "RN", "L", "E")))
async def test_taken(arena: Arena, some: list[Case]) -> None:
    """What reaches the origin is read alike by three parsers, and is what the case says."""
    await judge(arena, some)


def small() -> list[Case]:
    """The cases that are sent byte by byte, and cut at every byte."""
    return [case for case in CASES if len(case.data) <= SMALL]


def few_and_others(some: list[Case]) -> list[object]:
    """Batches of one case in twelve, and slow ones of the others."""
    others = [case for number, case in enumerate(some) if number % 12]
    return [*in_batches(some[::12]), *map(slow, in_batches(others))]


@BY_SOCKET
@pytest.mark.parametrize("some", few_and_others(small()))
async def test_byte_by_byte(arena: Arena, some: list[Case]) -> None:
    """Sent one byte at a time it comes to the same."""
    await judge(arena, some, segment=1)


def differs_when_cut(bench: Bench, case: Case) -> list[int]:
    """Where a case cut in two comes to something else than whole."""
    data, whole = case.data, bench.play(case.data)
    return [cut for cut in range(1, len(data)) if bench.play(data[:cut], data[cut:]).gist != whole.gist]


@pytest.mark.slow
async def test_cut_at_every_byte() -> None:
    """Cut in two at any byte, each small case comes to the same; without sockets, which would add nothing."""
    bench = Bench()

    assert {case.id: cuts for case in small() if (cuts := differs_when_cut(bench, case))} == {}


def test_there_are_enough_of_them() -> None:
    """At least 300 cases are written by hand, each under an id of its own."""
    ids = [case.id for case in all_cases()]

    assert len(ids) >= 300
    assert len(set(ids)) == len(ids)
