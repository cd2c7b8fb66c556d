"""Requests under way at once in a region: exact over its POPs, with slots that end when a worker has crashed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from harness.client import until
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server, running_valkey

from edgecache.storage.resident_clock import Clock
from edgecache.tasks import spawn

HOST = ("Host", "a.test")
SITES = """
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin}"
[[sites.rules]]
name = "few"
limits = [{{ concurrency = {most} }}]
"""


@pytest.fixture
def held(origin: OriginDouble) -> asyncio.Event:
    """Until it is set, the origin does not answer for /slow."""
    event = asyncio.Event()
    origin.on("/slow", *[Reply(fields=[("Cache-Control", "no-store")], body=b"x", wait=event) for _ in range(50)])
    origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x"))
    return event


@pytest.fixture
async def clients() -> AsyncIterator[list[Any]]:
    """Connections that are closed after the test."""
    opened: list[Any] = []
    yield opened
    for client in opened:
        client.close()


async def begun(pop: Pop, clients: list[Any], target: str = "/slow") -> Any:
    """A request whose response is not waited for."""
    client = await pop.open()
    clients.append(client)
    await client.request("GET", target, [HOST])
    return client


async def statuses(pop: Pop, count: int, target: str) -> list[int]:
    """Of so many equal requests on one connection."""
    async with pop.client() as client:
        found = []
        for _ in range(count):
            await client.request("GET", target, [HOST])
            found.append((await client.response()).status)
        return found


def under_way(pop: Pop) -> Any:
    """What a POP counts."""
    return pop.worker._rate_limits.concurrency


def slots(valkey: Server) -> list[Any]:
    """All slots in Valkey."""
    return [slot for key in valkey.db.keys("ec:slots:*") for slot in valkey.db.zrange(key, 0, -1)]


def degraded(pop: Pop) -> float:
    """Requests that were limited without the region."""
    series = pop.worker.snapshot().get("edgecache_limit_degraded", {"series": []})["series"]
    return sum(values[0] for _, values in series)


async def test_a_region_counts_exactly(
    origin: OriginDouble, valkey: Server, held: asyncio.Event, clients: list[Any]
) -> None:
    """Forty requests at once over four POPs: as many as the limit reach the origin; later ones when those end."""
    options = {"sites": SITES.format(origin=origin.url, most=5), "regional": valkey.url}
    async with AsyncExitStack() as stack:
        pops = [await stack.enter_async_context(running_pop(origin, Clock(), **options)) for _ in range(4)]
        asked = [await begun(pop, clients) for _ in range(10) for pop in pops]
        answered = [spawn(client.response()) for client in asked]
        await until(lambda: sum(one.done() for one in answered) == 35)
        assert {one.result().status for one in answered if one.done()} == {429}
        assert sum(len(under_way(pop)) for pop in pops) == len(slots(valkey)) == 5
        held.set()
        assert [(await one).status for one in answered].count(200) == 5
        await until(lambda: not slots(valkey))
        assert not any(len(under_way(pop)) for pop in pops)
        assert len(origin.requests) == 5
        assert (await pops[0].get("/slow", HOST)).status == 200
        assert not any(degraded(pop) for pop in pops)


async def test_slots_of_a_crashed_worker_end(
    origin: OriginDouble, valkey: Server, held: asyncio.Event, clients: list[Any]
) -> None:
    """A slot that nobody renews holds for a while; one in use is renewed, also after Valkey has lost it."""
    options = {"sites": SITES.format(origin=origin.url, most=1), "regional": valkey.url}
    async with running_pop(origin, Clock(), **options) as pop, running_pop(origin, Clock(), **options) as other:
        client = await begun(pop, clients)
        await until(lambda: len(slots(valkey)) == 1)
        (key,) = valkey.db.keys("ec:slots:*")
        held_until = valkey.db.zrange(key, 0, -1, withscores=True)[0][1]
        assert 13 <= held_until - time.time() <= 15
        assert (await other.get("/slow", HOST)).status == 429
        valkey.db.delete(key)
        under_way(pop).renew()
        await until(lambda: len(slots(valkey)) == 1)
        assert (await other.get("/slow", HOST)).status == 429
        held.set()
        assert (await client.response()).status == 200
        await until(lambda: not slots(valkey))
        valkey.db.zadd(key, {"crashed:1": time.time() + 10})
        assert (await other.get("/slow", HOST)).status == 429
        valkey.db.zadd(key, {"crashed:1": time.time() - 1})
        assert (await other.get("/slow", HOST)).status == 200


@pytest.mark.parametrize("hour", [-3600, 3600])
async def test_a_step_of_the_clock_of_valkey_locks_nobody_out(
    origin: OriginDouble, valkey: Server, held: asyncio.Event, hour: int
) -> None:
    """Slots of another time are no slots: neither those of an hour ago, nor those of an hour to come."""
    held.set()
    options = {"sites": SITES.format(origin=origin.url, most=1), "regional": valkey.url}
    async with running_pop(origin, Clock(), **options) as pop:
        assert (await pop.get("/slow", HOST)).status == 200
        valkey.db.zadd(
            under_way(pop).name_of(("at once", "a/few/0", "127.0.0.1")), {"before:1": time.time() + 15 + hour}
        )
        assert (await pop.get("/slow", HOST)).status == 200


async def test_without_its_region_a_worker_has_its_share(
    origin: OriginDouble, held: asyncio.Event, clients: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Of four workers, one may have one of four; it is counted, and said once."""
    with running_valkey() as server:
        options = {"sites": SITES.format(origin=origin.url, most=4), "regional": server.url, "workers": 4}
        async with running_pop(origin, Clock(), **options) as pop:
            server.stop()
            first = await begun(pop, clients)
            await until(lambda: len(origin.requests) == 1)
            assert [(await pop.get("/slow", HOST)).status for _ in range(3)] == [429] * 3
            assert degraded(pop) == 4
            held.set()
            assert (await first.response()).status == 200
            await until(lambda: not len(under_way(pop)))
    said = [record.getMessage() for record in caplog.records if "limits requests by itself" in record.getMessage()]
    assert len(said) == 1


async def test_hits_neither_count_nor_wait(
    origin: OriginDouble, valkey: Server, held: asyncio.Event, clients: list[Any]
) -> None:
    """A known head is answered while no more may be under way, and Valkey is not asked; passes are counted."""
    options = {"sites": SITES.format(origin=origin.url, most=1), "regional": valkey.url}
    async with running_pop(origin, **options) as pop:
        held.set()
        for target in ("/", "/slow"):
            assert await statuses(pop, 4, target) == [200] * 4
        held.clear()
        await begun(pop, clients)
        await until(lambda: len(slots(valkey)) == 1)
        before = valkey.db.info("commandstats")["cmdstat_eval"]["calls"]
        assert await statuses(pop, 20, "/") == [200] * 20
        assert valkey.db.info("commandstats")["cmdstat_eval"]["calls"] - before <= 2  # signs of life
        assert await statuses(pop, 3, "/slow") == [429] * 3
        held.set()


async def test_a_client_that_leaves_while_valkey_is_asked(
    origin: OriginDouble, valkey: Server, held: asyncio.Event, clients: list[Any]
) -> None:
    """Its slot is given back, and its request goes nowhere."""
    options = {"sites": SITES.format(origin=origin.url, most=1), "regional": valkey.url}
    async with running_pop(origin, Clock(), **options) as pop:
        held.set()
        assert (await pop.get("/slow", HOST)).status == 200
        await until(lambda: not slots(valkey))
        valkey.db.config_resetstat()
        asked = len(origin.requests)
        valkey.db.client_pause(100, all=True)
        client = await begun(pop, clients)
        await until(lambda: len(under_way(pop)) == 1)
        client.reset()
        await until(lambda: len(under_way(pop)) == 0)
        await until(lambda: "cmdstat_zrem" in valkey.db.info("commandstats"))
        assert not slots(valkey)
        assert (await pop.get("/slow", HOST)).status == 200
        assert len(origin.requests) == asked + 1


async def test_the_region_is_asked_once_for_a_miss_and_not_for_hits(
    origin: OriginDouble, valkey: Server, held: asyncio.Event
) -> None:
    """Two limits of a rule are two slots; a hit with a known head asks for none."""
    held.set()
    text = SITES.format(origin=origin.url, most=5).replace("5 }]", '5 }, { concurrency = 9, by = ["site"] }]')
    async with running_pop(origin, sites=text, regional=valkey.url) as pop:
        asked: list[Any] = []
        region = under_way(pop).region
        ask = region.reply
        region.reply = lambda *command: (asked.append(command), ask(*command))[1]
        assert await statuses(pop, 3, "/slow") == [200] * 3
        assert len(asked) == 3 * 2
        assert await statuses(pop, 1, "/page") == [200]
        asked.clear()
        assert await statuses(pop, 20, "/page") == [200] * 20
        assert len(asked) <= 2 * 2  # until the head is known
