"""The oracles for tables with an `answer`: what the origin says is played, and judged by what comes of it."""

from __future__ import annotations

from harness.client import RawClient, ReceivedResponse
from harness.origin import ReceivedRequest, Reply
from harness.wire import Closed, Truncated

from hostile.arena import CANARY, NO_STORE, Arena, by_target
from hostile.tables import Case

GOOD = b"an answer of the origin's own"


async def judge(arena: Arena, case: Case) -> None:
    """Play `case` and judge it by its kind."""
    oracle = {"bad": is_bad, "whole": is_whole, "either": is_either, "fresh": is_stored, "asks": is_not_stored}
    arena.answer = lambda _: Reply(raw=case.answer)
    try:
        await oracle[case.kind](arena, case)
    finally:
        arena.answer = by_target


async def received(client: RawClient, case: Case) -> ReceivedResponse | None:
    """What the client receives, perhaps broken; None where the connection ends before a whole head."""
    try:
        response = await client.response_or_broken(method_of(case))
    except (Closed, Truncated, ConnectionResetError):
        return None
    check_length(response)
    return response


def method_of(case: Case) -> str:
    """The method of the case's request."""
    return case.data.partition(b" ")[0].decode()


def check_length(response: ReceivedResponse) -> None:
    """Content-Length is said once, as a number, and not where there is no content (RFC 9110 §8.6)."""
    lengths = response.all("content-length")
    assert len(lengths) < 2
    assert all(value.isdigit() for value in lengths)
    if response.status == 204:
        assert lengths == []


async def is_bad(arena: Arena, case: Case) -> None:
    """bad: 502, 504 or a visibly broken transfer; nothing stored; the next request is answered, by its own answer."""
    objects = arena.objects()
    async with arena.pop.client() as client:
        await client.send(case.data, None)
        response = await received(client, case)
        if response is not None and response.broken is None:
            await is_gateway_error(arena, client, case, response)
    assert arena.objects() == objects
    await answered_anew(arena, case)


async def is_gateway_error(arena: Arena, client: RawClient, case: Case, response: ReceivedResponse) -> None:
    """The POP's own 502 or 504, after which the connection goes on."""
    assert response.status in (502, 504), f"{response.status} {response.body[:200]!r}"
    assert response.get("content-type") == "application/problem+json"
    assert response.get("cache-control") == "no-store"
    assert CANARY not in response.head.raw + response.body
    arena.answer = by_target
    await arena.goes_on(client, case, [response])


async def answered_anew(arena: Arena, case: Case) -> None:
    """The next client's same question goes to the origin and gets the origin's answer."""
    asked: list[str] = []

    def anew(request: ReceivedRequest) -> Reply:
        asked.append(request.target)
        return Reply(200, [NO_STORE], GOOD)

    arena.answer = anew
    async with arena.pop.client() as client:
        await client.send(case.data, method_of(case))
        response = await client.response()
    assert response.status == 200
    assert response.body == (b"" if method_of(case) == "HEAD" else GOOD)
    assert len(asked) == 1
    await arena.clean()


async def is_whole(arena: Arena, case: Case) -> None:
    """whole: the client receives this, and what was behind it reaches nobody."""
    async with arena.pop.client() as client:
        await client.send(case.data, None)
        response = await received(client, case)
        assert response is not None
        assert response.broken is None
        assert (response.status, response.body) == case.receives
        assert CANARY not in response.head.raw
        arena.answer = by_target
        await arena.goes_on(client, case, [response])
    async with arena.pop.client() as client:
        await client.send(case.data, method_of(case))
        again = await client.response()
    assert again.status in (200, 204)
    assert CANARY not in again.head.raw + again.body
    await arena.clean()


async def is_either(arena: Arena, case: Case) -> None:
    """either: as `bad`, or what the origin sent, in one well-formed response."""
    async with arena.pop.client() as client:
        await client.send(case.data, None)
        response = await received(client, case)
        if response is not None and response.broken is None and response.status in (502, 504):
            await is_gateway_error(arena, client, case, response)
    await arena.clean()


async def is_stored(arena: Arena, case: Case) -> None:
    """fresh: the origin is asked once, and a second client receives the same, so many seconds later."""
    first, second, asked = await twice(arena, case)
    assert asked == 1
    assert (second.status, second.body) == (first.status, first.body)


async def is_not_stored(arena: Arena, case: Case) -> None:
    """asks: the origin is asked for the second client too, so many seconds later."""
    first, second, asked = await twice(arena, case)
    assert asked == 2
    assert second.status == first.status


async def twice(arena: Arena, case: Case) -> tuple[ReceivedResponse, ReceivedResponse, int]:
    """What two clients receive, one after the other, and how often the origin was asked."""
    before = len(arena.origin.requests)
    responses = []
    for seconds in (0, int(case.status or 0)):
        arena.pop.clock.advance(seconds)
        async with arena.pop.client() as client:
            await client.send(case.data, method_of(case))
            responses.append(await client.response())
    first, second = responses
    return first, second, len(arena.origin.requests) - before
