"""The configuration read again: what the file may say, what is applied where, what is refused, what the clients see."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority, Files
from harness.client import until
from harness.often import one_in
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import environment
from harness.pop import running_pop as running_here
from harness.pop_process import RunningPop, running_pop
from harness.tls_client import secured

from edgecache.config.settings import LIVE, PREFIX, RESTART, ROWS, load
from edgecache.config.sources import Source, parsed
from edgecache.semantics.errors import ConfigError
from edgecache.server.config_reload import Configuration
from edgecache.server.worker import Worker
from edgecache.telemetry.metrics import Registry

WORKER = "edgecache.server.worker:Worker"
SITE, OTHER = "www.example.test", "shop.example.test"
FRESH = [("Cache-Control", "max-age=60")]


# --- the file


def test_what_a_file_may_say() -> None:
    """Comments, empty lines, `export`, quotes around a value; all else of a value is the value."""
    text = """
    # a comment
    EDGECACHE_POP=eu-1
    export EDGECACHE_REGION = eu
    EDGECACHE_HSTS="max-age=60; includeSubDomains"
    EDGECACHE_HOSTS='a.test, b.test'
    EDGECACHE_ORIGIN=http://a.test/#x
    EDGECACHE_GEO_DB=
    """
    assert parsed(text, "file") == {
        "EDGECACHE_POP": "eu-1",
        "EDGECACHE_REGION": "eu",
        "EDGECACHE_HSTS": "max-age=60; includeSubDomains",
        "EDGECACHE_HOSTS": "a.test, b.test",
        "EDGECACHE_ORIGIN": "http://a.test/#x",
        "EDGECACHE_GEO_DB": "",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("EDGECACHE_POP", "line 1 is not NAME=value"),
        ("\nPATH=/x", "line 2 is not a setting: names begin with EDGECACHE_"),
        ("EDGECACHE_POP=a\nEDGECACHE_POP=b", "line 2 sets EDGECACHE_POP again"),
        ("EDGECACHE_POP=a\x1b[31m", "line 1 is not NAME=value"),
        ("=x", "line 1 is not NAME=value"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text: str, problem: str) -> None:
    """It names the file and the line, and never quotes a value."""
    with pytest.raises(ConfigError) as raised:
        parsed(text, "edgecache.env")
    assert str(raised.value) == f"EDGECACHE_CONFIG_FILE: edgecache.env {problem}"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """What it sets, unless that is empty; where they differ it is said."""
    file = tmp_path / "env"
    file.write_text("EDGECACHE_POP=file\nEDGECACHE_REGION=file\nEDGECACHE_HOSTS=same.test\n")
    environ = {"EDGECACHE_POP": "environment", "EDGECACHE_REGION": " ", "EDGECACHE_HOSTS": "same.test", "PATH": "/bin"}
    source = Source(environ, str(file))
    read = source.read()
    assert [read[name] for name in ("EDGECACHE_POP", "EDGECACHE_REGION", "PATH")] == ["environment", "file", "/bin"]
    assert source.overridden == ["EDGECACHE_POP"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(ConfigError, match="nowhere cannot be read: No such file or directory"):
        Source({}, str(tmp_path / "nowhere")).read()


# --- what is applied


def middleware_of(worker: Worker) -> list[str]:
    """The middleware that a request passes, in its order."""
    return [type(one).__name__ for one in worker.pipeline.middleware]


PROBES: dict[str, tuple[str, Callable[[Worker], Any]]] = {
    "origin": ("http://192.0.2.1:81", lambda worker: worker.pool.options.origin),
    "origins": ("eu=http://192.0.2.1|http://192.0.2.2", lambda worker: repr(worker.pool)),
    "origin_host": ("other.test", lambda worker: worker.edge.upstream._gateway),
    "connect_timeout": ("1s", lambda worker: worker.pool.options.connect_timeout),
    "first_byte_timeout": ("1s", lambda worker: worker.pool.first_byte_timeout),
    "between_bytes_timeout": ("1s", lambda worker: worker.pool.between_bytes_timeout),
    "origin_connection_age": ("1m", lambda worker: worker.pool.options.connection_age),
    "dns_ttl": ("1s", lambda worker: worker.pool.options.dns_ttl),
    "origin_min_rate": ("7", lambda worker: worker.pool.min_rate),
    "origin_keepalive": ("1s", lambda worker: worker.pool.options.keepalive),
    "origin_connections": ("7", lambda worker: worker.pool.options.connections),
    "origin_queue": ("7", lambda worker: worker.pool.options.queue),
    "origin_queue_timeout": ("1s", lambda worker: worker.pool.options.queue_timeout),
    "origin_ca": ("", lambda worker: len(worker.pool._tls.context.get_ca_certs())),
    "origin_certificate": ("", lambda worker: len(worker.pool._tls._files._paths)),
    "origin_certificate_key": ("", lambda worker: worker.pool._tls._files._paths),
    "origin_tls_verify": ("off", lambda worker: worker.pool._tls.context.verify_mode),
    "parent_ca": ("", lambda worker: len(worker.parents.members[0].pool._tls.context.get_ca_certs())),
    "parent_bypass": ("7", lambda worker: worker.parents.bypass._most),
    "pop_certificate": ("", lambda worker: worker.parents.members[0].pool._tls._files._paths),
    "pop_certificate_key": ("", lambda worker: worker.parents.members[0].pool._tls._files._paths),
    "origin_eject_after": ("7", lambda worker: worker.pool.members[0].health.breaker._failures),
    "origin_eject_for": ("7s", lambda worker: worker.pool.members[0].health.breaker._open_for),
    "origin_slow_start": ("7s", lambda worker: worker.pool.members[0].health._slow_start),
    "origin_hedge": ("off", lambda worker: worker.pool._hedges),
    "origin_check_path": ("/well", lambda worker: worker.pool._check_path),
    "origin_check_interval": ("7s", lambda worker: worker.pool._check_interval),
    "origin_check_fall": ("7", lambda worker: worker.pool.members[0].health._fall),
    "origin_check_rise": ("7", lambda worker: worker.pool.members[0].health._rise),
    "origin_urls": ("keep", lambda worker: middleware_of(worker)),
    "origin_alt_svc": ("keep", lambda worker: (worker.pool.options.responses.hidden, worker.edge.fills._policy)),
    "forwarded": ("off", lambda worker: worker.edge.upstream._gateway),
    "client_revalidation": ("honour", lambda worker: worker.edge.limits.revalidation),
    "ignored_parameters": ("utm_*", lambda worker: (worker.edge.invalidation.ignored, worker.edge.alike._ignored)),
    "sites": (
        '[[sites]]\nname="a"\nhosts=["*"]\norigin="http://192.0.2.1"',
        lambda worker: (middleware_of(worker), worker.edge.policy_of is None),
    ),
    "hosts": ("a.test,b.test", lambda worker: middleware_of(worker)),
    "trusted_proxies": (
        "192.0.2.0/24",
        lambda worker: [
            trusted("192.0.2.1")
            for trusted in (worker._trusted, worker.edge.upstream._is_trusted, worker.admission._is_exempt)
        ],
    ),
    "tls_certificates": ("", lambda worker: worker._tls and worker._tls.pairs),
    "https_redirect": ("8443", lambda worker: middleware_of(worker)),
    "hsts": ("max-age=5", lambda worker: worker.on_deliver and worker.on_deliver(b"https", b"", False)),
    "pop_ca": ("", lambda worker: worker._tls and worker._tls.identity),
    "geo_db": ("", lambda worker: worker._locator and worker._locator.geo._path),
    "geo_overrides": ("192.0.2.0/24=DE", lambda worker: worker._locator and worker._locator.geo.locate("192.0.2.1")),
    "geo_rules": ("*=us", lambda worker: worker._locator and worker._locator.geo.locate("192.0.2.1")),
    "drain_grace": ("7s", lambda worker: worker._drain_grace),
    "worker_timeout": ("9s", lambda worker: worker._settings.worker_timeout),
    "access_log": (
        "0.5",
        lambda worker: (worker._request_log.logging, worker._log.add.__qualname__, worker.answered.__name__),
    ),
    "log_level": ("error", lambda worker: worker._settings.log_level),
    "trace_sample": ("0", lambda worker: (worker._tracer._fraction, worker._tracer.to_pass == math.inf)),
    "max_connections": ("77", lambda worker: worker.admission._most),
    "max_connections_per_address": ("7", lambda worker: worker.admission._most_per_address),
    "head_timeout": ("1s", lambda worker: worker.head_timeout),
    "body_timeout": ("1s", lambda worker: worker.body_timeout),
    "idle_timeout": ("1s", lambda worker: worker.idle_timeout),
    "tunnel_timeout": ("1m", lambda worker: worker.tunnel_timeout),
    "min_rate": ("7", lambda worker: worker.min_rate),
    "max_line": ("300", lambda worker: worker.heads.limits),
    "max_fields": ("7", lambda worker: worker.heads.limits),
    "max_head": ("16KiB", lambda worker: worker.heads.limits),
    "max_ranges": ("7", lambda worker: (worker.edge.limits.max_ranges, worker.edge.delivery.max_ranges)),
    "access_log_fields": (
        "time,status",
        lambda worker: worker._request_log.layout and len(worker._request_log.layout._fields),
    ),
    "finish_abandoned": ("on", lambda worker: worker.finish_abandoned),
    "max_request_body": ("7", lambda worker: worker.max_request_body),
    "heuristics": ("off", lambda worker: worker.edge.fills._policy),
    "heuristic_max": ("7s", lambda worker: worker.edge.fills._policy),
    "negative_ttl": ("7s", lambda worker: worker.edge.fills._policy),
    "default_stale_if_error": ("7s", lambda worker: worker.edge.fills._policy),
    "stale_wait": ("7s", lambda worker: worker.edge.limits.stale_wait),
    "follower_timeout": ("7s", lambda worker: worker.edge.limits.follower_timeout),
    "hit_for_miss": ("7s", lambda worker: worker.edge.flights.hit_for_miss),
    "max_variants": ("7", lambda worker: worker.edge.memory.max_variants),
    "list_fields": ("x-a", lambda worker: worker.edge.fills._policy),
    "store_client_errors": ("on", lambda worker: worker.edge.fills._policy),
    "store_set_cookie": ("on", lambda worker: worker.edge.fills._policy),
}


WITH_PARENTS: dict[str, object] = {"parents": "local=https://parent.test", "pop_secret": "0123456789abcdef" * 4}
OF_SEVERAL = {
    name for name in PROBES if name.startswith(("origin_eject", "origin_slow", "origin_hedge", "origin_check"))
}


def test_every_setting_is_applied_somehow() -> None:
    """Each that a reload applies to living workers has a probe below; none is in two classes; all exist."""
    assert set(PROBES) == set(LIVE)
    assert not LIVE & RESTART
    assert {PREFIX + name.upper() for name in LIVE | RESTART} <= ROWS.keys()


def settings_for(name: str, authority: Authority, other: Authority) -> tuple[dict[str, object], object]:
    """What a worker starts with in the test of one setting, and what that setting is changed to."""
    pair = authority.issue(SITE)
    base: dict[str, object] = {"tls_listen": "127.0.0.1:0", "tls_certificates": pair.pair}
    https, joined = {"origin": "https://a.test"}, write_joined(pair)
    known: dict[str, tuple[dict[str, object], object]] = {
        "geo_db": (base, "tests/data/geo/GeoIP2-Country-Test.mmdb"),
        "tls_certificates": (base, authority.issue(SITE, OTHER).pair),
        "https_redirect": ({"trusted_proxies": "192.0.2.1"}, PROBES[name][0]),
        "pop_ca": (base | {"pop_listen": "127.0.0.1:0", "pop_ca": authority.file}, other.file),
        "origin_ca": (base | https, authority.file),
        "origin_tls_verify": (base | https, "off"),
        "origin_certificate": (base | https, joined),
        "origin_certificate_key": (base | https | {"origin_certificate": joined}, pair.key),
        "trace_sample": (base | {"otlp_endpoint": "http://127.0.0.1:1"}, PROBES[name][0]),
        "origin_urls": (base | {"origin_host": "origin"}, "keep"),
        "parent_ca": (WITH_PARENTS, authority.file),
        "parent_bypass": (WITH_PARENTS, PROBES[name][0]),
        "pop_certificate": (WITH_PARENTS, joined),
        "pop_certificate_key": (WITH_PARENTS | {"pop_certificate": joined}, pair.key),
    }
    several = {"origin": "", "origins": "eu=http://192.0.2.1|http://192.0.2.2"}
    return known.get(name, (several if name in OF_SEVERAL else base, PROBES[name][0]))


def write_joined(pair: Files) -> Path:
    """Certificate and key in one file."""
    joined = pair.key.with_suffix(".pem")
    joined.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    return joined


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Two for all settings."""
    return tuple(Authority(tmp_path_factory.mktemp(name), name) for name in ("one", "other"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", one_in(3, PROBES))
async def test_a_reloaded_worker_is_as_a_new_one(
    origin: OriginDouble, authorities: tuple[Authority, Authority], name: str
) -> None:
    """After the reload, what the setting decides is what it is in a worker that starts with it, and was not before."""
    base, value = settings_for(name, *authorities)
    more = {"origin": ""} if name == "origins" else {}
    changed = load(environment(origin.url, {**base, **more, name: value}.items()))
    probe = PROBES[name][1]
    async with running_here(origin, **base) as pop:
        before = probe(pop.worker)
        await pop.worker.reload(changed)
        after = probe(pop.worker)
        fresh = Worker(changed, clock=pop.clock)
        assert after == probe(fresh)
        await fresh.stop()
        if name not in ("worker_timeout", "log_level"):
            assert before != after


async def test_a_reload_keeps_the_memory_and_the_connections(origin: OriginDouble) -> None:
    """Hits stay hits, also by known heads; what is under way ends as it began; the next request meets what is new."""
    gate = asyncio.Event()
    origin.on("/hit", Reply(200, FRESH, b"x"))
    origin.on("/slow", Reply(pieces=[b"a", b"b"], gates=[None, gate]))
    async with running_here(origin) as pop, pop.client() as client, pop.client() as slow:
        for _ in range(4):
            await client.request("GET", "/hit", [("Host", SITE)])
            assert (await client.response()).status == 200
        await slow.request("GET", "/slow", [("Host", SITE)])
        await slow.response_head()
        await pop.worker.reload(load(environment(origin.url, {"hosts": SITE, "max_ranges": 1}.items())))
        for _ in range(4):
            await client.request("GET", "/hit", [("Host", SITE)])
            assert "hit" in ((await client.response()).get("Cache-Status") or "")
        await pop.worker.reload(load(environment(origin.url, {"hosts": OTHER}.items())))
        await client.request("GET", "/hit", [("Host", SITE)])
        assert (await client.response()).status == 421
        gate.set()
        assert await slow.body_bytes(2) == b"ab"
        assert len(origin.requests) == 2


# --- in processes


def write(file: Path, **settings: object) -> None:
    """Replace a configuration file as an editor does."""
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(f"EDGECACHE_{name.upper()}={value}\n" for name, value in settings.items()))
    fresh.replace(file)


def pids(pop: RunningPop) -> set[int]:
    """The processes that are workers of the POP now."""
    children = Path(f"/proc/{pop.process.pid}/task/{pop.process.pid}/children").read_text()
    return {int(pid) for pid in children.split()}


async def status(pop: RunningPop, host: str) -> tuple[int, str]:
    """What a GET of the site is answered: status and Cache-Status."""
    from harness.client import connected

    async with connected(pop.port) as client:
        await client.request("GET", "/", [("Host", host)])
        response = await client.response()
        return response.status, response.get("Cache-Status") or ""


@pytest.mark.slow
async def test_a_file_is_applied_by_signal_and_by_its_change(origin: OriginDouble, tmp_path: Path) -> None:
    """In the living worker, whose memory stays; a wrong one changes nothing, and is one line; readiness stays on."""
    origin.otherwise(Reply(200, [("Cache-Control", "max-age=1000000000")], b"x"))
    file = tmp_path / "edgecache.env"
    write(file, hosts=SITE)
    with running_pop(worker=WORKER, origin=origin.url, access_log="off", config_file=file) as pop:
        expect: Callable[[str], Any] = lambda words: asyncio.to_thread(pop.expect, words)  # noqa: E731
        await asyncio.to_thread(pop.expect_worker)
        workers = pids(pop)
        assert (await status(pop, SITE))[0] == 200
        assert (await status(pop, OTHER))[0] == 421

        write(file, hosts=f"{SITE},{OTHER}")
        await expect("configuration reloaded; changed: EDGECACHE_HOSTS")  # nobody has sent a signal
        assert (await status(pop, OTHER))[0] == 200
        assert "hit" in (await status(pop, SITE))[1]

        for wrong in ("EDGECACHE_HOSTS=a b", "EDGECACHE_NONSENSE=1", "nonsense", "EDGECACHE_MAX_LINE=1MiB"):
            file.write_text(f"{wrong}\n")
            pop.process.send_signal(signal.SIGHUP)
            await expect("reload refused, the last good configuration stays in use: EDGECACHE_")
            assert (await status(pop, OTHER))[0] == 200
            assert (await asyncio.to_thread(pop.admin, "/readyz"))[0] == 200
        metric = lambda name: asyncio.to_thread(pop.metric, f"edgecache_config_{name}")  # noqa: E731
        assert await metric("reload_failures_total") >= 4
        assert await metric("last_reload_successful") == 0

        write(file, hosts=OTHER, regional_memory="32MiB", head_timeout="2s")
        pop.process.send_signal(signal.SIGHUP)
        await expect("changed, but used only after a restart: EDGECACHE_REGIONAL_MEMORY")
        assert (await status(pop, SITE))[0] == 421
        assert await metric("last_reload_successful") == 1
        assert pids(pop) == workers


@pytest.mark.slow
async def test_what_living_workers_cannot_take_is_for_their_successors(origin: OriginDouble, tmp_path: Path) -> None:
    """Another memory policy: workers are relieved, with all else that has changed; what starts later has it too."""
    origin.otherwise(origin.versioned)
    file = tmp_path / "edgecache.env"
    write(file, hosts=f"{SITE},{OTHER}")
    with running_pop(worker=WORKER, origin=origin.url, access_log="off", config_file=file) as pop:
        first = await asyncio.to_thread(pop.expect_worker)
        assert (await status(pop, OTHER))[0] == 200
        write(file, memory_policy="lru", hosts=SITE)
        await asyncio.to_thread(pop.expect, "by new workers: EDGECACHE_MEMORY_POLICY")
        second = await asyncio.to_thread(pop.expect_worker)
        assert second != first
        await until(lambda: first not in pids(pop))
        assert (await status(pop, SITE))[0] == 200
        assert (await status(pop, OTHER))[0] == 421
        os.kill(second, signal.SIGKILL)
        await asyncio.to_thread(pop.expect_worker)
        assert (await status(pop, OTHER))[0] == 421


async def test_another_origin_is_asked_from_now_on(origin: OriginDouble) -> None:
    """What is under way ends at the old one, whose connections are closed then; memory stays; counts go on."""
    gate = asyncio.Event()
    origin.on("/hit", Reply(200, FRESH, b"old"))
    origin.on("/slow", Reply(pieces=[b"a", b"b"], gates=[None, gate]))
    async with running_origin(origin.clock) as other, running_here(origin) as pop, pop.client() as slow:
        other.otherwise(Reply(200, FRESH, b"new"))
        assert (await pop.get("/hit")).body == b"old"
        await slow.request("GET", "/slow")
        await slow.response_head()
        await pop.worker.reload(load(environment(other.url, [])))
        assert (await pop.get("/hit")).body == b"old"
        assert (await pop.get("/miss")).body == b"new"
        switch = pop.worker._switch
        assert (switch.counts.asked, switch.busy, len(switch._former)) == (3, 1, 1)
        gate.set()
        assert await slow.body_bytes(2) == b"ab"
        await until(lambda: not switch._former)
        assert (switch.counts.asked, switch.busy) == (3, 0)
        assert len(origin.requests) == 2


@pytest.mark.slow
async def test_certificates_are_renewed_without_a_restart(origin: OriginDouble, tmp_path: Path) -> None:
    """New handshakes get the new one, old connections live on; wrong, ended and missing ones leave the last good."""
    origin.otherwise(origin.versioned)
    authority = Authority(tmp_path / "ca")
    files = authority.issue(SITE)
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": files.pair, "access_log": "off"}
    with running_pop(worker=WORKER, origin=origin.url, **settings) as pop:
        await asyncio.to_thread(pop.expect_worker)

        async def serial() -> str:
            async with secured(pop.tls_port, authority.trusting()) as client:
                assert (await client.ask("/", SITE)).status == 200
                return str(client.info("peercert")["serialNumber"])

        async with secured(pop.tls_port, authority.trusting()) as old:
            first = await serial()
            files.replace_with(authority.issue(SITE))
            await asyncio.to_thread(pop.expect, "configuration reloaded; changed: EDGECACHE_TLS_CERTIFICATES")
            second = await serial()
            assert second != first
            assert (await old.ask("/", SITE)).status == 200

            ended, other = authority.issue(SITE, days=-1), authority.issue(SITE)
            for content in (ended.certificate.read_bytes(), other.certificate.read_bytes(), b"nonsense", None):
                if content is None:
                    files.certificate.unlink()
                else:
                    files.certificate.write_bytes(content)
                    if content == ended.certificate.read_bytes():
                        files.key.write_bytes(ended.key.read_bytes())
                pop.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(pop.expect, "the last good configuration stays in use: EDGECACHE_TLS_CERTIFI")
                assert await serial() == second
            assert (await old.ask("/", SITE)).status == 200
        assert await asyncio.to_thread(pop.metric, "edgecache_worker_deaths_total") == 0
        for worker in pids(pop):  # its replacement has what was good, too: the files are still missing
            os.kill(worker, signal.SIGKILL)
        await asyncio.to_thread(pop.expect, r"worker died.*(?s:.*)worker ready")
        assert await serial() == second


def test_a_certificate_that_has_ended_is_said_at_the_start(tmp_path: Path) -> None:
    """It is served: whether to go on is the clients' choice, and other sites' certificates may be good."""
    files = Authority(tmp_path).issue(SITE, days=-1)
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": files.pair}
    with running_pop(**settings) as pop:
        assert f"EDGECACHE_TLS_CERTIFICATES: {files.certificate} has expired" in pop.whole_log


def test_what_was_decided_at_the_start_stays(tmp_path: Path) -> None:
    """The embedded Valkey's URL replaces `embedded`; writing another needs a restart, and is said."""
    file = tmp_path / "env"
    write(file, origin="http://a.test", regional="embedded")
    source = Source({}, str(file))
    source.read()
    source.fix("EDGECACHE_REGIONAL", "valkey://127.0.0.1:1")
    configuration = Configuration(source, load(source.merged()), Registry())
    assert configuration.read_again().restart == ()
    write(file, origin="http://a.test", regional="off", workers="9")
    change = configuration.read_again()
    assert set(change.restart) == {"EDGECACHE_REGIONAL", "EDGECACHE_WORKERS"}
    assert change.settings.regional == "valkey://127.0.0.1:1"
    assert change.live == change.relief == ()


def test_workers_read_the_files_where_they_may_not_open_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor with capabilities of its file keeps its descriptors to itself; what is unchanged is copied once."""
    pair = Authority(tmp_path).issue(SITE)
    file = tmp_path / "env"
    write(file, origin="http://a.test", tls_listen="127.0.0.1:0", tls_certificates=pair.pair)
    source = Source({}, str(file))
    settings = load(source.read())
    copied = Configuration(source, settings, Registry())
    path = copied.environ["EDGECACHE_TLS_CERTIFICATES"]
    assert path.startswith(f"/proc/{os.getpid()}/fd/")
    for _ in range(3):
        assert copied.read_again().environ["EDGECACHE_TLS_CERTIFICATES"] == path
    monkeypatch.setattr("edgecache.server.certificate_snapshot.workers_may_open", lambda: False)
    assert Configuration(source, settings, Registry()).environ["EDGECACHE_TLS_CERTIFICATES"] == pair.pair
