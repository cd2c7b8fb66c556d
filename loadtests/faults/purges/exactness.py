"""How exact and how soon: old answers after an acknowledgement, from the acknowledgement to the last old byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.faults.purges.wire import Wire
from loadtests.faults.purges.world import Region, World, converged, world
from loadtests.lab.objects import target

EVERY = 0.01  # seconds between two polls of one kind
KINDS = {  # how each object is asked for
    "plain": ("GET", "", {}),
    "range": ("GET", "Range: bytes=0-99\r\n", {}),
    "head": ("HEAD", "", {}),
    "de": ("GET", "Accept-Language: de\r\n", {"vary": 1}),
    "fr": ("GET", "Accept-Language: fr\r\n", {"vary": 1}),
    "swr": ("GET", "", {"ttl": 1, "swr": 3600}),
    "stale": ("GET", "Cache-Control: max-stale=60\r\n", {"ttl": 1}),
}


@dataclass
class Poll:
    """What one poller saw: when it asked, when it had the answer, which version."""

    seen: list[tuple[float, float, int]] = field(default_factory=list)
    errors: int = 0


class Pollers:
    """Ask every region for every kind of object, every 10 ms."""

    def __init__(self, regions: list[Region], tag: str) -> None:
        self.polls: list[Poll] = []
        self._tasks: list[asyncio.Task[None]] = []
        for region in regions:
            for kind, (method, fields, orders) in KINDS.items():
                poll = Poll()
                self.polls.append(poll)
                place = target(tag, kind, size=300, **{"ttl": 3600, **orders})
                self._tasks.append(asyncio.create_task(self._run(poll, region.port, method, place, fields)))  # noqa: TID251

    async def _run(self, poll: Poll, port: int, method: str, place: str, fields: str) -> None:
        wire = Wire(port)
        now = asyncio.get_running_loop().time
        try:
            while True:
                began = now()
                try:
                    got = await wire.ask(method, place, fields)
                    poll.seen.append((began, now(), int(got.field(b"Object-Version") or 0)))
                    poll.errors += got.status not in (200, 206)
                except (OSError, asyncio.IncompleteReadError):
                    poll.errors += 1
                await asyncio.sleep(max(0.0, EVERY - (now() - began)))
        finally:
            await wire.close()

    async def all_have(self, version: int, within: float = 10.0) -> None:
        """Wait until every poller has seen this version."""
        async with asyncio.timeout(within):
            while not all(poll.seen and poll.seen[-1][2] >= version for poll in self.polls):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def old_after(self, acknowledged: float, version: int) -> int:
        """Answers older than `version` to requests that began after the acknowledgement."""
        return sum(1 for poll in self.polls for began, _, got in poll.seen if began > acknowledged and got < version)

    def last_old(self, acknowledged: float, version: int) -> float:
        """Seconds from the acknowledgement to the last byte of an older answer; 0 if there was none after it."""
        ends = [end for poll in self.polls for _, end, got in poll.seen if got < version and end > acknowledged]
        return max(ends, default=acknowledged) - acknowledged

    def forget(self) -> None:
        """Drop what was seen, but for the last of each."""
        for poll in self.polls:
            del poll.seen[:-1]

    @property
    def asked(self) -> int:
        """Polls so far, since the last `forget`."""
        return sum(len(poll.seen) for poll in self.polls)

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Exactness:
    """The figures of one delay."""

    delay: float
    purges: int = 0
    polled: int = 0
    old: int = 0  # answers, after acknowledgement by all
    errors: int = 0
    last_old: list[float] = field(default_factory=list)  # seconds after acknowledgement in the region
    waits: list[float] = field(default_factory=list)  # seconds until all had acknowledged


async def exactness(folder: Path, delay: float, purges: int) -> Exactness:
    """Purge by URL and by tag, in every region in turn, while all regions are polled."""
    result = Exactness(delay)
    async with world(folder) as all_regions:
        for region in all_regions.all:
            region.set_delay(delay)
        await converged(all_regions, 20)
        await _purge_and_poll(all_regions, result, purges)
    return result


async def _purge_and_poll(everywhere: World, result: Exactness, purges: int) -> None:
    now = asyncio.get_running_loop().time
    tag = "exact"
    pollers = Pollers(everywhere.all, tag)
    origin = Wire(everywhere.origin_port)
    version = 1
    try:
        await pollers.all_have(1)
        for number in range(purges):
            region = everywhere.all[number % len(everywhere.all)]
            what = {"tags": [tag]} if number % 2 else {"urls": _urls(tag)}
            waits_for_all = number % 4 >= 2
            version += 1
            await origin.ask("POST", f"/_origin/bump?tag={tag}")
            began = now()
            answer = await region.purge(what, "all" if waits_for_all else "none")
            acknowledged = now()
            await pollers.all_have(version)
            if waits_for_all:
                if answer["status"] != 201:
                    raise RuntimeError(f"not acknowledged by all: {answer}")
                result.waits.append(acknowledged - began)
                result.old += pollers.old_after(acknowledged, version)
            else:
                result.last_old.append(pollers.last_old(acknowledged, version))
            result.purges += 1
            result.polled += pollers.asked
            pollers.forget()
        result.errors = sum(poll.errors for poll in pollers.polls)
    finally:
        await pollers.stop()
        await origin.close()


def _urls(tag: str) -> list[str]:
    places = (target(tag, kind, size=300, **{"ttl": 3600, **orders}) for kind, (_, _, orders) in KINDS.items())
    return [f"http://www.example.test{place}" for place in places]


@dataclass
class CutOff:
    """The figures of a region that was cut off."""

    purges: int = 0
    converged: float = 0.0  # seconds after healing
    old: int = 0  # answers after that
    asked: int = 0


async def cut_off(folder: Path, purges: int, delay: float = 0.04, **settings: str) -> CutOff:
    """Cut one region off, purge in another, heal, and ask the first for everything that was purged."""
    result = CutOff(purges)
    async with world(folder, **settings) as everywhere:
        for region in everywhere.all:
            region.set_delay(delay)
        await converged(everywhere, 20)
        eu, _, ap = everywhere.all
        places = [target("cut", f"{number}", ttl=3600, size=200) for number in range(purges)]
        await _ask_all(ap, places)
        origin = Wire(everywhere.origin_port)
        for region in everywhere.all:
            for name, link in region.links.items():
                if "ap" in (region.name, name):
                    link.up.blackhole = link.down.blackhole = True
        await origin.ask("POST", "/_origin/bump?tag=cut")
        for place in places:
            await eu.purge({"urls": [f"http://www.example.test{place}"]})
        for region in everywhere.all:
            region.set_delay(delay)
        result.converged = await converged(everywhere, 30)
        versions = await _ask_all(ap, places)
        result.asked, result.old = len(versions), sum(version < 2 for version in versions)
        await origin.close()
    return result


async def _ask_all(region: Region, places: list[str], at_once: int = 8) -> list[int]:
    """The version that each of these has in a region."""
    versions: list[int] = []

    async def some(start: int) -> list[int]:
        wire = Wire(region.port)
        answers = [await wire.ask("GET", place) for place in places[start::at_once]]
        await wire.close()
        return [int(got.field(b"Object-Version") or 0) for got in answers]

    for found in await asyncio.gather(*(some(start) for start in range(at_once))):
        versions += found
    return versions
