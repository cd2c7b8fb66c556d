"""The admin listener's pages of purges: Fastly's API, and a ledger that shows each site its own."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from harness.admin import FakePop

from edgecache.config.settings import load
from edgecache.invalidation.in_process_log import InProcessLogHub
from edgecache.server.admin.app import application
from edgecache.server.admin.local_purge_service import LocalPurgeService
from edgecache.telemetry.metrics import Registry

ADMIN = "the-token-of-the-admin"
SHOP = "another-token-of-a-shop"
ENVIRONMENT = {
    "EDGECACHE_ORIGIN": "http://origin.test",
    "EDGECACHE_ADMIN_TOKEN": ADMIN,
    "EDGECACHE_PURGE_TOKENS": f"shop@shop.test|www.shop.test={SHOP}",
    "EDGECACHE_PURGE_FROM": "127.0.0.0/8",
}
Client = TestClient[Request, Application]


class Workers(list[tuple[list[str], bool]]):
    """One worker, which applies whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = InProcessLogHub(lambda: [self])
        self.ready = True

    def send(self, message: Any) -> None:
        """Apply it, and say so."""
        self.append((message["scopes"], message["soft"]))
        self.hub.receive(self, {"log": "applied", "n": message["n"]})

    def __hash__(self) -> int:
        return id(self)


@asynccontextmanager
async def admin(workers: Workers, **more: str) -> AsyncIterator[Client]:
    """A client of the admin listener."""
    desk = LocalPurgeService(load(ENVIRONMENT | more), Registry(), workers.hub)
    async with TestClient(TestServer(application(FakePop(), ADMIN, desk))) as client:
        yield client


async def ask(client: Client, method: str, path: str, key: str = ADMIN, body: str = "", **more: str) -> tuple[int, Any]:
    """Status and answer."""
    fields = {"Fastly-Key": key, **{name.replace("_", "-"): value for name, value in more.items()}}
    async with client.request(method, path, headers=fields, data=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_fastly_purges() -> None:
    """A key, a batch by the field or the content, and everything, soft or hard: 200 and JSON, as its clients want."""
    workers = Workers()
    async with admin(workers) as client:
        status, answer = await ask(client, "POST", "/service/abc/purge/post%2F7", Accept="application/json")
        assert (status, answer["status"]) == (200, "ok")
        status, answer = await ask(client, "POST", "/service/abc/purge", Surrogate_Key="a b", Fastly_Soft_Purge="1")
        assert (status, list(answer)) == (200, ["a", "b"])
        status, answer = await ask(client, "POST", "/service/abc/purge", body='{"surrogate_keys": ["c"]}')
        assert (status, list(answer)) == (200, ["c"])
        assert await ask(client, "POST", "/service/abc/purge_all") == (200, {"status": "ok"})
        assert workers == [(["tpost/7"], False), (["ta", "tb"], True), (["tc"], False), (["*"], False)]


async def test_a_service_is_what_the_token_may_purge() -> None:
    """A token of two sites purges all of these two, and tags on them."""
    workers = Workers()
    async with admin(workers) as client:
        assert (await ask(client, "POST", "/service/any/purge_all", SHOP))[0] == 200
        assert (await ask(client, "POST", "/service/any/purge/a", SHOP))[0] == 200
        assert workers == [(["sshop.test", "swww.shop.test"], False), (["gshop.test\0a", "gwww.shop.test\0a"], False)]


@pytest.mark.parametrize(
    ("path", "key", "body", "status"),
    [
        ("/service/abc/purge_all", "", "", 401),  # an address is not enough here: a web page could ask so
        ("/service/abc/purge_all", "wrong", "", 401),
        ("/service/abc/purge", ADMIN, "", 400),
        ("/service/abc/purge", ADMIN, '{"keys": ["a"]}', 400),
        ("/service/abc/purge", ADMIN, '{"surrogate_keys": "a"}', 400),
        ("/service/abc/purge", ADMIN, '["a"]', 400),
        ("/service/abc/purge", ADMIN, "{", 400),
        ("/service/abc/purge", ADMIN, '{"surrogate_keys": ["a"], "surrogate_keys": ["b"]}', 400),
        ("/service/abc/purge/a", ADMIN, '{"surrogate_keys": ["b"]}', 400),
        ("/service/abc/purge_all", ADMIN, '{"soft": true}', 400),
        ("/purges", ADMIN, '{"tags": ["a"], "tags": ["b"]}', 400),
        ("/purges", ADMIN, '{"tags": ["a"], "regex": ["b"]}', 400),
        ("/purges", ADMIN, '{"tags": ["\\ud800"]}', 400),
        ("/purges?soft=1", ADMIN, '{"tags": ["a"]}', 400),
        ("/purges?wait=al", ADMIN, '{"tags": ["a"]}', 400),
        ("/service/abc/purge/*", ADMIN, "", 400),
        ("/service/abc/purge/" + "x" * 2000, ADMIN, "", 400),
    ],
)
async def test_what_is_not_done_is_no_200(path: str, key: str, body: str, status: int) -> None:
    """Refused with one sentence, and no worker hears of it."""
    workers = Workers()
    async with admin(workers) as client:
        found, answer = await ask(client, "POST", path, key, body)
        assert (found, bool(answer["detail"])) == (status, True)
        assert workers == []


async def test_a_worker_that_has_not_applied_it_is_no_200() -> None:
    """202 while one is late."""
    workers = Workers()
    workers.send = lambda message: None  # type: ignore[method-assign]
    async with admin(workers) as client:
        assert (await ask(client, "POST", "/service/abc/purge/a"))[0] == 202


async def test_a_purge_of_no_site_is_refused() -> None:
    """Where sites are listed, what names others alone purges nothing, and is 404; tags and everything are of all."""
    for what, key, status in (
        ({"urls": ["https://typo.test/"]}, ADMIN, 404),
        ({"prefixes": ["typo.test/a"], "hosts": ["typo.test"]}, ADMIN, 404),
        ({"tags": ["a"]}, SHOP, 404),
        ({"hosts": ["typo.test", "www.example.test:8080"]}, ADMIN, 201),
        ({"tags": ["a"]}, ADMIN, 201),
        ({"everything": True}, ADMIN, 201),
    ):
        workers = Workers()
        async with admin(workers, EDGECACHE_HOSTS="www.example.test") as client:
            assert (await ask(client, "POST", "/purges", key, json.dumps(what)))[0] == status, what
            assert bool(workers) is (status == 201)
    async with admin(Workers()) as client:
        assert (await ask(client, "POST", "/purges", body='{"hosts": ["any.test"]}'))[0] == 201


async def test_a_ledger_for_each_site() -> None:
    """A site's token reads what names its own hosts, and of that its own names alone; others' purges are not there."""
    async with admin(Workers()) as client:
        purges = [
            {"tags": ["a"]},
            {"urls": ["https://other.test/secret"]},
            {"urls": ["https://other.test/secret", "https://shop.test:8443/a"], "prefixes": ["www.shop.test/b"]},
            {"everything": True},
            {"hosts": ["shop.test"]},
        ]
        numbers = []
        for purge in purges:
            status, answer = await ask(client, "POST", "/purges", body=json.dumps(purge))
            assert status == 201
            numbers.append(answer["id"])

        status, answer = await ask(client, "GET", "/purges", SHOP)
        assert status == 200
        assert [(one["id"], one["names"]) for one in answer["purges"]] == [
            (numbers[4], ["host shop.test"]),
            (
                numbers[2],
                ["url http://shop.test:8443/a", "url https://shop.test:8443/a", "prefix www.shop.test/b"],
            ),
        ]
        assert [(await ask(client, "GET", f"/purges/{number}", SHOP))[0] for number in numbers] == [
            404,
            404,
            200,
            404,
            200,
        ]
        assert "other" not in json.dumps((await ask(client, "GET", f"/purges/{numbers[2]}", SHOP))[1])
        assert len((await ask(client, "GET", "/purges"))[1]["purges"]) == 5
        assert len((await ask(client, "GET", "/purges?limit=1", SHOP))[1]["purges"]) == 1


async def test_wrong_secrets_lock_the_right_one_never_out() -> None:
    """Ten wrong ones, then 429 for more of them; the right one is served throughout, however it is brought."""
    async with admin(Workers()) as client:
        assert [(await ask(client, "GET", "/purges", "wrong"))[0] for _ in range(12)] == [401] * 10 + [429] * 2
        basic = b64encode(f"shop:{SHOP}".encode()).decode()
        for given in ({"Authorization": f"Bearer {ADMIN}"}, {"Authorization": f"Basic {basic}"}, {"Fastly-Key": SHOP}):
            async with client.get("/purges", headers=given) as answer:
                assert answer.status == 200
