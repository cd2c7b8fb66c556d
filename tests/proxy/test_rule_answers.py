"""Answers by rules, on a running POP: redirects, fixed responses, preflights, and the fields that responses get."""

from __future__ import annotations

import pytest
from harness.client import ReceivedResponse
from harness.origin import Reply
from harness.pop import Pop
from harness.sites import two_sites

from edgecache.config.sites.parser import SitesError, parsed

HOST = ("Host", "a.test")


def rules(*texts: str) -> str:
    """These rules of a site, named r0, r1 …"""
    return "".join(f'[[sites.rules]]\nname = "r{number}"\n{text}\n' for number, text in enumerate(texts))


# --- redirects


@pytest.mark.parametrize(
    ("rule", "target", "location"),
    [
        ('redirect = { to = "https://$host$path$query" }', "/a/b?c=d&e", "https://a.test/a/b?c=d&e"),
        ('redirect = { to = "https://$host$path" }', "//evil.test/x", "https://a.test/evil.test/x"),
        ('redirect = { to = "$path?x=1" }', "//evil.test/x", "/evil.test/x?x=1"),
        ('redirect = { to = "/$1"}\nwhen = { path_regex = "^/go/(.*)" }', "/go//evil.test", "/evil.test"),
        (
            'redirect = { to = "/$1"}\nwhen = { path_regex = "^/go/(.*)" }',
            "/go/%0d%0aSet-Cookie:x",
            "/%0D%0ASet-Cookie:x",
        ),
        ('redirect = { to = "/$1"}\nwhen = { path_regex = "^/go/(.*)" }', "/go/%5Cevil.test", "/%5Cevil.test"),
        ('redirect = { to = "/n/$2/$1"}\nwhen = { path_regex = "^/([a-z]+)/([0-9]+)$" }', "/x/12", "/n/12/x"),
        ('redirect = { to = "$scheme://other.test:81/x" }', "/", "http://other.test:81/x"),
    ],
)
async def test_locations(rule: str, target: str, location: str) -> None:
    """Variables are replaced; what a client sends is neither a host nor a line."""
    async with two_sites(rules(rule)) as (pop, a, _):
        response = await pop.get(target, HOST)
        assert (response.status, response.get("location")) == (308, location)
        assert response.get("set-cookie") is None
        assert not a.requests


async def test_redirects_of_every_method_and_status() -> None:
    """Each status as it is written; HEAD without content; POST too; nothing of it is stored or sent upstream."""
    texts = [
        f'when = {{ path = "/{status}" }}\nredirect = {{ to = "/to", status = {status} }}'
        for status in (301, 302, 303, 307, 308)
    ]
    async with two_sites(rules(*texts)) as (pop, a, _):
        for status in (301, 302, 303, 307, 308):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                response = await pop.request(method, f"/{status}", HOST, body=b"x" if method == "POST" else b"")
                assert (response.status, response.get("location"), response.body) == (status, "/to", b"")
        assert not a.requests


async def test_a_redirect_to_the_same_url_is_none() -> None:
    """From www to the apex, by one rule for both hosts."""
    async with two_sites(rules('redirect = { to = "http://a.test$path$query" }')) as (pop, a, _):
        response = await pop.get("/x?y", ("Host", "www.a.test"))
        assert response.get("location") == "http://a.test/x?y"
        host = f"a.test:{pop.port}"
        assert (await pop.get("/x?y", HOST)).body == b"of a"
        assert (await pop.get("/x?y", ("Host", host))).get("location") == "http://a.test/x?y"
        assert len(a.requests) == 1


async def test_a_redirect_does_not_hide_behind_a_hit() -> None:
    """A rule by scheme or path is asked for each request, whatever is stored and whatever head is known."""
    text = 'when = { path = "/old/*" }\nredirect = { to = "/new" }'
    async with two_sites(rules(text)) as (pop, _, _), pop.client() as client:
        for _ in range(5):
            for target, status in (("/x", 200), ("/old/x", 308)):
                await client.request("GET", target, [HOST])
                assert (await client.response()).status == status


# --- fixed responses


async def test_fixed_responses() -> None:
    """Status, content, type and fields; the content is not sent to HEAD, nor with a 204."""
    texts = (
        'when = { path = "/robots.txt" }\nrespond = { body = "User-agent: *\\n", headers = { X-A = "1" } }',
        'when = { path = "/gone" }\nrespond = { status = 410, body = "{}", content_type = "application/json" }',
        'when = { path = "/empty" }\nrespond = { status = 204 }',
    )
    async with two_sites(rules(*texts)) as (pop, a, _):
        response = await pop.get("/robots.txt", HOST)
        assert (response.status, response.body, response.get("x-a")) == (200, b"User-agent: *\n", "1")
        assert response.get("content-type") == "text/plain; charset=utf-8"
        head = await pop.request("HEAD", "/robots.txt", HOST)
        assert (head.status, head.body, head.get("content-length")) == (200, b"", "14")
        gone = await pop.request("DELETE", "/gone", HOST)
        assert (gone.status, gone.body, gone.get("content-type")) == (410, b"{}", "application/json")
        empty = await pop.get("/empty", HOST)
        assert (empty.status, empty.body, empty.get("content-length")) == (204, b"", None)
        assert not a.requests


async def test_the_rule_is_the_reason() -> None:
    """Metrics and the access log name the rule that answered."""
    texts = ('when = { path = "/old" }\nredirect = { to = "/new" }', "respond = { status = 404 }")
    async with two_sites(rules(*texts)) as (pop, _, _):
        await pop.get("/old", HOST)
        await pop.get("/x", HOST)
        series = pop.worker.watch.registry.snapshot()["edgecache_requests"]["series"]
        counted = {dict(labels)["reason"]: values for labels, values in series if dict(labels)["result"] == "error"}
        assert (counted["r0"], counted["r1"]) == ([1], [1])


# --- fields


EVERYWHERE = 'response_headers = { set = { X-A = "1", X-Type = "new" }, remove = ["X-Gone"], add = { X-B = "2" } }'


async def exchange(pop: Pop, method: str, target: str, *fields: tuple[str, str]) -> ReceivedResponse:
    """A request on a connection of its own, to the site a.test."""
    return await pop.request(method, target, HOST, *fields)


def changed(response: ReceivedResponse) -> None:
    """It has what EVERYWHERE says."""
    assert response.get("x-a") == "1"
    assert response.all("x-type") == ["new"]
    assert response.get("x-gone") is None
    assert response.all("x-b")[-1] == "2"


async def test_fields_change_on_every_kind_of_response() -> None:
    """Miss, hit, known head, template, 304, HEAD, 206, 416, several ranges, pass, errors of the origin and of ours."""
    more = [("X-Type", "old"), ("X-Gone", "x"), ("X-B", "1"), ("ETag", '"e"'), ("Cache-Control", "max-age=60")]
    async with two_sites(rules(EVERYWHERE, 'when = { path = "/pass" }\ncache = { store = false }')) as (pop, a, _):
        a.otherwise(Reply(fields=more, body=b"0123456789"))
        a.on("/500", Reply(500, fields=more, body=b"x"))
        a.on("/cut", Reply(cut_head_at=0, cut_by="rst"))
        a.on("/large", Reply(fields=more, body=b"x" * 200_000))
        for _ in range(4):
            for target in ("/", "/pass", "/500", "/cut", "/large"):
                response = await exchange(pop, "GET", target)
                assert (target == "/cut") == (response.status == 502)
                changed(response)
                changed(await exchange(pop, "HEAD", target))
            for agent in range(3):
                changed(await exchange(pop, "GET", "/", ("User-Agent", f"u{agent}"), ("Cookie", f"c={agent}")))
            not_modified = await exchange(pop, "GET", "/", ("If-None-Match", '"e"'))
            assert not_modified.status == 304
            changed(not_modified)
            for value, status in (("bytes=0-2", 206), ("bytes=50-", 416), ("bytes=0-1,4-5", 206)):
                ranged = await exchange(pop, "GET", "/", ("Range", value))
                assert ranged.status == status
                changed(ranged)
            posted = await pop.request("POST", "/", HOST, body=b"x")
            changed(posted)


async def test_a_304_gets_the_fields_of_its_200() -> None:
    """Rules by type and status: a browser lays what a 304 says over what it has (RFC 9110 §15.4.5)."""
    texts = (
        'when = { content_type = "text/css", status = "200" }\n'
        'response_headers = { set = { Cache-Control = "max-age=9" } }',
        'security_headers = "basic"',
        'cors = { origins = ["https://x.test"] }',
    )
    async with two_sites(rules(*texts)) as (pop, a, _):
        a.otherwise(
            Reply(
                fields=[("Content-Type", "text/css; charset=utf-8"), ("ETag", '"e"'), ("Cache-Control", "max-age=60")]
            )
        )
        origin = ("Origin", "https://x.test")
        for _ in range(4):
            whole = await exchange(pop, "GET", "/", origin)
            not_modified = await exchange(pop, "GET", "/", origin, ("If-None-Match", '"e"'))
            assert (whole.status, not_modified.status) == (200, 304)
            for name in ("cache-control", "x-frame-options", "access-control-allow-origin", "vary"):
                assert not_modified.get(name) == whole.get(name) != None, name  # noqa: E711
            assert whole.get("cache-control") == "max-age=9"


async def test_order_and_repetition_of_edits() -> None:
    """A later rule is laid over an earlier one; of several values of one name, `set` is the last, `add` adds each."""
    texts = (
        'response_headers = { set = { X-A = "1" }, add = { X-B = "1", Set-Cookie = "a=1" } }',
        'response_headers = { set = { x-a = "2" }, add = { X-B = "2", Set-Cookie = "b=2" } }',
    )
    async with two_sites(rules(*texts)) as (pop, _, _):
        for _ in range(3):
            response = await exchange(pop, "GET", "/")
            assert response.all("x-a") == ["2"]
            assert response.all("x-b") == ["1", "2"]
            assert response.all("set-cookie") == ["a=1", "b=2"]


async def test_fields_of_the_cache_can_be_removed() -> None:
    """Age, Date, Vary and Cache-Control leave the response that a client gets; what is stored goes by them still."""
    text = 'response_headers = { remove = ["Age", "Date", "Vary", "Cache-Control", "Cache-Status"] }'
    async with two_sites(rules(text)) as (pop, a, _):
        a.otherwise(
            lambda request: Reply(
                fields=[("Cache-Control", "max-age=60"), ("Vary", "X-Kind")],
                body=(request.get("x-kind") or "").encode(),
            )
        )
        for kind in ("1", "2", "1", "2", "1", "2"):
            response = await exchange(pop, "GET", "/", ("X-Kind", kind))
            assert response.body == kind.encode()
            for name in ("age", "date", "vary", "cache-control", "cache-status"):
                assert response.get(name) is None
        assert len(a.requests) == 2
        pop.clock.advance(61)
        await exchange(pop, "GET", "/", ("X-Kind", "1"))
        assert len(a.requests) == 3


async def test_request_headers_are_sent_upstream() -> None:
    """Set, added and removed; on misses, passes and validations."""
    text = 'request_headers = { set = { X-A = "1" }, add = { X-B = "2" }, remove = ["Cookie"] }'
    async with two_sites(rules(text, 'when = { path = "/pass" }\ncache = { store = false }')) as (pop, a, _):
        a.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("ETag", '"e"')], body=b"x"))
        for target in ("/", "/pass"):
            await exchange(pop, "GET", target, ("X-A", "0"), ("X-B", "1"), ("Cookie", "a=b"))
        pop.clock.advance(61)
        await exchange(pop, "GET", "/", ("X-A", "0"), ("X-B", "1"))
        assert len(a.requests) == 3
        for request in a.requests:
            assert request.all("x-a") == ["1"]
            assert request.all("x-b") == ["1", "2"]
            assert request.get("cookie") is None


# --- CORS


ORIGINS = 'origins = ["https://x.test", "https://*.y.test"]'
CORS = f'cors = {{ {ORIGINS}, headers = ["X-T"], expose = ["X-E"], credentials = true }}'


async def test_one_stored_response_for_all_origins() -> None:
    """Each origin gets its own field, one that is not allowed none, and all say that it depends on Origin."""
    async with two_sites(rules(CORS)) as (pop, a, _), pop.client() as client:
        mine = [("Access-Control-Allow-Origin", "https://evil.test"), ("Access-Control-Allow-Credentials", "true")]
        a.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("ETag", '"e"'), ("Vary", "X"), *mine], body=b"x"))
        refused = [
            None,
            "null",
            "https://evil.test",
            "https://evil.test#.y.test",
            "https://y.test",
            "https://x.test.evil",
        ]
        allowed = ["https://x.test", "https://a.b.y.test"]
        for number in range(6):
            for method in ("GET", "HEAD"):
                for origin in (*refused, *allowed):
                    fields = [("User-Agent", f"u{number}")] if number > 3 else []  # known heads, then templates
                    fields += [] if origin is None else [("Origin", origin)]
                    await client.request(method, "/", [HOST, *fields])
                    response = await client.response(method)
                    answer = origin if origin in allowed else None
                    assert response.get("access-control-allow-origin") == answer
                    assert response.get("access-control-allow-credentials") == (answer and "true")
                    assert response.get("access-control-expose-headers") == (answer and "X-E")
                    assert response.get("vary") == "X, Origin"
        assert len(a.requests) == 1


async def test_errors_of_our_own_can_be_read_by_an_allowed_origin() -> None:
    """A script sees why its request failed."""
    async with two_sites(rules(CORS)) as (pop, a, _):
        a.on("/", Reply(cut_head_at=0, cut_by="rst"))
        response = await exchange(pop, "GET", "/", ("Origin", "https://x.test"))
        assert (response.status, response.get("access-control-allow-origin")) == (502, "https://x.test")


async def test_any_origin() -> None:
    """`*` says so, without Vary."""
    async with two_sites(rules('cors = { origins = ["*"] }')) as (pop, _, _):
        for fields in ([], [("Origin", "https://x.test")], [("Origin", "null")]):
            for _ in range(3):
                response = await exchange(pop, "GET", "/", *fields)
                assert (response.get("access-control-allow-origin"), response.get("vary")) == ("*", None)


async def test_preflights() -> None:
    """Answered here; OPTIONS that are none go to the origin."""
    asked = ("Access-Control-Request-Method", "PUT")
    async with two_sites(rules(CORS)) as (pop, a, _):
        response = await exchange(pop, "OPTIONS", "/", ("Origin", "https://x.test"), asked)
        assert (response.status, response.body) == (204, b"")
        assert response.get("access-control-allow-origin") == "https://x.test"
        assert response.get("access-control-allow-methods") == "GET, HEAD, POST"
        assert response.get("access-control-allow-headers") == "X-T"
        assert response.get("access-control-max-age") == "86400"
        assert response.get("vary") == "Origin"
        refused = await exchange(pop, "OPTIONS", "/", ("Origin", "https://evil.test"), asked)
        assert (refused.status, refused.get("access-control-allow-origin")) == (403, None)
        assert not a.requests
        await exchange(pop, "OPTIONS", "/", ("Origin", "https://x.test"))
        assert len(a.requests) == 1


# --- presets, debug


async def test_security_headers() -> None:
    """`basic` leaves what the origin sets, `strict` only its policies; a rule's own fields come after either."""
    texts = (
        'security_headers = "basic"',
        'when = { path = "/strict" }\nsecurity_headers = "strict"',
        'when = { path = "/off" }\nsecurity_headers = "off"',
        'when = { path = "/own" }\n'
        'response_headers = { set = { X-Frame-Options = "own" }, remove = ["Referrer-Policy"] }',
    )
    async with two_sites(rules(*texts)) as (pop, a, _):
        a.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("X-Frame-Options", "ALLOWALL")], body=b"x"))
        for _ in range(3):
            basic = await exchange(pop, "GET", "/")
            assert basic.all("x-frame-options") == ["ALLOWALL"]
            assert basic.get("x-content-type-options") == "nosniff"
            strict = await exchange(pop, "GET", "/strict")
            assert strict.all("x-frame-options") == ["DENY"]
            assert (strict.get("content-security-policy") or "").startswith("default-src 'self'")
            assert strict.get("strict-transport-security") is None  # over http
            secure = await exchange(pop, "GET", "/off")
            assert (secure.get("x-frame-options"), secure.get("referrer-policy")) == ("ALLOWALL", None)
            own = await exchange(pop, "GET", "/own")
            assert (own.get("x-frame-options"), own.get("referrer-policy")) == ("own", None)


POLICIES = (
    ("Content-Security-Policy", "script-src 'nonce-abc'; frame-ancestors https://partner.test"),
    ("Referrer-Policy", "origin"),
    ("Cross-Origin-Opener-Policy", "unsafe-none"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Permissions-Policy", "camera=(self)"),
    ("Strict-Transport-Security", "max-age=300"),
)


async def test_strict_leaves_policies_of_the_origin_alone() -> None:
    """Each stays as it is, without a second one; what it lacks is added, and a rule may replace one all the same."""
    texts = (
        'security_headers = "strict"',
        'when = { path = "/set" }\nresponse_headers = { set = { Content-Security-Policy = "default-src *" } }',
    )
    own = [("Cache-Control", "max-age=60"), *POLICIES, ("X-Content-Type-Options", "sniff")]
    proxied = ("X-Forwarded-Proto", "https")
    async with two_sites(rules(*texts), trusted_proxies="127.0.0.1") as (pop, a, _):
        a.otherwise(Reply(fields=own, body=b"x"))
        for _ in range(3):
            strict = await exchange(pop, "GET", "/", proxied)
            assert {name: strict.all(name.lower()) for name, _ in POLICIES} == {n: [value] for n, value in POLICIES}
            assert strict.all("x-content-type-options") == ["nosniff"]
            assert strict.get("x-frame-options") is None  # the policy says more
            replaced = await exchange(pop, "GET", "/set", proxied)
            assert replaced.all("content-security-policy") == ["default-src *"]
        for name, value in POLICIES[:5]:
            a.on(f"/{name}", Reply(fields=[("Cache-Control", "max-age=60"), (name, value)], body=b"x"))
            one = await exchange(pop, "GET", f"/{name}", proxied)
            assert one.all(name.lower()) == [value]
            missing = [other for other, _ in POLICIES if other != name and not one.get(other.lower())]
            assert missing == []


async def test_debug_fields() -> None:
    """X-Cache and Server-Timing are of each response, and what the origin timed is not repeated by a hit."""
    texts = (
        'debug = ["x-cache", "server-timing"]',
        'when = { path = "/pass" }\ncache = { store = false }',
        'when = { path = "/to" }\nredirect = { to = "/" }',
    )
    async with two_sites(rules(*texts)) as (pop, a, _):
        a.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("Server-Timing", "db;dur=5")], body=b"x"))
        a.on("/cut", Reply(cut_head_at=0, cut_by="rst"))
        for target, expected in (
            ("/", ["MISS", "HIT", "HIT", "HIT"]),
            ("/pass", ["PASS"] * 3),
            ("/to", ["LOCAL"] * 3),
            ("/cut", ["ERROR"]),
        ):
            for result in expected:
                response = await exchange(pop, "GET", target)
                assert response.get("x-cache") == result
                timed = response.get("server-timing") or ""
                assert f"cache;desc={result.lower()}" in timed or result == "LOCAL"
                assert ("db;dur=5" in timed) == (result in ("MISS", "PASS"))
                assert result not in ("HIT", "LOCAL") or "origin" not in timed


# --- mistakes


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('redirect = { to = "/$1" }', "needs a path_regex"),
        ('redirect = { to = "/$2" }\nwhen = { path_regex = "^/(a)" }', "is no group of path_regex"),
        ('redirect = { to = "/$uri" }', "is no variable"),
        ('redirect = { to = "https://$1/" }\nwhen = { path_regex = "^/(.*)" }', "must begin with a path"),
        ('redirect = { to = "https://a.test$1" }\nwhen = { path_regex = "^/(.*)" }', "must begin with a path"),
        ('redirect = { to = "https://$host.evil.test" }', "must begin with a path"),
        ('redirect = { to = "javascript:alert(1)" }', "must begin with a path"),
        ('redirect = { to = "/a b" }', "visible ASCII"),
        ('respond = { status = 204, body = "x" }', "has no content"),
        ('respond = { body = "x", headers = { Content-Length = "1" } }', "rules cannot change it"),
        ('response_headers = { set = { Transfer-Encoding = "chunked" } }', "rules cannot change it"),
        ('response_headers = { remove = ["Content-Encoding"] }', "rules cannot change it"),
        ('request_headers = { set = { Range = "bytes=0-1" } }', "rules cannot change it"),
        ('request_headers = { set = { Host = "x" } }', "is set by route.host"),
        ('request_headers = { add = { Edgecache-Seen = "x" } }', "rules cannot change it"),
        ('cors = { origins = ["*"], credentials = true }', "cannot be combined with credentials"),
    ],
)
def test_mistakes_are_found(rule: str, words: str) -> None:
    """One sentence each."""
    text = f'[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "http://127.0.0.1"\n{rules(rule)}'
    with pytest.raises(SitesError, match=words):
        parsed(text)
