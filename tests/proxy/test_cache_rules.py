"""Rules of the cache, on a running POP: what is stored for how long, by which key, and for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.tiers import pops
from harness.valkey import Server

HOST = ("Host", "a.test")
TOKEN = ("Authorization", "Bearer a-token-that-may-purge")
FRESH = ("Cache-Control", "max-age=60")


@asynccontextmanager
async def ruled(rules: str, **settings: object) -> AsyncIterator[tuple[Pop, OriginDouble, FakeClock]]:
    """A POP of one site with these rules."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        text = f'[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "{origin.url}"\n{rules}'
        async with running_pop(origin, clock, sites=text, **settings) as pop:
            yield pop, origin, clock


async def status(pop: Pop, target: str, *fields: tuple[str, str], method: str = "GET") -> str:
    """The Cache-Status of a response."""
    return (await pop.request(method, target, HOST, *fields)).get("cache-status") or ""


async def test_what_a_rule_passes_on_is_stored_for_nobody() -> None:
    """Though the origin lets it be stored: neither for those who are passed on, nor for those who are not."""
    rules = """
[[sites.rules]]
name = "logged-in"
when = { cookie = { "wordpress_logged_in_*" = true } }
cache = { store = false }
"""
    async with ruled(rules) as (pop, origin, _):
        origin.otherwise(lambda request: Reply(fields=[FRESH], body=(request.get("cookie") or "nobody").encode()))
        cookie = ("Cookie", "wordpress_logged_in_1=ann")
        for _ in range(3):
            assert (await pop.get("/", HOST, cookie)).body == b"wordpress_logged_in_1=ann"
        assert (await pop.get("/", HOST)).body == b"nobody"
        assert (await pop.get("/", HOST, ("Cookie", "wordpress_logged_in_1=bob"))).body.endswith(b"bob")
        assert (await pop.get("/", HOST)).body == b"nobody"


async def test_a_request_that_is_passed_on_before_its_key_is_made_is_not_stored() -> None:
    """If-Match is for the origin; what it answers depends on rules too."""
    rules = """
[[sites.rules]]
name = "ann"
when = { cookie = { s = "ann" } }
request_headers = { set = { X-User = "ann" } }
"""
    async with ruled(rules) as (pop, origin, _):
        origin.otherwise(lambda request: Reply(fields=[FRESH], body=(request.get("x-user") or "nobody").encode()))
        assert (await pop.get("/", HOST, ("Cookie", "s=ann"), ("If-Match", "*"))).body == b"ann"
        assert (await pop.get("/", HOST)).body == b"nobody"


async def test_freshness_and_storing_by_status() -> None:
    """Errors live as long as a rule says, and no other status does; a status is not stored where a rule says so."""
    rules = """
[[sites.rules]]
name = "missing"
when = { status = "404" }
cache = { ttl_by_status = { "404" = "1h" } }
[[sites.rules]]
name = "moved"
when = { status = "3xx" }
cache = { store = false }
"""
    async with ruled(rules) as (pop, origin, clock):
        long = ("Cache-Control", "max-age=7200")
        origin.on("/404", Reply(status=404, fields=[long]))
        origin.on("/500", Reply(status=500, fields=[long]))
        origin.on("/301", Reply(status=301, fields=[long, ("Location", "/x")]))
        for target, ttl in (("/404", "hit; ttl=3600"), ("/500", "hit; ttl=10"), ("/301", "fwd=")):
            await status(pop, target)
            assert ttl in await status(pop, target), target
        clock.advance(3599)
        assert "hit; ttl=1" in await status(pop, "/404")


async def test_rules_of_freshness_outlive_a_validation_and_apply_to_head() -> None:
    """A 304 without a field is as fresh as the rule says; a HEAD gets what a GET has stored, and fills for one."""
    rules = """
[[sites.rules]]
name = "all"
cache = { ttl = "20s", stale_while_revalidate = "5s", tags = ["t"] }
"""
    async with ruled(rules) as (pop, origin, clock):

        def reply(request: ReceivedRequest) -> Reply:
            known = request.get("if-none-match") == '"1"'
            return Reply(304 if known else 200, fields=[("ETag", '"1"'), ("Cache-Control", "s-maxage=1")], body=b"x")

        origin.otherwise(reply)
        await status(pop, "/", method="HEAD")
        assert "hit; ttl=20" in await status(pop, "/")
        assert "hit; ttl=20" in await status(pop, "/", method="HEAD")
        clock.advance(30)
        assert "fwd-status=304" in await status(pop, "/")
        assert "hit; ttl=20" in await status(pop, "/")
        clock.advance(22)
        assert "hit" in await status(pop, "/")  # stale, while it is validated


async def test_authorized_responses_need_the_origins_consent() -> None:
    """`ttl` does not share what was answered to Authorization (RFC 9111 §3.5), unless the rule does not send it."""
    rules = """
[[sites.rules]]
name = "ttl"
cache = { ttl = "20s" }
[[sites.rules]]
name = "open"
when = { path = "/open" }
request_headers = { remove = ["Authorization"] }
"""
    async with ruled(rules) as (pop, origin, _):
        origin.otherwise(lambda request: Reply(body=(request.get("authorization") or "nobody").encode()))
        ann, bob = [("Authorization", f"Bearer {name}") for name in ("ann", "bob")]
        for target, bodies in (("/", (b"Bearer ann", b"Bearer bob")), ("/open", (b"nobody", b"nobody"))):
            assert ((await pop.get(target, HOST, ann)).body, (await pop.get(target, HOST, bob)).body) == bodies
        assert "hit" in await status(pop, "/open", ann)


async def test_revalidation_by_rule() -> None:
    """A reload asks the origin, but not where a rule ignores that; others share what is stored."""
    rules = """
[[sites.rules]]
name = "assets"
when = { header = { X-Robot = true } }
cache = { client_revalidation = "ignore" }
"""
    async with ruled(rules, client_revalidation="honour") as (pop, origin, clock):
        origin.otherwise(Reply(fields=[FRESH], body=b"x"))
        await status(pop, "/")
        clock.advance(5)
        reload = ("Cache-Control", "no-cache")
        for _ in range(3):
            assert "hit" in await status(pop, "/", reload, ("X-Robot", "1"))
        assert "fwd=request" in await status(pop, "/", reload)


async def test_crawlers_read_but_never_fill() -> None:
    """`read-only`: hits of what clients have stored, no fills, and no validation of what is stale."""
    rules = """
[[sites.rules]]
name = "crawlers"
when = { header = { User-Agent = "*GPTBot*" } }
cache = { admission = "read-only" }
"""
    async with ruled(rules) as (pop, origin, clock):
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60, stale-while-revalidate=60")], body=b"x"))
        bot = ("User-Agent", "Mozilla/5.0 (compatible; GPTBot/1.2)")
        for _ in range(3):
            assert "detail=bypass" in await status(pop, "/a", bot)
        assert "stored" in await status(pop, "/a")
        for _ in range(4):
            assert "hit" in await status(pop, "/a", bot)
        clock.advance(70)
        before = len(origin.requests)
        assert "hit" in await status(pop, "/a", bot)
        assert len(origin.requests) == before


QUERY_RULES = """
[[sites.rules]]
name = "parameters"
cache = { key = { query = { drop = ["utm_*", "fbclid"], sort = true } } }
[[sites.rules]]
name = "search"
when = { path = "/search" }
cache = { key = { query = { keep = ["q", "page*"] } } }
"""


async def test_parameters_of_the_key() -> None:
    """Dropped ones reach neither the key nor the origin; sorted ones keep the order of those of one name."""
    async with ruled(QUERY_RULES) as (pop, origin, _):
        origin.otherwise(Reply(fields=[FRESH], body=b"x"))
        for target, sent in (
            ("/p?b=2&utm_source=x&a=1", "/p?a=1&b=2"),
            ("/p?a=1&b=2&%66bclid=9", None),
            ("/p?utm_medium=x", "/p"),
            ("/p?b=2&b=1", "/p?b=2&b=1"),
            ("/search?x=1&page2=3&q=%61&&q=a", "/search?page2=3&q=%61&q=a"),
            ("/search?page2=3&q=%61&y=1&q=a", None),
        ):
            before = len(origin.requests)
            await pop.get(target, HOST)
            assert [one.target for one in origin.requests[before:]] == ([] if sent is None else [sent]), target


async def test_a_purge_by_any_spelling_reaches_the_stored_response() -> None:
    """With parameters dropped or in another order."""
    async with ruled(QUERY_RULES, purge_tokens=f"cms={TOKEN[1][7:]}") as (pop, origin, _):
        origin.otherwise(Reply(fields=[FRESH], body=b"x"))
        for spelling in ("/p?a=1&b=2", "/p?b=2&utm_source=y&a=1", "/p?utm_a=1&b=2&a=1"):
            await pop.get("/p?b=2&a=1&utm_campaign=z", HOST)
            assert "hit" in await status(pop, "/p?b=2&a=1")
            assert (await pop.request("PURGE", spelling, HOST, TOKEN)).status < 300
            assert "fwd=" in await status(pop, "/p?a=1&b=2"), spelling


WORDPRESS = """
[[sites.rules]]
name = "pages"
cache = { default_ttl = "10m", key = { query = { drop = ["utm_*", "gclid", "fbclid"] } } }
[[sites.rules]]
name = "logged-in"
when = { cookie = { "wordpress_logged_in_*" = true } }
cache = { store = false }
"""
DJANGO = """
[[sites.rules]]
name = "pages"
when = { cookie = { sessionid = false } }
request_headers = { remove = ["Cookie"] }
cache = { default_ttl = "10m", key = { query = { drop = ["utm_*", "gclid", "fbclid"] } } }
[[sites.rules]]
name = "sessions"
when = { cookie = { sessionid = true } }
cache = { store = false }
"""
PAGES = [f"/page-{number}/" for number in range(20)]


@pytest.mark.parametrize("tier", ["regional", "parent"])
async def test_tiers_share_no_more_than_memory(origin: OriginDouble, valkey: Server, tier: str) -> None:
    """What one POP has stored, another uses for those whom rules treat alike, as fresh as they say."""
    rules = """
[[sites.rules]]
name = "fresh"
cache = { ttl = "100s" }
[[sites.rules]]
name = "ann"
when = { cookie = { s = "ann" } }
request_headers = { set = { X-User = "ann" } }
[[sites.rules]]
name = "bob"
when = { cookie = { s = "bob" } }
cache = { store = false }
[[sites.rules]]
name = "crawlers"
when = { header = { User-Agent = "*Bot*" } }
cache = { admission = "read-only" }
"""
    sites = f'[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "{origin.url}"\n{rules}'
    origin.otherwise(lambda request: Reply(fields=[("Cache-Control", "max-age=5")], body=who(request)))
    ann, bob, bot = ("Cookie", "s=ann"), ("Cookie", "s=bob"), ("User-Agent", "Bot")
    async with pops(origin, tier, valkey.url, sites=sites) as (first, second):
        for pop in (first, second, first, second):
            for fields, body in (((bob,), b"bob"), ((ann,), b"ann"), ((), b"nobody"), ((bot,), b"nobody")):
                assert (await pop.get("/p", HOST, *fields)).body == body
            if tier == "regional":
                await pop.written()
        assert [who(request) for request in origin.requests if who(request) != b"bob"] == [b"ann", b"nobody"]
        origin.clock.advance(50)
        assert "hit; ttl=50" in await status(second, "/p", ann)
        await second.get("/crawled", HOST, bot)
        if tier == "regional":
            await second.written()
        before = len(origin.requests)
        await first.get("/crawled", HOST)
        assert len(origin.requests) == before + 1


async def test_settings_of_a_site() -> None:
    """Each site has its own, and the others those of the process."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        sites = "".join(
            f'[[sites]]\nname = "{name}"\nhosts = ["{name}.test"]\norigin = "{origin.url}"\n{more}'
            for name, more in (
                (
                    "a",
                    "[sites.settings]\nheuristics = false\nnegative_ttl = '100s'\nstore_set_cookie = true\n"
                    "store_client_errors = true\ndefault_stale_if_error = '100s'\n",
                ),
                ("b", ""),
            )
        )
        modified = ("Last-Modified", clock.http_date(-100_000))
        origin.on("/heuristic", Reply(fields=[modified], body=b"x"))
        origin.on("/missing", Reply(status=404, fields=[("Cache-Control", "max-age=500")]))
        origin.on("/cookie", Reply(fields=[FRESH, ("Set-Cookie", "a=1")], body=b"x"))
        origin.on("/bad", Reply(status=400, fields=[FRESH]))
        async with running_pop(origin, clock, sites=sites) as pop:
            for target, of_a, of_b in (
                ("/heuristic", "fwd=", "hit; ttl=10000"),
                ("/missing", "hit; ttl=100", "hit; ttl=10"),
                ("/cookie", "hit; ttl=60", "fwd="),
                ("/bad", "hit; ttl=60", "fwd="),
            ):
                for host, wanted in (("a.test", of_a), ("b.test", of_b)):
                    told = [(await pop.get(target, ("Host", host))).get("cache-status") or "" for _ in range(2)]
                    assert told[1].removeprefix("test; ").startswith(wanted), (target, host, told)


def who(request: ReceivedRequest) -> bytes:
    """The user that a request is of, by what the origin gets."""
    user = request.get("x-user") or (request.get("cookie") or "s=nobody").partition("s=")[2]
    return user.encode()


@pytest.mark.parametrize(
    ("rules", "session", "vary"), [(WORDPRESS, "wordpress_logged_in_1", None), (DJANGO, "sessionid", "Cookie")]
)
async def test_a_second_crawl_hits_and_logged_in_users_have_their_own(
    rules: str, session: str, vary: str | None
) -> None:
    """With cookies and parameters of trackers that differ each time; between both, somebody is logged in."""

    def reply(request: ReceivedRequest) -> Reply:
        of_user = f"{session}=" in (request.get("cookie") or "")
        fields = [("Vary", vary)] if vary else []
        return Reply(fields=fields, body=f"{of_user} {request.target}".encode())

    async with ruled(rules) as (pop, origin, _):
        origin.otherwise(reply)
        hits = 0
        for crawl in range(2):
            for number, page in enumerate(PAGES):
                target = f"{page}?utm_source=s{crawl}{number}&gclid={number}"
                tracked = ("Cookie", f"_ga=GA1.{crawl}.{number}; _gid={number}")
                response = await pop.get(target, HOST, tracked)
                assert response.body == f"False {page}".encode()
                hits += crawl and "hit" in (response.get("cache-status") or "")
                own = await pop.get(page, HOST, ("Cookie", f"_ga=1; {session}=ann"))
                assert own.body == f"True {page}".encode()
        assert hits >= 0.95 * len(PAGES)
