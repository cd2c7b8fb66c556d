"""What clients may ask of the origin beside what is stored: nothing, one question for all, or one for each."""

from __future__ import annotations

import asyncio
import time

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.ranged import RangedOrigin
from harness.valkey import Server

from edgecache.semantics.cache_control import without_wishes
from edgecache.tasks import spawn

NEWER = ("Cache-Control", "no-cache")
SECRET = "a-secret-of-this-fleet"
LARGE = b"x" * 200_000  # lies in chunks in the regional tier


def counting(origin: OriginDouble, gate: asyncio.Event | None = None) -> None:
    """Each answer says how many questions came before it; all but the first wait for `gate`."""

    def answer(_: ReceivedRequest) -> Reply:
        number = len(origin.requests)
        fields = [("Cache-Control", "max-age=60"), ("ETag", f'"{number}"')]
        return Reply(200, fields, b"%d" % number, wait=gate if number > 1 else None)

    origin.otherwise(answer)


async def crowd(pop: Pop, size: int = 20) -> list[asyncio.Task[ReceivedResponse]]:
    """So many clients that want something newer, all waiting."""
    asking = [spawn(pop.get("/page", NEWER), "client") for _ in range(size)]
    await let_others_run(200)
    return asking


async def test_a_crowd_that_wants_something_newer_costs_one_question(origin: OriginDouble) -> None:
    """Collapsed, all who ask while a question is out get its answer, and who comes within the second gets that too."""
    gate = asyncio.Event()
    counting(origin, gate)
    async with running_pop(origin, client_revalidation="collapse") as pop:
        await pop.get("/page")
        pop.clock.advance(10)
        asking = await crowd(pop)
        await origin.request_seen(2)
        pop.clock.advance(5)  # it is slow
        asking += await crowd(pop)
        gate.set()

        assert {response.body for response in await asyncio.gather(*asking)} == {b"2"}
        assert (await pop.get("/page", NEWER)).body == b"2"
    assert len(origin.requests) == 2


async def test_honoured_each_costs_a_question(origin: OriginDouble) -> None:
    """Honoured, each client that wants something newer has a question of its own (RFC 9111 §5.2.1.4)."""
    counting(origin)
    async with running_pop(origin, client_revalidation="honour") as pop:
        await pop.get("/page")
        asking = await crowd(pop, 5)
        await asyncio.gather(*asking)

    assert len(origin.requests) == 6


@pytest.mark.parametrize("reply", [Reply(403), Reply(200, [("Set-Cookie", "a=b")]), Reply(500)])
async def test_a_crowd_behind_an_answer_for_one_has_what_is_stored(origin: OriginDouble, reply: Reply) -> None:
    """Collapsed, an answer that is for its asker alone sends nobody else to the origin: what is stored is fresh."""
    gate = asyncio.Event()
    answers = [Reply(200, [("Cache-Control", "max-age=60")], b"page")]
    origin.otherwise(lambda _: answers.pop(0) if answers else Reply(reply.status, reply.fields, b"one", wait=gate))
    async with running_pop(origin, client_revalidation="collapse") as pop:
        await pop.get("/page")
        pop.clock.advance(10)
        asking = await crowd(pop)
        gate.set()
        bodies = [response.body for response in await asyncio.gather(*asking)]

    assert bodies.count(b"page") >= len(bodies) - 1
    assert len(origin.requests) == 2


@pytest.mark.slow
async def test_collapsed_on_a_clock_that_runs(origin: OriginDouble) -> None:
    """A client that reloads as fast as it can costs the origin no more than one question a second."""
    counting(origin)
    clock = FakeClock()
    began = time.monotonic()
    clock.now += began
    async with running_pop(origin, client_revalidation="collapse") as pop:
        await pop.get("/page")
        asked = 0
        while (ran := time.monotonic() - began) < 2.5:
            pop.clock.now = clock.now + ran
            await pop.get("/page", NEWER)
            asked += 1
        questions, ran = len(origin.requests), time.monotonic() - began

    assert asked > 10
    assert 2 <= questions <= 2 + ran


@pytest.mark.parametrize("weight", ["ignore", "collapse"])
@pytest.mark.parametrize("content", [b"page", LARGE], ids=["inline", "chunks"])
@pytest.mark.parametrize("fields", [[NEWER], [NEWER, ("Range", "bytes=0-1")], [("Pragma", "no-cache")]])
async def test_what_only_the_region_holds(
    origin: OriginDouble, valkey: Server, weight: str, content: bytes, fields: list[tuple[str, str]]
) -> None:
    """A wish for something newer has the same weight against what the regional tier holds, whole or in chunks."""
    origin.otherwise(RangedOrigin(content, '"v1"'))
    settings = {"regional": valkey.url, "max_object_memory": "64KiB"}
    async with running_pop(origin, client_revalidation=weight, **settings) as first:
        await first.caught_up()
        await first.get("/page")
        await first.written()
    async with running_pop(origin, client_revalidation=weight, **settings) as pop:
        await pop.caught_up()
        pop.clock.advance(10)
        for _ in range(5):
            assert (await pop.get("/page", *fields)).status in (200, 206)

    assert len(origin.requests) == (1 if weight == "ignore" else 2)


@pytest.mark.parametrize(("weight", "asked"), [("ignore", 1), ("honour", 3)])
async def test_a_parent_hears_what_its_child_makes_of_it(origin: OriginDouble, weight: str, asked: int) -> None:
    """A wish that a POP ignores does not reach its parent, one that it honours does, whatever the parent's setting."""
    counting(origin)
    async with running_pop(origin, pop="shield", pop_secret=SECRET) as shield:
        parent = f"http://127.0.0.1:{shield.port}"
        settings = {"parents": parent, "pop_secret": SECRET, "client_revalidation": weight}
        async with running_pop(origin, pop="edge", **settings) as edge:
            await shield.get("/page", ("Host", "www.example.test"))
            await edge.get("/page", NEWER)
            await edge.get("/page", NEWER)

    assert len(origin.requests) == asked


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"no-cache", b""),
        (b"no-store, no-cache, max-age=0", b"no-store"),
        (b'x="a, no-cache", MAX-AGE=5 , only-if-cached', b'x="a, no-cache", only-if-cached'),
        (b"max-age=60; no-cache, max-stale=5", b"max-stale=5"),
        (b"", b""),
    ],
)
def test_what_is_left_of_a_field(said: bytes, kept: bytes) -> None:
    """Only the wishes for something newer leave a Cache-Control; what is malformed leaves with them."""
    assert without_wishes(said) == kept
