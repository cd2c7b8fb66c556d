"""A POP with two sites, each in front of its own origin double."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import Pop, running_pop


@asynccontextmanager
async def two_sites(
    rules: str = "", more: str = "", **settings: object
) -> AsyncIterator[tuple[Pop, OriginDouble, OriginDouble]]:
    """A POP of the sites a.test and b.test, and their origins; `rules` are those of a.test."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(running_origin(clock)) for _ in range(2)]
        for name, origin in zip("ab", origins, strict=True):
            origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=f"of {name}".encode()))
        text = f"""
[[sites]]
name = "a"
hosts = ["a.test", "*.a.test"]
origin = "{origins[0].url}"
{rules}
[[sites]]
name = "b"
hosts = ["b.test"]
origin = "{origins[1].url}"
{more}
"""
        yield await stack.enter_async_context(running_pop(origins[0], clock, sites=text, **settings)), *origins
