"""Random requests at POPs in three arrangements, each response checked against a model; exit 1 if any is wrong.

memory    one POP of two workers
regional  one region: a POP with a Valkey
parent    two POPs of a region, asking a shield in another region
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from loadtests.correctness import places
from loadtests.correctness.content import resources
from loadtests.correctness.origin import Content, Origin
from loadtests.correctness.walk import Tally, Walk

SHOWN = ("hits", "writes", "writes not known to all", "hard purges", "soft purges", "left", "cut")


async def walk(place: str, requests: int, seed: int, product: str, logs: str = "", store: str = "off") -> Tally:
    """One walk through one place."""
    content = Content(resources(seed), seed)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(logs or stack.enter_context(tempfile.TemporaryDirectory(prefix="correctness-")))
        origins = [(await stack.enter_async_context(Origin(content))).port for _ in range(2)]
        where = await stack.enter_async_context(places.running(place, origins, folder, product, store=store))
        shown = Walk(content, where.ports, where.purge, requests, seed, where.hops, progress=_progress)
        return await shown.run()


def _progress(tally: Tally) -> None:
    if sys.stderr.isatty():
        print(f"\r  {tally.responses:,} responses, {tally.counts['wrong']} wrong", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Walk, and say what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000, help="per arrangement (20000)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("--only", default=",".join(places.NAMES), help="arrangements, parted by commas")
    parser.add_argument("--product", default="", metavar="DIR", help="another checkout of edgecache to be judged")
    parser.add_argument("--logs", default="", metavar="DIR", help="where to leave the logs of the POPs")
    parser.add_argument("--store", default="off", choices=("off", "memory", "disk"), help="store of the machine (off)")
    options = parser.parse_args()
    wrong = 0
    for name in options.only.split(","):
        if name not in places.NAMES:
            parser.error(f"--only knows {', '.join(places.NAMES)}, not {name!r}")
        began = time.monotonic()
        tally = uvloop.run(
            walk(
                name,
                options.requests,
                options.seed,
                places.environment_of(options.product),
                options.logs,
                options.store,
            )
        )
        wrong += tally.counts["wrong"]
        _report(name, tally, time.monotonic() - began)
    sys.exit(1 if wrong else 0)


def _report(name: str, tally: Tally, seconds: float) -> None:
    responses = {key: count for key, count in sorted(tally.counts.items()) if key.startswith(("GET", "HEAD"))}
    print(f"\n{name}: {tally.responses:,} responses in {seconds:.0f} s, {tally.counts['wrong']} wrong")
    print("  " + ", ".join(f"{key} {count:,}" for key, count in responses.items()))
    print("  " + ", ".join(f"{key} {tally.counts[key]:,}" for key in SHOWN))
    for kind, count in tally.kinds.most_common(20):
        print(f"  {count:,} × {kind}")
    for line in tally.wrong:
        print(f"  WRONG {line}")
