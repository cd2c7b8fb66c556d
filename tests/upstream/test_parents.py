"""Parents: who owns an object, who stands in, what survives the hop, and what only POPs may say."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from harness.client import let_others_run, until
from harness.fault_proxy import running_proxy
from harness.origin import OriginDouble, ReceivedRequest, Reply, hang
from harness.parents import SECRET, Chain, answered, chain, parents_of
from harness.pop import DEFAULTS, Pop, refusing_port, running_pop
from harness.ports import free_port
from harness.valkey import Server

from edgecache.config.settings import load
from edgecache.invalidation.purge_log import EntryKind, LogEntry
from edgecache.invalidation.version_vector import Vector, incarnation, mark
from edgecache.semantics.errors import ConfigError
from edgecache.upstream.peering import Parental

FRESH = ("Cache-Control", "max-age=60")
NO_STORE = ("Cache-Control", "no-store")
ONE = incarnation(1, 7)
LONG_AGO = "Mon, 14 Nov 2022 22:13:20 GMT"


# --- the way of a question


async def test_a_miss_goes_through_the_parent_and_is_kept_by_both(origin: OriginDouble) -> None:
    """Another edge finds it at the shield; each tier says what it did."""
    origin.on("/a", Reply(200, [FRESH], b"content"))
    async with chain(origin, edges=2) as one:
        first = await one.edges[0].get("/a")
        again = await one.edges[0].get("/a")
        other = await one.edges[1].get("/a")
    assert {response.body for response in (first, again, other)} == {b"content"}
    assert first.get("Cache-Status") == (
        "shield-0; fwd=uri-miss; fwd-status=200; stored, edge-0; fwd=uri-miss; fwd-status=200; stored"
    )
    assert (other.get("Cache-Status") or "").startswith("shield-0; hit; ttl=")
    assert len(origin.requests) == 1


async def test_the_age_goes_on_from_tier_to_tier(origin: OriginDouble) -> None:
    """What has lain in the shield is as old at the edge."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, edges=2) as one:
        await one.edges[0].get("/a")
        origin.clock.advance(40)
        assert (await one.edges[1].get("/a")).get("Age") == "40"
        origin.clock.advance(15)
        assert (await one.edges[1].get("/a")).get("Age") == "55"
        origin.clock.advance(10)
        assert len(origin.requests) == 1
        await one.edges[1].get("/a")
        assert len(origin.requests) == 2


METADATA = [
    ("CDN-Cache-Control", "max-age=600"),
    ("Cache-Control", "max-age=5"),
    ("Surrogate-Control", "max-age=300"),
    ("Surrogate-Key", "red blue"),
    ("Cache-Tag", "green"),
    ("Cache-Groups", '"group"'),
    ("ETag", '"v1"'),
    ("X-Own", "kept"),
]


async def test_what_the_origin_says_of_its_answer_survives_every_hop(origin: OriginDouble) -> None:
    """Directives, tags, validators, anything else: on a miss and on a hit of the parent."""
    origin.otherwise(Reply(200, METADATA, b"x"))
    async with chain(origin, edges=2, tag_fields="show") as one:
        for edge in one.edges:
            response = await edge.get("/a")
            for name, value in METADATA:
                assert response.get(name) == value, name
            entry, _ = edge.worker.edge.memory.lookup(b"http://www.example.test/a", load_fields())
            assert set(entry.tags) == {b"red", b"blue", b"green", b"group"}
            assert entry.lifetime == 600


def load_fields() -> Any:
    """No fields."""
    from edgecache.semantics.message import Fields

    return Fields(())


async def test_clients_never_see_what_pops_tell_each_other(origin: OriginDouble) -> None:
    """Not on a miss, a hit, a pass, an error, nor what the origin says in their place."""
    lies = [("Edgecache-Seen", "eu=1.0-0"), ("Edgecache-Tags", "forged")]
    origin.on("/hit", Reply(200, [FRESH, *lies], b"x"))
    origin.on("/pass", Reply(200, [NO_STORE, *lies], b"x"))
    origin.on("/error", Reply(503, lies, b"x"))
    async with chain(origin) as one:
        for target in ("/hit", "/hit", "/pass", "/pass", "/error", "/none"):
            for pop in (one.edge, one.shields[0]):
                response = await pop.get(target)
                assert not [name for name, _ in response.fields if name.lower().startswith("edgecache")], target


async def test_a_large_body_streams_through_the_chain(origin: OriginDouble) -> None:
    """The first half reaches the client while the origin still holds back the second."""
    gate = asyncio.Event()
    half = b"x" * 300_000
    origin.on("/big", Reply(200, [FRESH], pieces=[half, half], gates=[None, gate]))
    async with chain(origin) as one, one.edge.client() as client:
        await client.request("GET", "/big")
        reading = asyncio.ensure_future(client.response())  # noqa: TID251 (the test's own)
        while len(client.progress) < 200_000:
            await let_others_run()
        gate.set()
        assert (await reading).body == half * 2


async def test_a_thousand_clients_of_two_edges_are_one_question_to_the_origin(origin: OriginDouble) -> None:
    """One flight per POP, and one more at the shield."""
    gate = asyncio.Event()
    origin.on("/a", Reply(200, [FRESH], b"x", wait=gate))
    async with chain(origin, edges=2) as one:
        asking = [asyncio.ensure_future(edge.get("/a")) for edge in one.edges for _ in range(50)]  # noqa: TID251
        await origin.request_seen()
        gate.set()
        assert {response.body for response in await asyncio.gather(*asking)} == {b"x"}
    assert len(origin.requests) == 1


async def test_each_object_has_one_owner_whichever_edge_asks(origin: OriginDouble) -> None:
    """Three shields, two edges, forty objects: forty questions to the origin, shared out."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, shields=3, edges=2) as one:
        for number in range(40):
            for edge in one.edges:
                assert (await edge.get(f"/{number}")).status == 200
        assert len(origin.requests) == 40
        held = [len(shield.worker.edge.memory) for shield in one.shields]
        assert sum(held) == 40
        assert min(held) >= 4


async def test_only_if_cached_goes_no_further_than_the_pop_that_is_asked(origin: OriginDouble) -> None:
    """It is a way to see what a tier holds."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin) as one:
        assert (await one.get("/a", ("Cache-Control", "only-if-cached"))).status == 504
        assert answered(one.shields[0]) == 0
        await one.shields[0].get("/a")
        assert (await one.get("/a", ("Cache-Control", "only-if-cached"))).status == 504
        await one.get("/a")
        assert (await one.get("/a", ("Cache-Control", "only-if-cached"))).status == 200


async def test_a_stale_object_is_validated_through_the_parent(origin: OriginDouble) -> None:
    """One 304 for both tiers."""
    origin.on("/a", Reply(200, [FRESH, ("ETag", '"1"')], b"x"), Reply(304, [FRESH, ("ETag", '"1"')], framing="none"))
    async with chain(origin) as one:
        await one.get("/a")
        origin.clock.advance(70)
        response = await one.get("/a")
        assert (response.status, response.body) == (200, b"x")
        assert [request.get("If-None-Match") for request in origin.requests] == [None, '"1"']
        assert (await one.get("/a")).get("Age") == "0"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_unsafe_methods_go_straight_to_the_origin_and_once(origin: OriginDouble, method: str) -> None:
    """Whatever becomes of them, and the parent never sees them."""
    origin.on("/good", Reply(200, [NO_STORE], b"done"))
    origin.on("/bad", Reply(cut_head_at=0))
    async with chain(origin, shields=2) as one:
        assert (await one.edge.request(method, "/good", body=b"x")).status == 200
        assert (await one.edge.request(method, "/bad", body=b"x")).status == 502
        assert [answered(shield) for shield in one.shields] == [0, 0]
    assert [request.target for request in origin.requests] == ["/good", "/bad"]
    assert all(request.get("CDN-Loop") == "edge-0" for request in origin.requests)


# --- loops


async def test_a_loop_of_two_parents_is_answered_508(origin: OriginDouble) -> None:
    """Within one hop of the repeat; the origin is not asked."""
    port = free_port()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(
            running_pop(origin, pop="one", pop_secret=SECRET, parents=f"http://127.0.0.1:{port}")
        )
        two = await stack.enter_async_context(
            running_pop(origin, pop="two", pop_secret=SECRET, parents=f"http://127.0.0.1:{one.port}")
        )
        async with running_proxy(two.port) as way:
            await way.stop()
            way.port = port
            await way.start()
            response = await one.get("/a")
    assert response.status == 508
    assert not origin.requests


async def test_who_forges_a_loop_harms_only_itself(origin: OriginDouble) -> None:
    """Its answer is its own: nobody who waits for the same object gets it, and the parent stays well."""
    gate = asyncio.Event()
    origin.otherwise(Reply(200, [FRESH], b"x", wait=gate))
    async with chain(origin) as one:
        for number in range(8):
            assert (await one.get(f"/{number}", ("CDN-Loop", "shield-0"))).status == 508
        assert not origin.requests
        gate.set()
        assert (await one.get("/a")).status == 200
        assert one.parents.bypass.asked == 0


# --- failures


async def test_a_dead_parent_is_stood_in_for_by_the_next(origin: OriginDouble) -> None:
    """Nobody notices; after five failures it is not asked any more."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin, shields=2) as one:
        await one.ways[0].stop()
        statuses = [(await one.get(f"/{number}")).status for number in range(40)]
        assert statuses == [200] * 40
        assert one.parents.members[0].health.breaker.opened == 1
        assert one.parents.bypass.asked == 0
        assert len(origin.requests) == 40


async def test_without_any_parent_the_origin_is_asked_a_few_at_a_time(origin: OriginDouble) -> None:
    """The whole shield tier is down: nothing fails, and the origin never sees more at once than it should."""
    gate, now, most = asyncio.Event(), 0, 0

    async def slow(request: ReceivedRequest) -> Reply:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.wait()
        now -= 1
        return Reply(200, [NO_STORE], b"x")

    origin.otherwise(slow)
    async with chain(origin, shields=2, parent_bypass=4) as one:
        for way in one.ways:
            await way.stop()
        asking = [asyncio.ensure_future(one.get(f"/{number}")) for number in range(20)]  # noqa: TID251
        await until(lambda: one.parents.bypass.waiting == 16 and now == 4)
        assert most == 4
        gate.set()
        assert [response.status for response in await asyncio.gather(*asking)] == [200] * 20
    assert most == 4
    assert len(origin.requests) == 20


async def test_a_parent_that_comes_back_gets_its_share_little_by_little(origin: OriginDouble) -> None:
    """A cold shield does not send all that it owns to the origin at once."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin, shields=2) as one:
        await one.ways[0].stop()
        for number in range(30):
            await one.get(f"/{number}")
        await one.ways[0].start()
        one.now += 40
        before = answered(one.shields[0])
        for number in range(40):
            await one.get(f"/{number}")
        early = answered(one.shields[0]) - before
        one.now += 20
        for number in range(40):
            await one.get(f"/{number}")
        late = answered(one.shields[0]) - before - early
        assert early <= 10
        assert late >= 12


async def test_what_a_parent_could_not_ask_itself_is_asked_past_it(origin: OriginDouble) -> None:
    """Its way to the origin is cut, this POP's is not: the client does not notice, the parent is not blamed."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin, parents={"origin": f"http://127.0.0.1:{refusing_port()}"}) as one:
        for number in range(8):
            assert (await one.get(f"/{number}")).status == 200
        assert one.parents.bypass.asked == 8
        assert one.parents.members[0].health.breaker.opened == 0


async def test_an_error_that_came_from_the_origin_is_not_asked_again(origin: OriginDouble) -> None:
    """Neither of another parent nor past them: three tiers would multiply a storm."""
    origin.otherwise(Reply(503, [NO_STORE], b"down"))
    async with chain(origin, shields=2) as one:
        for number in range(20):
            response = await one.get(f"/{number}")
            assert (response.status, response.body) == (503, b"down")
        assert len(origin.requests) == 20
        assert all(member.health.breaker.opened == 0 for member in one.parents.members)


async def test_a_silent_parent_is_given_up(origin: OriginDouble) -> None:
    """It takes questions, and checks, and says nothing: another gets the question; the first is known to be ill."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin, shields=2) as one:
        owner = await first_asked(one)
        one.ways[owner].stall()
        asking = asyncio.ensure_future(one.get("/owned"))  # noqa: TID251
        await until(lambda: one.parents.members[owner].attempts != set())
        await silence(one)
        assert (await asking).status == 200
        assert answered(one.shields[1 - owner]) >= 1


async def test_a_single_silent_parent_is_passed(origin: OriginDouble) -> None:
    """The origin is asked."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin) as one:
        assert (await one.get("/a")).status == 200
        one.ways[0].stall()
        asking = asyncio.ensure_future(one.get("/b"))  # noqa: TID251
        await until(lambda: one.parents.members[0].attempts != set())
        await silence(one)
        assert (await asking).status == 200
        assert one.parents.bypass.asked == 1


async def test_a_parent_that_waits_for_a_slow_origin_is_waited_for(origin: OriginDouble) -> None:
    """It answers checks: nobody else is asked, so the origin gets one question."""
    origin.otherwise(hang())
    async with chain(origin, shields=2) as one, one.edge.client() as client:
        await client.request("GET", "/slow")
        await origin.request_seen()
        for _ in range(6):
            one.now += 0.8
            one.parents.sweep(one.now)
            await until(lambda: not any(member.check for member in one.parents.members))
        assert sum(len(member.attempts) for member in one.parents.members) == 1
        client.reset()
    assert len(origin.requests) == 1


async def first_asked(one: Chain) -> int:
    """Which shield owns /owned."""
    assert (await one.get("/owned")).status == 200
    return next(number for number, shield in enumerate(one.shields) if answered(shield))


async def silence(one: Chain) -> None:
    """Time passes in which the parents may be found out."""
    for _ in range(4):
        one.now += 1.1
        one.parents.sweep(one.now)
        for _ in range(10):
            await let_others_run()


# --- who is a POP


async def test_the_origin_hears_of_the_client_and_not_of_the_child(origin: OriginDouble) -> None:
    """Its address, its place, its scheme: as the edge knows them."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    places = {"geo_overrides": "198.51.100.7=DE", "geo_rules": "country:DE=eu,*=us", "trusted_proxies": "127.0.0.1"}
    async with chain(origin, **places) as one:
        await one.get("/a", ("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", "https"))
    request = origin.requests[0]
    assert request.get("X-Forwarded-For") == "198.51.100.7"
    assert request.get("X-Forwarded-Proto") == "https"
    assert request.get("Forwarded") == "for=198.51.100.7;host=www.example.test;proto=https"
    assert request.get("Edgecache-Geo-Country") == "DE"
    assert request.get("Via") == "1.1 edge-0, 1.1 shield-0"
    assert [name for name, _ in request.fields if name.lower().startswith("edgecache")] == [
        "Edgecache-Geo-Country",
        "Edgecache-Geo-Continent",
        "Edgecache-Geo-Region",
    ]


INTERNAL = [
    ("Edgecache-Client", "198.51.100.7"),
    ("Edgecache-Scheme", "https"),
    ("Edgecache-Require", "eu=100000001.99-0"),
    ("Edgecache-Geo-Country", "DE"),
    ("Edgecache-Residency", "EU"),
    ("Edgecache_Client", "198.51.100.7"),
    ("EDGECACHE_SCHEME", "https"),
    ("Edgecache-Pop", "v1;edge-0;1700000000;" + "A" * 43),
]


@pytest.mark.parametrize("claims", [INTERNAL, INTERNAL[:-1]], ids=["forged", "unsigned"])
async def test_nobody_else_is_believed(origin: OriginDouble, claims: list[tuple[str, str]]) -> None:
    """Internal fields of who is no POP are dropped, in either spelling; the answer tells nothing."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin) as one:
        for pop in (one.shields[0], one.edge):
            response = await pop.get(f"/{pop.port}", *claims)
            assert response.status == 200
            assert not [name for name, _ in response.fields if name.lower().startswith("edgecache")]
    for request in origin.requests:
        assert request.get("X-Forwarded-For") == "127.0.0.1"
        assert request.get("X-Forwarded-Proto") == "http"
        assert not [name for name, _ in request.fields if name.lower().replace("_", "-").startswith("edgecache")]


async def test_secrets_can_be_changed_one_pop_at_a_time(origin: OriginDouble) -> None:
    """The parent believes both; the child signs with either."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    for secret in ("the-secret-of-yesterday", "the-secret-of-today", "the-secret-of-today,and-one-more-before"):
        parents = {"pop_secret": "the-secret-of-today,the-secret-of-yesterday"}
        async with chain(origin, parents=parents, pop_secret=secret) as one:
            assert (await one.get(f"/{len(secret)}")).status == 200
            assert one.parents.bypass.asked == 0


async def test_an_answer_of_a_parent_that_does_not_know_us_is_not_used(origin: OriginDouble) -> None:
    """It may be older than what was purged here: the origin is asked, and the parent is soon left alone."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, parents={"pop_secret": "quite-another-secret"}) as one:
        for number in range(20):
            assert "shield" not in ((await one.get(f"/{number}")).get("Cache-Status") or "")
        assert one.parents.members[0].health.breaker.opened == 1
        assert 'reason="no-proof"' in str(one.edge.worker.snapshot()) or "no-proof" in str(one.edge.worker.snapshot())
        assert "forged" in str(one.shields[0].worker.snapshot())


async def test_a_head_that_was_overheard_is_worth_nothing_later(origin: OriginDouble) -> None:
    """Half a minute after it was signed, it is any client's."""
    origin.otherwise(Reply(200, [NO_STORE], b"x"))
    async with chain(origin) as one:
        heard: list[bytes] = []
        real = one.shields[0].worker.heads.parse
        one.shields[0].worker.heads.parse = lambda raw, scheme: (heard.append(raw), real(raw, scheme))[1]
        await one.get("/a")
        signed = next(raw for raw in heard if b"Edgecache-Pop" in raw)
        for later, knows in ((10, True), (21, False)):
            origin.clock.advance(later)
            async with one.shields[0].client() as client:
                await client.send(signed)
                response = await client.response()
            assert (response.get("Edgecache-Seen") is not None) is knows


# --- what is known of purges


def applied(pop: Pop, scopes: tuple[bytes, ...], milliseconds: int, previous: int = 0) -> None:
    """One purge of region eu has reached `pop`."""
    entry = LogEntry(mark(ONE, milliseconds), mark(ONE, previous), EntryKind.PURGE, scopes)
    pop.worker.edge.invalidation.apply("eu", entry, 0.0)


URL = b"uhttp://www.example.test/a"


async def test_a_purge_that_only_the_child_knows_is_not_undone_by_its_parent(origin: OriginDouble) -> None:
    """The parent waits a while for its log; then it asks the origin, and says that it knew."""
    origin.on("/a", Reply(200, [FRESH], b"old"), Reply(200, [FRESH], b"new"))
    async with chain(origin, edges=2) as one:
        assert (await one.get("/a")).body == b"old"
        applied(one.edges[0], (URL,), 5)
        assert (await one.get("/a")).body == b"new"
        assert (await one.get("/a")).body == b"new"
        assert len(origin.requests) == 2, "what came with proof was not kept"


async def test_a_log_that_does_not_come_is_waited_for_once(origin: OriginDouble) -> None:
    """The parent does not hear of that region at all: later questions go on at once, until it does."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin) as one:
        children = one.shields[0].worker.children
        waits: list[object] = []
        real = children._wait
        children._wait = lambda *asked: (waits.append(asked), real(*asked))
        applied(one.edge, (URL,), 5)
        for number in range(4):
            assert (await one.get(f"/{number}")).status == 200
        assert len(waits) == 1
        applied(one.shields[0], (URL,), 4)
        asking = asyncio.ensure_future(one.get("/later"))  # noqa: TID251
        await until(lambda: waiting_children(one.shields[0]) == 1)
        applied(one.shields[0], (URL,), 5, 4)
        assert (await asking).status == 200
        assert len(waits) == 2


async def test_a_parent_that_catches_up_in_time_asks_once(origin: OriginDouble) -> None:
    """Its log is a little late: the question waits for it."""
    origin.on("/a", Reply(200, [FRESH], b"old"), Reply(200, [FRESH], b"new"))
    async with chain(origin) as one:
        await one.get("/a")
        applied(one.edge, (URL,), 5)
        asking = asyncio.ensure_future(one.get("/a"))  # noqa: TID251
        await until(lambda: waiting_children(one.shields[0]) == 1)
        applied(one.shields[0], (URL,), 5)
        response = await asking
        assert response.body == b"new"
        assert "stored" in (response.get("Cache-Status") or "").partition(",")[0]


async def test_what_the_purge_does_not_name_is_still_answered_by_the_parent(origin: OriginDouble) -> None:
    """Once both know of it: the hit is as good as one asked now."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, edges=2) as one:
        for pop in (*one.edges, *one.shields):
            applied(pop, (), 1)
        await one.edges[0].get("/b")
        for pop in (*one.edges, *one.shields):
            applied(pop, (URL,), 5, 1)
        response = await one.edges[1].get("/b")
        assert (response.get("Cache-Status") or "").startswith("shield-0; hit")
        entry, _ = one.edges[1].worker.edge.memory.lookup(b"http://www.example.test/b", load_fields())
        assert entry.passed == one.edges[1].worker.edge.log.position
    assert len(origin.requests) == 1


async def test_tags_reach_the_child_and_purge_there(origin: OriginDouble) -> None:
    """The origin's tags name what the edge holds."""
    origin.otherwise(Reply(200, [FRESH, ("Surrogate-Key", "red")], b"x"))
    async with chain(origin) as one:
        for pop in (one.edge, one.shields[0]):
            applied(pop, (), 1)
        await one.get("/a")
        await one.get("/a")
        assert len(origin.requests) == 1
        for pop in (one.edge, one.shields[0]):
            applied(pop, (b"tred",), 5, 1)
        await one.get("/a")
    assert len(origin.requests) == 2


@pytest.mark.parametrize("size", [100, 100_000, 300_000])
@pytest.mark.parametrize("by", ["GET", "HEAD", "range"])
async def test_tags_reach_the_child_from_the_parents_region(
    origin: OriginDouble, valkey: Server, size: int, by: str
) -> None:
    """What a parent answers out of its regional tier, whole or in chunks, has its tags for the child too."""
    origin.otherwise(Reply(200, [FRESH, ("ETag", '"1"'), ("Surrogate-Key", "red")], b"x" * size))
    parents = {"region": "far", "regional": valkey.url, "regional_timeout": "5s", "memory": "8MiB"}
    async with chain(origin, edges=2, parents=parents) as one:
        shield = one.shields[0]
        await one.edges[0].get("/a")
        await shield.written()
        shield.worker.edge.memory.invalidate(b"http://www.example.test/a")
        request = ("GET", ("Range", "bytes=0-98")) if by == "range" else (by,)
        await one.edges[1].request(request[0], "/a", *request[1:])
        memory = one.edges[1].worker.edge.memory
        await until(lambda: memory.lookup(b"http://www.example.test/a", load_fields())[0])
        entry, _ = memory.lookup(b"http://www.example.test/a", load_fields())
    assert len(origin.requests) == 1
    assert entry.tags == (b"red",)


async def test_a_purge_of_this_process_alone_is_not_undone_by_the_parent(origin: OriginDouble) -> None:
    """No log tells the parent of it: it is told to ask the origin itself."""
    origin.on("/a", Reply(200, [FRESH], b"old"), Reply(200, [FRESH], b"new"))
    async with chain(origin) as one:
        await one.get("/a")
        one.edge.worker.edge.invalidation.append((URL,))
        assert (await one.get("/a")).body == b"new"
        assert (await one.get("/a")).body == b"new"
        assert len(origin.requests) == 2


async def test_who_is_cut_off_asks_past_what_its_parent_holds(origin: OriginDouble) -> None:
    """Where that is to be consistent: the parent may not know of a purge either."""
    origin.on("/a", Reply(200, [FRESH], b"old"), Reply(200, [FRESH], b"new"))
    async with chain(origin, cut_off="consistent") as one:
        await one.get("/a")
        one.edge.worker.edge.invalidation.set_cut_off(True)
        assert (await one.get("/a")).body == b"new"


@pytest.mark.slow
async def test_a_token_that_nobody_knows_asks_past_what_the_parent_holds(origin: OriginDouble, valkey: Server) -> None:
    """A client's word makes no tier believe anything: it gets what the origin says now."""
    origin.on("/a", Reply(200, [FRESH], b"old"), Reply(200, [FRESH], b"new"))
    async with chain(origin, regional=valkey.url) as one:
        await one.get("/a")
        token = ("Edgecache-Token", "eu=ffffffffffff.99999999999999-0")
        assert (await one.get("/a", token)).body == b"new"
        assert all(request.get("Edgecache-Token") is None for request in origin.requests)
        for pop in (one.edge, one.shields[0]):
            assert pop.worker.edge.log.applied("eu") < Vector.decode(b"eu=ffffffffffff.99999999999999-0")["eu"]


def test_a_token_is_a_clients_word() -> None:
    """All other internal fields of a client are dropped."""
    from edgecache.semantics.message import Fields
    from edgecache.upstream.peer_fields import without_internal

    said = ((b"Edgecache-Token", b"eu=1"), (b"Edgecache_Token", b"x"), (b"Edgecache-Require", b"y"), (b"A", b"z"))
    assert without_internal(Fields(said)).names() == {b"edgecache-token", b"a"}


async def test_each_question_in_words_for_a_parent_has_its_own(origin: OriginDouble) -> None:
    """What is known of the one says nothing of the other, though the same known head asks both."""
    async with chain(origin) as one:
        upstream = one.edge.worker.edge.upstream
        request = one.edge.worker.heads.parse(b"GET /a HTTP/1.1\r\nHost: www.example.test\r\n\r\n")[0]
        question = upstream.request_for(request, request.fields, "127.0.0.1")
        assert question.wording is not None
        assert question.anew().wording is not question.wording
        assert question.anew().wording.for_origin() == question.wording.for_origin()


async def test_a_child_may_prove_itself_by_certificate_alone(origin: OriginDouble, tmp_path: Path) -> None:
    """No secret is shared; the parent answers it as a POP, redirects it nowhere, and tells it nothing for clients."""
    origin.otherwise(Reply(200, [FRESH, ("Surrogate-Key", "red")], b"x"))
    sites, pops = Authority(tmp_path / "sites", "sites"), Authority(tmp_path / "pops", "pops")
    shown = sites.issue("localhost", "www.example.test")
    above = {"pop_listen": "127.0.0.1:0", "pop_ca": pops.file, "tls_certificates": shown.pair, "hsts": "max-age=5"}
    async with running_pop(origin, pop="shield", region="eu", https_redirect="on", **above) as shield:
        ours = pops.issue("edge", uris=["edgecache:pop:edge"])
        below = {"pop_certificate": ours.certificate, "pop_certificate_key": ours.key, "parent_ca": sites.file}
        url = f"https://localhost:{shield.pop_port}"
        async with running_pop(origin, pop="edge", region="eu", parents=url, **below) as edge:
            response = await edge.get("/a")
            assert (response.get("Cache-Status") or "").startswith("shield; fwd=uri-miss")
            assert response.get("Strict-Transport-Security") is None
            entry, _ = edge.worker.edge.memory.lookup(b"http://www.example.test/a", load_fields())
            assert set(entry.tags) == {b"red"}
            assert parents_of(edge).bypass.asked == 0
        assert len(origin.requests) == 1


async def test_a_parent_over_tls_by_its_own_name(origin: OriginDouble, tmp_path: Path) -> None:
    """Who proves itself by the secret may open TLS for the parent's name, and ask for any site."""
    origin.on("/a", Reply(fields=[FRESH], body=b"x"))
    sites = Authority(tmp_path, "sites")
    above = {"tls_listen": "127.0.0.1:0", "tls_certificates": sites.issue("localhost").pair}
    async with running_pop(origin, pop="shield", region="eu", pop_secret=SECRET, **above) as shield:
        below = {"parent_ca": sites.file, "parents": f"https://localhost:{shield.tls_port}"}
        async with running_pop(origin, pop="edge", region="eu", pop_secret=SECRET, **below) as edge:
            response = await edge.get("/a")
            assert (response.status, response.body) == (200, b"x")
            assert (response.get("Cache-Status") or "").startswith("shield; fwd=uri-miss")
            assert parents_of(edge).bypass.asked == 0


async def test_a_parent_that_says_nothing_readable_proves_nothing(origin: OriginDouble) -> None:
    """What it answers is used once, and validated each time after."""
    from edgecache.semantics.message import Fields, Response
    from edgecache.upstream.peer_fields import seen_of

    assert seen_of(Response(200, Fields([(b"Edgecache-Seen", b"eu=junk")]))) is None
    assert seen_of(Response(200, Fields([]))) is None
    assert seen_of(Response(200, Fields([(b"Edgecache-Seen", b"")]))) == Vector()


@pytest.mark.parametrize(
    "said",
    [
        [("Connection", "Cache-Control"), ("Cache-Control", "private, max-age=60"), ("ETag", '"a"')],
        [("Connection", "Cache-Control, X-A"), ("Cache-Control", "no-store"), ("Last-Modified", LONG_AGO)],
        [("Connection", "Set-Cookie"), ("Set-Cookie", "session=1"), FRESH],
        [("Connection", "Vary"), ("Vary", "X-Who"), FRESH],
        [("Connection", "CDN-Cache-Control"), ("CDN-Cache-Control", "private"), FRESH],
        [("Connection", "Age"), ("Age", "60"), FRESH],
        [("Connection", "Date"), ("Date", LONG_AGO), FRESH],
    ],
)
async def test_what_connection_would_take_is_heard_by_every_pop(
    origin: OriginDouble, said: list[tuple[str, str]]
) -> None:
    """No POP further down stores for others what the first one did not, for want of a field (RFC 9110 §7.6.1)."""
    origin.otherwise(lambda request: Reply(200, said, (request.get("x-who") or "").encode()))
    async with chain(origin) as one:
        for who in ("alice", "bob", "carol"):
            assert (await one.get("/page", ("X-Who", who))).body == who.encode()


@pytest.mark.parametrize("ahead", [mark(incarnation(2, 9)), mark(ONE, 2**63), mark(incarnation(2**40 - 1, 0))])
def test_a_parent_does_not_know_what_is_to_come(ahead: int) -> None:
    """What it names and nobody here knows is no proof: its answers would outlive the purges that are to come."""
    from edgecache.invalidation.purge_log import UNKNOWN, PurgeLog
    from edgecache.semantics.message import Fields, Response

    log = PurgeLog()
    parental = Parental(b"edge", "eu", b"", Log(log), lambda: 0.0, lambda address: False)  # type: ignore[arg-type]
    log.apply("eu", LogEntry(mark(ONE, 5), mark(ONE), EntryKind.PURGE, (b"uhttp://a/b",)), 0.0)
    asked = log.stamp()
    said = Vector({"eu": ahead, "us": ahead, "mars": 1 << 128})
    proven = parental.proven(b"http://a/c", asked, Response(200, Fields([(b"Edgecache-Seen", said.encode())])))

    assert proven.vector == log.vector
    old = Vector({"eu": mark(ONE, 4)}).encode()
    assert parental.proven(b"http://a/c", asked, Response(200, Fields([(b"Edgecache-Seen", old)]))) == UNKNOWN


class Log:
    """As much of an `Invalidation` as is asked for."""

    def __init__(self, log: Any) -> None:
        self.log = log


def waiting_children(pop: Pop) -> int:
    """Questions of children that wait for the POP's log."""
    return len(pop.worker.children._waiting)


# --- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PARENTS": "http://a", "POP_SECRET": ""}, "EDGECACHE_PARENTS: needs EDGECACHE_POP_SECRET"),
        ({"PARENTS": "http://127.0.0.1:8080"}, "EDGECACHE_PARENTS: names this POP itself"),
        ({"PARENTS": "http://localhost:8080"}, "EDGECACHE_PARENTS: names this POP itself"),
        ({"PARENTS": "http://[::1]:8080", "LISTEN": "0.0.0.0:8080"}, "EDGECACHE_PARENTS: names this POP itself"),
        ({"PARENTS": "http://a,http://a:80"}, "EDGECACHE_PARENTS: .* names a parent twice"),
        ({"PARENTS": "http://a,us=http://a"}, "EDGECACHE_PARENTS: .* names a parent twice"),
        ({"PARENTS": "us=http://a,us=http://b"}, "EDGECACHE_PARENTS: .* twice"),
        ({"PARENTS": "ftp://a"}, "EDGECACHE_PARENTS: "),
        ({"PARENTS": "http://a#x,http://b#x"}, "EDGECACHE_PARENTS: .* names a parent twice"),
        ({"PARENTS": "http://a#"}, "EDGECACHE_PARENTS: "),
        ({"PARENTS": "http://origin"}, "EDGECACHE_PARENTS: names http://origin, which is an origin"),
        ({"POP_SECRET": "short"}, "EDGECACHE_POP_SECRET: .* shorter"),
        ({"PARENT_BYPASS": "0"}, "EDGECACHE_PARENT_BYPASS: "),
    ],
)
def test_a_bad_configuration_refuses_the_start(settings: dict[str, str], words: str) -> None:
    """In one line that names the variable, and no secret."""
    environ = {"ORIGIN": "http://origin", "POP_SECRET": SECRET, **settings}
    with pytest.raises(ConfigError, match=words) as caught:
        load({f"EDGECACHE_{name}": value for name, value in environ.items()})
    assert "\n" not in str(caught.value)
    assert "short'" not in str(caught.value)


async def test_parents_with_names_have_the_same_owner_behind_other_addresses(origin: OriginDouble) -> None:
    """Each edge knows the shields by URLs of its own."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, shields=2, edges=0) as one, AsyncExitStack() as stack:
        for number in range(3):
            ways = [await stack.enter_async_context(running_proxy(shield.port)) for shield in one.shields]
            urls = ",".join(f"http://127.0.0.1:{way.port}#shield-{place}" for place, way in enumerate(ways))
            settings = {"parents": urls, "pop_secret": SECRET, "region": "eu", "pop": f"edge-{number}"}
            edge = await stack.enter_async_context(running_pop(origin, **settings))
            for target in range(20):
                assert (await edge.get(f"/{target}")).status == 200
    assert len(origin.requests) == 20


def test_parents_without_a_region_are_of_this_pops_own() -> None:
    """And are asked before others."""
    settings = load(
        {
            **DEFAULTS,
            "EDGECACHE_ORIGIN": "http://origin",
            "EDGECACHE_PARENTS": "https://a,us=https://b|http://c:81,https://d",
            "EDGECACHE_POP_SECRET": f"{SECRET}, another-secret-of-this-fleet",
        }
    )
    named = {region: list(map(str, parents)) for region, parents in settings.parents.items()}
    assert named == {"": ["https://a", "https://d"], "us": ["https://b", "http://c:81"]}
    assert settings.pop_secret == (SECRET.encode(), b"another-secret-of-this-fleet")


async def test_a_parent_that_shares_its_childs_valkey_does_not_wait_for_its_lease(
    origin: OriginDouble, valkey: Server
) -> None:
    """The child leads for the region; were the parent to wait for the leader, both would wait for each other."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    settings = {"regional": valkey.url, "regional_timeout": "2s", "follower_timeout": "10m"}
    async with chain(origin, **settings) as one:
        for pop in (one.edge, one.shields[0]):
            await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        assert (await one.get("/a")).status == 200
        assert answered(one.shields[0]) == 1
