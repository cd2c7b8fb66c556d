"""Have plug-ins purge by their own, unmodified code, and compare every page before and after.

    python -m loadtests plugin-purges [--plugins DIR] [--wordpress DIR] [--environments DIR]

Wagtail (from PyPI) and fastly-purge (from npm) are installed into one temporary directory, or into `--environments`.
WordPress plug-ins are in no package registry: `--plugins` names a directory that holds them as wp-content/plugins does
(varnish-http-purge, nginx-helper); WordPress itself is Debian's package, `--wordpress` names another. What is not there
is said and left out. Exit code: 0; 1 if a page is not new, or new that should not be; 2 if nothing could be tried.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from loadtests.correctness.plugin_purges import senders
from loadtests.correctness.plugin_purges.origin import counting
from loadtests.correctness.plugin_purges.senders import PAGES, Purge
from loadtests.correctness.real_sites.processes import pop_before
from loadtests.lab.processes import Missing, last_line

SETTINGS = {"EDGECACHE_PURGE_FROM": "127.0.0.1"}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plugins", type=Path, metavar="DIR", help="WordPress plug-ins")
    parser.add_argument("--wordpress", type=Path, metavar="DIR", default=Path("/usr/share/wordpress"))
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep what is installed there")
    return parser.parse_args()


def pages(port: int) -> dict[str, bytes]:
    """What every page is answered with, by the site's name with its port."""
    found = {}
    for target in PAGES:
        connection = http.client.HTTPConnection("localhost", port, timeout=10)
        connection.request("GET", target)
        found[target] = connection.getresponse().read()
        connection.close()
    return found


def record_purge(purge: Purge, port: int) -> str:
    """Run it between two looks at all pages; what is wrong, or nothing."""
    before = pages(port)
    env = {**os.environ, **purge.env(port)}
    done = subprocess.run(purge.command(port), env=env, capture_output=True, check=False, timeout=60)
    after = pages(port)
    new = {target for target in PAGES if after[target] != before[target]}
    if done.returncode or done.stderr:
        return f"exit code {done.returncode}: {last_line(done.stderr)}"
    return (
        "" if new == purge.new else f"new: {', '.join(sorted(new)) or 'nothing'}; to be: {', '.join(sorted(purge.new))}"
    )


def prepared(options: argparse.Namespace, folder: Path) -> Iterator[Purge]:
    """Every purge whose sender can be had; says what is missing."""
    environments = (options.environments or folder / "environments").resolve()
    kinds: dict[str, Callable[[], Iterator[Purge]]] = {
        "Wagtail": lambda: senders.wagtail(environments),
        "fastly-purge": lambda: senders.fastly(environments),
        "WordPress": lambda: senders.wordpress(folder, options.wordpress.resolve(), options.plugins),
    }
    for name, kind in kinds.items():
        try:
            yield from kind()
        except Missing as missing:
            print(f"plugin-purges: {name} left out: {missing}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace, folder: Path) -> int:
    """Try all; the exit code."""
    purges = list(prepared(options, folder))
    wrong = 0
    with counting() as origin, pop_before(origin, folder / "pop", 1, SETTINGS) as pop:
        for purge in purges:
            problem = record_purge(purge, pop.port)
            wrong += bool(problem)
            print(f"{purge.name}: {problem or 'purged, and nothing else'}")
    return 2 if not purges else 1 if wrong else 0


def main() -> int:
    """Run in one temporary directory, which is removed whatever happens."""
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="edgecache-plugin-purges-"))
    try:
        return run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
