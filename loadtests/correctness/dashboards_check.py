"""Ask a real Prometheus for every query of the dashboards, recording rules and alerts, with a small chain under load.

    python -m loadtests dashboards-check [--seconds 40]

An origin, a shield and an edge in front of it, each a region with its Valkey, serve some hundred requests a second of
every sort, purges and writes among them; Prometheus (Debian's package `prometheus`) scrapes them with the rules and
token of `deploy/prometheus`. Then every query is asked, `$pop` being all and Grafana's interval 15 s. An alert should
not fire: of its expression, every metric that it looks at must be there. Prints a table; exit code 0 if every query has
series, 1 if one has none, 2 if nothing could be asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from loadtests.correctness.dashboards import chain, queries
from loadtests.lab.processes import StartError

RATE = "15s"


def series(port: int, expression: str) -> int:
    """How many series of numbers Prometheus has for an expression."""
    asked = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{asked}", timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return sum(one["value"][1] != "NaN" for one in found)


def concrete(expression: str) -> str:
    """A dashboard's expression as Grafana would send it."""
    return expression.replace("$pop", ".*").replace("$__rate_interval", RATE)


def rows(port: int) -> Iterable[tuple[str, str, int, str]]:
    """Place, title, number of series and expression of each query; of alerts, of each metric in it."""
    alerts = list(queries.of_alerts())
    for query in [*queries.of_dashboards(), *queries.recorded().values()]:
        yield query.place, query.title, series(port, concrete(query.expression)), query.expression
    for query in alerts:
        for selector in sorted(query.selectors):
            yield query.place, query.title, series(port, selector), selector


def report(found: Iterable[tuple[str, str, int, str]]) -> int:
    """Print the table; how many queries have no series."""
    print("| where | what | series | query |\n| --- | --- | --- | --- |")
    total = empty = 0
    for place, title, count, expression in found:
        total, empty = total + 1, empty + (count == 0)
        text = " ".join(expression.split()).replace("|", "\\|")
        print(f"| {place} | {title} | {count or 'NONE'} | `{text}` |")
    print(f"\n{total} queries, {total - empty} with series, {empty} without")
    return empty


async def check(seconds: int) -> int:
    """Start everything, let it run, ask."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecache-dashboards-")))
        try:
            running = await stack.enter_async_context(chain.running(directory))
        except StartError as error:
            print(f"dashboards-check: {error}", file=sys.stderr)
            return 2
        print(f"dashboards-check: {seconds} s of load", file=sys.stderr)
        sent = await chain.load(running, seconds)
        print(f"dashboards-check: {sent:,} requests", file=sys.stderr)
        empty = report(await asyncio.to_thread(lambda: list(rows(running.prometheus_port))))
    return 1 if empty else 0


def main() -> int:
    """Check what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=40, help="of load before the queries are asked (40)")
    options = parser.parse_args()
    if shutil.which("prometheus") is None:
        print("dashboards-check: prometheus is not installed (Debian: apt-get install prometheus)", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    return asyncio.run(check(options.seconds))
