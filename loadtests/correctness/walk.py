"""The random walk: visitors, writers and purgers, all at once, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.correctness.client import Client, Cut, Received
from loadtests.correctness.content import BOUNDS, LANGUAGES, Resource
from loadtests.correctness.history import History
from loadtests.correctness.judge import Asked, problem
from loadtests.correctness.origin import WRITE_FIELD, Content

Purge = Callable[[str, str, bool], Awaitable[bool]]  # (target or empty, tag or empty, soft) → acknowledged

VISITORS: Final = 16
PUBLISH: Final = 0.04  # of the steps
WRITE: Final = 0.04
PRIVATE: Final = 0.03
SLOW: Final = 0.04
LEAVE: Final = 0.04
MOST_SHOWN: Final = 20


@dataclass
class Tally:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # the first of them, in words
    kinds: Counter[str] = field(default_factory=Counter)  # all of them, by what was wrong

    @property
    def responses(self) -> int:
        """How many responses were judged."""
        return sum(count for name, count in self.counts.items() if name.startswith(("GET", "HEAD")))

    def fail(self, what: str, request: str) -> None:
        """One response was wrong: `what`, of which `request`."""
        self.counts["wrong"] += 1
        self.kinds[re.sub(r"\d+(\.\d+)?", "N", what)] += 1
        if len(self.wrong) < MOST_SHOWN:
            self.wrong.append(f"{request}: {what}")


@dataclass
class Walk:
    """A random walk over `content` through POPs on `ports`, `hops` POPs deep, until `requests` were made."""

    content: Content
    ports: Sequence[int]
    purge: Purge
    requests: int
    seed: int
    hops: int = 1
    tally: Tally = field(default_factory=Tally)
    progress: Callable[[Tally], None] = lambda _: None

    async def run(self) -> Tally:
        """Walk; what happened."""
        self._left = itertools.count(self.requests, -1)
        self._writes = itertools.count()
        shared = [one for one in self.content.histories.values() if not one.resource.private]
        weights = [1.0 / (1 + rank) for rank in range(len(shared))]
        random.Random(self.seed).shuffle(weights)
        self._shared, self._weights = shared, weights
        self._private = [one for one in self.content.histories.values() if one.resource.private]
        async with asyncio.TaskGroup() as visitors:
            for number in range(VISITORS):
                visitors.create_task(self._visit(number))
        if self.content.repeated:
            self.tally.fail(f"{self.content.repeated} writes reached the origin twice", "all")
        return self.tally

    async def _visit(self, number: int) -> None:
        draw = random.Random(f"{self.seed} {number}")
        client = Client(self.ports[number % len(self.ports)])
        try:
            while (left := next(self._left)) > 0:
                if left % 500 == 0:
                    self.progress(self.tally)
                await self._step(draw, client, number)
        finally:
            await client.close()

    async def _step(self, draw: random.Random, client: Client, number: int) -> None:
        step = draw.random()
        history = draw.choices(self._shared, self._weights)[0]
        if step < PUBLISH:
            await self._publish(draw, history)
        elif step < PUBLISH + WRITE:
            await self._write(draw, client, history)
        elif step < PUBLISH + WRITE + PRIVATE:
            await self._get(draw, client, draw.choice(self._private), number)
        else:
            await self._get(draw, client, history, number)

    async def _publish(self, draw: random.Random, history: History) -> None:
        """The origin changes by itself, and somebody purges: the URL or the tag, hard or soft."""
        soft, by_tag = draw.random() < 0.5, draw.random() < 0.2
        tag = history.resource.tag
        touched = [one for one in self._shared if one.resource.tag == tag] if by_tag else [history]
        history.publish(time.monotonic())
        present = [(one, one.present) for one in touched]
        acknowledged = await self.purge("" if by_tag else history.resource.target, tag if by_tag else "", soft)
        self.tally.counts["soft purges" if soft else "hard purges"] += 1
        if not acknowledged:
            self.tally.fail("not acknowledged", f"purge of {history.resource.target}")
            return
        now = time.monotonic()
        for one, version in present:
            one.promise(now, version, f"{'soft' if soft else 'hard'} purge by {'tag' if by_tag else 'URL'}", soft=soft)

    async def _write(self, draw: random.Random, client: Client, history: History) -> None:
        """A write through the POP: whoever asks after its response gets what it made, or something newer."""
        method = draw.choice(("PUT", "POST", "PATCH", "DELETE"))
        fields = {WRITE_FIELD: f"{self.seed}-{next(self._writes)}"}
        try:
            got = await client.ask(method, history.resource.target, fields, b"x" * draw.choice((0, 100, 100_000)))
        except Cut as error:
            self.tally.fail(f"cut ({error})", f"{method} {history.resource.target}")
            return
        self.tally.counts["writes"] += 1
        if got.status != 200:
            self.tally.fail(f"status {got.status}", f"{method} {history.resource.target}")
            return
        if got.fields.get("edgecache-invalidation", "all") == "all":  # without a regional tier it says nothing
            history.promise(time.monotonic(), int(got.body), f"{method} to port {client.port}")
        else:  # it says itself that some POP may not know yet
            self.tally.counts["writes not known to all"] += 1

    async def _get(self, draw: random.Random, client: Client, history: History, number: int) -> None:
        asked = self._asked(draw, history, number)
        leave = draw.randrange(history.resource.size + 1) if draw.random() < LEAVE else -1
        slow = draw.random() * 0.02 if draw.random() < SLOW else 0.0
        asked.began = time.monotonic()
        try:
            got = await client.ask(asked.method, history.resource.target, asked.fields, slow=slow, leave=leave)
        except Cut as error:
            self.tally.counts["cut"] += 1
            if not history.resource.flaky:
                self.tally.fail(f"cut ({error})", _shown(asked))
            return
        asked.ended = time.monotonic()
        self._judge(asked, got)

    def _judge(self, asked: Asked, got: Received) -> None:
        self.tally.counts[f"{asked.method} {got.status}"] += 1
        if "hit" in got.fields.get("cache-status", ""):
            self.tally.counts["hits"] += 1
        if got.left:
            self.tally.counts["left"] += 1
        if wrong := problem(asked, got, self.hops):
            said = f"{got.status} {got.fields.get('cache-status', '')}"
            self.tally.fail(f"{wrong} [{said}]", _shown(asked))

    def _asked(self, draw: random.Random, history: History, number: int) -> Asked:
        resource = history.resource
        fields = {}
        language = draw.choice((*LANGUAGES, "xx"))
        if resource.varies or draw.random() < 0.1:
            fields["Accept-Language"] = language
        cookie = f"visitor={number}.{draw.randrange(1 << 30)}" if resource.private or draw.random() < 0.3 else ""
        if cookie:
            fields["Cookie"] = cookie
        asked = Asked("HEAD" if draw.random() < 0.12 else "GET", history, fields.get("Accept-Language", ""), fields)
        asked.cookie = cookie
        if resource.private:
            return asked
        version = max(0, history.present - draw.randrange(3))
        entity_tag = resource.entity_tag(version, resource.variant(asked.language))
        kind = draw.random()
        if kind < 0.3 and asked.method == "GET":
            asked.ranges = ranges(draw, resource)
            fields["Range"] = "bytes=" + ", ".join(_range_text(one) for one in asked.ranges)
            if entity_tag and resource.etag == "strong" and draw.random() < 0.3:
                fields["If-Range"] = entity_tag
        elif kind < 0.45 and entity_tag:
            fields["If-None-Match"] = entity_tag
        return asked


def ranges(draw: random.Random, resource: Resource) -> list[tuple[int, int]]:
    """One to three ranges, often at a bound."""
    size = resource.size
    edges = [0, 1, size - 2, size - 1, size, *BOUNDS, size // 2]

    def place() -> int:
        return max(0, draw.choice(edges) + draw.randrange(-2, 3) if draw.random() < 0.6 else draw.randrange(size + 2))

    found = []
    for _ in range(draw.choice((1, 1, 1, 1, 2, 3))):
        kind = draw.random()
        if kind < 0.15:
            found.append((-1, 1 + draw.randrange(size + 5)))
        elif kind < 0.3:
            found.append((place(), -1))
        else:
            one, other = place(), place()
            found.append((min(one, other), max(one, other)))
    return found


def _range_text(span: tuple[int, int]) -> str:
    first, last = span
    return f"-{last}" if first < 0 else f"{first}-{last if last >= 0 else ''}"


def _shown(asked: Asked) -> str:
    resource = asked.history.resource
    fields = ", ".join(f"{name}: {value}" for name, value in asked.fields.items() if name != "Cookie")
    return f"{asked.method} {resource.target} ({resource.size} bytes, ttl {resource.ttl}) {fields}".rstrip()
