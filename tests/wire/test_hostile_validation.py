"""Answers that are one client's, and come by ways on which nothing is stored anew.

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
    """`no-cache` in a Cache-Control that was for one connection is obeyed before and after a 304."""
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


async def test_what_a_304_says_to_one_client_does_not_stand_in_for_another(origin: OriginDouble) -> None:
    """Two validate one object; the answer to one is private, the other's fails: the object stands in, as it was."""
    gates = [asyncio.Event(), asyncio.Event()]
    kept = ("Cache-Control", "max-age=0, stale-if-error=60")

    async def answer(request: ReceivedRequest) -> Reply:
        if not request.get("if-none-match"):
            return Reply(200, [ETAG, kept], b"page")
        alice = request.get("x-who") == "alice"
        await gates[0 if alice else 1].wait()
        return (
            Reply(304, [ETAG, ("Cache-Control", "private, max-age=60"), ("X-User", "alice")]) if alice else Reply(503)
        )

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as alice, pop.client() as bob:
        await pop.get("/page")
        await alice.request("GET", "/page", [("X-Who", "alice")])
        await bob.request("GET", "/page", [("X-Who", "bob")])
        await origin.request_seen(3)
        gates[0].set()
        first = await alice.response()
        gates[1].set()
        second = await bob.response()

    assert (first.get("x-user"), first.body) == ("alice", b"page")
    assert (second.get("x-user"), second.body) == (None, b"page")


@pytest.mark.parametrize(("said", "shared"), [("max-age=60", False), ("max-age=60, public", True)])
async def test_a_304_to_who_has_authorized_himself_is_for_him_alone(
    origin: OriginDouble, said: str, shared: bool
) -> None:
    """As the answer itself would be, unless it says that it is for all (RFC 9111 §3.5, §4.3.4)."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("if-none-match"):
            return Reply(304, [ETAG, ("Cache-Control", said), ("X-User", "alice")])
        return Reply(200, [ETAG, ("Cache-Control", "max-age=10")], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert (await pop.get("/page", ("Authorization", "Basic YWxpY2U6MQ=="))).get("x-user") == "alice"
        assert (await pop.get("/page")).get("x-user") == ("alice" if shared else None)


async def test_parts_do_not_stand_in_for_the_whole(origin: OriginDouble) -> None:
    """Where only a part is stored and the origin fails, its failure is the answer: nobody waits for ever."""
    part = [ETAG, ("Cache-Control", "max-age=10, stale-if-error=60"), ("Content-Range", "bytes 0-1/4")]
    origin.on("/page", Reply(206, part, b"pa"), Reply(503, [], b"down"), Reply(cut_head_at=0))
    async with running_pop(origin) as pop:
        assert (await pop.get("/page", ("Range", "bytes=0-1"))).status == 206
        pop.clock.advance(11)
        assert (await pop.get("/page")).status == 503
        assert (await pop.get("/page")).status == 502


MODIFIED, OTHERWISE = (
    ("Last-Modified", "Mon, 13 Nov 2023 22:13:20 GMT"),
    ("Last-Modified", "Mon, 13 Nov 2023 23:13:20 GMT"),
)


@pytest.mark.parametrize(
    ("stored", "said", "matches"),
    [
        ([ETAG, MODIFIED], [], True),
        ([ETAG, MODIFIED], [ETAG], True),
        ([ETAG, MODIFIED], [("ETag", f"W/{ETAG[1]}")], True),
        ([ETAG, MODIFIED], [("ETag", '"other"')], False),
        ([ETAG, MODIFIED], [ETAG, ("ETag", '"other"')], False),
        ([ETAG], [OTHERWISE], True),
        ([MODIFIED], [], True),
        ([MODIFIED], [MODIFIED, ("ETag", '"new"')], True),
        ([MODIFIED], [OTHERWISE], False),
        ([MODIFIED], [("ETag", '"new"')], False),
        ([MODIFIED], [("ETag", 'W/"new"')], True),
    ],
)
async def test_which_304_speaks_of_what_is_stored(
    origin: OriginDouble, stored: list[tuple[str, str]], said: list[tuple[str, str]], matches: bool
) -> None:
    """One whose validator is another's does not: the whole is asked for (RFC 9111 §4.3.4)."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("if-none-match") or request.get("if-modified-since"):
            return Reply(304, said)
        return Reply(200, [*stored, SHORT], b"%d" % len(origin.requests))

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert (await pop.get("/page")).body == (b"1" if matches else b"3")


@pytest.mark.parametrize("etag", ["*", '"a", "b"', '"a", *', 'W/"a",*', '"', '"a" "b"', '"' + "a" * 2000 + '"'])
async def test_an_etag_that_is_none_is_not_asked_by(origin: OriginDouble, etag: str) -> None:
    """`If-None-Match: *` would find nothing changed for ever (RFC 9110 §13.1.2)."""
    origin.otherwise(lambda request: Reply(200, [("ETag", etag), SHORT], b"%d" % len(origin.requests)))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert (await pop.get("/page")).body == b"2"

    assert origin.requests[1].get("if-none-match") is None


@pytest.mark.parametrize("more", [("Vary", "X-Who"), ("Content-Encoding", "gzip"), ("ETag", '"other"')])
async def test_parts_that_differ_are_not_joined(origin: OriginDouble, more: tuple[str, str]) -> None:
    """Even under one ETag: who sends the one coded or selected otherwise is not to be trusted with it (§3.4)."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("range") == "bytes=0-1":
            return Reply(206, [ETAG, SHORT, ("Content-Range", "bytes 0-1/4")], b"go")
        if request.get("range"):
            fields = [more] if more[0] == "ETag" else [ETAG, more]
            return Reply(206, [*fields, SHORT, ("Content-Range", "bytes 2-3/4")], b"xx")
        return Reply(200, [SHORT], b"good")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        for part in ("bytes=0-1", "bytes=2-3"):
            await pop.get("/page", ("Range", part))
        assert (await pop.get("/page")).body == b"good"


async def test_what_pops_tell_each_other_is_in_no_interim_response(origin: OriginDouble) -> None:
    """Neither is what an origin says in their stead, nor are tags that are hidden."""
    hints = [(103, [("Edgecache-Seen", "eu=1.1-0"), ("Surrogate-Key", "a"), ("Link", "</a>"), ("Content-Length", "0")])]
    origin.otherwise(Reply(200, [SHORT, ("Edgecache-Tags", "a"), ("Edgecache-Seen", "eu=1.1-0")], interim=hints))
    async with running_pop(origin) as pop:
        response = await pop.get("/page")
        assert [list(map(tuple, one.fields)) for one in response.interim] == [[("Link", "</a>")]]
        assert b"dgecache-" not in response.head.raw
        entry = pop.worker.edge.memory.slot(b"http://www.example.test/page")
        assert entry is not None
        assert entry.tags == ()  # they are believed of POPs alone
