"""Answers that are one client's, and come by ways on which nothing is stored anew (FAULTS groups B, C and E).

A 304 and a HEAD's answer change what is stored; an error may be one client's doing; interim responses have an asker.
"""

from __future__ import annotations

import asyncio

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop

ETAG = ("ETag", '"v"')
FRESH = ("Cache-Control", "max-age=60")
SHORT = ("Cache-Control", "max-age=10")
ONE_CLIENTS = [
    [("Set-Cookie", "session=alice"), FRESH],
    [("Cache-Control", "private, max-age=60")],
    [("Cache-Control", 'private="x-user", max-age=60')],
    [("Cache-Control", "no-store, max-age=60")],
    [("CDN-Cache-Control", "private"), FRESH],
    [("Connection", "Cache-Control"), ("Cache-Control", "private, max-age=60")],
    [("Connection", "Set-Cookie"), ("Set-Cookie", "session=alice"), FRESH],
    [("Vary", "*"), FRESH],
    [("Vary", "Cookie"), FRESH],
    [("Vary", "X-Tenant"), FRESH],
]


@pytest.mark.parametrize("said", ONE_CLIENTS)
async def test_a_304_for_one_client_is_not_for_the_next(origin: OriginDouble, said: list[tuple[str, str]]) -> None:
    """What a validation says to one client is shown to no other, and what it forbids to keep is not kept."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("if-none-match"):
            return Reply(304, [ETAG, ("X-User", "alice"), *said])
        return Reply(200, [ETAG, SHORT], (request.get("cookie") or "").encode())

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert (await pop.get("/page", ("Cookie", "alice"))).status == 200

        response = await pop.get("/page", ("Cookie", "bob"))
        assert b"X-User" not in response.head.raw
        assert b"session=" not in response.head.raw


@pytest.mark.parametrize("said", ONE_CLIENTS)
async def test_who_waits_for_a_304_for_another_asks_itself(origin: OriginDouble, said: list[tuple[str, str]]) -> None:
    """Two who ask at once for what is stale: the 304 that is for the first only is not for the second."""
    gate = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("if-none-match"):
            return Reply(304, [ETAG, ("X-User", "alice"), *said], wait=gate)
        return Reply(200, [ETAG, SHORT], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as alice, pop.client() as bob:
        await pop.get("/page")
        pop.clock.advance(11)
        await alice.request("GET", "/page")
        await origin.request_seen(2)
        await bob.request("GET", "/page")
        await let_others_run(50)
        gate.set()

        first, second = await alice.response(), await bob.response()
        assert (first.body, second.body) == (b"page", b"page")
        assert b"X-User" in first.head.raw
        assert b"X-User" not in second.head.raw


@pytest.mark.parametrize("said", ONE_CLIENTS)
async def test_a_heads_answer_for_one_client_is_not_for_the_next(
    origin: OriginDouble, said: list[tuple[str, str]]
) -> None:
    """The same holds for what a HEAD brings, by which what is stored would be updated (RFC 9111 §4.3.5)."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.method == "HEAD":
            return Reply(200, [ETAG, ("X-User", "alice"), *said], b"page")
        return Reply(200, [ETAG, SHORT], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert (await pop.request("HEAD", "/page")).status == 200

        response = await pop.get("/page")
        assert b"X-User" not in response.head.raw
        assert b"session=" not in response.head.raw


async def test_directives_that_connection_took_hold_after_a_304(origin: OriginDouble) -> None:
    """`no-cache` in a Cache-Control that was for one connection is obeyed before and after a 304 (FAULTS 23)."""
    said = [ETAG, ("Connection", "Cache-Control"), ("Cache-Control", "no-cache, max-age=60")]
    modified = ("Last-Modified", "Mon, 14 Nov 2022 22:13:20 GMT")
    origin.otherwise(
        lambda request: Reply(304, [ETAG]) if request.get("if-none-match") else Reply(200, [*said, modified], b"page")
    )
    async with running_pop(origin) as pop:
        for _ in range(4):
            assert (await pop.get("/page")).body == b"page"

    assert len(origin.requests) == 4


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (406, ("Accept", "x/y")),
        (408, ("X-Slow", "1")),
        (411, ("X-A", "b")),
        (412, ("If-Match", '"z"')),
        (412, ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")),
        (415, ("Content-Encoding", "zip")),
        (416, ("Range", "bytes=99-")),
        (417, ("Expect", "the-impossible")),
        (422, ("X-A", "b")),
        (425, ("Early-Data", "1")),
        (426, ("Upgrade", "h2c")),
        (428, ("X-A", "b")),
        (429, ("X-A", "b")),
        (505, ("X-A", "b")),
        (511, ("X-A", "b")),
    ],
)
async def test_an_error_that_one_client_provokes_is_its_own(
    origin: OriginDouble, status: int, field: tuple[str, str]
) -> None:
    """What an odd request, or one too many of them, is answered poisons nothing, whatever it says (CPDoS)."""
    turn = iter(
        [Reply(status, [("Cache-Control", "public, max-age=3600")], b"no"), *[Reply(200, [FRESH], b"page")] * 2]
    )
    origin.otherwise(lambda request: next(turn))
    async with running_pop(origin) as pop:
        assert (await pop.get("/page", field)).status in (status, 417)

        assert (await pop.get("/page")).status == 200


async def test_interim_responses_go_to_who_asked(origin: OriginDouble) -> None:
    """Early hints may be for one client: who merely waits for the same answer does not get them."""
    gate = asyncio.Event()
    hints = [(103, [("Link", "</alice>"), ("Content-Length", "5")])]
    origin.otherwise(lambda request: Reply(200, [FRESH], b"page", wait=gate, interim=hints))
    async with running_pop(origin) as pop, pop.client() as alice, pop.client() as bob:
        await alice.request("GET", "/page")
        await origin.request_seen()
        await bob.request("GET", "/page")
        await let_others_run(50)
        gate.set()

        first, second = await alice.response(), await bob.response()
    assert [interim.get("link") for interim in first.interim] == ["</alice>"]
    assert [interim.get("content-length") for interim in first.interim] == [None]  # RFC 9110 §8.6
    assert second.interim == []
    assert (first.body, second.body) == (b"page", b"page")


@pytest.mark.parametrize(
    "ranges", ["0-,0-,0-,0-,0-,0-", ",".join(f"{at}-{at}" for at in range(1000)), "-1," * 200 + "0-0"]
)
async def test_an_origin_is_not_asked_for_many_ranges(origin: OriginDouble, ranges: str) -> None:
    """More ranges than are answered are no ranges, for the origin too: it is asked for the whole (RangeAmp, 2020)."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    async with running_pop(origin) as pop:
        response = await pop.get("/page", ("Range", f"bytes={ranges}"))

    assert (response.status, response.body) == (200, b"page")
    assert [request.get("range") for request in origin.requests] == [None]
