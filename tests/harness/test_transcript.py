"""The case format against a plain relay in the POP's place: what holds, what does not, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.clock import FakeClock
from harness.fault_proxy import running_proxy
from harness.origin import running_origin
from harness.play import Play
from harness.pop import Pop
from harness.transcript import CaseError, read_cases

TRANSCRIPT = """
case relayed-{status}    RFC 9110 §7
  A relay passes {status} on.
  each status: 200 404
    client sends     POST /a "x"
                     X-Date: <now>
    origin is asked  POST /a "x"
                     X-Date: <start>
                     no X-Other
    origin answers   {status} "answer"
                     Set-Cookie: a=1
                     Set-Cookie: b=2
    client receives  {status} "answer"
                     Set-Cookie: a=1
                     Set-Cookie: b=2
                     any Date

case hit    RFC 9111 §4
  A relay is no cache, and the transcript says so.
    client sends     GET /a
    origin answers   200 "one"
                     Cache-Control: max-age=60
  after 5s
    client sends     GET /a
    origin is asked  nothing
    client receives  200 "one"
                     Age: 5
                     Cache-Status says hit
"""


async def played_through_a_relay(tmp_path: Path, text: str) -> list[tuple[str, list[str]]]:
    """Every case in `text`, played against a plain relay: its id, and the lines that do not hold."""
    path = tmp_path / "cases.txt"
    path.write_text(text, encoding="utf-8")
    results = []
    for case in read_cases(path):
        async with running_origin(FakeClock()) as origin, running_proxy(origin.port) as proxy:
            lines = await Play(case, origin, Pop(None, proxy.port, origin.clock)).run()
        results.append((case.id, [line.actual for line in lines if not line.holds]))
    return results


async def test_a_transcript_is_played_and_judged(tmp_path: Path) -> None:
    """A case that a relay fulfils holds; one that asks for a cache fails at the lines that a cache is for."""
    first, second, third = await played_through_a_relay(tmp_path, TRANSCRIPT)

    assert first == ("relayed-200", [])
    assert second == ("relayed-404", [])
    assert third[0] == "hit"
    assert third[1][0].startswith("origin is asked  GET /a")
    assert third[1][1].startswith("client receives  500")
    assert [line.strip() for line in third[1][2:]] == ["no Age", "no Cache-Status  (0 members of this POP)"]


@pytest.mark.parametrize(
    ("statements", "actual"),
    [
        ('origin answers 200 "a"\n client receives 200 "b"', 'client receives  200 "a"'),
        ('origin answers 200 "a"\n client receives 404', 'client receives  200 "a"'),
        ("origin is asked GET /b\n origin answers 200", "origin is asked  GET /a"),
        ("origin is asked GET /a\n X-A: 1\n origin answers 200", "no X-A"),
        ("origin answers 200\n X-A: 1\n client receives 200\n no X-A", "X-A: 1"),
        ("origin answers 200\n X-A: 1\n client receives 200\n X-A matches /2/", "X-A: 1"),
        ("origin answers 200\n a: 1\n B: 2\n client receives 200\n B: 2\n a: 1\n (in this order)", "the order"),
        ('origin answers 200 "abc"\n (cut after 1 bytes by fin)', 'client receives  200 "a"  (the connection'),
        ('origin answers 200 "abc"\n client receives a broken transfer', 'client receives  200 "abc"'),
        ("origin answers interim 103\n origin answers 200\n client receives interim 102", "client receives  103"),
        ("origin answers 200\n client receives interim 102\n client receives 200", "client receives  no further"),
    ],
)
async def test_what_does_not_hold_is_shown_beside_what_was_expected(
    tmp_path: Path, statements: str, actual: str
) -> None:
    """Every kind of expectation fails when it should, and the transcript says what happened instead."""
    text = f"case a RFC 0\n Title.\n client sends GET /a\n {statements}\n"
    ((_, lines),) = await played_through_a_relay(tmp_path, text)

    assert lines[0].strip().startswith(actual)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("client sends GET /", "before the first case"),
        ("case a\n client sends GET /", "a case begins with"),
        ("case a RFC 0\n T.\n client sends GET /", "does not say what the origin is asked"),
        ("case a RFC 0\n T.\n client sends GET /\n origin is asked nothing\n Age 5", "not understood: Age 5"),
        ("case a RFC 0\n T.\n origin answers 200", "belongs to no «client sends»"),
        ("case a RFC 0\n T.\n client sends GET /\n origin answers 200\n (slowly)", "knows no .slowly"),
        ("case a RFC 0\n T.\n after 5s", "no client sends anything"),
    ],
)
def test_a_badly_written_case_is_refused(tmp_path: Path, text: str, error: str) -> None:
    """A case that would check nothing, or not what its writer meant, is an error that names the place."""
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(CaseError, match=error):
        read_cases(path)
