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
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from loadtests.correctness.real_sites import wordpress
from loadtests.correctness.real_sites.client import Answer, Client
from loadtests.correctness.real_sites.processes import pop_before
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
)
from loadtests.lab.processes import Missing

OF_USERS = re.compile(rb'id="wpadminbar"|wp-admin/post\.php\?post=')
PATIENCE = 300.0  # seconds
CRAWLS = {"visitors, first crawl": ANY, "visitors, second crawl": SHARED}
USER = "a user who has logged in"


def of_visitor(answer: Answer) -> str:
    """What is wrong with a visitor's page."""
    if answer.status != 200 or b"</html>" not in answer.unpacked():
        return f"no whole page, {len(answer.content)} bytes"
    return "a user's page" if OF_USERS.search(answer.unpacked()) else ""


def of_user(answer: Answer) -> str:
    """What is wrong with a user's page."""
    return "" if answer.status == 200 and OF_USERS.search(answer.unpacked()) else "not a user's page"


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


async def crawl(port: int, targets: Sequence[str]) -> Figures:
    """Two crawls of visitors, and between their requests those of the user."""
    found = Figures({**CRAWLS, USER: NEVER})
    async with asyncio.timeout(PATIENCE), Client(port, wordpress.HOST, 4) as through:
        session = await log_in(through)
        for crawl_name in CRAWLS:
            for target in targets:
                await visits(through, target, session, crawl_name, found)
    return found


async def visits(through: Client, target: str, session: str, name: str, found: Figures) -> None:
    """One page, asked for by a visitor, and by the user: at times before him, and by the same link."""
    link = campaign(target)
    before, after = DICE.random() < 0.3, DICE.random() < 0.3
    if before:
        answer = await through.ask(link, {"Cookie": f"{statistics()}; {session}"})
        found.note(USER, link, answer, of_user(answer))
    answer = await through.ask(link, {"Cookie": statistics()})
    found.note(name, link, answer, of_visitor(answer))
    if after:
        answer = await through.ask(target, {"Cookie": f"{session}; {statistics()}"})
        found.note(USER, target, answer, of_user(answer))


def run(folder: Path) -> int:
    """Start everything, crawl it, and print the table."""
    with wordpress.running(folder / "wordpress") as (server, targets):
        sites = recipe("WordPress", f"http://127.0.0.1:{server.port}")
        with pop_before(server.port, folder / "pop", 1, {"EDGECACHE_SITES": sites}) as pop:
            return asyncio.run(crawl(pop.port, ["/", *targets])).print_table()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecache-wordpress-") as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        return told(partial(run, folder))
