"""QUERY (RFC 10008) on running POPs: stored by URL and content where a rule says so, in each tier, and else passed."""

from __future__ import annotations

import asyncio
import json
import random
import re
from itertools import count
from pathlib import Path

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.observed import samples
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.parents import SECRET, answered, chain
from harness.pop import Pop, running_pop
from harness.tiers import TIERS, pops
from harness.valkey import Server

from edgecache.semantics.message import Fields, Request
from edgecache.semantics.query_content import with_content
from edgecache.tasks import spawn
from edgecache.upstream.peer_auth import signature_line

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
HOST = ("Host", "search.example.org")
TOKEN = ("Authorization", "Bearer a-token-that-may-purge")
JSON = ("Content-Type", "application/json")
FRESH = ("Cache-Control", "max-age=60")


def example(url: str) -> str:
    """The TOML under the heading, with the origin of the test."""
    found = re.search(r"^### QUERY\n.*?```toml\n(.*?)```", DOCS.read_text(), re.S | re.M)
    assert found is not None
    return found[1].replace("http://10.0.0.7", url)


def answering(origin: OriginDouble, *fields: tuple[str, str]) -> None:
    """The origin answers with what it was asked, and how often it was asked anything before."""
    numbers = count()
    lines = fields or (FRESH,)

    def answer(request: ReceivedRequest) -> Reply:
        tag = ("ETag", f'"{hash(bytes(request.body))}"')
        if request.get("if-none-match") == tag[1]:
            return Reply(304, [*lines, tag])
        return Reply(fields=[*lines, tag, ("X-Number", str(next(numbers)))], body=b"to " + bytes(request.body))

    origin.reads_first = True
    origin.otherwise(answer)


async def query(
    pop: Pop, body: bytes, *fields: tuple[str, str], target: str = "/search", kind: tuple[str, str] = JSON
) -> ReceivedResponse:
    """One QUERY."""
    return await pop.request("QUERY", target, HOST, kind, *fields, body=body)


def is_hit(response: ReceivedResponse) -> bool:
    """Whether it came out of a store."""
    return "; hit" in (response.get("cache-status") or "")


async def test_the_example_runs(origin: OriginDouble) -> None:
    """One content is a hit however it is spelt; another, another type and another URL are not; nor is a GET."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop:
        first = await query(pop, b'{"q": "a b"}')
        assert (first.status, first.body, is_hit(first)) == (200, b'to {"q": "a b"}', False)
        assert bytes(origin.requests[0].body) == b'{"q": "a b"}'
        assert origin.requests[0].get("content-type") == "application/json"
        for spelling in (b'{"q": "a b"}', b'{"q":"a b"}', b' {"q" :\n"a b" }\t'):
            again = await query(pop, spelling)
            assert is_hit(again), spelling
            assert again.body == first.body
        for other in (b'{"q": "ab"}', b'{"q": "a  b"}', b'{"Q": "a b"}', b"", b'{"q": "a b"', b"[]"):
            response = await query(pop, other)
            assert (is_hit(response), response.body) == (False, b"to " + other), other
        assert not is_hit(await query(pop, b'{"q": "a b"}', kind=("Content-Type", "text/plain")))
        assert not is_hit(await query(pop, b'{"q": "a b"}', ("Content-Language", "de")))
        assert not is_hit(await query(pop, b'{"q": "a b"}', target="/search?x"))
        for method in ("GET", "HEAD", "GET"):
            response = await pop.request(method, "/search", HOST)
            assert response.body in (b"", b"to ")
        assert is_hit(await query(pop, b'{"q": "a b"}'))


async def test_the_same_connection_and_the_same_head(origin: OriginDouble) -> None:
    """Heads of QUERYs are never known: what comes after an equal head decides."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop, pop.client() as client:
        for number in range(24):
            body = b"[%d]" % (number % 3)
            if number % 2:
                head = b"QUERY /search HTTP/1.1\r\nHost: search.example.org\r\nContent-Type: application/json\r\n"
                await client.send(head + b"Content-Length: 3\r\n\r\n")
                await let_others_run(50)  # what is known of heads is looked up before the body is here
                await client.send(body, None)
            else:
                await client.request("QUERY", "/search", [HOST, JSON], body)
            response = await client.response()
            assert response.body == b"to " + body
            assert is_hit(response) is (number >= 3)


@pytest.mark.parametrize("rules", ["", 'cache = { ttl = "1m" }', "cache = { query_method = false, ttl = '1m' }"])
async def test_without_a_rule_all_pass(origin: OriginDouble, rules: str) -> None:
    """Each QUERY reaches the origin, and nothing of it is stored."""
    answering(origin)
    text = re.sub(r"^cache = .*", rules, example(origin.url), flags=re.M)
    async with running_pop(origin, sites=text) as pop:
        for _ in range(4):
            response = await query(pop, b"[]")
            assert "fwd=method" in (response.get("cache-status") or "")
        assert len(origin.requests) == 4
        assert len(pop.worker.edge.memory) == 0


async def test_large_and_late_contents_pass(origin: OriginDouble) -> None:
    """They reach the origin whole, and are counted."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop:
        large = b"x" * (64 * 1024 + 1)
        for _ in range(2):
            response = await query(pop, large)
            assert (response.body, is_hit(response)) == (b"to " + large, False)
        async with pop.client() as client:
            head = b"QUERY /search HTTP/1.1\r\nHost: search.example.org\r\nExpect: 100-continue\r\n"
            await client.send(head + b"Content-Length: 2\r\n\r\n", "QUERY")
            await origin.request_seen(3)
            await client.send(b"[]", None)
            assert (await client.response()).body == b"to []"
        counted = samples(pop.worker.watch.registry.snapshot())
        assert counted["edgecache_query_passed_total,large"] == 2
        assert counted["edgecache_query_passed_total,late"] == 1
        within = b"y" * (64 * 1024)
        assert [is_hit(await query(pop, within)) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("framed", ["length", "chunked"])
async def test_a_content_that_breaks_off_leaves_nothing(origin: OriginDouble, framed: str) -> None:
    """Neither upstream nor in the store; the whole content is no hit afterwards."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop:
        async with pop.client() as client:
            head = b"QUERY /search HTTP/1.1\r\nHost: search.example.org\r\nContent-Type: application/json\r\n"
            if framed == "length":
                await client.send(head + b"Content-Length: 4\r\n\r\n[1")
            else:
                await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n")
        for body in (b"[1]", b"[1"):
            assert not is_hit(await query(pop, body))
        assert [bytes(request.body) for request in origin.requests] == [b"[1]", b"[1"]
        async with pop.client() as client:  # chunks are put together: the same content
            await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n")
            assert is_hit(await client.response())


async def test_conditions_ranges_and_vary(origin: OriginDouble) -> None:
    """As of GET; each of the responses is of one content."""
    answering(origin, FRESH, ("Vary", "Accept-Language"))
    async with running_pop(origin, sites=example(origin.url)) as pop:
        german, english = ("Accept-Language", "de"), ("Accept-Language", "en")
        first = await query(pop, b"[12345]", german)
        tag = ("If-None-Match", first.get("etag") or "")
        assert (await query(pop, b"[12345]", german, tag)).status == 304
        assert (await query(pop, b"[12346]", german, tag)).status == 200
        part = await query(pop, b"[12345]", german, ("Range", "bytes=3-5"))
        assert (part.status, part.body, part.get("content-range")) == (206, b"[12", "bytes 3-5/10")
        assert not is_hit(await query(pop, b"[12345]", english))
        assert is_hit(await query(pop, b"[12345]", english))
        before = len(origin.requests)
        pop.clock.advance(100)
        validated = await query(pop, b"[12345]", german)
        assert (validated.status, validated.body) == (200, first.body)
        (asked,) = origin.requests[before:]
        assert (asked.method, bytes(asked.body), asked.get("if-none-match")) == ("QUERY", b"[12345]", first.get("etag"))


@pytest.mark.parametrize("tier", TIERS)
async def test_each_tier_has_it_until_it_is_purged_or_written(origin: OriginDouble, valkey: Server, tier: str) -> None:
    """What one POP stored answers another; a purge of the URL, and a write to it, end all of its queries."""
    answering(origin)
    settings = {"sites": example(origin.url), "purge_tokens": f"cms={TOKEN[1][7:]}"}
    async with pops(origin, tier, valkey.url, **settings) as (first, second):
        for end in ("purge", "write"):
            for body in (b"[1]", b"[2]"):
                assert not is_hit(await query(first, body, target=f"/search/{end}")), end
            if tier == "regional":
                await first.written()
            before = len(origin.requests)
            for body in (b"[2]", b" [1]", b"[2] "):
                response = await query(second, body, target=f"/search/{end}")
                assert is_hit(response), (end, response.get("cache-status"))
                assert response.body == b"to " + body.strip()
            assert len(origin.requests) == before
            for pop in {first, second} if tier != "regional" else {first}:
                if end == "purge":
                    assert (await pop.request("PURGE", f"/search/{end}", HOST, TOKEN)).status < 300
                else:
                    assert (await pop.request("POST", f"/search/{end}", HOST, body=b"x")).status == 200
            for body in (b"[1]", b"[2]"):
                assert not is_hit(await query(second, body, target=f"/search/{end}")), end


async def test_many_at_once_are_one_fetch_for_each_content(origin: OriginDouble) -> None:
    """And none follows the fetch of another content."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop:
        bodies = [b"[%d]" % (number % 4) for number in range(32)]
        responses = await asyncio.gather(*(query(pop, body) for body in bodies))
        assert [response.body for response in responses] == [b"to " + body for body in bodies]
        assert len(origin.requests) == 4


async def test_overrides_change_nothing_of_what_is_stored(origin: OriginDouble) -> None:
    """They are not in the key: the origin of a stored response does not get them."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url)) as pop:
        await query(pop, b"[1]", ("X-HTTP-Method-Override", "DELETE"), ("X-Original-URL", "/other"))
        (request,) = origin.requests
        assert request.get("x-http-method-override") is request.get("x-original-url") is None
        assert is_hit(await query(pop, b"[1]"))


async def test_a_purge_ends_queries_of_every_place_and_rule(origin: OriginDouble) -> None:
    """Each part of a key, of trusted claims, of rules and of contents, leaves the URL of it what it is."""
    answering(origin)
    text = (
        example(origin.url)
        + """
[[sites.rules]]
name = "s"
when = { cookie = { s = true } }
request_headers = { set = { X-S = "1" } }
"""
    )
    settings = {"sites": text, "trusted_proxies": "127.0.0.1", "purge_tokens": f"cms={TOKEN[1][7:]}"}
    async with running_pop(origin, **settings) as pop:
        asked = [
            (method, body, place, cookie)
            for method, body in (("QUERY", b"[1]"), ("QUERY", b"[2]"), ("GET", b""))
            for place in ((), (("CF-IPCountry", "DE"),))
            for cookie in ((), (("Cookie", "s=1"),))
        ]
        for hits in (False, True, False):
            if hits is False:
                await pop.request("PURGE", "/search", HOST, TOKEN)
            for method, body, place, cookie in asked:
                response = await pop.request(method, "/search", HOST, JSON, *place, *cookie, body=body)
                assert is_hit(response) is hits, (method, body, place, cookie)


async def test_parameters_that_do_not_count(origin: OriginDouble) -> None:
    """Ignored ones, and those that a rule drops, are no part of the key, and a purge by any spelling ends it."""
    answering(origin)
    text = example(origin.url).replace("query_method = true", 'query_method = true, key = { query = { drop = ["x"] } }')
    settings = {"sites": text, "ignored_parameters": "utm_*", "purge_tokens": f"cms={TOKEN[1][7:]}"}
    async with running_pop(origin, **settings) as pop:
        for purged in ("/search?q=1", "/search?utm_b=2&q=1&x=3"):
            assert not is_hit(await query(pop, b"[1]", target="/search?utm_a=1&x=1&q=1"))
            assert origin.requests[-1].target == "/search?q=1"
            for same in ("/search?q=1", "/search?q=1&x=2"):
                assert is_hit(await query(pop, b"[1]", target=same))
            assert (await pop.request("PURGE", purged, HOST, TOKEN)).status < 300
            await pop.get("/search?q=1", HOST)


async def test_slices_are_of_gets(origin: OriginDouble) -> None:
    """A QUERY, or a range of one, is never had by GETs of slices."""
    answering(origin)
    text = example(origin.url).replace("query_method = true", 'query_method = true, slices = "64KiB"')
    async with running_pop(origin, sites=text) as pop:
        for fields in ((("Range", "bytes=0-1"),), ()):
            body = bytes(3000) + str(fields).encode()
            for _ in range(3):
                response = await query(pop, body, *fields)
                assert response.body in (b"to " + body, b"to")
        assert {request.method for request in origin.requests} == {"QUERY"}


async def test_random_contents_get_what_is_theirs(origin: OriginDouble) -> None:
    """Many spellings of few contents, over one POP: each response is to the content, whatever was stored before."""
    answering(origin)
    draw = random.Random(20261130)
    async with running_pop(origin, sites=example(origin.url)) as pop, pop.client() as client:
        hits = 0
        for _ in range(600):
            value = draw.choice(['"a"', '"a "', "1", "1.0", "[]", '{"a": 1}', '"\\" "', "[1, 2]", "[12]"])
            space = [draw.choice(["", " ", "\n\t"]) for _ in range(3)]
            body = f"{space[0]}[{space[1]}{value}]{space[2]}".encode()
            kind = draw.choice([JSON, JSON, ("Content-Type", "text/plain")])
            fields = [HOST, kind, *([("Cookie", f"_ga={draw.random()}")] if draw.random() < 0.5 else [])]
            await client.request("QUERY", draw.choice(["/search", "/search/a"]), fields, body)
            response = await client.response()
            hits += is_hit(response)
            got = response.body.removeprefix(b"to ")
            assert got == body if kind is not JSON else json.loads(got) == json.loads(body)
            assert type(json.loads(got)[0]) is type(json.loads(body)[0])
        assert 300 < hits < 600


@pytest.mark.parametrize("loss", ["refused", "lost"])
async def test_a_parent_that_fails_is_passed_by(origin: OriginDouble, loss: str) -> None:
    """A stored QUERY is repeated at the origin, as a GET is."""
    answering(origin)
    async with chain(origin, sites=example(origin.url)) as pops_:
        assert not is_hit(await query(pops_.edge, b"[1]"))
        assert answered(pops_.shields[0]) == 1
        way = pops_.ways[0]
        if loss == "refused":
            await way.stop()
            response = await query(pops_.edge, b"[2]")
        else:
            way.stall()
            waiting = spawn(query(pops_.edge, b"[2]"), "query")
            await let_others_run(200)
            assert not waiting.done()
            await way.stop()
            response = await waiting
        assert (response.status, response.body) == (200, b"to [2]")


async def test_a_parent_believes_a_signed_head_with_its_own_content_only(origin: OriginDouble) -> None:
    """With another, the request is an ordinary client's: what it says as a POP counts for nothing."""
    answering(origin)
    async with running_pop(origin, sites=example(origin.url), pop_secret=SECRET) as pop:
        request = Request(b"QUERY", b"/search", b"search.example.org", Fields(()))
        internal = ((b"Edgecache-Scheme", b"http"), (b"Edgecache-Client", b"198.51.100.7"), (b"Edgecache-Region", b""))
        now = pop.worker._time.wall()
        for content, believed in ((b"[1]", True), (b"[2]", False), (b"[3]" * 30_000, False)):
            line = signature_line(SECRET.encode(), b"edge", now, with_content(request, b"[1]"), internal)
            lines = [(name.decode(), value.decode()) for name, value in (*internal, line)]
            response = await query(pop, content, *lines)
            assert (response.status, response.body) == (200, b"to " + content)
            assert (response.get("edgecache-seen") is not None) is believed
