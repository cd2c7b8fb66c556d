"""Show the main job on real input: `python loadtests/real_sites.py [--urls 1000] [--no-browser]`.

Services that others wrote (nginx with /usr/share/doc; Datasette with a database) run behind edgecache. Every target is
asked of the service and through edgecache: status, fields and bytes must be the same; the second crawl must be hits
where the service's own fields allow storing; a page loads in headless Chromium. Exits 1 on any difference, or under
95 % hits.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtests.real_sites.compare import MAY_DIFFER, Tally, compare
from loadtests.real_sites.processes import edgecache_before
from loadtests.real_sites.services import Missing, Service, datasette, nginx_docs

SERVICES = {"nginx": nginx_docs, "datasette": datasette}
CHROMIUM = Path("/usr/bin/chromium")
LEAST_HITS = 0.95


def progress(line: str) -> None:
    """Tell on standard error what is being done."""
    print(f"  {line}", file=sys.stderr, flush=True)


def loaded_in_browser(port: int, service: Service, folder: Path) -> bool:
    """Whether headless Chromium shows the page's text when it loads it through the POP."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=3000",
    ]
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={folder}/chromium-{port}",
            f"--screenshot={folder}/page-{port}.png",
            "--dump-dom",
            f"http://127.0.0.1:{port}{service.page}",
        ],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return service.expected in done.stdout.decode(errors="replace")


def run(name: str, count: int, folder: Path, *, browser: bool) -> tuple[list[str], bool]:
    """One service: a row of the table, and whether all is well."""
    print(f"{name}: starting", file=sys.stderr, flush=True)
    begun = time.monotonic()
    service = SERVICES[name](folder, count)
    pop, port, admin = edgecache_before(service.port)
    try:
        tally = asyncio.run(compare(service.port, port, service.targets, progress))
        page = ("loaded" if loaded_in_browser(port, service, folder) else "FAILED") if browser else "skipped"
        asked = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5).read()
    finally:
        pop.end()
        service.process.end()
    for difference in tally.differences[:20]:
        print(f"DIFFERENCE {difference}", file=sys.stderr)
    well = not tally.differences and page != "FAILED" and tally.hits >= LEAST_HITS * tally.storable
    return row(service, tally, page, time.monotonic() - begun), well and b"edgecache_requests_total" in asked


def row(service: Service, tally: Tally, page: str, seconds: float) -> list[str]:
    """The table's row for one service."""
    hits = f"{100 * tally.hits / tally.storable:.1f} %" if tally.storable else "-"
    cells = (tally.targets, tally.identical, tally.moving, len(tally.differences), tally.storable)
    return [service.name, *map(str, cells), hits, f"{tally.size / 2**20:.1f} MiB", page, f"{seconds:.0f} s"]


def main() -> int:
    """Run the services asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", default="nginx,datasette", help="which services, of: nginx, datasette")
    parser.add_argument("--urls", type=int, default=1000, help="about how many targets of each")
    parser.add_argument("--no-browser", action="store_true", help="leave Chromium out")
    options = parser.parse_args()
    browser = CHROMIUM.exists() and not options.no_browser
    rows, well = [], True
    with tempfile.TemporaryDirectory(prefix="edgecache-real-") as folder:
        for name in options.sites.split(","):
            try:
                cells, fine = run(name, options.urls, Path(folder), browser=browser)
            except Missing as missing:
                cells, fine = [name, f"left out: {missing}"], False
            rows.append(cells)
            well = well and fine
    print(f"\nFields that a gateway may change: {', '.join(sorted(MAY_DIFFER))}\n")
    titles = ["service", "targets", "identical", "moving", "differences", "storable", "hits in crawl 2", "content"]
    titles += ["Chromium", "time"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
