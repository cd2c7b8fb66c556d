"""The project's own table of RFC cases: each transcript in `tests/cases/` is played against a POP in process."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.expect import Found
from harness.play import play
from harness.transcript import Case, read_cases

FILES = sorted((Path(__file__).parent / "cases").glob("*.txt"))
CASES = [case for path in FILES for case in read_cases(path)]


def as_diff(case: Case, lines: list[Found]) -> str:
    """The transcript of a case as a diff: `-` is what was expected, `+` what happened."""
    text = [f"{case.id} ({case.where}): {case.title} [{case.clause}]"]
    for line in lines:
        if line.holds:
            text.append(f"    {line.expected}")
            continue
        text += [f"  - {line.expected}"] * bool(line.expected) + [f"  + {line.actual}"] * bool(line.actual)
    return "\n".join(text)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
async def test_rfc_case(case: Case) -> None:
    """The client receives, and the origin is asked, what the transcript says."""
    lines = await play(case)

    if not all(line.holds for line in lines):
        pytest.fail(as_diff(case, lines), pytrace=False)


def test_ids_are_unique() -> None:
    """No two cases share an id, so that each can be run alone."""
    ids = [case.id for case in CASES]

    assert sorted(set(ids)) == sorted(ids)


def test_every_case_names_its_clause() -> None:
    """A case cites the RFC and its section, or the design's or issue's sentence that demands it."""
    sources = ("RFC ", "DESIGN ", "issue ", "No-Vary-Search")
    unnamed = [case.id for case in CASES if not case.clause.startswith(sources)]

    assert unnamed == []
