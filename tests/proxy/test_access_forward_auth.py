"""Forward-auth on a running POP: another server decides, its verdict lasts a while, and without it nothing is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop
from harness.sites import two_sites

HOST = ("Host", "a.test")
RULES = """
[[sites.rules]]
name = "app"
when = {{ path_prefix = "/app" }}
access.forward_auth = {{ url = "{}/check", cache = "10s", timeout = "{}"{} }}
"""


def decide(request: ReceivedRequest) -> Reply:
    """Admit the cookie `user=…`, send all others to log in."""
    user = (request.get("cookie") or "").removeprefix("user=")
    if user:
        return Reply(204, [("X-User", user), ("X-Other", "secret")])
    fields = [("Location", "https://login.test/"), ("WWW-Authenticate", "Cookie"), ("X-Other", "secret")]
    return Reply(302, [*fields, ("Content-Type", "text/html")], b"log in")


@asynccontextmanager
async def guarded(more: str = "", within: str = "5s") -> AsyncIterator[tuple[Pop, OriginDouble, OriginDouble]]:
    """A POP, its origin, and the server that decides."""
    async with running_origin(FakeClock()) as decider:
        decider.on("/check", decide)
        async with two_sites(RULES.format(decider.url, within, more)) as (pop, a, _):
            yield pop, a, decider


async def get(pop: Pop, user: str, target: str = "/app/x", times: int = 1) -> list[bytes]:
    """The bodies of equal requests of one user, on one connection."""
    async with pop.client() as client:
        found = []
        for _ in range(times):
            await client.request("GET", target, [HOST, *([("Cookie", f"user={user}")] if user else [])])
            response = await client.response()
            found.append(b"%d %b" % (response.status, response.body))
        return found


async def test_the_verdict_is_kept_for_equal_credentials() -> None:
    """The server is asked once for each; what is stored is shared; its refusal is the answer."""
    async with guarded() as (pop, a, decider):
        for _ in range(3):
            assert set(await get(pop, "ann", times=4)) == {b"200 of a"}
            assert set(await get(pop, "bob", times=4)) == {b"200 of a"}
            assert set(await get(pop, "", times=4)) == {b"302 log in"}
        assert len(decider.requests) == 3
        assert len(a.requests) == 1
        seen = decider.requests[0]
        about = [seen.get(f"x-forwarded-{name}") for name in ("method", "proto", "host", "uri", "for")]
        assert about == ["GET", "http", "a.test", "/app/x", "127.0.0.1"]
        refused = await pop.get("/app/x", HOST)
        assert refused.get("location") == "https://login.test/"
        assert refused.get("www-authenticate") == "Cookie"
        assert refused.get("x-other") is None
        assert refused.get("cache-status") is None
        assert refused.get("cache-control") == "no-store"


async def test_the_verdict_ends() -> None:
    """A known head is refused as soon as the server would, at the latest when its last word is too old."""
    async with guarded() as (pop, _, decider):
        assert set(await get(pop, "ann", times=4)) == {b"200 of a"}
        decider.on("/check", Reply(403, [], b"no more"))
        assert set(await get(pop, "ann", times=4)) == {b"200 of a"}
        pop.clock.advance(11)
        assert set(await get(pop, "ann", times=4)) == {b"403 no more"}


async def test_another_path_is_another_question() -> None:
    """A verdict is for the URL and the method that it was given for."""
    async with guarded() as (pop, _, decider):
        await get(pop, "ann")
        await get(pop, "ann", "/app/y")
        await pop.request("POST", "/app/x", HOST, ("Cookie", "user=ann"), body=b"x")
        assert [request.get("x-forwarded-method") for request in decider.requests] == ["GET", "GET", "POST"]


async def test_without_a_verdict_nothing_is_open() -> None:
    """Errors, silence and nonsense are 503s, and counted."""
    for reply in (Reply(500), Reply(raw=b"nonsense\r\n\r\n"), Reply(hang=True, raw=b""), Reply(200, [], b"x" * 70000)):
        async with guarded(within="200ms") as (pop, a, decider):
            decider.on("/check", reply)
            assert (await get(pop, "ann"))[0].startswith(b"503")
            assert a.requests == []
            assert "edgecache_access_forward_auth_failures" in str(pop.worker.snapshot())


async def test_fields_that_are_passed_key_the_cache() -> None:
    """The origin gets those that are named, from the server alone, and each value has a response of its own."""
    async with guarded(', pass_headers = ["X-User"]') as (pop, a, _):
        a.otherwise(
            lambda request: Reply(200, [("Cache-Control", "max-age=60")], (request.get("x-user") or "-").encode())
        )
        for _ in range(3):
            assert set(await get(pop, "ann", times=4)) == {b"200 ann"}
            assert set(await get(pop, "bob", times=4)) == {b"200 bob"}
        assert len(a.requests) == 2
        assert {request.get("x-other") for request in a.requests} == {None}
        forged = await pop.get("/app/x", HOST, ("Cookie", "user=ann"), ("X-User", "root"))
        assert forged.body == b"ann"
        assert (await pop.get("/open", HOST, ("X-User", "root"))).body == b"-"


async def test_authorization_that_the_server_reads_makes_nothing_private() -> None:
    """It stays here, unless the rule passes it on."""
    for more, count in (("", 1), (", pass_credentials = true", 2)):
        async with guarded(more) as (pop, a, _):
            for password in ("one", "two"):
                fields = [HOST, ("Cookie", "user=ann"), ("Authorization", f"Basic {password}")]
                assert (await pop.get("/app/x", *fields)).status == 200
            assert len(a.requests) == count
            assert (a.requests[0].get("authorization") is None) is (count == 1)
