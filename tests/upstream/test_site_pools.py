"""The pools of sites: their servers, weights, regions, checks, sockets and TLS; what fails, and what a reload keeps."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import environment, refusing_port, running_pop
from harness.site_pools import STORED, filled, site, sites
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.addresses import server
from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.server.dependencies import Dependencies
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Snapshot
from edgecache.upstream.health import by_weight

POOL = '[pools.p]\nservers = ["{0}", "{1}"]\n'
OF_POOL = site('pool = "p"')
FAILURE = Reply(503, [("Cache-Control", "no-store")])


def told(snapshot: Snapshot) -> dict[str, str]:
    """What `/readyz` says of origins while a worker has these metrics."""
    settings = load(environment("http://unused.test", {"sites": OF_POOL + '[pools.p]\nservers = ["http://x"]'}.items()))
    parts = Dependencies(lambda: settings, lambda: [snapshot], lambda: [snapshot], lambda: ("off", ""), dict).parts()
    return {name: state for name, state in parts.items() if name.startswith("origin")}


# --- the choice of a server


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 99))
def test_idle_servers_get_shares_by_weight(weights: list[int], seed: int) -> None:
    """Of 2,000 requests, one after the other, each server gets its share within 6 percent of all."""
    chance = random.Random(seed)

    def drawn(given: object) -> int:
        return chance.choices(range(len(weights)), weights)[0]

    got = Counter(by_weight(weights, [0] * len(weights), drawn) for _ in range(2000))
    for number, weight in enumerate(weights):
        assert abs(got[number] / 2000 - weight / sum(weights)) < 0.06


def test_busy_servers_hold_requests_by_weight() -> None:
    """While nothing ends, requests under way lie as the weights do."""
    weights, waiting, chance = [1.0, 3.0], [0, 0], random.Random(7)
    for _ in range(400):
        waiting[by_weight(weights, waiting, lambda given: chance.choices((0, 1), weights)[0])] += 1
    assert 270 < waiting[1] < 330


async def test_servers_of_a_pool_share_its_requests_by_weight() -> None:
    """Both are asked, the heavy one more often."""
    text = '[pools.p]\nservers = [{ url = "{0}", weight = 9 }, "{1}"]\n' + OF_POOL
    async with sites(text, 2) as run:
        for number in range(120):
            await run.get(f"/{number}")
        heavy, light = (len(origin.requests) for origin in run.origins)
        assert heavy + light == 120
        assert heavy > 80
        assert light > 0


async def test_a_server_that_fails_is_left_out_and_named() -> None:
    """Requests go to the other; the metrics and `/readyz` name the one that fails, its pool, and no other."""
    text = POOL + OF_POOL + site('origin = "{2}"', "b")
    async with sites(text, 3) as run:
        run.origins[1].otherwise(FAILURE)
        assert told(run.pop.worker.snapshot()) == {}  # no pool is judged that no request has gone to
        for number in range(40):
            assert await run.get(f"/{number}") == b"0"
        await run.get("/", "b.test")
        states = told(run.pop.worker.snapshot())
        assert states == {
            f"origin {run.origins[0].url} of pool p": "ready",
            f"origin {run.origins[1].url} of pool p": "failing",
            f"origin {run.origins[2].url} of site b": "ready",
        }
        assert "edgecache_origin_up" not in run.pop.worker.snapshot()


async def test_the_only_server_of_a_site_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It is told with its site, and goes on being asked; the other site is well."""
    text = site(f'origin = "http://127.0.0.1:{refusing_port()}"') + site('origin = "{0}"', "b")
    async with sites(text) as run:
        for number in range(8):
            assert (await run.pop.get(f"/{number}", ("Host", "a.test"))).status == 502
            assert await run.get(f"/{number}", "b.test") == b"0"
        snapshot = run.pop.worker.snapshot()
        assert sorted(told(snapshot).values()) == ["failing", "ready"]
        ((labels, (count,)),) = snapshot["edgecache_pool_failures"]["series"]
        assert dict(labels) == {"pool": "site a", "reason": "connect"}
        assert count == 8


async def test_checks_are_for_the_site_and_take_a_server_out() -> None:
    """The check has the Host of the site that the pool serves."""
    text = '[pools.p]\nservers = ["{0}", "{1}"]\ncheck_path = "/health"\n' + site('pool = "p"', host="shop.test")
    async with sites(text, 2, origin_check_fall="1") as run:
        run.origins[0].on("/health", Reply(500))
        await run.get("/", "shop.test")
        for origin in run.origins:
            run.pop.worker._switch.sweep(10**9)
            await origin.until(lambda: any(one.target == "/health" for one in origin.requests), "a check", 10)  # noqa: B023
            checks = [one for one in origin.requests if one.target == "/health"]
            assert checks[0].get("host") == "shop.test"
        (pool,) = run.pop.worker._switch.current.origins
        async with asyncio.timeout(10):
            while pool.members[0].health.checked_up:
                await let_others_run()
        before = len(run.origins[0].requests)
        for number in range(20):
            assert await run.get(f"/{number}", "shop.test") == b"1"
        assert len(run.origins[0].requests) == before


async def test_servers_of_the_region_come_first() -> None:
    """Servers of another region are asked when those of this one fail."""
    servers = '[{ url = "{0}", region = "eu" }, { url = "{1}", region = "us" }]'
    async with sites(f"[pools.p]\nservers = {servers}\n" + OF_POOL, 2, region="eu") as run:
        for number in range(10):
            assert await run.get(f"/{number}") == b"0"
        run.origins[0].otherwise(FAILURE)
        assert await run.get("/more") == b"1"


async def test_residency_holds_for_pools() -> None:
    """A request that must stay in a jurisdiction reaches no server elsewhere, and an only server counts too."""
    servers = '[{ url = "{0}", region = "us" }]'
    text = f"[pools.p]\nservers = {servers}\n" + OF_POOL
    async with sites(text, region="eu", residency="eu:EU,us:US") as run:
        assert (await run.pop.get("/", ("Host", "a.test"))).status == 503
        assert run.targets() == []


# --- the way there


async def test_a_server_behind_a_unix_socket(tmp_path: Path) -> None:
    """Its Host is the client's, or localhost where its own is wanted."""
    path, double = tmp_path / "origin.sock", OriginDouble()
    double.otherwise(Reply(fields=STORED, body=b"by socket"))
    listening = await asyncio.start_unix_server(double.serve, path)
    async with listening:
        for host, seen in (("client", "a.test"), ("origin", "localhost"), ("x.test", "x.test")):
            text = f'[pools.p]\nservers = ["unix:{path}"]\nhost = "{host}"\n' + OF_POOL
            async with running_pop("http://unused.test", sites=text) as pop:
                assert (await pop.get("/", ("Host", "a.test"))).body == b"by socket"
                assert double.requests[-1].get("host") == seen
                assert "failing" not in told(pop.worker.snapshot()).values()
    async with running_pop("http://unused.test", sites=text) as pop:
        assert (await pop.get("/", ("Host", "a.test"))).status == 502  # nothing listens any more


async def test_tls_name_and_ca_of_a_pool(tmp_path: Path) -> None:
    """The certificate is verified for `tls_name` by the pool's own authority; another name, or none, is refused."""
    authority = Authority(tmp_path)
    files = authority.issue("inner.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with running_origin(tls=context) as origin:
        origin.otherwise(Reply(fields=STORED, body=b"secure"))
        for more, status in (
            (f'tls_name = "inner.test"\nca = "{authority.file}"', 200),
            (f'tls_name = "other.test"\nca = "{authority.file}"', 502),
            (f'ca = "{authority.file}"', 502),
            ('tls_name = "inner.test"', 502),
            ("verify = false", 200),
        ):
            text = f'[pools.p]\nservers = ["{origin.url}"]\n{more}\n' + OF_POOL
            async with running_pop(origin, sites=text) as pop:
                assert (await pop.get("/", ("Host", "a.test"))).status == status, more


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ('servers = ["unix:x"]', "unix:/path"),
        ('servers = ["http://x"]\ntls_name = "y"', "no server of the pool is https"),
        ('servers = ["https://x"]\nca = "/nowhere"', "/nowhere"),
        ('servers = ["http://127.0.0.1:8090"]', "this POP itself"),
        ('servers = ["http://x"]\nhost = "a b"', "not client, origin or host"),
    ],
)
def test_a_pool_that_cannot_work_is_refused(pool: str, words: str) -> None:
    """In a sentence."""
    settings = {"sites": f"[pools.p]\n{pool}\n{OF_POOL}", "listen": "127.0.0.1:8090"}
    with pytest.raises(ConfigError, match=words):
        load(environment("http://x", settings.items()))


def test_a_server_by_its_text() -> None:
    """Of a socket, and of a name."""
    assert str(server("unix:/run/x.sock")) == "unix:/run/x.sock"
    assert server("https://x", tls_name="y", weight=3).weight == 3
    for wrong in ("unix:", "unix:run", "unix:/" + "x" * 107, "unix:/a\0b"):
        with pytest.raises(ValueError, match="unix:/path"):
            server(wrong)


# --- reload


async def test_a_reload_keeps_the_connections_of_pools_that_stay_as_they_are() -> None:
    """A pool that changed opens new ones; what is under way ends as it began."""
    text = POOL.replace(', "{1}"', "") + OF_POOL + site('origin = "{1}"', "b")
    async with sites(text, 2) as run:
        gate = asyncio.Event()
        run.origins[0].on("/slow", Reply(fields=STORED, body=b"slow", wait=gate))
        run.origins[1].on("/slow", Reply(fields=STORED, body=b"slow b", wait=gate))
        slow = [spawn(run.get("/slow", host), "a slow request") for host in ("a.test", "b.test")]
        for number in range(2):
            await run.origins[number].request_seen(1)
            await run.get("/1", "ab"[number] + ".test")
        connections = [origin.connections for origin in run.origins]
        changed = filled(text, run.origins).replace("[pools.p]", "[pools.p]\nconnect_timeout = '9s'")
        await run.reload(changed)
        await run.get("/2", "a.test")
        await run.get("/2", "b.test")
        assert [origin.connections for origin in run.origins] == [connections[0] + 1, connections[1]]
        gate.set()
        assert await asyncio.gather(*slow) == [b"slow", b"slow b"]
        assert run.pop.worker._switch.counts.asked == 6
        run.pop.worker._switch.sweep(0.0)
        assert run.pop.worker._switch.counts.asked == 6
        assert not run.pop.worker._switch._former
        await run.get("/3", "b.test")
        assert run.origins[1].connections == connections[1]
        assert len(told(run.pop.worker.snapshot())) == 2


async def test_no_request_is_lost_over_reloads() -> None:
    """Requests go on while pools come, change and leave."""
    text = POOL + OF_POOL
    async with sites(text, 2) as run:
        done = False

        async def ask(worker: int) -> int:
            number = 0
            while not done:
                await run.get(f"/{worker}/{number}")
                number += 1
            return number

        asking = [spawn(ask(worker), "requests") for worker in range(4)]
        for turn in range(12):
            await run.reload(filled(text, run.origins) + f"# {turn}" + f'\n[pools.q{turn}]\nservers = ["http://x"]\n')
            await run.reload(filled(text, run.origins).replace("[pools.p]", f"[pools.p]\nconnections = {turn + 1}"))
            await let_others_run(20)
        done = True
        assert min(await asyncio.gather(*asking)) > 0
