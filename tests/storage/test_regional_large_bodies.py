"""What one large body may do to the regional tier: take a share of its memory, and nothing in vain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from harness.client import until
from harness.observed import samples
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server, running_valkey

from edgecache.semantics.message import Fields
from edgecache.semantics.outcomes import Refused
from edgecache.storage.regional_chunks import CHUNK, LOOK_EVERY
from edgecache.tasks import spawn

FRESH = ("Cache-Control", "max-age=600")
MIB = 1024 * 1024
SMALL = os.urandom(60_000)


@pytest.fixture(scope="module")
def cramped() -> Iterator[Server]:
    """A Valkey with little memory, configured as the embedded one is."""
    with running_valkey(maxmemory="32mb", maxmemory_policy="volatile-lru") as server:
        yield server


def settings(server: Server) -> dict[str, object]:
    """Of a POP before that server, whose memory takes no large bodies."""
    server.db.flushall()
    return {"regional": server.url, "regional_timeout": "2s", "max_object_memory": "100KiB"}


def not_stored(pop: Pop, reason: Refused) -> int:
    """How many responses were not stored for this reason."""
    return int(samples(pop.worker.snapshot())[f"edgecache_not_stored_total,{reason.value}"])


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_one_large_object_leaves_the_others_where_they_are(
    origin: OriginDouble, cramped: Server, framing: str
) -> None:
    """It is passed on whole, is not stored, and evicts nothing, known to the tier or not."""
    origin.otherwise(Reply(fields=[FRESH], body=SMALL))
    big = os.urandom(MIB) * 24
    origin.on("/big", Reply(fields=[FRESH, ("ETag", '"1"')], body=big, framing=framing))  # type: ignore[arg-type]
    async with running_pop(origin, **settings(cramped)) as pop:
        await pop.caught_up()
        for number in range(150):
            await pop.get(f"/small/{number}")
        await pop.written()
        before = set(cramped.keys())
        for _ in range(2):
            assert (await pop.get("/big")).body == big
        await pop.written()

        assert len(before) == 150
        assert set(cramped.keys()) == before
        assert not_stored(pop, Refused.TOO_LARGE) == 2


async def test_what_is_within_its_share_is_stored(origin: OriginDouble, cramped: Server) -> None:
    """A tenth of the server's memory is for one object."""
    body = os.urandom(2 * MIB)
    origin.on("/it", Reply(fields=[FRESH], body=body))
    async with running_pop(origin, **settings(cramped)) as pop:
        await pop.caught_up()
        await pop.get("/it")
        await pop.written()
        assert (await pop.get("/it")).body == body
    assert len(origin.requests) == 1


async def test_without_a_limit_the_machine_s_memory_counts(origin: OriginDouble, valkey: Server) -> None:
    """A server whose maxmemory is 0 has what the machine has."""
    origin.on("/it", Reply(fields=[FRESH], body=os.urandom(2 * MIB)))
    async with running_pop(origin, **settings(valkey)) as pop:
        await pop.caught_up()
        await pop.get("/it")
        await pop.written()
        total = int(valkey.db.info("memory")["total_system_memory"])

        assert pop.worker.edge.region.tier.largest == min(1024 * MIB, total // 10)


@pytest.mark.parametrize("chunks", [LOOK_EVERY + 4, 6], ids=["while it comes", "at its end"])
async def test_a_body_whose_first_chunk_is_gone_is_not_stored(
    origin: OriginDouble, valkey: Server, chunks: int
) -> None:
    """It is still passed on; nothing of it stays behind, and nobody finds it."""
    body = os.urandom(chunks * CHUNK)
    gate, last = asyncio.Event(), asyncio.Event()
    pieces = [body[: 3 * CHUNK], body[3 * CHUNK : -1], body[-1:]]
    origin.on("/it", Reply(fields=[FRESH, ("ETag", '"1"')], pieces=pieces, gates=[None, gate, last]))
    async with running_pop(origin, **settings(valkey)) as pop:
        await pop.caught_up()
        asking = spawn(pop.get("/it"))
        first = [key for key in await valkey.has(3) if key.endswith(b":0")]
        assert valkey.db.delete(*first) == 1
        gate.set()
        if chunks > LOOK_EVERY:
            await until(lambda: not valkey.keys())
        last.set()
        assert (await asking).body == body
        await until(lambda: not valkey.keys())

        assert not_stored(pop, Refused.REGIONAL) == 1
        assert await pop.worker.edge.region.tier.find(b"http://www.example.test/it", Fields(())) is None


async def test_a_server_that_may_not_be_asked_takes_what_the_setting_says(
    origin: OriginDouble, cramped: Server
) -> None:
    """A user without the right to INFO is no failure."""
    cramped.db.acl_setuser(
        "plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", "-info"]
    )
    body = os.urandom(4 * MIB)
    origin.on("/it", Reply(fields=[FRESH], body=body))
    options = settings(cramped) | {"regional": cramped.url.replace("://", "://plain:secret@")}
    async with running_pop(origin, **options) as pop:
        await pop.caught_up()
        await pop.get("/it")
        await pop.written()
        assert (await pop.get("/it")).body == body
    assert len(origin.requests) == 1
