"""Valkey fails over while POPs are connected: who is asked is found out anew, and nothing has to be restarted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.client import until
from harness.fault_proxy import FaultProxy
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from harness.purging import BEARER, TOKEN
from harness.valkey import Server, running_valkey
from harness.valkey_kinds import cluster
from redis.exceptions import ResponseError

from edgecache.config.settings import load
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.stream_store import LogStore
from edgecache.storage.regional_probe import PROBE_TIMEOUT, Probe, access_of
from edgecache.tasks import spawn
from edgecache.valkey.client import Failure, Link, is_misplaced

FRESH = ("Cache-Control", "max-age=60")


class Name(FaultProxy):
    """A name that leads to one of several servers: new connections go to the one of the moment, old ones stay.

    So does DNS when it changes.
    """

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"valkey://127.0.0.1:{self.port}"

    def leads_to(self, server: Server) -> None:
        """From now on."""
        self.target = ("127.0.0.1", server.port)


@asynccontextmanager
async def name_of(server: Server) -> AsyncIterator[Name]:
    """A name that leads to `server`, for now."""
    name = Name(server.port)
    await name.start()
    try:
        yield name
    finally:
        await name.stop()


@contextmanager
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    with running_valkey() as one, running_valkey() as two:
        two.db.execute_command("REPLICAOF", "127.0.0.1", str(one.port))
        yield one, two


async def flip(name: Name, old: Server, new: Server) -> None:
    """The replica has everything, becomes the primary, and the name leads to it; the old one is its replica."""
    await until(lambda: old.db.info("replication").get("slave0", {}).get("lag", 9) == 0, 20)
    new.db.execute_command("REPLICAOF", "NO", "ONE")
    old.db.execute_command("REPLICAOF", "127.0.0.1", str(new.port))
    name.leads_to(new)


def log_of(server: Server, kind: bytes) -> list[Any]:
    """The entries of a kind that lie on one server."""
    return [fields for _, fields in server.db.xrange("ec:{log}:region:eu") if fields.get(b"k") == kind]


@pytest.mark.slow
async def test_purges_and_writes_follow_the_primary(origin: OriginDouble) -> None:
    """After a flip every purge is taken, every write recorded, and objects reach the new server; twice in a row."""
    origin.otherwise(lambda request: Reply(fields=[FRESH], body=b"page"))
    with pair() as (one, two):
        async with name_of(one) as name:
            options = {"regional": name.url, "region": "eu", "regional_timeout": "2s", "purge_tokens": f"cms={TOKEN}"}
            async with running_pop(origin, origin.clock, **options) as pop:
                await pop.caught_up()
                for old, new in ((one, two), (two, one)):
                    assert (await pop.get(f"/{new.port}")).status == 200
                    await flip(name, old, new)
                    answers = [await pop.request("PURGE", f"/{number}", BEARER) for number in range(20)]
                    assert [answer.status for answer in answers] == [200] * 20
                    written = [await pop.request("POST", f"/{number}", body=b"x") for number in range(5)]
                    states = [answer.get("Edgecache-Invalidation") for answer in written]
                    assert states == ["region"] * 5
                    assert len(log_of(new, b"purge")) % 20 == 0
                    assert (await pop.get(f"/after-{new.port}")).status == 200
                    await pop.written()
                    assert new.db.dbsize() > 0


@pytest.mark.slow
async def test_a_flip_costs_no_acknowledged_purge(origin: OriginDouble) -> None:
    """Another POP of the region hears of what was purged after the flip."""
    origin.otherwise(lambda request: Reply(fields=[FRESH], body=b"%d" % len(origin.requests)))
    with pair() as (one, two):
        async with name_of(one) as name:
            options = {"regional": name.url, "region": "eu", "regional_timeout": "2s", "purge_tokens": f"cms={TOKEN}"}
            async with (
                running_pop(origin, origin.clock, pop="a", **options) as a,
                running_pop(origin, origin.clock, pop="b", **options) as b,
            ):
                await a.caught_up()
                await b.caught_up()
                before = (await b.get("/page")).body
                await flip(name, one, two)
                answer = await a.request("PURGE", "/page", BEARER)
                assert json.loads(answer.body)["id"].startswith("eu:")
                top = (await a.worker.logs.writer.store.last_marks(["eu"]))["eu"]
                await until(lambda: b.worker.logs.follower._log.applied("eu") >= top, 20)
                assert (await b.get("/page")).body != before


@pytest.mark.slow
async def test_readiness_says_what_writes_need() -> None:
    """A replica that answers reads is not ready; once the name leads to the primary it is, without a restart."""
    with pair() as (one, two):
        async with name_of(two) as name:  # the replica
            settings = load({"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": name.url})
            probe = Probe(settings)
            task = spawn(probe.run(), "probe")
            await until(lambda: probe.state != "starting", 20)
            assert probe.state == "degraded"
            name.leads_to(one)
            await until(lambda: probe.state == "ready", 20)
            await flip(name, one, two)
            await until(lambda: probe.state == "ready", 20)
            task.cancel()
            await asyncio.wait((task,))


@pytest.mark.slow
async def test_a_command_that_the_wrong_server_refused_is_sent_once_more() -> None:
    """It was not done there; and where there is no better server the refusal is what is told, after two connections."""
    with pair() as (one, two):
        async with name_of(one) as name:
            settings = load({"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": name.url})
            link = Link(access_of(settings, PROBE_TIMEOUT))
            store = LogStore(link, 1000)
            drops: list[int] = []
            link.on_drop = lambda: drops.append(1)
            command = store.append_command("eu", Draft(EntryKind.PURGE, (b"ta",)), 0)
            store.mark_of_reply((await link.run([command]))[0])
            await flip(name, one, two)
            store.mark_of_reply((await link.run([command]))[0])
            assert (len(drops), name.connections) == (1, 2)
            name.leads_to(one)  # the replica
            await link.drop(RuntimeError("the test"))
            reply = (await link.run([command]))[0]
            assert is_misplaced(reply)
            await link.close()


@pytest.mark.slow
async def test_a_copy_is_not_read_from_a_replica_that_was_left_behind() -> None:
    """Reads alone never fail there: whoever copies a log asks, and finds the primary by the name."""
    with pair() as (one, two):
        async with name_of(two) as name:
            await until(lambda: two.db.info("replication")["master_link_status"] == "up", 20)
            settings = load({"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": name.url})
            link = Link(access_of(settings, PROBE_TIMEOUT))
            await link.refuse_orphaned_replica()  # a replica that follows is as good
            one.stop()
            await until(lambda: two.db.info("replication")["master_link_status"] == "down", 20)
            with pytest.raises(Failure):
                await link.refuse_orphaned_replica()
            await link.close()


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica. script: abc, on @user_script:1.",
        "ERR Error running script: @user_script:1: -READONLY You can't write against a read only replica.",
        "LOADING Valkey is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "MOVED 3999 127.0.0.1:6381",
        "CLUSTERDOWN The cluster is down",
        "NOREPLICAS Not enough good replicas to write.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    ],
)
def test_errors_of_the_connection_or_the_role_are_told_from_others(text: str) -> None:
    """In any wrapping; what the command itself did wrong is none of them."""
    assert is_misplaced(ResponseError(text))
    assert not is_misplaced(ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"))
    assert not is_misplaced(ResponseError("NOPERM User edge has no permissions to run the 'role' command"))
    assert not is_misplaced(b"READONLY")


@pytest.mark.slow
async def test_a_write_in_a_cluster_is_known_to_its_region(origin: OriginDouble, tmp_path: Path) -> None:
    """Who has applied it is asked of the node that has the log."""
    origin.otherwise(lambda request: Reply(fields=[FRESH], body=b"page"))
    with cluster(tmp_path) as nodes:
        url = f"valkey+cluster://127.0.0.1:{nodes[0].port}"
        async with running_pop(origin, origin.clock, regional=url, regional_timeout="2s") as pop:
            await pop.caught_up()
            answer = await pop.request("POST", "/page", body=b"x")
            assert answer.get("Edgecache-Invalidation") == "region"
