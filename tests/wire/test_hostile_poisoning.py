"""Cache poisoning and cache deception that take more than one request.

What one request's bytes can tell is in `tests/hostile/tables/b_poisoning.txt` and `c_storing.txt`.
"""

from __future__ import annotations

import asyncio
from itertools import combinations

import pytest
from harness.client import let_others_run
from harness.expect import cache_status
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from hostile.arena import Arena, running_arena
from hostile.tables import Case

FRESH = ("Cache-Control", "max-age=60")
OVERRIDES = [
    *("X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "X-Host", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override"),
    *("True-Client-IP", "X_Forwarded_Host", "Edgecache-Require"),
]
EXTENSIONS = ["css", "js", "png", "ico", "jpg", "svg", "woff2", "html"]
RAW_DELIMITERS = [byte for byte in range(0x21, 0x7F) if byte != 0x23]  # what a target may hold but "#"


async def asked_for(pop: Pop, origin: OriginDouble, target: str, *fields: tuple[str, str]) -> int:
    """How often one GET makes the origin be asked."""
    before = len(origin.requests)
    assert (await pop.get(target, *fields)).status == 200
    return len(origin.requests) - before


async def test_override_fields_in_pairs() -> None:
    """No two of the fields that override host, scheme, URL or method together get a canary anywhere."""
    async with running_arena() as arena:
        for number, (one, two) in enumerate(combinations(OVERRIDES, 2)):
            head = f"GET /pair/{number} HTTP/1.1\r\nHost: a\r\n{one}: evil\r\n{two}: evil\r\n\r\n"
            await arena.leaks_nothing(Case(f"{one}+{two}", "L", "", "", "", head.encode()))


@pytest.mark.parametrize("status", [400, 413, 414, 431, 501])
async def test_a_header_too_large_for_the_origin_poisons_nothing(origin: OriginDouble, status: int) -> None:
    """A head that only the origin finds too large gets the attacker an error that nobody else sees (CPDoS HHO)."""

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(200 if len(request.raw) < 8192 else status, [("Cache-Control", "public, max-age=3600")], b"page")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        large = [(f"X-Oversized-{number}", "x" * 4000) for number in range(5)]
        assert (await pop.get("/page", *large)).status == status

        assert (await pop.get("/page")).status == 200


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_error_never_replaces_what_may_stand_in_for_it(origin: OriginDouble, status: int) -> None:
    """An error with an hour's freshness does not replace an old 200 that is still usable (CVE-2020-17509)."""
    good = [("Cache-Control", "max-age=10, stale-if-error=600")]
    origin.on("/page", Reply(200, good, b"old"), Reply(status, [("Cache-Control", "max-age=3600")], b"error"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        pop.clock.advance(11)
        assert [(await pop.get("/page")).body for _ in range(3)] == [b"old"] * 3
        origin.on("/page", Reply(200, good, b"new"))

        assert (await pop.get("/page")).body == b"new"


async def test_a_fat_get_poisons_nothing(origin: OriginDouble) -> None:
    """What the origin makes of a GET's body is for its sender alone (Kettle 2020)."""
    origin.otherwise(lambda request: Reply(200, [FRESH], b"evil" if request.get("content-length") else b"clean"))
    async with running_pop(origin) as pop:
        for fields in ([], [("X-HTTP-Method-Override", "GET")], [("Range", "bytes=0-3")]):
            assert (await pop.request("GET", "/page", *fields, body=b"q=evil")).body == b"evil"
            assert (await pop.request("HEAD", "/page", body=b"q=evil")).status == 200
        bodies = [(await pop.get("/page")).body for _ in range(2)]
        assert (await pop.request("GET", "/page", body=b"q=evil")).body == b"evil"

        assert [*bodies, (await pop.get("/page")).body] == [b"clean"] * 3


async def test_a_head_on_a_cold_key_stores_no_empty_page(origin: OriginDouble) -> None:
    """HEAD, TRACE, OPTIONS and QUERY leave nothing that a GET would be answered with."""
    origin.otherwise(lambda request: Reply(200, [FRESH], request.method.encode()))
    async with running_pop(origin) as pop:
        for method in ("HEAD", "TRACE", "OPTIONS", "QUERY", "PROPFIND", "SEARCH"):
            assert (await pop.request(method, "/page")).status == 200

        assert [(await pop.get("/page")).body for _ in range(2)] == [b"GET", b"GET"]


async def test_variants_of_one_url_are_capped(origin: OriginDouble) -> None:
    """Any number of languages for one URL costs others nothing (CVE-2024-35296)."""

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(200, [FRESH, ("Vary", "Accept-Language")], (request.get("accept-language") or "-").encode())

    origin.otherwise(answer)
    async with running_pop(origin, max_variants=8) as pop:
        await pop.get("/other", ("Accept-Language", "en"))
        async with pop.client() as client:
            for number in range(500):
                await client.request("GET", "/page", [("Accept-Language", f"x-{number}")])
                assert (await client.response()).body == f"x-{number}".encode()
        memory = pop.worker.edge.memory

        assert len(memory) == 2
        assert memory.size < 30_000
        assert await asked_for(pop, origin, "/other", ("Accept-Language", "en")) == 0


@pytest.mark.parametrize(
    "value", ["gzip;;q=x", "gzip;q", ";", "gzip=1", "gz\xefip", '"gzip"', "a, " * 2000 + "a", "gzip;q=2", ",;,"]
)
async def test_a_malformed_accept_encoding_is_none(origin: OriginDouble, value: str) -> None:
    """Whoever sends one gets what is for everybody, a hit too; the origin never sees it (CVE-2021-28662)."""
    fields = [FRESH, ("Vary", "Accept-Encoding")]
    origin.otherwise(
        lambda request: Reply(200, fields, (request.get("accept-encoding") or "identity").encode("latin-1"))
    )
    async with running_pop(origin) as pop:
        bodies = [(await pop.get("/page", ("Accept-Encoding", value))).body for _ in range(2)]

        assert bodies == [b"identity"] * 2
        assert await asked_for(pop, origin, "/page", ("Accept-Encoding", "gzip;;;")) == 0
        assert len(origin.requests) == 1


async def test_a_vary_that_changes_serves_nobody_anothers(origin: OriginDouble) -> None:
    """Whatever an origin says of Vary from answer to answer, each client gets what was made for its fields."""
    names = ["X-A", "X-B", "X-A, X-B", "X-B, X-A", "X-A", "X-C"]

    def answer(request: ReceivedRequest) -> Reply:
        body = "/".join(request.get(name) or "-" for name in ("x-a", "x-b", "x-c"))
        return Reply(200, [FRESH, ("Vary", names[len(origin.requests) % len(names)])], body.encode())

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        for number in range(60):
            values = [str(number % 2), str(number % 3), "1"]
            fields = list(zip(("X-A", "X-B", "X-C"), values, strict=True))
            response = await pop.get("/page", *fields)
            varied = [name.strip() for name in (response.get("vary") or "").split(",")]
            got = dict(zip(("X-A", "X-B", "X-C"), response.body.decode().split("/"), strict=True))
            assert all(got[name] == dict(fields)[name] for name in varied)


@pytest.mark.parametrize(
    ("name", "attack"),
    [("Accept-Language", "fr"), ("X-Tenant", "two"), ("Accept", "image/webp"), ("User-Agent", "victim")],
)
async def test_what_is_not_forwarded_does_not_select(origin: OriginDouble, name: str, attack: str) -> None:
    """A field that the sender nominates in Connection never reaches the origin, so it picks no variant."""
    origin.otherwise(lambda request: Reply(200, [FRESH, ("Vary", name)], (request.get(name) or "none").encode()))
    async with running_pop(origin) as pop:
        await pop.get("/page", (name, attack), ("Connection", name))

        assert (await pop.get("/page", (name, attack))).body == attack.encode()
        assert (await pop.get("/page")).body == b"none"


async def test_what_is_not_forwarded_does_not_authorize(origin: OriginDouble) -> None:
    """An Authorization that is nominated away makes an anonymous question, and an anonymous answer."""
    origin.otherwise(lambda request: Reply(200, [FRESH], (request.get("authorization") or "anonymous").encode()))
    async with running_pop(origin) as pop:
        nominated = [("Authorization", "alice"), ("Connection", "close, Authorization")]

        assert (await pop.get("/page", *nominated)).body == b"anonymous"
        assert (await pop.get("/page")).body == b"anonymous"


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Host", "X-Forwarded-For", "X-Original-URL", "Forwarded", "Accept_Language"]
)
async def test_a_variant_by_what_we_replace_is_no_variant_of_the_clients(origin: OriginDouble, name: str) -> None:
    """A response that varies by a field that the POP sets or strips never shows a client what another one put there."""
    fields = [FRESH, ("Vary", name.replace("_", "-"))]
    origin.otherwise(lambda request: Reply(200, fields, request.raw))
    async with running_pop(origin) as pop:
        await pop.get("/page", (name, "evil"))

        for value in ("evil", "other"):
            assert b"evil" not in (await pop.get("/page", (name, value))).body
        assert b"evil" not in (await pop.get("/page")).body


@pytest.mark.parametrize("said", [[], [("Cache-Control", "no-cache")], [("Cache-Control", "max-age=0")]])
async def test_followers_never_share_what_must_be_validated(origin: OriginDouble, said: list[tuple[str, str]]) -> None:
    """Two who ask at once each get their own page where the origin allows no reuse unasked (RFC 9111 §4, §4.2.2)."""
    gate = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(200, [("ETag", '"v1"'), *said], (request.get("cookie") or "").encode(), wait=gate)

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as alice, pop.client() as bob:
        await alice.request("GET", "/me", [("Cookie", "alice")])
        await origin.request_seen()
        await bob.request("GET", "/me", [("Cookie", "bob")])
        await let_others_run(50)
        gate.set()

        assert ((await alice.response()).body, (await bob.response()).body) == (b"alice", b"bob")


async def sweep(arena: Arena, targets: list[str]) -> None:
    """Ask for each target as a victim with a cookie, then as an attacker without one, who must never see the page."""
    for cookie in ("session=secret", "none=1"):
        async with arena.pop.client() as client:
            for start in range(0, len(targets), 100):
                some = targets[start : start + 100]
                data = [f"GET {one} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n" for one in some]
                await client.send("".join(data).encode(), None)
                for target in some:
                    response = await client.response("GET")
                    assert response.body == f"{target} {cookie}".encode()


@pytest.mark.slow
@pytest.mark.parametrize("said", [[], [("ETag", '"v"')], [("Last-Modified", "Tue, 14 Nov 2023 20:00:00 GMT")]])
async def test_no_extension_makes_a_page_storable(said: list[tuple[str, str]]) -> None:
    """A private page without Cache-Control is nobody else's, whatever is put behind it (Gil 2017, Kettle 2024)."""
    encoded = [f"/me%{byte:02x}x.{EXTENSIONS[byte % 8]}" for byte in range(256)]
    raw = [f"/me{chr(byte)}x.{extension}" for byte in RAW_DELIMITERS for extension in EXTENSIONS]
    paths = [f"/me/x.{extension}" for extension in EXTENSIONS] + [f"/me.{extension}" for extension in EXTENSIONS]
    async with running_arena() as arena:
        stored = len(arena.pop.worker.edge.memory)
        arena.answer = lambda request: Reply(200, said, f"{request.target} {request.get('cookie')}".encode())
        await sweep(arena, encoded + raw + paths)

        assert said or len(arena.pop.worker.edge.memory) == stored


async def test_one_site_has_one_key(origin: OriginDouble) -> None:
    """A site is the same under another case, a final dot, the default port, or named by the target."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    heads = [
        *(f"GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n" for host in ("a.test", "A.Test", "a.test.", "a.test:80")),
        *("GET /page HTTP/1.1\r\nhost:A.TEST.:080\r\n\r\n", "GET http://a.test/page HTTP/1.1\r\nHost: b\r\n\r\n"),
        *("GET HTTP://A.TEST:80/page HTTP/1.1\r\nHost: b\r\n\r\n", "GET http://a.test/page HTTP/1.0\r\n\r\n"),
    ]
    async with running_pop(origin) as pop:
        for head in heads:
            async with pop.client() as client:
                await client.send(head.encode())
                assert (await client.response()).body == b"page"

    assert [request.get("host") for request in origin.requests] == ["a.test"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500])
async def test_a_refused_write_removes_nothing(origin: OriginDouble, status: int) -> None:
    """What the origin refuses to do leaves what is stored in place, whoever asks (RFC 9111 §4.4)."""
    origin.otherwise(lambda request: Reply(200 if request.method == "GET" else status, [FRESH], b"page"))
    fields = [("X-Forwarded-For", "127.0.0.1"), ("X-HTTP-Method-Override", "PURGE")]
    async with running_pop(origin) as pop:
        for method in ("DELETE", "POST", "PUT", "PATCH", "MKCOL", "LINK"):
            url = f"/{method}"
            await pop.get(url)
            assert (await pop.request(method, url, *fields)).status == status, method
            assert "hit" in cache_status(await pop.get(url))[0], method


async def test_a_purge_where_nobody_may_removes_nothing(origin: OriginDouble) -> None:
    """Without a token in the settings PURGE is no method, and the origin does not hear of it."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    async with running_pop(origin) as pop:
        await pop.get("/page")
        assert (await pop.request("PURGE", "/page")).status == 405

        assert "hit" in cache_status(await pop.get("/page"))[0]
    assert len(origin.requests) == 1


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "http://127.0.0.1:6379/", "//evil.example/"])
async def test_a_redirect_is_passed_on_and_never_followed(origin: OriginDouble, location: str) -> None:
    """Where an origin redirects to is the client's affair."""
    origin.otherwise(Reply(302, [("Location", location)]))
    async with running_pop(origin) as pop:
        response = await pop.get("/page")

        assert (response.status, response.get("location")) == (302, location)
        assert (len(origin.requests), origin.connections) == (1, 1)


async def test_an_unknown_site_is_misdirected(origin: OriginDouble) -> None:
    """Where sites are listed, every other Host gets 421, and the origin nothing."""
    origin.otherwise(Reply(200, [FRESH], b"page"))
    async with running_pop(origin, hosts="a.test,b.test") as pop:
        for host in ("c.test", "a.test.c.test", "c.test:81", "127.0.0.1", "xa.test", "a-test"):
            response = await pop.get("/page", ("Host", host))
            assert response.status == 421
        assert origin.bytes_received == 0

        for host in ("a.test", "A.TEST", "b.test.", "a.test:80"):
            assert (await pop.get("/page", ("Host", host))).status == 200


@pytest.mark.parametrize(
    "said",
    [
        [("X-Forwarded-Host", "evil")],
        [("Forwarded", "for=192.0.2.1;host=evil")],
        [("Forwarded", 'host="evil:80";for=192.0.2.1, for=192.0.2.2;HOST=evil')],
        [("X-Forwarded-Prefix", "/evil"), ("X-Forwarded-Uri", "/evil")],
        [("X-Forwarded-Port", "evil"), ("X-Forwarded-Server", "evil"), ("X-Original-URL", "/evil")],
    ],
)
async def test_what_a_trusted_proxy_lets_pass_is_no_other_host(
    origin: OriginDouble, said: list[tuple[str, str]]
) -> None:
    """A balancer passes on what it does not know: nothing of it names a host or a path to the origin."""
    origin.otherwise(lambda request: Reply(200, [FRESH], request.raw))
    async with running_pop(origin, trusted_proxies="127.0.0.0/8") as pop:
        await pop.get("/page", *said)

        assert b"evil" not in (await pop.get("/page")).body
    assert b"evil" not in origin.requests[0].raw


@pytest.mark.parametrize(
    "https", [[("X-Forwarded-Proto", "https")], [("Forwarded", "for=192.0.2.1;proto=https")]], ids=["x", "rfc7239"]
)
async def test_the_scheme_behind_a_trusted_proxy_is_in_the_key(
    origin: OriginDouble, https: list[tuple[str, str]]
) -> None:
    """The redirect that the origin has for http is never shown over https: it would lead to itself."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("x-forwarded-proto") == "https":
            return Reply(200, [FRESH], b"page")
        return Reply(301, [FRESH, ("Location", "https://www.example.test/page")])

    origin.otherwise(answer)
    async with running_pop(origin, trusted_proxies="127.0.0.0/8") as pop:
        for _ in range(4):  # from the third on, heads are known by their bytes
            assert (await pop.get("/page")).status == 301
            assert (await pop.get("/page", *https)).body == b"page"
    assert len(origin.requests) == 2


async def test_the_scheme_of_a_stranger_is_not_believed(origin: OriginDouble) -> None:
    """Who is not trusted gets the page for the scheme that it really came by."""
    origin.otherwise(lambda request: Reply(200, [FRESH], (request.get("x-forwarded-proto") or "").encode()))
    async with running_pop(origin, trusted_proxies="192.0.2.0/24") as pop:
        for _ in range(4):
            assert (await pop.get("/page", ("X-Forwarded-Proto", "https"))).body == b"http"
    assert len(origin.requests) == 1
