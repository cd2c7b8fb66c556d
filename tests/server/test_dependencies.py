"""What a POP depends on: each part has a name in `/readyz`, and each change of its state is said once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply
from harness.pop import refusing_port
from harness.pop import running_pop as running_worker
from harness.pop_process import DEADLINE, RunningPop, running_pop
from harness.serving import REAL, get, refusal
from harness.valkey import Server, running_valkey

from edgecache.config.settings import Settings, load
from edgecache.server.dependencies import HOLD, Dependencies, StateChanges
from edgecache.telemetry.metrics import Registry, Snapshot


class World:
    """Everything that the supervisor is told, as a test wants it."""

    def __init__(self, **settings: str) -> None:
        values = {"EDGECACHE_ORIGIN": "http://a.test"} | {f"EDGECACHE_{name}": text for name, text in settings.items()}
        self.settings: Settings = load({name: text for name, text in values.items() if text})
        self.workers: list[Snapshot] = []
        self.tier = ("off", "")
        self.peers: dict[str, str] = {}
        self.clock = FakeClock()
        changes = StateChanges(clock=self.clock)
        self.surroundings = Dependencies(
            lambda: self.settings,
            lambda: self.workers,
            lambda: self.workers,
            lambda: self.tier,
            lambda: self.peers,
            changes,
        )

    def look(self, caplog: pytest.LogCaptureFixture, seconds: float = 1.0) -> list[str]:
        """What is said after so many seconds."""
        caplog.clear()
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.surroundings.look()
        return [record.message for record in caplog.records]


def worker(dropped: float = 0, open_breaker: bool = False, **up: float) -> Snapshot:
    """What one worker tells: of origins a and b whether they are well."""
    registry = Registry()
    for name, value in up.items():
        kind, _, host = name.partition("_")
        labels: dict[str, Any] = {kind: f"http://{host}.test:80", "region": "eu"}
        registry.gauge(f"edgecache_{kind}_up", "Up.", **labels).value = value
    registry.counter("edgecache_access_log_dropped", "Dropped.").value = dropped
    registry.gauge("edgecache_regional_breaker", "State.", state="open").value = float(open_breaker)
    return json.loads(json.dumps(registry.snapshot()))  # type: ignore[no-any-return]


NAMES = {"ORIGIN": "", "ORIGINS": "eu=http://a.test:80|http://b.test:80", "PARENTS": "http://p.test:80"}
SECRET = {"POP_SECRET": "a-secret-of-this-fleet"}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged from warnings up."""
    caplog.set_level(logging.WARNING, logger="edgecache.supervisor")
    return caplog


def test_each_origin_and_parent_is_said_once_and_once_again(said: pytest.LogCaptureFixture) -> None:
    """One that any worker holds to be ill fails; it is well again when it has been so for a while."""
    world = World(**NAMES, **SECRET)
    a, b = str(world.settings.origins["eu"][0]), str(world.settings.origins["eu"][1])
    world.workers = [named(a, b, 1, 1), named(a, b, 1, 1)]
    assert world.look(said, 3) == []
    world.workers[1] = named(a, b, 0, 1)
    (line,) = world.look(said, 5)
    assert a in line
    assert "is failing" in line
    assert world.surroundings.parts()[f"origin {a}"] == "failing"
    assert world.surroundings.parts()[f"origin {b}"] == "ready"
    world.workers[1] = named(a, b, 1, 1)
    assert world.look(said, HOLD - 1) == []
    assert world.look(said, 5) == [f"the origin {a} is healthy again"]


def named(a: str, b: str, one: float, two: float) -> Snapshot:
    """What a worker says of two origins."""
    registry = Registry()
    for name, value in ((a, one), (b, two)):
        registry.gauge("edgecache_origin_up", "Up.", origin=name, region="eu").value = value
    return registry.snapshot()


def test_one_that_flaps_is_not_said_each_time(said: pytest.LogCaptureFixture) -> None:
    """Well for a second, ill for a second: that is one failure."""
    world = World()
    a = str(world.settings.origin)
    lines = []
    for number in range(20):
        world.workers = [named(a, "other", float(number % 2), 1)]
        lines += world.look(said)
    assert len(lines) == 1


def test_peers_and_the_tier_are_named(said: pytest.LogCaptureFixture) -> None:
    """A peer that refuses, one out of reach, and a tier that answers too late."""
    world = World()
    world.workers, world.tier = [worker(open_breaker=True)], ("ready", "")
    world.peers = {"us": "credentials refused", "ap": ""}
    lines = world.look(said, 3)
    assert [line.partition(",")[0] for line in lines] == ["regional tier degraded", "the log of us cannot be copied"]
    assert "credentials refused" in lines[1]
    parts = world.surroundings.parts()
    assert (parts["peer us"], parts["peer ap"], parts["regional"]) == ("credentials refused", "ready", "degraded")
    world.workers, world.peers = [worker()], {"us": "", "ap": ""}
    assert world.look(said, 8) == ["the regional tier is healthy again", "the log of us is copied again"]


def test_lines_that_are_dropped_are_said(said: pytest.LogCaptureFixture) -> None:
    """Once as it begins, once when it is over, with how many there were."""
    world = World()
    lines = []
    for dropped in (0, 5, 9, 12, 12):
        world.workers = [worker(dropped)]
        lines += world.look(said)
    assert len(lines) == 1
    assert world.look(said, 8) == ["lines of the access log are no longer dropped; lost so far: 12"]


def test_what_is_not_configured_any_more_is_forgotten(said: pytest.LogCaptureFixture) -> None:
    """A reload that takes an origin away ends what was to be said of it."""
    world = World()
    world.workers = [named(str(world.settings.origin), "other", 0, 1)]
    assert len(world.look(said)) == 1
    world.settings = load({"EDGECACHE_ORIGIN": "http://new.test"})
    assert world.look(said, 9) == []
    assert world.surroundings.parts() == {"regional": "off", "origin http://new.test": "unknown"}


@pytest.mark.parametrize("status", [500, 503])
async def test_the_only_origin_is_ill_after_failures_in_a_row(origin: OriginDouble, status: int) -> None:
    """Five answers that speak against it, or none; one good answer makes it well."""
    origin.otherwise(Reply(status, body=b"oops"))
    origin.on("/well", Reply(body=b"well"))
    async with running_worker(origin) as pop:
        for number in range(5):
            assert well(pop) == 1
            await pop.get(f"/{number}")
        assert well(pop) == 0
        await pop.get("/well")
        assert well(pop) == 1
        await origin.stop()
        for number in range(5):
            await pop.get(f"/again{number}")
        assert well(pop) == 0


def well(pop: Any) -> float:
    """Whether the worker holds its origin to be well."""
    ((_, (value,)),) = pop.worker.snapshot()["edgecache_origin_up"]["series"]
    return float(value)


class Page(BaseHTTPRequestHandler):
    """An origin that fails while it is told to."""

    ill = False

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(500 if Page.ill else 200)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def page() -> Iterator[str]:
    """The URL of it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def eventually(seen: Callable[[], bool]) -> None:
    """Wait until it is so."""
    until = time.monotonic() + DEADLINE
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.05)


def state_of(pop: RunningPop, part: str) -> str:
    """What readiness says of a part."""
    return str(json.loads(pop.admin("/readyz")[1])["parts"].get(part))


@pytest.mark.slow
def test_an_origin_that_fails_is_said_on_standard_error() -> None:
    """On a clock that runs: failing, named in readiness, and well again."""
    with page() as url, running_pop(worker=REAL, origin=url, access_log="off") as pop:
        pop.expect_worker()
        eventually(lambda: state_of(pop, f"origin {url}") == "ready")
        Page.ill = True
        for number in range(6):
            get(pop.port, f"/{number}")
        pop.expect(f"WARNING.*the origin {url} is failing")
        assert state_of(pop, f"origin {url}") == "failing"
        assert pop.admin("/readyz")[0] == 200
        Page.ill = False
        get(pop.port, "/well")
        pop.expect(f"WARNING.*the origin {url} is healthy again")


@pytest.mark.slow
def test_a_peer_out_of_reach_is_said_and_named(valkey: Server) -> None:
    """Unreachable from the start on: one warning, and a part of readiness."""
    settings = {"regional": valkey.url, "peers": f"us=valkey://127.0.0.1:{refusing_port()}", "region": "eu"}
    with running_pop(worker=REAL, access_log="off", **settings) as pop:
        pop.expect("WARNING.*the log of us cannot be copied.*unreachable")
        assert state_of(pop, "peer us") == "unreachable"


@pytest.mark.slow
def test_a_peer_that_refuses_our_credentials_refuses_the_start(valkey: Server) -> None:
    """Waiting does not mend a wrong password: one line that names the setting and the peer, without the password."""
    with running_valkey() as far:
        far.db.config_set("requirepass", "right")
        code, told = refusal(regional=valkey.url, region="eu", peers=f"us=valkey://:canary@127.0.0.1:{far.port}")
    assert (code, told.count("\n")) == (2, 1)
    assert told.startswith("EDGECACHE_PEERS: ")
    assert " of us refuses access: " in told
    assert "canary" not in told


@pytest.mark.slow
def test_a_peer_that_refuses_our_credentials_later_is_said_and_named(valkey: Server) -> None:
    """A password that was changed over there: a warning of its own words, and well again once it is right."""
    with running_valkey() as far:
        settings = {"regional": valkey.url, "peers": f"us=valkey://127.0.0.1:{far.port}", "region": "eu"}
        with running_pop(worker=REAL, access_log="off", **settings) as pop:
            eventually(lambda: state_of(pop, "peer us") == "ready")
            far.db.config_set("requirepass", "right")
            far.db.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            pop.expect("WARNING.*the log of us cannot be copied.*credentials refused")
            assert state_of(pop, "peer us") == "credentials refused"
            far.db.config_set("requirepass", "")
            pop.expect("WARNING.*the log of us is copied again")
