"""Objects in slices: each byte is asked of the origin once, of one version, and every way of a range is right."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from harness.client import ReceivedResponse, let_others_run
from harness.clock import FakeClock
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.ranged import RangedOrigin, numbered
from harness.sites import two_sites
from harness.tiers import pops
from harness.valkey import Server

from edgecache.proxy.slice_reader import SliceReader
from edgecache.proxy.slice_store import FoundSlice
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.outcomes import Result
from edgecache.semantics.ranges import Span
from edgecache.semantics.slices import Slice, slice_key, version_of
from edgecache.semantics.stored_response import is_fresh
from edgecache.wire.body import Body

DOCS: Final = Path(__file__).parents[2] / "docs" / "sites.md"
SLICE: Final = 64 * 1024
SIZE: Final = 10 * SLICE + 1234
CONTENT: Final = numbered(SIZE)
RULE: Final = """
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "http://a"
[[sites.rules]]
name = "films"
cache = {{ slices = "{size}" }}
"""
OTHER: Final = bytes(255 - byte for byte in CONTENT)


def sliced(origin: OriginDouble, content: bytes = CONTENT, **more: object) -> RangedOrigin:
    """An origin of one large object."""
    ranged = RangedOrigin(content, **more)  # type: ignore[arg-type]
    origin.otherwise(ranged)
    return ranged


def running(origin: OriginDouble, **settings: object) -> object:
    """A POP with slices."""
    return running_pop(origin, **{"slice_size": "64KiB", **settings})


async def ranged(pop: Pop, first: int, last: int | str = "", *fields: tuple[str, str]) -> ReceivedResponse:
    """One range."""
    return await pop.get("/film", ("Range", f"bytes={first}-{last}"), *fields)


def slices_of(*spans: tuple[int, int]) -> list[str]:
    """The ranges that the slices of these spans are asked for with."""
    numbers = sorted({number for first, end in spans for number in range(first // SLICE, (end - 1) // SLICE + 1)})
    return [f"bytes={number * SLICE}-{(number + 1) * SLICE - 1}" for number in numbers]


def said(response: ReceivedResponse) -> str:
    """Its Cache-Status."""
    return response.get("cache-status") or ""


def cuts() -> Iterator[tuple[int, int]]:
    """Spans around the bounds of slices."""
    for first in (0, 1, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE, SIZE - 1234, SIZE - 1):
        for last in (first, first + 1, first + SLICE - 1, first + SLICE, first + 3 * SLICE, SIZE - 1, SIZE + 5):
            yield first, last


async def test_ranges_become_hits_and_each_slice_is_asked_for_once(origin: OriginDouble) -> None:
    """Every range is right; the origin is asked for whole slices, each once, and later viewers cost it nothing."""
    asked = sliced(origin)
    async with running(origin) as pop:
        for _ in range(2):
            for first, last in cuts():
                answer = await ranged(pop, first, last)
                end = min(last + 1, SIZE)
                assert answer.status == 206
                assert answer.get("content-range") == f"bytes {first}-{end - 1}/{SIZE}"
                assert answer.body == CONTENT[first:end], (first, last)
        again = await ranged(pop, 5, 3 * SLICE)

    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))
    assert said(again).startswith("test; hit; ttl=")


async def test_a_whole_is_read_slice_by_slice_and_once(origin: OriginDouble) -> None:
    """A whole is complete, and so is the next one, for which nothing is asked."""
    asked = sliced(origin)
    async with running(origin) as pop:
        first, second = await pop.get("/film"), await pop.get("/film")
        middle = await ranged(pop, 4 * SLICE - 3, 4 * SLICE + 3)

    assert (first.status, first.body, second.body) == (200, CONTENT, CONTENT)
    assert first.get("content-length") == str(SIZE)
    assert first.get("content-range") is None
    assert middle.body == CONTENT[4 * SLICE - 3 : 4 * SLICE + 4]
    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))
    assert said(first) == "test; fwd=uri-miss; fwd-status=206; stored"
    assert said(second).startswith("test; hit")


async def test_viewers_at_once_share_each_slice(origin: OriginDouble) -> None:
    """Four viewers of the whole, and four of ranges, at the same time: each slice is asked for once."""
    asked = sliced(origin)
    async with running(origin) as pop:
        wholes = [pop.get("/film") for _ in range(4)]
        parts = [ranged(pop, number * SLICE - 1, number * SLICE + 10) for number in (1, 1, 4, 9)]
        answers = await asyncio.gather(*wholes, *parts)

    assert [answer.body for answer in answers[:4]] == [CONTENT] * 4
    assert answers[5].body == CONTENT[SLICE - 1 : SLICE + 11]
    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))


async def test_suffixes_several_ranges_and_what_cannot_be_satisfied(origin: OriginDouble) -> None:
    """The last bytes, two ranges in one response, a 416 and a range of no meaning, each by RFC 9110 §14."""
    asked = sliced(origin)
    async with running(origin) as pop:
        suffix = await pop.get("/film", ("Range", "bytes=-100"))
        several = await pop.get("/film", ("Range", f"bytes={SLICE - 2}-{SLICE + 2}, {7 * SLICE}-{7 * SLICE + 3}"))
        beyond = await ranged(pop, SIZE)
        far = await ranged(pop, 10**12, 10**12 + 5)
        nonsense = await pop.get("/film", ("Range", "lines=1-2"))

    assert (suffix.status, suffix.body) == (206, CONTENT[-100:])
    parts = re.findall(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)\r\n\r\n", several.body)
    assert [tuple(map(int, part)) for part in parts] == [
        (SLICE - 2, SLICE + 2, SIZE),
        (7 * SLICE, 7 * SLICE + 3, SIZE),
    ]
    assert CONTENT[SLICE - 2 : SLICE + 3] in several.body
    for answer in (beyond, far):
        assert (answer.status, answer.get("content-range")) == (416, f"bytes */{SIZE}")
    assert nonsense.body == CONTENT
    assert len(asked.asked) == len(set(asked.asked)) == 11


async def test_a_range_beyond_the_end_of_what_is_not_known_is_answered(origin: OriginDouble) -> None:
    """The first request is for what is not there: the length is learnt by the first slice."""
    sliced(origin)
    async with running(origin) as pop:
        beyond = await ranged(pop, 99 * SIZE)

    assert (beyond.status, beyond.get("content-range")) == (416, f"bytes */{SIZE}")


async def test_heads_and_conditions_are_answered_by_what_is_known_of_the_whole(origin: OriginDouble) -> None:
    """HEAD, If-None-Match and If-Range need no slice once one has come."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await ranged(pop, 0, 5)
        head = await pop.request("HEAD", "/film")
        known = await pop.get("/film", ("If-None-Match", '"v1"'))
        same = await ranged(pop, 7, 9, ("If-Range", '"v1"'))
        other = await ranged(pop, 7, 9, ("If-Range", '"v0"'))

    assert (head.status, head.get("content-length"), head.body) == (200, str(SIZE), b"")
    assert known.status == 304
    assert (same.status, same.body) == (206, CONTENT[7:10])
    assert (other.status, other.body) == (200, CONTENT)
    assert asked.asked[0] == slices_of((0, 5))[0]


async def test_a_cold_head_request_is_answered(origin: OriginDouble) -> None:
    """The first request is a HEAD."""
    sliced(origin)
    async with running(origin) as pop:
        head = await pop.request("HEAD", "/film")

    assert (head.status, head.get("content-length"), head.body) == (200, str(SIZE), b"")


async def test_what_expires_is_validated_once_for_all_slices(origin: OriginDouble) -> None:
    """RFC 9111 §4.3.4: a 304 for the head freshens all slices of the same strong validator."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await pop.get("/film")
        pop.clock.advance(61)
        again = await pop.get("/film")
        later = await ranged(pop, 5 * SLICE, 6 * SLICE)

    assert again.body == CONTENT
    assert later.body == CONTENT[5 * SLICE : 6 * SLICE + 1]
    assert len(asked.asked) == 12
    assert said(again) == "test; fwd=stale; fwd-status=304"
    assert said(later).startswith("test; hit")


async def test_a_new_version_takes_the_place_of_the_old_one(origin: OriginDouble) -> None:
    """After it expired, another version is found: not one byte of the old one is served, and its slices are gone."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await pop.get("/film")
        entries = len(pop.worker.edge.memory)
        asked.content, asked.etag = OTHER, '"v2"'
        pop.clock.advance(61)
        part = await ranged(pop, SLICE - 10, SLICE + 9)
        left = len(pop.worker.edge.memory)
        whole = await pop.get("/film")

    assert entries == 12
    assert left <= 4
    assert part.body == OTHER[SLICE - 10 : SLICE + 10]
    assert whole.body == OTHER
    assert whole.get("etag") == '"v2"'


async def test_a_change_under_way_cuts_the_response_and_mixes_nothing(origin: OriginDouble) -> None:
    """The third slice is of another version: the response ends visibly before it, and the next one is all new."""
    asked = sliced(origin)

    def changing(request: ReceivedRequest) -> Reply:
        if len(asked.asked) == 2:
            asked.content, asked.etag = OTHER, '"v2"'
        return asked(request)

    origin.otherwise(changing)
    async with running(origin) as pop:
        async with pop.client() as client:
            await client.request("GET", "/film")
            cut = await client.response_or_broken()
        again = await pop.get("/film")

    assert cut.broken is not None
    assert cut.status == 200
    assert CONTENT.startswith(client.progress)
    assert len(client.progress) <= 2 * SLICE
    assert again.body == OTHER


async def test_a_change_before_the_first_byte_is_not_seen(origin: OriginDouble) -> None:
    """The head is fresh and its slice is of another version: the response is the new one, whole."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await ranged(pop, 0, 5)
        asked.content, asked.etag = OTHER, '"v2"'
        part = await ranged(pop, 3 * SLICE, 3 * SLICE + 5)
        first = await ranged(pop, 0, 5)

    assert part.body == OTHER[3 * SLICE : 3 * SLICE + 6]
    assert first.body == OTHER[:6]


@pytest.mark.parametrize("way", ["url", "tag", "prefix", "site", "write"])
async def test_each_kind_of_invalidation_reaches_head_and_slices(way: str) -> None:
    """After a purge of the URL, a tag, a path or the site, or a write to it, nothing old is served."""
    async with running_origin(FakeClock()) as origin:
        asked = sliced(origin, fields=[("Cache-Control", "max-age=60"), ("Cache-Tag", "films")])

        def answer(request: ReceivedRequest) -> Reply:
            return Reply(204) if request.method == "POST" else asked(request)

        origin.otherwise(answer)
        async with running(origin) as pop:
            await pop.get("/film")
            asked.content, asked.etag = OTHER, '"v2"'
            if way == "write":
                await pop.request("POST", "/film")
            else:
                await invalidated(pop, way)
            part = await ranged(pop, 4 * SLICE, 4 * SLICE + 9)
            whole = await pop.get("/film")

    assert part.body == OTHER[4 * SLICE : 4 * SLICE + 10]
    assert whole.body == OTHER


async def test_a_purge_reaches_the_bytes_whatever_the_etag_says(origin: OriginDouble) -> None:
    """The origin has changed its object and kept the ETag: after a purge, no slice from before it is used."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await pop.get("/film")
        asked.content = OTHER
        before = await ranged(pop, 4 * SLICE, 5 * SLICE)
        pop.worker.edge.invalidation.append([b"uhttp://www.example.test/film"])
        part = await ranged(pop, 4 * SLICE, 5 * SLICE)
        whole = await pop.get("/film")

    assert before.body == CONTENT[4 * SLICE : 5 * SLICE + 1]
    assert part.body == OTHER[4 * SLICE : 5 * SLICE + 1]
    assert whole.body == OTHER
    assert len(asked.asked) == 22


async def invalidated(pop: Pop, way: str, *, soft: bool = False) -> None:
    """A purge, as the log applies it."""
    host = b"www.example.test"
    scopes = {
        "url": b"uhttp://" + host + b"/film",
        "tag": b"tfilms",
        "prefix": b"p" + host + b"/film",
        "site": b"s" + host,
    }
    pop.worker.edge.invalidation.append([scopes[way]], soft=soft)


async def test_a_soft_purge_has_the_head_validated(origin: OriginDouble) -> None:
    """What is softly purged is validated once, and stays if it is the same."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await pop.get("/film")
        pop.worker.edge.invalidation.append([b"uhttp://www.example.test/film"], soft=True)
        again = await pop.get("/film")
        later = await pop.get("/film")

    assert again.body == later.body == CONTENT
    assert len(asked.asked) == 12
    assert said(later).startswith("test; hit")


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
async def test_what_has_no_strong_validator_is_fetched_whole(origin: OriginDouble, etag: str | None) -> None:
    """Without a strong validator it goes as without slices, and is asked for slices once in a while only."""
    asked = sliced(origin, etag=etag)
    async with running(origin) as pop:
        whole = await pop.get("/film")
        again = await pop.get("/film")

    assert whole.body == again.body == CONTENT
    assert asked.asked == [slices_of((0, 1))[0], "whole"]


async def test_a_strong_last_modified_will_do(origin: OriginDouble) -> None:
    """RFC 9110 §8.8.2.2: where there is no ETag at all, and Date is later."""
    fields = [("Cache-Control", "max-age=60"), ("Last-Modified", "Mon, 01 Jan 1990 00:00:00 GMT")]
    asked = sliced(origin, etag=None, fields=fields)
    async with running(origin) as pop:
        first = await ranged(pop, 0, 5)
        whole = await pop.get("/film")

    assert first.body == CONTENT[:6]
    assert whole.body == CONTENT
    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))


async def test_an_origin_without_ranges_is_used_as_without_slices(origin: OriginDouble) -> None:
    """It sends the whole in place of a slice: that is stored, and it is asked for no more slices for a while."""
    requests: list[str] = []

    def plain(request: ReceivedRequest) -> Reply:
        requests.append(request.get("range") or "whole")
        return Reply(200, [("Cache-Control", "max-age=60"), ("ETag", '"v1"')], CONTENT)

    origin.otherwise(plain)
    async with running(origin) as pop:
        whole = await pop.get("/film")
        part = await ranged(pop, 3, 9)

    assert whole.body == CONTENT
    assert part.body == CONTENT[3:10]
    assert requests == [slices_of((0, 1))[0]]


@pytest.mark.parametrize("size", [0, 1, SLICE - 1, SLICE])
async def test_what_is_no_longer_than_a_slice_is_stored_whole(origin: OriginDouble, size: int) -> None:
    """Such an object is one entry of the cache, as without slices."""
    asked = sliced(origin, CONTENT[:size])
    async with running(origin) as pop:
        first = await pop.get("/film")
        again = await pop.get("/film")
        part = await ranged(pop, 0, 9)
        entries = len(pop.worker.edge.memory)

    assert (first.status, first.body) == (200, CONTENT[:size])
    assert first.get("content-range") is None
    assert again.body == CONTENT[:size]
    assert part.body == CONTENT[: min(size, 10)]
    assert entries == 1
    assert len(asked.asked) <= 2


async def test_a_range_of_what_is_no_longer_than_a_slice_is_a_range(origin: OriginDouble) -> None:
    """The first request is a range: the whole is stored, and the range is answered out of it."""
    asked = sliced(origin, CONTENT[:1000])
    async with running(origin) as pop:
        part = await ranged(pop, 10, 19)
        whole = await pop.get("/film")

    assert (part.status, part.body) == (206, CONTENT[10:20])
    assert whole.body == CONTENT[:1000]
    assert len(asked.asked) == 1


async def test_errors_and_private_responses_go_as_without_slices(origin: OriginDouble) -> None:
    """A 404 is delivered and stored; what is private is for its client alone, and is not asked for twice each time."""
    origin.on("/gone", Reply(404, [("Cache-Control", "max-age=60")], b"gone"))
    mine = RangedOrigin(CONTENT, fields=[("Cache-Control", "private")])
    origin.on("/mine", mine)
    async with running(origin) as pop:
        gone = [await pop.get("/gone") for _ in range(2)]
        own = [await pop.get("/mine", ("Range", "bytes=5-9")) for _ in range(3)]

    assert [answer.body for answer in gone] == [b"gone"] * 2
    assert [answer.body for answer in own] == [CONTENT[5:10]] * 3
    assert mine.asked == ["bytes=0-65535", "bytes=5-9", "bytes=5-9", "bytes=5-9"]


async def test_an_origin_that_fails_is_an_error_before_the_first_byte(origin: OriginDouble) -> None:
    """Nothing is cut where an error can still be said."""
    asked = sliced(origin)
    async with running(origin) as pop:
        await ranged(pop, 0, 5)
        await origin.stop()
        known = await ranged(pop, 7, 9)
        failed = await ranged(pop, 3 * SLICE, 3 * SLICE + 5)

    assert known.body == CONTENT[7:10]
    assert failed.status in (502, 503)
    assert len(asked.asked) == 1


async def test_a_slice_that_breaks_off_is_asked_for_again(origin: OriginDouble) -> None:
    """A connection that breaks in the middle of a slice costs the client nothing."""
    asked = sliced(origin)
    broken: list[str] = []

    def breaking(request: ReceivedRequest) -> Reply:
        reply = asked(request)
        if not broken and (request.get("range") or "").startswith(f"bytes={2 * SLICE}-"):
            broken.append(request.target)
            return Reply(reply.status, reply.fields, reply.body, cut_at=1000)
        return reply

    origin.otherwise(breaking)
    async with running(origin) as pop:
        whole = await pop.get("/film")

    assert whole.body == CONTENT
    assert broken


async def test_viewers_of_more_than_memory_takes_get_what_they_want(origin: OriginDouble) -> None:
    """Twelve films at once, of which memory has room for one: every byte is right, and nothing stays behind."""
    films = [RangedOrigin(numbered(SIZE, 4 * number), f'"{number}"') for number in range(12)]
    for number, film in enumerate(films):
        origin.on(f"/{number}", film)
    async with running(origin, memory="1MiB") as pop:
        for _ in range(2):
            answers = await asyncio.gather(*(pop.get(f"/{number % 12}") for number in range(24)))
            assert [answer.body == films[number % 12].content for number, answer in enumerate(answers)] == [True] * 24
        account = pop.worker.edge.memory.account
        await let_others_run(100)

        assert (account.filling, account.flowing, account.read_on) == (0, 0, 0)
        assert pop.worker.edge.memory.size <= 1024 * 1024


async def test_a_stale_head_is_used_where_the_origin_allows_it(origin: OriginDouble) -> None:
    """RFC 5861: while it is validated in the background, and while the origin fails."""
    windows = "max-age=60, stale-while-revalidate=60, stale-if-error=600"
    asked = sliced(origin, fields=[("Cache-Control", windows)])
    async with running(origin) as pop:
        await pop.get("/film")
        pop.clock.advance(61)
        stale = await ranged(pop, SLICE, 2 * SLICE)
        await origin.request_seen(12)
        await let_others_run(50)
        again = await ranged(pop, SLICE, 2 * SLICE)
        await origin.stop()
        pop.clock.advance(300)
        failing = await pop.get("/film")

    assert stale.body == again.body == CONTENT[SLICE : 2 * SLICE + 1]
    assert (said(stale).partition("ttl=")[2], said(again).startswith("test; hit; ttl=60")) == ("-1", True)
    assert failing.body == CONTENT
    assert len(asked.asked) == 12


async def test_variants_have_slices_of_their_own(origin: OriginDouble) -> None:
    """Vary selects the head, and with it the slices."""
    kinds = {
        "de": RangedOrigin(CONTENT, '"de"', [("Cache-Control", "max-age=60"), ("Vary", "Accept-Language")]),
        "en": RangedOrigin(OTHER, '"en"', [("Cache-Control", "max-age=60"), ("Vary", "Accept-Language")]),
    }
    origin.otherwise(lambda request: kinds[request.get("accept-language") or "en"](request))
    async with running(origin) as pop:
        for _ in range(2):
            for language, content in (("de", CONTENT), ("en", OTHER)):
                whole = await pop.get("/film", ("Accept-Language", language))
                part = await ranged(pop, SLICE, 2 * SLICE, ("Accept-Language", language))
                assert whole.body == content
                assert part.body == content[SLICE : 2 * SLICE + 1]

    assert [len(kind.asked) for kind in kinds.values()] == [11, 11]


async def test_a_client_that_leaves_stops_what_comes_after(origin: OriginDouble) -> None:
    """The slices under way arrive and are stored; no further one is asked for."""
    asked = sliced(origin)
    async with running(origin) as pop:
        client = await pop.open(receive_buffer=4096)
        await client.request("GET", "/film")
        await origin.request_seen(1)
        client.close()
        await asyncio.sleep(0.2)
        before = len(asked.asked)
        whole = await pop.get("/film")

    assert before <= 3
    assert whole.body == CONTENT
    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))


@pytest.mark.parametrize("tier", ["regional", "parent"])
async def test_slices_come_from_the_region_and_through_a_parent(
    origin: OriginDouble, valkey: Server, tier: str
) -> None:
    """What one POP has fetched, another has from the region or its parent: the origin sees each slice once."""
    asked = sliced(origin)
    async with pops(origin, tier, valkey.url, slice_size="64KiB") as (first, second):
        await first.get("/film")
        if tier == "regional":
            await first.written()
        whole = await second.get("/film")
        part = await ranged(second, 3 * SLICE, 4 * SLICE)
        if tier == "regional":
            await second.written()

    assert whole.body == CONTENT
    assert part.body == CONTENT[3 * SLICE : 4 * SLICE + 1]
    assert sorted(asked.asked) == sorted(slices_of((0, SIZE)))


async def test_the_example_of_the_documentation(origin: OriginDouble) -> None:
    """docs/sites.md, "Large objects in slices": what the rule names comes in slices, all else as without."""
    text = (
        DOCS.read_text().partition("\n### Large objects in slices\n")[2].partition("```toml\n")[2].partition("```")[0]
    )
    megabyte = 1024 * 1024
    film, page = RangedOrigin(CONTENT * 2), RangedOrigin(CONTENT * 2)
    origin.on("/film.mp4", film)
    origin.on("/page", page)
    async with running_pop(origin, sites=text.replace("http://10.0.0.7", origin.url)) as pop:
        for target in ("/film.mp4", "/page"):
            for first in (0, 5):
                host = ("Host", "films.example.org")
                part = await pop.request("GET", target, host, ("Range", f"bytes={first}-9"))
                assert part.body == CONTENT[first:10]

    assert film.asked == [f"bytes=0-{megabyte - 1}"]
    assert page.asked[0] == "bytes=0-9"


async def test_clients_of_another_jurisdiction_read_no_slices_and_store_none(origin: OriginDouble) -> None:
    """Residency: with slices in memory, a client from elsewhere gets none of them, and its request fetches none."""
    asked = sliced(origin)
    places = {"geo_overrides": "198.51.100.1=DE,198.51.100.2=US", "geo_rules": "country:DE=eu,*=us"}
    settings = {"region": "eu", "residency": "eu:EU,us:US", "trusted_proxies": "127.0.0.1", **places}
    async with running(origin, **settings) as pop:
        for _ in range(2):
            there = await ranged(pop, 5, 9, ("X-Forwarded-For", "198.51.100.2"))
            here = await ranged(pop, 5, 9, ("X-Forwarded-For", "198.51.100.1"))
            assert here.body == CONTENT[5:10]
            assert there.status >= 400

    assert asked.asked == slices_of((0, 1))


@pytest.mark.parametrize("size", [SLICE, 2 * SLICE])
async def test_slices_stay_in_the_region_while_their_head_is_validated(
    origin: OriginDouble, valkey: Server, size: int
) -> None:
    """A worker that reads one that has expired by itself has it kept as long as the head, whether in chunks or not."""
    asked = sliced(origin)
    settings = {"regional": valkey.url, "regional_timeout": "2s", "slice_size": f"{size}"}
    async with running(origin, **settings) as first, running_pop(origin, origin.clock, **settings) as second:
        for pop in (first, second):
            await pop.caught_up()
        await first.get("/film")
        await first.written()
        origin.clock.advance(61)
        whole = await second.get("/film")
        await second.written()
        count = len(asked.asked)
        tier = second.worker.edge.region.tier
        request = Request(b"GET", b"/film", b"www.example.test", Fields(()))
        version = version_of(Fields([(b"etag", b'"v1"')]), SIZE) or b""
        keys = [slice_key(request, Slice(size, number, version)) for number in range(-(-SIZE // size))]
        found = [await tier.find(key, request.fields) for key in keys]

    assert whole.body == CONTENT
    assert count == len(keys) + 1
    assert [one is not None and is_fresh(one.record, origin.clock()) for one in found] == [True] * len(keys)


async def test_a_rule_wants_slices_for_some_paths_only() -> None:
    """`cache.slices` of a rule; what it does not name is as without."""
    rules = """
[[sites.rules]]
name = "films"
when = { path = "*.mp4" }
cache = { slices = "64KiB" }
"""
    async with two_sites(rules) as (pop, a, _):
        film, page = RangedOrigin(CONTENT), RangedOrigin(CONTENT)
        a.on("/film.mp4", film)
        a.on("/page", page)
        for target in ("/film.mp4", "/page"):
            for first in (0, 5):
                part = await pop.request("GET", target, ("Host", "a.test"), ("Range", f"bytes={first}-9"))
                assert part.body == CONTENT[first:10]

    assert film.asked == slices_of((0, 10))
    assert page.asked[0] == "bytes=0-9"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slice_size": "1KiB"}, "EDGECACHE_SLICE_SIZE: is less than 64KiB"),
        ({"slice_size": "8MiB"}, "EDGECACHE_SLICE_SIZE: is more than the largest object in memory"),
        ({"slice_size": "32MiB"}, "EDGECACHE_SLICE_SIZE"),
        ({"sites": RULE.format(size="1KiB")}, "is neither 0 nor from 64KiB to 16MiB"),
        ({"sites": RULE.format(size="8MiB")}, "the slices of rule films of a are more than the largest object"),
    ],
)
async def test_sizes_that_cannot_work_are_refused_at_the_start(settings: dict[str, str], words: str) -> None:
    """Slices that nothing could store, and those that are too small to be worth a request."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        async with running_pop("http://127.0.0.1:1", **settings):
            pass


class Leaver:
    """A reader that takes the first `most` bytes."""

    def __init__(self, most: int) -> None:
        self.left = most
        self.complete: bool | None = None

    @property
    def writable(self) -> bool:
        """Whether it takes more."""
        return self.left > 0

    def write(self, piece: bytes | memoryview) -> None:
        """Bytes that it gets."""
        self.left -= len(piece)

    def finish(self) -> None:
        """It has all."""
        self.complete = True

    def abort(self) -> None:
        """It is cut."""
        self.complete = False

    def goes_alone(self, at: int) -> bool:
        """There is no other way."""
        return False


async def asked_by(most: int, have: set[int]) -> set[int]:
    """The slices that a reader asks for, which leaves after `most` bytes; from then on they are stored."""
    asked = set()

    async def fetch(number: int) -> FoundSlice:
        asked.add(number)
        return FoundSlice(Body.of(bytes(SLICE)), Result.HIT if number in have else Result.MISS)

    first = await fetch(0)
    reader = SliceReader(Span(0, 30 * SLICE), SLICE, first, fetch)
    cursor = reader.body.read_into(Leaver(most))
    reader.start()
    await let_others_run(30)
    reader.body.leave(cursor)
    await let_others_run(5)
    new = asked - have
    have |= new
    return new


async def test_a_reader_who_leaves_a_little_later_finds_what_it_reads() -> None:
    """Three slices are asked for ahead where they are fetched; where they are stored, only the next one."""
    assert await asked_by(SLICE, set()) >= {0, 1, 2, 3}
    have: set[int] = set()
    first = await asked_by(6 * SLICE, have)
    assert first == set(range(len(first)))
    assert len(first) >= 9, "three are ahead of the sixth"
    assert await asked_by(7 * SLICE, have) == set(), "what the next one reads, and looks ahead for"
    assert await asked_by(len(first) * SLICE, have) >= {len(first)}, "one ahead of what was stored"
