"""Run a CDN on this machine until Ctrl-C: two edge regions → shield → origin, each region with its own Valkey.

    python -m loadtests local-chain [--regions eu,us] [--workers 1] [--set EDGECACHE_…=…] [--delay edge-us:shield=40ms]

It prints where everything is. Logs lie in a temporary directory, which is named and removed at the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from loadtests.lab.chain import Chain, Plan, running_chain
from loadtests.lab.chain_options import add_plan_options, plan_of
from loadtests.lab.objects import target
from loadtests.lab.processes import StartError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--regions", type=lambda text: tuple(text.split(",")), default=Plan.regions)
    add_plan_options(parser)
    return parser.parse_args(arguments)


def describe(chain: Chain, folder: Path) -> str:
    """Where everything is."""
    lines = [f"{'POP':<10}{'serves':<26}{'admin':<26}{'Valkey':<28}pid"]
    lines += [
        f"{pop.name:<10}{pop.url:<26}{pop.admin_url:<26}{f'valkey://127.0.0.1:{pop.valkey.port}':<28}{pop.process.pid}"
        for pop in chain.pops.values()
    ]
    lines += [
        f"{'origin':<10}{chain.origin_url:<26}{'':<54}{chain.origin.pid}",
        f"admin token {chain.admin_token}, logs {folder}",
        f"try: curl -si -H 'Host: www.example.org' '{chain.edges[0].url}{target('news', '1', size=200)}' | head -20",
    ]
    return "\n".join(lines)


def main() -> int:
    """Start, print, wait for the end."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` still runs
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgecache-chain-") as name,
            running_chain(plan_of(options), Path(name)) as chain,
        ):
            print(describe(chain, Path(name)), flush=True)
            while True:
                signal.pause()
    except StartError as error:
        print(f"local_chain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
