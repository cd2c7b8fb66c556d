"""The request metrics and the log's members: each request is counted once, by who answered it, how and why."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from harness.client import until
from harness.observed import logged, samples
from harness.origin import OriginDouble, Reply, hang
from harness.pop import Pop, running_pop
from harness.valkey import Server
from harness.wire import Truncated

from edgecache.semantics.outcomes import TIERS, Result
from edgecache.storage.resident_clock import clock_of
from edgecache.telemetry.request_metrics import SAMPLED, USUAL

FRESH = ("Cache-Control", "max-age=60")


def requests(pop: Pop) -> dict[str, float]:
    """Requests counted so far: `reason,result,tier` and how many, of all statuses, without those that are 0."""
    counts: Counter[str] = Counter()
    for key, value in by_status(pop).items():
        reason, result, _, tier = key.split(",")
        counts[f"{reason},{result},{tier}"] += int(value)
    return dict(counts)


def by_status(pop: Pop) -> dict[str, float]:
    """The same as `reason,result,status,tier`."""
    found = samples(pop.worker.snapshot())
    name = "edgecache_requests_total,"
    return {key.removeprefix(name): value for key, value in found.items() if key.startswith(name) and value}


async def hit(pop: Pop, origin: OriginDouble) -> None:
    """The second request is answered by the memory."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    await pop.get("/a")
    await pop.get("/a")


async def revalidated(pop: Pop, origin: OriginDouble) -> None:
    """What is stored is stale, and the origin says that it is still good."""
    origin.on("/a", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello"))
    await pop.get("/a")
    origin.clock.advance(61)
    origin.on("/a", Reply(304, fields=[FRESH, ("ETag", '"1"')]))
    await pop.get("/a")


async def stale(pop: Pop, origin: OriginDouble) -> None:
    """What is stored is stale and may be served while it is refreshed."""
    origin.on("/a", Reply(fields=[("Cache-Control", "max-age=1, stale-while-revalidate=60")], body=b"hello"))
    await pop.get("/a")
    origin.clock.advance(2)
    await pop.get("/a")


async def passed(pop: Pop, origin: OriginDouble) -> None:
    """An unsafe request is passed through."""
    origin.on("/a", Reply(body=b"hello"))
    await pop.request("POST", "/a", body=b"x")


async def failed(pop: Pop, origin: OriginDouble) -> None:
    """Nobody listens where the origin was."""
    await origin.stop()
    await pop.get("/a")


async def refused(pop: Pop, origin: OriginDouble) -> None:
    """The request has been here before."""
    await pop.get("/a", ("CDN-Loop", "test"))


async def other_variant(pop: Pop, origin: OriginDouble) -> None:
    """The URL is known, but not this variant."""
    origin.on("/a", Reply(fields=[FRESH, ("Vary", "X-A")], body=b"hello"))
    await pop.get("/a", ("X-A", "1"))
    await pop.get("/a", ("X-A", "2"))


async def purge_refused(pop: Pop, origin: OriginDouble) -> None:
    """Somebody purges where nobody may."""
    await pop.request("PURGE", "/a")


async def client_left(pop: Pop, origin: OriginDouble) -> None:
    """The client goes before the origin has answered."""
    origin.on("/a", hang())
    async with pop.client() as client:
        await client.request("GET", "/a")
        await origin.request_seen(1)
        client.reset()
    await aborted(pop)


async def cut_short(pop: Pop, origin: OriginDouble) -> None:
    """The origin's answer ends in the middle."""
    origin.on("/a", Reply(body=b"hello", cut_at=2))
    with pytest.raises((Truncated, ConnectionResetError)):
        await pop.get("/a")
    await aborted(pop)


async def aborted(pop: Pop) -> None:
    """Wait until an exchange has come to nothing."""
    await until(lambda: any("aborted" in key for key in requests(pop)))


MISS = "uri-miss,miss,origin"


@pytest.mark.parametrize(
    ("scene", "counted"),
    [
        (hit, {MISS: 1, "fresh,hit,memory": 1}),
        (revalidated, {MISS: 1, "stale,revalidated,origin": 1}),
        (stale, {MISS: 1, "stale,stale,memory": 1}),
        (passed, {"method,pass,pass": 1}),
        (failed, {"connect,error,none": 1}),
        (refused, {"loop,error,none": 1}),
        (purge_refused, {"purge-off,error,none": 1}),
        (client_left, {"client-left,aborted,none": 1}),
        (cut_short, {"cut-short,aborted,none": 1}),
        (other_variant, {MISS: 1, "vary-miss,miss,origin": 1}),
    ],
)
async def test_each_request_is_counted_by_tier_and_reason(
    origin: OriginDouble, scene: Callable[[Pop, OriginDouble], Any], counted: dict[str, float]
) -> None:
    """Who answered, what came of it and why are labels; every request is in exactly one series."""
    async with running_pop(origin) as pop:
        await scene(pop, origin)
        assert requests(pop) == counted


def test_every_result_has_a_tier_and_is_exported_from_the_start() -> None:
    """A new one that has none would leave its requests unanswered."""
    assert set(TIERS) == set(Result)
    assert {result for result, _, _, _ in USUAL} == set(Result)


async def test_a_regional_hit_is_of_its_tier(origin: OriginDouble, valkey: Server) -> None:
    """What another POP of the region has fetched is counted as regional, and its read is timed."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    settings = {"regional": valkey.url, "regional_timeout": "5s", "access_log": "json"}
    async with running_pop(origin, origin.clock, **settings) as one:
        await one.get("/a")
        await valkey.has(1)
    async with running_pop(origin, origin.clock, **settings) as two:
        await two.get("/a")
        assert requests(two) == {"uri-miss,regional,regional": 1}


async def test_what_a_parent_has_answered_is_of_its_tier(origin: OriginDouble) -> None:
    """A miss, its followers and a validation through a parent are the parent's; what is passed is passed."""
    gate = asyncio.Event()
    origin.on("/a", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello", wait=gate))
    secret = "a-secret-of-this-fleet"
    async with (
        running_pop(origin, pop="shield", pop_secret=secret) as shield,
        running_pop(origin, pop_secret=secret, parents=f"http://127.0.0.1:{shield.port}") as edge,
    ):
        asking = [asyncio.get_running_loop().create_task(edge.get("/a")) for _ in range(2)]
        await origin.request_seen(1)
        await until(lambda: edge.worker.edge.flights.followed == 1)
        gate.set()
        await asyncio.gather(*asking)
        assert requests(edge) == {"uri-miss,miss,parent": 1, "uri-miss,collapsed,parent": 1}
        assert requests(shield)[MISS] == 1
        origin.clock.advance(61)
        origin.on("/a", Reply(304, fields=[FRESH, ("ETag", '"1"')]))
        await edge.get("/a")
        assert requests(edge)["stale,revalidated,parent"] == 1
        await edge.request("POST", "/a", body=b"x")
        assert requests(edge)["method,pass,pass"] == 1


async def test_followers_are_counted_as_such(origin: OriginDouble) -> None:
    """Of three who ask at once, one leads a flight, two follow it."""
    gate = asyncio.Event()
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", wait=gate))
    async with running_pop(origin) as pop:
        asking = [asyncio.get_running_loop().create_task(pop.get("/a")) for _ in range(3)]
        await origin.request_seen(1)
        await until(lambda: pop.worker.edge.flights.followed == 2)
        assert samples(pop.worker.snapshot())["edgecache_flights"] == 1
        gate.set()
        await asyncio.gather(*asking)
        found = samples(pop.worker.snapshot())
        assert requests(pop) == {MISS: 1, "uri-miss,collapsed,origin": 2}
    assert [found[f"edgecache_flights{kind}"] for kind in ("", "_led_total", "_followed_total")] == [0, 1, 2]


async def test_known_hits_are_counted_exactly_and_timed_by_sample(origin: OriginDouble) -> None:
    """Requests and bytes are exact however a hit was answered; one timed hit stands for many."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    count = 2 * SAMPLED + 3  # one miss, and two that are not known yet
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(count):
            await client.request("GET", "/a")
            await client.response()
        known = pop.worker.watch.requests.known_hits
        found = samples(pop.worker.snapshot())
    assert known == 2 * SAMPLED
    assert found["edgecache_requests_total,fresh,hit,2xx,memory"] == count - 1
    assert found["edgecache_client_bytes_out_total,memory"] == 5 * (count - 1)
    assert found["edgecache_client_bytes_out_total,origin"] == 5
    assert found["edgecache_request_seconds_count,memory"] == count - 1


async def test_every_byte_from_clients_is_counted(origin: OriginDouble) -> None:
    """Heads, bodies and what is refused."""
    origin.on("/a", Reply(body=b"hello"))
    asked = [b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"]
    async with running_pop(origin) as pop:
        for raw in asked:
            async with pop.client() as client:
                await client.send(raw)
                await client.response()
        found = samples(pop.worker.snapshot())
    assert found["edgecache_client_bytes_in_total"] == sum(map(len, asked))
    assert found["edgecache_connections_opened_total"] == 2


async def test_no_client_can_make_series(origin: OriginDouble) -> None:
    """Hosts, paths, methods, fields and faults of clients' choosing add no label value."""
    origin.otherwise(Reply(fields=[FRESH], body=b"hello"))

    async def series(pop: Pop, number: int) -> int:
        await pop.get(f"/{number}", ("Host", f"host{number}"), ("X-Trace", str(number)))
        await pop.request(f"M{number}", f"/{number}")
        await pop.get(f"/{number}", ("traceparent", f"00-{number:032x}-{number:016x}-01"))
        async with pop.client() as client:
            await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\nBad%d : x\r\n\r\n" % (number, number))
            await client.response()
        return len(samples(pop.worker.snapshot()))

    async with running_pop(origin) as pop:
        assert len({await series(pop, number) for number in range(1, 20)}) == 1


async def test_the_log_says_who_answered_why_and_how_long_each_tier_took(origin: OriginDouble, valkey: Server) -> None:
    """One line per request: outcome, trace id, and the time of the tiers that were asked."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    trace = "0af7651916cd43dd8448eb211c80319c"
    settings = {"regional": valkey.url, "regional_timeout": "5s", "access_log": "json"}
    async with running_pop(origin, clock_of(ticking(origin.clock)), **settings) as pop:
        lines = logged(pop)
        await pop.get("/a", ("traceparent", f"00-{trace}-b7ad6b7169203331-00"))
        await pop.get("/a")
        await pop.get("/b", ("traceparent", "no trace"))
    miss, hit, other = lines

    assert [miss[name] for name in ("result", "tier", "reason", "trace_id")] == ["miss", "origin", "uri-miss", trace]
    assert (miss["regional_ms"] > 0, miss["upstream_ms"] > 0) == (True, True)
    assert [hit[name] for name in ("result", "tier", "reason")] == ["hit", "memory", "fresh"]
    assert hit.keys().isdisjoint(("trace_id", "regional_ms", "upstream_ms"))
    assert "trace_id" not in other
    assert {one["client"] for one in (miss, hit, other)} == {"127.0.0.1"}


def ticking(clock: Callable[[], float]) -> Any:
    """A clock that goes on by a tenth of a millisecond whenever it is read."""
    reads = iter(range(1_000_000))
    return lambda: clock() + next(reads) / 10_000


REFUSALS = [  # what is sent, the status, the reason, and what the log has of the request line
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, None, "GET", "/"),
    (b"\x16\x03\x01\r\n\r\n", 400, None, "", ""),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, None, "GET", "/" + 1023 * "x"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\n" + 101 * b"A: b\r\n" + b"\r\n", 431, None, "GET", "/a"),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, "method", "CONNECT", "a:1"),
    (b"GET /a HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http-version", "GET", "/a"),
    (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n", 413, "body-too-large", "POST", "/a"),
    (
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        None,
        "POST",
        "/a",
    ),
    (b"HEAD /a HTTP/1.1\r\n\r\n", 400, None, "HEAD", "/a"),
]


@pytest.mark.parametrize(("raw", "status", "reason", "method", "target"), REFUSALS)
async def test_what_is_refused_is_counted_and_logged(
    origin: OriginDouble, raw: bytes, status: int, reason: str | None, method: str, target: str
) -> None:
    """A request that is refused before it is one has a line, and is in the metrics, once."""
    async with running_pop(origin, access_log="json", max_request_body="10") as pop:
        lines = logged(pop)
        async with pop.client() as client:
            await client.send(raw)
            answer = await client.response(method or "GET")
            await client.closed()
        counts = by_status(pop)
    assert answer.status == status
    (line,) = lines
    assert [line[name] for name in ("status", "method", "target", "result")] == [status, method, target, "error"]
    assert line["bytes"] == len(answer.body)
    assert reason in (None, line["reason"])
    assert counts == {f"{line['reason']},error,{status // 100}xx,none": 1}


async def test_a_head_that_does_not_come_is_logged_with_its_time(origin: OriginDouble) -> None:
    """408 is a request too: how long it was waited for is its duration."""
    async with running_pop(origin, access_log="json") as pop, pop.client() as client:
        lines = logged(pop)
        await client.send(b"HEAD /slow HTTP/1.1\r\nHo")
        await until(lambda: any(connection.unread for connection in pop.worker.connections))
        pop.pass_time(pop.worker.head_timeout + 1)
        answer = await client.response("HEAD")
        counts = by_status(pop)
    assert answer.status == 408
    assert counts == {"head-timeout,error,4xx,none": 1}
    (line,) = lines
    assert (line["target"], line["duration_ms"] > 1000) == ("/slow", True)


async def test_who_is_turned_away_is_logged(origin: OriginDouble) -> None:
    """A connection beyond the bound gets 503, a line and a count."""
    async with running_pop(origin, access_log="json", max_connections_per_address="1") as pop, pop.client():
        await until(lambda: len(pop.worker.connections) == 1)
        lines = logged(pop)
        async with pop.client() as second:
            assert (await second.response("GET")).status == 503
        assert by_status(pop) == {"too-many-from-address,error,5xx,none": 1}
    (line,) = lines
    assert (line["status"], line["client"], line["reason"]) == (503, "127.0.0.1", "too-many-from-address")


async def test_a_body_that_is_refused_late_is_one_aborted_request(origin: OriginDouble) -> None:
    """An answer that has begun is cut, and its reason is the refusal's: counted once."""
    gate = asyncio.Event()
    origin.on("/a", Reply(pieces=[b"x", b"y"], framing="chunked", gates=[None, gate], before_body=True))
    async with running_pop(origin) as pop, pop.client() as client:
        head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"20000\r\n" + b"x" * 0x20000)
        await client.response_head()
        await client.send(b"\r\nzz\r\n")
        await until(lambda: any("aborted" in key for key in requests(pop)))
        gate.set()
        (counted,) = requests(pop)
    assert counted.endswith(",aborted,none")
    assert "client-left" not in counted


@pytest.mark.parametrize("status", [200, 301, 404])
async def test_the_class_of_the_status_is_a_label(origin: OriginDouble, status: int) -> None:
    """Known hits have the class that they had when they were not known."""
    origin.on("/a", Reply(status, fields=[FRESH, ("Location", "/b")], body=b"hello"))
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(5):
            await client.request("GET", "/a")
            await client.response()
        counts = by_status(pop)
        known = pop.worker.watch.requests.known_hits
        origin_answers = samples(pop.worker.snapshot())[f"edgecache_origin_responses_total,{status // 100}xx"]
    one = f"{status // 100}xx"
    assert counts == {f"uri-miss,miss,{one},origin": 1, f"fresh,hit,{one},memory": 4}
    assert (known > 0 or counts[f"fresh,hit,{one},memory"] == 4, origin_answers) == (True, 1)


async def test_what_an_origin_answers_is_counted_by_status(origin: OriginDouble) -> None:
    """Misses, passes by known heads, writes and refreshes: an origin that answers 500 to all is seen."""
    origin.otherwise(Reply(500, fields=[("Cache-Control", "no-store")], body=b"oops"))
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(5):
            await client.request("GET", "/a")
            await client.response()
        await pop.request("POST", "/b", body=b"x")
        await pop.request("HEAD", "/c")
        assert samples(pop.worker.snapshot())["edgecache_origin_responses_total,5xx"] == 7
