"""Answers that are not for sharing: nobody waits in line for another's, as long as they keep coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness.client import RawClient, let_others_run
from harness.clock import RunningClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.valkey import Server

FRESH = ("Cache-Control", "max-age=60")
NO_STORE = ("Cache-Control", "no-store")
SIZE = 20  # clients of a crowd


def basic(number: int) -> tuple[str, str]:
    """What a client says of itself."""
    return "Authorization", f"Basic {number}"


@asynccontextmanager
async def waiting(pop: Pop, *many: tuple[tuple[str, str], ...], method: str = "GET") -> AsyncIterator[list[RawClient]]:
    """Clients that have all asked for the page at once, each with fields of its own."""
    clients = [await pop.open() for _ in many]
    try:
        for client, fields in zip(clients, many, strict=True):
            await client.request(method, "/page", list(fields))
        await let_others_run(100)
        yield clients
    finally:
        for client in clients:
            client.close()


def said_back(origin: OriginDouble, gate: asyncio.Event, *fields: tuple[str, str]) -> None:
    """Each gets back what it said of itself, once the gate is open."""

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(200, fields, (request.get("authorization") or "nobody").encode(), wait=gate)

    origin.otherwise(answer)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("fields", [[FRESH], [], [("ETag", '"v"')]], ids=["fresh", "silent", "validator"])
async def test_who_authorizes_waits_in_line_once(
    origin: OriginDouble, fields: list[tuple[str, str]], method: str
) -> None:
    """Once an answer to one who has authorized itself was for it alone, all such ask at once (RFC 9111 §3.5)."""
    gate = asyncio.Event()
    said_back(origin, gate, *fields)
    async with running_pop(origin, origin_connections=2 * SIZE) as pop:
        gate.set()
        await pop.get("/page", basic(99))
        gate.clear()
        for wave in (1, 2):
            async with waiting(pop, *((basic(number),) for number in range(SIZE)), method=method) as clients:
                await origin.request_seen(1 + wave * SIZE)
                gate.set()
                bodies = [(await client.response(method)).body for client in clients]
            gate.clear()
            assert bodies == [f"Basic {number}".encode() if method == "GET" else b"" for number in range(SIZE)]


@pytest.mark.parametrize("marked", [False, True])
async def test_nobody_else_pays_for_it(origin: OriginDouble, marked: bool) -> None:
    """Who does not authorize itself shares one question, whatever comes of those who do, and gets what is stored."""
    gate = asyncio.Event()
    said_back(origin, gate, FRESH)
    async with running_pop(origin) as pop:
        if marked:
            gate.set()
            await pop.get("/page", basic(99))
            gate.clear()
        async with waiting(pop, (basic(1),), *(() for _ in range(SIZE))) as clients:
            await origin.request_seen(2 + marked)
            gate.set()
            bodies = [(await client.response()).body for client in clients]
        assert bodies == [b"Basic 1", *[b"nobody"] * SIZE]
        assert (await pop.get("/page")).body == b"nobody"
        assert (await pop.get("/page", basic(2))).body == b"nobody"  # what is stored is for all (RFC 9111 §4)

    assert len(origin.requests) == 2 + marked


async def test_with_the_regional_tier(origin: OriginDouble, valkey: Server) -> None:
    """Nor do they wait for the region's lease, and the others find what is stored there."""
    gate = asyncio.Event()
    said_back(origin, gate, FRESH)
    settings = {"regional": valkey.url, "regional_timeout": "2s", "origin_connections": 2 * SIZE}
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        gate.set()
        await pop.get("/page", basic(99))
        gate.clear()
        async with waiting(pop, *((basic(number),) for number in range(SIZE))) as clients:
            await origin.request_seen(1 + SIZE)
            gate.set()
            assert len({(await client.response()).body for client in clients}) == SIZE
        await pop.get("/page")
        await pop.written()
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        assert (await pop.get("/page")).body == b"nobody"

    assert len(origin.requests) == 2 + SIZE


async def test_what_is_public_ends_it(origin: OriginDouble) -> None:
    """An answer that says that it is for all is stored, and shared again (RFC 9111 §3.5)."""
    answers = [Reply(200, [FRESH], b"one"), Reply(200, [("Cache-Control", "public, max-age=60")], b"two")]
    origin.otherwise(lambda _: answers.pop(0))
    async with running_pop(origin) as pop:
        assert (await pop.get("/page", basic(1))).body == b"one"
        assert (await pop.get("/page", basic(2))).body == b"two"
        assert not pop.worker.edge.flights.marks
        assert (await pop.get("/page", basic(3))).body == b"two"


UNSHARED = {
    "no-store": [NO_STORE],
    "private": [("Cache-Control", "private")],
    "cookie": [("Set-Cookie", "a=b")],
    "vary": [("Vary", "*"), FRESH],
    "silent": [],
}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("why", UNSHARED)
async def test_a_crowd_never_waits_again(origin: OriginDouble, why: str, framing: str) -> None:
    """Answers that keep saying that they are not for sharing renew the mark: no crowd waits for a leader again."""
    gate = asyncio.Event()
    gate.set()
    origin.otherwise(lambda _: Reply(200, UNSHARED[why], b"page", framing=framing, wait=gate))  # type: ignore[arg-type]
    async with running_pop(origin, origin_connections=2 * SIZE, hit_for_miss="120s") as pop:
        for count in range(1, 5):  # by then the head is known
            await pop.get("/page")
            assert len(origin.requests) == count
            pop.clock.advance(100)
        gate.clear()
        async with waiting(pop, *(() for _ in range(SIZE))) as clients:
            await origin.request_seen(4 + SIZE)
            gate.set()
            assert {(await client.response()).body for client in clients} == {b"page"}


async def test_nor_does_one_that_authorizes(origin: OriginDouble) -> None:
    """The same holds of the mark for who authorizes itself."""
    gate = asyncio.Event()
    gate.set()
    said_back(origin, gate, FRESH)
    async with running_pop(origin, origin_connections=2 * SIZE, hit_for_miss="120s") as pop:
        for _ in range(5):
            await pop.get("/page", basic(1))
            pop.clock.advance(100)
        gate.clear()
        async with waiting(pop, *((basic(number),) for number in range(SIZE))) as clients:
            await origin.request_seen(5 + SIZE)
            gate.set()
            assert len({(await client.response()).body for client in clients}) == SIZE


async def test_a_mark_ends_when_answers_do(origin: OriginDouble) -> None:
    """Without further answers the mark lasts as long as it is set to, and a shareable answer ends it at once."""
    answers = [Reply(200, [NO_STORE]), Reply(200, [NO_STORE]), Reply(200, [FRESH], b"shared")]
    origin.otherwise(lambda _: answers.pop(0))
    async with running_pop(origin, hit_for_miss="120s") as pop:
        flights = pop.worker.edge.flights
        await pop.get("/page")
        pop.clock.advance(100)
        await pop.get("/page")
        (key,) = flights.marks
        pop.clock.advance(119)
        assert flights.marked(key, pop.worker.edge.clock())
        pop.clock.advance(2)
        assert not flights.marked(key, pop.worker.edge.clock())
        await pop.get("/page")
        assert (await pop.get("/page")).body == b"shared"


async def test_long_polls_on_a_clock_that_runs() -> None:
    """Polls that hang for most of the mark's time each renew it: the next ones are at the origin at once."""
    async with running_origin(RunningClock()) as origin:
        gate = asyncio.Event()
        gate.set()
        origin.otherwise(lambda _: Reply(200, [NO_STORE], b"news", wait=gate))
        async with running_pop(origin, origin_connections=2 * SIZE, hit_for_miss="600s") as pop:
            await pop.get("/page")
            for _ in range(3):
                gate.clear()
                async with waiting(pop, *(() for _ in range(SIZE))) as clients:
                    await let_others_run(50)
                    assert len(origin.requests) % SIZE == 1
                    pop.clock.advance(400)  # meanwhile
                    gate.set()
                    for client in clients:
                        await client.response()
