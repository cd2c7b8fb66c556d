"""Purges end to end: real POPs, a real Valkey, one region and several."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.purging import BEARER, TOKEN, Site, applied, body
from harness.valkey import Server, running_valkey

from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.stream_store import LogStore

HOST = "www.example.test"


@pytest.fixture
def site(origin: OriginDouble) -> Site:
    """The site behind the POPs."""
    return Site(origin)


@asynccontextmanager
async def pops(origin: OriginDouble, valkey: Server, count: int = 2, **settings: object) -> AsyncIterator[list[Pop]]:
    """So many POPs of one region, which have read their log."""
    options: dict[str, object] = {
        "regional": valkey.url,
        "regional_timeout": "2s",
        "region": "eu",
        "purge_tokens": f"cms={TOKEN},shop@shop.example.test=another-token-of-a-shop",
        **settings,
    }
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(running_pop(origin, origin.clock, pop=f"pop{number}", **options))
            for number in range(count)
        ]
        for pop in running:
            await asyncio.wait_for(pop.worker.logs.follower.caught_up.wait(), 5)
        yield running


async def purge(pop: Pop, target: str, *fields: tuple[str, str]) -> ReceivedResponse:
    """A PURGE with a good token."""
    return await pop.request("PURGE", target, BEARER, *fields)


async def test_a_purge_at_one_pop_is_known_at_all(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """By URL: every variant of it, in the memories and in the regional tier; nothing else."""
    async with pops(origin, valkey) as (one, two):
        for pop in (one, two):
            for _ in range(3):
                assert await body(pop, "/a") == await body(pop, "/b") == b"v1"
        site.version = 2
        answer = await purge(one, "/a")
        await applied(one, two)

        assert answer.status == 200
        assert json.loads(answer.body)["id"].startswith("eu:")
        assert await body(two, "/a") == await body(one, "/a") == b"v2"
        assert await body(two, "/b") == await body(one, "/b") == b"v1"


@pytest.mark.parametrize("field", ["Surrogate-Key", "xkey-purge", "Cache-Tag"])
async def test_a_purge_by_tag(site: Site, origin: OriginDouble, valkey: Server, field: str) -> None:
    """As CMS plug-ins send it."""
    async with pops(origin, valkey) as (one, two):
        for pop in (one, two):
            assert await body(pop, "/a1") == await body(pop, "/a2") == await body(pop, "/b") == b"v1"
        site.version = 2
        assert (await purge(two, "/", (field, "a nothing"))).status == 200
        await applied(one, two)

        for pop in (one, two):
            assert await body(pop, "/a1") == await body(pop, "/a2") == b"v2"
            assert await body(pop, "/b") == b"v1"


async def test_tags_are_not_for_clients(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """Unless a setting says so: neither from the origin nor from any tier."""
    async with pops(origin, valkey) as (one, two):
        for pop in (one, one, two, two, two):
            assert "Surrogate-Key" not in [name for name, _ in (await pop.get("/a")).head.fields]
    async with pops(origin, valkey, 1, tag_fields="show") as (one,):
        assert (await one.get("/c")).get("Surrogate-Key") == "c all"
        assert (await one.get("/c")).get("Surrogate-Key") == "c all"


async def test_tags_of_further_fields_in_every_tier(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """What EDGECACHE_TAG_FIELD_NAMES adds is known of what another POP has stored, too; and it stays hidden."""
    site.fields.append(("X-Magento-Tags", "cat_p_1,FPC"))
    async with pops(origin, valkey, tag_field_names="X-Magento-Tags") as (one, two):
        assert await body(one, "/a") == b"v1"
        await one.written()
        answer = await two.get("/a")
        assert (answer.body, answer.get("X-Magento-Tags"), len(origin.requests)) == (b"v1", None, 1)
        site.version = 2
        pattern = ("X-Magento-Tags-Pattern", "((^|,)cat_p_9(,|$))|((^|,)cat_p_1(,|$))")
        assert (await purge(two, "/", pattern)).status == 200
        await applied(one, two)
        assert await body(two, "/a") == await body(one, "/a") == b"v2"


async def test_a_soft_purge_makes_stale(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """What is stored is validated; within stale-while-revalidate it is served meanwhile."""
    async with pops(origin, valkey) as (one, two):
        for pop in (one, two):
            assert await body(pop, "/a") == b"v1"
        asked = len(origin.requests)
        await purge(one, "/a", ("Fastly-Soft-Purge", "1"))
        await applied(one, two)
        assert (await one.get("/a")).body == b"v1"
        assert len(origin.requests) == asked + 1
        assert origin.requests[-1].get("If-None-Match") == '"1"'

        site.fields = [("Cache-Control", "max-age=60, stale-while-revalidate=60")]
        assert await body(one, "/s") == await body(two, "/s") == b"v1"
        site.version = 2
        await purge(one, "/s", ("Fastly-Soft-Purge", "1"))
        await applied(one, two)
        assert await body(one, "/s") == b"v1"
        while await body(one, "/s") != b"v2":
            await let_others_run(5)


STALE_ALLOWED = [
    ("max-age=60", [], 200, "new"),
    ("max-age=60", [("Cache-Control", "max-stale")], 200, "old"),
    ("max-age=60", [("Cache-Control", "max-stale=60")], 200, "old"),
    ("max-age=60, must-revalidate", [("Cache-Control", "max-stale")], 200, "new"),
    ("max-age=60, stale-while-revalidate=60", [], 200, "old"),
    ("max-age=60, stale-while-revalidate=60, must-revalidate", [], 200, "new"),
    ("max-age=60, stale-if-error=60", [], 503, "old"),
    ("max-age=60, stale-if-error=60", [], 200, "new"),
]


@pytest.mark.parametrize(("stored", "fields", "status", "answered"), STALE_ALLOWED)
async def test_a_soft_purge_lets_stale_windows_be(
    origin: OriginDouble, stored: str, fields: list[tuple[str, str]], status: int, answered: str
) -> None:
    """As docs/purging.md says: validated before its next use, unless it may be used stale."""
    control = ("Cache-Control", stored)
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}") as pop:
        origin.otherwise(Reply(200, [control], b"old"))
        for _ in range(3):  # so that its head is known
            await pop.get("/a", *fields)
        origin.otherwise(Reply(status, [control], b"new"))
        await purge(pop, "/a", ("Fastly-Soft-Purge", "1"))

        assert (await pop.get("/a", *fields)).body == answered.encode()


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/a", [], 401),
        ("/a", [("Authorization", "Bearer wrong")], 401),
        ("/a", [("Authorization", f"Basic {TOKEN}")], 401),
        ("/a", [("Authorization", f"Bearer {TOKEN}x")], 401),
        ("/a", [("Fastly-Key", TOKEN[:-1])], 401),
        ("/a", [("Authorization", "Bearer another-token-of-a-shop")], 403),
        ("/a", [BEARER, ("Surrogate-Key", "*")], 400),
        ("/a", [BEARER, ("Surrogate-Key", "")], 400),
        ("/a", [BEARER, ("Surrogate-Key", "x" * 2000)], 400),
        ("/a", [BEARER, ("Surrogate-Key", " ".join(f"t{n}" for n in range(1500)))], 400),
    ],
)
async def test_who_may_not_purges_nothing(
    site: Site, origin: OriginDouble, valkey: Server, target: str, fields: list[tuple[str, str]], status: int
) -> None:
    """Unauthenticated, malformed, oversized or foreign: one clear sentence, nothing removed, nothing in the log."""
    async with pops(origin, valkey, 1) as (one,):
        assert await body(one, target) == b"v1"
        site.version = 2
        answer = await one.request("PURGE", target, *fields)
        assert (answer.status, answer.get("Content-Type")) == (status, "application/problem+json")
        assert json.loads(answer.body)["detail"]
        assert await body(one, target) == b"v1"
        assert valkey.db.xlen("ec:{log}:region:eu") == 1  # its beginning
    assert len(origin.requests) == 1


async def test_wrong_tokens_lock_the_right_one_never_out(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """After ten wrong ones from an address wrong ones are 429; the right one is compared first, and purges."""
    async with pops(origin, valkey, 1) as (one,):
        statuses = [(await one.request("PURGE", "/a", ("Authorization", "Bearer no"))).status for _ in range(11)]
        assert statuses == [401] * 10 + [429]
        assert (await purge(one, "/a")).status == 200
        assert (await one.request("PURGE", "/a", ("Authorization", "Bearer no"))).status == 429


async def test_who_guesses_keeps_nobody_else_out(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """Behind a balancer each client counts for itself, a /64 of IPv6 as one; who brings no token does not guess."""
    async with pops(origin, valkey, 1, trusted_proxies="127.0.0.0/8") as (one,):
        wrong = ("Authorization", "Bearer no")
        for number in range(11):
            guess = await one.request("PURGE", "/a", wrong, ("X-Forwarded-For", f"2001:db8::{number}"))
            assert guess.status == (401 if number < 10 else 429)
            assert (await one.request("PURGE", "/a", ("X-Forwarded-For", "203.0.113.9"))).status == 401

        for address in ("203.0.113.9", "2001:db8:0:1::1"):
            assert (await one.request("PURGE", "/a", BEARER, ("X-Forwarded-For", address))).status == 200


async def test_a_shop_purges_its_own(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """A token of one site does not reach what others have tagged with the same word."""
    async with pops(origin, valkey, 1) as (one,):
        shop = ("Host", "shop.example.test")
        assert await body(one, "/a") == await body(one, "/a", shop) == b"v1"
        site.version = 2
        bearer = ("Authorization", "Bearer another-token-of-a-shop")
        answer = await one.request("PURGE", "/", shop, bearer, ("Surrogate-Key", "all"))
        assert answer.status == 200
        await applied(one)
        assert await body(one, "/a") == b"v1"
        assert await body(one, "/a", shop) == b"v2"


async def test_a_write_is_known_everywhere_before_it_is_answered(
    site: Site, origin: OriginDouble, valkey: Server
) -> None:
    """PUT by one POP, GET by another: new at once, with the token or without it, for all POPs of the region know."""
    async with pops(origin, valkey) as (one, two):
        for pop in (one, two, two):
            assert await body(pop, "/a") == b"v1"
        answer = await one.request("PUT", "/a", body=b"x")
        assert (answer.status, answer.get("Edgecache-Invalidation")) == (200, "region")
        assert await body(two, "/a") == await body(one, "/a") == b"v2"
        token = answer.get("Edgecache-Token")
        assert token.startswith("eu=")
        answer = await one.request("PUT", "/a", body=b"x")
        assert await body(two, "/a", ("Edgecache-Token", answer.get("Edgecache-Token"))) == b"v3"
    assert all(request.get("Edgecache-Token") is None for request in origin.requests)


async def test_a_token_of_the_future_only_asks_the_origin(
    site: Site, origin: OriginDouble, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is harmed by a token that was made up: its bearer gets what the origin says now."""
    monkeypatch.setattr("edgecache.proxy.edge.TOKEN_PATIENCE", 0.05)  # which nothing that comes will end
    async with pops(origin, valkey, 1) as (one,):
        assert await body(one, "/a") == b"v1"
        site.version = 2
        forged = ("Edgecache-Token", "eu=ffffffffffff.99999999999999-0")
        assert await body(one, "/a", forged) == b"v2"
        for nonsense in ("", "eu", "eu=", "=", "x" * 5000, "eu=1.2-3,eu=1.2-3", "\xff"):
            assert await body(one, "/a", ("Edgecache-Token", nonsense)) == b"v2", nonsense


async def test_between_begin_and_end_nothing_old_is_served(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """While a write is under way its target is validated at each use, at every POP."""
    gate = asyncio.Event()

    async def slow(request: ReceivedRequest) -> Reply:
        if request.method == "PUT":
            site.version += 1  # it has taken effect, and is not answered yet
            await gate.wait()
            return Reply(body=b"written")
        return site.reply(request)

    origin.otherwise(slow)
    async with pops(origin, valkey) as (one, two):
        for pop in (one, two):
            assert await body(pop, "/a") == b"v1"
        writing = asyncio.ensure_future(one.request("PUT", "/a", body=b"x"))  # noqa: TID251
        while len(origin.requests) < 2 or not all(pop.worker.edge.log.writes for pop in (one, two)):  # all know of it
            await let_others_run(1)
        assert await body(two, "/a") == await body(one, "/a") == b"v2"
        gate.set()
        assert (await writing).status == 200
        assert await body(two, "/a") == b"v2"


async def test_a_write_that_nobody_ended_invalidates(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """A BEGIN whose POP died is ended by whoever sees that its time is over."""
    async with pops(origin, valkey, 2, write_timeout="1s") as (one, two):
        assert await body(one, "/a") == await body(two, "/a") == b"v1"
        store = one.worker.logs.writer.store
        await one.worker.logs.writer.append(
            Draft(EntryKind.BEGIN, (b"uhttp://" + HOST.encode() + b"/a",), within=0.05, author="dead")
        )
        site.version = 2
        while len(await store.recent("eu", 10)) < 3:
            await let_others_run(5)
        await applied(one, two)
        assert one.worker.edge.log.writes == two.worker.edge.log.writes == 0
        assert await body(one, "/a") == await body(two, "/a") == b"v2"


async def test_a_flushed_valkey_makes_everything_unproven(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """The log is gone, with purges that may be lost: what is stored is validated, and the log begins anew."""
    async with pops(origin, valkey) as (one, two):
        assert await body(one, "/a") == await body(two, "/a") == b"v1"
        await purge(one, "/else")
        await applied(one, two)
        assert await body(one, "/a") == b"v1"
        before = one.worker.edge.log.vector["eu"]
        site.version = 2
        valkey.db.flushall()
        while one.worker.edge.log.vector["eu"] <= before or two.worker.edge.log.vector["eu"] <= before:
            await let_others_run(5)

        assert await body(one, "/a") == await body(two, "/a") == b"v2"
        assert (await purge(one, "/a")).status == 200


async def test_a_pop_that_starts_knows_what_was_purged(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """What lies in the regional tier from before a purge is not served by who has started after it."""
    async with pops(origin, valkey, 1) as (one,):
        assert await body(one, "/a") == await body(one, "/b") == b"v1"
        await valkey.has(2)
        site.version = 2
        assert (await purge(one, "/", ("Surrogate-Key", "a"))).status == 200
    async with pops(origin, valkey, 1) as (one,):
        assert await body(one, "/a") == b"v2"
        assert await body(one, "/b") == b"v1"


async def test_without_the_log_a_purge_is_not_acknowledged(site: Site, origin: OriginDouble) -> None:
    """Nor is a write said to be recorded; it happens all the same, and is known here."""
    with running_valkey() as own:
        async with pops(origin, own, 1) as (one,):
            assert await body(one, "/a") == b"v1"
            own.stop()
            assert (await purge(one, "/a")).status == 503
            answer = await one.request("PUT", "/a", body=b"x")
            assert (answer.status, answer.get("Edgecache-Invalidation")) == (200, "unrecorded")
            assert await body(one, "/a") == b"v2"


async def test_consistent_refuses_a_write_that_nobody_hears_of(site: Site, origin: OriginDouble) -> None:
    """Nothing was sent, and the writer is told so."""
    with running_valkey() as own:
        async with pops(origin, own, 1, cut_off="consistent") as (one,):
            own.stop()
            answer = await one.request("PUT", "/a", body=b"x")
            assert (answer.status, json.loads(answer.body)["reason"]) == (503, "log-unreachable")
    assert not origin.requests


@pytest.mark.parametrize("by", ["url", "tag"])
async def test_a_purge_during_a_fill(site: Site, origin: OriginDouble, valkey: Server, by: str) -> None:
    """The answer that was on its way when the purge came is for who had asked before, and for nobody afterwards."""
    gate = asyncio.Event()
    held = []

    async def slow(request: ReceivedRequest) -> Reply:
        reply = site.reply(request)  # of this version, whatever comes
        if not gate.is_set():
            held.append(request)
            await gate.wait()
        return reply

    origin.otherwise(slow)
    async with pops(origin, valkey) as (one, two):
        early = asyncio.ensure_future(one.get("/a"))  # noqa: TID251
        while not held:
            await let_others_run(1)
        site.version = 2
        assert (await purge(two, "/a", *([("Surrogate-Key", "a")] if by == "tag" else []))).status == 200
        await applied(one, two)
        late = asyncio.ensure_future(one.get("/a"))  # noqa: TID251
        await let_others_run(5)
        gate.set()
        assert (await early).body == b"v1"
        assert (await late).body == b"v2"
        for pop in (one, two, one, two):
            assert await body(pop, "/a") == b"v2"


async def test_clocks_take_no_part(site: Site, origin: OriginDouble, valkey: Server) -> None:
    """One POP's clock is ten minutes behind, the other's ten ahead: purges are as exact as ever."""
    site.fields = [("Cache-Control", "max-age=100000")]
    settings = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu", "purge_tokens": f"cms={TOKEN}"}
    slow, fast = FakeClock(), FakeClock()
    slow.jump(-600)
    fast.jump(600)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running_pop(origin, slow, pop="slow", **settings))
        two = await stack.enter_async_context(running_pop(origin, fast, pop="fast", **settings))
        for version, purger in enumerate((one, two, one, two), start=2):
            for pop in (one, two):
                assert await body(pop, "/a") == b"v%d" % (version - 1)
            site.version = version
            await purge(purger, "/a")
            await applied(one, two)
            for pop in (one, two, one, two):
                assert await body(pop, "/a") == b"v%d" % version


async def test_entries_that_come_at_once_leave_requests_their_turns(origin: OriginDouble, valkey: Server) -> None:
    """A worker reads a thousand of them in one reply, and applies some in each turn of its event loop."""
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        times, turns, over, all_applied = [], [0], asyncio.Event(), asyncio.Event()
        follower, apply = pop.worker.logs.follower, pop.worker.logs.follower._apply

        def count() -> None:
            turns[0] += 1
            if not over.is_set():
                asyncio.get_running_loop().call_soon(count)

        def noted(*row: Any) -> Any:
            times.append(turns[0])
            if len(times) == 300:
                all_applied.set()
            return apply(*row)

        follower._apply = noted
        count()
        drafts = [Draft(scopes=(b"tcrowd-%d" % number,)) for number in range(300)]
        store = follower._store
        await store.link.run([store.append_command(follower._region, draft, 0) for draft in drafts])
        await asyncio.wait_for(all_applied.wait(), 20)
        over.set()
    assert max(times.count(turn) for turn in times) <= 10


async def test_what_proves_nothing_yet_is_no_member_and_what_proves_is_one(
    origin: OriginDouble, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge waits for members: so a worker is one before it uses what lies in the region, however slow that is."""
    report, told = LogStore.report_progress, []

    async def slow(*what: Any, **more: Any) -> None:
        await asyncio.sleep(0.1)
        await report(*what, **more)
        told.append(what)

    monkeypatch.setattr(LogStore, "report_progress", slow)
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        assert told
        assert len(await pop.worker.logs.follower._store.members()) == 1
