"""Purges and writes reach what was stored under another spelling of the URL, scheme or port: end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.purging import applied
from harness.tls_client import secured
from harness.valkey import Server

TOKEN = "a-token-that-may-purge"
BEARER = ("Authorization", f"Bearer {TOKEN}")
SHOP = ("Authorization", "Bearer another-token-of-a-shop")
SETTINGS = {"purge_tokens": f"cms={TOKEN},shop@site.test|[::1]=another-token-of-a-shop"}


class Site:
    """An origin whose pages say their version, and whose answers to writes bear the fields that a test wants."""

    def __init__(self, origin: OriginDouble) -> None:
        self.version, self.fields = 1, [("X-A", "b")]
        origin.otherwise(self.reply)

    def reply(self, request: ReceivedRequest) -> Reply:
        """The page; a write makes its next version."""
        if request.method not in ("GET", "HEAD"):
            self.version += 1
            return Reply(fields=self.fields, body=b"written")
        fields = [("Cache-Control", "max-age=60"), ("Surrogate-Key", "tag")]
        return Reply(fields=fields, body=b"v%d" % self.version)


async def body(pop: Pop, host: str, target: str, *fields: tuple[str, str]) -> bytes:
    """What a GET is answered with."""
    return (await pop.get(target, ("Host", host), *fields)).body


SPELLINGS = [
    ("site.test", "/a%e6~", "site.test", "/a%E6%7e"),
    ("site.test:8443", "/a", "SITE.test.", "/a"),
    ("site.test", "/a/../b", "site.test:8080", "/b"),
    ("[::1]", "/a?b=%5f", "[0:0:0:0:0:0:0:1]", "/a?b=_"),
]


@pytest.mark.parametrize("by", ["PURGE", "tag", "PUT"])
@pytest.mark.parametrize(("host", "target", "other", "spelling"), SPELLINGS)
async def test_another_spelling_is_reached(
    origin: OriginDouble, by: str, host: str, target: str, other: str, spelling: str
) -> None:
    """A purge by URL or by a site's tag, and a write, are of the page, however it was asked for before."""
    site = Site(origin)
    async with running_pop(origin, **SETTINGS) as pop:
        assert [await body(pop, host, target) for _ in "12"] == [b"v1", b"v1"]
        if by == "PUT":
            answer = await pop.request("PUT", spelling, ("Host", other), body=b"x")
        else:
            site.version = 2
            named = [("Surrogate-Key", "tag")] if by == "tag" else []
            answer = await pop.request("PURGE", spelling, ("Host", other), SHOP, *named)
        assert answer.status == 200
        assert await body(pop, host, target) == b"v2"


@pytest.mark.parametrize("by", ["url", "tag", "PUT"])
async def test_a_proxys_scheme_and_port_are_reached(origin: OriginDouble, by: str) -> None:
    """What was asked by https behind a trusted proxy is purged by the URL that people know."""
    site = Site(origin)
    https = ("X-Forwarded-Proto", "https")
    async with running_pop(origin, trusted_proxies="127.0.0.0/8", **SETTINGS) as pop:
        for host in ("site.test:443", "site.test:8443", "site.test"):
            assert await body(pop, host, "/a", https) == b"v1"
        if by == "PUT":
            await pop.request("PUT", "/a", ("Host", "site.test"), body=b"x")
        else:
            site.version = 2
            named = [("Surrogate-Key", "tag")] if by == "tag" else []
            assert (await pop.request("PURGE", "/a", ("Host", "site.test"), SHOP, *named)).status == 200
        for host in ("site.test:443", "site.test:8443", "site.test"):
            assert await body(pop, host, "/a", https) == b"v2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Location", "/stra%c3%9fe"),
        ("Location", "http://SITE.test.:80/%73tra%C3%9Fe"),
        ("Content-Location", "x/../stra\u00c3\u009fe"),
        ("Edgecache-Purge", "url=/str%61%C3%9Fe"),
        ("Edgecache-Purge", "prefix=/str%61%c3%9fe"),
    ],
)
async def test_what_a_write_names_is_reached_by_any_spelling(origin: OriginDouble, name: str, value: str) -> None:
    """Fields of the origin's answer name URLs as it spells them (RFC 9111 §4.4)."""
    site = Site(origin)
    site.fields = [(name, value)]
    async with running_pop(origin) as pop:
        assert await body(pop, "site.test", "/stra%C3%9Fe") == b"v1"
        await pop.request("POST", "/form", ("Host", "site.test"), body=b"x")
        assert await body(pop, "site.test", "/stra%C3%9Fe") == b"v2"


async def test_the_regional_tier_and_merged_queries_are_reached(origin: OriginDouble, valkey: Server) -> None:
    """What another process has stored by another spelling is purged too, and so is what No-Vary-Search has merged."""
    site = Site(origin)
    options = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu", **SETTINGS}
    async with running_pop(origin, pop="a", **options) as one, running_pop(origin, pop="b", **options) as two:
        await one.caught_up()
        await two.caught_up()
        assert await body(one, "site.test:8443", "/%61%e6") == b"v1"
        await one.written()
        site.version = 2
        answer = await one.request("PURGE", "/a%E6", ("Host", "site.test"), BEARER)
        assert answer.status == 200
        await applied(two)
        assert await body(two, "site.test:8443", "/%61%e6") == b"v2"


async def test_merged_queries_are_reached(origin: OriginDouble) -> None:
    """One entry for several queries (No-Vary-Search) is purged by each of them, by any spelling."""
    version = [1]
    fields = [("Cache-Control", "max-age=60"), ("No-Vary-Search", 'params=("x")')]
    origin.otherwise(lambda request: Reply(fields=fields, body=b"v%d" % version[0]))
    async with running_pop(origin, **SETTINGS) as pop:
        assert await body(pop, "site.test", "/%7Ea?b=%e6&x=1") == b"v1"
        assert await body(pop, "site.test", "/%7Ea?b=%e6&x=2") == b"v1"
        version[0] = 2
        await pop.request("PURGE", "/~a?x=3&b=%E6", ("Host", "site.test:99"), BEARER)
        assert await body(pop, "site.test", "/%7Ea?b=%e6&x=2") == b"v2"


async def test_a_site_is_answered_on_every_port(origin: OriginDouble) -> None:
    """EDGECACHE_HOSTS names sites, not ports; another site is still another's."""
    Site(origin)
    async with running_pop(origin, hosts="Site.test,münchen.test") as pop:
        for host in ("site.test", "site.test:8443", "SITE.TEST.:1", "xn--mnchen-3ya.test:81"):
            assert (await pop.get("/", ("Host", host))).status == 200
        for host in ("other.test", "site.test.evil.test", "asite.test:8443"):
            assert (await pop.get("/", ("Host", host))).status == 421


async def test_cut_off_paths_are_of_every_spelling(origin: OriginDouble) -> None:
    """A path that is served consistently is so by whatever spelling it is asked for."""
    Site(origin)
    async with running_pop(origin, cut_off_paths="/account=consistent") as pop:
        invalidation = pop.worker.edge.invalidation
        invalidation.set_cut_off(True)
        spellings = (b"/account/x", b"/%61ccount/x", b"/y/../account", b"/account?a")
        assert all(invalidation.is_unproven(b"http://a" + target) for target in spellings)
        assert not invalidation.is_unproven(b"http://a/y?/account")


async def test_every_listener_serves_one_site(origin: OriginDouble, tmp_path: Path) -> None:
    """What was stored over TLS, on whatever port the Host names, is purged in the clear; SNI has no port."""
    site, authority = Site(origin), Authority(tmp_path)
    pair = authority.issue("www.example.test")
    options = {"tls_listen": "127.0.0.1:0", "tls_certificates": pair.pair, "purge_tokens": f"cms={TOKEN}"}
    async with (
        running_pop(origin, hosts="www.example.test", **options) as pop,
        secured(pop.tls_port, authority.trusting()) as client,
    ):
        for host in ("www.example.test", "WWW.example.test.:8443", "www.example.test:443"):
            assert (await client.ask("/%7Ea", host)).body == b"v1"
        site.version = 2
        answer = await pop.request("PURGE", "/~a", ("Host", "www.example.test:8080"), BEARER)
        assert answer.status == 200
        for host in ("www.example.test", "WWW.example.test.:8443", "www.example.test:443"):
            assert (await client.ask("/%7Ea", host)).body == b"v2"
        assert (await client.ask("/", "other.example.test:443")).status == 421
