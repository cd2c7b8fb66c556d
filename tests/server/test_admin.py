"""The admin listener: health, readiness, metrics, and the token that guards the rest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from harness.admin import FakePop

from edgecache import __version__
from edgecache.server.admin.allowed_hosts import is_own_host
from edgecache.server.admin.app import PAGES, application


@asynccontextmanager
async def admin(
    pop: FakePop, token: str = "", names: tuple[str, ...] = ()
) -> AsyncIterator[TestClient[Request, Application]]:
    """A client of the admin listener of `pop`."""
    async with TestClient(TestServer(application(pop, token, None, names))) as client:
        yield client


async def test_health_and_metrics() -> None:
    """While the process lives it is healthy, and its metrics are those of the POP."""
    async with admin(FakePop()) as client:
        health = await client.get("/healthz")
        metrics = await client.get("/metrics")

        assert (health.status, await health.text()) == (200, "ok\n")
        assert (metrics.status, await metrics.text()) == (200, "requests_total 1.0\n")
        assert metrics.headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(("state", "status"), [("ready", 200), ("starting", 503), ("draining", 503)])
async def test_readiness_tells_the_state_of_each_part(state: str, status: int) -> None:
    """Only a POP that is ready asks for new clients."""
    async with admin(FakePop(state)) as client:
        answer = await client.get("/readyz")

        assert answer.status == status
        assert await answer.json() == {"state": state, "parts": {"worker_0": "ready"}}


async def test_the_index_lists_every_page() -> None:
    """A person who opens the listener sees what there is."""
    async with admin(FakePop()) as client:
        text = await (await client.get("/")).text()

        assert all(f"\n{path} " in text for path in PAGES)


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer h\u00fcnter2"}])
async def test_a_token_guards_everything_but_health(given: dict[str, str]) -> None:
    """Without the token there is 401, except for what an orchestrator asks."""
    async with admin(FakePop(), "hunter2") as client:
        statuses = {path: (await client.get(path, headers=given)).status for path in [*PAGES, "/nowhere"]}

        assert statuses == {"/": 401, "/healthz": 200, "/readyz": 200, "/metrics": 401, "/nowhere": 401}


async def test_wrong_tokens_lock_the_right_one_never_out() -> None:
    """After ten wrong ones more are 429, and the right one still passes; no token is no guess; health is for all."""
    wrong, right = {"Authorization": "Bearer no"}, {"Authorization": "Bearer hunter2"}
    async with admin(FakePop(), "hunter2") as client:
        assert [(await client.get("/metrics")).status for _ in range(12)] == [401] * 12
        assert (await client.get("/metrics", headers=right)).status == 200
        assert [(await client.get("/metrics", headers=wrong)).status for _ in range(11)] == [401] * 10 + [429]
        assert (await client.get("/metrics", headers=right)).status == 200
        assert (await client.get("/metrics", headers=wrong)).status == 429
        assert (await client.get("/healthz")).status == 200


async def test_the_token_opens() -> None:
    """The right token gets in, and a refusal says what is missing."""
    async with admin(FakePop(), "hunter2") as client:
        refused = await client.get("/metrics")
        admitted = await client.get("/metrics", headers={"Authorization": "Bearer hunter2"})

        assert (refused.headers["WWW-Authenticate"], admitted.status) == ("Bearer", 200)
        assert refused.content_type == "application/problem+json"


def test_the_package_has_a_version() -> None:
    """The version is a plain dotted number."""
    assert all(part.isdigit() for part in __version__.split("."))


OWN = [
    *("127.0.0.1", "127.0.0.1:9900", "[::1]:9900", "[::1]"),
    *("LOCALHOST", "localhost.:9900", "a.localhost", "edge-eu:9900"),
]
OTHERS = [
    *("evil.example", "evil.example:9900", "edge-eu.evil.example", "127.0.0.1.evil.example"),
    *("1.2.3.4x", "", "[::1", "a:b"),
]


@pytest.mark.parametrize("host", OWN)
async def test_without_a_token_own_names_and_addresses_are_answered(host: str) -> None:
    """Who asks by an address, localhost or the machine's name is no page of another site."""
    async with admin(FakePop(), names=("edge-eu",)) as client:
        for path in PAGES:
            assert (await client.get(path, headers={"Host": host})).status == 200
        assert "parts" in await (await client.get("/readyz", headers={"Host": host})).json()


@pytest.mark.parametrize("host", OTHERS)
async def test_without_a_token_other_names_get_nothing(host: str) -> None:
    """A site whose name was made to resolve to this machine reads neither metrics nor parts, and health is for all."""
    async with admin(FakePop(), names=("edge-eu",)) as client:
        found = {path: await client.get(path, headers={"Host": host}) for path in [*PAGES, "/nowhere"]}
        statuses = {path: answer.status for path, answer in found.items()}
        assert statuses == {"/": 421, "/healthz": 200, "/readyz": 200, "/metrics": 421, "/nowhere": 421}
        assert await found["/readyz"].json() == {"state": "ready"}


async def test_with_the_token_any_name_is_answered() -> None:
    """No page of another site knows the token."""
    async with admin(FakePop(), "hunter2") as client:
        given = {"Authorization": "Bearer hunter2", "Host": "edge-eu.internal:9900"}
        assert (await client.get("/metrics", headers=given)).status == 200


def test_a_client_that_names_no_host_is_no_browser() -> None:
    """HTTP/1.0 clients such as simple checks send none."""
    assert is_own_host(None, ())
