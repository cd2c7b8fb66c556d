"""Purges and freshness on a clock that runs: no two readings of it are the same, as in production."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from harness.clock import RunningClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.storage.regional_chunks import CHUNK

TOKEN = "a-token-that-may-purge"
SOFT = [("Authorization", f"Bearer {TOKEN}"), ("Fastly-Soft-Purge", "1")]
RANGE = ("Range", "bytes=1-2")
OTHER_TAG = ("If-None-Match", '"0"')


class Site:
    """Every page says its version, validates, and knows the range that is asked for here."""

    def __init__(self) -> None:
        self.version = 1
        self.fields = [("Cache-Control", "max-age=3600")]
        self.size = 6

    @property
    def content(self) -> bytes:
        """What every page says now."""
        return b"%06d" % self.version * (self.size // 6)

    def __call__(self, request: ReceivedRequest) -> Reply:
        """The answer."""
        etag = ("ETag", f'"{self.version}"')
        if request.get("If-None-Match") == etag[1]:
            return Reply(304, [*self.fields, etag])
        if request.get("Range"):
            span = ("Content-Range", f"bytes 1-2/{len(self.content)}")
            return Reply(206, [*self.fields, etag, span], self.content[1:3])
        return Reply(200, [*self.fields, etag], self.content)


@pytest.fixture
def site() -> Site:
    """What the origin serves."""
    return Site()


@pytest_asyncio.fixture
async def origin(site: Site) -> AsyncIterator[OriginDouble]:
    """An origin whose clock, and that of the POPs before it, runs."""
    async with running_origin(RunningClock()) as double:
        double.otherwise(site)
        yield double


async def purged_softly(pop: Pop, target: str) -> None:
    """Purge `target` softly, acknowledged."""
    assert (await pop.request("PURGE", target, *SOFT)).status == 200


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", []),
        ("HEAD", []),
        ("GET", [RANGE]),
        ("GET", [OTHER_TAG]),
        ("GET", [("If-None-Match", '"1"')]),
        ("GET", [("Cookie", "a=1")]),
        ("GET", [("Cache-Control", "max-age=1000")]),
    ],
)
@pytest.mark.parametrize("vary", [[], [("Vary", "X-A")]], ids=["one", "variants"])
async def test_a_soft_purge_is_followed_by_no_old_answer(
    origin: OriginDouble, site: Site, method: str, fields: list[tuple[str, str]], vary: list[tuple[str, str]]
) -> None:
    """What was softly purged is validated before its next use, by whatever kind of request."""
    site.fields += vary
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}") as pop:
        for number in range(5):
            target = f"/{number}"
            for _ in range(3):  # so that the head is known
                await pop.request(method, target, *fields)
                await pop.get(target)
            site.version += 1
            await purged_softly(pop, target)
            asked = len(origin.requests)
            answer = await pop.request(method, target, *fields)

            assert "hit" not in (answer.get("Cache-Status") or "")
            assert len(origin.requests) > asked
            assert answer.status != 304 or "If-None-Match" not in dict(fields)
            assert answer.get("ETag") == f'"{site.version}"'


async def test_a_part_that_was_softly_purged_is_asked_for_again(origin: OriginDouble, site: Site) -> None:
    """So is a range of which only that part is stored."""
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}") as pop:
        for number in range(5):
            await pop.get(f"/{number}", RANGE)
            assert "hit" in ((await pop.get(f"/{number}", RANGE)).get("Cache-Status") or "")
            site.version += 1
            await purged_softly(pop, f"/{number}")

            assert (await pop.get(f"/{number}", RANGE)).get("ETag") == f'"{site.version}"'


@pytest.mark.parametrize("size", [6, 3 * CHUNK], ids=["in its record", "in chunks"])
@pytest.mark.parametrize("fields", [[], [RANGE]], ids=["whole", "range"])
async def test_nor_out_of_the_regional_tier(
    origin: OriginDouble, site: Site, valkey: Server, size: int, fields: list[tuple[str, str]]
) -> None:
    """A POP whose memory has nothing, or not any more, validates too."""
    site.size = size
    settings = {"regional": valkey.url, "regional_timeout": "2s", "max_object_memory": "100KiB"}
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}", **settings) as pop:
        await pop.caught_up()
        memory = pop.worker.edge.memory
        for number in range(5):
            target = f"/{number}"
            await pop.get(target)
            await pop.written()
            memory.invalidate(b"http://www.example.test" + target.encode())
            site.version += 1
            await purged_softly(pop, target)

            assert (await pop.get(target, *fields)).get("ETag") == f'"{site.version}"'


async def test_a_range_that_waits_for_its_chunks_is_judged_after_the_wait(
    origin: OriginDouble, site: Site, valkey: Server
) -> None:
    """A purge, soft or hard, that comes while the tier is asked for the chunks counts."""
    site.size = 3 * CHUNK
    settings = {"regional": valkey.url, "regional_timeout": "2s", "max_object_memory": "100KiB"}
    async with running_pop(origin, origin.clock, **settings) as pop:
        await pop.caught_up()
        edge = pop.worker.edge
        tier = edge.region.tier
        complete = tier.complete
        for number, soft in enumerate((True, False, True, False)):
            target = f"/{number}"
            await pop.get(target)
            await pop.written()
            site.version += 1

            async def purged_meanwhile(*asked: object, target: str = target, soft: bool = soft) -> bool:
                """The tier's answer, before which a purge was applied."""
                there: bool = await complete(*asked)
                edge.invalidation.append([b"uhttp://www.example.test" + target.encode()], soft=soft)
                return there

            tier.complete = purged_meanwhile
            answer = await pop.get(target, *([RANGE] if number < 2 else []))
            tier.complete = complete

            assert answer.get("ETag") == f'"{site.version}"'


async def test_an_object_is_fresh_for_as_long_as_it_says(origin: OriginDouble, site: Site) -> None:
    """Not a moment longer, whichever way its answers go: known heads, alike ones, parsed ones."""
    site.fields = [("Cache-Control", "max-age=30")]
    kinds: list[Callable[[int], list[tuple[str, str]]]] = [
        lambda _: [],
        lambda number: [("Cookie", f"a={number}")],
        lambda _: [RANGE],
    ]
    async with running_pop(origin, origin.clock) as pop:
        for kind, fields in enumerate(kinds):
            target = f"/{kind}"
            await pop.get(target)
            for number in range(4):
                assert "hit" in ((await pop.get(target, *fields(number))).get("Cache-Status") or "")
            site.version += 1
            origin.clock.advance(30)
            answer = await pop.get(target, *fields(9))

            assert answer.get("ETag") == f'"{site.version}"'
