"""A store on disk that holds a tenth of what is requested, beside the caches of other servers with as much."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from loadtests.bench import heads, peers, rawload
from loadtests.bench.peers import Contestant
from loadtests.bench.processes import probe
from loadtests.lab import processes, procstat
from loadtests.lab.processes import Process, StartError
from loadtests.locust.traces import Request, Zipf, read_trace

MIB: Final = 1024 * 1024
PART: Final = 10  # of the bytes of all objects, that the store has
LEAST: Final = 64 * MIB  # of a store: a trace of less has its sizes multiplied
LARGEST: Final = 8 * MIB  # bytes of one object
OBJECTS: Final = 20_000  # of the synthetic trace
MEMORY: Final = "16MiB"


@dataclass(frozen=True)
class Outcome:
    """Shares of hits, CPU microseconds a request, and bytes written for each one stored."""

    hits: float
    bytes: float
    cpu: float
    written: float


def compare(trace: Path | None, count: int, origin: int, directory: Path) -> dict[str, Outcome]:
    """Have each server answer the same requests, with a cache of the same size."""
    requests, size = _scaled(_requests(trace, count))
    settings = {"EDGECACHE_STORE": f"disk:{directory / 'kept'}", "EDGECACHE_STORE_SIZE": str(size)}
    contestants = [peers.edgecache(None, {**settings, "EDGECACHE_MEMORY": MEMORY}, "edgecache")]
    if peers.installed(["nginx"])[0]:
        contestants.append(Contestant("nginx", peers.nginx_of(size // MIB)))
    print(f"{len(requests):,} requests, {size // MIB} MiB of cache for {PART} times as many bytes")
    found = {one.name: _measured(one, requests, origin, directory / one.name) for one in contestants}
    found["LRU of that size (computed)"] = _computed(requests, size)
    found["a cache of any size (computed)"] = _computed(requests, 1 << 62)
    return found


def _computed(requests: Sequence[Request], size: int) -> Outcome:
    """What a plain LRU would have: nginx looks at its size every ten seconds only, so a short run is no fair one."""
    cache: LRUCache[str, int] = LRUCache(size, getsizeof=int)
    hits = hit_bytes = 0
    for name, length in requests:
        if name in cache:
            hits, hit_bytes = hits + 1, hit_bytes + cache[name]
        else:
            cache[name] = length
    return Outcome(hits / len(requests), hit_bytes / sum(length for _, length in requests), 0.0, 0.0)


def _requests(trace: Path | None, count: int) -> list[Request]:
    if trace is not None:
        try:
            return read_trace(trace, count)
        except (OSError, EOFError, ValueError) as error:
            raise StartError(f"{trace.name}: {error}") from None
    return list(itertools.islice(Zipf(OBJECTS, 0.9, 1), count))


def _scaled(requests: Sequence[Request]) -> tuple[list[Request], int]:
    """The requests, and bytes of a store for a tenth of what they name; multiplied if those would be too few."""
    footprint = sum(dict(requests).values())
    factor = max(1.0, PART * LEAST / footprint)
    scaled = [(name, min(LARGEST, int(size * factor))) for name, size in requests]
    sizes = dict(scaled)  # an object has one size: the last that is said
    return [(name, sizes[name]) for name, _ in scaled], max(LEAST, sum(sizes.values()) // PART) // MIB * MIB


def _measured(contestant: Contestant, requests: Sequence[Request], origin: int, directory: Path) -> Outcome:
    asked = [heads.request("GET", f"/b/{size}-{name}") for name, size in requests]
    sent = sum(size for _, size in requests)
    with contestant.command(directory, origin) as running:
        begun, before = _counts(origin), running.cpu()
        load = rawload.run(running.port, asked, connections=8)
        if load.problems:
            raise StartError(f"{contestant.name}: {'; '.join(load.problems)}")
        ran, (fetched, fetched_bytes) = procstat.cpu_between(before, running.cpu()).ran_ns, _counts(origin)
        written = _amplification(running)
    hits = 1 - (fetched - begun[0]) / len(asked)
    return Outcome(hits, 1 - (fetched_bytes - begun[1]) / sent, ran / 1000 / len(asked), written)


def _counts(origin: int) -> tuple[int, int]:
    """Requests, and bytes of bodies, that the origin has answered."""
    requests, sent = probe(origin, "GET", "/count").body.split()
    return int(requests), int(sent)


def _amplification(running: Process) -> float:
    """As the POP's metrics have it; 0 for another server."""
    port = int(running.env.get("EDGECACHE_ADMIN_LISTEN", ":0").rpartition(":")[2])  # of a POP
    if not port:
        return 0.0
    text = processes.probe(port, "GET", "/metrics").body.decode()
    values = {name: _value(text, name) for name in ("edgecache_store_written_bytes", "edgecache_store_stored_bytes")}
    return values["edgecache_store_written_bytes"] / (values["edgecache_store_stored_bytes"] or 1.0)


def _value(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}_total"))
