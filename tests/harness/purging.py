"""Sites that are purged: pages that say their version, and the tokens that may purge them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from edgecache.invalidation.version_vector import Vector
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop

FRESH = ("Cache-Control", "max-age=60")
TOKEN = "a-token-that-may-purge"
BEARER = ("Authorization", f"Bearer {TOKEN}")
HOST = "www.example.test"
CMS = "a-token-that-may-purge"
SHOP = "another-token-of-a-shop"
PAGES = ("/", "/blog/", "/blog/a", "/blog/a?page=2", "/blogger", "/shop/", "/images/1.png", "/feed/")


class Site:
    """An origin whose pages say their version; each bears the tag of its first letter, and all the tag `all`."""

    def __init__(self, origin: OriginDouble) -> None:
        self.version = 1
        self.fields: list[tuple[str, str]] = [FRESH]
        self.origin = origin
        origin.otherwise(self.reply)

    def reply(self, request: ReceivedRequest) -> Reply:
        """The page in its present version; a write makes the next one."""
        if request.method not in ("GET", "HEAD"):
            self.version += 1
            return Reply(body=b"written")
        tags = f"{request.target[1:2]} all"
        etag = ("ETag", f'"{self.version}"')
        if request.get("If-None-Match") == etag[1]:
            return Reply(304, fields=[*self.fields, etag])
        return Reply(fields=[*self.fields, ("Surrogate-Key", tags), etag], body=b"v%d" % self.version)


async def body(pop: Pop, target: str, *fields: tuple[str, str]) -> bytes:
    """What a GET is answered with."""
    response = await pop.get(target, *fields)
    return response.body


@asynccontextmanager
async def filled(origin: OriginDouble, **settings: object) -> AsyncIterator[Pop]:
    """A POP that has stored every page; each says its number of answers, and bears its path's first word as a tag."""
    asked: dict[tuple[str, str], int] = {}

    def reply(request: ReceivedRequest) -> Reply:
        key = (request.get("Host") or "", request.target)
        asked[key] = asked.get(key, 0) + 1
        first = request.target.split("/")[1].partition("?")[0] or "home"
        fields = [("Cache-Control", "max-age=600"), ("Surrogate-Key", f"{first} all")]
        fields += [("X-Magento-Tags", f"cat_p_{len(first)},{first},FPC"), ("Cache-Tag", f"the {first}, any")]
        fields += [("X-Cache-Tags", f"{first},any"), ("Cache-Tags", f"{first} any")]
        return Reply(fields=fields, body=b"v%d" % asked[key])

    origin.otherwise(reply)
    options = {"purge_tokens": f"cms={CMS},shop@shop.example.test={SHOP}", **settings}
    async with running_pop(origin, **options) as pop:
        assert await stale(pop) == set()
        yield pop


async def stale(pop: Pop, host: str = HOST, pages: Iterable[str] = PAGES) -> set[str]:
    """Of the pages, those whose first answer is not the one that is served now."""
    return {page for page in pages if (await pop.get(page, ("Host", host))).body != b"v1"}


async def send(pop: Pop, *lines: str) -> tuple[int, dict[str, object]]:
    """These lines as a request; status and answer."""
    async with pop.client() as client:
        await client.send("\r\n".join([*lines, "", ""]).encode("latin-1"), lines[0].partition(" ")[0])
        response = await client.response()
    return response.status, json.loads(response.body)


async def applied(*pops: Pop) -> None:
    """Wait until all have applied everything that is in their region's log now."""
    last = Vector(await pops[0].worker.logs.writer.store.last_marks(["eu"]))
    for pop in pops:
        assert await pop.worker.logs.follower.reaches(last, 5)
