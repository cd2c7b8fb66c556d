"""Every way in which an origin fails: each is one clear error, or the stale answer, and nothing wrong is stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest
from harness.client import ReceivedResponse, let_others_run, until
from harness.expect import cache_status
from harness.often import one_in
from harness.origin import RESET, OriginDouble, ReceivedRequest, Reply, hang
from harness.pop import Pop, running_pop
from harness.wire import Truncated

from edgecache.telemetry.metrics import render

FRESH = ("Cache-Control", "max-age=60")
STALE = ("Cache-Control", "max-age=10, stale-if-error=600")
GOOD = Reply(fields=[FRESH], body=b"good")


def is_problem(response: ReceivedResponse, status: int) -> None:
    """Assert that this is an error of ours: problem details with that status, not to be stored."""
    assert response.status == status
    assert response.get("Content-Type") == "application/problem+json"
    assert response.get("Cache-Control") == "no-store"
    assert json.loads(response.body)["status"] == status


async def works_again(pop: Pop, origin: OriginDouble, target: str = "/page") -> None:
    """Assert that nothing is stored: the next request goes to the origin and is answered; the one after is a hit."""
    seen = len(origin.requests)
    origin.on(target, GOOD)
    response = await pop.get(target)
    assert (response.status, response.body) == (200, b"good")
    assert len(origin.requests) == seen + 1
    assert "hit" in cache_status(await pop.get(target))[0]


async def test_a_refused_connection_is_502(origin: OriginDouble) -> None:
    """While the origin refuses connections the answer is 502; when it is back, it is asked again."""
    async with running_pop(origin) as pop:
        await origin.stop()
        is_problem(await pop.get("/page"), 502)
        await origin.start()
        await works_again(pop, origin)


@pytest.mark.parametrize(
    "fault",
    [
        RESET,
        Reply(cut_head_at=0),
        Reply(cut_head_at=20),
        Reply(cut_head_at=20, cut_by="rst"),
        Reply(raw=b"nonsense\r\n\r\n"),
    ],
    ids=["reset", "closed", "head-cut-by-fin", "head-cut-by-rst", "not-http"],
)
async def test_no_whole_head_is_502(origin: OriginDouble, fault: Reply) -> None:
    """A connection that ends before a whole head, or brings no HTTP, is 502 and leaves nothing behind."""
    origin.on("/page", fault)
    async with running_pop(origin) as pop:
        is_problem(await pop.get("/page"), 502)
        await works_again(pop, origin)


async def test_a_hung_origin_is_504(origin: OriginDouble) -> None:
    """An origin that sends no first byte in time is 504, and its connection is not used again."""
    origin.on("/page", hang())
    async with running_pop(origin, first_byte_timeout="10s") as pop, pop.client() as client:
        await client.request("GET", "/page")
        await origin.request_seen()
        pop.pass_time(11)
        is_problem(await client.response(), 504)
        await works_again(pop, origin)
    assert origin.requests[-1].connection == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_origin_that_stops_inside_a_body_is_a_broken_transfer(origin: OriginDouble, framing: str) -> None:
    """No byte for too long inside a body cuts the client off visibly, and nothing is stored."""
    never = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], pieces=[b"half", b"half"], gates=[None, never], framing=framing))
    async with running_pop(origin, between_bytes_timeout="10s") as pop:
        async with pop.client() as client:
            await client.request("GET", "/page")
            assert (await client.response_head()).status == 200
            assert b"half" in await client.body_bytes(4 if framing == "length" else 9)
            pop.pass_time(11)
            assert await client.closed() in ("fin", "rst")
        await works_again(pop, origin)


@pytest.mark.parametrize("cut_by", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_truncated_body_is_never_stored(origin: OriginDouble, framing: str, cut_by: str) -> None:
    """A body that ends early, by FIN or by RST, is a broken transfer for its client and nothing for the cache."""
    gate = asyncio.Event()
    pieces, gates = [b"first half", b"second"], [None, gate]
    cut_at = 12 if framing == "length" else 17  # inside the second piece, as framed
    fault = Reply(fields=[FRESH], pieces=pieces, gates=gates, framing=framing, cut_at=cut_at, cut_by=cut_by)
    origin.on("/page", fault)
    async with running_pop(origin) as pop:
        async with pop.client() as client:
            await client.request("GET", "/page")
            head = await client.response_head()
            gate.set()  # the fault comes once the head is through
            rest = await drained(client.source.receive)
        assert head.status == 200
        assert not rest.endswith(b"0\r\n\r\n")
        assert b"second" not in rest
        await works_again(pop, origin)


async def drained(receive: object) -> bytes:
    """All bytes up to the end of a connection, by FIN or by RST."""
    got = b""
    try:
        async with asyncio.timeout(5):
            while piece := await receive():  # type: ignore[operator]
                got += piece
    except ConnectionResetError:
        pass
    return got


async def test_followers_of_a_truncated_fill_are_cut_off_too(origin: OriginDouble) -> None:
    """Whoever shares a fill that breaks sees that it broke; nobody takes the half for the whole."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], pieces=[b"half", b"half"], gates=[None, gate], cut_at=5))
    async with running_pop(origin) as pop, pop.client() as first, pop.client() as second:
        await first.request("GET", "/page")
        await origin.request_seen()
        await second.request("GET", "/page")
        await let_others_run(50)
        gate.set()
        answers = [await first.response_or_broken(), await second.response_or_broken()]

        assert all(answer.broken is not None for answer in answers)
        await works_again(pop, origin)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_error_of_the_origin_without_stale_is_passed_on(origin: OriginDouble, status: int) -> None:
    """Without anything stale to serve, the client gets the origin's own error, and it does not stick."""
    origin.on("/page", Reply(status, body=b"its own words"))
    async with running_pop(origin) as pop:
        response = await pop.get("/page")
        assert (response.status, response.body) == (status, b"its own words")
        await works_again(pop, origin)


@pytest.mark.parametrize(
    "fault",
    [Reply(500), Reply(503), RESET, Reply(cut_head_at=9), Reply(raw=b"nonsense\r\n\r\n")],
    ids=["500", "503", "reset", "head-cut", "not-http"],
)
async def test_a_stale_answer_stands_in_for_an_error(origin: OriginDouble, fault: Reply) -> None:
    """Within stale-if-error what is stored is served, whatever went wrong; afterwards the error shows (RFC 5861 §4)."""
    origin.on("/page", Reply(fields=[STALE], body=b"old"), fault)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        response = await pop.get("/page")
        assert (response.status, response.body) == (200, b"old")
        assert len(origin.requests) >= 2
        pop.clock.advance(700)
        assert (await pop.get("/page")).status >= 500
        await works_again(pop, origin)


async def test_a_stale_answer_stands_in_while_the_origin_is_down(origin: OriginDouble) -> None:
    """A refused connection counts as an error: the stale answer is served."""
    origin.on("/page", Reply(fields=[STALE], body=b"old"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        await origin.stop()
        assert (await pop.get("/page")).body == b"old"
        await origin.start()
        await works_again(pop, origin)


async def test_a_stale_answer_does_not_wait_long_for_a_hung_origin(origin: OriginDouble) -> None:
    """A usable stale answer is served within `stale_wait`, long before the origin's time is over."""
    origin.on("/page", Reply(fields=[STALE], body=b"old"), hang())
    async with running_pop(origin, stale_wait="200ms", first_byte_timeout="30s") as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        response = await pop.get("/page")
        assert (response.status, response.body) == (200, b"old")
        assert pop.worker.pool.busy == 1  # the origin has not answered, and has its time still


@pytest.mark.parametrize(
    "fields", one_in(2, [[], [("Range", "bytes=0-1")], [("If-None-Match", '"other"')], [("Cookie", "a=1")]])
)
@pytest.mark.parametrize("said", ["max-age=10, stale-if-error=600", "max-age=0, stale-if-error=600"])
async def test_only_the_first_stale_answer_waits_for_a_hung_origin(
    origin: OriginDouble, said: str, fields: list[tuple[str, str]]
) -> None:
    """While it is known that the origin hangs, stale answers come at once, and nobody asks it again."""
    gate = asyncio.Event()
    fresh = [("Cache-Control", "max-age=60")]
    origin.on(
        "/page", Reply(fields=[("Cache-Control", said)], body=b"old"), Reply(fields=fresh, body=b"new", wait=gate)
    )
    async with running_pop(origin, stale_wait="500ms", first_byte_timeout="600s") as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        async with asyncio.timeout(15):  # each would wait for half a second
            for _ in range(40):
                assert (await pop.get("/page", *fields)).body in (b"old", b"ol")
            assert (await pop.request("HEAD", "/page")).status == 200
        assert len(origin.requests) == 2
        gate.set()
        await until(lambda: not len(pop.worker.edge.flights))
        assert (await pop.get("/page")).body == b"new"


async def test_who_comes_while_an_origin_hangs_waits_for_what_is_left(origin: OriginDouble) -> None:
    """The time that a stale answer waits is counted from the question, not from each client that joins it."""
    origin.on("/page", Reply(fields=[STALE], body=b"old"), hang())
    async with running_pop(origin, stale_wait="10s", first_byte_timeout="600s") as pop, pop.client() as early:
        await pop.get("/page")
        pop.clock.advance(11)
        await early.request("GET", "/page")
        await origin.request_seen(2)
        (flight,) = pop.worker.edge.flights._out.values()
        flight.began -= 9.5  # as if it had been out for so long
        async with asyncio.timeout(8):
            assert (await pop.get("/page")).body == b"old"


async def test_a_stale_answer_waits_for_an_origin_that_answers_soon(origin: OriginDouble) -> None:
    """Within `stale_wait` what the origin says is better than what is stale."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[STALE], body=b"old"), Reply(fields=[STALE], body=b"new", wait=gate))
    async with running_pop(origin, stale_wait="30s", first_byte_timeout="60s") as pop, pop.client() as client:
        await pop.get("/page")
        pop.clock.advance(11)
        await client.request("GET", "/page")
        await origin.request_seen(2)
        await let_others_run(50)
        gate.set()
        response = await client.response()
    assert (response.status, response.body) == (200, b"new")


async def test_a_reset_of_a_reused_connection_repeats_a_get_once(origin: OriginDouble) -> None:
    """A GET that met a reset on a kept connection is asked again, once; a second reset is 502."""
    origin.on("/warm", Reply(fields=[("Cache-Control", "no-store")]))
    origin.on("/page", RESET)
    async with running_pop(origin) as pop:
        await pop.get("/warm")
        is_problem(await pop.get("/page"), 502)
        assert [seen.target for seen in origin.requests] == ["/warm", "/page", "/page"]
        await works_again(pop, origin)


async def test_a_reset_of_a_reused_connection_never_repeats_a_post(origin: OriginDouble) -> None:
    """A POST that met a reset may have been done: it is 502 and not asked again (RFC 9110 §9.2.2)."""
    origin.on("/warm", Reply(fields=[("Cache-Control", "no-store")]))
    origin.on("/page", RESET)
    async with running_pop(origin) as pop:
        await pop.get("/warm")
        is_problem(await pop.request("POST", "/page", body=b"once"), 502)
    assert [seen.method for seen in origin.requests] == ["GET", "POST"]


async def test_a_repeated_get_has_its_body(origin: OriginDouble) -> None:
    """A GET with a body is repeated with all of it, or not at all: never with a body that is missing."""
    origin.on("/warm", Reply(fields=[("Cache-Control", "no-store")]))
    replies = [RESET, Reply(fields=[("Cache-Control", "no-store")], body=b"done")]
    origin.otherwise(lambda request: replies.pop(0))
    async with running_pop(origin, first_byte_timeout="300ms") as pop:
        await pop.get("/warm")
        response = await pop.request("GET", "/search", body=b"a query")
    asked: list[ReceivedRequest] = [seen for seen in origin.requests if seen.target == "/search"]

    assert response.status in (200, 502)
    assert [bytes(seen.body) for seen in asked] == [b"a query"] * len(asked)


def moved(pop: Pop, name: str) -> float:
    """The value of a counter, 0 if it is not there yet."""
    for line in render(pop.worker.snapshot()).decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def dripping(fields: list[tuple[str, str]], drops: list[asyncio.Event], **shape: Any) -> Reply:
    """An answer whose body comes by one byte per event."""
    return Reply(fields=fields, pieces=[b"a"] * len(drops), gates=drops, **shape)


@pytest.mark.parametrize(
    ("fields", "framing"),
    [([FRESH], "length"), ([FRESH], "chunked"), ([("Cache-Control", "no-store")], "length")],
    ids=["stored", "stored-chunked", "passed-on"],
)
async def test_a_dripping_answer_is_given_up(
    origin: OriginDouble, fields: list[tuple[str, str]], framing: Literal["length", "chunked"]
) -> None:
    """A body that keeps moving, but slower than the lowest rate, ends for everyone who waits for it."""
    drops = [asyncio.Event() for _ in range(60)]
    origin.on("/page", dripping(fields, drops, framing=framing))
    async with running_pop(origin, between_bytes_timeout="5s", origin_min_rate="1000") as pop:
        async with pop.client() as first, pop.client() as second:
            await first.request("GET", "/page")
            await first.response_head()
            await second.request("GET", "/page")
            ends = asyncio.gather(first.body_bytes(10_000), second.body_bytes(10_000), return_exceptions=True)
            for drop in drops:  # a byte every second: none is late
                drop.set()
                await let_others_run(50)
                if ends.done():
                    break
                pop.pass_time(1)
            assert all(isinstance(end, Truncated | ConnectionResetError) for end in await ends)
        assert moved(pop, 'edgecache_origin_failures_total{reason="lowest-rate"}') >= 1
        assert not drops[-1].is_set()
        await works_again(pop, origin)


async def test_a_stream_may_be_as_slow_as_it_is(origin: OriginDouble) -> None:
    """Events that are passed on as they come, without a length, are not held to a rate."""
    drops = [asyncio.Event() for _ in range(20)]
    origin.on("/events", dripping([("Content-Type", "text/event-stream")], drops, framing="chunked"))
    async with (
        running_pop(origin, between_bytes_timeout="5s", origin_min_rate="1000") as pop,
        pop.client() as client,
    ):
        await client.request("GET", "/events")
        answer = asyncio.get_running_loop().create_task(client.response())
        for count, drop in enumerate(drops, 1):
            drop.set()
            await until(lambda count=count: len(client.progress) == count)
            pop.pass_time(1)
        assert (await answer).body == b"a" * 20


@pytest.mark.parametrize("kind", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
@pytest.mark.parametrize("fields", [[], [("Cache-Control", "no-store")], [FRESH]], ids=["silent", "no-store", "fresh"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_quiet_stream_of_events_goes_on(
    origin: OriginDouble, method: str, fields: list[tuple[str, str]], kind: str
) -> None:
    """Between two events nothing may come for as long as in a tunnel, and no longer, through a parent too."""
    drops = [asyncio.Event() for _ in range(3)]
    stream = dripping([("Content-Type", kind), *fields], drops, framing="chunked")
    origin.on("/events", stream)
    settings: dict[str, object] = {"between_bytes_timeout": "5s", "tunnel_timeout": "100s", "pop_secret": "a" * 20}
    async with running_pop(origin, pop="shield", **settings) as shield:
        parent = f"http://127.0.0.1:{shield.port}"
        async with running_pop(origin, pop="edge", parents=parent, **settings) as pop, pop.client() as client:
            await client.request(method, "/events", [("Content-Length", "0")] if method == "POST" else [])
            await client.response_head()
            for drop in drops[:2]:
                drop.set()
                assert b"a" in await client.body_bytes(6)
                for one in (pop, shield):
                    one.pass_time(90)
            for one in (pop, shield):
                one.pass_time(110)
            assert await client.closed() in ("fin", "rst")


async def test_events_on_a_clock_that_runs(origin: OriginDouble) -> None:
    """The sweeps of a second find nothing overdue in a quiet stream of events, and all of it in another answer."""
    drops = [asyncio.Event() for _ in range(2)]
    for target, kind in (("/events", "text/event-stream"), ("/text", "text/plain")):
        origin.on(target, dripping([("Content-Type", kind)], drops, framing="chunked"))
    drops[0].set()
    async with running_pop(origin, between_bytes_timeout="100ms") as pop, pop.client() as client, pop.client() as other:
        for one, target in ((client, "/events"), (other, "/text")):
            await one.request("GET", target)
            await one.response_head()
            assert b"a" in await one.body_bytes(6)
        assert await other.closed() in ("fin", "rst")
        drops[1].set()
        assert b"a" in await client.body_bytes(6)


async def test_a_long_poll_has_a_minute(origin: OriginDouble) -> None:
    """By default an origin may take as long to answer, and between two bytes, as nginx and Varnish let it: 60 s."""
    gate, half = asyncio.Event(), asyncio.Event()
    origin.on("/poll", Reply(pieces=[b"one", b"two"], gates=[None, half], wait=gate))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/poll")
        await origin.request_seen()
        pop.pass_time(55)
        gate.set()
        await client.response_head()
        pop.pass_time(55)
        half.set()
        assert await client.body_bytes(6) == b"onetwo"


@pytest.mark.slow
async def test_a_reader_that_is_slow_is_not_the_origins_fault(origin: OriginDouble) -> None:
    """While the client holds the answer back, the origin is not held to its rate."""
    size = 16 * 1024 * 1024
    origin.on("/big", Reply(fields=[("Cache-Control", "no-store")], body=bytes(size)))
    strict = running_pop(origin, between_bytes_timeout="300ms", origin_min_rate=str(size))
    async with strict as pop, pop.client(receive_buffer=4096) as client:
        await client.request("GET", "/big")
        await let_others_run(200)
        (connection,) = pop.worker.pool._open
        for seconds in range(60):  # sweeps come by and find it held back
            connection.sweep(pop.worker.clock() + seconds)
        assert len((await client.response()).body) == size


async def test_each_connection_that_ends_costs_one_question(origin: OriginDouble) -> None:
    """Of many questions on connections that are all reset each is asked once more, on a new connection, and no more."""
    count = 9
    async with running_pop(origin) as pop:
        gate = asyncio.Event()
        origin.otherwise(Reply(fields=[("Cache-Control", "no-store")], wait=gate))
        warm = [asyncio.get_running_loop().create_task(pop.get(f"/{number}")) for number in range(count)]
        await origin.request_seen(count)
        gate.set()
        await asyncio.gather(*warm)
        origin.otherwise(RESET)
        statuses = [(await pop.get(f"/reset{number}")).status for number in range(2 * count)]
        asked = len(origin.requests) - count
        assert set(statuses) == {502}
        assert moved(pop, "edgecache_origin_retries_total") == count
    assert asked == 3 * count
