"""Slices by default: what is requested by ranges is fetched so; a large whole is cut as it arrives."""

from __future__ import annotations

import asyncio

import pytest
from harness.client import let_others_run, until
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.ranged import RangedOrigin, numbered
from harness.tiers import pops
from harness.valkey import Server

from edgecache import tasks
from edgecache.config.settings import load

SLICE = 256 * 1024  # bytes: the largest that fits into the memory of these tests
SMALL = {"memory": "4MiB", "slice_size": "auto", "store": "off"}  # a whole of up to 409 KiB is stored as such
SIZE = 8 * SLICE + 1234
CONTENT = numbered(SIZE)
FIELDS = [("Cache-Control", "max-age=60"), ("Accept-Ranges", "bytes")]


def slice_range(number: int) -> str:
    """What a slice is asked for with."""
    return f"bytes={number * SLICE}-{(number + 1) * SLICE - 1}"


def large(origin: OriginDouble, content: bytes = CONTENT, **more: object) -> RangedOrigin:
    """An origin of one object."""
    ranged = RangedOrigin(content, **{"fields": FIELDS, **more})  # type: ignore[arg-type]
    origin.otherwise(ranged)
    return ranged


async def settled(pop: Pop) -> None:
    """What is under way has come."""
    await until(lambda: not pop.worker.edge.fetcher._cuts)
    await let_others_run()


async def test_a_large_whole_costs_one_request_and_becomes_hits(origin: OriginDouble) -> None:
    """It is asked for as a whole, once; ranges and wholes out of it are hits."""
    asked = large(origin)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        first = await pop.get("/film")
        part = await pop.get("/film", ("Range", f"bytes={SLICE - 5}-{SLICE + 5}"))
        whole = await pop.get("/film")
        head = await pop.request("HEAD", "/film")

    assert (first.status, first.body) == (200, CONTENT)
    assert first.get(
        "cache-status",
    ).startswith("test; fwd=uri-miss; fwd-status=200; stored")  # type: ignore[union-attr]
    assert (part.status, part.body) == (206, CONTENT[SLICE - 5 : SLICE + 6])
    assert "; hit" in (part.get("cache-status") or "")
    assert (whole.status, whole.body) == (200, CONTENT)
    assert "; hit" in (whole.get("cache-status") or "")
    assert (head.status, head.get("content-length")) == (200, str(SIZE))
    assert asked.asked == ["whole"]


async def test_what_fits_is_stored_whole(origin: OriginDouble) -> None:
    """Objects that memory takes are not cut: a range comes out of the whole."""
    asked = large(origin, CONTENT[:400_000])
    async with running_pop(origin, **SMALL) as pop:
        whole = await pop.get("/film")
        part = await pop.get("/film", ("Range", "bytes=300000-300009"))
        entries = len(pop.worker.edge.memory)

    assert whole.body == CONTENT[:400_000]
    assert part.body == CONTENT[300_000:300_010]
    assert (asked.asked, entries) == (["whole"], 1)


@pytest.mark.parametrize(
    ("etag", "fields"),
    [
        ('W/"v1"', FIELDS),
        (None, FIELDS),
        ('"v1"', FIELDS[:1]),
        ('"v1"', [("Cache-Control", "max-age=60"), ("Accept-Ranges", "none")]),
    ],
)
async def test_what_cannot_be_had_in_slices_is_not_cut(
    origin: OriginDouble, etag: str | None, fields: list[tuple[str, str]]
) -> None:
    """Without a strong validator, or without ranges: a whole is fetched each time, as without slices."""
    asked = large(origin, etag=etag, fields=fields)
    async with running_pop(origin, **SMALL) as pop:
        wholes = [await pop.get("/film") for _ in range(2)]
        entries = len(pop.worker.edge.memory)

    assert [whole.body for whole in wholes] == [CONTENT] * 2
    assert (asked.asked, entries) == (["whole"] * 2, 0)


async def test_without_slices_or_with_a_private_response_nothing_is_kept(origin: OriginDouble) -> None:
    """What may not be stored is not stored in slices either."""
    asked = large(origin, fields=[("Cache-Control", "private"), ("Accept-Ranges", "bytes")])
    async with running_pop(origin, **SMALL) as pop:
        wholes = [await pop.get("/film") for _ in range(2)]
        entries = len(pop.worker.edge.memory)

    assert [whole.body for whole in wholes] == [CONTENT] * 2
    assert (asked.asked, entries) == (["whole"] * 2, 0)


async def test_a_range_tells_of_a_large_whole(origin: OriginDouble) -> None:
    """The first range is asked for as it is; from then on slices are, for ranges and for wholes."""
    asked = large(origin)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        first = await pop.get("/film", ("Range", f"bytes={3 * SLICE}-{3 * SLICE + 9}"))
        part = await pop.get("/film", ("Range", f"bytes={3 * SLICE}-{3 * SLICE + 19}"))
        whole = await pop.get("/film")

    assert first.body == CONTENT[3 * SLICE : 3 * SLICE + 10]
    assert part.body == CONTENT[3 * SLICE : 3 * SLICE + 20]
    assert whole.body == CONTENT
    assert asked.asked[0] == f"bytes={3 * SLICE}-{3 * SLICE + 9}"
    assert sorted(asked.asked[1:]) == sorted(slice_range(number) for number in range(9))


@pytest.mark.parametrize(
    ("first", "last", "kept"),
    [
        (0, "", range(9)),
        (5, "", range(1, 9)),
        (SLICE + 1, 4 * SLICE + 5, range(2, 4)),
        (SLICE, 2 * SLICE - 1, [1]),
        (8 * SLICE, SIZE - 1, [8]),
        (8 * SLICE + 1, SIZE - 1, []),
        (7, 9, []),
    ],
)
async def test_the_slices_in_the_first_range_are_stored(
    origin: OriginDouble, first: int, last: int | str, kept: list[int]
) -> None:
    """Those of which all has come: they are not asked for again."""
    asked = large(origin)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        part = await pop.get("/film", ("Range", f"bytes={first}-{last}"))
        whole = await pop.get("/film")

    assert part.body == CONTENT[first : int(last or SIZE) + 1]
    assert whole.body == CONTENT
    assert asked.asked[0] == f"bytes={first}-{last}"
    assert sorted(asked.asked[1:]) == sorted(slice_range(number) for number in range(9) if number not in kept)


async def test_a_client_that_leaves_keeps_what_has_come(origin: OriginDouble) -> None:
    """The slice under way is completed, the rest is left with the origin; a later whole asks for no more than that."""
    asked = large(origin, CONTENT * 4)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        client = await pop.open(receive_buffer=4096)
        await client.request("GET", "/film")
        await until(lambda: len(pop.worker.edge.memory) >= 2)  # the head and a slice
        client.close()
        await settled(pop)
        stored = len(pop.worker.edge.memory) - 1
        whole = await pop.get("/film")
        left = pop.worker.pool.busy

    assert whole.body == CONTENT * 4
    assert stored < 32, "the rest was not fetched for nobody"
    slices = [f"bytes={at}-{at + SLICE - 1}" for at in range(0, SIZE * 4, SLICE)]
    assert asked.asked[0] == "whole"
    assert sorted(asked.asked[1:]) == sorted(slices[stored:])
    assert left == 0


async def test_a_crowd_shares_one_whole(origin: OriginDouble) -> None:
    """Those who come at once, or while it arrives, read the slices; the origin is asked for little more than once."""
    asked = large(origin)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        answers = await asyncio.gather(*(pop.get("/film") for _ in range(12)))
        later = await pop.get("/film", ("Range", "bytes=-9"))

    assert [answer.body for answer in answers] == [CONTENT] * 12
    assert later.body == CONTENT[-9:]
    assert asked.asked.count("whole") == 1
    assert len(asked.asked) <= 1 + 9


async def test_a_purge_while_it_is_cut_leaves_nothing_usable(origin: OriginDouble) -> None:
    """Slices that were requested before a purge are not used after it."""
    asked = large(origin)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        client = await pop.open(receive_buffer=4096)
        await client.request("GET", "/film")
        await until(lambda: len(pop.worker.edge.memory) >= 2)
        pop.worker.edge.invalidation.append([b"uhttp://www.example.test/film"])
        other = bytes(255 - byte for byte in CONTENT)
        asked.content, asked.etag = other, '"v2"'
        old = tasks.spawn(client.response(), "the old one")
        part = await pop.get("/film", ("Range", "bytes=0-9"))
        begun = await old
        client.close()
        whole = await pop.get("/film")

    assert begun.body == CONTENT, "what had begun may end"
    assert part.body == other[:10]
    assert whole.body == other


async def test_a_whole_that_breaks_off_leaves_complete_slices_only(origin: OriginDouble) -> None:
    """What had come is used; the rest is asked for by ranges."""
    ranged = RangedOrigin(CONTENT, fields=FIELDS)
    cut = [3 * SLICE + 100]

    def breaking(request: ReceivedRequest) -> Reply:
        reply = ranged(request)
        if reply.status == 200 and cut:
            return Reply(reply.status, reply.fields, reply.body, cut_at=cut.pop())
        return reply

    origin.otherwise(breaking)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        async with pop.client() as client:
            await client.request("GET", "/film")
            broken = await client.response_or_broken()
        whole = await pop.get("/film")

    assert broken.broken is not None
    assert whole.body == CONTENT
    assert ranged.asked[0] == "whole"
    assert sorted(ranged.asked[1:]) == sorted(slice_range(number) for number in range(3, 9))


async def test_another_pop_of_the_region_reads_the_slices(origin: OriginDouble, valkey: Server) -> None:
    """A whole that one has cut is not asked of the origin by another."""
    asked = large(origin, CONTENT)
    settings = {**SMALL, "memory": "32MiB", "max_object_memory": "300KiB", "regional_max_object": "300KiB"}
    async with pops(origin, "regional", valkey.url, **settings) as (first, second):
        await first.get("/film")
        await first.written()
        whole = await second.get("/film")

    assert whole.body == CONTENT
    assert asked.asked == ["whole"]


@pytest.mark.parametrize(
    ("memory", "size"),
    [("256MiB", 1024 * 1024), ("4MiB", 256 * 1024), ("1MiB", 64 * 1024)],
)
def test_the_size_of_a_slice_follows_the_memory(memory: str, size: int) -> None:
    """A slice fits into a tenth of a worker's share; where none does, there are no slices."""
    given = {"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_WORKERS": "1", "EDGECACHE_MEMORY": memory}
    assert load({**given, "EDGECACHE_SLICE_SIZE": "auto"}).fitting_slice == size


async def test_a_slow_client_sets_the_pace(origin: OriginDouble) -> None:
    """Nothing is asked for twice, nor fetched ahead of it by much."""
    asked = large(origin, CONTENT * 4)
    async with running_pop(origin, **{**SMALL, "memory": "32MiB", "max_object_memory": "300KiB"}) as pop:
        client = await pop.open(receive_buffer=4096)
        await client.request("GET", "/film")
        await asyncio.sleep(0.5)  # longer than others would wait for it
        stored = len(pop.worker.edge.memory) - 1
        answer = await client.response()
        client.close()

    assert answer.body == CONTENT * 4
    assert asked.asked == ["whole"]
    assert stored < 32


async def test_what_is_not_much_longer_than_a_slice_is_never_cut(origin: OriginDouble) -> None:
    """It may change often, and a response in slices would be cut off then: the origin is asked as without slices."""
    asked = large(origin, CONTENT[: 8 * SLICE])
    async with running_pop(origin, **SMALL) as pop:
        parts = [await pop.get("/film", ("Range", f"bytes={first}-")) for first in (0, 1)]
        wholes = [await pop.get("/film") for _ in range(2)]
        entries = len(pop.worker.edge.memory)

    assert [part.body for part in parts] == [CONTENT[first : 8 * SLICE] for first in (0, 1)]
    assert [whole.body for whole in wholes] == [CONTENT[: 8 * SLICE]] * 2
    assert (asked.asked, entries) == (["bytes=0-", "bytes=1-", "whole", "whole"], 0)
