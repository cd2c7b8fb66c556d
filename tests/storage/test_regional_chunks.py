"""Bodies that lie in chunks in the regional tier: parts of them, their validation, and what happens when it fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.fault_proxy import FaultProxy, running_proxy
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.storage.regional_chunks import CHUNK
from edgecache.tasks import spawn

ETAG = ("ETag", '"1"')
FRESH = ("Cache-Control", "max-age=60")
BIG = os.urandom(1_500_000)
MIB = 1024 * 1024
LAST = (len(BIG) - 1) // CHUNK  # chunk
NAMES = LAST + 2  # of the record and of its chunks


def ranged(request: ReceivedRequest) -> Reply:
    """An origin that validates and knows ranges."""
    if request.get("If-None-Match") == '"1"':
        return Reply(304, [FRESH, ETAG])
    wanted = request.get("Range")
    if wanted is None:
        return Reply(fields=[FRESH, ETAG, ("Content-Type", "text/x")], body=BIG)
    first, last = wanted.removeprefix("bytes=").split("-")
    end = int(last) + 1 if last else len(BIG)
    span = ("Content-Range", f"bytes {first}-{end - 1}/{len(BIG)}")
    return Reply(206, [FRESH, ETAG, span], BIG[int(first) : end])


@asynccontextmanager
async def pops(origin: OriginDouble, url: str, count: int = 2, **settings: object) -> AsyncIterator[list[Pop]]:
    """So many POPs of one region, with memories that take no large bodies."""
    options: dict[str, object] = {"regional": url, "regional_timeout": "2s", "region": "eu", **settings}
    options.setdefault("max_object_memory", "100KiB")
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(running_pop(origin, origin.clock, pop=f"pop{number}", **options))
            for number in range(count)
        ]
        for pop in running:
            await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        yield running


def is_regional(answer: ReceivedResponse) -> bool:
    """Whether the tier has answered."""
    return (answer.get("Cache-Status") or "").startswith("eu/regional; hit")


def chunks_read(pop: Pop) -> list[int]:
    """The numbers of the chunks that `pop` reads from now on."""
    numbers: list[int] = []
    reads = pop.worker.edge.region.tier.bulk
    get = reads.get

    def noting(key: bytes, told: Callable[[bytes | None, str], None]) -> None:
        numbers.append(int(key.rpartition(b":")[2]))
        get(key, told)

    reads.get = noting
    return numbers


@pytest.mark.parametrize(
    ("wanted", "span", "read"),
    [
        ("0-0", (0, 1), [0]),
        ("0-99", (0, 100), [0]),
        (f"{CHUNK - 1}-{CHUNK}", (CHUNK - 1, CHUNK + 1), [0, 1]),
        (f"{CHUNK}-{2 * CHUNK - 1}", (CHUNK, 2 * CHUNK), [1]),
        ("700000-1200000", (700_000, 1_200_001), [5, 6, 7, 8, 9]),
        ("-100", (len(BIG) - 100, len(BIG)), [LAST]),
        ("1499999-", (len(BIG) - 1, len(BIG)), [LAST]),
        ("0-9999999", (0, len(BIG)), [*range(LAST + 1)]),
    ],
)
async def test_a_range_reads_the_chunks_that_hold_it(
    origin: OriginDouble, valkey: Server, wanted: str, span: tuple[int, int], read: list[int]
) -> None:
    """A range is answered out of the tier, from no more chunks than it lies in."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        await valkey.has(NAMES)
        numbers = chunks_read(two)
        got = await two.get("/big", ("Range", f"bytes={wanted}"))

    first, end = span
    assert (got.status, got.body) == (206, BIG[first:end])
    assert got.get("Content-Range") == f"bytes {first}-{end - 1}/{len(BIG)}"
    assert got.get("Content-Type") == "text/x"
    assert is_regional(got)
    assert numbers == read
    assert len(origin.requests) == 1


async def test_what_needs_no_body_reads_none(origin: OriginDouble, valkey: Server) -> None:
    """HEAD, a client that has it already, and a range beyond the end are answered by the record alone."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        await valkey.has(NAMES)
        numbers = chunks_read(two)
        head = await two.request("HEAD", "/big")
        known = await two.get("/big", ("If-None-Match", '"1"'))
        known_range = await two.get("/big", ("If-None-Match", '"1"'), ("Range", "bytes=0-9"))
        beyond = await two.get("/big", ("Range", "bytes=1500000-"))

    assert (head.status, head.get("Content-Length")) == (200, str(len(BIG)))
    assert (known.status, known_range.status) == (304, 304)
    assert (beyond.status, beyond.get("Content-Range")) == (416, f"bytes */{len(BIG)}")
    assert all(map(is_regional, (head, known, known_range, beyond)))
    assert numbers == []
    assert len(origin.requests) == 1


async def test_a_range_of_another_version_gets_the_whole(origin: OriginDouble, valkey: Server) -> None:
    """If-Range names another version: no part of this one is sent."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        await valkey.has(NAMES)
        same = await two.get("/big", ("Range", "bytes=0-9"), ("If-Range", '"1"'))
        origin.on("/big", lambda request: Reply(fields=[FRESH, ETAG], body=BIG))
        other = await two.get("/big", ("Range", "bytes=0-9"), ("If-Range", '"0"'))

    assert (same.status, same.body) == (206, BIG[:10])
    assert (other.status, other.body) == (200, BIG)


async def test_a_range_of_a_purged_or_stale_body_is_asked_of_the_origin(origin: OriginDouble, valkey: Server) -> None:
    """What may not be reused is not reused in part either."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        await valkey.has(NAMES)
        origin.clock.advance(100)
        got = await two.get("/big", ("Range", "bytes=5-9"))

    assert (got.status, got.body) == (206, BIG[5:10])
    assert not is_regional(got)
    assert len(origin.requests) == 2


async def test_a_hole_in_a_range_is_filled_from_the_origin(origin: OriginDouble, valkey: Server) -> None:
    """A chunk is lost while a part of the body is sent: exactly the rest of that part is asked for."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        lose_after_the_look(two, valkey, next(key for key in keys if key.endswith(b":6")))
        got = await two.get("/big", ("Range", "bytes=700000-1200000"))

    assert (got.status, got.body) == (206, BIG[700_000:1_200_001])
    assert [request.get("Range") for request in origin.requests] == [None, "bytes=786432-1200000"]


async def test_a_hole_that_cannot_be_filled_is_seen(origin: OriginDouble, valkey: Server) -> None:
    """There is no strong validator by which the rest may be joined: the answer breaks off, it does not end."""
    origin.on("/big", Reply(fields=[FRESH], body=BIG))
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        lose_after_the_look(two, valkey, next(key for key in keys if key.endswith(b":6")))
        async with two.client() as client:
            await client.request("GET", "/big")
            got = await client.response_or_broken()

    assert got.broken


def lose_after_the_look(pop: Pop, valkey: Server, lost: bytes) -> None:
    """A chunk is evicted when `pop` has looked whether all are there."""
    tier = pop.worker.edge.region.tier
    whole = tier.complete

    async def complete_and_then_evicted(*asked: object) -> bool:
        there = await whole(*asked)
        valkey.db.delete(lost)
        return there

    tier.complete = complete_and_then_evicted


async def test_a_stale_body_is_validated_and_its_chunks_live_on(origin: OriginDouble, valkey: Server) -> None:
    """What is stale is asked about, not fetched: a 304 makes it fresh for the region, chunks and all."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url, 3) as (one, two, three):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        for key in keys:
            valkey.db.pexpire(key, 100_000)
        origin.clock.advance(100)
        got = await two.get("/big")
        for _ in range(1000):
            if min(map(valkey.db.pttl, keys)) > 100_000:
                break
            await let_others_run(1)
        lives = [valkey.db.pttl(key) for key in keys]
        third = await three.get("/big")

    assert (got.body == BIG, third.body == BIG) == (True, True)
    assert [request.get("If-None-Match") for request in origin.requests] == [None, '"1"']
    assert is_regional(third)
    assert third.get("Age") == "0"
    record, *chunks = (life for _, life in sorted(zip(map(len, keys), lives, strict=True)))
    assert min(chunks) > record > 600_000, "a chunk outlives its record"


async def test_a_stale_body_that_has_changed_is_fetched(origin: OriginDouble, valkey: Server) -> None:
    """The origin has another one: that is what is sent, and what lies in the region from then on."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url) as (one, two):
        await one.get("/big")
        await valkey.has(NAMES)
        origin.clock.advance(100)
        new = BIG[::-1]
        origin.on("/big", Reply(fields=[FRESH, ("ETag", '"2"')], body=new))
        got = await two.get("/big")
        await valkey.has(2 * NAMES - 1)  # the old chunks go in their time
        again = await one.get("/big")

    assert (got.body == new, again.body == new) == (True, True)
    assert is_regional(again)
    assert len(origin.requests) == 2


async def test_what_memory_has_validated_lives_on_in_the_region(origin: OriginDouble, valkey: Server) -> None:
    """A worker has the whole in memory and validates that: the region's chunks are good for as long."""
    origin.on("/big", ranged)
    async with pops(origin, valkey.url, max_object_memory="4MiB") as (one, two):
        await one.get("/big")
        keys = await valkey.has(NAMES)
        for key in keys:
            valkey.db.pexpire(key, 100_000)
        origin.clock.advance(100)
        await one.get("/big")
        for _ in range(1000):
            if min(map(valkey.db.pttl, keys)) > 100_000:
                break
            await let_others_run(1)
        got = await two.get("/big")

    assert got.body == BIG
    assert is_regional(got)
    assert [request.get("If-None-Match") for request in origin.requests] == [None, '"1"']


# --- a tier that fails while a body is copied into it


def fails(pop: Pop, proxy: FaultProxy) -> None:
    """The breaker opens: reads were slow."""
    guard = pop.worker.edge.region.tier.guard
    while not guard.open:
        guard.failed("slow")


TROUBLES: dict[str, Callable[[Pop, FaultProxy], None]] = {
    "the breaker opens": fails,
    "the connections are cut": lambda pop, proxy: proxy.reset_all(),
    "nothing passes": lambda pop, proxy: proxy.stall(),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_no_trouble_while_it_is_copied_makes_a_short_body(
    origin: OriginDouble, valkey: Server, trouble: str
) -> None:
    """The copy survives or is given up: whoever asks next, now and later, gets every byte."""
    gate = asyncio.Event()
    origin.on("/big", Reply(fields=[FRESH], body=BIG, pieces=[BIG[:700_000], BIG[700_000:]], gates=[None, gate]))
    async with running_proxy(valkey.port) as proxy:
        url = f"valkey://127.0.0.1:{proxy.port}"
        async with pops(origin, url, 1) as (one,), pops(origin, valkey.url, 1) as (two,):
            asking = spawn(one.get("/big"), "client")
            await origin.request_seen()
            for _ in range(1000):
                if len(valkey.keys()) >= 2:
                    break
                await let_others_run(5)
            TROUBLES[trouble](one, proxy)
            during = spawn(two.get("/big"), "another client")
            await let_others_run(20)
            gate.set()
            origin.on("/big", Reply(fields=[FRESH], body=BIG))
            first = await asking
            proxy.heal()
            others = [await during, *[await pop.get("/big") for pop in (two, one, two)]]

    assert [got.body == BIG for got in (first, *others)] == [True] * 5
    if trouble == "the breaker opens":  # that is no reason to lose the copy
        assert len(origin.requests) == 1


async def test_a_chunk_that_is_refused_takes_its_record_along(origin: OriginDouble, valkey: Server) -> None:
    """The server takes the record but not every chunk: the record goes."""
    origin.on("/big", Reply(fields=[FRESH], body=BIG))
    async with pops(origin, valkey.url) as (one, two):
        tier = one.worker.edge.region.tier
        link, run = tier.guard.link, tier.guard.link.run
        passed: list[bytes] = []
        sent = asyncio.Event()  # the record waits behind its chunks

        async def refusing(commands: list[tuple[bytes, ...]]) -> list[object]:
            if any(is_chunk(command) for command in commands):
                await sent.wait()
            passed.extend(command[1] for command in commands if command[0] == "SET")
            return await run([("NO", "3") if is_chunk(command, b"3") else command for command in commands])

        link.run = refusing
        assert (await one.get("/big")).body == BIG
        sent.set()
        for _ in range(3):  # what is said when the replies are there, too
            await tier.writes.execute(("PING",))
        assert any(key.endswith(b"}") for key in passed)
        assert valkey.keys() == []
        link.run = run
        assert (await two.get("/big")).body == BIG


def is_chunk(command: tuple[object, ...], number: bytes = b"") -> bool:
    """Whether it stores a chunk, or the one of that number."""
    key = command[1] if command[0] == "SET" else b""
    assert isinstance(key, bytes)
    last = key.rpartition(b":")[2]
    return last.isdigit() and number in (b"", last)


async def test_nobody_waits_for_a_laggard(origin: OriginDouble, valkey: Server) -> None:
    """Of several who share a body out of the tier, one that takes nothing gets its rest by reads of its own, whole."""
    big = os.urandom(6 * MIB)
    origin.on("/big", Reply(fields=[FRESH, ETAG], body=big))
    async with pops(origin, valkey.url, regional_max_object="64MiB") as (one, two), two.client() as fast:
        await one.get("/big")
        await valkey.has(1 + len(big) // CHUNK)
        slow = await two.open(receive_buffer=4096)
        await slow.request("GET", "/big")
        await fast.request("GET", "/big")

        assert (await fast.response()).body == big
        assert (await slow.response()).body == big
        slow.close()

    assert len(origin.requests) == 1
