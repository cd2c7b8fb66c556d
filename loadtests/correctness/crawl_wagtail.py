"""Show the recipe for Wagtail before a real one: visitors hit, sessions pass, and what an editor publishes is seen.

    python -m loadtests wagtail [--keep DIR] [--environments DIR] [--without RULE]

Wagtail (from PyPI, in a virtual environment of its own) on SQLite, and edgecache with the recipe of docs/sites.md. All
pages are crawled twice by visitors, each with cookies and parameters of its own as statistics and campaigns leave them,
while an editor and a member who have logged in read the same pages, and one that names them without `Vary: Cookie`: a
response with that is never stored for a user, with or without rules. Then the editor publishes changes, and Wagtail's
own invalidation purges them. At last the recipe's rules for users are left out, one after the other: pages must then be
mixed up, or this check could not fail. Exit code: 0; 1 if an answer was wrong or fewer than 95 % of the second crawl
were hits; 2 when something that is needed is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from functools import partial, reduce
from html.parser import HTMLParser
from pathlib import Path

from loadtests.correctness.real_sites import wagtail_pages as wagtail
from loadtests.correctness.real_sites.client import Answer, Client
from loadtests.correctness.real_sites.processes import pop_for, say
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
from loadtests.correctness.real_sites.sessions import Visitor
from loadtests.lab.processes import Missing, free_port

PATIENCE = 300.0  # seconds
CRAWLS = {"visitors, first crawl": ANY, "visitors, second crawl": SHARED}
EDITOR, MEMBER = "an editor who has logged in", "a member who has logged in"
STATIC, FORMS, MEMBERS = "static files, again", "a form with a token, and what is sent by it", "a page for members"
GREETINGS = "a page that names its user, without Vary"
GUARDS = (("editors",), ("editors", "visitors"))  # rules without which users' pages are mixed up
PUBLISHED, ACCEPTING = "pages that were published", "visitors who accept codings, third crawl"
CODED = "of those, answers in gzip, zstd or br"
BOUNDS = {
    **CRAWLS,
    ACCEPTING: SHARED,
    CODED: SHARED,
    STATIC: SHARED,
    EDITOR: NEVER,
    MEMBER: NEVER,
    MEMBERS: NEVER,
    FORMS: NEVER,
    GREETINGS: ANY,
    PUBLISHED: ANY,
}
FILES = ("/static/wagtailadmin/css/core.css", "/static/wagtailadmin/js/core.js")
OF_EDITORS, OF_USERS = b"<wagtail-userbar", b"Signed in as "
ACCEPTS = ("gzip", "zstd", "br, gzip", "identity")
CHANGED = 5  # pages that the editor publishes


class _Form(HTMLParser):
    """The fields of the form with a text area that a page of the administration holds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._area = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an input's value, or begin a text area."""
        given = {name: value or "" for name, value in attrs}
        self._area = given.get("name", "") if tag == "textarea" else ""
        if tag == "input" and given.get("name") and given.get("type") not in ("checkbox", "radio", "file", "submit"):
            self.fields.setdefault(given["name"], given.get("value", ""))
        if self._area:
            self.fields[self._area] = ""

    def handle_data(self, data: str) -> None:
        """Add to a text area."""
        if self._area:
            self.fields[self._area] += data

    def handle_endtag(self, _: str) -> None:
        """End it."""
        self._area = ""


def of_visitor(answer: Answer) -> str:
    """What is wrong with a visitor's page."""
    page = answer.unpacked()
    if answer.status != 200 or b"</html>" not in page:
        return "no whole page"
    return "a user's page" if OF_USERS in page or OF_EDITORS in page else ""


def of_user(name: str, answer: Answer) -> str:
    """What is wrong with a page for the user of that name."""
    own, bar = OF_USERS + name.encode() in answer.content, OF_EDITORS in answer.content
    return "" if own and bar == (name == wagtail.EDITOR) else "not this user's page"


async def log_in(through: Client, name: str) -> Visitor:
    """A user with a session."""
    user = Visitor(name, through)
    answer = await user.log_in()
    if answer.status != 302 or "sessionid" not in user.cookies:
        raise Missing(f"{name} cannot log in: {answer.status}")
    user.cookies["_ga"] = "GA1.2.3.4"
    return user


async def visits(through: Client, users: Sequence[Visitor], target: str, name: str, found: Figures) -> None:
    """One page, asked for by a visitor, and at times by users: before or after, and by the same link or another."""
    link = campaign(target)
    turns = [user for user in users if DICE.random() < 0.3]
    first = DICE.random() < 0.5
    for is_before in (True, False):
        for user in turns if is_before == first else []:
            answer = await user.ask(link if first else target)
            found.note(EDITOR if user.name == wagtail.EDITOR else MEMBER, target, answer, of_user(user.name, answer))
        if is_before:
            answer = await through.ask(link, {"Cookie": statistics()})
            found.note(name, link, answer, of_visitor(answer))


async def codings(through: Client, targets: Sequence[str], found: Figures) -> None:
    """Every page in every coding: the same bytes once it is decoded."""
    for target in targets:
        plain = await through.ask(target)
        for accept in ACCEPTS:
            link = campaign(target)
            answer = await through.ask(link, {"Cookie": statistics(), "Accept-Encoding": accept})
            problem = of_visitor(answer) or ("" if answer.unpacked() == plain.content else "other bytes")
            for kind in (ACCEPTING, CODED) if answer.field("content-encoding") else (ACCEPTING,):
                found.note(kind, link, answer, problem)


async def greetings(through: Client, users: Sequence[Visitor], found: Figures) -> None:
    """A page that only the recipe keeps apart, asked for by users and visitors in turn."""
    for _ in range(20):
        asking = [*users, None]
        DICE.shuffle(asking)
        for user in asking:
            given = user.cookies.items() if user is not None else [("_ga", str(DICE.getrandbits(30)))]
            cookies = "; ".join(f"{name}={value}" for name, value in given)
            answer = await through.ask("/greeting/", {"Cookie": cookies})
            named = OF_USERS + user.name.encode() if user is not None else b"Hello, visitor"
            found.note(GREETINGS, "/greeting/", answer, "" if named in answer.content else "another's page")


async def others(through: Client, member: Visitor, found: Figures) -> None:
    """Static files, a page that only members may read, and a form that anybody may send."""
    for number in range(40):
        for target in FILES:
            answer = await through.ask(target, {"Cookie": statistics()})
            if number:
                found.note(STATIC, target, answer, "" if answer.status == 200 else "no file")
    for _ in range(10):
        answer = await member.ask("/members/")
        found.note(MEMBERS, "/members/", answer, of_user(member.name, answer))
        answer = await through.ask("/members/", {"Cookie": statistics()})
        found.note(MEMBERS, "/members/", answer, "" if answer.status == 302 else "a visitor may read it")
        sender = Visitor("anybody", through)
        sender.cookies["_ga"] = "GA1.2.5.6"
        form = {"name": sender.name, "csrfmiddlewaretoken": await sender.token("/contact/")}
        answer = await sender.ask("/contact/", "POST", form)
        found.note(FORMS, "/contact/", answer, "" if b"Thank you, anybody" in answer.content else "refused")


async def publish(through: Client, editor: Visitor, site: wagtail.Wagtail, found: Figures) -> None:
    """Change pages as the administration does; visitors see it at once, and then out of the cache."""
    for number, (target, page) in enumerate(list(zip(site.targets, site.ids, strict=True))[:CHANGED]):
        edit, news = f"/admin/pages/{page}/edit/", f"News number {number}."
        form = _Form((await editor.ask(edit)).content.decode()).fields
        answer = await editor.ask(edit, "POST", {**form, "text": news, "action-publish": "action-publish"})
        if answer.status != 302:
            raise Missing(f"the editor cannot publish: {answer.status}")
        for _ in range(3):
            answer = await through.ask(campaign(target), {"Cookie": statistics()})
            is_new = news.encode() in answer.content
            found.note(PUBLISHED, target, answer, of_visitor(answer) if is_new else "the old page")


async def crawl(port: int, site: wagtail.Wagtail) -> Figures:
    """Everything that is asked."""
    found = Figures(BOUNDS)
    async with asyncio.timeout(PATIENCE), Client(port, wagtail.HOST, 4) as through:
        users = [await log_in(through, name) for name in (wagtail.EDITOR, wagtail.MEMBER)]
        for name in CRAWLS:
            for target in ("/", *site.targets):
                await visits(through, users, target, name, found)
        await codings(through, ("/", *site.targets), found)
        await others(through, users[1], found)
        await greetings(through, users, found)
        await publish(through, users[0], site, found)
    return found


async def mixed_up(port: int) -> int:
    """Wrong answers to users and visitors who ask for the page that names them."""
    found = Figures({GREETINGS: ANY})
    async with asyncio.timeout(PATIENCE), Client(port, wagtail.HOST, 4) as through:
        users = [await log_in(through, name) for name in (wagtail.EDITOR, wagtail.MEMBER)]
        await greetings(through, users, found)
    return len(found.wrong)


def finds_missing_rules(port: int, folder: Path, sites: str) -> bool:
    """Whether pages are mixed up, as this check sees it, without the rules of the recipe that keep them apart."""
    finds = True
    for names in GUARDS:
        less = reduce(without_rule, names, sites)
        pop = pop_for(port, folder / "-".join(names), 1, {"EDGECACHE_SITES": less})
        with pop.process:
            wrong = asyncio.run(mixed_up(pop.port))
        print(f"| wrong answers without {' and '.join(names)} | {wrong} | | ≥ 1 | {'ok' if wrong else 'FAILED'} |")
        finds = finds and wrong > 0
    return finds


def run(folder: Path, environments: Path, without: str) -> int:
    """Start everything, crawl it, and print the table."""
    port = free_port()
    whole = recipe("Wagtail and Django", f"http://127.0.0.1:{port}")
    sites = without_rule(whole, without) if without else whole
    pop = pop_for(port, folder / "pop", 1, {"EDGECACHE_SITES": sites, "EDGECACHE_PURGE_FROM": "127.0.0.1"})
    site = wagtail.site(folder / "wagtail", environments, port, pop.url)
    say(site.about)
    with site.server:
        with pop.process:
            code = asyncio.run(crawl(pop.port, site)).print_table()
        return code if finds_missing_rules(port, folder, whole) else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything there")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep the virtual environment there")
    parser.add_argument("--without", default="", metavar="RULE", help="leave a rule out of the recipe, which must fail")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecache-wagtail-") as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        environments = (options.environments or folder / "environments").resolve()
        return told(partial(run, folder, environments, options.without))
