"""The blog's clients: two users who log in through the POP and must never see each other's pages, and who write."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from loadtests.correctness.real_sites.client import Answer, Client
from loadtests.correctness.real_sites.processes import say
from loadtests.correctness.real_sites.rules import compare, compare_hit, is_hit
from loadtests.correctness.real_sites.site import Both, Site
from loadtests.correctness.real_sites.tally import Tally

USERS = ("alice", "bob")
PASSWORD = "a password of the check"
ROUNDS = 40
TOKEN = re.compile(rb'name="csrfmiddlewaretoken" value="([^"]+)"')
SECRET = re.compile(rb"secret ([0-9a-f]{64})")
FORM = "application/x-www-form-urlencoded"
PERSONAL = ("/account/", "/greeting/", "/basket/", "/profile/")
PRIVATE = ("/account/", "/basket/", "/profile/")
TO_STRANGERS = {"/account/": 302, "/greeting/": 200, "/basket/": 200, "/profile/": 401}


class Visitor:
    """One browser: its cookies, and the party that it asks."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.cookies: dict[str, str] = {}
        self._client = client

    async def ask(
        self, target: str, method: str = "GET", form: Mapping[str, str] | None = None, client: Client | None = None
    ) -> Answer:
        """One request with this visitor's cookies, through the POP or to another party."""
        fields = {}
        if target == "/profile/":
            fields["Authorization"] = f"Bearer {self.name}"
        elif self.cookies:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if form is not None:
            fields["Content-Type"] = FORM
        body = urlencode(form).encode() if form is not None else None
        answer = await (client or self._client).ask(target, fields, method, body)
        for line in answer.values("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return answer

    async def token(self, target: str) -> str:
        """The CSRF token of the form at `target`."""
        found = TOKEN.search((await self.ask(target)).content)
        return found[1].decode() if found else ""

    async def log_in(self) -> Answer:
        """The form, then its answer."""
        form = {"csrfmiddlewaretoken": await self.token("/login/"), "username": self.name, "password": PASSWORD}
        return await self.ask("/login/", "POST", form)


async def private_pages(site: Site, both: Both, tally: Tally) -> None:
    """Two users and a stranger ask for the same personal pages, at the same time and again and again."""
    say(f"{site.name}: two users log in, and ask for their own pages {ROUNDS} times each")
    visitors = [Visitor(name, both.pop) for name in USERS]
    for visitor in visitors:
        answer = await visitor.log_in()
        found = [] if answer.status == 302 and "sessionid" in visitor.cookies else [f"status {answer.status}"]
        tally.check("login through the POP", visitor.name, *found)
    await asyncio.gather(*(_own_pages(site, both, tally, visitor) for visitor in visitors), _stranger(both, tally))
    for visitor in visitors:
        form = {"csrfmiddlewaretoken": await visitor.token("/account/")}
        left, after = await visitor.ask("/logout/", "POST", form), await visitor.ask("/account/")
        found = [] if (left.status, after.status) == (302, 302) else [f"statuses {left.status}, {after.status}"]
        tally.check("logout through the POP", visitor.name, *found)


async def _own_pages(site: Site, both: Both, tally: Tally, visitor: Visitor) -> None:
    """Each answer is what the origin itself gives this session, names this user, and no other."""
    own = {target: await visitor.ask(target, client=both.origin) for target in PERSONAL}
    for number in range(ROUNDS):
        target = PERSONAL[number % len(PERSONAL)]
        answer = await visitor.ask(target)
        found = compare(own[target], answer, site.moving).differences
        found += [] if visitor.name.encode() in answer.content else ["not this user's page"]
        found += [f"{name}'s page" for name in USERS if name != visitor.name and name.encode() in answer.content]
        found += ["a hit, but private"] if is_hit(answer) and target in PRIVATE else []
        tally.check("personal page is the user's own", f"{visitor.name} {target}", *found)


async def _stranger(both: Both, tally: Tally) -> None:
    """Someone who has not logged in never gets a user's page, and may share the stranger's."""
    for number in range(ROUNDS):
        target = PERSONAL[number % len(PERSONAL)]
        answer = await both.pop.ask(target)
        found = [] if answer.status == TO_STRANGERS[target] else [f"status {answer.status} {answer.failure}"]
        found += [f"{name}'s page" for name in USERS if name.encode() in answer.content]
        tally.check("a stranger gets no user's page", target, *found)


async def writes(site: Site, both: Both, tally: Tally) -> None:
    """A comment is posted: the page of all comments, a hit before, is asked anew; a refused POST changes nothing."""
    say(f"{site.name}: comments are posted")
    pages = [target for target in site.targets if target.endswith("/comments/")][:10]
    visitor = Visitor(USERS[0], both.pop)
    await visitor.log_in()
    for number, target in enumerate(pages):
        before = [await both.pop.ask(target) for _ in range(2)]
        refused = await visitor.ask(target, "POST", {"text": "forged", "csrfmiddlewaretoken": "x" * 64})
        kept = await both.pop.ask(target)
        found = [] if refused.status == 403 and is_hit(before[1]) and is_hit(kept) else [_said(refused, *before, kept)]
        tally.check("a refused POST invalidates nothing", target, *found)
        text = f"Written through the POP, number {number}"
        form = {"text": text, "csrfmiddlewaretoken": await visitor.token("/account/")}
        posted = await visitor.ask(target, "POST", form)
        after, again, own = await both.pop.ask(target), await both.pop.ask(target), await both.origin.ask(target)
        found = [] if posted.status == 302 and posted.field("location") == target else [f"POST: {posted.status}"]
        found += [] if text.encode() in after.content and not is_hit(after) else [f"stale: {_said(after)}"]
        found += [] if is_hit(again) else [f"not stored again: {_said(again)}"]
        found += compare(own, again, site.moving).differences + compare_hit(after, again)
        tally.check("a POST invalidates its page", target, *found)


def _said(*answers: Answer) -> str:
    return ", ".join(f"{answer.status} [{answer.field('cache-status')}] {answer.failure}" for answer in answers)


async def languages(site: Site, both: Both, tally: Tally) -> None:
    """Each language gets its own page, and its second reader a hit."""
    say(f"{site.name}: pages by language")
    pages = [target for target in site.targets if target.startswith("/archive/")][:15]
    for target in pages:
        for language in ("de", "fr;q=0.9, en;q=0.1", "en", "ja, de;q=0.5"):
            fields = {"Accept-Language": language}
            own, first = await both.origin.ask(target, fields), await both.pop.ask(target, fields)
            again = await both.pop.ask(target, fields)
            found = compare(own, first, site.moving).differences + compare_hit(first, again)
            found += [] if is_hit(again) else [f"no hit: {_said(again)}"]
            found += [] if own.field("content-language") == first.field("content-language") else ["the wrong language"]
            tally.check("page by Accept-Language", f"{target} {language}", *found)


async def uploads(site: Site, both: Both, tally: Tally) -> None:
    """Bodies of requests arrive whole: with a length, and in chunks."""
    say(f"{site.name}: uploads")
    for size in (0, 1, 70_000, 2_000_000):
        body = hashlib.shake_128(str(size).encode()).digest(size)
        wanted = f"{size} {hashlib.sha256(body).hexdigest()}\n".encode()
        for name, content in (("with a length", body), ("in chunks", _pieces(body))):
            answer = await both.pop.ask("/digest/", {"Content-Type": "application/octet-stream"}, "POST", content)
            found = [] if answer.content == wanted else [f"{_said(answer)} {answer.content[:80]!r}"]
            tally.check("upload", f"{size} bytes {name}", *found)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 16_000):
        yield body[at : at + 16_000]
        await asyncio.sleep(0)
