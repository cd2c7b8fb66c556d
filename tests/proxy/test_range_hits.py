"""Ranges by the template of their heads: each is answered as by the long way, and as little is believed."""

from __future__ import annotations

from random import Random

import pytest
from harness.client import RawClient, ReceivedResponse
from harness.clock import FakeClock
from harness.origin import OriginDouble, running_origin
from harness.pop import Pop, running_pop
from harness.ranged import RangedOrigin, numbered
from harness.sites import two_sites

SLICE = 64 * 1024
SIZE = 9 * SLICE + 77
CONTENT = numbered(SIZE)
SLICES = {"slice_size": "64KiB"}
RULE = """
[[sites.rules]]
name = "films"
when = { path = ["/film*"] }
cache = { slices = "64KiB" }
response_headers = { set = { X-Rule = "1" } }
"""


def counted(pop: Pop) -> list[bytes]:
    """The ranges that are answered by templates from now on."""
    ranges, found = pop.worker.edge.fast_path.ranges, []
    for name in ("out_of_slices", "out_of_whole"):
        make = getattr(ranges, name)

        def counting(hit: object, *more: object, make: object = make) -> object:
            response = make(hit, *more)  # type: ignore[operator]
            if response is not None:
                found.append(hit.range)  # type: ignore[attr-defined]
            return response

        setattr(ranges, name, counting)
    return found


async def asked(client: RawClient, value: str, *fields: tuple[str, str], target: str = "/film") -> ReceivedResponse:
    """One range."""
    await client.request("GET", target, [("Range", value), *fields])
    return await client.response()


async def learnt(pop: Pop, client: RawClient, *fields: tuple[str, str]) -> list[bytes]:
    """Fill memory, and ask until the template is known."""
    assert (await pop.get("/film", *fields)).body == CONTENT
    for first in range(4):
        await asked(client, f"bytes={first}-{first + 5}", *fields)
    return counted(pop)


@pytest.mark.parametrize("settings", [SLICES, {}], ids=["slices", "whole"])
async def test_ranges_by_template_are_those_of_the_long_way(origin: OriginDouble, settings: dict[str, str]) -> None:
    """Each is a hit with the right bytes and fields, whatever the cookie and the browser's other fields."""
    ranged = RangedOrigin(CONTENT)
    origin.otherwise(ranged)
    random = Random(5)
    async with running_pop(origin, **settings) as pop, pop.client() as client:
        found = await learnt(pop, client)
        before = len(ranged.asked)
        long_way = await pop.get("/film", ("Range", "bytes=7-9"), ("X-Other", "1"))
        spans = [(first, first + random.randrange(1, SLICE)) for first in random.sample(range(SIZE), 60)]
        for first, end in [*spans, (0, 1), (SLICE - 1, SLICE + 1), (SIZE - 1, SIZE), (0, 2 * SLICE)]:
            cookie = [("Cookie", f"a={random.random()}")] if first % 2 else []
            part = await asked(client, f"bytes={first}-{end - 1}", *cookie)
            end = min(end, SIZE)
            assert (part.status, part.body) == (206, CONTENT[first:end])
            assert part.get("content-range") == f"bytes {first}-{end - 1}/{SIZE}"
            assert {name.lower() for name, _ in part.fields} == {name.lower() for name, _ in long_way.fields}
            assert "; hit" in (part.get("cache-status") or "")

    assert len(found) > 30
    assert len(ranged.asked) == before


VALUES = (
    *(
        "bytes=-5",
        "bytes=5-",
        f"bytes={SIZE - 5}-",
        f"bytes={SIZE}-",
        "bytes=9-5",
        "bytes=0-1,5-6",
        "bytes=",
        "bytes=-",
    ),
    *("bytes =0-5", "bytes= 0-5", "bytes=0-5 ", "Bytes=0-5", "chunks=0-5", "0-5", f"bytes=0-{10**20}"),
    *("bytes=1x-5", "bytes=+1-5", "bytes=1-5-", "bytes=00001-05"),
)


@pytest.mark.parametrize("settings", [SLICES, {}], ids=["slices", "whole"])
async def test_whatever_else_is_written_is_read_as_by_the_long_way(
    origin: OriginDouble, settings: dict[str, str]
) -> None:
    """Values that a parser reads otherwise than a template could; and conditions, which are no part of one."""
    origin.otherwise(RangedOrigin(CONTENT))
    async with running_pop(origin, **settings) as pop, pop.client() as client:
        await learnt(pop, client)
        for value in VALUES:
            for number, fields in enumerate(((), (("If-Range", '"v1"'),), (("If-Range", '"v2"'),))):
                here = await asked(client, value, *fields)
                there = await pop.get("/film", ("Range", value), *fields, ("X-Other", f"{value}{number}"))
                assert (here.status, here.get("content-range")) == (there.status, there.get("content-range")), value
                assert here.body == there.body, value
        known = await asked(client, "bytes=0-5", ("If-None-Match", '"v1"'))

    assert known.status == 304


@pytest.mark.parametrize("settings", [SLICES, {}], ids=["slices", "whole"])
async def test_nothing_is_answered_after_a_purge_or_its_time(settings: dict[str, str]) -> None:
    """A purge, the end of freshness and a change of the settings are seen at the next range."""
    async with running_origin(FakeClock()) as origin:
        ranged = RangedOrigin(CONTENT)
        origin.otherwise(ranged)
        async with running_pop(origin, origin.clock, **settings) as pop, pop.client() as client:
            found = await learnt(pop, client)
            await asked(client, "bytes=100-105")
            hits, before = len(found), len(ranged.asked)
            pop.worker.edge.invalidation.append([b"uhttp://www.example.test/film"])
            ranged.content = other = bytes(255 - byte for byte in CONTENT)
            ranged.etag = '"v2"'
            purged = await asked(client, "bytes=200-205")
            assert purged.body == other[200:206]
            assert len(ranged.asked) == before + 1
            assert len(found) == hits
            await pop.get("/film")
            for first in range(4):
                await asked(client, f"bytes={first}-{first + 5}")
            before = len(ranged.asked)
            origin.clock.advance(61)
            stale = await asked(client, "bytes=300-305")
            after = len(ranged.asked)

    assert hits > 0
    assert stale.body == other[300:306]
    assert after == before + 1


async def test_rules_are_kept(origin: OriginDouble) -> None:
    """What a rule adds to responses is added, and a site's slices are its own."""
    async with two_sites(RULE) as (pop, a, _), pop.client() as client:
        a.otherwise(RangedOrigin(CONTENT))
        host = ("Host", "a.test")
        for first in range(5):
            await client.request("GET", "/film", [host, ("Range", f"bytes={first}-{first + 5}")])
            assert (await client.response()).status == 206
        found = counted(pop)
        await client.request("GET", "/film", [host, ("Range", "bytes=50-59")])
        part = await client.response()
        await client.request("GET", "/page", [host, ("Range", "bytes=50-59")])
        other = await client.response()

    assert (part.body, part.get("x-rule")) == (CONTENT[50:60], "1")
    assert (other.body, other.get("x-rule")) == (CONTENT[50:60], None)
    assert found == [b"bytes=50-59"]
