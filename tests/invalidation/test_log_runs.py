"""A server that comes back with an older snapshot: what it holds is validated before it is used, once."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from harness.origin import OriginDouble
from harness.pop import Pop, running_pop
from harness.pop_process import DEADLINE
from harness.pop_process import running_pop as running_process
from harness.purging import TOKEN
from harness.serving import REAL, socket_of
from harness.valkey import Server, running_valkey
from harness.versions import VersionedOrigin, VersionedPage, ask
from redis import Redis

from edgecache.config.settings import load
from edgecache.invalidation import log_runs, version_vector
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.region_log import own_region_store
from edgecache.invalidation.stream_store import ServerRun


def copy(source: Server, target: Server) -> None:
    """Everything that lies on one server, as a snapshot of it restores it on another run."""
    for key in source.db.keys("*"):
        target.db.restore(key, max(0, source.db.pttl(key)), source.db.dump(key), replace=True)


async def pops_page(origin: OriginDouble, server: Server) -> bytes:
    """What a POP that has just started serves."""
    async with running_pop(origin, origin.clock, regional=server.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        return (await pop.get("/page")).body


async def fill(pop: Pop, site: VersionedPage) -> None:
    """Store the page in the region."""
    await pop.caught_up()
    assert (await pop.get("/page")).body == b"v%d" % site.version
    await pop.written()


async def test_a_snapshot_from_before_an_acknowledged_purge_serves_nothing_old(origin: OriginDouble) -> None:
    """All POPs restart, and the server comes back with page and log as they were: the page is validated, then a hit."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    with running_valkey() as before, running_valkey() as after:
        async with running_pop(origin, origin.clock, regional=before.url, regional_timeout="2s") as pop:
            await fill(pop, site)
            copy(before, after)
            site.version = 2
            await pop.worker.logs.writer.append(Draft(scopes=(b"uhttp://www.example.test/page",)))
        assert await pops_page(origin, after) == b"v2"
        asked = len(origin.requests)
        assert await pops_page(origin, after) == b"v2"
        assert len(origin.requests) == asked  # once


async def test_a_pop_that_lives_on_learns_of_another_run_too(origin: OriginDouble) -> None:
    """It looks at each of its looks at the log, whatever it has applied."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    with running_valkey() as server:
        async with running_pop(origin, origin.clock, regional=server.url, regional_timeout="2s") as pop:
            await fill(pop, site)
            known = pop.worker.edge.log.applied("local")
            server.db.set(log_runs.RUN, "another")
            async with asyncio.timeout(DEADLINE):
                while pop.worker.edge.log.applied("local") == known:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            log = pop.worker.edge.log
            assert version_vector.count_of(version_vector.incarnation_of(log.applied("local"))) == 2
            assert log.is_trusted("local")
            asked = len(origin.requests)
            assert (await pop.get("/page")).body == b"v1"
            assert len(origin.requests) == asked + 1  # validated
            await pop.get("/page")
            assert len(origin.requests) == asked + 1


async def test_the_same_run_goes_on_with_its_log(origin: OriginDouble, valkey: Server) -> None:
    """All POPs restart, the server does not: nothing is validated for that."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="2s") as pop:
        await fill(pop, site)
    asked = len(origin.requests)
    assert await pops_page(origin, valkey) == b"v1"
    assert len(origin.requests) == asked


async def test_who_sees_another_run_first_begins_anew_and_nobody_else(valkey: Server) -> None:
    """However many look at once: one new incarnation, above the old one and above what anybody has seen."""
    settings = load({"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": valkey.url})
    stores = [own_region_store(settings) for _ in range(4)]
    assert await stores[0].check_server_run("eu", 0) is ServerRun.SAME
    first = stores[0].mark_of_reply((await stores[0].link.run([stores[0].append_command("eu", Draft(), 0)]))[0])
    valkey.db.set(log_runs.RUN, "another")
    seen = version_vector.mark(version_vector.incarnation(7, 1), 5)
    visits = await asyncio.gather(*(store.check_server_run("eu", seen) for store in stores))

    assert sorted(visit.value for visit in visits) == [1, 1, 1, 2]
    top = (await stores[0].last_marks(["eu"]))["eu"]
    assert top > first
    assert version_vector.count_of(version_vector.incarnation_of(top)) == 8
    for store in stores:
        await store.link.close()


@pytest.mark.slow
@pytest.mark.parametrize("clean", [True, False])
def test_the_embedded_server_loses_power(versions: VersionedOrigin, tmp_path: Path, clean: bool) -> None:
    """Killed before it has saved a purge: what is older is validated. Ended as it should, it goes on."""
    settings = {
        "worker": REAL,
        "origin": versions.url,
        "regional": "embedded",
        "regional_directory": str(tmp_path / "data"),
        "purge_tokens": f"cms={TOKEN}",
    }
    versions.may_change.set()
    versions.may_answer.set()
    with running_process(**settings) as pop:
        worker = pop.expect_worker()
        assert ask(pop.port, "GET", "/page")[1] == b"v1"
        with closing(Redis(unix_socket_path=str(socket_of(worker)))) as client:
            while not [key for key in client.keys("ec:{*") if not key.startswith(b"ec:{log}")]:
                pass
            client.save()
            versions.version = 2
            assert ask(pop.port, "PURGE", "/page", Authorization=f"Bearer {TOKEN}")[0] == 200
            server = client.info("server")["process_id"]
        if clean:
            assert ask(pop.port, "GET", "/page")[1] == b"v2"
            pop.process.terminate()
            assert pop.exit_code() == 0
            assert (tmp_path / "data" / log_runs.MARK).exists()
        else:
            os.kill(server, signal.SIGKILL)
            pop.process.kill()
            pop.process.wait(DEADLINE)
    with running_process(**settings) as pop:
        pop.expect_worker()
        assert not (tmp_path / "data" / log_runs.MARK).exists()
        assert ask(pop.port, "GET", "/page")[1] == b"v2"
        pop.process.terminate()
        pop.exit_code()


def test_a_mark_is_taken_once(tmp_path: Path) -> None:
    """It is there after an end that was clean, until the next start; what is none counts as none."""
    state = ("abc", {"eu": "5-1"})
    assert log_runs.take_mark(tmp_path) is None
    log_runs.write_mark(tmp_path, state)
    assert log_runs.take_mark(tmp_path) == state
    assert log_runs.take_mark(tmp_path) is None
    (tmp_path / log_runs.MARK).write_text("[1]")
    assert log_runs.take_mark(tmp_path) is None
