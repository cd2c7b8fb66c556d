"""The regional tier end to end: two POPs of one region, real sockets, a real Valkey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.fault_proxy import running_proxy
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult, LeaseWait, _release
from edgecache.storage.regional_chunks import CHUNK

FRESH = ("Cache-Control", "max-age=60")
BIG = os.urandom(1_500_000)
LAST = (len(BIG) - 1) // CHUNK
NAMES = LAST + 2  # of the record and of its chunks
KEY = "00112233445566778899aabbccddeeff" * 2


def cache_status(response: ReceivedResponse) -> list[str]:
    """The members of Cache-Status, one a tier, the farthest first."""
    return (response.get("Cache-Status") or "").split(", ")


@asynccontextmanager
async def pops(origin: OriginDouble, valkey: Server, count: int = 2, **settings: object) -> AsyncIterator[list[Pop]]:
    """So many POPs of one region."""
    options: dict[str, object] = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu", **settings}
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(running_pop(origin, origin.clock, pop=f"pop{number}", **options))
            for number in range(count)
        ]
        for pop in running:
            await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        yield running


async def test_what_one_pop_has_fetched_another_has(origin: OriginDouble, valkey: Server) -> None:
    """The second POP of a region answers without the origin, says so, and with the age of the object."""
    origin.on("/a", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello"))
    async with pops(origin, valkey) as (one, two):
        first = await one.get("/a")
        await valkey.has(1)
        origin.clock.advance(7)
        second = await two.get("/a")

    assert (first.body, second.body) == (b"hello", b"hello")
    assert len(origin.requests) == 1
    assert second.get("Age") == "7"
    assert second.get("ETag") == '"1"'
    assert cache_status(second) == ["eu/regional; hit; ttl=53", "pop1; fwd=uri-miss"]


async def test_the_second_read_rises_to_memory(origin: OriginDouble, valkey: Server) -> None:
    """The first read of a POP is a regional hit, the second too, the third comes from memory."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with pops(origin, valkey) as (one, two):
        await one.get("/a")
        await valkey.has(1)
        results = [cache_status(await two.get("/a"))[0] for _ in range(3)]

    assert [result.split(";")[0] for result in results] == ["eu/regional", "eu/regional", "pop1"]


async def test_a_restarted_pop_is_warm(origin: OriginDouble, valkey: Server) -> None:
    """A POP that starts anew answers what its predecessor fetched."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with pops(origin, valkey, 1) as (one,):
        await one.get("/a")
        await valkey.has(1)
    async with pops(origin, valkey, 1) as (one,):
        assert (await one.get("/a")).body == b"hello"

    assert len(origin.requests) == 1


async def test_variants_are_told_apart(origin: OriginDouble, valkey: Server) -> None:
    """What varies is found by the values of the request that asks, on any POP; nobody gets another's."""

    def by_language(request: ReceivedRequest) -> Reply:
        return Reply(fields=[FRESH, ("Vary", "X-A")], body=(request.get("X-A") or "none").encode())

    origin.on("/a", by_language)
    async with pops(origin, valkey) as (one, two):
        for value in ("1", "2"):
            await one.get("/a", ("X-A", value))
        await valkey.has(3)
        got = [(await two.get("/a", ("X-A", value))).body for value in ("2", "1", "1", "2")]
        third = await two.get("/a", ("X-A", "3"))

    assert got == [b"2", b"1", b"1", b"2"]
    assert third.body == b"3"
    assert len(origin.requests) == 3


async def test_private_answers_stay_out_of_it(origin: OriginDouble, valkey: Server) -> None:
    """What may not be stored never comes near the tier, and followers elsewhere ask for themselves at once."""
    gate = asyncio.Event()
    count = 0

    async def answer(request: ReceivedRequest) -> Reply:
        nonlocal count
        count += 1
        mine = count
        await gate.wait()
        return Reply(fields=[("Cache-Control", "private")], body=b"%d" % mine)

    origin.on("/a", answer)
    async with pops(origin, valkey) as (one, two):
        asking = [asyncio.ensure_future(pop.get("/a")) for pop in (one, two)]  # noqa: TID251
        await origin.request_seen()
        await let_others_run(50)
        gate.set()
        got = await asyncio.gather(*asking)

    assert {one.body for one in got} == {b"1", b"2"}
    assert valkey.keys() == []


async def test_a_crowd_over_all_pops_costs_one_fetch(origin: OriginDouble, valkey: Server) -> None:
    """A thousand clients of four workers ask for one cold object: one question to the origin."""
    gate = asyncio.Event()
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", wait=gate))
    async with pops(origin, valkey, 4, follower_timeout="20s") as workers:
        clients = [await workers[number % 4].open(within=20.0) for number in range(1000)]
        for client in clients:
            await client.request("GET", "/a")
        await origin.request_seen()
        await let_others_run(100)
        gate.set()
        got = await asyncio.gather(*(client.response() for client in clients))
        for client in clients:
            client.close()

    assert {(one.status, one.body) for one in got} == {(200, b"hello")}
    assert len(origin.requests) == 1


async def test_a_leader_that_dies_frees_its_key_with_its_lease(origin: OriginDouble, valkey: Server) -> None:
    """A worker dies while it fetches: who waits elsewhere has a whole answer once the lease has run out."""
    never, replies = asyncio.Event(), 0

    def answer(request: ReceivedRequest) -> Reply:
        nonlocal replies
        replies += 1
        return Reply(fields=[FRESH], body=b"hello", wait=never if replies == 1 else None)

    origin.on("/a", answer)
    async with pops(origin, valkey, regional_lease="300ms") as (one, two):
        client = await one.open()
        await client.request("GET", "/a")
        await origin.request_seen()
        following = asyncio.ensure_future(two.get("/a"))  # noqa: TID251
        await let_others_run(50)
        leases = one.worker.edge.region.tier.leases
        leases._held.clear()  # as if it were dead: it neither renews nor tells
        got = await following
        client.close()

    assert got.body == b"hello"
    assert len(origin.requests) == 2


@pytest.mark.slow
async def test_a_slow_valkey_still_gives_leases(origin: OriginDouble, valkey: Server) -> None:
    """Valkey takes 100 ms for everything and reads are let alone: one fetch for four workers all the same."""
    gate = asyncio.Event()
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", wait=gate))
    origin.otherwise(Reply(fields=[("Cache-Control", "no-store")], body=b"other"))
    async with running_proxy(valkey.port) as proxy:
        url = f"valkey://127.0.0.1:{proxy.port}"
        async with pops(origin, valkey, 4, regional=url, regional_timeout="25ms") as workers:
            proxy.down.latency = 0.1
            guards = [pop.worker.edge.region.tier.guard for pop in workers]
            for number in range(100):
                if all(guard.open for guard in guards):
                    break
                await asyncio.gather(*(pop.get(f"/{number}") for pop in workers))
            assert all(guard.open for guard in guards)
            asked = len(origin.requests)
            asking = [asyncio.ensure_future(pop.get("/a")) for pop in workers for _ in range(5)]  # noqa: TID251
            await origin.request_seen(asked + 1)
            gate.set()
            got = await asyncio.gather(*asking)

    assert {one.body for one in got} == {b"hello"}
    assert len(origin.requests) == asked + 1


async def test_who_has_not_the_lease_gives_nothing_back(origin: OriginDouble, valkey: Server) -> None:
    """A worker whose question for a lease got lost takes nobody else's, and wakes nobody."""
    async with pops(origin, valkey) as (one, two):
        leases, others = one.worker.edge.region.tier.leases, two.worker.edge.region.tier.leases
        held = await leases.take(b"ec:{x}", 5.0)
        waiting = await others.take(b"ec:{x}", 5.0)
        assert isinstance(held, Lease)
        assert isinstance(waiting, LeaseWait)
        heard: list[str] = []
        leases._heard = lambda data: heard.append(str(data))  # type: ignore[method-assign]
        others._commands.send(_release(Lease(b"ec:{x}", b"another"), LeaseResult(LeaseOutcome.GONE)))
        assert await others._commands.execute(("GET", b"ec:{x}:lease")) == held.token
        assert not waiting._told.done()
        leases.release(held, LeaseResult(LeaseOutcome.STORED))
        assert await waiting.result(5.0) == LeaseResult(LeaseOutcome.STORED)
        assert "gone" not in "".join(heard)


async def test_the_leaders_failure_is_everybodys(origin: OriginDouble, valkey: Server) -> None:
    """The origin does not answer: one question, and all workers say so."""
    gate = asyncio.Event()
    origin.on("/a", Reply(cut_head_at=0, cut_by="rst", wait=gate))
    async with pops(origin, valkey) as (one, two):
        asking = [asyncio.ensure_future(pop.get("/a")) for pop in (one, two)]  # noqa: TID251
        await origin.request_seen()
        await let_others_run(100)
        gate.set()
        got = await asyncio.gather(*asking)

    assert {answer.status for answer in got} == {502}
    assert len(origin.requests) <= 2


async def test_stale_objects_are_validated_once_for_the_region(origin: OriginDouble, valkey: Server) -> None:
    """What is stale everywhere is validated by one POP with the tier's ETag; the other has the refreshed one."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("If-None-Match") == '"1"':
            return Reply(304, [FRESH, ("ETag", '"1"')])
        return Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello")

    origin.on("/a", answer)
    async with pops(origin, valkey, 3) as (one, two, three):
        await one.get("/a")
        await valkey.has(1)
        origin.clock.advance(100)
        validated = await two.get("/a")
        for _ in range(200):
            await let_others_run(1)
        third = await three.get("/a")

    assert (validated.body, third.body) == (b"hello", b"hello")
    assert len(origin.requests) == 2
    assert origin.requests[1].get("If-None-Match") == '"1"'
    assert cache_status(third)[0].startswith("eu/regional; hit")


async def test_large_bodies_lie_in_chunks(origin: OriginDouble, valkey: Server) -> None:
    """A body of several chunks comes out of the tier as it went in, and rises to memory if it fits."""
    origin.on("/big", Reply(fields=[FRESH, ("ETag", '"1"')], body=BIG))
    async with pops(origin, valkey) as (one, two):
        assert (await one.get("/big")).body == BIG
        await valkey.has(NAMES)
        second = await two.get("/big")
        again = await two.get("/big")

    assert second.body == BIG
    assert cache_status(second)[0].startswith("eu/regional; hit")
    assert again.body == BIG
    assert cache_status(again)[0].startswith("pop1; hit")
    assert len(origin.requests) == 1


async def test_bodies_larger_than_the_memory_are_kept_too(origin: OriginDouble, valkey: Server) -> None:
    """What memory does not take is streamed into the tier, and out of it, by chunks."""
    origin.on("/big", Reply(fields=[FRESH], body=BIG, framing="chunked", pieces=[BIG[:700_000], BIG[700_000:]]))
    async with pops(origin, valkey, max_object_memory="100KiB") as (one, two):
        assert (await one.get("/big")).body == BIG
        await valkey.has(NAMES)
        bodies = [(await two.get("/big")).body for _ in range(2)]

    assert bodies == [BIG, BIG]
    assert len(origin.requests) == 1


async def test_small_bodies_that_memory_does_not_take_are_kept_too(origin: OriginDouble, valkey: Server) -> None:
    """A body beyond the memory's largest, but small enough for its record."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello" * 100))
    async with pops(origin, valkey, max_object_memory="100B") as (one, two):
        await one.get("/a")
        await valkey.has(1)
        assert [(await two.get("/a")).body for _ in range(3)] == [b"hello" * 100] * 3

    assert len(origin.requests) == 1


async def test_a_hole_in_a_body_is_filled_from_the_origin(origin: OriginDouble, valkey: Server) -> None:
    """A chunk is lost while the body is sent: the rest comes from the origin by Range, the client sees nothing."""

    def answer(request: ReceivedRequest) -> Reply:
        wanted = request.get("Range")
        if wanted is None:
            return Reply(fields=[FRESH, ("ETag", '"1"')], body=BIG)
        first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        span = ("Content-Range", f"bytes {first}-{len(BIG) - 1}/{len(BIG)}")
        return Reply(206, [FRESH, ("ETag", '"1"'), span], BIG[first:])

    origin.on("/big", answer)
    async with pops(origin, valkey) as (one, two):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        tier = two.worker.edge.region.tier
        whole = tier.complete

        async def complete_and_then_evicted(found: object) -> bool:
            there = await whole(found)
            valkey.db.delete(next(key for key in keys if key.endswith(b":6")))
            return there

        tier.complete = complete_and_then_evicted
        got = await two.get("/big")

    assert got.body == BIG
    assert [request.get("Range") for request in origin.requests] == [None, "bytes=786432-"]


@pytest.mark.parametrize("lost", [b":0", b":%d" % LAST, b"}"], ids=["first chunk", "last chunk", "record"])
async def test_a_lost_part_is_a_miss(origin: OriginDouble, valkey: Server, lost: bytes) -> None:
    """A record or a chunk was evicted: the whole is fetched anew, never a short body."""
    origin.on("/big", Reply(fields=[FRESH], body=BIG))
    async with pops(origin, valkey) as (one, two):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        valkey.db.delete(next(key for key in keys if key.endswith(lost)))
        got = await two.get("/big")

    assert got.body == BIG
    assert len(origin.requests) == 2


async def test_a_truncated_answer_is_not_kept(origin: OriginDouble, valkey: Server) -> None:
    """The origin ends a body early: nothing of it is found later."""
    origin.on("/big", Reply(fields=[FRESH], body=BIG, cut_at=900_000))
    async with pops(origin, valkey) as (one, two):
        async with one.client() as client:
            await client.request("GET", "/big")
            assert (await client.response_or_broken()).broken
        await valkey.has(0)
        origin.on("/big", Reply(fields=[FRESH], body=BIG))
        assert (await two.get("/big")).body == BIG


async def test_a_write_deletes_it_from_the_region(origin: OriginDouble, valkey: Server) -> None:
    """An unsafe request through one POP: the tier no longer has what it changed, nor any variant of it."""
    version = 1

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(fields=[FRESH, ("Vary", "X-A")], body=b"%d" % version)

    origin.on("/a", answer)
    async with pops(origin, valkey) as (one, two):
        await one.get("/a", ("X-A", "1"))
        await valkey.has(2)
        version = 2
        await one.request("POST", "/a", body=b"x")
        got = await one.get("/a", ("X-A", "1"))
        await let_others_run(50)
        other = await two.get("/a", ("X-A", "1"))

    assert (got.body, other.body) == (b"2", b"2")


async def test_objects_can_be_encrypted(origin: OriginDouble, valkey: Server) -> None:
    """With a key, nothing readable lies in Valkey, and a POP with another key finds nothing."""
    origin.on("/secret", Reply(fields=[FRESH], body=b"canary" * 20))
    async with pops(origin, valkey, regional_key=KEY) as (one, two):
        await one.get("/secret")
        (key,) = await valkey.has(1)
        value = valkey.db.get(key)
        assert (await two.get("/secret")).body == b"canary" * 20
    async with pops(origin, valkey, 1, regional_key=KEY[::-1]) as (three,):
        assert (await three.get("/secret")).body == b"canary" * 20

    assert b"canary" not in value
    assert b"/secret" not in value
    assert len(origin.requests) == 2


async def test_stale_while_revalidate_out_of_the_region(origin: OriginDouble, valkey: Server) -> None:
    """A stale object within its window is served by a POP that never had it, and refreshed behind the client's back."""
    origin.on("/a", Reply(fields=[("Cache-Control", "max-age=60, stale-while-revalidate=600")], body=b"hello"))
    async with pops(origin, valkey) as (one, two):
        await one.get("/a")
        await valkey.has(1)
        origin.clock.advance(100)
        got = await two.get("/a")
        await origin.request_seen(2)

    assert got.body == b"hello"
    assert cache_status(got)[0] == "eu/regional; hit; ttl=-40"


async def test_stale_if_error_out_of_the_region(origin: OriginDouble, valkey: Server) -> None:
    """The origin is down: a POP that never had the object serves the region's stale copy within its window."""
    origin.on("/a", Reply(fields=[("Cache-Control", "max-age=60, stale-if-error=600")], body=b"hello"))
    async with pops(origin, valkey) as (one, two):
        await one.get("/a")
        await valkey.has(1)
        origin.clock.advance(100)
        origin.on("/a", Reply(503, body=b"no"))
        got = await two.get("/a")

    assert (got.status, got.body) == (200, b"hello")


async def test_conditional_and_range_and_head_requests_are_answered(origin: OriginDouble, valkey: Server) -> None:
    """What the tier holds answers If-None-Match, Range and HEAD as memory does."""
    origin.on("/a", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello"))
    async with pops(origin, valkey) as (one, two):
        await one.get("/a")
        await valkey.has(1)
        same = await two.get("/a", ("If-None-Match", '"1"'))
        part = await two.get("/a", ("Range", "bytes=1-2"))
        head = await two.request("HEAD", "/a")

    assert (same.status, part.status, part.body) == (304, 206, b"el")
    assert (head.status, head.body, head.get("Content-Length")) == (200, b"", "5")
    assert len(origin.requests) == 1
