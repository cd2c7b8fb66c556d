"""A crowd that asks for one object at once: cold, expired, uncacheable, still arriving, or cut off on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import pytest
from harness.client import RawClient, ReceivedResponse, let_others_run
from harness.expect import cache_status
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop

from edgecache.tasks import spawn

CROWD = 1000
PATIENCE = 20.0  # seconds, for a thousand answers on a busy machine
FRESH = ("Cache-Control", "max-age=60")


@asynccontextmanager
async def crowd(pop: Pop, size: int = CROWD, target: str = "/page") -> AsyncIterator[list[RawClient]]:
    """So many clients, each on a connection of its own, who have all asked for the target."""
    clients = [await pop.open(within=PATIENCE) for _ in range(size)]
    try:
        for client in clients:
            await client.request("GET", target)
        await let_others_run(50)
        yield clients
    finally:
        for client in clients:
            client.close()


async def answers(clients: list[RawClient]) -> list[ReceivedResponse]:
    """What each client receives, whole or broken."""
    return await asyncio.gather(*(client.response_or_broken() for client in clients))


def bodies(responses: list[ReceivedResponse]) -> set[bytes]:
    """The different bodies among responses that are all whole and 200."""
    assert {response.status for response in responses} == {200}
    assert [response.broken for response in responses if response.broken] == []
    return {response.body for response in responses}


async def test_a_crowd_on_a_cold_key_costs_one_fetch(origin: OriginDouble) -> None:
    """A thousand clients who ask at once for what is not stored are answered by one question to the origin."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], body=b"one", wait=gate))
    async with running_pop(origin) as pop, crowd(pop) as clients:
        await origin.request_seen()
        assert len(origin.requests) == 1
        gate.set()
        responses = await answers(clients)

    assert bodies(responses) == {b"one"}
    assert len(origin.requests) == 1
    assert sum("collapsed" in cache_status(response)[0] for response in responses) == CROWD - 1


async def test_a_crowd_on_an_expired_key_costs_one_validation(origin: OriginDouble) -> None:
    """A thousand clients who ask at once for what has expired share one validation."""
    gate = asyncio.Event()
    fields = [FRESH, ("ETag", '"v1"')]
    origin.on("/page", Reply(fields=fields, body=b"one"), Reply(304, fields, wait=gate))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(61)
        async with crowd(pop) as clients:
            await origin.request_seen(2)
            gate.set()

            assert bodies(await answers(clients)) == {b"one"}
    assert [request.get("if-none-match") for request in origin.requests] == [None, '"v1"']


async def test_a_crowd_within_stale_while_revalidate_waits_for_nobody(origin: OriginDouble) -> None:
    """A thousand clients are answered at once by the stale object while exactly one fetch runs behind them."""
    gate = asyncio.Event()
    fields = [("Cache-Control", "max-age=10, stale-while-revalidate=60")]
    origin.on("/page", Reply(fields=fields, body=b"one"), Reply(fields=fields, body=b"two", wait=gate))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        async with crowd(pop) as clients:
            assert bodies(await answers(clients)) == {b"one"}
        await origin.request_seen(2)
        assert len(origin.requests) == 2
        gate.set()
        await let_others_run(50)

        assert (await pop.get("/page")).body == b"two"
    assert len(origin.requests) == 2


@pytest.mark.parametrize("why", ["no-store", "private", "max-age=0"])
async def test_a_crowd_on_what_may_not_be_shared_is_not_served_one_by_one(origin: OriginDouble, why: str) -> None:
    """Once an answer proves to be for one client alone, all others go to the origin at once; so does the next crowd."""
    size = 200
    leader, everyone, everyone_again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        number = len(origin.requests)
        gate = leader if number == 1 else everyone if number <= size else everyone_again
        return Reply(fields=[("Cache-Control", why)], body=b"number %d" % number, wait=gate)

    origin.otherwise(answer)
    async with running_pop(origin, origin_connections=2 * size) as pop:
        async with crowd(pop, size) as clients:
            await origin.request_seen()
            leader.set()
            await origin.request_seen(size, PATIENCE)
            everyone.set()
            first = await answers(clients)
        async with crowd(pop, size) as clients:
            await origin.request_seen(2 * size, PATIENCE)
            everyone_again.set()
            second = await answers(clients)

    assert len(bodies(first + second)) == 2 * size
    assert len(origin.requests) == 2 * size


async def test_what_may_be_shared_again_is_shared_again(origin: OriginDouble) -> None:
    """The memory of an answer that could not be shared ends when one comes that can be."""
    fields = [("Cache-Control", "no-store")]
    origin.on("/page", Reply(fields=fields, body=b"one"), Reply(fields=[FRESH], body=b"two"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        await pop.get("/page")
        async with crowd(pop, 50) as clients:
            assert bodies(await answers(clients)) == {b"two"}
    assert len(origin.requests) == 2


async def test_followers_of_another_variant_go_their_own_way(origin: OriginDouble) -> None:
    """A follower whose fields select another variant than the leader's is never given the leader's answer."""

    def answer(request: ReceivedRequest) -> Reply:
        fields = [FRESH, ("Vary", "X-Lang")]
        return Reply(fields=fields, body=(request.get("x-lang") or "").encode(), wait=gate)

    gate = asyncio.Event()
    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        clients = [await pop.open(within=PATIENCE) for _ in range(100)]
        for number, client in enumerate(clients):
            await client.request("GET", "/page", [("X-Lang", "de" if number % 2 else "en")])
        await origin.request_seen()
        gate.set()
        responses = await answers(clients)
        for client in clients:
            client.close()

    assert [response.body for response in responses] == [b"en", b"de"] * 50
    assert len(origin.requests) <= 51


async def test_the_first_byte_reaches_followers_while_the_body_arrives(origin: OriginDouble) -> None:
    """Followers, the late ones too, receive what has come of the body although the rest has not left the origin."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], pieces=[b"first ", b"last"], gates=[None, gate]))
    async with running_pop(origin) as pop, crowd(pop, 100) as early, crowd(pop, 100) as late:
        for client in early + late:
            await client.response_head()
            assert await client.body_bytes(6) == b"first "
        gate.set()
        for client in early + late:
            assert await client.body_bytes(4) == b"last"
    assert len(origin.requests) == 1


async def test_the_first_byte_of_a_chunked_body_reaches_followers(origin: OriginDouble) -> None:
    """So it is for a body whose length nobody knows yet."""
    gate = asyncio.Event()
    pieces = [b"first ", b"last"]
    origin.on("/page", Reply(fields=[FRESH], framing="chunked", pieces=pieces, gates=[None, gate]))
    async with running_pop(origin) as pop, crowd(pop, 100) as clients:
        for client in clients:
            head = await client.response_head()
            assert head.get("transfer-encoding") == "chunked"
            assert await client.body_bytes(9) == b"6\r\nfirst "
        gate.set()
        for client in clients:
            assert await client.body_bytes(16) == b"\r\n4\r\nlast\r\n0\r\n\r\n"
    assert len(origin.requests) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_leader_that_leaves_takes_nobody_along(origin: OriginDouble, how: str) -> None:
    """The client whose request was passed on leaves in mid-body; its followers receive all of it, and it is stored."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], pieces=[b"first ", b"last"], gates=[None, gate]))
    async with running_pop(origin) as pop:
        leader = await pop.open()
        await leader.request("GET", "/page")
        await leader.response_head()
        async with crowd(pop, 100) as followers:
            leader.reset() if how == "rst" else leader.close()
            await let_others_run(50)
            gate.set()

            assert bodies(await answers(followers)) == {b"first last"}
        assert (await pop.get("/page")).body == b"first last"
    assert len(origin.requests) == 1


async def test_a_leader_that_leaves_before_the_head_takes_nobody_along(origin: OriginDouble) -> None:
    """So it is when the leader leaves before the origin has answered at all."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], body=b"one", wait=gate))
    async with running_pop(origin) as pop:
        leader = await pop.open()
        await leader.request("GET", "/page")
        await origin.request_seen()
        async with crowd(pop, 100) as followers:
            leader.reset()
            await let_others_run(50)
            gate.set()

            assert bodies(await answers(followers)) == {b"one"}
    assert len(origin.requests) == 1


async def test_a_slow_reader_does_not_hold_the_others_back(origin: OriginDouble) -> None:
    """A client that reads nothing of a large body leaves the rest of the crowd at full speed."""
    body = b"0123456789abcdef" * 250_000
    origin.on("/page", Reply(fields=[FRESH], body=body))
    async with running_pop(origin) as pop:
        slow = await pop.open(receive_buffer=4096, within=PATIENCE)
        await slow.request("GET", "/page")
        await origin.request_seen()
        async with crowd(pop, 5) as clients:
            assert bodies(await answers(clients)) == {body}

            assert (await slow.response()).body == body
        slow.close()
    assert len(origin.requests) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_truncated_body_breaks_for_everyone_and_is_not_stored(
    origin: OriginDouble, framing: str, how: str
) -> None:
    """When the origin breaks off, each follower sees a broken transfer, and the next client gets a whole body."""
    gate = asyncio.Event()
    broken = Reply(
        fields=[FRESH],
        framing=framing,  # type: ignore[arg-type]
        pieces=[b"first ", b"last"],
        gates=[None, gate],
        cut_at=16 if framing == "chunked" else 8,
        cut_by=how,  # type: ignore[arg-type]
    )
    origin.on("/page", broken, Reply(fields=[FRESH], body=b"whole"))
    async with running_pop(origin) as pop:
        async with crowd(pop, 100) as clients:
            await origin.request_seen()
            gate.set()
            responses = await answers(clients)
            assert [response for response in responses if response.broken is None] == []
            assert {b"first last".startswith(response.body) for response in responses} == {True}
        assert len(origin.requests) == 1

        assert (await pop.get("/page")).body == b"whole"


async def test_followers_of_a_hung_leader_are_released(origin: OriginDouble) -> None:
    """Followers wait for a bounded time; then they ask for themselves, in parallel."""
    size = 50
    everyone = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        first = len(origin.requests) == 1
        return Reply(fields=[FRESH], body=b"one", wait=asyncio.Event() if first else everyone)

    origin.otherwise(answer)
    async with running_pop(origin, follower_timeout="50ms") as pop, crowd(pop, 1):
        await origin.request_seen()  # whoever is read first would lead
        async with crowd(pop, size - 1) as clients:
            await origin.request_seen(2)
            everyone.set()

            assert bodies(await answers(clients)) == {b"one"}


async def test_a_mixed_crowd_is_answered_each_by_its_own_question(origin: OriginDouble) -> None:
    """HEAD, ranges, conditions and HTTP/1.0 join a fetch under way, or do not: each receives what it asked for."""
    gate = asyncio.Event()
    fields = [FRESH, ("ETag", '"v1"')]
    pieces = [b"01234", b"56789"]

    def answer(request: ReceivedRequest) -> Reply:
        if len(origin.requests) == 1:
            return Reply(fields=fields, framing="chunked", pieces=pieces, gates=[None, gate])
        return Reply(fields=fields, body=b"0123456789")

    origin.otherwise(answer)
    questions: list[tuple[str, tuple[str, str], str]] = [
        ("GET", ("X-A", "1"), "1.1"),
        ("HEAD", ("X-A", "1"), "1.1"),
        ("GET", ("If-None-Match", '"v1"'), "1.1"),
        ("GET", ("If-None-Match", '"v0"'), "1.1"),
        ("GET", ("Range", "bytes=2-6"), "1.1"),
        ("GET", ("Connection", "close"), "1.1"),
        ("GET", ("X-A", "1"), "1.0"),
        ("GET", ("Cache-Control", "only-if-cached"), "1.1"),
    ]
    async with running_pop(origin) as pop, crowd(pop, 1) as leader:
        clients = [await pop.open() for _ in questions]
        for client, (method, field, version) in zip(clients, questions, strict=True):
            await client.request(method, "/page", [field], version=version)
        await let_others_run(50)
        gate.set()
        responses = await answers(leader + clients)
        for client in clients:
            client.close()

    whole = b"0123456789"
    assert [response.broken for response in responses if response.broken] == []
    get, head, matched, differs, part, close, old, cached = responses[1:]
    assert {one.body for one in (responses[0], get, differs, close, old)} == {whole}
    assert (head.status, head.body, matched.status, matched.body) == (200, b"", 304, b"")
    assert (part.status, part.body) in ((206, b"23456"), (200, whole))
    assert (old.get("transfer-encoding"), cached.status in (200, 504)) == (None, True)


async def test_a_write_ends_the_reuse_of_a_fetch_under_way(origin: OriginDouble) -> None:
    """What the origin was asked before a write succeeded is not given to those who ask after it."""
    gate = asyncio.Event()
    first = Reply(fields=[FRESH], pieces=[b"old ", b"words"], gates=[None, gate])
    origin.on("/page", first, Reply(204), Reply(fields=[FRESH], body=b"new words"))
    async with running_pop(origin) as pop, crowd(pop, 1) as early:
        await early[0].response_head()
        await pop.request("PUT", "/page", body=b"new words")
        async with crowd(pop, 10) as late:
            gate.set()

            assert bodies(await answers(late)) == {b"new words"}
        assert await early[0].body_bytes(9) == b"old words"
        await let_others_run(50)
        assert (await pop.get("/page")).body == b"new words"


async def test_a_write_ends_a_refresh_under_way(origin: OriginDouble) -> None:
    """So it is for a fetch behind the client's back: its late answer does not undo the write."""
    gate = asyncio.Event()
    fields = [("Cache-Control", "max-age=10, stale-while-revalidate=60")]
    old = Reply(fields=fields, body=b"old")
    origin.on("/page", old, Reply(fields=fields, body=b"old", wait=gate), Reply(204), Reply(fields=fields, body=b"new"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        await pop.get("/page")
        await origin.request_seen(2)
        await pop.request("PUT", "/page", body=b"new")
        gate.set()
        await let_others_run(50)

        assert (await pop.get("/page")).body == b"new"


@pytest.mark.parametrize("reload", ["no-cache", "max-age=0"])
async def test_a_reload_is_not_answered_by_an_older_question(origin: OriginDouble, reload: str) -> None:
    """A client that reloads is not given what the origin was asked for before it came (RFC 9111 §5.2.1.4)."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], body=b"one", wait=gate), Reply(fields=[FRESH], body=b"two"))
    honouring = running_pop(origin, client_revalidation="honour")
    async with honouring as pop, crowd(pop, 1) as early, pop.client() as client:
        await origin.request_seen()
        await client.request("GET", "/page", [("Cache-Control", reload)])
        await let_others_run(50)
        gate.set()

        assert (await client.response()).body == b"two"
        assert bodies(await answers(early)) == {b"one"}


async def test_a_private_answer_reaches_one_client_only(origin: OriginDouble) -> None:
    """Followers of a fetch whose answer is for one user never see any of it, not even its status."""
    gate = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        cookie = request.get("cookie") or ""
        fields = [("Cache-Control", "private"), ("Set-Cookie", f"for={cookie}"), ("X-User", cookie)]
        return Reply(fields=fields, body=cookie.encode(), wait=gate)

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        clients = [await pop.open() for _ in range(50)]
        for number, client in enumerate(clients):
            await client.request("GET", "/me", [("Cookie", f"user={number}")])
        await let_others_run(50)
        gate.set()
        responses = await answers(clients)
        for client in clients:
            client.close()

    users = [f"user={number}" for number in range(50)]
    assert [response.body.decode() for response in responses] == users
    assert [response.get("x-user") for response in responses] == users
    assert [response.all("set-cookie") for response in responses] == [[f"for={user}"] for user in users]


async def test_what_lands_while_a_request_is_on_its_way_to_a_flight_is_seen(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a request's look at the memory and its flight, another's answer is stored: no second question."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], body=b"one", wait=gate))
    held: list[Coroutine[object, object, object]] = []
    async with running_pop(origin) as pop:
        first, second = await pop.open(), await pop.open()
        await first.request("GET", "/page")
        await origin.request_seen()
        monkeypatch.setattr("edgecache.proxy.edge.spawn", lambda work, name: held.append(work))
        await second.request("GET", "/page")
        while not held:
            await let_others_run(1)
        monkeypatch.undo()
        gate.set()
        assert (await first.response()).body == b"one"
        spawn(held.pop())
        late = await second.response()
        first.close()
        second.close()

    assert late.body == b"one"
    assert len(origin.requests) == 1


async def test_a_follower_that_comes_before_its_leader_takes_nothing_away(origin: OriginDouble) -> None:
    """Who asks just when the head is there may read first: of a body that only flows, the leader still gets all."""
    first, rest = asyncio.Event(), asyncio.Event()
    body = bytes(range(256)) * 4096
    pieces, gates = [body[:500_000], body[500_000:]], [first, rest]
    origin.otherwise(Reply(fields=[FRESH], framing="chunked", pieces=pieces, gates=gates))
    settings = {"memory": "1MiB", "max_object_memory": "4KiB"}
    async with running_pop(origin, **settings) as pop, pop.client() as leader, pop.client() as follower:
        await leader.request("GET", "/page")
        await origin.request_seen()
        (flight,) = pop.worker.edge.flights._out.values()
        (last,) = (one for one in pop.worker.connections if one.exchange is None)  # the follower's
        first.set()
        while not flight._landed.done():
            await let_others_run(1)
        last.data_received(b"GET /page HTTP/1.1\r\nHost: www.example.test\r\n\r\n")  # before the leader is woken
        await let_others_run(100)
        rest.set()

        assert (await leader.response()).body == body
        assert (await follower.response()).body == body
