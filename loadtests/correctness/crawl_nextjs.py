"""Show the recipe for Next.js before a real site: pages, the router's data, images, drafts, and users' pages.

    python -m loadtests nextjs [--keep DIR] [--environments DIR] [--no-browser] [--without RULE]

Next.js (from npm, into one temporary directory), built and started by itself, and edgecache with the recipe of
docs/sites.md. Pages and the router's data of the same URLs are crawled twice by visitors, each with cookies and
parameters of its own as statistics and campaigns leave them, while an editor in draft mode reads the same; then built
files, images by Accept, the pages of two users, and posts that are published anew. Then Chromium clicks on links, if it
is installed: a visitor and an editor, with drafts on and off, and users who change. Exit code: 0; 1 if an answer was
wrong or fewer than 95 % of the second crawl were hits; 2 when something that is needed is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loadtests.correctness.real_sites import browser, next_browser, nextjs
from loadtests.correctness.real_sites.client import Answer, Client
from loadtests.correctness.real_sites.processes import pop_before, say
from loadtests.correctness.real_sites.recipes import (
    ANY,
    DICE,
    NEVER,
    SHARED,
    Figures,
    campaign,
    recipe,
    statistics,
    told,
    without_rule,
)
from loadtests.correctness.real_sites.site import Both
from loadtests.lab.processes import Missing, Pop, free_port

PATIENCE = 300.0  # seconds
PAGES = ("pages, first crawl", "pages, second crawl")
ROUTER = ("data of the router, first crawl", "data of the router, second crawl")
CROSSED = "pages by the URLs of data, data by those of pages"
DRAFTS, USERS = "an editor in draft mode", "pages of two users, and of nobody"
BUILT, IMAGES, PUBLISHED = "built files, again", "images by Accept, again", "posts that were published"
BOUNDS = {
    **dict(zip((*PAGES, *ROUTER), (ANY, SHARED, ANY, SHARED), strict=True)),
    CROSSED: ANY,
    BUILT: SHARED,
    IMAGES: SHARED,
    DRAFTS: NEVER,
    USERS: NEVER,
    PUBLISHED: ANY,
}
DATA = {"RSC": "1"}
TREE = json.dumps(["", {"children": ["__PAGE__", {}]}, None, None, 16]).replace('"', "%22").replace(" ", "")
FETCHES: dict[str, dict[str, str]] = {  # what the router asks for
    "data": DATA,
    "prefetch": {**DATA, "Next-Router-Prefetch": "1", "Next-Router-Segment-Prefetch": "/_tree"},
    "navigation": {**DATA, "Next-Router-State-Tree": TREE, "Next-Url": "/"},
}
DRAFT, SHOWN = b"The draft of an editor", b"Page of everybody"
ACCEPTS = {"image/webp": "image/avif,image/webp,image/*,*/*;q=0.8", "image/png": "image/png,image/*;q=0.8"}
IMAGE = "/_next/image?url=%2Fpicture.png&w=640&q=75"
CHANGED = 5  # posts that are published anew


def is_page(answer: Answer) -> bool:
    """Whether it is a whole page."""
    return answer.status == 200 and (answer.field("content-type") or "").startswith("text/html") and _ends(answer)


def _ends(answer: Answer) -> bool:
    return answer.unpacked().endswith(b"</html>")


def is_data(answer: Answer) -> bool:
    """Whether it is data of the router."""
    return answer.status == 200 and (answer.field("content-type") or "").startswith("text/x-component")


def of_visitor(answer: Answer, expected: Answer, is_kind: bool) -> str:
    """What is wrong with an answer for a visitor, to whom the site itself gives `expected`."""
    if not is_kind:
        return f"of another kind: {answer.field('content-type')}"
    if DRAFT in answer.unpacked():
        return "a draft"
    return "" if answer.unpacked() == expected.unpacked() else "not what the site answers"


class Crawl:
    """The requests of one run, of the site itself and through the POP. Mutable state: the figures."""

    def __init__(self, both: Both, site: nextjs.NextSite, found: Figures) -> None:
        self.both = both
        self.site = site
        self.found = found
        self.drafts = ""  # the editor's cookie

    async def run(self) -> str:
        """All of it; the cookie of draft mode."""
        answer = await self.through("/api/draft")
        self.drafts = "; ".join(value.partition(";")[0] for value in answer.values("set-cookie"))
        if "__prerender_bypass=" not in self.drafts:
            raise Missing(f"there is no draft mode: {answer.status}")
        for turn in range(2):
            for target in ("/", *self.site.targets):
                steps = [self.page(target, turn), self.data(target, turn), self.crossed(target)]
                if target != "/":
                    steps.append(self.draft(target))
                DICE.shuffle(steps)
                for step in steps:
                    await step
        await self.built()
        await self.images()
        await self.users()
        await self.publish()
        return re.search("__prerender_bypass=([^;]*)", self.drafts)[1]  # type: ignore[index]

    async def through(self, target: str, more: Mapping[str, str] | None = None, cookies: str = "") -> Answer:
        """A request through the POP by a browser with cookies of statistics, and these."""
        given = "; ".join(filter(None, (statistics(), cookies)))
        return await self.both.pop.ask(target, {"Accept-Encoding": "gzip", **(more or {}), "Cookie": given})

    async def page(self, target: str, turn: int) -> None:
        """A visitor's page."""
        answer, expected = await self.through(campaign(target)), await self.both.origin.ask(target)
        self.found.note(PAGES[turn], target, answer, of_visitor(answer, expected, is_page(answer)))

    async def url_of_data(self, target: str, more: Mapping[str, str]) -> str:
        """Where the router asks for data with these fields: the site tells it."""
        return (await self.both.origin.ask(target, more)).field("location") or target

    async def data(self, target: str, turn: int) -> None:
        """What a visitor's router asks for."""
        for more in FETCHES.values():
            url = await self.url_of_data(target, more)
            answer, expected = await self.through(url, more), await self.both.origin.ask(url, more)
            self.found.note(ROUTER[turn], url, answer, of_visitor(answer, expected, is_data(answer)))

    async def crossed(self, target: str) -> None:
        """The fields of data on the URL of a page, and the reverse: nothing is mixed up."""
        url = await self.url_of_data(target, DATA)
        answer = await self.through(url)
        self.found.note(CROSSED, url, answer, "" if is_page(answer) else "no page")
        answer = await self.through(target, DATA)
        self.found.note(CROSSED, target, answer, "a page" if is_page(answer) else "")

    async def draft(self, target: str) -> None:
        """An editor's page and data."""
        for more in ({}, DATA):
            url = await self.url_of_data(target, more) if more else target
            answer = await self.through(url, more, self.drafts)
            is_draft = DRAFT in answer.unpacked() and SHOWN not in answer.unpacked()
            self.found.note(DRAFTS, url, answer, "" if is_draft else "no draft")

    async def built(self) -> None:
        """The files that pages name."""
        files = set(re.findall(rb"/_next/static/[^\"'\\]+", (await self.through("/")).unpacked()))
        for target in sorted(file.decode() for file in files):
            first, answer = await self.through(target), await self.through(target)
            is_lasting = "immutable" in (answer.field("cache-control") or "")
            is_same = answer.status == 200 and answer.unpacked() == first.unpacked()
            self.found.note(BUILT, target, answer, "" if is_lasting and is_same else "not the same lasting file")

    async def images(self) -> None:
        """One image for browsers that accept this or that."""
        for number in range(20):
            for kind, accept in ACCEPTS.items():
                answer = await self.through(IMAGE, {"Accept": accept})
                if number:
                    got = answer.field("content-type")
                    self.found.note(IMAGES, IMAGE, answer, "" if got == kind else f"{got} in the stead of {kind}")

    async def users(self) -> None:
        """A page that names its user."""
        for _ in range(10):
            for name in ("alice", "bob", ""):
                answer = await self.through("/account", cookies=f"session={name}" if name else "")
                expected = f"Signed in as {name}" if name else "Nobody is signed in"
                is_own = expected.encode() in answer.unpacked()
                self.found.note(USERS, "/account", answer, "" if is_own else "another's page")

    async def publish(self) -> None:
        """Posts change: the site revalidates them, and the POP is purged; visitors get the new page and data."""
        for number, target in enumerate(self.site.targets[:CHANGED]):
            news = f"News number {number}."
            body = json.dumps({"slug": target.rpartition("/")[2], "news": news}).encode()
            await self.both.pop.ask("/api/publish", {"Content-Type": "application/json"}, "POST", body)
            await self.both.origin.ask(target)
            answer = await self.both.pop.ask(f"{target}/*", method="PURGE")
            if answer.status != 200:
                raise Missing(f"the POP does not purge: {answer.status}")
            for more in ({}, *FETCHES.values()):
                url = await self.url_of_data(target, more) if more else campaign(target)
                is_tree = "Next-Router-Segment-Prefetch" in more  # which says nothing of content
                for _ in range(2):
                    answer = await self.through(url, more)
                    is_new = is_tree or news.encode() in answer.unpacked()
                    self.found.note(PUBLISHED, url, answer, "" if is_new else "the old post")


async def crawl(pop: Pop, site: nextjs.NextSite, folder: Path, *, with_browser: bool) -> Figures:
    """Everything that is asked."""
    found = Figures(BOUNDS | (next_browser.BOUNDS if with_browser else {}))
    origin = Client(site.server.port, nextjs.HOST, 4)
    async with asyncio.timeout(PATIENCE), origin, Client(pop.port, nextjs.HOST, 4) as through:
        bypass = await Crawl(Both(origin, through), site, found).run()
        if with_browser:
            say("nextjs: links are clicked in Chromium")
            await next_browser.browse(pop, folder / "chromium", bypass, found)
    return found


def run(folder: Path, environments: Path, without: str, *, with_browser: bool) -> int:
    """Start everything, crawl it, and print the table."""
    port = free_port()
    sites = recipe("Next.js", f"http://127.0.0.1:{port}")
    sites = without_rule(sites, without) if without else sites
    site = nextjs.site(folder / "next", environments, port)
    say(site.about)
    settings = {"EDGECACHE_SITES": sites, "EDGECACHE_PURGE_FROM": "127.0.0.1"}
    with site.server, pop_before(port, folder / "pop", 1, settings) as pop:
        return asyncio.run(crawl(pop, site, folder, with_browser=with_browser)).print_table()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything there")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep what npm installs there")
    parser.add_argument("--browser", action=argparse.BooleanOptionalAction, default=None, help="click in Chromium")
    parser.add_argument("--without", default="", metavar="RULE", help="leave a rule out of the recipe, which must fail")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecache-nextjs-") as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        environments = (options.environments or folder / "environments").resolve()
        return told(lambda: run(folder, environments, options.without, with_browser=browser.is_used(options.browser)))
