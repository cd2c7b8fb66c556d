"""Access by the rules of sites, on a running POP: networks, countries, public paths, and ways around a rule."""

from __future__ import annotations

import pytest
from harness.pop import Pop
from harness.sites import two_sites

from edgecache.proxy.middleware.access import Access

HOST = ("Host", "a.test")
PROTECTED = """
[[sites.rules]]
name = "admin"
when = { path_prefix = "/admin" }
access = { deny = ["127.0.0.0/8"] }
"""


def access_of(pop: Pop) -> Access:
    """The middleware of a running POP."""
    return next(one for one in pop.worker.pipeline.middleware if isinstance(one, Access))


def refused(pop: Pop) -> dict[str, float]:
    """How many requests were refused, by reason."""
    return {reason: counter.value for reason, counter in access_of(pop)._refused.items()}


async def seen_by_all(pop: Pop, target: str, *fields: tuple[str, str], times: int = 4) -> set[int]:
    """The statuses of several equal requests: by the parser, by what is known of the head, and by its template."""
    async with pop.client() as client:
        found = set()
        for _ in range(times):
            await client.request("GET", target, [HOST, *fields])
            found.add((await client.response()).status)
        return found


async def test_a_refusal_tells_nothing_of_the_store() -> None:
    """Stored or not, the refusal is the same to the byte but for its date."""
    async with two_sites(PROTECTED) as (pop, a, _):
        response = await pop.get("/admin/x", HOST)
        assert response.status == 403
        assert response.get("content-type") == "application/problem+json"
        assert response.get("cache-status") is None
        assert response.get("age") is None
        for extra in ((), (("If-None-Match", '"x"'),), (("Range", "bytes=0-1"),)):
            assert await seen_by_all(pop, "/admin/x", *extra) == {403}
        assert a.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "/admin",
        "/admin/",
        "/%61dmin/x",
        "//admin",
        "/x/../admin",
        "/x/..%2fadmin",
        "/x%2f..%2fadmin/y",
        "/x/%2e%2e/admin",
        "/x/..%252fadmin",
        "/admin;x",
        "/;a/admin",
        "/x/..;/admin",
        "/x%5c..%5cadmin",
        "/a//../admin",
        "/./admin",
        "/ADMIN/x",
        "/%41dmin",
        "/admin?x=/public",
        "http://a.test/admin",
        "/admin%3Fx",
        "/admin%00",
    ],
)
async def test_no_spelling_evades_a_rule(target: str) -> None:
    """Whatever an origin may take for the protected path is protected, by each method, upgrade and version."""
    async with two_sites(PROTECTED) as (pop, a, _):
        for method in ("GET", "HEAD", "OPTIONS", "POST", "FOO", "get"):
            response = await pop.request(method, target, HOST)
            assert response.status in (400, 403, 405, 501), (method, response.status)
        upgrade = [HOST, ("Connection", "Upgrade"), ("Upgrade", "websocket")]
        assert (await pop.get(target, *upgrade)).status in (400, 403)
        assert (await pop.request("GET", target, HOST, version="1.0")).status in (400, 403)
        assert a.requests == []


async def test_public_drops_what_was_demanded() -> None:
    """By its own path only, and not by one that an origin may take for another."""
    rules = """
[[sites.rules]]
name = "all"
access = { deny = ["0.0.0.0/0"] }
[[sites.rules]]
name = "public"
when = { path_prefix = "/public/" }
access = { public = true }
"""
    async with two_sites(rules) as (pop, _, _b):
        assert await seen_by_all(pop, "/public/x") == {200}
        for target in ("/", "/private", "/public/..%2fprivate", "/PUBLIC/x", "/public/../private"):
            assert await seen_by_all(pop, target) == {403}, target
        assert (await pop.get("/", ("Host", "b.test"))).status == 200


async def test_a_network_is_checked_for_each_client() -> None:
    """What one client has had stored is refused to another, behind the same proxy."""
    rules = """
[[sites.rules]]
name = "office"
access = { allow = ["10.0.0.0/8"], deny = ["10.9.0.0/16"] }
"""
    async with two_sites(rules, trusted_proxies="127.0.0.1") as (pop, a, _):
        for _ in range(4):
            for client, status in (("10.1.2.3", 200), ("10.9.0.1", 403), ("192.0.2.1", 403), ("unknown", 403)):
                assert await seen_by_all(pop, "/p", ("X-Forwarded-For", client), times=2) == {status}
        assert len(a.requests) == 1


async def test_a_gate_admits_each_peer_by_its_own_address() -> None:
    """A head that is known from one address is not open to another that sends the same bytes."""
    rules = """
[[sites.rules]]
name = "local"
access = { allow = ["127.0.0.1"] }
"""
    async with two_sites(rules) as (pop, _, _b), pop.client() as client:
        for _ in range(4):
            await client.request("GET", "/p", [HOST])
            assert (await client.response()).status == 200
        connection = next(iter(pop.worker.connections))
        connection.peer = "192.0.2.1"
        await client.request("GET", "/p", [HOST])
        assert (await client.response()).status == 403


async def test_more_parameters_than_conditions_read_are_refused() -> None:
    """A condition on a parameter is not evaded by hiding it behind 256 others."""
    rules = """
[[sites.rules]]
name = "preview"
when = { query = { preview = true } }
access = { deny = ["127.0.0.1"] }
"""
    async with two_sites(rules) as (pop, _, _b):
        assert (await pop.get("/?preview=1", HOST)).status == 403
        assert (await pop.get("/?%70review=1", HOST)).status == 403
        assert (await pop.get("/?" + "a&" * 256 + "preview=1", HOST)).status == 403
        assert (await pop.get("/?a=1", HOST)).status == 200


async def test_a_rule_by_get_holds_for_head() -> None:
    """A HEAD tells of what a GET would get."""
    rules = """
[[sites.rules]]
name = "reading"
when = { method = "GET" }
access = { deny = ["127.0.0.1"] }
"""
    async with two_sites(rules) as (pop, _, _b):
        for method, status in (("HEAD", 403), ("GET", 403), ("OPTIONS", 200)):
            assert (await pop.request(method, "/", HOST)).status == status


async def test_refusals_are_counted_by_reason() -> None:
    """One series for each reason."""
    async with two_sites(PROTECTED) as (pop, _, _b):
        await pop.get("/admin", HOST)
        await pop.get("/admin", HOST)
        snapshot = str(pop.worker.snapshot())
        assert "edgecache_access_refused" in snapshot
        assert refused(pop) == {"network": 2}
