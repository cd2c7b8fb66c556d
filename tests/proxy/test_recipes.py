"""The recipes of docs/sites.md, on a running POP: what they share, what passes, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from harness.client import ReceivedResponse
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.ranged import RangedOrigin, numbered
from harness.tls_client import secured
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
Fields = tuple[tuple[str, str], ...]


def recipe(heading: str, origin: OriginDouble) -> str:
    """The TOML under a heading, with the origin of the test."""
    section = DOCS.read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    match = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert match is not None, heading
    return match[1].replace("http://10.0.0.7", origin.url)


@asynccontextmanager
async def cooked(heading: str, origin: OriginDouble) -> AsyncIterator[Pop]:
    """A POP with a recipe."""
    origin.otherwise(Reply(body=b"x" * 1000))
    async with running_pop(origin, sites=recipe(heading, origin)) as pop:
        yield pop


def is_hit(response: ReceivedResponse) -> bool:
    """Whether it came out of the cache."""
    return "; hit" in (response.get("cache-status") or "")


@pytest.mark.parametrize(
    ("heading", "host", "target", "stored", "passing"),
    [
        ("WordPress", "blog.example.org", "/post/", ("Cookie", "_ga=1"), ("Cookie", "wordpress_logged_in_ab12=e%7C1")),
        ("WordPress", "blog.example.org", "/post/", ("Cookie", "_ga=1"), ("Cookie", "_ga=2; comment_author_ab12=me")),
        ("WordPress", "blog.example.org", "/wp-content/a.css", ("Cookie", "_ga=1"), ("Cookie", "wp-postpass_1=x")),
        ("Wagtail and Django", "www.example.org", "/", ("Cookie", "csrftoken=1"), ("Cookie", "sessionid=x")),
        ("Next.js", "app.example.org", "/_next/static/a.js", ("Cookie", "a=1"), ("Cookie", "__prerender_bypass=x")),
    ],
)
async def test_visitors_share_and_users_pass(
    origin: OriginDouble, heading: str, host: str, target: str, stored: tuple[str, str], passing: tuple[str, str]
) -> None:
    """Whoever comes first: a user's response is never a visitor's, nor the reverse."""
    async with cooked(heading, origin) as pop:
        for first, second in (("/a", True), ("/b", False)):
            origin.on(target + first, Reply(body=b"anonymous"))
            users = [await pop.get(target + first, ("Host", host), passing)] if second else []
            visits = [await pop.get(target + first, ("Host", host), stored) for _ in range(4)]
            users += [await pop.get(target + first, ("Host", host), passing) for _ in range(3)]
            assert [is_hit(visit) for visit in visits] == [False, True, True, True]
            assert not any(is_hit(user) for user in users)
            asked = [request for request in origin.requests if request.target == target + first]
            assert len(asked) == 1 + len(users)


async def test_administration_is_never_stored(origin: OriginDouble) -> None:
    """By path, whatever the cookies; and passwords cannot be guessed fast."""
    async with cooked("WordPress", origin) as pop:
        host = ("Host", "blog.example.org")
        for target in ("/wp-admin/index.php", "/wp-login.php", "/wp-json/wp/v2/posts", "/post/?preview=true"):
            assert not any([is_hit(await pop.get(target, host)) for _ in range(3)])
        guesses = [(await pop.request("POST", "/wp-login.php", host, body=b"pwd=1")).status for _ in range(7)]
        assert guesses == [200] * 5 + [429] * 2


async def test_the_router_of_next_js_has_responses_of_its_own(origin: OriginDouble) -> None:
    """Data and page of one URL are never mixed up."""
    origin.otherwise(Reply(fields=[("Cache-Control", "s-maxage=60")], body=b"x"))
    async with running_pop(origin, sites=recipe("Next.js", origin)) as pop:
        for fields in ((), (("RSC", "1"),), (("RSC", "1"), ("Next-Router-Prefetch", "1"))):
            found = [is_hit(await pop.get("/page", ("Host", "app.example.org"), *fields)) for _ in range(3)]
            assert found == [False, True, True]


async def test_media(origin: OriginDouble) -> None:
    """Ranges out of what is stored, for all clients; no cookie goes up or down."""
    async with cooked("Media with ranges", origin) as pop:
        host = ("Host", "media.example.org")
        origin.on("/film.mp4", Reply(fields=[("Set-Cookie", "a=b"), ("Cache-Control", "max-age=5")], body=bytes(1000)))
        first = await pop.get("/film.mp4", host, ("Cookie", "s=1"))
        assert first.get("set-cookie") is None
        ranged = await pop.get("/film.mp4", host, ("Cookie", "s=2"), ("Range", "bytes=10-19"), ("Pragma", "no-cache"))
        assert ranged.status == 206
        assert ranged.body == bytes(10)
        assert len(origin.requests) == 1
        assert origin.requests[0].get("cookie") is None


@pytest.mark.parametrize("is_cold", [True, False])
async def test_seeking_in_media(origin: OriginDouble, *, is_cold: bool) -> None:
    """Each range is the right bytes, whatever is stored by then; a range of what has changed is the whole."""
    content = numbered(300_000)
    ranged = RangedOrigin(content, fields=[("Cache-Control", "max-age=5"), ("Set-Cookie", "a=b")])
    async with cooked("Media with ranges", origin) as pop:
        origin.otherwise(ranged)
        host = ("Host", "media.example.org")
        if not is_cold:
            assert (await pop.get("/film.mp4", host)).body == content
        for number in range(3):
            for asked, span in (
                ("bytes=200000-200099", content[200_000:200_100]),
                ("bytes=0-", content),
                ("bytes=-500", content[-500:]),
                ("bytes=150000-250000", content[150_000:250_001]),
                ("bytes=299999-400000", content[299_999:]),
            ):
                more = (("Cookie", f"s={number}"), ("Range", asked), ("Cache-Control", "no-cache"))
                part = await pop.get(f"/film.mp4?token={number}", host, *more)
                assert (part.status, part.body, part.get("set-cookie")) == (206, span, None)
        end = await pop.get("/film.mp4", host, ("Range", "bytes=300000-"))
        assert (end.status, end.get("content-range")) == (416, "bytes */300000")
        several = await pop.get("/film.mp4", host, ("Range", "bytes=0-9,1000-1009"))
        assert several.status in (200, 206)
        assert content[:10] in several.body
        assert content[1000:1010] in several.body
        other = await pop.get("/film.mp4", host, ("Range", "bytes=0-9"), ("If-Range", '"v0"'))
        assert (other.status, other.body) == (200, content)
        assert len(ranged.asked) == 1 or is_cold
        assert len(ranged.asked) <= 3
        assert all(request.get("cookie") is None for request in origin.requests)


async def test_playlists_are_young(origin: OriginDouble) -> None:
    """Fresh for two seconds, and for two more while a new one is fetched."""
    async with cooked("Media with ranges", origin) as pop:
        host = ("Host", "media.example.org")
        for _ in range(3):
            assert (await pop.get("/live.m3u8", host)).status == 200
        assert len(origin.requests) == 1
        pop.clock.advance(3)
        assert is_hit(await pop.get("/live.m3u8", host))
        pop.clock.advance(9)
        assert not is_hit(await pop.get("/live.m3u8", host))


CLAIMS = {"iss": "https://login.example.org/", "aud": "api"}


def bearer(key: RSAKey, clock: FakeClock, **claims: Any) -> tuple[str, str]:
    """A token that lasts for an hour."""
    given = {**CLAIMS, "exp": int(clock()) + 3600, **claims}
    return "Authorization", f"Bearer {jwt.encode({'alg': 'RS256', 'kid': key.kid}, given, key)}"


async def test_an_api_with_tokens(origin: OriginDouble) -> None:
    """Keys come by HTTP and rotate; what tokens protect is stored once; each token has its rate, told in RateLimit."""
    clock = origin.clock
    keys = [RSAKey.generate_key(2048, {"kid": name, "use": "sig"}) for name in ("old", "new")]
    published = keys[:1]
    host, catalogue = ("Host", "api.example.org"), "/v1/catalogue/1"
    async with running_origin(clock) as issuer:
        issuer.on(
            "/.well-known/jwks.json",
            lambda _: Reply(200, [], json.dumps(KeySet(published).as_dict(private=False)).encode()),
        )
        text = recipe("An API with tokens and limits", origin)
        assert text.count("https://login.example.org/.well-known") == 1
        text = text.replace("https://login.example.org/.well-known", f"{issuer.url}/.well-known")
        origin.otherwise(Reply(body=b"the catalogue"))
        async with running_pop(origin, sites=text) as pop:
            ann, bob, forged = (
                bearer(keys[number], clock, sub=sub) for number, sub in ((0, "ann"), (0, "bob"), (1, "eve"))
            )
            statuses = [(await pop.get(catalogue, host, *more)).status for more in ((), (ann,), (bob,), (forged,))]
            assert statuses == [401, 200, 200, 401]
            assert (await pop.get(catalogue, host, bearer(keys[0], clock, aud="shop"))).status == 401
            assert is_hit(await pop.get(catalogue, host, bob))
            assert len(origin.requests) == 1
            assert origin.requests[0].get("authorization") is None

            clock.advance(60)
            answers = [await pop.get(catalogue, host, ann) for _ in range(62)]
            assert [answer.status for answer in answers] == [200] * 60 + [429] * 2
            told = [answers[-1].get(name) for name in ("RateLimit-Policy", "RateLimit")]
            assert told == ['"tokens";q=600;w=60', '"tokens";r=0;t=1']
            assert answers[-1].get("retry-after") == "1"
            assert [(await pop.get(catalogue, host, bob)).status for _ in range(5)] == [200] * 5
            clock.advance(0.11)
            assert [(await pop.get(catalogue, host, ann)).status for _ in range(2)] == [200, 429]

            published[:] = keys[1:]
            clock.advance(60)
            assert (await pop.get(catalogue, host, bearer(keys[1], clock))).status == 200
            assert (await pop.get(catalogue, host, bearer(keys[0], clock))).status == 401


async def test_two_sites_with_certificates(origin: OriginDouble, tmp_path: Path) -> None:
    """The SNI chooses the certificate, Host the origin; nothing of one site is the other's."""
    authority = Authority(tmp_path)
    for name, hosts in (("shop", ["shop.example.org"]), ("docs", ["docs.example.net", "*.docs.example.net"])):
        files = authority.issue(*hosts, file=name)
        files.certificate.rename(tmp_path / f"{name}.pem")
    async with running_origin(origin.clock) as other:
        text = recipe("Two sites with certificates and origins of their own", origin)
        text = text.replace("http://10.0.0.5", origin.url).replace("http://10.0.0.6", other.url)
        text = text.replace("/etc/edgecache/tls", str(tmp_path))
        for double, body in ((origin, b"of the shop"), (other, b"of the docs")):
            double.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=body))
        async with running_pop(origin, sites=text, tls_listen="127.0.0.1:0") as pop:
            for name, body in (
                ("shop.example.org", b"of the shop"),
                ("docs.example.net", b"of the docs"),
                ("v2.docs.example.net", b"of the docs"),
            ):
                async with secured(pop.tls_port, authority.trusting(), name) as client:  # it verifies the name
                    found = [await client.ask("/a", name) for _ in range(2)]
                    assert [(one.status, one.body, is_hit(one)) for one in found] == [
                        (200, body, False),
                        (200, body, True),
                    ]
                    wrong = "docs.example.net" if name.startswith("shop") else "shop.example.org"
                    assert (await client.ask("/a", wrong)).status == 421
            assert (len(origin.requests), len(other.requests)) == (1, 2)
            plain = await pop.get("/a?b=1", ("Host", "docs.example.net"))
            assert (plain.status, plain.get("location")) == (308, "https://docs.example.net/a?b=1")
            assert (await pop.get("/a", ("Host", "shop.example.org"))).body == b"of the shop"


async def test_an_api(origin: OriginDouble) -> None:
    """A client's rate comes before any token, and large bodies are refused."""
    async with cooked("An API with tokens and limits", origin) as pop:
        host = ("Host", "api.example.org")
        assert (await pop.request("POST", "/open", host, body=bytes(2 << 20))).status == 413
        found = []
        async with pop.client() as client:
            for _ in range(103):
                await client.request("GET", "/v1/catalogue/1", [host])
                found.append((await client.response()).status)
        assert found == [401] * 60 + [429] * 43
        assert origin.requests == []


async def test_campaigns_share_a_page(origin: OriginDouble) -> None:
    """Their parameters are dropped, others are not; the origin does not see them."""
    async with cooked("WordPress", origin) as pop:
        host = ("Host", "blog.example.org")
        targets = ("/?p=1&utm_source=a", "/?fbclid=b&p=1", "/?p=1", "/?p=2&gclid=c")
        assert [is_hit(await pop.get(target, host)) for target in targets] == [False, True, True, False]
        assert [request.target for request in origin.requests] == ["/?p=1", "/?p=2"]
