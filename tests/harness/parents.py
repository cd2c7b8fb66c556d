"""Edges before shields: POPs in process that are parents and children of each other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from edgecache.upstream.parent_selection import Parents
from harness.client import ReceivedResponse
from harness.fault_proxy import FaultProxy, running_proxy
from harness.origin import OriginDouble
from harness.pop import Pop, running_pop

SECRET = "a-secret-of-this-fleet"


class Chain:
    """Edges, the shields that are their parents, and a fault proxy before each shield."""

    def __init__(self, edges: list[Pop], shields: list[Pop], ways: list[FaultProxy]) -> None:
        self.edges = edges
        self.shields = shields
        self.ways = ways
        self.now = time.monotonic()
        for edge in edges:
            parents_of(edge).clock = lambda: self.now

    @property
    def edge(self) -> Pop:
        """The only edge, or the first."""
        return self.edges[0]

    @property
    def parents(self) -> Parents:
        """Its parents, as the product has them."""
        return parents_of(self.edge)

    async def get(self, target: str, *fields: tuple[str, str]) -> ReceivedResponse:
        """One GET of the first edge."""
        return await self.edge.get(target, *fields)


def parents_of(pop: Pop) -> Parents:
    """The product's."""
    parents: Parents = pop.worker.parents
    return parents


HEARD: dict[int, list[str]] = {}  # the targets that POPs were asked by their children, by port


def answered(pop: Pop) -> int:
    """How many questions of children a POP has had."""
    return len(HEARD[pop.port])


def listen_to(pop: Pop) -> None:
    """Note what `pop` is asked by its children."""
    heard = HEARD[pop.port] = []
    hear = pop.worker.children.hear

    def noting(exchange: Any, client: Any, child: Any) -> None:
        heard.append(exchange.request.target.decode())
        hear(exchange, client, child)

    pop.worker.children.hear = noting


@asynccontextmanager
async def chain(
    origin: OriginDouble, shields: int = 1, edges: int = 1, parents: dict[str, Any] | None = None, **settings: object
) -> AsyncIterator[Chain]:
    """So many edges before so many shields before the origin; `parents` are settings of the shields alone."""
    async with AsyncExitStack() as stack:
        common = {"pop_secret": SECRET, "region": "eu", **settings}
        above = [
            await stack.enter_async_context(
                running_pop(origin, **{**common, "pop": f"shield-{number}", **(parents or {})})
            )
            for number in range(shields)
        ]
        for pop in above:
            listen_to(pop)
        ways = [await stack.enter_async_context(running_proxy(pop.port)) for pop in above]
        place = f"{parents['region']}=" if parents and "region" in parents else ""
        urls = ",".join(f"{place}http://127.0.0.1:{way.port}" for way in ways)
        below = [
            await stack.enter_async_context(running_pop(origin, parents=urls, **{**common, "pop": f"edge-{number}"}))
            for number in range(edges)
        ]
        yield Chain(below, above, ways)
