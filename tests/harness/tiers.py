"""One POP or two, so that what the first stores is served out of memory, the regional tier or a parent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from harness.origin import OriginDouble
from harness.pop import Pop, running_pop

TIERS: Final = ("memory", "regional", "parent")


@asynccontextmanager
async def pops(origin: OriginDouble, tier: str, url: str, **settings: object) -> AsyncIterator[tuple[Pop, Pop]]:
    """The POP by which things come in, and the one that is asked for them then."""
    common: dict[str, object] = {"pop_secret": "a-secret-of-this-fleet", **settings}
    if tier == "regional":
        common |= {"regional": url, "regional_timeout": "2s", "max_object_memory": "100KiB"}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_pop(origin, origin.clock, pop="first", **common))
        if tier == "memory":
            yield first, first
            return
        parents = {"parents": f"http://127.0.0.1:{first.port}"} if tier == "parent" else {}
        second = await stack.enter_async_context(running_pop(origin, origin.clock, pop="second", **common, **parents))
        if tier == "regional":
            await first.caught_up()
            await second.caught_up()
        yield first, second
