"""Clients that send or read slowly do not keep others from the origin; what is cut short is seen to be cut short."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from harness.client import HOST, let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop

NO_STORE = ("Cache-Control", "no-store")
MIB = 1024 * 1024


def by_method(request: ReceivedRequest) -> Reply:
    """An answer that says what was asked, once the question is whole."""
    return Reply(200, [NO_STORE], request.method.encode())


@pytest.mark.parametrize("start", [b"", b"x" * 1000, b"x" * 65536])
async def test_bodies_that_do_not_come_take_no_connection(origin: OriginDouble, start: bytes) -> None:
    """A body of up to 64 KiB goes upstream once it is whole: those that stop before keep nobody from the origin."""
    origin.otherwise(by_method)
    post = f"POST /form HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(start) + 1}\r\n\r\n".encode()
    async with running_pop(origin, origin_connections=2) as pop, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(pop.client()) for _ in range(6)]
        for client in slow:
            await client.send(post + start, "POST")
        await let_others_run()

        assert (await pop.get("/page")).body == b"GET"
        assert [seen.method for seen in origin.requests] == ["GET"]
        for client in slow:
            await client.send(b"x", None)
            assert (await client.response()).body == b"POST"


async def test_large_bodies_leave_half_of_the_connections(origin: OriginDouble) -> None:
    """Bodies that come slowly, beyond what is held back, get half of the connections; the others wait in line."""
    origin.otherwise(by_method)
    size = 200_000
    post = f"POST /file HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n".encode()
    async with running_pop(origin, origin_connections=4) as pop, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(pop.client()) for _ in range(6)]
        for client in slow:
            await client.send(post + bytes(100_000), "POST")
        await origin.request_seen(2)
        assert (await pop.get("/page")).body == b"GET"
        assert sum(seen.method == "POST" for seen in origin.requests) == 2

        for client in slow:  # each that is whole makes room for one that waits
            await client.send(bytes(size - 100_000), None)
        assert [(await client.response()).body for client in slow] == [b"POST"] * 6


@pytest.mark.slow
async def test_answers_that_nobody_takes_make_room_for_who_waits(origin: OriginDouble) -> None:
    """While somebody waits for a connection, an answer whose reader takes nothing loses its own, visibly."""
    origin.on("/page", Reply(200, [NO_STORE], b"page"))
    origin.otherwise(Reply(200, [NO_STORE], bytes(16 * MIB)))
    async with running_pop(origin, origin_connections=2) as pop, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(pop.client(receive_buffer=4096)) for _ in range(2)]
        for client in slow:
            await client.request("GET", "/file")
        await origin.request_seen(2)

        assert (await pop.get("/page")).body == b"page"
        broken = [(await client.response_or_broken()).broken for client in slow]
        assert sum(one is not None for one in broken) == 1


@pytest.mark.parametrize("cut_by", ["fin", "rst"])
async def test_a_cut_answer_is_no_end_even_without_a_length(origin: OriginDouble, cut_by: str) -> None:
    """To an HTTP/1.0 client, the end of the connection is the end of the body: what is cut short ends by RST."""
    origin.on("/page", Reply(fields=[NO_STORE], body=b"a" * 50_000, framing="chunked", cut_at=20_000, cut_by=cut_by))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/page", version="1.0")

        response = await client.response_or_broken()

        assert response.get("content-length") is None
        assert response.broken is not None
