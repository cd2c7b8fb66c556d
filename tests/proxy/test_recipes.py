"""The recipes of docs/sites.md, on a running POP: what they share, what passes, and what is refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.client import ReceivedResponse
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop

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
