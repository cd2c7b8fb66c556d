"""A Next.js site through edgecache in Chromium: links are clicked, drafts turned on and off, users change.

A click on a link loads no document: the router asks for data, and shows the page that it makes of them. Two tabs with
cookies of their own, an editor's and a visitor's, do so at the same time, and each page must be theirs. In draft mode
only links that are not fetched in advance are clicked: of static pages, Next.js itself gives an editor what it has
built, without the draft, if that was fetched in advance. And Chromium shows what it has in its own cache while it asks
again (`stale-while-revalidate`, RFC 5861 §3), whatever the cookies: its cache is cleared when a tab begins.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from loadtests.correctness.real_sites import nextjs
from loadtests.correctness.real_sites.devtools import Tab, running_chromium
from loadtests.correctness.real_sites.recipes import ANY, DICE, Bound, Figures
from loadtests.lab.processes import Pop

URL: Final = f"http://{nextjs.HOST}"
ROUNDS: Final = 3
ALL: Final = range(10)  # posts that the first page links to
NOT_IN_ADVANCE: Final = range(5, 10)  # those whose data are fetched by a click
CLICKS: Final = 4  # on links to posts, in each round of a tab
VISITORS, EDITORS = "Chromium: links clicked by a visitor", "Chromium: links clicked by an editor, drafts on and off"
ACCOUNTS, DATA = "Chromium: its own page, by a link", "Chromium: data of the router"
BOUNDS: Final[dict[str, Bound]] = {VISITORS: ANY, EDITORS: ANY, ACCOUNTS: ANY, DATA: ANY}
HYDRATED: Final = "document.readyState === 'complete' && !!(window.next && window.next.router)"
BYPASS: Final = "__prerender_bypass"


class Reader:
    """A tab that reads the site."""

    def __init__(self, tab: Tab, kind: str, found: Figures) -> None:
        self._tab = tab
        self._kind = kind
        self._found = found

    async def begin(self, **cookies: str) -> None:
        """Load the first page anew, with these cookies; those that are empty are removed."""
        for name, value in cookies.items():
            await self._tab.set_cookie(URL, name, value)
        await self._tab.command("Network.clearBrowserCache")
        await self._tab.open(f"{URL}/?{DICE.getrandbits(32):x}")  # a document of its own
        if not await self._tab.until(HYDRATED):
            self._found.count(self._kind, "/", "the page does not come to life")
        await self._tab.value("window.isTheSameDocument = true")

    async def click(self, link: str, heading: str, expected: str, kind: str = "") -> None:
        """Click a link, and look at the page that appears."""
        await self._tab.value(f"document.querySelector('a[href=\"{link}\"]').click()")
        shown = f"location.pathname === '{link}' && document.querySelector('h1')?.innerText === '{heading}'"
        is_there = await self._tab.until(shown)
        main = await self._tab.value("document.querySelector('main').innerText")
        is_same = await self._tab.value("window.isTheSameDocument === true")
        problem = "" if expected in str(main) else f"{main!r} in the stead of {expected!r}"
        problem = problem if is_there else f"no {heading!r} appears"
        self._found.count(kind or self._kind, link, problem or ("" if is_same else "a whole document was loaded"))

    async def read_posts(self, expected: str, posts: range = ALL) -> None:
        """Go to some posts, and back to the first page each time."""
        for _ in range(CLICKS):
            number = DICE.choice(posts)
            await self.click(f"/posts/post-{number}", f"Title of post-{number}", expected)
            await self.click("/", "Page of everybody", "Post 1")


async def browse(pop: Pop, folder: Path, bypass: str, found: Figures) -> None:
    """All of it; `bypass` is the value of the cookie of draft mode."""
    before = len(_log(pop))
    async with running_chromium(folder, nextjs.HOST, pop.port) as tools:
        visitor, editor = [Reader(await tools.tab(), kind, found) for kind in (VISITORS, EDITORS)]
        for number in range(ROUNDS):
            for is_draft in (True, False):
                await visitor.begin(_ga=f"GA1.2.{DICE.getrandbits(30)}", session=("alice", "bob", "")[number])
                await editor.begin(**{BYPASS: bypass if is_draft else ""})
                shown = "The draft of an editor" if is_draft else "Page of everybody"
                posts = NOT_IN_ADVANCE if is_draft else ALL
                await asyncio.gather(visitor.read_posts("Page of everybody"), editor.read_posts(shown, posts))
                own = ("Signed in as alice", "Signed in as bob", "Nobody is signed in")[number]
                await visitor.click("/account", "Account", own, ACCOUNTS)
                await editor.click("/account", "Account", "Nobody is signed in", ACCOUNTS)
    await asyncio.sleep(1)  # until the last lines are written
    for line in _log(pop)[before:]:
        if "HeadlessChrome" in line["user_agent"] and "_rsc=" in line["target"]:
            problem = "" if line["status"] in (200, 304, 307) else f"status {line['status']}"
            found.count(DATA, line["target"], problem, is_hit=line["cache"] == "hit")


def _log(pop: Pop) -> list[dict[str, Any]]:
    """The access log's whole lines so far."""
    return [json.loads(line) for line in pop.process.written.read_bytes().split(b"\n")[:-1] if line.startswith(b"{")]
