"""Fields by which a client could pass for another, or make the origin answer for another target than the key's."""

from __future__ import annotations

import pytest
from harness.often import each_case
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from hostile.twins import PEER, Twins

from edgecache.semantics.client_claims import ADDRESSES, FAMILIES, IDENTITIES, OVERRIDES, claims_in
from edgecache.semantics.message import Fields, Request

TRUSTED = "127.0.0.0/8"
SAMPLES = [
    *("X-SSL-Client-Verify", "X-SSL-Client-Cert", "X-SSL-Client-S-DN", "SSL-Client-Cert", "Ssl-Client-Verify"),
    *("X-Client-Cert", "X-Client-Certificate", "Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert"),
    *("Remote-User", "Remote-Groups", "X-Remote-User", "X-Auth-Request-User", "X-Auth-Request-Email"),
    *("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Data"),
    *(
        "Cf-Cert-Subject-DN",
        "Cf-Access-Jwt-Assertion",
        "Cf-Access-Authenticated-User-Email",
        "X-Goog-Authenticated-User-Email",
    ),
    *("X-Goog-IAP-JWT-Assertion", "X-Ms-Client-Principal", "X-Pomerium-Jwt-Assertion", "Tailscale-User-Login"),
    *("X-WEBAUTH-USER", "eppn", "Shib-Session-ID", "OIDC-Claim-Sub", "X-Authentik-Username", "$WSRU", "WL-Proxy-SSL"),
]
PLACES = ["CF-IPCountry", "CF-IPCity", "CloudFront-Viewer-Country", "X-AppEngine-Country", "X-Vercel-IP-Country"]
ADDRESS_SAMPLES = ["X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "X-Client-IP"]
OVERRIDE_SAMPLES = ["X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Host", "X-Original-Anything", "URL"]


def echo(name: str) -> object:
    """An origin whose storable answer says what it was told by the field."""

    def reply(request: ReceivedRequest) -> Reply:
        told = request.get(name) or "nothing"
        return Reply(fields=[("Cache-Control", "public, max-age=60")], body=told.encode())

    return reply


async def said(pop: Pop, *fields: tuple[str, str], method: str = "GET", body: bytes = b"", at: str = "/a") -> bytes:
    """What the origin's answer says."""
    return (await pop.request(method, at, *fields, body=body)).body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
async def test_who_is_not_trusted_claims_nothing(origin: OriginDouble, method: str) -> None:
    """Whatever the method, the origin does not hear it, nor do shared answers depend on it; each has its own URL."""
    async with running_pop(origin, trusted_proxies="192.0.2.0/24") as pop:
        with each_case() as case:
            for name in (*SAMPLES, *PLACES, *ADDRESS_SAMPLES):
                with case(name):
                    await claims_nothing(pop, origin, name, method)


async def claims_nothing(pop: Pop, origin: OriginDouble, name: str, method: str) -> None:
    """The field does nothing at its URL, in a request by the method or in a GET."""
    origin.otherwise(echo(name))
    url, already = f"/{name}", len(origin.requests)
    await said(pop, (name, "evil"), method=method, body=b"x" if method in ("POST", "PUT") else b"", at=url)
    assert origin.requests[-1].get(name) is None
    assert await said(pop, at=url) == await said(pop, (name, "evil"), at=url) == b"nothing"
    heard = origin.requests[already:]
    assert heard
    assert all(request.get(name) is None for request in heard)


async def test_an_identity_shares_nothing(origin: OriginDouble) -> None:
    """From a trusted proxy it reaches the origin, and the answer is for that client alone, cold and warm."""
    async with running_pop(origin, trusted_proxies=TRUSTED) as pop:
        with each_case() as case:
            for name in SAMPLES:
                with case(name):
                    await shares_nothing(pop, origin, name)


async def shares_nothing(pop: Pop, origin: OriginDouble, name: str) -> None:
    """The field's clients get answers of their own, at a URL that no other field was sent to."""
    origin.otherwise(echo(name))
    url = f"/{name}"
    for _ in "12":
        assert await said(pop, (name, "alice"), at=url) == b"alice"
        assert await said(pop, (name, "bob"), at=url) == b"bob"
        assert await said(pop, at=url) == b"nothing"
    assert await said(pop, (name, "alice"), method="POST", body=b"x", at=url) == b"alice"


@pytest.mark.parametrize("name", PLACES)
async def test_a_place_is_in_the_key(origin: OriginDouble, name: str) -> None:
    """From a trusted proxy: stored for each place apart, and every place is purged by the URL."""
    origin.otherwise(echo(name))
    token = ("Authorization", "Bearer a-token-that-may-purge")
    async with running_pop(origin, trusted_proxies=TRUSTED, purge_tokens="cms=a-token-that-may-purge") as pop:
        for _ in "123":
            assert await said(pop, (name, "DE")) == b"DE"
            assert await said(pop, (name, "FR")) == b"FR"
            assert await said(pop) == b"nothing"
        assert len(origin.requests) == 3
        for by in ("PURGE", "PUT"):
            asked = len(origin.requests)
            await pop.request(by, "/a", (name, "IT"), token, body=b"")
            asked += by == "PUT"
            assert [await said(pop, (name, place)) for place in ("DE", "FR")] == [b"DE", b"FR"]
            assert len(origin.requests) == asked + 2


@pytest.mark.parametrize("trusted", ["", TRUSTED])
@pytest.mark.parametrize("name", OVERRIDE_SAMPLES)
async def test_an_override_passes_where_no_key_is_at_stake(origin: OriginDouble, name: str, trusted: str) -> None:
    """A deletion by POST stays a deletion; a GET or HEAD, whose answer is shared, asks for what its key says."""
    origin.otherwise(echo(name))
    async with running_pop(origin, trusted_proxies=trusted) as pop:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            await said(pop, (name, "/evil"), method=method, body=b"x")
            assert origin.requests[-1].get(name) == "/evil", method
        await said(pop, (name, "/evil"), body=b"x")  # a GET with content: its answer is for it alone
        assert origin.requests[-1].get(name) == "/evil"
        for method in ("HEAD", "GET"):
            await said(pop, (name, "/evil"), method=method)
            assert origin.requests[-1].get(name) is None, method
        assert await said(pop) == b"nothing"
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("If-Match", '"x"')]
        await said(pop, (name, "/evil"), *upgrade)
        assert origin.requests[-1].get(name) is None


async def test_an_overridden_post_fills_nothing(origin: OriginDouble) -> None:
    """A POST's answer that is also a GET's is not stored if the origin may have answered for another target."""
    fields = [("Cache-Control", "max-age=60"), ("Content-Location", "/a")]
    origin.otherwise(lambda request: Reply(fields=fields, body=request.method.encode()))
    async with running_pop(origin) as pop:
        await said(pop, ("X-Original-URL", "/evil"), method="POST", body=b"x")
        assert await said(pop) == b"GET"
        await said(pop, method="POST", body=b"x")
        assert await said(pop) == b"POST"


@pytest.mark.parametrize("said", [("X-SSL-Client-Verify", "NONE"), ("X-SSL-Protocol", "TLSv1.3"), ("Remote-User", "")])
async def test_who_is_nobody_is_like_others(origin: OriginDouble, said: tuple[str, str]) -> None:
    """A front that says of each client that it knows no identity, or of each connection how it is: stored, apart."""
    origin.otherwise(echo(said[0]))
    async with running_pop(origin, trusted_proxies=TRUSTED) as pop:
        for _ in "123":
            assert (await pop.get("/a", said)).body == (said[1] or "nothing").encode()
            assert (await pop.get("/a")).body == b"nothing"
        assert len(origin.requests) == 2
        for user in ("alice", "bob"):
            assert (await pop.get("/a", said, ("X-Auth-Request-User", user))).status == 200
        assert len(origin.requests) == 4


@pytest.mark.parametrize(
    ("method", "field", "body"),
    [
        ("OPTIONS", ("X-HTTP-Method-Override", "DELETE"), b""),
        ("PROPFIND", ("X-HTTP-Method", "DELETE"), b""),
        ("GET", ("X-Method-Override", "DELETE"), b"x"),
        ("POST", ("X-Original-URL", "/a"), b""),
        ("PUT", ("X-Rewrite-URL", "http://www.example.test/%61"), b"x"),
    ],
)
async def test_what_an_override_changes_is_invalid(
    origin: OriginDouble, method: str, field: tuple[str, str], body: bytes
) -> None:
    """A request that is unsafe, or of another target, by a field that is passed on is a write to what that names."""
    version = [1]

    def reply(request: ReceivedRequest) -> Reply:
        version[0] += request.get(field[0]) is not None
        return Reply(fields=[("Cache-Control", "max-age=60")], body=b"v%d" % version[0])

    origin.otherwise(reply)
    async with running_pop(origin) as pop:
        assert (await pop.get("/a")).body == (await pop.get("/a")).body == b"v1"
        await pop.request(method, "/b" if field[1] != "DELETE" else "/a", field, body=body)
        assert (await pop.get("/a")).body == b"v2"


async def test_a_child_passes_on_what_it_believes(origin: OriginDouble) -> None:
    """A parent hears of identity and place from the child that believes them, and shares by the same rules."""
    origin.otherwise(lambda request: echo("CF-IPCountry")(request))  # type: ignore[operator]
    secret = "a-secret-between-pops-of-32-characters"
    async with running_pop(origin, pop="parent", pop_secret=secret) as parent:
        url = f"http://127.0.0.1:{parent.port}"
        options = {"pop": "child", "parents": url, "pop_secret": secret}
        async with (
            running_pop(origin, trusted_proxies=TRUSTED, **options) as child,
            running_pop(origin, **options) as other,
        ):
            for place in ("DE", "FR", "DE"):
                assert await said(child, ("CF-IPCountry", place)) == place.encode()
            assert await said(other, ("CF-IPCountry", "DE")) == b"nothing"
            assert await said(parent, ("CF-IPCountry", "DE")) == b"nothing"
            forged = ("Edgecache-Claim-CF-IPCountry", "DE")
            assert await said(parent, forged) == await said(child, forged) == b"nothing"
        assert [request.get("CF-IPCountry") for request in origin.requests] == ["DE", "FR", None]
        assert not [request for request in origin.requests if request.get("Edgecache-Claim-CF-IPCountry")]
        origin.otherwise(echo("X-Forwarded-User"))
        async with running_pop(origin, trusted_proxies=TRUSTED, **options) as child:
            for user in ("alice", "bob", "alice"):
                assert await said(child, ("X-Forwarded-User", user), ("Cookie", "a")) == user.encode()


@pytest.mark.parametrize("peer", [PEER, "10.0.0.1"])
async def test_short_ways_agree(peer: str) -> None:
    """Heads that are known by bytes or by likeness are parted as those that are read in full."""
    twins = Twins(trusted_proxies="10.0.0.0/8")
    try:
        fields = Fields([(b"Host", b"a")])
        twins.store(Request(b"GET", b"/a", b"a", fields), [(b"Cache-Control", b"max-age=60")], b"shared")
        twins.tell(peer)
        for number in range(12):
            for line in (b"", b"CF-IPCountry: DE\r\n", b"Remote-User: bob\r\n", b"X-Real-IP: 1.2.3.4\r\n"):
                for cookie in (b"", b"Cookie: %d\r\n" % number):
                    answer = await twins.agree(b"GET /a HTTP/1.1\r\nHost: a\r\n" + line + cookie + b"\r\n")
                    apart = peer != PEER and line[:1] in b"CR" and line != b""
                    assert answer.endswith(b"shared") is not apart, line
        assert twins.quick.alike
    finally:
        await twins.end()


def test_every_claim_is_found() -> None:
    """The look at a name's first letters passes none over."""
    names = [*ADDRESSES, *IDENTITIES, *(family + b"x" for family in FAMILIES)]

    assert list(claims_in(names)) == names
    assert claims_in(OVERRIDES - {b"wl-proxy-ssl"}) == ()
    common = b"host accept accept-encoding accept-language cookie user-agent referer authorization x-requested-with "
    own = b"x-api-key x-auth-token x-auth-user x-user-id x-csrf-token x-client-data x-client-version x-country"
    assert claims_in((common + own).split()) == ()
