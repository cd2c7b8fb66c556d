"""The four scenarios. Each is a class of locust users that visit, purge or write, and check what comes of it."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import choice, randrange, sample
from typing import Any, ClassVar, Final
from urllib.parse import quote

import gevent
from locust import task
from locust.exception import StopUser

from loadtests.lab import objects
from loadtests.locust import traces
from loadtests.locust.report import LATE, PURGED
from loadtests.locust.traces import Request
from loadtests.locust.visitor import Load, Visitor

LONG: Final = 3600  # seconds: an object that does not expire during a run
READS_PER_STORM: Final = 30


class Zipf(Visitor):
    """Browsing: what a recorded trace asks, or Zipf's law. One object in ten has a variant per language."""

    requests: ClassVar[Iterator[Request]] = iter(())

    @classmethod
    def prepare(cls, load: Load) -> None:
        """Read the trace, of which this process asks its share; raises what `read_trace` does."""
        share, shares = load.place
        if load.options.trace:
            recorded = traces.read_trace(Path(load.options.trace), load.options.trace_requests)
            cls.requests = traces.from_trace(recorded, share, shares)
        else:
            cls.requests = iter(traces.Zipf(load.options.objects, load.options.alpha, seed=share))

    @task
    def browse(self) -> None:
        """The next request of the trace."""
        name, size = next(self.requests, ("", 0))
        if not size:
            raise StopUser
        varies = zlib.crc32(name.encode()) % 10 == 0
        orders = {"size": min(size, self.load.options.largest), "ttl": LONG, **({"vary": 1} if varies else {})}
        self.read(
            self.any_edge(), objects.target("zipf", quote(name, safe=""), **orders), language=choice(objects.LANGUAGES)
        )


class Flash(Visitor):
    """A crowd that comes at once: for an object that nobody has, and for the same just after it has expired.

    The clock calls them together, so that crowds meet across the processes that make the load.
    """

    SLOT: ClassVar = 3.0  # seconds from one cold object to the next
    EXPIRED: ClassVar = 1.6  # seconds into the slot: it was fresh for one second, after a delay of 0.3

    def wait_time(self) -> float:
        """No pause: the task waits."""
        return 0.0

    @task
    def crowd(self) -> None:
        """One object, cold and expired."""
        slot = math.floor(time.time() / self.SLOT) + 1
        target = objects.target("crowd", str(slot), size=65_536, ttl=1, delay=300)
        self._come("cold", slot * self.SLOT, target)
        self._come("expired", slot * self.SLOT + self.EXPIRED, target)

    def _come(self, state: str, at: float, target: str) -> None:
        gevent.sleep(max(0.0, at - time.time()))
        if time.time() - at < self.SLOT / 2:  # else a stalled machine has made us miss it
            self.load.tally.counts[f"asked for {state} objects"] += 1
            self.read(self.any_edge(), target)


class Purge(Visitor):
    """A storm of purges by tag among readers: once all have acknowledged one, nothing older may come from any edge."""

    TAGS: ClassVar = 20
    OBJECTS: ClassVar = 8  # of each tag
    LOOKED_AT: ClassVar = 3  # objects, of every edge, before and right after a purge

    @task(READS_PER_STORM)
    def visit(self) -> None:
        """Any object of any edge."""
        self._visit(self._tag(), randrange(self.OBJECTS), self.any_edge())

    @task(1)
    def storm(self) -> None:
        """New versions of all objects of a tag, its purge, and at once a look at every edge for what it had before."""
        tag, load = self._tag(), self.load
        looks = [(number, edge) for number in sample(range(self.OBJECTS), self.LOOKED_AT) for edge in load.edges]
        for number, edge in looks:
            self._visit(tag, number, edge)
        version = self.bump(tag)
        if version and self._purge(tag):
            load.floors.rise(tag, version, time.monotonic())
            for number, edge in looks:
                self._visit(tag, number, edge)

    def _purge(self, tag: str) -> bool:
        """Purge by tag at any edge, and wait until all have applied it."""
        options = self.load.options
        fields = {"Authorization": f"Bearer {options.admin_token}"}
        url = f"{choice(self.load.admins)}/purges?wait=all"
        return self.ask(PURGED, "POST", url, (201,), json={"tags": [tag]}, headers=fields) is not None

    def _tag(self) -> str:
        return f"tag-{self.load.name}-{randrange(self.TAGS)}"

    def _visit(self, tag: str, number: int, edge: str) -> None:
        delay = 20 * (number % 4)  # so that purges meet fills under way, which looked at the version before
        target = objects.target(tag, str(number), size=2000, ttl=LONG, delay=delay)
        version = self.read(edge, target, self.load.floors.least(tag, time.monotonic()))
        late = self.load.floors.lateness(tag, version, time.monotonic()) if version else 0.0
        if late:
            self.load.tally.time(LATE, 1000 * late)


class Write(Visitor):
    """Writes through one edge, read through the others: with the token at once, without it within the bound."""

    OBJECTS: ClassVar = 100
    POLL: ClassVar = 0.005  # seconds
    TOKEN: ClassVar = "Edgecache-Token"

    @task(4)
    def visit(self) -> None:
        """Any object of any edge, without a token: at most the bound behind."""
        target = self._target()
        self.read(self.any_edge(), target, self.load.floors.least(target, time.monotonic()))

    @task(1)
    def write_then_read_with_token(self) -> None:
        """What one wrote is what one reads, everywhere and at once, with the token."""
        edge, target = self.any_edge(), self._known_target()
        version, token = self._write(edge, target)
        if not version:
            return
        if not token:
            self.load.tally.error(f"no {self.TOKEN} with the answer to a PUT")
        for reader in self.load.edges:
            self.load.tally.counts["reads with a token"] += 1
            self.read(reader, target, version, more={self.TOKEN: token} if token else None)

    @task(1)
    def write_then_read_without(self) -> None:
        """Without the token: at once in the region of the write, and elsewhere within the bound."""
        edge, target = self.any_edge(), self._known_target()
        version, _ = self._write(edge, target)
        if not version:
            return
        if self.load.options.write_ack != "local":
            self.read(edge, target, version)
        waits = [gevent.spawn(self._until_new, reader, target, version) for reader in self.load.edges if reader != edge]
        gevent.joinall(waits, raise_error=True)

    def _until_new(self, edge: str, target: str, version: int) -> None:
        """Read until the write is seen, and say how long it took; beyond the bound it is an old answer."""
        began = time.monotonic()
        bound = 0.0 if self.load.options.write_ack == "all" else self.load.options.bound
        while True:
            asked = time.monotonic()
            seen = self.read(edge, target, version if asked - began >= bound else 1)
            if not seen or seen >= version or asked - began >= bound:
                break
            gevent.sleep(self.POLL)
        if seen >= version:
            self.load.tally.time("write seen elsewhere without a token", 1000 * (time.monotonic() - began))

    def _write(self, edge: str, target: str) -> tuple[int, str]:
        """PUT; the version that it made and the token, or 0."""
        fields = {"Host": self.load.options.site, "Content-Type": "text/plain"}
        response = self.ask("write", "PUT", edge + target, (200,), data="new", headers=fields)
        if response is None:
            return 0, ""
        document: dict[str, Any] = response.json()
        version = int(document["version"])
        self.load.floors.rise(target, version, time.monotonic() + self.load.options.bound)
        token = response.headers.get(self.TOKEN, "") if response.headers is not None else ""
        self.client.cookiejar.clear()  # a token in a cookie would come along with every request
        return version, str(token)

    def _known_target(self) -> str:
        """An object that every edge has."""
        target = self._target()
        for edge in self.load.edges:
            self.read(edge, target, self.load.floors.least(target, time.monotonic()))
        return target

    def _target(self) -> str:
        number = randrange(self.OBJECTS)
        return objects.target(f"write-{self.load.name}", str(number), size=2000, ttl=LONG, delay=10 * (number % 3))
