"""The regional tier at the start of the process: embedded, refused, unreachable; and what readiness says of it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from harness.pop import refusing_port
from harness.pop_process import DEADLINE, running_pop
from harness.serving import REAL, get, refusal, regional_state, socket_of
from harness.valkey import Server, running_valkey
from redis import Redis

from edgecache.config.valkey_url import parse_url


@pytest.mark.slow
def test_the_embedded_server_outlives_its_workers(page: str, tmp_path: Path) -> None:
    """With `embedded`, what a worker has fetched is there for its successor, and after a restart if it is kept."""
    settings = {"worker": REAL, "origin": page, "regional": "embedded", "regional_directory": str(tmp_path / "data")}
    with running_pop(**settings) as pop:
        worker = pop.expect_worker()
        assert regional_state(pop, "ready") == "ready"
        assert "fwd=uri-miss; fwd-status=200; stored" in get(pop.port, "/a")[1]
        wait_for_an_object(socket_of(worker))
        os.kill(worker, signal.SIGKILL)
        pop.expect_worker()
        assert get(pop.port, "/a")[1].startswith("local/regional; hit; ttl=")
        pop.process.terminate()
        assert pop.exit_code() == 0
    with running_pop(**settings) as pop:
        pop.expect_worker()
        assert get(pop.port, "/a")[1].startswith("local/regional; hit; ttl=")
        pop.process.terminate()
        assert pop.exit_code() == 0


def wait_for_an_object(path: Path) -> None:
    """Wait until an object lies in the server on a socket."""
    until = time.monotonic() + DEADLINE
    with closing(Redis(unix_socket_path=str(path))) as client:
        while not [key for key in client.keys("ec:{*}") if key != b"ec:{log}"]:
            assert time.monotonic() < until, "nothing is stored"


@pytest.mark.slow
def test_an_unreachable_tier_degrades(page: str) -> None:
    """Nothing listens there: the POP serves, is ready, and says that the tier is degraded."""
    port = refusing_port()
    with running_pop(worker=REAL, origin=page, regional=f"valkey://127.0.0.1:{port}") as pop:
        pop.expect_worker()
        assert regional_state(pop, "degraded") == "degraded"
        assert pop.admin("/readyz")[0] == 200
        assert get(pop.port, "/")[0] == 200


@pytest.mark.slow
def test_an_unreachable_tier_refuses_the_start_if_it_is_required() -> None:
    """With EDGECACHE_REGIONAL_REQUIRED, the same is one line and exit code 2."""
    port = refusing_port()
    code, said = refusal(regional=f"valkey://127.0.0.1:{port}", regional_required="on")

    assert code == 2
    assert said.count("\n") == 1
    assert said.startswith(f"EDGECACHE_REGIONAL: valkey://127.0.0.1:{port} cannot be reached: ")


@pytest.mark.slow
def test_a_wrong_password_refuses_the_start() -> None:
    """Wrong credentials are one line, without the password, and exit code 2."""
    with running_valkey() as server:
        server.db.config_set("requirepass", "right")
        code, said = refusal(regional=f"valkey://:canary@127.0.0.1:{server.port}")

    assert code == 2
    assert said.count("\n") == 1
    assert "refuses access" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://a", "is not one of embedded, off, valkey://"),
        ("valkey://", "names no host"),
        ("valkey://a:99999", "has a port"),
        ("valkey://a/b", "names no database"),
        ("valkey://a,b", "names several hosts"),
        ("valkey+sentinel://a", "names no service"),
        ("valkey+cluster://a/1", "has a path"),
        ("valkey+unix://a", "names no socket"),
        ("valkey://a?x=1", "has a query"),
    ],
)
def test_bad_urls_are_refused(url: str, words: str) -> None:
    """Each mistake in a URL has its own words."""
    with pytest.raises(ValueError, match=words):
        parse_url(url)


def test_urls_are_shown_without_their_password() -> None:
    """A password appears in no text of a URL."""
    url = parse_url("valkeys://user:canary@[::1]:7000/3")

    assert (url.nodes, url.database, url.tls, url.password) == ((("::1", 7000),), 3, True, "canary")
    assert "canary" not in f"{url} {url!r}"


async def test_a_server_is_reached_by_each_kind_of_url(valkey: Server) -> None:
    """An ordinary server by TCP, with a database."""
    from edgecache.valkey.client import Access, Link

    link = Link(Access(parse_url(f"redis://127.0.0.1:{valkey.port}/2"), 1.0))
    await link.ping()
    await link.close()
