"""Sites read again while a POP serves: what changes, what stays, and what is refused."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from harness.client import until
from harness.origin import OriginDouble, Reply
from harness.pop import environment
from harness.pop import running_pop as running_pop_here
from harness.pop_process import RunningPop, running_pop

from edgecache.config.settings import load
from edgecache.config.sites import pools
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.config_reload import Configuration
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Registry

WORKER = "edgecache.server.worker:Worker"
FRESH = [("Cache-Control", "max-age=1000000000")]
LONG = 200 * 1024  # characters: more than one variable of the environment may have


def site(origin: str, more: str = "", name: str = "a") -> str:
    """A site with one rule."""
    rule = f'[[sites.rules]]\nname = "r"\nwhen = {{ cookie = {{ s = true }} }}\ncache = {{ tags = ["x"] }}\n{more}\n'
    return f'[[sites]]\nname = "{name}"\nhosts = ["{name}.test"]\norigin = "{origin}"\n{rule}'


async def get(pop: RunningPop, host: str, cookie: str = "s=1") -> tuple[int, str, bytes]:
    """Status, Cache-Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pop.port)
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    outcome = [line for line in head.split(b"\r\n") if line.lower().startswith(b"cache-status")]
    return int(head.split()[1]), b"".join(outcome).decode(), body


def replace(pop: RunningPop, file: Path, text: str) -> None:
    """Another text, read at once: the POP looks for changes once a second."""
    file.write_text(text)
    pop.process.send_signal(signal.SIGHUP)


async def test_a_mistake_keeps_the_last_good_text(origin: OriginDouble, tmp_path: Path) -> None:
    """It is one line of the log, and counted; workers that start later have the last good text too."""
    file = tmp_path / "sites.toml"
    origin.otherwise(Reply(fields=FRESH, body=b"1"))
    file.write_text(site(origin.url))
    with running_pop(worker=WORKER, origin="", sites=file) as pop:
        await asyncio.to_thread(pop.expect_worker)
        await get(pop, "a.test")
        replace(pop, file, site(origin.url).replace("[[sites.rules]]", "orgin = 1\n[[sites.rules]]"))
        words = "reload refused, the last good configuration stays in use: EDGECACHE_SITES: "
        said = await asyncio.to_thread(pop.expect, f"{words}(.*)")
        assert said == f"{file}:5: sites[1].orgin: is not a key here; did you mean origin?"
        assert await asyncio.to_thread(pop.metric, "edgecache_config_reload_failures_total") == 1
        pop.process.send_signal(signal.SIGUSR2)  # a successor starts while the file is wrong
        await asyncio.to_thread(pop.expect_worker)
        assert (await get(pop, "a.test"))[0] == 200
        file.unlink()
        pop.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(pop.expect, f"{words}{file}: cannot be read")
        replace(pop, file, site(origin.url, name="b"))
        await asyncio.to_thread(pop.expect, "configuration reloaded; changed: EDGECACHE_SITES")
        assert [(await get(pop, host))[0] for host in ("a.test", "b.test")] == [421, 200]


@pytest.mark.slow
async def test_what_is_stored_stays_where_rules_do_not_change(origin: OriginDouble, tmp_path: Path) -> None:
    """Other rules and sites may come; responses under the same rules are hits still, and all connections stay."""
    file = tmp_path / "sites.toml"
    origin.otherwise(Reply(fields=FRESH, body=b"1"))
    file.write_text(site(origin.url))
    with running_pop(worker=WORKER, origin="", sites=file) as pop:
        await asyncio.to_thread(pop.expect_worker)
        await get(pop, "a.test")
        more = '[[sites.rules]]\nname = "other"\nwhen = { cookie = { t = true } }\ncache = { store = false }\n'
        replace(pop, file, site(origin.url, more) + site(origin.url, name="b"))
        await asyncio.to_thread(pop.expect, "configuration reloaded; changed: EDGECACHE_SITES")
        assert "; hit" in (await get(pop, "a.test"))[1]
        assert "fwd" in (await get(pop, "b.test"))[1]
        replace(pop, file, site(origin.url).replace('"x"', '"y"'))
        await asyncio.to_thread(pop.expect, "configuration reloaded; changed: EDGECACHE_SITES")
        assert "fwd" in (await get(pop, "a.test"))[1]


@pytest.mark.slow
async def test_files_that_the_text_names_are_watched(origin: OriginDouble, tmp_path: Path) -> None:
    """A page that changes is another configuration; one that is gone is refused."""
    file, page = tmp_path / "sites.toml", tmp_path / "page.html"
    page.write_text("<p>one")
    rules = site(origin.url).replace("[[sites.rules]]", f'maintenance_page = "{page}"\n[[sites.rules]]')
    file.write_text(rules)
    with running_pop(worker=WORKER, origin="", sites=file) as pop:
        await asyncio.to_thread(pop.expect_worker)
        page.write_text("<p>two")
        await asyncio.to_thread(pop.expect, "configuration reloaded; changed: EDGECACHE_SITES")
        page.unlink()
        await asyncio.to_thread(pop.expect, "reload refused.*maintenance_page: .*page.html cannot be read")


def test_workers_get_the_very_text(tmp_path: Path) -> None:
    """By a copy, however long it is, and whatever becomes of the file; what changes meanwhile is read again."""
    file = tmp_path / "sites.toml"
    first = site("http://192.0.2.1", "#" * LONG)
    file.write_text(first)
    environ = {"EDGECACHE_SITES": str(file), "EDGECACHE_MEMORY": "64MiB", "EDGECACHE_WORKERS": "1"}
    source = Source(environ)
    configuration = Configuration(source, load(source.read()), Registry())
    file.write_text("not toml")
    told = load(configuration.environ)

    assert told.sites is not None
    assert told.sites.text == first
    assert len(configuration.environ["EDGECACHE_SITES"]) < 100
    with pytest.raises(ConfigError):
        configuration.read_again()
    assert load(configuration.environ).sites == told.sites


def test_a_change_before_the_watch_begins_is_seen(tmp_path: Path) -> None:
    """Between the reading of a file and the first look at it, it may change."""
    file = tmp_path / "sites.toml"
    file.write_text(site("http://192.0.2.1"))
    source = Source({"EDGECACHE_SITES": str(file), "EDGECACHE_MEMORY": "64MiB", "EDGECACHE_WORKERS": "1"})
    settings = load(source.read())
    file.write_text(site("http://192.0.2.2"))
    configuration = Configuration(source, settings, Registry())

    assert [configuration.has_changed() for _ in range(3)] == [True, False, False]
    assert configuration.read_again().live == ("EDGECACHE_ORIGIN", "EDGECACHE_SITES")


@pytest.mark.slow
async def test_a_thousand_sites_are_reloaded_without_a_lost_request(origin: OriginDouble, tmp_path: Path) -> None:
    """Clients go on all the while; every request is answered, as the last configuration or the next one says."""
    file = tmp_path / "sites.toml"
    origin.otherwise(Reply(fields=FRESH, body=b"1"))
    texts = [
        "".join(site(origin.url, name=f"s{n}").replace('"x"', f'"x{turn}"') for n in range(1000)) for turn in range(4)
    ]
    file.write_text(texts[0])
    over, answers, slowest = asyncio.Event(), [], [0.0]

    async def client(number: int) -> None:
        while not over.is_set():
            began = time.monotonic()
            answers.append((await get(pop, f"s{number * 100}.test", f"s={number}"))[0])
            slowest[0] = max(slowest[0], time.monotonic() - began)

    with running_pop(worker=WORKER, origin="", sites=file, workers=2, memory="256MiB", access_log="off") as pop:
        for _ in range(2):
            await asyncio.to_thread(pop.expect_worker)
        clients = [spawn(client(number), name="client") for number in range(4)]
        took = []
        for text in texts[1:]:
            await until(lambda: len(answers) > 50)
            file.write_text(text)
            began = time.monotonic()
            pop.process.send_signal(1)
            await asyncio.to_thread(pop.expect, "configuration reloaded")
            took.append(round(time.monotonic() - began, 2))
            answers[:50] = []
        over.set()
        await asyncio.gather(*clients)
    print(f"reloads of 1,000 sites took {took} s; the slowest of {len(answers)} requests {slowest[0]:.3f} s")
    assert set(answers) == {200}


async def test_a_reload_of_many_sites_makes_only_the_pools_in_use(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the loop, nothing is done for each site that a thread could do before, or its first request later."""
    made: list[str] = []
    make = pools._pool
    monkeypatch.setattr(pools, "_pool", lambda settings, pool, hosts: made.extend(hosts) or make(settings, pool, hosts))
    origin.otherwise(Reply(fields=FRESH, body=b"1"))
    texts = ["".join(site(origin.url, name=f"s{n}").replace('"x"', f'"x{turn}"') for n in range(1000)) for turn in "ab"]
    async with running_pop_here(origin, sites=texts[0]) as pop:
        assert (await pop.get("/", ("Host", "s7.test"))).status == 200
        assert set(made) == {"s7.test"}
        settings = load(environment(origin.url, [("sites", texts[1])]))
        before = pop.worker._switch.current.sites.opened["site s7"]
        await pop.worker.reload(settings)
        assert set(made) == {"s7.test"}
        assert pop.worker._switch.current.sites.opened == {"site s7": before}
        known = pop.worker._sites.site_of(b"s8.test")
        changed = load(environment(origin.url, [("sites", texts[1].replace('"s7"', '"s7x"'))]))
        await pop.worker.reload(changed)
        assert pop.worker._sites.site_of(b"s8.test") is known
        assert (await pop.get("/", ("Host", "s9.test"))).status == 200
        assert set(made) <= {"s7.test", "s9.test"}
