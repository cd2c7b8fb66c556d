"""Calls that are cancelled: what is under way for them ends, and what is under way for others goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fuzz.parse_level import OneConnection, Transport, fed
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply, hang
from harness.pop import Pop, running_pop

from edgecache.invalidation.purge_log import UNKNOWN
from edgecache.semantics.message import Response
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.h1.client_factory import Http1
from edgecache.wire.upstream_connection import ResponseRules
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

CHUNKED = Reply(body=b"early", framing="chunked")


class Call(UpstreamCall):
    """A call that remembers what became of it."""

    def __init__(self, target: bytes) -> None:
        super().__init__(UpstreamRequest(b"GET", target, [(b"Host", b"www.example.test")]), 0.0, UNKNOWN)
        self.outcome: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()

    def on_answer(self, response: Response, body: Body) -> None:
        """It is answered."""
        self.outcome.set_result(response.status)

    def on_failure(self, error: OriginError) -> None:
        """It is not."""
        self.outcome.set_result(error.reason)


@pytest.fixture(params=["one origin", "a group"])
async def pop(origin: OriginDouble, request: pytest.FixtureRequest) -> AsyncIterator[Pop]:
    """A POP whose calls go out as they are, or as attempts."""
    urls = origin.url if request.param == "one origin" else ""
    group = {} if urls else {"origins": f"eu={origin.url}", "region": "eu"}
    async with running_pop(urls, origin.clock, origin_connections="1", **group) as running:
        yield running


@pytest.mark.parametrize("reply", [Reply(body=b"early"), CHUNKED], ids=["whole", "in pieces"])
async def test_a_call_that_is_cancelled_once_it_is_answered_ends_no_other(
    pop: Pop, origin: OriginDouble, reply: Reply
) -> None:
    """Its connection has gone on to the next call by then, which is answered on it."""
    gate = asyncio.Event()
    origin.on("/early", reply)
    origin.on("/next", Reply(wait=gate))
    early, following = Call(b"/early"), Call(b"/next")
    pop.worker.edge.upstream.send(early)
    assert await early.outcome == 200
    await let_others_run()
    pop.worker.edge.upstream.send(following)
    await origin.request_seen(2)
    early.cancel()
    gate.set()

    assert await following.outcome == 200
    assert [seen.connection for seen in origin.requests] == [0, 0]


async def test_a_call_that_is_cancelled_before_its_answer_ends_its_connection(pop: Pop, origin: OriginDouble) -> None:
    """Nothing is left under way for it."""
    origin.on("/hangs", hang())
    call = Call(b"/hangs")
    pop.worker.edge.upstream.send(call)
    await origin.request_seen()
    call.cancel()
    await let_others_run()

    assert pop.worker.pool.busy == 0
    assert not call.outcome.done()


async def test_a_call_that_is_cancelled_once_it_is_answered_ends_no_tunnel() -> None:
    """The next call on its connection has become a tunnel, which its own call may end."""
    connection = Http1(ResponseRules())(OneConnection())
    connection.connection_made(Transport())
    early, following = Call(b"/early"), Call(b"/tunnel")
    following.upstream_request = UpstreamRequest(b"GET", b"/tunnel", [(b"Host", b"a.test")], upgrade=b"websocket")
    connection.send(early, 1.0)
    fed(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    connection.send(following, 1.0)
    fed(connection, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await early.outcome, await following.outcome) == (200, 101)
    connection.become_tunnel(lambda data: None, lambda: None)
    early.cancel()
    assert not connection.closed
    following.cancel()
    assert connection.closed
