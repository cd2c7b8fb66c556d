"""What plug-ins send to have something purged, byte by byte, to a POP: it is done, or the answer is no 200."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest
from harness.origin import OriginDouble, Reply
from harness.parents import chain
from harness.pop import running_pop
from harness.purging import CMS, HOST, PAGES, SHOP, filled, send, stale

BLOG = ("/blog/", "/blog/a", "/blog/a?page=2")
ADDRESS = {"purge_from": "127.0.0.0/8"}


HOST_LINE = f"Host: {HOST}"
BEARER = f"Authorization: Bearer {CMS}"
WORDPRESS = [
    "User-Agent: WordPress/6.1.9; https://www.example.test",
    "Accept: */*",
    "Accept-Encoding: deflate, gzip, br",
]
VHP = [HOST_LINE, *WORDPRESS, "Connection: close"]
W3TC = [HOST_LINE, "User-Agent: W3 Total Cache/2.8.1", "Connection: close"]
UNDERSTOOD = {
    "Proxy Cache Purge, a post": (["PURGE /blog/a HTTP/1.1", "X-Purge-Method: default", *VHP], {"/blog/a"}),
    "Proxy Cache Purge, all": (["PURGE /.* HTTP/1.1", "X-Purge-Method: regex", *VHP], set(PAGES)),
    "Proxy Cache Purge, in a folder": (["PURGE /blog/.* HTTP/1.1", "X-Purge-Method: regex", *VHP], set(BLOG)),
    "W3 Total Cache, a post": (["PURGE /blog/a HTTP/1.1", *W3TC], {"/blog/a"}),
    "W3 Total Cache, all": (["PURGE /.* HTTP/1.1", *W3TC], set(PAGES)),
    "W3 Total Cache, in a folder": (["PURGE /blog/.* HTTP/1.1", *W3TC], set(BLOG)),
    "nginx-helper, all": (["PURGE /purgeall HTTP/1.1", f"Host:{HOST}", "Accept: */*"], set(PAGES)),
    "nginx, what begins so": (["PURGE /images/* HTTP/1.1", HOST_LINE], {"/images/1.png"}),
    "Wagtail": (["PURGE /blog/a?page=2 HTTP/1.1", "Accept-Encoding: identity", HOST_LINE], {"/blog/a?page=2"}),
    "Magento, tags": (
        ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: ((^|,)blog(,|$))|((^|,)feed(,|$))"],
        {*BLOG, "/feed/"},
    ),
    "Magento, one group": (
        ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: ((^|,)shop(,|$)|(^|,)cat_p_7(,|$))"],
        {"/shop/", "/blogger"},
    ),
    "Magento, plain": (["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: shop"], {"/shop/"}),
    "Magento, all": (["PURGE / HTTP/1.1", "Host: 127.0.0.1", "X-Magento-Tags-Pattern: .*"], set(PAGES)),
    "Fastly, by key": (["PURGE / HTTP/1.1", HOST_LINE, "Surrogate-Key: blog shop"], {*BLOG, "/shop/"}),
    "Cache-Tag with blanks": (["PURGE / HTTP/1.1", HOST_LINE, "Cache-Tag: the shop, the feed"], {"/shop/", "/feed/"}),
    "FOSHttpCache, a URL": (
        ["BAN / HTTP/1.1", HOST_LINE, f"X-Host: ^({HOST})$", "X-Url: /blog/.*", "X-Content-Type: .*"],
        set(BLOG),
    ),
    "FOSHttpCache, all": (["BAN / HTTP/1.1", HOST_LINE, "X-Host: .*", "X-Url: .*", "X-Content-Type: .*"], set(PAGES)),
    "FOSHttpCache, tags": (["BAN / HTTP/1.1", HOST_LINE, "X-Cache-Tags: (^|,)(shop|feed)(,|$)"], {"/shop/", "/feed/"}),
    "FOSHttpCache, tags, with what it adds": (
        [
            "BAN / HTTP/1.1",
            HOST_LINE,
            "X-Cache-Tags: (shop|feed)(,.+)?$",
            "X-Host: .*",
            "X-Url: .*",
            "X-Content-Type: .*",
        ],
        {"/shop/", "/feed/"},
    ),
    "FOSHttpCache, xkey": (["PURGEKEYS / HTTP/1.1", HOST_LINE, "xkey-purge: shop feed"], {"/shop/", "/feed/"}),
    "Drupal": (["BAN / HTTP/1.1", HOST_LINE, "Cache-Tags: shop|feed"], {"/shop/", "/feed/"}),
    "Varnish's BAN": (["BAN /blog/a HTTP/1.1", HOST_LINE], {"/blog/a"}),
    "below a segment, the enclosing path": (["PURGE /blog/a.* HTTP/1.1", HOST_LINE], set(BLOG)),
}


@pytest.mark.parametrize(("lines", "gone"), UNDERSTOOD.values(), ids=UNDERSTOOD)
async def test_it_is_done(origin: OriginDouble, lines: list[str], gone: set[str]) -> None:
    """What the plug-in means is new at the next request, all else is as it was; its address is enough."""
    async with filled(origin, tag_field_names="X-Magento-Tags, X-Cache-Tags,cache-tags", **ADDRESS) as pop:
        status, answer = await send(pop, *lines)

        assert (status, answer["status"]) == (200, "ok")
        assert await stale(pop) == gone


NOT_UNDERSTOOD = {
    "a pattern, with a query": ["PURGE /blog/a?page=.* HTTP/1.1", HOST_LINE, "X-Purge-Method: regex"],
    "a pattern": ["PURGE /.*\\.png HTTP/1.1", HOST_LINE, "X-Purge-Method: regex"],
    "alternatives": ["PURGE /(blog|shop)/.* HTTP/1.1", HOST_LINE, "X-Purge-Method: regex"],
    "a pattern without saying so": ["PURGE /[a-z]+/.* HTTP/1.1", HOST_LINE],
    "an unknown method": ["PURGE /blog/ HTTP/1.1", HOST_LINE, "X-Purge-Method: soft"],
    "an unknown purge field": ["PURGE /blog/ HTTP/1.1", HOST_LINE, "X-Purge-Regex: /shop/.*"],
    "another's purge field": ["PURGE / HTTP/1.1", HOST_LINE, "X-Acquia-Purge-Tags: blog"],
    "a pool": ["PURGE / HTTP/1.1", HOST_LINE, "X-Pool: blue"],
    "an inner group": ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: bl(o|a)g"],
    "any tag so": ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: (^|,)blog.*"],
    "a field that bears no tags here": ["BAN / HTTP/1.1", HOST_LINE, "X-Cache-Tags: blog"],
    "its pattern": ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: ((^|,)blog(,|$))"],
    "no tag": ["PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: "],
    "tags and a pattern": ["PURGE /.* HTTP/1.1", HOST_LINE, "X-Purge-Method: regex", "Surrogate-Key: blog"],
    "a content type": ["BAN / HTTP/1.1", HOST_LINE, f"X-Host: {HOST}", "X-Url: /blog/.*", "X-Content-Type: text/.*"],
    "a path of every host": ["BAN / HTTP/1.1", HOST_LINE, "X-Host: .*", "X-Url: /blog/.*"],
    "a ban's field on PURGE": ["PURGE / HTTP/1.1", HOST_LINE, "X-Url: /blog/.*"],
    "no keys": ["PURGEKEYS /blog/ HTTP/1.1", HOST_LINE],
    "content": ["PURGE /blog/ HTTP/1.1", HOST_LINE, "Content-Length: 5", "", "/a\r\n"],
}


@pytest.mark.parametrize("lines", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
async def test_what_is_not_understood_is_refused(origin: OriginDouble, lines: list[str]) -> None:
    """400 with one sentence, and nothing is purged: whoever asks must not believe that it was."""
    async with filled(origin, **ADDRESS) as pop:
        status, answer = await send(pop, *lines)

        assert status == 400
        assert str(answer["detail"]).count(". ") == 0
        assert await stale(pop) == set()


def basic(name: str, secret: str) -> str:
    """The field of HTTP Basic."""
    return "Authorization: Basic " + b64encode(f"{name}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (BEARER, 200),
        (basic("cms", CMS), 200),
        (f"Fastly-Key: {CMS}", 200),
        (basic("shop", CMS), 401),
        (basic("", CMS), 401),
        (basic("cms", SHOP), 401),
        (basic("cms", ""), 401),
        (f"Authorization: Basic {CMS}", 401),
        (f"Authorization: Digest {CMS}", 401),
        ("Authorization: Bearer ", 401),
        (f"Fastly-Key: {CMS[:-1]}", 401),
        ("Accept: */*", 401),
        (f"Fastly-Key: {SHOP}", 403),
        (basic("shop", SHOP), 403),
    ],
)
async def test_secrets(origin: OriginDouble, line: str, status: int) -> None:
    """Bearer, Basic with the token's name as the user, or Fastly-Key; each for the token's own sites."""
    async with filled(origin) as pop:
        assert (await send(pop, "PURGE /blog/a HTTP/1.1", HOST_LINE, line))[0] == status
        assert await stale(pop) == ({"/blog/a"} if status == 200 else set())


async def test_a_challenge_names_both_schemes(origin: OriginDouble) -> None:
    """RFC 9110 §11.6.1: a 401 says how to authenticate."""
    async with filled(origin) as pop:
        assert (await pop.request("PURGE", "/")).get("WWW-Authenticate") == 'Bearer, Basic realm="purges"'


PROXY = {"trusted_proxies": "127.0.0.1"}
FROM_WEB = {"purge_from": "192.0.2.0/24"}


@pytest.mark.parametrize(
    ("settings", "lines", "status"),
    [
        ({}, [], 401),
        (ADDRESS, [], 200),
        (ADDRESS, ["Authorization: Bearer wrong"], 401),  # a wrong secret is wrong from anywhere
        (ADDRESS, [f"Fastly-Key: {SHOP}"], 403),  # and a right one says whose it is
        (ADDRESS, ["X-Forwarded-For: 198.51.100.7"], 401),  # relayed by a proxy that nobody trusts
        (ADDRESS, ["Via: 1.1 somewhere"], 401),
        (FROM_WEB, [], 401),
        (FROM_WEB, ["X-Forwarded-For: 192.0.2.1"], 401),  # anybody can say so
        (FROM_WEB | PROXY, ["X-Forwarded-For: 192.0.2.1"], 200),
        (FROM_WEB | PROXY, ['Forwarded: for="192.0.2.1:4711"'], 200),
        (FROM_WEB | PROXY, ["X-Forwarded-For: 192.0.2.1, 198.51.100.7"], 401),
        (FROM_WEB | PROXY, ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=198.51.100.7"], 401),
        (FROM_WEB | PROXY, ["X-Forwarded-For: nonsense"], 401),
        (ADDRESS | PROXY, ["X-Forwarded-For: 198.51.100.7"], 401),
        (ADDRESS | PROXY, ["X-Real-IP: 198.51.100.7"], 401),  # trusted, and does not say who asks
        (ADDRESS | PROXY, [], 200),
        ({"purge_from": "::ffff:127.0.0.1"}, [], 200),
        ({"purge_from": "::1"}, [], 401),
    ],
)
async def test_addresses(origin: OriginDouble, settings: dict[str, str], lines: list[str], status: int) -> None:
    """The peer's own address, or what a trusted proxy says of its client; in doubt a secret is needed."""
    async with filled(origin, **settings) as pop:
        assert (await send(pop, "PURGE /blog/a HTTP/1.1", HOST_LINE, *lines))[0] == status
        assert await stale(pop) == ({"/blog/a"} if status == 200 else set())


async def test_an_address_is_enough_without_any_token(origin: OriginDouble) -> None:
    """With EDGECACHE_PURGE_FROM alone its networks may purge; with neither nobody may, by whatever method."""
    async with filled(origin, purge_tokens="", **ADDRESS) as pop:
        assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE))[0] == 200
        assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE, "Authorization: Bearer "))[0] == 401
    async with filled(origin, purge_tokens="") as pop:
        assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE, "xkey-purge: all"))[0] == 405
        for method in ("BAN", "PURGEKEYS"):
            assert (await pop.request(method, "/", ("Host", HOST), ("xkey-purge", "all"))).status == 501
    assert {request.method for request in origin.requests} == {"GET"}


@pytest.mark.parametrize(
    "lines",
    [
        ["PURGE / HTTP/1.1", "Surrogate-Key: all"],
        ["PURGE /.* HTTP/1.1"],
        ["BAN / HTTP/1.1", "Surrogate-Key: all"],
        ["PURGEKEYS / HTTP/1.1", "xkey-purge: all"],
        ["PURGE / HTTP/1.1", "X-Magento-Tags-Pattern: .*"],
    ],
)
async def test_a_token_of_one_site(origin: OriginDouble, lines: list[str]) -> None:
    """By the name of another site it is 403, for it would purge nothing of that; by its own, only that is purged."""
    shop = "shop.example.test"
    async with filled(origin) as pop:
        assert await stale(pop, shop) == set()
        key = f"Fastly-Key: {SHOP}"
        assert (await send(pop, *lines, HOST_LINE, key))[0] == 403
        assert await stale(pop, shop) | await stale(pop) == set()

        assert (await send(pop, *lines, f"Host: {shop}:8080", key))[0] == 200
        assert await stale(pop, shop) == set(PAGES)
        assert await stale(pop) == set()


async def test_a_soft_purge_is_soft_only_if_nothing_hard_is_asked(origin: OriginDouble) -> None:
    """xkey-softpurge makes stale; with xkey-purge beside it everything named is purged."""
    async with filled(origin, **ADDRESS) as pop:
        assert (await send(pop, "PURGEKEYS / HTTP/1.1", HOST_LINE, "xkey-softpurge: shop", "xkey-purge: feed"))[
            0
        ] == 200
        origin.otherwise(Reply(503))
        assert (await pop.get("/shop/")).status == 503


async def test_a_purge_over_http_is_not_redirected(origin: OriginDouble) -> None:
    """Plug-ins reach a POP by http and follow no redirect; it purges what is asked over https, too."""
    pages = iter((b"v1", b"v2"))
    origin.otherwise(lambda request: Reply(fields=[("Cache-Control", "max-age=600")], body=next(pages)))
    asked = (("Host", HOST), ("X-Forwarded-Proto", "https"))
    async with running_pop(origin, https_redirect="on", trusted_proxies="127.0.0.1", **ADDRESS) as pop:
        assert (await pop.get("/", asked[0])).status == 301
        assert [(await pop.get("/", *asked)).body for _ in range(2)] == [b"v1", b"v1"]
        assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE))[0] == 200
        assert (await pop.get("/", *asked)).body == b"v2"


async def test_a_worker_that_has_not_applied_it_is_no_200(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 while the supervisor does not know that all workers have applied it; 200 once it does."""
    monkeypatch.setattr("edgecache.invalidation.in_process_log.WITHIN", 0.05)  # nothing that comes would end the wait
    async with filled(origin, **ADDRESS) as pop:
        own = pop.worker.purges._recorder
        for said, status in ((None, 202), (False, 202), (True, 200)):

            def tell(message: Mapping[str, Any], said: bool | None = said) -> None:
                if said is not None:
                    own.receive({"log": "done", "n": message["n"], "all": said})

            own.send = tell
            assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE))[0] == status


async def test_tags_in_fields_of_ones_own(origin: OriginDouble) -> None:
    """EDGECACHE_TAG_FIELD_NAMES: hidden from clients as other tags are, unless a setting shows them."""
    async with filled(origin, tag_field_names="x-magento-tags", **ADDRESS) as pop:
        assert (await pop.get("/shop/")).get("X-Magento-Tags") is None
        assert (await pop.get("/shop/new")).get("X-Magento-Tags") is None
        assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags: FPC"))[0] == 200
        assert await stale(pop) == set(PAGES)
    async with filled(origin, tag_field_names="x-magento-tags", tag_fields="show", **ADDRESS) as pop:
        assert (await pop.get("/shop/")).get("X-Magento-Tags") == "cat_p_4,shop,FPC"
    async with filled(origin, **ADDRESS) as pop:
        assert (await pop.get("/shop/")).get("X-Magento-Tags") == "cat_p_4,shop,FPC"


@pytest.mark.parametrize("shown", ["hide", "show"])
async def test_tags_of_further_fields_from_a_parent(origin: OriginDouble, shown: str) -> None:
    """A parent tells its child the tags that it reads in them, whether clients see them or not."""
    pages = iter((b"v1", b"v2"))
    fields = [("Cache-Control", "max-age=600"), ("X-Magento-Tags", "a,b c")]
    origin.otherwise(lambda request: Reply(fields=fields, body=next(pages)))
    settings = {"tag_field_names": "X-Magento-Tags", "tag_fields": shown, **ADDRESS}
    async with chain(origin, **settings) as one:
        for _ in range(2):
            answer = await one.edge.get("/page", ("Host", HOST))
            assert (answer.body, answer.get("X-Magento-Tags")) == (b"v1", "a,b c" if shown == "show" else None)
        for pop in (*one.shields, *one.edges):
            assert (await send(pop, "PURGE / HTTP/1.1", HOST_LINE, "X-Magento-Tags-Pattern: (^|,)c(,|$)"))[0] == 200
        assert (await one.edge.get("/page", ("Host", HOST))).body == b"v2"
