"""Every way by which a request goes upstream leads to the pool, the target and the Host of its route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop
from harness.purging import BEARER, TOKEN
from harness.site_pools import STORED, Sites, filled, site, sites
from harness.valkey import Server

from edgecache.storage.regional_chunks import CHUNK

TEXT = (
    '[pools.p]\nservers = ["{1}"]\n'
    + site('origin = "{0}"')
    + """[[sites.rules]]
name = "api"
when = { path = "/api/*" }
route = { pool = "p", strip_prefix = "/api", add_prefix = "/v1", host = "inner.test" }
request_headers = { set = { X-Routed = "yes" }, remove = ["X-Gone"] }
"""
)
A = ("Host", "a.test")
BIG = bytes(range(256)) * 3000


@asynccontextmanager
async def routed(**settings: object) -> AsyncIterator[Sites]:
    """A POP whose requests for /api/ go to the second origin. At the end all of them have gone there, as routed."""
    async with sites(TEXT, 2, **settings) as run:
        yield run
        assert run.origins[0].requests == []
        judge(run.origins[1])
        assert run.origins[1].requests


def judge(origin: OriginDouble) -> None:
    """All that it got was routed."""
    for request in origin.requests:
        assert request.target.startswith("/v1/"), request.target
        assert request.all("host") == ["inner.test"]
        assert request.get("x-routed") == "yes"
        assert request.get("x-gone") is None


async def test_misses_heads_and_passes() -> None:
    """Of all methods, with bodies, ranges and conditions, and of heads that are known to be passed on."""
    async with routed() as run:
        target = run.origins[1]
        target.on("/v1/pass", Reply(fields=[("Cache-Control", "no-store")], body=b"pass"))
        for method, path, more in (
            ("GET", "/api/x?q=1", []),
            ("HEAD", "/api/head", []),
            ("GET", "/api/range", [("Range", "bytes=0-3")]),
            ("GET", "/api/if", [("If-Match", '"x"')]),
            ("OPTIONS", "/api/x", []),
            ("POST", "/api/x", []),
            ("DELETE", "/api/x", []),
        ):
            response = await run.pop.request(method, path, A, ("X-Gone", "1"), *more, body=b"b" * (method == "POST"))
            assert response.status == 200
        assert [request.method for request in target.requests] == [
            "GET",
            "GET",  # which serves a HEAD
            "GET",
            "GET",
            "OPTIONS",
            "POST",
            "DELETE",
        ]
        assert target.requests[0].target == "/v1/x?q=1"
        async with run.pop.client() as client:
            for _ in range(6):
                await client.request("GET", "/api/pass", [A])
                assert (await client.response()).body == b"pass"
        assert len(target.requests) == 13


async def test_validations_and_refreshes_behind_the_clients_back() -> None:
    """A stale response is validated; within its window that happens while it is served."""
    async with routed() as run:
        tag = ("ETag", '"v"')
        for path, control in (("/v1/v", "max-age=10"), ("/v1/s", "max-age=10, stale-while-revalidate=60")):
            fields = [("Cache-Control", control), tag]
            run.origins[1].on(path, Reply(fields=fields, body=b"v"), Reply(304, fields))
        for path in ("/api/v", "/api/s"):
            await run.get(path)
        run.pop.clock.advance(11)
        for path in ("/api/v", "/api/s"):
            assert await run.get(path) == b"v"
        await run.origins[1].request_seen(4)
        assert [request.get("if-none-match") for request in run.origins[1].requests] == [None, None, '"v"', '"v"']


async def test_writes_and_what_they_make_stale() -> None:
    """A write through a route makes its own URL, as the client knows it, unusable; a purge by URL does the same."""
    async with routed() as run:
        for _ in range(2):
            await run.get("/api/x")
        await run.pop.request("PUT", "/api/x", A, body=b"new")
        await run.get("/api/x")
        assert run.targets(1) == ["/v1/x"] * 3
        assert [request.method for request in run.origins[1].requests] == ["GET", "PUT", "GET"]


async def test_a_purge_is_of_the_clients_url() -> None:
    """Not of the one that the origin has."""
    async with routed(purge_tokens=f"cms={TOKEN}") as run:
        await run.get("/api/x")
        for url, asked in (("/v1/x", 1), ("/api/x", 2)):
            purged = await run.pop.request("PURGE", url, A, BEARER)
            assert purged.status == 200, purged.body
            await run.get("/api/x")
            assert len(run.origins[1].requests) == asked


async def test_the_rest_of_what_is_stored_in_part() -> None:
    """Only what is missing is asked for, of the same pool."""
    async with routed() as run:
        run.origins[1].on("/v1/big", ranged)
        first = await run.pop.get("/api/big", A, ("Range", "bytes=0-9999"))
        assert first.status == 206
        assert (await run.pop.get("/api/big", A)).body == BIG
        assert {request.get("range") for request in run.origins[1].requests} >= {"bytes=0-9999"}
        assert len(run.origins[1].requests) == 2


async def test_upgrades() -> None:
    """A tunnel leads to the pool."""
    async with routed() as run:
        switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        run.origins[1].on("/v1/ws", Reply(raw=switched, tunnel=True))
        async with run.pop.client() as client:
            await client.request("GET", "/api/ws", [A, ("Connection", "Upgrade"), ("Upgrade", "websocket")])
            assert (await client.response_head()).status == 101


async def test_a_connection_that_ended_costs_no_request() -> None:
    """What met its end is sent again to the same pool, the same way."""
    async with routed() as run:
        run.origins[1].on("/v1/1", Reply(fields=STORED, body=b"1", close=False))
        await run.get("/api/1")
        port = run.origins[1].port
        await run.origins[1].stop()
        run.origins[1].port = port
        await run.origins[1].start()
        assert await run.get("/api/2") == b"1"


def ranged(request: ReceivedRequest) -> Reply:
    """An origin that knows ranges."""
    fields = [("Cache-Control", "max-age=60"), ("ETag", '"1"')]
    wanted = request.get("Range")
    if wanted is None:
        return Reply(fields=fields, body=BIG)
    first, last = wanted.removeprefix("bytes=").split("-")
    end = int(last) + 1 if last else len(BIG)
    return Reply(206, [*fields, ("Content-Range", f"bytes {first}-{end - 1}/{len(BIG)}")], BIG[int(first) : end])


async def test_holes_in_the_regional_tier(valkey: Server) -> None:
    """A chunk that was lost is fetched from the pool, and what the region holds is used by the other POP."""
    region = {"regional": valkey.url, "region": "eu", "regional_timeout": "2s", "max_object_memory": "100KiB"}
    async with routed(pop="one", **region) as run:
        run.origins[1].on("/v1/big", ranged)
        text = filled(TEXT, run.origins)
        async with running_pop(run.origins[0], run.pop.clock, sites=text, pop="two", **region) as two:
            for pop in (run.pop, two):
                await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
            assert await run.get("/api/big") == BIG
            await valkey.has((len(BIG) - 1) // CHUNK + 2)
            tier = two.worker.edge.region.tier
            whole = tier.complete

            async def complete_and_then_lost(*asked: object) -> bool:
                there: bool = await whole(*asked)
                lost = next(key for key in valkey.keys() if key.endswith(b":3"))  # noqa: SIM118
                valkey.db.delete(lost)
                return there

            tier.complete = complete_and_then_lost
            got = await two.get("/api/big", A, ("Range", "bytes=300000-600000"))
            assert (got.status, got.body) == (206, BIG[300_000:600_001])
            assert [request.get("Range") for request in run.origins[1].requests] == [None, f"bytes={3 * CHUNK}-600000"]


async def test_what_a_write_has_changed_is_fetched_for_the_region(valkey: Server) -> None:
    """With `refresh`, from the pool of the route."""
    region = {"regional": valkey.url, "region": "eu", "write_through": "refresh", "write_ack": "all"}
    async with routed(**region) as run:
        await run.pop.caught_up()
        await run.pop.request("PUT", "/api/x", A, body=b"new")
        await run.origins[1].request_seen(2)
        assert [request.method for request in run.origins[1].requests] == ["PUT", "GET"]


async def test_a_slow_request_is_hedged_in_its_pool() -> None:
    """The second server gets the same request."""
    text = TEXT.replace('servers = ["{1}"]', 'servers = ["{1}", "{2}"]\nhedge = true')
    async with sites(text, 3) as run:
        for number in range(64):
            await run.get(f"/api/{number}")
        gate = asyncio.Event()
        for origin in run.origins[1:]:
            slow = Reply(fields=STORED, body=b"x", wait=gate)
            origin.on("/v1/slow", lambda request, slow=slow: slow)
        before = [len(origin.requests) for origin in run.origins]
        asked = asyncio.get_running_loop().create_task(run.get("/api/slow"))
        async with asyncio.timeout(10):
            while sum(len(origin.requests) for origin in run.origins) < sum(before) + 2:
                run.pop.worker._switch.sweep(0.0)
                await let_others_run(5)
        gate.set()
        assert await asked == b"x"
        assert run.origins[0].requests == []
        for origin in run.origins[1:]:
            assert origin.requests[-1].target == "/v1/slow"
            judge(origin)


# --- Host


@pytest.mark.parametrize(
    ("pool", "route", "seen"),
    [
        ("", "", "a.test"),
        ('host = "client"', "", "a.test"),
        ('host = "origin"', "", "origin"),
        ('host = "x.test"', "", "x.test"),
        ('host = "x.test"', "client", "a.test"),
        ('host = "origin"', "client", "a.test"),
        ('host = "origin"', "y.test", "y.test"),
        ("", "origin", "origin"),
        ("", "y.test:8080", "y.test:8080"),
    ],
)
async def test_the_host_that_is_sent(pool: str, route: str, seen: str) -> None:
    """The route's before the pool's; what the origin says of itself is made public, and nothing of another site."""
    rule = f'[[sites.rules]]\nname = "r"\nroute = {{ host = "{route}" }}\n' if route else ""
    text = f'[pools.p]\nservers = ["{{0}}"]\n{pool}\n' + site('pool = "p"') + rule + site('origin = "{1}"', "b")
    async with sites(text, 2, origin_host="elsewhere.test", hosts="a.test,b.test") as run:
        own = run.origins[0].url.partition("://")[2]
        other = run.origins[1].url
        sent = own if seen == "origin" else seen
        run.origins[0].on("/own", Reply(301, [("Location", f"http://{sent}/x")]))
        run.origins[0].on("/other", Reply(301, [("Location", f"{other}/x")]))
        assert (await run.pop.get("/own", A)).get("location") == "http://a.test/x"
        assert (await run.pop.get("/other", A)).get("location") == f"{other}/x"
        assert [request.all("host") for request in run.origins[0].requests] == [[sent]] * 2
        assert run.origins[0].requests[0].get("x-forwarded-host") == "a.test"


# --- parents

FLEET = {"pop_secret": "a-secret-of-this-fleet", "region": "eu"}


@asynccontextmanager
async def fleet(of_parent: str = TEXT, **settings: object) -> AsyncIterator[tuple[Sites, Sites]]:
    """A parent, and its child, which has `TEXT`."""
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(sites(of_parent, 2, pop="shield", **FLEET, **settings))
        url, text = f"http://127.0.0.1:{run.pop.port}", filled(TEXT, run.origins)
        edge = await stack.enter_async_context(
            running_pop(run.origins[0], run.pop.clock, pop="edge", parents=url, sites=text, **FLEET, **settings)
        )
        yield Sites(edge, run.origins), run


async def test_a_child_sends_the_clients_own_target_to_its_parent() -> None:
    """The parent routes it, once; keys and purges agree."""
    async with fleet() as (child, parent):
        for _ in range(2):
            assert await child.get("/api/x?q") == b"1"
        assert await parent.get("/api/x?q") == b"1"
        assert child.targets(1) == ["/v1/x?q"]
        await child.pop.request("POST", "/api/x?q", A, body=b"new")
        assert [request.method for request in child.origins[1].requests] == ["GET", "POST"]
        await child.get("/api/x?q")
        assert child.targets(1) == ["/v1/x?q"] * 3
        judge(child.origins[1])
        assert child.origins[0].requests == []
        assert child.pop.worker._switch.counts.of_parents == 2


@pytest.mark.slow
async def test_past_a_parent_that_is_gone() -> None:
    """The child routes the request itself."""
    async with fleet() as (child, parent):
        await parent.pop.worker.stop()
        assert await child.get("/api/x") == b"1"
        judge(child.origins[1])


async def test_a_parent_without_the_site_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It says 421; the child asks its own pool, counts the failure, and says so in the log once."""
    async with fleet(site('origin = "{0}"', "other")) as (child, _):
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                assert await child.get(f"/api/{number}") == b"1"
        judge(child.origins[1])
        assert child.origins[0].requests == []
        ((labels, (count,)),) = child.pop.worker.snapshot()["edgecache_parent_failures"]["series"]
        assert (dict(labels), count) == ({"reason": "no-site"}, 3)
        assert len([one for one in caplog.messages if "has no site" in one]) == 1
