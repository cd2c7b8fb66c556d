"""An answer that is about one client leaves everything as it was for the others."""

from __future__ import annotations

import asyncio

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.tasks import spawn

NEWER = ("Cache-Control", "no-cache")
COOKIE = ("Cookie", "session=alice")
STORED = [("Cache-Control", "max-age=60, stale-if-error=600"), ("ETag", '"v1"')]
LARGE = b"x" * 200_000  # lies in chunks in the regional tier
ONES: dict[str, Reply] = {
    **{str(status): Reply(status, body=b"for one") for status in (400, 401, 402, 403, 406, 407, 409, 421, 429, 431)},
    "429-private": Reply(429, [("Cache-Control", "private"), ("Retry-After", "5")], b"for one"),
    "set-cookie": Reply(200, [("Set-Cookie", "session=bob"), ("Cache-Control", "max-age=60")], b"for one"),
    "304-set-cookie": Reply(304, [("Set-Cookie", "session=bob"), ("ETag", '"v1"')]),
}
TO_WHO_HAS_A_COOKIE: dict[str, Reply] = {
    "private": Reply(200, [("Cache-Control", "private")], b"for one"),
    "no-store": Reply(200, [("Cache-Control", "no-store")], b"for one"),
    "login": Reply(302, [("Location", "/login")], b"for one"),
    "304-private": Reply(304, [("Cache-Control", "private"), ("ETag", '"v1"')]),
    "404-private": Reply(404, [("Cache-Control", "private")], b"for one"),
}
CASES = [(name, [NEWER]) for name in ONES] + [
    (name, [NEWER, own])
    for name in (*ONES, *TO_WHO_HAS_A_COOKIE)
    for own in (COOKIE, ("Authorization", "Basic YTph"), ("X-Preview", "1"))
]


def answering(origin: OriginDouble, content: bytes, one: Reply) -> None:
    """The first answer is for all, the next is `one`; then the origin fails."""
    answers = [Reply(200, STORED, content), one]
    origin.otherwise(lambda request: answers.pop(0) if answers else Reply(503))


async def is_untouched(pop: Pop, content: bytes) -> None:
    """The stored response is a hit for the others, and once it is stale it stands in for an origin that fails."""
    response = await pop.get("/page")
    assert (response.status, response.body) == (200, content)
    assert "; hit; " in (response.get("cache-status") or "")
    pop.clock.advance(61)
    response = await pop.get("/page")
    assert (response.status, response.body) == (200, content)


@pytest.mark.parametrize(("name", "fields"), CASES)
async def test_an_answer_to_one_client_leaves_what_is_fresh(
    origin: OriginDouble, name: str, fields: list[tuple[str, str]]
) -> None:
    """A refusal, a limit, a cookie or a page for one client neither drops what is fresh nor marks its URL."""
    answering(origin, b"page", {**ONES, **TO_WHO_HAS_A_COOKIE}[name])
    async with running_pop(origin, client_revalidation="honour") as pop:
        await pop.get("/page")
        await pop.get("/page", *fields)

        assert not pop.worker.edge.flights.marks
        await is_untouched(pop, b"page")
    assert len(origin.requests) == 3


@pytest.mark.parametrize("name", ["401", "set-cookie"])
async def test_what_the_region_holds_in_chunks_is_left(origin: OriginDouble, valkey: Server, name: str) -> None:
    """What only the regional tier holds, a large one in chunks, is found after an answer to one client, too."""
    answering(origin, LARGE, ONES[name])
    async with running_pop(origin, regional=valkey.url, max_object_memory="64KiB", client_revalidation="honour") as pop:
        await pop.caught_up()
        await pop.get("/page")
        await pop.written()
        await pop.get("/page", NEWER)

        response = await pop.get("/page")
    assert (response.status, response.body) == (200, LARGE)
    assert len(origin.requests) == 2


@pytest.mark.parametrize("fields", [[], [COOKIE]], ids=["bare", "cookie"])
async def test_a_304_for_one_client_leaves_what_lies_in_chunks(
    origin: OriginDouble, valkey: Server, fields: list[tuple[str, str]]
) -> None:
    """A validation that is answered with a cookie does not delete what is fresh in the regional tier."""

    def answer(request: ReceivedRequest) -> Reply:
        return ONES["304-set-cookie"] if request.get("if-none-match") else Reply(200, STORED, LARGE)

    origin.otherwise(answer)
    settings = {"regional": valkey.url, "max_object_memory": "64KiB", "regional_timeout": "2s"}
    async with running_pop(origin, client_revalidation="honour", **settings) as pop:
        await pop.caught_up()
        await pop.get("/page")
        await pop.written()
        pop.clock.advance(10)
        assert (await pop.get("/page", ("Cache-Control", "max-age=5"), *fields)).body == LARGE
        before = len(origin.requests)
        assert (await pop.get("/page")).body == LARGE
    assert len(origin.requests) == before


async def test_a_head_for_one_client_leaves_what_is_fresh(origin: OriginDouble) -> None:
    """A HEAD that is answered 403, or for one client, drops nothing (RFC 9111 §4.3.5)."""
    answering(origin, b"page", Reply(403, body=b"for one"))
    async with running_pop(origin, client_revalidation="honour") as pop:
        await pop.get("/page")
        await pop.request("HEAD", "/page", NEWER)

        await is_untouched(pop, b"page")


async def test_an_answer_about_the_url_takes_it_away(origin: OriginDouble) -> None:
    """What anybody is told is believed: `no-store` to a request with nothing of its own drops what is stored."""
    answers = [Reply(200, STORED, b"old"), Reply(200, [("Cache-Control", "no-store")], b"new")]
    origin.otherwise(lambda request: answers.pop(0) if len(answers) > 1 else answers[0])
    async with running_pop(origin, client_revalidation="honour") as pop:
        await pop.get("/page")
        await pop.get("/page", NEWER)

        assert (await pop.get("/page")).body == b"new"


async def test_a_stale_response_outlives_a_refusal(origin: OriginDouble) -> None:
    """A client that is refused when what is stored is stale takes the copy for hard times from nobody."""
    answering(origin, b"page", Reply(429, body=b"for one"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(61)
        assert (await pop.get("/page")).status == 429

        assert (await pop.get("/page")).body == b"page"


async def test_a_crowd_for_a_stale_response_does_not_wait_for_refusals(origin: OriginDouble) -> None:
    """Where each is refused, the next ones ask at once, each with what is stored to be validated."""
    gate = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        if len(origin.requests) == 1:
            return Reply(200, STORED, b"page")
        return Reply(429, body=b"for one", wait=gate if len(origin.requests) > 2 else None)

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(700)
        assert (await pop.get("/page")).status == 429
        asking = [spawn(pop.get("/page"), "client") for _ in range(10)]
        await origin.request_seen(12)
        gate.set()

        assert {response.status for response in await asyncio.gather(*asking)} == {429}
    assert all(request.get("if-none-match") == '"v1"' for request in origin.requests[1:])
    await let_others_run()
