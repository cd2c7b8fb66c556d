"""What a stored response says is the same, whichever tier it comes out of."""

from __future__ import annotations

import pytest
from harness.client import until
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop
from harness.ranged import numbered
from harness.tiers import TIERS, pops
from harness.valkey import Server

from edgecache.storage.regional_chunks import CHUNK

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"1"')


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_204_has_no_length(origin: OriginDouble, valkey: Server, tier: str, method: str) -> None:
    """RFC 9110 §8.6: neither cold nor warm."""
    origin.on("/it", Reply(204, [FRESH, ("Content-Length", "0")]))
    async with pops(origin, tier, valkey.url) as (first, second):
        cold = await first.get("/it")
        if tier == "regional":
            await first.written()
        warm = [await second.request(method, "/it") for _ in range(3)]

    for answer in (cold, *warm):
        assert (answer.status, answer.get("Content-Length"), answer.get("Transfer-Encoding")) == (204, None, None)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [6, 3 * CHUNK])
async def test_a_304_lets_scripts_read_it(origin: OriginDouble, valkey: Server, tier: str, size: int) -> None:
    """It has the CORS fields of what it is about (RFC 9110 §15.4.5, the Fetch standard's CORS check)."""
    cors = [
        ("Access-Control-Allow-Origin", "https://a.test"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-A"),
        ("Cross-Origin-Resource-Policy", "cross-origin"),
    ]
    origin.on("/it", Reply(200, [FRESH, ETAG, *cors], numbered(size)))
    async with pops(origin, tier, valkey.url) as (first, second):
        await first.get("/it")
        if tier == "regional":
            await first.written()
        for _ in range(3):
            answer = await second.get("/it", ("If-None-Match", '"1"'))

            assert answer.status == 304
            assert [(name, answer.get(name)) for name, _ in cors] == cors
    assert len(origin.requests) == 1


@pytest.mark.parametrize("tier", TIERS)
async def test_a_suffix_of_nothing_is_all_of_it(origin: OriginDouble, valkey: Server, tier: str) -> None:
    """RFC 9110 §14.1.2."""
    origin.on("/it", Reply(200, [FRESH, ETAG], b""))
    async with pops(origin, tier, valkey.url) as (first, second):
        await first.get("/it")
        if tier == "regional":
            await first.written()
        for _ in range(3):
            answer = await second.get("/it", ("Range", "bytes=-5"))

            assert (answer.status, answer.body, answer.get("Content-Range")) == (200, b"", None)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("said", ["bytes=-5", "bytes=0-", "bytes=0-0", "bytes=-0", "bytes=5-9", "bytes=0-4,-1"])
async def test_ranges_of_nothing_are_the_same_cold_and_warm(origin: OriginDouble, said: str) -> None:
    """Of an origin that knows ranges: no position is within an empty page, and a suffix is all of it (§14.1.2)."""

    def answer(request: ReceivedRequest) -> Reply:
        """The origin's own 416, or the whole."""
        wanted = (request.get("Range") or "=-1").partition("=")[2]
        suffixes = [part for part in wanted.split(",") if part.startswith("-") and part != "-0"]
        if not suffixes:
            return Reply(416, [("Content-Range", "bytes */0")])
        return Reply(200, [FRESH, ETAG], b"")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        cold = await pop.get("/cold", ("Range", said))
        await pop.get("/warm")
        warm = [await pop.get("/warm", ("Range", said)) for _ in range(3)]

    seen = {(one.status, one.body if one.status < 300 else b"", one.get("Content-Range")) for one in (cold, *warm)}
    assert len(seen) == 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [6, 3 * CHUNK])
async def test_a_304_without_date_makes_it_fresh(origin: OriginDouble, valkey: Server, tier: str, size: int) -> None:
    """Its date is that of its arrival (RFC 9110 §6.6.1), and the age counts from there (RFC 9111 §4.2.3)."""

    def answer(request: ReceivedRequest) -> Reply:
        """A validation says nothing of the time."""
        if request.get("If-None-Match") == '"1"':
            return Reply(304, [ETAG], date=False)
        return Reply(200, [FRESH, ETAG], numbered(size))

    origin.on("/it", answer)
    async with pops(origin, tier, valkey.url) as (first, second):
        await first.get("/it")
        if tier == "regional":
            await first.written()
        else:
            await second.get("/it")
        origin.clock.advance(61)
        assert (await second.get("/it")).body == numbered(size)
        asked = len(origin.requests)
        origin.clock.advance(30)
        if tier == "regional":
            await second.written()
        for pop in (second, first):
            again = await pop.get("/it")

            assert (again.body, again.get("Age")) == (numbered(size), "30")
    assert len(origin.requests) == asked


async def test_a_rest_without_date_is_of_when_it_came(origin: OriginDouble) -> None:
    """What was known in part is a whole as fresh as its last part."""

    def answer(request: ReceivedRequest) -> Reply:
        """Two halves, of which the second says nothing of the time."""
        first = (request.get("Range") or "").startswith("bytes=0")
        span = "bytes 0-2/6" if first else "bytes 3-5/6"
        return Reply(206, [FRESH, ETAG, ("Content-Range", span)], b"abc" if first else b"def", date=first)

    origin.on("/it", answer)
    async with pops(origin, "memory", "") as (pop, _):
        await pop.get("/it", ("Range", "bytes=0-2"))
        origin.clock.advance(61)
        assert (await pop.get("/it")).body == b"abcdef"
        origin.clock.advance(30)
        again = await pop.get("/it")

    assert (again.body, again.get("Age")) == (b"abcdef", "30")
    assert len(origin.requests) == 2


@pytest.mark.parametrize("tier", TIERS)
async def test_only_lists_are_normalised(origin: OriginDouble, valkey: Server, tier: str) -> None:
    """RFC 9111 §4.1: what may mean something else is another variant, in every tier."""
    origin.on("/it", lambda request: Reply(200, [FRESH, ("Vary", "X-A")], (request.get("X-A") or "").encode()))
    async with pops(origin, tier, valkey.url) as (first, second):
        for value in ("a ,b", "a,b", "a, b", "a ,b"):
            assert (await first.get("/it", ("X-A", value))).body == value.encode()
        if tier == "regional":
            await first.written()
        for value in ("a,b", "a ,b", "a, b"):
            for number in range(3):
                answer = await second.get("/it", ("X-A", value), ("Cookie", f"n={number}"))

                assert answer.body == value.encode()
    await until(lambda: len(origin.requests) == 3)


async def test_a_named_list_selects_for_heads_that_are_not_parsed(origin: OriginDouble) -> None:
    """A field that most answers do not vary by counts where one does, by the value that it has as a list."""
    origin.on("/it", lambda request: Reply(200, [FRESH, ("Vary", "DNT")], (request.get("DNT") or "").encode()))
    async with running_pop(origin, list_fields="dnt") as pop, pop.client() as client:
        for number in range(20):
            value = ("1,2", "3,4")[number % 2]
            spelt = value.replace(",", " , ") if number > 1 else value
            await client.request("GET", "/it", [("DNT", spelt), ("Cookie", f"n={number}")])

            assert (await client.response()).body == value.encode()
    assert len(origin.requests) == 2


async def test_a_rest_in_another_coding_is_not_joined(origin: OriginDouble) -> None:
    """An origin that gives two codings one ETag gets asked for the whole (RFC 9111 §3.4)."""

    def answer(request: ReceivedRequest) -> Reply:
        """Whatever is not the first half is coded."""
        span = request.get("Range")
        if span is None:
            return Reply(200, [FRESH, ETAG], b"abcdef")
        if span == "bytes=0-2":
            return Reply(206, [FRESH, ETAG, ("Content-Range", "bytes 0-2/6")], b"abc")
        return Reply(
            206, [FRESH, ETAG, ("Content-Encoding", "gzip"), ("Content-Range", "bytes 3-5/6")], b"\x1f\x8b\x08"
        )

    origin.on("/it", answer)
    async with running_pop(origin) as pop:
        await pop.get("/it", ("Range", "bytes=0-2"))
        for _ in range(3):
            whole = await pop.get("/it")

            assert (whole.body, whole.get("Content-Encoding")) == (b"abcdef", None)
