"""More than 16,000 generated cases: one byte in each position of a request, raw or encoded; the grammar is the judge.

Over sockets, many at a time, each on a connection of its own; and without them, where each is also cut in two at
every byte from a little before the odd one (what comes before is the same in all of them).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from functools import cache

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import running_pop
from hostile.arena import Arena
from hostile.generated import POSITIONS, Generated, generate
from hostile.readers import Seen, agreed
from hostile.rig import Bench, Outcome

AT_ONCE = 48  # connections
REFUSED = (b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 505 ")


@cache
def all_cases() -> list[Generated]:
    """Every one, judged when the first is asked for."""
    return list(generate())


def by_position(position: str) -> list[Generated]:
    """The cases of a position."""
    return [case for case in all_cases() if case.position == position]


def check(bench: Bench, case: Generated, outcome: Outcome) -> None:
    """Whether an outcome is what the grammar wants."""
    refused = outcome.status in (400, 501, 505) and outcome.closing
    if case.verdict == "R" or (case.verdict in ("RN", "W") and outcome.status):
        assert refused, f"{case}: {outcome}"
        assert outcome.taken == (), f"{case}: {outcome}"
    elif case.verdict == "W":
        assert outcome == ((), 0, "", False), f"{case}: {outcome}"
    else:
        assert outcome.taken == (case.seen,), f"{case}: {outcome}"
        assert agreed(bench.forwarded()) == [case.seen], f"{case}"


@pytest.mark.parametrize("position", POSITIONS)
async def test_each_byte(position: str) -> None:
    """Each byte in this position is refused or taken as the grammar says; three parsers read alike what is sent on."""
    bench = Bench()
    for case in by_position(position):
        check(bench, case, bench.play(case.data))


@pytest.mark.slow
@pytest.mark.parametrize("position", POSITIONS)
async def test_each_byte_cut_everywhere(position: str) -> None:
    """Each case cut in two at every byte comes to the same as whole; without sockets, which would add nothing."""
    bench = Bench()
    for case in by_position(position):
        data, whole = case.data, bench.play(case.data).gist
        for cut in range(max(1, case.at - 12), len(data)):
            assert bench.play(data[:cut], data[cut:]).gist == whole, f"{case.id} cut at {cut}"


# Over sockets…


async def everything(port: int, data: bytes) -> bytes:
    """All that the POP sends on a connection of its own, after which the client half-closes."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, data)
        received = bytearray()
        while not received.endswith(b"ok") and (piece := await loop.sock_recv(sock, 65536)):
            received += piece
        return bytes(received)


def batches(cases: list[Generated]) -> Iterator[list[Generated]]:
    """The cases, some at a time."""
    for start in range(0, len(cases), AT_ONCE):
        yield cases[start : start + AT_ONCE]


async def send_all(arena: Arena, cases: Iterable[Generated]) -> list[bytes]:
    """What the POP answers to each case, all at the same time; a clean client is served afterwards."""
    answers = await asyncio.wait_for(asyncio.gather(*(everything(arena.pop.port, one.data) for one in cases)), 20)
    await arena.clean()
    return answers


def ok(request: ReceivedRequest) -> Reply:
    """An answer that is not stored and ends in the letters by which `everything` knows its end."""
    return Reply(200, [("Cache-Control", "no-store")], b"ok")


async def judge(arena: Arena, origin: OriginDouble) -> None:
    """Send every case over sockets and judge what came of each batch."""
    await arena.clean()
    arena.answer = ok
    for verdicts in (("R",), ("N",), ("RN",)):
        for batch in batches([case for case in all_cases() if case.verdict in verdicts]):
            before = arena.before()
            answers = await send_all(arena, batch)
            heard = [seen for stream in arena.heard(before) for seen in agreed(stream) if seen.target != b"/next"]
            refused = [answer for answer in answers if answer.startswith(REFUSED)]
            taken = [case.seen for case, answer in zip(batch, answers, strict=True) if answer not in refused]
            assert (arena.refused() - before.refused).total() == len(refused)
            assert all(one.count(b"HTTP/1.1 ") == 1 and b"\r\nConnection: close\r\n" in one for one in refused)
            assert sorted(heard) == sorted(one for one in taken if one is not None)
            assert arena.objects() == before.objects
            assert verdicts == ("RN",) or (len(taken) == 0 if verdicts == ("R",) else len(refused) == 0)


@pytest.mark.slow
async def test_each_byte_over_sockets() -> None:
    """Over sockets: each refusal is one answer and a closed connection, nothing at the origin, counted; others pass."""
    async with running_origin() as origin, running_pop(origin) as pop:
        arena = Arena(pop, origin)
        await judge(arena, origin)
        await arena.close()


def test_there_are_enough_of_them() -> None:
    """At least 6,000, of which the grammar decides nearly all."""
    counts = {verdict: sum(case.verdict == verdict for case in all_cases()) for verdict in ("R", "N", "RN", "W")}

    assert len(all_cases()) == len(POSITIONS) * 512 > 6000
    assert counts["R"] > 6000
    assert counts["N"] > 2500
    assert counts["RN"] + counts["W"] < 0.07 * len(all_cases())
    assert all(isinstance(case.seen, Seen) for case in all_cases() if case.verdict == "N")
