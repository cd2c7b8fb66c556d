"""Limits of rules on a running POP: rates by client, token, path and site, on every way that a request takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.client import until
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, environment, running_pop
from harness.valkey import Server, running_valkey

from edgecache.config.settings import load
from edgecache.storage.resident_clock import Clock

SITES = """
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin}"
[[sites.rules]]
name = "slow-down"
limits = [{limits}]
{more}
"""
HOST = ("Host", "a.test")


def sites(origin: OriginDouble, limits: str, more: str = "") -> str:
    """The site a.test, with one rule that has these limits."""
    return SITES.format(origin=origin.url, limits=limits, more=more)


@pytest.fixture(autouse=True)
def _usual(origin: OriginDouble) -> None:
    origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x"))


async def statuses(pop: Pop, count: int, *fields: tuple[str, str], target: str = "/") -> list[int]:
    """Of so many equal requests on one connection."""
    async with pop.client() as client:
        found = []
        for _ in range(count):
            await client.request("GET", target, [HOST, *fields])
            found.append((await client.response()).status)
        return found


def counted(pop: Pop, name: str) -> dict[tuple[str, ...], float]:
    """A metric's series, by their labels' values."""
    family = pop.worker.snapshot().get(name, {"series": []})
    return {tuple(value for _, value in labels): values[0] for labels, values in family["series"]}


@pytest.mark.parametrize("kind", ["hit", "miss", "pass", "hit-for-miss", "large"])
async def test_every_way_of_a_request_is_counted(origin: OriginDouble, kind: str) -> None:
    """Known hits, hits that are too large for one write, misses, passes, known passes: ten each, and no more."""
    fields = {"hit": "max-age=60", "large": "max-age=60", "hit-for-miss": "private", "miss": "no-store"}
    origin.otherwise(
        Reply(fields=[("Cache-Control", fields.get(kind, "no-store"))], body=b"x" * (300_000 if kind == "large" else 5))
    )
    more = "cache = { store = false }" if kind == "pass" else ""
    async with running_pop(origin, sites=sites(origin, '{ rate = "1/s", burst = 10 }', more)) as pop:
        assert await statuses(pop, 13) == [200] * 10 + [429] * 3
        assert counted(pop, "edgecache_limited") == {("slow-down", "a"): 3}
        origin.clock.advance(2)
        assert await statuses(pop, 3) == [200] * 2 + [429]
        assert (await pop.get("/", ("Host", "b.test"))).status == 421


async def test_what_a_refusal_says(origin: OriginDouble) -> None:
    """Retry-After, RateLimit fields and problem details; nothing of it is stored."""
    async with running_pop(origin, sites=sites(origin, '{ rate = "6/m", burst = 1 }')) as pop:
        assert (await pop.get("/", HOST)).status == 200
        refusal = await pop.get("/", HOST)
        assert refusal.status == 429
        assert refusal.get("retry-after") == "10"
        assert refusal.get("ratelimit-policy") == '"slow-down";q=6;w=60'
        assert refusal.get("ratelimit") == '"slow-down";r=0;t=10'
        assert refusal.get("content-type") == "application/problem+json"
        assert b'"reason":"rate-limited"' in refusal.body
        assert "no-store" in (refusal.get("cache-control") or "")
        origin.clock.advance(10)
        assert (await pop.get("/", HOST)).status == 200


@pytest.mark.parametrize(
    ("by", "alike", "others"),
    [
        ('by = ["token"]', [("Authorization", "Bearer a")], [[("Authorization", "Bearer b")], []]),
        ('by = ["token"], header = "X-Key"', [("X-Key", "a")], [[("X-Key", "b")], []]),
        ('by = ["token"], cookie = "k"', [("Cookie", "x=1; k=a")], [[("Cookie", "k=b")], [("Cookie", "x=1")]]),
        ('by = ["client"]', [("X-Forwarded-For", "192.0.2.1")], [[("X-Forwarded-For", "192.0.2.2")], []]),
        (
            'by = ["client"]',
            [("X-Forwarded-For", "2001:db8::1")],
            [[("X-Forwarded-For", "2001:db8:0:1::1")], [("X-Forwarded-For", "192.0.2.1")]],
        ),
    ],
)
async def test_keys(origin: OriginDouble, by: str, alike: Any, others: Any) -> None:
    """Each key has its own rate, and heads that the fast path knows are counted by theirs."""
    origin.otherwise(Reply(fields=[("Cache-Control", "public, max-age=60")], body=b"x"))
    text = sites(origin, f'{{ rate = "1/s", burst = 4, {by} }}')
    async with running_pop(origin, sites=text, trusted_proxies="127.0.0.0/8") as pop:
        assert await statuses(pop, 6, *alike) == [200] * 4 + [429] * 2
        for fields in others:
            assert await statuses(pop, 6, *fields) == [200] * 4 + [429] * 2
        assert await statuses(pop, 1, *alike) == [429]


async def test_addresses_of_one_ipv6_network_are_one_client(origin: OriginDouble) -> None:
    """A /64 is what one client has."""
    text = sites(origin, '{ rate = "1/s", burst = 4 }')
    async with running_pop(origin, sites=text, trusted_proxies="127.0.0.0/8") as pop:
        for number in range(6):
            found = await statuses(pop, 1, ("X-Forwarded-For", f"2001:db8::{number}"))
            assert found == [200 if number < 4 else 429]


async def test_by_path_and_by_site(origin: OriginDouble) -> None:
    """Two limits together: one that refuses does not use up the other."""
    limits = '{ rate = "1/s", burst = 3, by = ["path"] }, { rate = "1/s", burst = 7, by = ["site"] }'
    async with running_pop(origin, sites=sites(origin, limits)) as pop:
        assert await statuses(pop, 5, target="/1?x=1") == [200] * 3 + [429] * 2
        assert await statuses(pop, 5, target="/2") == [200] * 3 + [429] * 2
        assert await statuses(pop, 2, target="/%32") == [429] * 2
        assert await statuses(pop, 5, target="/3") == [200] + [429] * 4


async def test_the_forwarded_address_of_an_untrusted_peer_is_nothing(origin: OriginDouble) -> None:
    """A client cannot get itself a new rate."""
    async with running_pop(origin, sites=sites(origin, '{ rate = "1/s", burst = 2 }')) as pop:
        found = [await statuses(pop, 1, ("X-Forwarded-For", f"192.0.2.{number}")) for number in range(4)]
        assert found == [[200], [200], [429], [429]]


@pytest.mark.parametrize("end", ["finished", "left", "cut", "upgraded"])
async def test_requests_under_way(origin: OriginDouble, end: str) -> None:
    """Two at once; released when finished, when the client leaves, when it is cut, after a tunnel."""
    held, upgrade = asyncio.Event(), [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    reply = Reply(fields=[("Cache-Control", "no-store")], body=b"xy", wait=held, cut_at=1 if end == "cut" else None)
    if end == "upgraded":
        reply = Reply(
            raw=b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", tunnel=True
        )
    origin.on("/slow", reply)
    async with running_pop(origin, sites=sites(origin, "{ concurrency = 2 }")) as pop:
        concurrency = pop.worker._rate_limits.concurrency
        clients = [await pop.open() for _ in range(2)]
        for client in clients:
            await client.request("GET", "/slow", [HOST, *(upgrade if end == "upgraded" else ())])
            if end == "upgraded":
                assert (await client.response_head()).status == 101
        await until(lambda: len(concurrency) == 2)
        refusal = await pop.get("/", HOST)
        assert refusal.status == 429
        assert refusal.get("ratelimit-policy") == '"slow-down";q=2;qu="concurrent-requests"'
        assert b"too-many-at-once" in refusal.body
        if end in ("left", "upgraded"):
            for client in clients:
                client.reset()
            await until(lambda: not concurrency)
        held.set()
        await until(lambda: not concurrency)
        assert concurrency._under_way == {}
        for _ in range(5):
            assert (await pop.get("/", HOST)).status == 200
        for client in clients:
            client.close()


async def test_bodies(origin: OriginDouble) -> None:
    """An announced body is refused before it is read; a chunked one is cut as it grows; another site is unbounded."""
    more = f"""
[[sites]]
name = "b"
hosts = ["b.test"]
origin = "{origin.url}"
"""
    async with running_pop(origin, sites=sites(origin, '{ body = "1KiB" }') + more) as pop:
        async with pop.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\n\r\n")
            assert (await client.response()).status == 413
        async with pop.client() as client:
            await client.send(
                b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + b"x" * 2048
            )
            assert (await client.response()).status == 413
        assert (await pop.request("POST", "/", HOST, body=b"x" * 1024)).status == 200
        assert (await pop.request("POST", "/", ("Host", "b.test"), body=b"x" * 2048)).status == 200
        assert len(origin.requests) == 2


async def test_a_reload_resets_no_limit(origin: OriginDouble) -> None:
    """What a client has used stays used, as long as its rate is the same."""
    text = sites(origin, '{ rate = "1/s", burst = 3 }')
    async with running_pop(origin, sites=text) as pop:
        assert await statuses(pop, 4) == [200] * 3 + [429]
        await pop.worker.reload(load(environment(origin.url, [("sites", text + "\n")])))
        assert await statuses(pop, 1) == [429]
        await pop.worker.reload(load(environment(origin.url, [("sites", text.replace("burst = 3", "burst = 5"))])))
        assert await statuses(pop, 6) == [200] * 5 + [429]


async def test_workers_of_a_region_share_a_rate(origin: OriginDouble, valkey: Server) -> None:
    """Two POPs: together they admit one burst, and a third sees what both have used."""
    options = {"sites": sites(origin, '{ rate = "6/m", burst = 40 }'), "regional": valkey.url}
    async with running_pop(origin, Clock(), **options) as one, running_pop(origin, Clock(), **options) as two:
        found = [await statuses(pop, 2) for _ in range(25) for pop in (one, two)]
        accepted = sum(status == 200 for pair in found for status in pair)
        assert 40 <= accepted <= 44  # of which two or three on credit; without the region: 80
        assert found[-1] == [429, 429]
        async with running_pop(origin, Clock(), **options) as three:
            first = await statuses(three, 1)  # on credit
            assert first == [200]
            (lease,) = three.worker._rate_limits._buckets._buckets.values()
            await until(lambda: lease.wait(three.clock.now()) > 0)
            assert await statuses(three, 2) == [429, 429]
        assert not counted(one, "edgecache_limit_degraded").get((), 0)


async def test_without_its_region_a_worker_limits_by_itself(
    origin: OriginDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """Valkey dies: requests are limited by the worker, counted, with one warning; the burst goes on, none begins."""
    with running_valkey() as server:
        options = {"sites": sites(origin, '{ rate = "1/h", burst = 10 }'), "regional": server.url}
        async with running_pop(origin, Clock(), **options) as pop:
            assert await statuses(pop, 3) == [200] * 3
            server.stop()
            assert await statuses(pop, 30) == [200] * 7 + [429] * 23
            assert counted(pop, "edgecache_limit_degraded")[()] > 10
    said = [record.getMessage() for record in caplog.records if "limits requests by itself" in record.getMessage()]
    assert len(said) == 1


async def test_heads_that_are_alike_are_counted(origin: OriginDouble) -> None:
    """Each request has a cookie of its own, which keys nothing: hits by what heads have in common count too."""
    async with running_pop(origin, sites=sites(origin, '{ rate = "1/s", burst = 20 }')) as pop, pop.client() as client:
        found = []
        for number in range(25):
            await client.request("GET", "/", [HOST, ("Cookie", f"_ga={number}")])
            found.append((await client.response()).status)
        assert found == [200] * 20 + [429] * 5
        assert len(origin.requests) == 1


async def test_regional_reads_are_counted(origin: OriginDouble, valkey: Server) -> None:
    """What lies in the regional tier only is limited as well, also where the head is known: as fast as they come."""
    options = {"sites": sites(origin, '{ rate = "1/h", burst = 12 }'), "regional": valkey.url}
    async with running_pop(origin, Clock(), max_object_memory="1B", regional_timeout="2s", **options) as pop:
        await pop.caught_up()
        assert await statuses(pop, 40) == [200] * 12 + [429] * 28
