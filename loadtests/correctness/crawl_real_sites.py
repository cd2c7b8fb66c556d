"""Show the main job on real input: services that others wrote, behind edgecache, compared with themselves.

    python -m loadtests real-sites [--sites nginx,datasette,django] [--urls 1000] [--no-browser]

nginx with /usr/share/doc, Datasette with a database of this machine's packages and files, a Django blog with sessions:
each is crawled directly and through its own edgecache, twice; then with gzip, HEAD, preconditions and ranges; the blog
by clients who log in and write; and one page of each in headless Chromium. All on 127.0.0.1 (and pip, once, for the
private virtual environments), in one temporary directory. The rules and the table go to stdout, progress to stderr.
Exit code: 0; 1 on any difference or under 95 % hits; 2 when something that is needed is missing; 130 when ended.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loadtests.correctness.real_sites import blog, browser, datasette, nginx, report
from loadtests.correctness.real_sites.client import Client
from loadtests.correctness.real_sites.crawls import crawl_gzip, crawl_twice
from loadtests.correctness.real_sites.processes import pop_before, say
from loadtests.correctness.real_sites.site import Both, Site
from loadtests.correctness.real_sites.tally import Tally
from loadtests.correctness.real_sites.variants import ask_otherwise
from loadtests.lab.processes import Pop, StartError

SITES: dict[str, Callable[[Path, Path, int], Site]] = {
    "nginx": nginx.site,
    "datasette": datasette.site,
    "django": blog.site,
}
LONGEST = 900.0  # seconds for the requests of one site


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sites", type=_names, default=list(SITES), help=f"of: {','.join(SITES)}")
    parser.add_argument("--urls", type=int, default=1000, help="at least so many URLs of each site (1000)")
    parser.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=None, help="load a page of each in Chromium"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="workers of each edgecache (1); more have separate memories: fewer hits, failing checks",
    )
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep the virtual environments there")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="keep Chromium's pictures there")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    unknown = [name for name in chosen if name not in SITES]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: not one of {', '.join(SITES)}")
    return chosen


async def examine(site: Site, pop: Pop, tally: Tally) -> None:
    """Everything that is asked by our own client."""
    async with (
        asyncio.timeout(LONGEST),
        Client(site.server.port, site.host) as origin,
        Client(pop.port, site.host) as through,
    ):
        both = Both(origin, through)
        own = await crawl_twice(site, both, tally)
        tally.notes["connections to edgecache, 16 at a time, two crawls"] += through.opened
        await crawl_gzip(site, both, tally)
        await ask_otherwise(site, both, tally, own)
        for check in site.further:
            await check(site, both, tally)


def run(site: Site, options: argparse.Namespace, folder: Path) -> Tally:
    """One site, from its start to its end."""
    tally = Tally(site.name)
    begun = time.monotonic()
    with site.server, pop_before(site.server.port, folder, options.workers) as pop:
        try:
            asyncio.run(examine(site, pop, tally))
        except TimeoutError:
            tally.differs("time", f"not done in {LONGEST:.0f} s")
        if options.browser:
            browser.load_page(site, pop, folder, tally, options.screenshots)
    tally.seconds = time.monotonic() - begun
    return tally


def check_sites(options: argparse.Namespace, folder: Path) -> int:
    """Prepare and run the chosen sites, print what came out; the exit code."""
    options.browser = browser.is_used(options.browser)
    environments = (options.environments or folder / "environments").resolve()
    sites = [SITES[name](folder / name, environments, options.urls) for name in options.sites]
    report.print_rules(sites, options.workers)
    tallies = []
    for site in sites:
        tallies.append(run(site, options, folder / site.name))
        report.print_site(tallies[-1])
    report.print_table(tallies)
    return 0 if all(tally.well for tally in tallies) else 1


def main() -> int:
    """Run in one temporary directory, which is removed whatever happens."""
    options = parse()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that every `finally` still runs
    folder = Path(tempfile.mkdtemp(prefix="edgecache-real-sites-"))
    try:
        return check_sites(options, folder)
    except StartError as missing:
        say(f"cannot run: {missing}")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
