"""Rules that meet: combinations of keys, routes, compression, access and errors share nothing that differs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path

import jwt as pyjwt
import pytest
from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.parents import SECRET
from harness.pop import running_pop
from harness.sites import two_sites
from harness.tokens import PRIVATE, key_set

from edgecache.semantics.signing.own_format import token_for

HOST, NOW = ("Host", "a.test"), 1_700_000_000
TEXT = ("Content-Type", "text/plain")
FRESH = ("Cache-Control", "public, max-age=60")
QUESTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("GET", []),
    ("HEAD", []),
    ("GET", [("Range", "bytes=0-0")]),
    ("GET", [("If-None-Match", '"1"')]),
    ("GET", [("If-None-Match", "*")]),
    ("GET", [("If-Match", '"2"')]),
    ("GET", [("Cache-Control", "no-cache")]),
    ("GET", [("Cache-Control", "only-if-cached")]),
]


def echoing(origin: OriginDouble, *names: str) -> None:
    """The origin answers with target, content and these fields."""

    def answer(request: ReceivedRequest) -> Reply:
        seen = "|".join([request.target, request.body.decode(), *(request.get(name) or "-" for name in names)])
        return Reply(fields=[FRESH, TEXT, ("ETag", '"1"')], body=seen.encode() + b"." * 2000)

    origin.reads_first = True
    origin.otherwise(answer)


async def test_parts_of_the_key_and_query() -> None:
    """A QUERY is of its parameters, its cookie and its content; a GET of none of them is not mixed up with it."""
    rules = """
[[sites.rules]]
name = "search"
cache = { query_method = true, key = { cookies = ["lang"], query = { drop = ["utm_*"], sort = true } } }
[[sites.rules]]
name = "lang"
when = { cookie = { lang = "de" } }
request_headers = { set = { X-Lang = "de" } }
"""
    async with two_sites(rules) as (pop, a, _):
        echoing(a, "x-lang")
        for _ in range(3):
            for lang, page, content, junk in product(("de", "en"), "12", (b'{"a":1}', b'{"a":2}', b""), "xy"):
                more = [("Cookie", f"lang={lang}; _ga={junk}"), ("Content-Type", "application/json")]
                target = f"/s?utm_id={junk}&p={page}"
                method = "QUERY" if content else "GET"
                response = await pop.request(method, target, HOST, *more, body=content)
                wanted = f"/s?p={page}|{content.decode()}|{'de' if lang == 'de' else '-'}"
                assert response.body.decode().rstrip(".") == wanted
        assert len(a.requests) == 2 * 2 * 3


async def test_routes_by_country_and_compression() -> None:
    """Each country has its origin, in every coding, and after a validation."""
    rules = """
compress = {}
[[sites.rules]]
name = "abroad"
when = { country = "FR" }
request_headers = { set = { X-Place = "fr" } }
route = { add_prefix = "/fr" }
"""
    rules = '[[sites.rules]]\nname = "coded"\n' + rules
    places = {"trusted_proxies": "127.0.0.1", "geo_overrides": "192.0.2.1=DE,192.0.2.2=FR"}
    async with two_sites(rules, **places) as (pop, a, _):
        echoing(a, "x-place")
        codings = set()
        for turn in range(6):
            for client, coding in product("12", ("gzip", "zstd", "identity")):
                more = [("X-Forwarded-For", f"192.0.2.{client}"), ("Accept-Encoding", coding)]
                response = await pop.get("/p", HOST, *more)
                codings.add(response.get("content-encoding"))
                if response.get("content-encoding") is None:
                    assert response.body.startswith(b"/p||-" if client == "1" else b"/fr/p||fr")
                else:
                    assert decoded(response.body, coding).startswith(b"/p||-" if client == "1" else b"/fr/p||fr")
            if (task := pop.worker.edge.compressor.task) is not None:
                await task
            pop.worker.edge.sweep()
            pop.clock.advance(70 if turn == 3 else 1)
        assert codings == {None, "gzip", "zstd"}


def decoded(body: bytes, coding: str) -> bytes:
    """The content without its coding."""
    if coding == "gzip":
        import gzip

        return gzip.decompress(body)
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return bytes(zstd.decompress(body))


async def test_claims_and_error_pages(tmp_path: Path) -> None:
    """A token without the claim gets the same page, whatever is stored; HEAD, ranges and conditions too."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    (tmp_path / "page").write_bytes(b"<p>no")
    rules = f"""
error_pages = {{ 4xx = "{tmp_path}/page" }}
[[sites.rules]]
name = "editors"
access.jwt = {{ keys = "{tmp_path}/keys", claims = {{ role = "editor" }} }}
"""
    async with two_sites(rules) as (pop, a, _):
        echoing(a)
        bearers = {
            role: (
                "Authorization",
                "Bearer "
                + pyjwt.encode({"exp": NOW + 600, "role": role}, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"}),
            )
            for role in ("editor", "reader")
        }
        told: list[list[str]] = []
        for _ in range(4):
            answers = []
            for method, more in QUESTIONS:
                response = await pop.request(method, "/p", HOST, bearers["reader"], ("Accept", "text/html"), *more)
                fields = [line for line in response.fields if line[0].lower() != "date"]
                answers.append(repr((response.status, fields, response.body)))
                assert response.status in (401, 403)
                assert (
                    response.get(
                        "content-type",
                    )
                    == "text/html; charset=utf-8"
                )
            told.append(answers)
            assert (await pop.get("/p", HOST, bearers["editor"])).status == 200
        assert all(answers == told[0] for answers in told)
        assert len(a.requests) == 1


async def test_forward_auth_and_every_kind_of_read() -> None:
    """A refusal tells nothing of the store; what is stored for one user is neither shared nor compressed (BREACH)."""
    async with running_origin(FakeClock()) as decider:
        decider.on(
            "/check",
            lambda request: (
                Reply(204, [("X-User", request.get("cookie") or "")])
                if (request.get("cookie") or "").startswith("u=")
                else Reply(401, [], b"log in")
            ),
        )
        rules = f"""
[[sites.rules]]
name = "members"
access.forward_auth = {{ url = "{decider.url}/check", timeout = "5s", pass_headers = ["X-User"] }}
[[sites.rules]]
name = "coded"
compress = {{}}
"""
        async with two_sites(rules) as (pop, a, _):
            echoing(a, "x-user")
            for _ in range(4):
                for method, more in QUESTIONS:
                    refusal = await pop.request(method, "/p", HOST, *more)
                    assert (refusal.status, refusal.get("cache-status"), refusal.get("etag")) == (401, None, None)
                for user in "ab":
                    cookie = ("Cookie", f"u={user}")
                    response = await pop.get("/p", HOST, cookie, ("Accept-Encoding", "gzip"))
                    assert response.get("content-encoding") is None, "what is of one user is not compressed"
                    assert response.body.startswith(f"/p||u={user}.".encode())
                    part = await pop.get("/p", HOST, cookie, ("Range", "bytes=4-6"))
                    assert (part.status, part.body) == (206, f"u={user}".encode())


async def test_signed_cookies_and_revalidation_by_clients(tmp_path: Path) -> None:
    """A client whose cookie is refused can have nothing validated; one of another path is refused as well."""
    (tmp_path / "key").write_bytes(b"a secret of the tests")
    rules = f"""
[[sites.rules]]
name = "films"
when = {{ path_prefix = "/film" }}
access.signed = {{ keys = {{ k1 = "{tmp_path}/key" }}, cookie = "ec" }}
cache = {{ client_revalidation = "honour" }}
"""
    async with two_sites(rules) as (pop, a, _):
        echoing(a, "cookie")

        def cookie(path: str, expires: int) -> tuple[str, str]:
            made = token_for("k1", b"a secret of the tests", expires, host=b"a.test", target=path, is_prefix=True)
            return ("Cookie", f"ec={made.decode()}")

        for _ in range(3):
            good = await pop.get("/film/1", HOST, cookie(b"/film", NOW + 60))
            assert good.body.startswith(b"/film/1||-.")
            asked = len(a.requests)
            for wrong in ([], [cookie(b"/other", NOW + 60)], [cookie(b"/film", NOW - 60)]):
                for method, more in QUESTIONS:
                    refusal = await pop.request(method, "/film/1", HOST, *wrong, *more)
                    assert (refusal.status, refusal.get("cache-status")) == (403, None)
            assert len(a.requests) == asked
        await pop.get("/film/1", HOST, cookie(b"/film", NOW + 60), ("Cache-Control", "no-cache"))
        assert len(a.requests) == 2


async def test_limits_networks_and_errors_meet() -> None:
    """Over its rate or outside of its network, a client learns nothing of what is stored stale for others."""
    rules = """
[[sites.rules]]
name = "office"
access = { allow = ["10.0.0.0/8"] }
limits = [{ rate = "1/s", burst = 3 }]
cache = { stale_if_error = "1h", stale_while_revalidate = "1h" }
"""
    async with two_sites(rules, trusted_proxies="127.0.0.1") as (pop, a, _):
        echoing(a)
        inside = ("X-Forwarded-For", "10.0.0.1")
        assert [(await pop.get("/p", HOST, inside)).status for _ in range(4)] == [200, 200, 200, 429]
        pop.clock.advance(70)
        await a.stop()
        for number, (method, more) in enumerate(QUESTIONS):
            outside = ("X-Forwarded-For", f"192.0.2.{number}")
            refusal = await pop.request(method, "/p", HOST, outside, *more)
            assert (refusal.status, refusal.get("cache-status"), refusal.get("etag")) == (403, None, None)
        assert (await pop.get("/p", HOST, inside)).status == 200


async def test_headers_devices_slices_and_canaries_meet() -> None:
    """A field, a class of device and a parameter that rules read: no two of the eight share, in slices either."""
    rules = """
[[sites.rules]]
name = "all"
cache = { key = { device = true, headers = ["Accept-Language"] } }
[[sites.rules]]
name = "beta"
when = { header = { X-Beta = true }, not = { query = { stable = true } } }
request_headers = { set = { X-Is-Beta = "yes" } }
"""
    async with two_sites(rules) as (pop, a, _):
        echoing(a, "x-is-beta", "accept-language")
        agents = ("Mozilla/5.0 (iPhone) Mobile Safari", "Mozilla/5.0 (X11) Firefox")
        numbers: dict[tuple[str, ...], int] = {}
        for _ in range(3):
            for agent, beta, lang, query in product(agents, ("", "1"), ("de", "en"), ("", "?stable=1")):
                more = [("User-Agent", agent), ("Accept-Language", lang), *([("X-Beta", "1")] if beta else [])]
                response = await pop.get(f"/p{query}", HOST, *more)
                wanted = f"/p{query}||{'yes' if beta and not query else '-'}|{lang}."
                assert response.body.startswith(wanted.encode())
                numbers[agent, beta if not query else "", lang, query] = len(a.requests)
        assert len(a.requests) == 12


@pytest.mark.parametrize("path", ["/api/p", "/x/..%2fapi/p"])
async def test_a_token_in_a_cookie_that_goes_upstream_is_of_one_client(tmp_path: Path, path: str) -> None:
    """Neither a POP nor its parent shares what the origin makes of it, for any spelling of the path."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    async with AsyncExitStack() as stack:
        clock = FakeClock()
        origin = await stack.enter_async_context(running_origin(clock))
        origin.otherwise(
            lambda request: Reply(
                fields=[("Cache-Control", "max-age=60"), TEXT], body=(request.get("cookie") or "-").encode() * 9
            )
        )
        access = f'access.jwt = {{ keys = "{tmp_path}/keys", cookie = "t", pass_credentials = true }}'
        sites = f'''
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin.url}"
[[sites.rules]]
name = "api"
when = {{ path_prefix = "/api" }}
{access}
[[sites.rules]]
name = "coded"
compress = {{}}
'''
        options = {"sites": sites, "pop_secret": SECRET}
        parent = await stack.enter_async_context(running_pop(origin, clock, pop="parent", **options))
        up = f"http://127.0.0.1:{parent.port}"
        child = await stack.enter_async_context(running_pop(origin, clock, pop="child", parents=up, **options))
        tokens = {
            user: pyjwt.encode({"exp": NOW + 600, "sub": user}, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"})
            for user in "ab"
        }
        for _ in range(4):
            for user in "ab":
                made = tokens[user]
                for pop in (child, parent):
                    response = await pop.get(path, HOST, ("Cookie", f"t={made}"), ("Accept-Encoding", "gzip"))
                    assert response.get("content-encoding") is None
                    assert response.body == f"t={made}".encode() * 9
            assert (await child.get(path, HOST)).status == 401
