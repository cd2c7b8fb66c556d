"""A HEAD of what is not stored: the origin is asked for a GET, whose head is the answer, and whose content fills."""

from __future__ import annotations

import asyncio

import pytest
from harness.client import ReceivedResponse, until
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

FRESH = ("Cache-Control", "max-age=60")
NO_STORE = ("Cache-Control", "no-store")
LARGE = b"x" * 200_000
SECRET = "a-secret-of-this-fleet"


def asked(origin: OriginDouble) -> list[str]:
    """The methods that the origin was asked."""
    return [request.method for request in origin.requests]


def told(response: ReceivedResponse, *, but: tuple[str, ...] = ("Age", "Cache-Status", "Transfer-Encoding")) -> object:
    """Status and fields, in no order, less those that differ between two answers out of one response."""
    skipped = {name.lower() for name in but}
    return response.status, sorted((name, value) for name, value in response.head.fields if name.lower() not in skipped)


async def idle(pop: Pop) -> None:
    """Wait until nothing is asked of the origin any more."""
    await until(lambda: not pop.worker.pool.busy and not len(pop.worker.edge.flights))


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("body", [b"", b"page", LARGE], ids=["empty", "small", "large"])
async def test_a_head_fills(origin: OriginDouble, body: bytes, framing: str) -> None:
    """One question answers the HEAD and what comes after it; both methods are told the same (RFC 9110 §9.3.2)."""
    origin.otherwise(Reply(200, [FRESH, ("ETag", '"v"'), ("X-A", "1")], body, framing=framing))  # type: ignore[arg-type]
    async with running_pop(origin) as pop:
        cold = await pop.request("HEAD", "/page")
        await idle(pop)
        warm, whole = await pop.request("HEAD", "/page"), await pop.get("/page")

    assert (cold.body, warm.body, whole.body) == (b"", b"", body)
    assert told(warm) == told(whole)
    assert told(cold, but=("Age", "Cache-Status", "Content-Length", "Connection")) == told(
        whole, but=("Age", "Cache-Status", "Content-Length", "Connection")
    )
    assert asked(origin) == ["GET"]


@pytest.mark.parametrize("body", [b"page", LARGE], ids=["inline", "chunks"])
async def test_a_head_fills_the_regional_tier(origin: OriginDouble, valkey: Server, body: bytes) -> None:
    """What memory does not take, the regional tier does; the next POP answers out of it."""
    origin.otherwise(Reply(200, [FRESH], body))
    settings = {"regional": valkey.url, "max_object_memory": "64KiB", "regional_timeout": "2s"}
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        await pop.request("HEAD", "/page")
        await idle(pop)
        await pop.written()
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        assert (await pop.request("HEAD", "/page")).get("content-length") == str(len(body))
        assert (await pop.get("/page")).body == body

    assert asked(origin) == ["GET"]


async def test_through_a_parent_too(origin: OriginDouble) -> None:
    """A HEAD of a child fills its parent."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    async with running_pop(origin, pop="shield", pop_secret=SECRET) as shield:
        parent = f"http://127.0.0.1:{shield.port}"
        async with running_pop(origin, pop="edge", parents=parent, pop_secret=SECRET) as edge:
            assert (await edge.request("HEAD", "/page")).status == 200
            await idle(shield)
        assert len(shield.worker.edge.memory) == 1

    assert asked(origin) == ["GET"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, [NO_STORE], content_length=10**9, pieces=[b"x" * 1000, b"y"], framing="length"),
        Reply(200, [NO_STORE], pieces=[b"x" * 1000, b"y"], framing="chunked"),
        Reply(200, [("Set-Cookie", "a=b")], pieces=[b"x" * 1000, b"y"], framing="chunked"),
        Reply(200, [FRESH], content_length=10**9, pieces=[b"x" * 1000, b"y"], framing="length"),
        Reply(200, [FRESH], pieces=[b"x" * 100_000, b"y"], framing="chunked"),
        Reply(200, [FRESH], pieces=[b"x" * 100_000, b"y"], framing="close"),
    ],
    ids=["no-store", "no-store-chunked", "cookie", "too-large", "grows-too-large", "grows-until-close"],
)
async def test_what_is_not_stored_is_not_read(origin: OriginDouble, reply: Reply) -> None:
    """The client has its answer at once, and the origin's content, which never ends, is given up."""
    never = asyncio.Event()
    object.__setattr__(reply, "gates", [None, never])
    origin.otherwise(reply)
    async with running_pop(origin, max_object_memory="64KiB", store="off") as pop:
        response = await pop.request("HEAD", "/page")
        assert (response.status, response.body) == (200, b"")
        await until(lambda: not pop.worker.pool.busy)
        assert len(pop.worker.edge.memory) == 0
    never.set()


@pytest.mark.parametrize("fields", [[NO_STORE], [("Set-Cookie", "a=b")], [("Vary", "*"), FRESH]])
async def test_what_is_known_not_to_be_stored_is_asked_for_by_head(
    origin: OriginDouble, fields: list[tuple[str, str]]
) -> None:
    """Once a GET has shown that nothing can be stored, the next HEADs are asked as they are."""
    origin.otherwise(Reply(200, fields, b"page"))
    async with running_pop(origin) as pop:
        for _ in range(3):
            assert (await pop.request("HEAD", "/page")).get("content-length") == "4"

    assert asked(origin) == ["GET", "HEAD", "HEAD"]


async def test_a_head_that_forbids_storing_is_asked_as_it_is(origin: OriginDouble) -> None:
    """Nothing could be stored of the answer: the origin need not make the content (RFC 9111 §5.2.1.5)."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    async with running_pop(origin) as pop:
        await pop.request("HEAD", "/page", NO_STORE)

    assert asked(origin) == ["HEAD"]


async def test_heads_and_gets_share_a_question(origin: OriginDouble) -> None:
    """A crowd of both methods costs one question, whoever comes first."""
    gate = asyncio.Event()
    origin.otherwise(Reply(200, [FRESH], LARGE, wait=gate))
    async with running_pop(origin) as pop:
        async with asyncio.TaskGroup() as asking:
            methods = ("HEAD", "GET") * 10
            tasks = [asking.create_task(pop.request(method, "/page")) for method in methods]
            await origin.request_seen()
            gate.set()
        for method, task in zip(methods, tasks, strict=True):
            assert task.result().body == (LARGE if method == "GET" else b"")

    assert asked(origin) == ["GET"]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(404, [FRESH], b"none"), 404),
        (Reply(500, [], b"broken"), 500),
        (Reply(301, [FRESH, ("Location", "/other")], b"there"), 301),
        (Reply(204, [FRESH]), 204),
        (Reply(403, [], b"no"), 403),
    ],
)
async def test_any_status_has_a_head(origin: OriginDouble, reply: Reply, status: int) -> None:
    """A HEAD is answered as the GET would be, without content, and the connection goes on."""
    origin.otherwise(reply)
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(3):
            await client.request("HEAD", "/page")
            response = await client.response("HEAD")
            assert (response.status, response.body) == (status, b"")


async def test_conditions_and_ranges(origin: OriginDouble) -> None:
    """A HEAD with a condition is answered 304 where that holds; a Range has no meaning in it (RFC 9110 §14.2)."""

    def answer(request: ReceivedRequest) -> Reply:
        assert request.get("range") is None
        assert request.get("if-none-match") is None
        return Reply(200, [FRESH, ("ETag", '"v"')], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        assert (await pop.request("HEAD", "/1", ("If-None-Match", '"v"'))).status == 304
        assert (await pop.request("HEAD", "/2", ("If-None-Match", '"w"'))).status == 200
        response = await pop.request("HEAD", "/3", ("Range", "bytes=0-1"))
        assert (response.status, response.get("content-length")) == (200, "4")
        for number in (1, 2, 3):
            assert (await pop.get(f"/{number}")).body == b"page"

    assert asked(origin) == ["GET"] * 3


async def test_a_stale_response_is_validated(origin: OriginDouble) -> None:
    """A HEAD of what is stale asks if it is still good, as a GET does."""

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(304 if request.get("if-none-match") else 200, [FRESH, ("ETag", '"v"')], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(61)
        assert (await pop.request("HEAD", "/page")).get("content-length") == "4"
        assert (await pop.get("/page")).body == b"page"

    assert [request.get("if-none-match") for request in origin.requests] == [None, '"v"']


async def test_a_part_stays_a_part(origin: OriginDouble) -> None:
    """Where a part is stored, a HEAD does not fetch the rest."""

    def answer(request: ReceivedRequest) -> Reply:
        fields = [FRESH, ("ETag", '"v"')]
        if request.get("range"):
            return Reply(206, [*fields, ("Content-Range", "bytes 0-1/1000000")], b"xx")
        return Reply(200, fields, b"x" * 1000000)

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        await pop.get("/page", ("Range", "bytes=0-1"))
        assert (await pop.request("HEAD", "/page")).get("content-length") == "1000000"

    assert asked(origin) == ["GET", "HEAD"]


async def test_a_client_that_leaves_fills_nevertheless(origin: OriginDouble) -> None:
    """The content goes on to arrive when the HEAD has its answer, or is gone."""
    gate = asyncio.Event()
    origin.otherwise(Reply(200, [FRESH], pieces=[b"one", b"two"], gates=[None, gate]))
    async with running_pop(origin) as pop:
        assert (await pop.request("HEAD", "/page")).status == 200
        gate.set()
        await idle(pop)
        assert (await pop.get("/page")).body == b"onetwo"

    assert asked(origin) == ["GET"]


async def test_http_1_0(origin: OriginDouble) -> None:
    """A HEAD of HTTP/1.0 fills, too, and its answer has no content."""
    origin.otherwise(Reply(200, [FRESH], b"page", framing="chunked"))
    async with running_pop(origin) as pop:
        response = await pop.request("HEAD", "/page", version="1.0")
        assert (response.status, response.body) == (200, b"")
        await idle(pop)
        assert (await pop.get("/page")).body == b"page"

    assert asked(origin) == ["GET"]
