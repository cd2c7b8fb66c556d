"""`edgecache healthcheck`: what an orchestrator learns by its exit code."""

import asyncio

import pytest
from aiohttp.test_utils import TestServer
from test_admin import FakePop

from edgecache import healthcheck
from edgecache.admin import application
from edgecache.cli import main
from edgecache.config import Address


@pytest.mark.parametrize(("state", "ready"), [("ready", True), ("starting", False), ("draining", False)])
@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0"])
async def test_it_says_what_the_pop_says(state: str, ready: bool, listens_on: str) -> None:
    """Ready is ready; a POP that listens on every address is asked at the loopback one, without the token."""
    async with TestServer(application(FakePop(state), "a token")) as server:
        assert server.port is not None
        found = await asyncio.to_thread(healthcheck.ask, Address(listens_on, server.port))

    assert found == (ready, state)


async def test_an_answer_of_somebody_else_is_not_ready() -> None:
    """A listener that closes each connection is no POP."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        ready, words = await asyncio.to_thread(healthcheck.ask, address)

    assert not ready
    assert words.startswith(f"{address} does not tell")


def test_nobody_there_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so in one line."""
    monkeypatch.setenv("EDGECACHE_ORIGIN", "http://origin.example")
    monkeypatch.setenv("EDGECACHE_ADMIN_LISTEN", "127.0.0.1:1")

    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().out.startswith("127.0.0.1:1 does not tell: ")
