"""A POP with sites, in front of so many origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from edgecache.config.settings import load
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import Pop, environment, running_pop

STORED = [("Cache-Control", "max-age=60")]


class Sites:
    """The POP, and its origins by number."""

    def __init__(self, pop: Pop, origins: list[OriginDouble]) -> None:
        self.pop = pop
        self.origins = origins

    async def get(self, target: str, host: str = "a.test", *fields: tuple[str, str]) -> bytes:
        """The body of one GET, which must be answered with 200."""
        response = await self.pop.get(target, ("Host", host), *fields)
        assert response.status == 200, (target, response.status, response.body)
        return response.body

    def targets(self, number: int = 0) -> list[str]:
        """The targets that an origin was asked for."""
        return [request.target for request in self.origins[number].requests]

    async def reload(self, text: str, **settings: object) -> None:
        """Go on with another text of sites."""
        await self.pop.worker.reload(load(environment(self.origins[0].url, {"sites": text, **settings}.items())))


def site(text: str, name: str = "a", host: str = "") -> str:
    """One site with these lines."""
    return f'[[sites]]\nname = "{name}"\nhosts = ["{host or name + ".test"}"]\n{text}\n'


@asynccontextmanager
async def sites(text: str, count: int = 1, **settings: object) -> AsyncIterator[Sites]:
    """`{0}`, `{1}` … in `text` are the URLs of the origins, each of which answers with its number."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(running_origin(clock)) for _ in range(count)]
        for number, origin in enumerate(origins):
            origin.otherwise(Reply(fields=STORED, body=b"%d" % number))
        text = filled(text, origins)
        yield Sites(await stack.enter_async_context(running_pop(origins[0], clock, sites=text, **settings)), origins)


def filled(text: str, origins: list[OriginDouble]) -> str:
    """`text` with the URLs of the origins for `{0}`, `{1}` …"""
    for number, origin in enumerate(origins):
        text = text.replace(f"{{{number}}}", origin.url)
    return text
