"""Purges of names that nothing bears, straight into a region's log, from a process of their own.

    python -m loadtests.faults.purges.pour PORT REGION --rate 2000 --seconds 6
    python -m loadtests.faults.purges.pour PORT REGION --count 1000000

So that those who ask for hits meanwhile, and measure how long they take, do not wait for it. Prints how many it was.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgecache.config.valkey_url import parse_url
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.stream_store import LogStore
from edgecache.valkey.client import Access, Link
from loadtests.faults.purges.world import Region

TICK = 0.01  # seconds between two batches


@asynccontextmanager
async def pouring(
    region: Region, rate: int = 0, seconds: float = 0.0, count: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, which may have ended by itself when the block does."""
    what = ("--rate", str(rate), "--seconds", str(seconds), "--count", str(count))
    command = (sys.executable, "-m", "loadtests.faults.purges.pour", str(region.valkey.port), region.name, *what)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def pour(store: LogStore, region: str, options: argparse.Namespace) -> int:
    """So many a second, or a number at once; returns how many it was."""
    number, clock = 0, asyncio.get_running_loop().time
    began = clock()
    while number < options.count or (options.rate and clock() - began < options.seconds):
        size = 200 if options.count else min(200, int((clock() - began) * options.rate) - number)
        if size > 0:
            drafts = [Draft(scopes=(b"tstorm-%d" % at,), author="storm") for at in range(number, number + size)]
            await store.link.run([store.append_command(region, draft, 0) for draft in drafts])
            number += size
        if not options.count:
            await asyncio.sleep(TICK)
    return number


async def main() -> None:
    """Pour, and print how many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, help="of the region's Valkey on this machine")
    parser.add_argument("region", help="its name")
    parser.add_argument("--rate", type=int, default=0, help="purges a second")
    parser.add_argument("--seconds", type=float, default=0.0, help="for so long")
    parser.add_argument("--count", type=int, default=0, help="or so many as fast as they are taken")
    options = parser.parse_args()
    link = Link(Access(parse_url(f"valkey://127.0.0.1:{options.port}"), 5.0))
    try:
        print(await pour(LogStore(link, 2_000_000), options.region, options))
    finally:
        await link.close()


if __name__ == "__main__":
    asyncio.run(main())
