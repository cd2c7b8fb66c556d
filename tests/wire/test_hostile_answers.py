"""Every hand-written answer in `tests/hostile/tables/`: hostile origins, and what may be stored of honest ones.

`tests/hostile/tables/README.md` says what each kind of case demands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hostile import stage
from hostile.arena import Arena, running_arena
from hostile.tables import ANSWERS, STORING, Case, all_cases

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")


def cases(kinds: tuple[str, ...]) -> list[object]:
    """The cases of some kinds as parameters."""
    return [pytest.param(case, id=case.id) for case in all_cases() if case.kind in kinds]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def arena() -> AsyncIterator[Arena]:
    """One POP for the answers of hostile origins: what one leaves behind, the next meets."""
    async with running_arena() as one:
        yield one


@IN_ONE_LOOP
@pytest.mark.parametrize("case", cases(ANSWERS))
async def test_origin(arena: Arena, case: Case) -> None:
    """What is not HTTP is 502, 504 or a broken transfer, stored nowhere and part of no other answer."""
    await stage.judge(arena, case)


@IN_ONE_LOOP
@pytest.mark.parametrize("case", cases(STORING))
async def test_stored(arena: Arena, case: Case) -> None:
    """The second client is answered without the origin exactly where the answer allows it."""
    if not case.status:
        await stage.judge(arena, case)
        return
    async with running_arena() as other:  # time passes, and the cases say what time it is
        await stage.judge(other, case)
