"""An origin that is asked by another Host than the client's: its own URLs are made public, and invalidated so."""

from __future__ import annotations

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop

from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.origin_urls import own_urls

PUBLIC = ("Host", "www.example.test")
FRESH = ("Cache-Control", "max-age=60")


def mapped(value: bytes, *, name: bytes = b"Location", asked: bytes = b"https", origin: bytes = b"http") -> bytes:
    """What the origin `backend:8080`, asked as `internal.test`, has in a field, as the client of www.test gets it."""
    own = own_urls([(origin, b"backend", 8080)], b"internal.test")
    request = Request(b"GET", b"/a?b", b"www.test", Fields([]), scheme=asked)
    response = own.as_public(request, Response(302, Fields([(b"X", b"y"), (name, value)])))
    public = response.fields.get(name.lower()) or b""
    assert response.fields.lines == ((b"X", b"y"), (name, public))
    return public


@pytest.mark.parametrize(
    ("own", "public"),
    [
        (b"http://backend:8080/x?y#z", b"https://www.test/x?y#z"),
        (b"HTTP://BackEnd.:08080/x", b"https://www.test/x"),
        (b"https://internal.test/x", b"https://www.test/x"),
        (b"http://internal.test:80", b"https://www.test"),
        (b"http://internal.test:8080/", b"https://www.test/"),
        (b"//internal.test/x", b"https://www.test/x"),
        (b"http://internal.test?x", b"https://www.test?x"),
        (b"http://backend/x", b"http://backend/x"),
        (b"http://backend:9000/x", b"http://backend:9000/x"),
        (b"http://other.test/x", b"http://other.test/x"),
        (b"http://internal.test.evil.test/", b"http://internal.test.evil.test/"),
        (b"http://internal.test@evil.test/", b"http://internal.test@evil.test/"),
        (b"ftp://internal.test/", b"ftp://internal.test/"),
        (b"/x?u=http://internal.test/", b"/x?u=http://internal.test/"),
        (b"http://[bad/", b"http://[bad/"),
        (b"", b""),
    ],
)
def test_only_the_origins_own_authority_is_mapped(own: bytes, public: bytes) -> None:
    """By whatever scheme, case, port and spelling; never another's, nor what only looks like it."""
    assert mapped(own) == mapped(own, name=b"Content-Location") == public


@pytest.mark.parametrize(
    ("own", "public"),
    [
        (b"5; url=http://internal.test/x", b"5; url=https://www.test/x"),
        (b'0;URL="http://backend:8080/x"', b'0;URL="https://www.test/x"'),
        (b"1, url = 'http://internal.test/x'", b"1, url = 'https://www.test/x'"),
        (b"3;http://internal.test/x", b"3;https://www.test/x"),
        (b"5; url=/x", b"5; url=/x"),
        (b"5", b"5"),
        (b"5; url=http://other.test/?http://internal.test/", b"5; url=http://other.test/?http://internal.test/"),
    ],
)
def test_refresh_is_mapped(own: bytes, public: bytes) -> None:
    """The URL in it, however it is quoted."""
    assert mapped(own, name=b"Refresh") == public


def test_a_redirect_to_https_stays_one() -> None:
    """From http to https on purpose: mapped to http it would go round in circles."""
    assert mapped(b"https://internal.test/x", asked=b"http") == b"https://www.test/x"
    assert mapped(b"http://internal.test/x", asked=b"http") == b"http://www.test/x"
    assert mapped(b"https://internal.test/x", asked=b"http", origin=b"https") == b"http://www.test/x"
    assert mapped(b"https://internal.test/a?b", asked=b"http", origin=b"https") == b"https://www.test/a?b"


@pytest.mark.parametrize("host", ["origin", "internal.test"])
async def test_clients_get_public_urls_cold_and_warm(origin: OriginDouble, host: str) -> None:
    """Filled, hit, passed, passed again by a known head, and to HEAD."""
    name = origin.url if host == "origin" else "http://internal.test"

    def reply(request: ReceivedRequest) -> Reply:
        kept = ("Cache-Control", "no-store") if "private" in request.target else FRESH
        return Reply(302, [kept, ("Location", f"{name}/to"), ("Refresh", f"1; url={name}/to")], b"")

    origin.otherwise(reply)
    async with running_pop(origin, origin_host=host) as pop, pop.client() as client:
        for target in ("/stored", "/private"):
            for method in ("GET", "GET", "GET", "GET", "HEAD"):
                await client.request(method, target, [PUBLIC])
                answer = await client.response()
                assert answer.get("Location") == "http://www.example.test/to"
                assert answer.get("Refresh") == "1; url=http://www.example.test/to"
        assert [request.target for request in origin.requests].count("/stored") == 1
    async with running_pop(origin, origin_host=host, origin_urls="keep") as pop:
        assert (await pop.get("/stored", PUBLIC)).get("Location") == f"{name}/to"


async def test_what_the_origin_purges_by_its_own_authority(origin: OriginDouble) -> None:
    """That page, and not the whole site."""
    version = [1]

    def reply(request: ReceivedRequest) -> Reply:
        if request.method == "POST":
            version[0] += 1
            return Reply(200, [("Edgecache-Purge", "url=http://internal.test/page, tag=x")])
        return Reply(fields=[FRESH], body=b"v%d" % version[0])

    origin.otherwise(reply)
    async with running_pop(origin, origin_host="internal.test") as pop:
        assert (await pop.get("/page", PUBLIC)).body == (await pop.get("/other", PUBLIC)).body == b"v1"
        assert (await pop.request("POST", "/form", PUBLIC, body=b"x")).get("Edgecache-Purge") is None
        assert (await pop.get("/page", PUBLIC)).body == b"v2"
        assert (await pop.get("/other", PUBLIC)).body == b"v1"


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize("urls", ["map", "keep"])
async def test_what_a_write_names_by_its_own_authority_is_invalid(origin: OriginDouble, field: str, urls: str) -> None:
    """The page that a POST has changed, or made (RFC 9111 §4.4)."""
    version = [1]

    def reply(request: ReceivedRequest) -> Reply:
        if request.method == "POST":
            version[0] += 1
            return Reply(201, [(field, "http://internal.test/%70age")])
        return Reply(fields=[FRESH], body=b"v%d" % version[0])

    origin.otherwise(reply)
    async with running_pop(origin, origin_host="internal.test", origin_urls=urls) as pop:
        assert (await pop.get("/page", PUBLIC)).body == b"v1"
        answer = await pop.request("POST", "/pages", PUBLIC, body=b"x")
        kept = "http://internal.test/%70age"
        assert answer.get(field) == ("http://www.example.test/%70age" if urls == "map" else kept)
        assert (await pop.get("/page", PUBLIC)).body == (b"v2" if urls == "map" else b"v1")


async def test_the_clients_own_host_is_left_alone(origin: OriginDouble) -> None:
    """Where the origin is asked by the client's Host, or that is its own, its URLs are public already."""
    origin.otherwise(Reply(302, [FRESH, ("Location", "https://www.example.test/a")]))
    for host in ("client", "www.example.test"):
        async with running_pop(origin, origin_host=host) as pop:
            assert (await pop.get("/a", PUBLIC)).get("Location") == "https://www.example.test/a"


async def test_alt_svc_is_dropped_unless_it_is_kept(origin: OriginDouble) -> None:
    """It names a way past this POP: neither passed on nor replayed (RFC 7838 §2.1)."""

    def reply(request: ReceivedRequest) -> Reply:
        kept = ("Cache-Control", "no-store") if "private" in request.target else FRESH
        return Reply(fields=[kept, ("Alt-Svc", 'h3=":443"')], body=b"x")

    origin.otherwise(reply)
    for setting, wanted in (("drop", None), ("keep", 'h3=":443"')):
        async with running_pop(origin, origin_alt_svc=setting) as pop:
            for target in ("/stored", "/private"):
                for method in ("GET", "GET", "HEAD", "POST"):
                    assert (await pop.request(method, target)).get("Alt-Svc") == wanted
