"""Sites and rules, on a running POP: which origin a request reaches, and what its rules change."""

from __future__ import annotations

import pytest
from harness.origin import Reply
from harness.sites import two_sites


async def test_each_site_has_its_origin() -> None:
    """By Host: exact, wildcard, another site, none."""
    async with two_sites() as (pop, _, _):
        for host, status, body in (
            ("a.test", 200, b"of a"),
            ("x.y.a.test", 200, b"of a"),
            ("b.test", 200, b"of b"),
            ("c.test", 421, None),
        ):
            for _ in range(3):
                response = await pop.get("/", ("Host", host))
                assert response.status == status
                assert body is None or response.body == body


async def test_a_rule_that_reads_a_cookie_keys_the_cache() -> None:
    """Responses for those with the cookie and those without are never one."""
    rules = """
[[sites.rules]]
name = "logged-in"
when = { cookie = { s = true } }
request_headers = { set = { X-User = "yes" } }
"""
    async with two_sites(rules) as (pop, a, _):
        for cookie in ("s=1", "t=1", "s=2", "t=2"):
            await pop.get("/p", ("Host", "a.test"), ("Cookie", cookie))
        assert [request.get("x-user") for request in a.requests] == ["yes", None]


async def test_rules_of_freshness() -> None:
    """A default where the origin says nothing, an override, one by status, and a Set-Cookie that is dropped."""
    rules = """
[[sites.rules]]
name = "default"
cache = { default_ttl = "10s", tags = ["all"] }
[[sites.rules]]
name = "static"
when = { path = "/static/*" }
cache = { ttl = "100s", set_cookie = "ignore", cache_control = "ignore" }
[[sites.rules]]
name = "errors"
cache = { ttl_by_status = { "404" = "50s" } }
"""
    async with two_sites(rules) as (pop, a, _):
        a.on("/plain", Reply(body=b"1"))
        a.on("/static/x", Reply(fields=[("Cache-Control", "private, max-age=1"), ("Set-Cookie", "a=b")], body=b"2"))
        a.on("/none", Reply(status=404, body=b"3"))
        for target, ttl in (("/plain", 10), ("/static/x", 100), ("/none", 50), ("/other", 60)):
            first, second = [await pop.get(target, ("Host", "a.test")) for _ in range(2)]
            assert f"hit; ttl={ttl}" in (second.get("cache-status") or ""), target
            assert first.get("set-cookie") is None
            assert second.get("edgecache-tags") is None
        assert (await pop.get("/static/x", ("Host", "a.test"))).get("cache-control") == "private, max-age=1"


async def test_rules_change_the_fields_of_responses() -> None:
    """On misses, hits, passes and errors of our own; by status and by the result of the look-up."""
    rules = """
[[sites.rules]]
name = "all"
response_headers = { set = { X-Frame-Options = "DENY" }, remove = ["Server"], add = { X-More = "1" } }
[[sites.rules]]
name = "hits"
when = { result = "hit" }
response_headers = { set = { X-Cache = "HIT" } }
[[sites.rules]]
name = "gone"
when = { status = "404" }
response_headers = { set = { X-Gone = "yes" } }
[[sites.rules]]
name = "pass"
when = { path = "/pass" }
cache = { store = false }
"""
    async with two_sites(rules) as (pop, a, _):
        server = ("Server", "x")
        a.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), server], body=b"1"))
        a.on("/none", Reply(status=404, fields=[server], body=b"3"))
        async with pop.client() as client:
            for target, gone in (("/", None), ("/pass", None), ("/none", "yes")):
                for again in range(5):
                    await client.request("GET", target, [("Host", "a.test")])
                    response = await client.response()
                    assert response.get("x-frame-options") == "DENY"
                    assert response.get("x-more") == "1"
                    assert response.get("server") is None
                    assert response.get("x-gone") == gone
                    assert response.get("x-cache") == ("HIT" if target == "/" and again else None), (target, again)


@pytest.mark.parametrize("read", ["member", "memb*", "*member", "?ember"])
@pytest.mark.parametrize("name", ["Cookie: ", "cookie:", "COOKIE: \t"])
async def test_a_cookie_that_a_rule_reads_counts_in_every_head(name: str, read: str) -> None:
    """Heads that differ in other cookies only are alike; one that has the rule's cookie never is like one without."""
    rules = f"""
[[sites.rules]]
name = "member"
when = {{ cookie = {{ "{read}" = true }} }}
request_headers = {{ set = {{ X-Member = "yes" }} }}
"""
    async with two_sites(rules) as (pop, a, _), pop.client() as client:
        a.otherwise(
            lambda request: Reply(fields=[("Cache-Control", "max-age=60")], body=str(request.get("x-member")).encode())
        )
        for number in range(40):
            for cookie, body in (
                (f"s={number}", b"None"),
                (f"member={number % 3}; s={number}", b"yes"),
                (f"s={number}; member", b"None"),
                (f"not-members={number}", b"None"),
                (f"s={number};member=", b"yes"),
            ):
                await client.send(f"GET /p HTTP/1.1\r\nHost: a.test\r\n{name}{cookie}\r\n\r\n".encode())
                assert (await client.response()).body == body, (number, cookie)
        assert len(a.requests) == 2


async def test_heads_with_new_cookies_are_known_where_rules_read_one_by_name() -> None:
    """The fast path answers them."""
    rules = """
[[sites.rules]]
name = "member"
when = { cookie = { member = true } }
cache = { ttl = "10m" }
"""
    async with two_sites(rules) as (pop, _, _), pop.client() as client:
        for number in range(40):
            await client.request("GET", "/p", [("Host", "a.test"), ("Cookie", f"s={number}")])
            await client.response()
        assert pop.worker.watch.requests.known_hits > 20
