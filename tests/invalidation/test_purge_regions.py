"""Purges across regions: three real Valkeys, POPs in each, desks that copy, and fault proxies between them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from harness.client import let_others_run
from harness.fault_proxy import FaultProxy
from harness.origin import OriginDouble
from harness.pop import Pop, environment, running_pop
from harness.purging import BEARER, TOKEN, Site, body
from harness.valkey import Server, running_valkey

from edgecache.config.settings import PurgeToken, load
from edgecache.invalidation.purge_auth import Credentials, PurgeRefused
from edgecache.server.admin.purge_service import RegionPurgeService
from edgecache.telemetry.metrics import Registry

NAMES = ("eu", "us", "ap")
ADMIN = PurgeToken("admin", "x" * 16)


class Region:
    """One region: its Valkey, its POPs, the desk of one of them, and a proxy on each way to another region."""

    def __init__(self, name: str, valkey: Server) -> None:
        self.name = name
        self.valkey = valkey
        self.pops: list[Pop] = []
        self.desk: RegionPurgeService
        self.ways: dict[str, FaultProxy] = {}  # to the Valkeys of the others

    def cut(self, *, latency: float = 0.0) -> None:
        """Nothing is heard of the others any more."""
        for way in self.ways.values():
            way.up.blackhole = way.down.blackhole = True

    def heal(self) -> None:
        """As before."""
        for way in self.ways.values():
            way.heal()


@asynccontextmanager
async def world(
    origin: OriginDouble, names: tuple[str, ...] = NAMES, pops: int = 2, **settings: object
) -> AsyncIterator[dict[str, Region]]:
    """Regions that copy each other's logs, once all their POPs have read them."""
    async with AsyncExitStack() as stack:
        found = {name: Region(name, stack.enter_context(running_valkey())) for name in names}
        for one in found.values():
            for other in found.values():
                if other is not one:
                    way = one.ways[other.name] = FaultProxy(other.valkey.port)
                    await way.start()
                    stack.push_async_callback(way.stop)
            peers = ",".join(f"{name}=valkey://127.0.0.1:{way.port}" for name, way in one.ways.items())
            options: dict[str, object] = {
                "regional": one.valkey.url,
                "region": one.name,
                "peers": peers,
                "regional_timeout": "2s",
                "purge_tokens": f"cms={TOKEN}",
                **settings,
            }
            one.desk = RegionPurgeService(
                load(environment(origin.url, {**options, "pop": f"{one.name}-desk"}.items())), Registry()
            )
            one.desk.start()
            stack.push_async_callback(one.desk.close)
            for number in range(pops):
                name = f"{one.name}-{number}"
                pop = await stack.enter_async_context(running_pop(origin, origin.clock, pop=name, **options))
                one.pops.append(pop)
        await settled(found)
        yield found


async def settled(found: dict[str, Region]) -> None:
    """Wait until every POP has applied all that any region has in its own log."""
    async with asyncio.timeout(20):
        for one in found.values():
            while True:
                top = (await one.desk._writer.store.last_marks([one.name]))[one.name]
                pops = [pop for other in found.values() for pop in other.pops]
                if top and all(pop.worker.edge.log.applied(one.name) == top for pop in pops):
                    break
                await let_others_run(5)


async def purge(region: Region, wait: str = "all", **what: Any) -> tuple[int, dict[str, Any]]:
    """A purge by the desk of one region."""
    caller = region.desk.caller(Credentials(BEARER[1].encode()), "test", 0.0)
    return await region.desk.purge(json.dumps(what).encode(), caller, "test", wait, 10.0)


async def fill(found: dict[str, Region], *targets: str) -> None:
    """Have every POP hold these."""
    for one in found.values():
        for pop in one.pops:
            for target in targets:
                assert await body(pop, target)


def everybody(found: dict[str, Region]) -> list[Pop]:
    """All POPs."""
    return [pop for one in found.values() for pop in one.pops]


@pytest.fixture
def site(origin: OriginDouble) -> Site:
    """The site behind all POPs."""
    return Site(origin)


@pytest.mark.slow
async def test_a_purge_reaches_all_regions(site: Site, origin: OriginDouble) -> None:
    """By tag in one, by URL in another: acknowledged when all have applied it, and reported POP by POP."""
    async with world(origin) as found:
        await fill(found, "/a", "/b")
        site.version = 2
        status, answer = await purge(found["eu"], tags=["a"])
        assert (status, answer["state"]) == (201, "applied")
        for pop in everybody(found):
            assert (await body(pop, "/a"), await body(pop, "/b")) == (b"v2", b"v1")

        status, answer = await purge(found["us"], urls=["http://www.example.test/b"])
        assert status == 201
        assert [await body(pop, "/b") for pop in everybody(found)] == [b"v2"] * 6

        for region in ("us", "ap", "eu"):
            report = await found[region].desk.report(answer["id"], ADMIN)
            assert report["complete"]
            assert {name: sorted(pops) for name, pops in report["regions"].items()} == {
                name: [f"{name}-0", f"{name}-1"] for name in NAMES
            }
            assert all(pop["after_ms"] is not None for pops in report["regions"].values() for pop in pops.values())
        ledger = await found["ap"].desk.ledger(10, ADMIN)
        assert [one["names"] for one in ledger] == [
            ["url http://www.example.test/b", "url https://www.example.test/b"],
            ["tag a"],
        ]
        assert ledger[0]["by"] == "cms (us-desk)"

        site = PurgeToken("site", "x" * 16, ("www.example.test",))
        stranger = PurgeToken("stranger", "y" * 16, ("other.test",))
        ours = await found["ap"].desk.ledger(10, site)
        assert [one["names"] for one in ours] == [["url http://www.example.test/b", "url https://www.example.test/b"]]
        assert (await found["ap"].desk.report(answer["id"], site))["complete"]
        assert await found["ap"].desk.ledger(10, stranger) == []
        with pytest.raises(PurgeRefused) as unknown:
            await found["ap"].desk.report(answer["id"], stranger)
        assert unknown.value.status == 404


@pytest.mark.slow
async def test_a_region_that_is_cut_off_catches_up(site: Site, origin: OriginDouble) -> None:
    """Its purges are pending, and named; after healing it has all of them, and nothing old is served."""
    async with world(origin, pops=1) as found:
        targets = [f"/{number}" for number in range(40)]
        await fill(found, *targets)
        for one in found.values():
            one.cut()
        site.version = 2
        for target in targets:
            assert (await purge(found["eu"], wait="region", urls=[f"http://www.example.test{target}"]))[0] == 201
        status, answer = await purge(found["eu"], tags=["nothing"])
        assert status == 202
        assert sorted(answer["pending"]) == ["ap (unreachable)", "us (unreachable)"]
        assert await body(found["us"].pops[0], "/1") == b"v1"  # available: nobody can know
        for one in found.values():
            one.heal()
        await settled(found)
        for pop in everybody(found):
            assert [await body(pop, target) for target in targets] == [b"v2"] * 40
        assert (await found["us"].desk.report(answer["id"], ADMIN))["complete"]


@pytest.mark.slow
async def test_cut_off_for_longer_than_the_log_is_kept(site: Site, origin: OriginDouble) -> None:
    """What was missed is not known: everything older is validated, and nothing old is served."""
    async with world(origin, ("eu", "us"), pops=1, purge_retention="100") as found:
        await fill(found, "/a", "/b")
        found["us"].cut()
        site.version = 2
        for _ in range(500):
            await found["eu"].desk._writer.append(_draft(b"tnothing"))
        await purge(found["eu"], wait="region", tags=["b"])
        for _ in range(500):
            await found["eu"].desk._writer.append(_draft(b"tnothing"))
        asked = len(origin.requests)
        found["us"].heal()
        await settled(found)
        (pop,) = found["us"].pops
        assert [await body(pop, target) for target in ("/a", "/b")] == [b"v2", b"v2"]
        assert [request.get("If-None-Match") for request in origin.requests[asked:]] == ['"1"', '"1"']


@pytest.mark.slow
async def test_consistent_serves_nothing_unproven(site: Site, origin: OriginDouble) -> None:
    """Cut off for longer than the bound, every use is validated, and says so; other paths stay available."""
    settings = {"cut_off": "consistent", "cut_off_paths": "/news=available", "max_purge_lag": "500ms"}
    async with world(origin, ("eu", "us"), pops=1, **settings) as found:
        await fill(found, "/a", "/news/b")
        (pop,) = found["us"].pops
        found["us"].cut()
        while not pop.worker.edge.invalidation.cut_off:
            await let_others_run(5)
        site.version = 2
        await purge(found["eu"], wait="region", everything=True)
        assert await body(pop, "/a") == b"v2"
        asked = len(origin.requests)
        assert await body(pop, "/a") == b"v2"
        assert len(origin.requests) == asked + 1
        kept = await pop.get("/news/b")
        assert kept.body == b"v1"
        assert "detail=cut-off" in (kept.get("Cache-Status") or "")
        found["us"].heal()
        await settled(found)
        while pop.worker.edge.invalidation.cut_off:
            await let_others_run(5)
        assert await body(pop, "/news/b") == b"v2"
        assert await body(pop, "/a") == b"v2"  # what was asked while nobody could know is asked again
        assert "hit" in ((await pop.get("/a")).get("Cache-Status") or "")


@pytest.mark.slow
async def test_a_log_that_was_rolled_back_begins_anew_everywhere(site: Site, origin: OriginDouble) -> None:
    """A restored old snapshot: acknowledged entries are gone, so nothing that is older is believed, in any region."""
    async with world(origin, ("eu", "us"), pops=1) as found:
        valkey = found["eu"].valkey
        snapshot = valkey.db.dump("ec:{log}:region:eu")
        await fill(found, "/a", "/b")
        site.version = 2
        assert (await purge(found["eu"], tags=["a"]))[0] == 201
        before = found["us"].pops[0].worker.edge.log.applied("eu")
        valkey.db.restore("ec:{log}:region:eu", 0, snapshot, replace=True)
        while any(pop.worker.edge.log.applied("eu") >> 128 == before >> 128 for pop in everybody(found)):
            await let_others_run(5)
        await settled(found)
        assert [await body(pop, "/b") for pop in everybody(found)] == [b"v2", b"v2"]
        site.version = 3
        assert (await purge(found["eu"], tags=["b"]))[0] == 201
        assert [await body(pop, "/b") for pop in everybody(found)] == [b"v3", b"v3"]


@pytest.mark.slow
async def test_a_write_with_its_token_is_new_everywhere_at_once(site: Site, origin: OriginDouble) -> None:
    """PUT by one region, GET by all others with the token; acknowledged by all, without it too."""
    async with world(origin, pops=1, write_ack="all") as found:
        await fill(found, "/a")
        for expected in (b"v2", b"v3"):
            answer = await found["eu"].pops[0].request("PUT", "/a", body=b"x")
            assert answer.get("Edgecache-Invalidation") == "all"
            token = ("Edgecache-Token", answer.get("Edgecache-Token"))
            assert [await body(pop, "/a", token) for pop in everybody(found)] == [expected] * 3
            assert [await body(pop, "/a") for pop in everybody(found)] == [expected] * 3


@pytest.mark.slow
async def test_regions_need_no_full_mesh(site: Site, origin: OriginDouble) -> None:
    """Hub and spoke: what one spoke purges, the other hears of by way of the hub."""
    async with world(origin, pops=1) as found:
        await fill(found, "/a")
        for one, other in (("us", "ap"), ("ap", "us")):
            found[one].ways[other].up.blackhole = True
        site.version = 2
        await purge(found["us"], wait="region", tags=["a"])
        await settled(found)
        assert [await body(pop, "/a") for pop in everybody(found)] == [b"v2"] * 3


@pytest.mark.slow
async def test_bad_purges_are_refused_with_one_sentence(origin: OriginDouble) -> None:
    """Malformed, foreign or oversized: nothing is recorded."""
    async with world(origin, ("eu",), pops=1) as found:
        desk = found["eu"].desk
        caller = desk.caller(Credentials(BEARER[1].encode()), "test", 0.0)
        bad = [b"", b"[]", b"{}", b'{"tags": "a"}', b'{"tag": ["a"]}', b'{"urls": ["/a"]}', b'{"urls": ["ftp://a/"]}']
        bad += [b'{"tags": [""]}', b'{"tags": ["*"]}', b'{"everything": 1}', b'{"soft": true}', b'{"prefixes": ["/a"]}']
        bad += [b'{"hosts": ["a b"]}', b'{"urls": ["http://a/\\n"]}', json.dumps({"tags": ["x"] * 1001}).encode()]
        for one in bad:
            with pytest.raises(PurgeRefused) as refused:
                await desk.purge(one, caller, "test", "none", 1.0)
            assert refused.value.status == 400, one
            assert "\n" not in str(refused.value)
        assert not await desk.ledger(10, ADMIN)
        for number in ("", "eu", "eu:1.2-3", "xx:1.2-3", "eu:zz", "eu:1.1-1/../"):
            with pytest.raises(PurgeRefused) as refused:
                await desk.report(number, ADMIN)
            assert refused.value.status == 404


def _draft(scope: bytes) -> Any:
    from edgecache.invalidation.log_entry import Draft

    return Draft(scopes=(scope,), author="test")


@pytest.mark.slow
async def test_a_write_refreshes_all_regions(site: Site, origin: OriginDouble) -> None:
    """With `refresh` the origin is asked once after a write, and every POP of every region has it from its own tier."""
    async with world(origin, pops=1, write_through="refresh", write_ack="all") as found:
        await fill(found, "/a")
        asked = len(origin.requests)
        answer = await found["eu"].pops[0].request("PUT", "/a", ("Cookie", "secret=1"), body=b"x")
        assert answer.status == 200
        for one in found.values():
            while not any(b"v2" in (one.valkey.db.get(key) or b"") for key in one.valkey.keys()):  # noqa: SIM118
                await let_others_run(5)
        assert [await body(pop, "/a") for pop in everybody(found)] == [b"v2"] * 3
        assert [request.method for request in origin.requests[asked:]] == ["PUT", "GET"]
        assert origin.requests[-1].get("Cookie") is None


@pytest.mark.slow
async def test_links_that_break_all_the_time(site: Site, origin: OriginDouble) -> None:
    """Connections between regions are reset, cut one way, healed, again and again, while two regions purge.

    Entries come late, twice and by different ways; afterwards every POP has all of them, and serves nothing old.
    """
    chance = random.Random(1)
    async with world(origin, pops=1) as found:
        targets = [f"/{number}" for number in range(60)]
        await fill(found, *targets)
        site.version = 2
        for number, target in enumerate(targets):
            region = found["eu" if number % 2 else "ap"]
            assert (await purge(region, wait="region", urls=[f"http://www.example.test{target}"]))[0] == 201
            for way in [way for one in found.values() for way in one.ways.values()]:
                fate = chance.random()
                if fate < 0.3:
                    way.reset_all()
                elif fate < 0.4:
                    (way.up if fate < 0.35 else way.down).blackhole = True
                elif fate < 0.6:
                    way.heal()
        for one in found.values():
            one.heal()
        await settled(found)
        for pop in everybody(found):
            assert [await body(pop, target) for target in targets] == [b"v2"] * 60
