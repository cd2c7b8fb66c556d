"""Show the recipe for WordPress before a real one: users and visitors never get each other's pages, and visitors hit.

    python -m loadtests wordpress [--keep DIR]

WordPress of Debian's packages (wordpress, php-mysql, mariadb-server), and edgecache with the recipe of docs/sites.md.
All posts are crawled twice by visitors, each with cookies and parameters of his own as statistics and campaigns leave
them, while a user who has logged in reads the same pages. Exit code: 0; 1 if a page was another's or fewer than 95 % of
the second crawl were hits; 2 when something that is needed is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from loadtests.correctness.real_sites import wordpress
from loadtests.correctness.real_sites.client import Answer, Client
from loadtests.correctness.real_sites.processes import pop_before, say
from loadtests.lab.processes import Missing, StartError

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
OF_USERS = re.compile(rb'id="wpadminbar"|wp-admin/post\.php\?post=')
LEAST_HITS = 0.95
PATIENCE = 300.0  # seconds
DICE = random.Random(5)


def recipe(origin: str) -> str:
    """The TOML of the recipe, with the origin of the moment."""
    section = DOCS.read_text().partition("\n### WordPress\n")[2]
    match = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert match is not None, "the page has the recipe"
    return match[1].replace("http://10.0.0.7", origin)


def campaign(target: str) -> str:
    """`target` as an advertisement links to it."""
    given = {"utm_source": f"mail{DICE.getrandbits(16)}", "fbclid": f"{DICE.getrandbits(80):x}"}
    return f"{target}?{urlencode(given)}"


def statistics() -> str:
    """The cookies of a visitor."""
    return f"_ga=GA1.2.{DICE.getrandbits(30)}.{DICE.getrandbits(30)}; _gid=GA1.2.{DICE.getrandbits(30)}"


class Findings:
    """What the crawls came to. Mutable state: outcomes, and mistakes."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.mistakes: list[str] = []

    def visitor(self, name: str, target: str, answer: Answer) -> None:
        """Check a visitor's page."""
        status = answer.field("cache-status") or ""
        self.outcomes[f"{name}: {'hit' if '; hit' in status else 'other'}"] += 1
        if answer.status != 200:
            self.mistakes.append(f"{name} {target}: {answer.status} {answer.failure}")
        elif b"</html>" not in answer.unpacked():
            self.mistakes.append(f"{name} {target}: no whole page, {len(answer.content)} bytes")
        elif OF_USERS.search(answer.unpacked()):
            self.mistakes.append(f"{name} {target}: a user's page")

    def user(self, name: str, target: str, answer: Answer) -> None:
        """Check a user's page."""
        self.outcomes[f"{name}: {'hit' if '; hit' in (answer.field('cache-status') or '') else 'other'}"] += 1
        if answer.status != 200 or not OF_USERS.search(answer.unpacked()):
            self.mistakes.append(f"{name} {target}: {answer.status}, not a user's page")

    def share_of_hits(self, name: str) -> float:
        """Of one crawl."""
        hits, others = self.outcomes[f"{name}: hit"], self.outcomes[f"{name}: other"]
        return hits / max(1, hits + others)


async def log_in(through: Client) -> str:
    """The cookies of the user."""
    form = {"log": wordpress.USER, "pwd": wordpress.PASSWORD, "wp-submit": "Log In", "testcookie": "1"}
    fields = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": "wordpress_test_cookie=WP%20Cookie%20check",
    }
    answer = await through.ask("/wp-login.php", fields, "POST", urlencode(form).encode())
    cookies = [value.partition(";")[0] for value in answer.values("set-cookie")]
    if not any(cookie.startswith("wordpress_logged_in_") for cookie in cookies):
        raise Missing(f"nobody can log in: {answer.status}")
    return "; ".join(cookies)


async def crawl(port: int, targets: Sequence[str]) -> Findings:
    """Two crawls of visitors, and between their requests those of the user."""
    found = Findings()
    async with asyncio.timeout(PATIENCE), Client(port, wordpress.HOST, 4) as through:
        session = await log_in(through)
        for crawl_name in ("first crawl", "second crawl"):
            for target in targets:
                await visits(through, target, session, crawl_name, found)
    return found


async def visits(through: Client, target: str, session: str, name: str, found: Findings) -> None:
    """One page, asked for by a visitor, and by the user: at times before him, and by the same link."""
    link = campaign(target)
    before, after = DICE.random() < 0.3, DICE.random() < 0.3
    if before:
        found.user("user", link, await through.ask(link, {"Cookie": f"{statistics()}; {session}"}))
    found.visitor(name, link, await through.ask(link, {"Cookie": statistics()}))
    if after:
        found.user("user", target, await through.ask(target, {"Cookie": f"{session}; {statistics()}"}))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecache-wordpress-") as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with wordpress.running(folder / "wordpress") as (server, targets):
                sites = recipe(f"http://127.0.0.1:{server.port}")
                with pop_before(server.port, folder / "pop", 1, {"EDGECACHE_SITES": sites}) as pop:
                    found = asyncio.run(crawl(pop.port, ["/", *targets]))
        except StartError as error:
            say(str(error))
            return 2
    for outcome, count in sorted(found.outcomes.items()):
        print(f"{outcome}: {count}")
    share = found.share_of_hits("second crawl")
    print(f"hits of the second crawl: {share:.1%}")
    for mistake in found.mistakes[:20]:
        print(f"MISTAKE: {mistake}", file=sys.stderr)
    return 1 if found.mistakes or share < LEAST_HITS else 0
