"""Clients that leave while they wait: what is of use to nobody else is given up, as a setting says."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from harness.client import let_others_run, until
from harness.origin import OriginDouble, Reply, hang
from harness.pop import Pop, running_pop

NO_STORE = ("Cache-Control", "no-store")
Way = Literal["fin", "rst"]


async def leaves(client: object, by: Way) -> None:
    """Have the client leave."""
    getattr(client, "half_close" if by == "fin" else "reset")()


async def origin_is_free(pop: Pop) -> None:
    """Wait until nothing is asked of the origin any more."""
    await until(lambda: pop.worker.pool.busy == 0)


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_what_is_not_for_the_cache_is_given_up(origin: OriginDouble, method: str, by: Way) -> None:
    """A client that leaves before its answer, which nobody else has a use for, frees the origin."""
    origin.on("/slow", hang())
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request(method, "/slow", body=b"x")
        await origin.request_seen()
        await leaves(client, by)
        await origin_is_free(pop)


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_a_get_that_is_known_not_to_be_for_the_cache_is_given_up(origin: OriginDouble, by: Way) -> None:
    """So is a GET of a URL whose answers are known to be unshareable, by a head seen before or not."""
    origin.on("/slow", Reply(fields=[NO_STORE]), Reply(fields=[NO_STORE]), hang(), hang())
    async with running_pop(origin) as pop:
        await pop.get("/slow")
        await pop.get("/slow")
        for seen in (3, 4):
            async with pop.client() as client:
                await client.request("GET", "/slow")
                await origin.request_seen(seen)
                await leaves(client, by)
                await origin_is_free(pop)


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_a_quiet_stream_is_given_up(origin: OriginDouble, by: Way) -> None:
    """A stream that has begun, and is not stored, ends with its client though nothing more is sent on it."""
    gate = asyncio.Event()
    quiet = Reply(fields=[NO_STORE], pieces=[b"one", b"two"], gates=[None, gate], framing="chunked")
    origin.on("/events", quiet)
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/events")
        await client.response_head()
        await until(lambda: pop.worker.pool.busy == 1)
        await leaves(client, by)
        await origin_is_free(pop)
        gate.set()


async def test_what_may_be_stored_is_not_given_up(origin: OriginDouble) -> None:
    """An answer that may be stored is fetched to its end for those who come later."""
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[("Cache-Control", "max-age=60")], body=b"one", wait=gate))
    async with running_pop(origin) as pop:
        async with pop.client() as client:
            await client.request("GET", "/page")
            await origin.request_seen()
        await let_others_run()
        gate.set()
        await until(lambda: pop.worker.pool.busy == 0)
        assert (await pop.get("/page")).body == b"one"
    assert len(origin.requests) == 1


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_a_setting_keeps_on(origin: OriginDouble, method: str) -> None:
    """With the setting, a client that only sends no more has its answer."""
    gate = asyncio.Event()
    origin.on("/slow", Reply(fields=[NO_STORE], body=b"done", wait=gate))
    async with running_pop(origin, finish_abandoned="on") as pop, pop.client() as client:
        await client.request(method, "/slow", body=b"x")
        client.half_close()
        await origin.request_seen()
        await let_others_run()
        gate.set()
        assert (await client.response()).body == b"done"
