"""Access by the rules of sites, on a running POP: networks, countries, public paths, and ways around a rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from harness.origin import Reply
from harness.pop import Pop, environment
from harness.sites import two_sites
from harness.tokens import PRIVATE, key_set

from edgecache.config.settings import load
from edgecache.config.sites.parser import SitesError, parsed
from edgecache.proxy.middleware.access import Access
from edgecache.telemetry.metrics import render

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


@pytest.mark.parametrize(
    ("access", "statuses"),
    [('allow_countries = ["DE"]', (200, 403, 403)), ('deny_countries = ["FR"]', (200, 403, 200))],
)
async def test_clients_of_no_known_country_are_counted(access: str, statuses: tuple[int, ...]) -> None:
    """Where some countries are allowed, they are refused with a reason of their own; else they are only counted."""
    rules = f'[[sites.rules]]\nname = "here"\naccess = {{ {access} }}\n'
    places = "192.0.2.1=DE,192.0.2.2=FR"
    async with two_sites(rules, trusted_proxies="127.0.0.1", geo_overrides=places) as (pop, _, _b):
        for number, status in enumerate(statuses, 1):
            assert (await pop.get("/p", HOST, ("X-Forwarded-For", f"192.0.2.{number}"))).status == status
        counted = b'edgecache_access_country_unknown_total{rule="site a, rule here"} 1'
        assert counted in render(pop.worker.snapshot())
        assert refused(pop) == ({"country": 1, "country-unknown": 1} if "allow" in access else {"country": 1})


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


async def test_a_template_has_its_gate_made_anew(tmp_path: Path) -> None:
    """After a grant has ended and another was given, heads are answered without the parser again."""
    rules = f"""
[[sites.rules]]
name = "token"
access.jwt = {{ keys = "{tmp_path}/keys" }}
"""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    async with two_sites(rules) as (pop, _, _b):
        decided: list[object] = []
        middleware = access_of(pop)
        decide = middleware._decide
        middleware._decide = lambda *given: decided.append(given) or decide(*given)  # type: ignore[method-assign]
        token = pyjwt.encode({"exp": 1_700_000_020}, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"})
        async with pop.client() as client:

            async def status(number: int) -> int:
                unkeyed = ("X-Request-Id", str(number))  # each head is new, and like the others
                await client.request("GET", "/p", [HOST, ("Authorization", f"Bearer {token}"), unkeyed])
                return int((await client.response()).status)

            assert {await status(number) for number in range(6)} == {200}
            before = len(decided)
            assert before < 6
            assert {await status(number) for number in range(6, 12)} == {200}
            assert len(decided) == before
            shut = [(key, one._replace(gate=lambda connection, now: False)) for key, one in targets_of(pop)]
            for key, one in shut:
                pop.worker.edge.alike._targets.remember(key, one)
            assert {await status(number) for number in range(12, 20)} == {200}
            assert len(decided) == before + 1


def targets_of(pop: Pop) -> list[tuple[Any, Any]]:
    """What is known of targets of templates."""
    return list(pop.worker.edge.alike._targets.items())


async def test_stale_responses_and_known_passes_are_refused_too() -> None:
    """While they are validated, for heads that are passed on, and for those that the origin has marked."""
    rules = PROTECTED.replace('deny = ["127.0.0.0/8"]', 'allow = ["127.0.0.1"]')
    async with two_sites(rules) as (pop, a, _):
        a.on("/admin/swr", Reply(fields=[("Cache-Control", "max-age=1, stale-while-revalidate=60")], body=b"1"))
        a.on("/admin/private", Reply(fields=[("Cache-Control", "private")], body=b"2"))
        async with pop.client() as client:
            for target in ("/admin/swr", "/admin/private"):
                for peer, status in (("127.0.0.1", 200), ("192.0.2.1", 403), ("127.0.0.1", 200), ("192.0.2.1", 403)):
                    for _ in range(4):
                        next(iter(pop.worker.connections)).peer = peer
                        await client.request("GET", target, [HOST])
                        assert (await client.response()).status == status
                        pop.clock.advance(2)


async def test_a_reload_that_demands_more_holds_at_once() -> None:
    """For heads that are known, on connections that are open."""
    async with two_sites("") as (pop, _, _b), pop.client() as client:
        for _ in range(5):
            await client.request("GET", "/admin/x", [HOST])
            assert (await client.response()).status == 200
        text = pop.worker._settings.sites.text + PROTECTED
        settings = load({**environment("http://127.0.0.1:1", ()), "EDGECACHE_SITES": moved(text)})
        await pop.worker.reload(replace(settings, listen=pop.worker._settings.listen))
        for _ in range(5):
            await client.request("GET", "/admin/x", [HOST])
            assert (await client.response()).status == 403


def moved(text: str) -> str:
    """The text with its last rule at the end of its first site."""
    start, rule = text[: -len(PROTECTED)], PROTECTED
    first, second, rest = start.partition('[[sites]]\nname = "b"')
    return first + rule + second + rest


async def test_purges_have_their_own_authentication() -> None:
    """They reach neither origin nor store without it."""
    rules = PROTECTED.replace("/admin", "/")
    token = "0123456789abcdef"
    async with two_sites(rules, purge_tokens=f"all={token}") as (pop, a, _):
        assert (await pop.request("PURGE", "/x", HOST)).status == 401
        assert (await pop.request("PURGE", "/x", HOST, ("Authorization", f"Bearer {token}"))).status == 200
        assert (await pop.get("/x", HOST)).status == 403
        assert a.requests == []


async def test_a_request_without_a_host_is_of_the_default_site_or_none() -> None:
    """HTTP/1.0 without Host evades no rule."""
    async with two_sites(PROTECTED) as (pop, a, _):
        async with pop.client() as client:
            await client.send(b"GET /admin HTTP/1.0\r\n\r\n")
            assert (await client.response()).status in (400, 421)
        async with pop.client() as client:
            await client.send(b"GET http://a.test/admin HTTP/1.1\r\nHost: b.test\r\n\r\n")
            assert (await client.response()).status in (400, 403)
        assert a.requests == []


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ("", "access: requires nothing"),
        ("jwt = {}", "access.jwt: needs either jwks or keys"),
        ('jwt = { keys = "/k", jwks = "http://a/" }', "access.jwt: has both jwks and keys"),
        ('jwt = { jwks = "ftp://a/" }', "access.jwt.jwks: is not a URL"),
        ('jwt = { jwks = "http://a/", algorithms = ["none"] }', 'jwt.algorithms[1]: "none" is not a signature'),
        ('jwt = { jwks = "http://a/", algorithms = ["RSA256"] }', "did you mean RS256?"),
        ('jwt = { jwks = "http://a/", algorithms = [] }', "so no token would be accepted"),
        ('forward_auth = { url = "auth" }', "access.forward_auth.url: is not a URL"),
        ('signed = { keys = { a = "/k" }, format = "cloudfront", parameter = "x" }', "fixed names"),
        ('signed = { keys = { a = "/k" }, format = "nginx-secure-link", cookie = "x" }', "has no cookies"),
        ("signed = { keys = {} }", "access.signed.keys"),
        ('basic = { users = { a = "secret-password" } }', "must be a hash by argon2 or bcrypt"),
        ("basic = { users = {} }", "access.basic.users"),
        ('allow = ["10.0.0.0/33"]', "is not a network"),
        ('allow_countries = ["Germany"]', "allow_countries"),
        ("jvt = {}", "did you mean jwt?"),
    ],
)
def test_a_wrong_demand_is_one_sentence(access: str, words: str) -> None:
    """With its line and key, and without a secret."""
    start = '[[sites]]\nname = "a"\nhosts = ["*"]\norigin = "http://a"\n[[sites.rules]]\nname = "r"\n'
    text = f"{start}access = {{ {access} }}"
    with pytest.raises(SitesError) as refused:
        parsed(text)
    said = str(refused.value)
    assert words in said
    assert said.startswith("line ")
    assert "\n" not in said
    assert "secret-password" not in said


async def test_a_path_with_too_many_readings_is_refused() -> None:
    """Those of long paths would take long to work out; plain ones may be as long as they are."""
    async with two_sites(PROTECTED) as (pop, a, _):
        assert (await pop.get("/" + "%2e%2f" * 300, HOST)).status in (400, 403)
        assert (await pop.get("/" + "a/" * 900, HOST)).status == 200
        assert len(a.requests) == 1
        assert refused(pop).get("path-too-long") == 1
