"""What one of a crowd does with its answer takes nothing from the others, though the body only flows."""

from __future__ import annotations

import asyncio

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from harness.ranged import numbered

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"1"')
BIG = numbered(300_000)


@pytest.mark.parametrize("place", [0, 1, 3], ids=["first", "second", "last"])
@pytest.mark.parametrize("how", ["has it already", "asks for the head", "leaves"])
async def test_one_that_needs_no_body_lets_the_others_have_it(origin: OriginDouble, how: str, place: int) -> None:
    """All others get the whole: nobody is given what was let go for one of them."""
    gate, body = asyncio.Event(), asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH, ETAG], pieces=[BIG], gates=[body], wait=gate))
    async with running_pop(origin) as pop:
        pop.worker.edge.memory.account.take = lambda *size, **more: False  # others arrive: there is no room to keep it
        clients = [await pop.open() for _ in range(4)]
        for number, client in enumerate(clients):
            other = number == place
            fields = [("If-None-Match", '"1"')] if other and how == "has it already" else []
            await client.request("HEAD" if other and how == "asks for the head" else "GET", "/page", fields)
            if not number:
                await origin.request_seen()
            await let_others_run(20)
        if how == "leaves":
            exchanges = [one.exchange for one in pop.worker.connections if one.exchange is not None]
            sorted(exchanges, key=lambda one: one.began)[place].leave()
        gate.set()
        await let_others_run(200)
        body.set()
        for number, client in enumerate(clients):
            if number != place:
                assert (await client.response()).body == BIG
            elif how != "leaves":
                answer = await client.response()
                assert (answer.status, answer.body) == (304 if how == "has it already" else 200, b"")
            client.close()
    assert len(origin.requests) <= 4
