"""Every hand-written answer in `tests/hostile/tables/`: hostile origins, and what may be stored of honest ones.

`tests/hostile/tables/README.md` says what each kind of case demands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet
from harness.often import batches, each_case
from hostile import stage
from hostile.arena import Arena, running_arena
from hostile.tables import ANSWERS, STORING, Case, all_cases

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")


def cases(kinds: tuple[str, ...]) -> list[ParameterSet]:
    """The cases of some kinds as parameters, many at a time."""
    return batches([case for case in all_cases() if case.kind in kinds], lambda case: case.id)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def arena() -> AsyncIterator[Arena]:
    """One POP for the answers of hostile origins: what one leaves behind, the next meets."""
    async with running_arena() as one:
        yield one


@IN_ONE_LOOP
@pytest.mark.parametrize("some", cases(ANSWERS))
async def test_origin(arena: Arena, some: list[Case]) -> None:
    """What is not HTTP is 502, 504 or a broken transfer, stored nowhere and part of no other answer."""
    with each_case() as case:
        for one in some:
            with case(one.id):
                await stage.judge(arena, one)


@IN_ONE_LOOP
@pytest.mark.parametrize("some", cases(STORING))
async def test_stored(arena: Arena, some: list[Case]) -> None:
    """The second client is answered without the origin exactly where the answer allows it."""
    with each_case() as case:
        for one in some:
            with case(one.id):
                await judge_storing(arena, one)


async def judge_storing(arena: Arena, case: Case) -> None:
    """Judge one of them; where time passes, in an arena of its own: the cases say what time it is."""
    if not case.status:
        await stage.judge(arena, case)
        return
    async with running_arena() as other:
        await stage.judge(other, case)
