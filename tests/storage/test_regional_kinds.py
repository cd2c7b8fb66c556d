"""The regional tier on every kind of Valkey that a region may run: Sentinel, a cluster, TLS with a user."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from harness.client import until as soon
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey_kinds import SERVICE, cluster, guarded, until, watched

pytestmark = pytest.mark.slow
FRESH = ("Cache-Control", "max-age=60")
BIG = os.urandom(700_000)


def echo(request: ReceivedRequest) -> Reply:
    """A page that tells which it is."""
    return Reply(fields=[FRESH], body=request.target.encode() * 10)


async def pages(pop: Pop, numbers: range) -> None:
    """Every page is asked for, and every answer is the right one."""
    answers = await asyncio.gather(*(pop.get(f"/{number}") for number in numbers))
    for number, answer in zip(numbers, answers, strict=True):
        assert (answer.status, answer.body) == (200, f"/{number}".encode() * 10)


def waiting(pop: Pop) -> int:
    """How many clients of `pop` have asked, and are not answered yet."""
    return sum(connection.exchange is not None for connection in pop.worker.connections)


async def warm(origin: OriginDouble, url: str, numbers: range, **settings: object) -> int:
    """How many questions to the origin another POP of the region needs for pages that one has fetched."""
    options: dict[str, object] = {"regional": url, "regional_timeout": "2s", **settings}
    async with running_pop(origin, origin.clock, pop="one", **options) as one:
        await one.caught_up()
        await pages(one, numbers)
        await one.written()
        asked = len(origin.requests)
        async with running_pop(origin, origin.clock, pop="two", **options) as two:
            await two.caught_up()
            await pages(two, numbers)
    return len(origin.requests) - asked


@pytest.mark.parametrize("replicas", ["off", "on"])
async def test_sentinel(origin: OriginDouble, tmp_path: Path, replicas: str) -> None:
    """The tier is found through Sentinel; when its primary dies nobody notices, and the replica takes its place."""
    origin.otherwise(echo)
    with watched(tmp_path) as (primary, replica, sentinel):
        url = f"valkey+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
        async with running_pop(
            origin, origin.clock, regional=url, regional_timeout="500ms", regional_replicas=replicas
        ) as pop:
            await pages(pop, range(40))
            await pop.written()
            until(lambda: replica.ask("DBSIZE") >= 40)
            primary.kill()
            await pages(pop, range(40, 80))  # nobody leads, and nobody fails
            await asyncio.to_thread(
                until, lambda: sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1] == b"%d" % replica.port
            )
            await asyncio.to_thread(until, lambda: replica.ask("ROLE")[0] == b"master")
            guard = pop.worker.edge.region.tier.guard
            await asyncio.to_thread(until, lambda: not guard.open)
        assert await warm(origin, url, range(40)) == 0  # what the old primary had
        assert await warm(origin, url, range(100, 140)) == 0  # what the new one was given


async def test_a_cluster(origin: OriginDouble, tmp_path: Path) -> None:
    """Three nodes: objects lie on all of them, and one of another POP's is found whichever has it."""
    origin.otherwise(echo)
    with cluster(tmp_path) as nodes:
        url = "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        assert await warm(origin, url, range(60)) == 0
        assert all(node.ask("DBSIZE") > 5 for node in nodes)


async def test_a_cluster_that_has_lost_a_node(origin: OriginDouble, tmp_path: Path) -> None:
    """What lay there is fetched anew, nobody fails, and what lies on the others is still found."""
    origin.otherwise(echo)
    with cluster(tmp_path) as nodes:
        url = "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with running_pop(origin, origin.clock, regional=url, regional_timeout="2s") as pop:
            await pages(pop, range(60))
            await pop.written()
        asked = len(origin.requests)
        nodes[2].kill()
        async with running_pop(origin, origin.clock, regional=url, regional_timeout="2s") as pop:
            with suppress(TimeoutError):  # the log may have lain there
                await asyncio.wait_for(pop.worker.logs.follower.caught_up.wait(), 3)
            await pages(pop, range(60))
        again = len(origin.requests) - asked
    assert again < 45


async def test_chunks_variants_and_one_leader_in_a_cluster(origin: OriginDouble, tmp_path: Path) -> None:
    """All parts of an object lie on one node; a crowd over two POPs is woken across nodes."""
    gate = asyncio.Event()
    origin.on("/big", Reply(fields=[FRESH], body=BIG))
    origin.on("/varied", lambda request: Reply(fields=[FRESH, ("Vary", "X-A")], body=request.get("X-A").encode()))
    origin.on("/cold", Reply(fields=[FRESH], body=b"cold", wait=gate))
    with cluster(tmp_path) as nodes:
        options = {"regional": "valkey+cluster://" + f"127.0.0.1:{nodes[1].port}", "regional_timeout": "2s"}
        async with (
            running_pop(origin, origin.clock, pop="one", **options) as one,
            running_pop(origin, origin.clock, pop="two", **options) as two,
        ):
            for pop in (one, two):
                await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 10)
                await pop.caught_up()
            assert (await one.get("/big")).body == BIG
            assert (await one.get("/varied", ("X-A", "1"))).body == b"1"
            await one.written()
            assert (await two.get("/big")).body == BIG
            assert (await two.get("/varied", ("X-A", "1"))).body == b"1"
            asked = len(origin.requests)
            crowd = [asyncio.ensure_future(pop.get("/cold")) for pop in (one, two) * 20]  # noqa: TID251
            await origin.request_seen(asked + 1)
            await soon(lambda: waiting(one) + waiting(two) == 40)
            gate.set()
            assert {answer.body for answer in await asyncio.gather(*crowd)} == {b"cold"}
    assert asked == 2
    assert len(origin.requests) == 3


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="Debian's redis-server is missing (see .ci/run)")
async def test_tls_and_a_user_of_its_own(origin: OriginDouble, tmp_path: Path) -> None:
    """By TLS, as a user who may touch nothing but the tier's keys: as without. Another authority's server is a miss."""
    origin.otherwise(echo)
    with guarded(tmp_path, "edge", "secret") as (port, ca):
        url = f"valkeys://edge:secret@127.0.0.1:{port}"
        assert await warm(origin, url, range(30), regional_ca=str(ca)) == 0
        origin.on("/big", Reply(fields=[FRESH], body=BIG))
        for name in ("three", "four"):
            async with running_pop(
                origin, origin.clock, pop=name, regional=url, regional_ca=str(ca), regional_timeout="2s"
            ) as pop:
                await pop.caught_up()
                assert (await pop.get("/big")).body == BIG
                await pop.written()
        assert sum(request.target == "/big" for request in origin.requests) == 1
        asked = len(origin.requests)
        async with running_pop(origin, origin.clock, regional=url) as stranger:  # it trusts the system's authorities
            await pages(stranger, range(30))
        assert len(origin.requests) - asked == 30
