"""Slices against a model: random objects, ranges, changes, purges and departures; each byte is of one right version."""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import pytest
from harness.client import RawClient, ReceivedResponse, let_others_run
from harness.clock import FakeClock
from harness.often import slow
from harness.origin import ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from harness.purging import BEARER, TOKEN, applied
from harness.valkey import Server

from edgecache import tasks

SLICE: Final = 1024  # bytes: less than a setting allows, so that many cases take little time
LARGEST: Final = 2500  # bytes of a whole that is not cut, where that goes by length
CASES: Final = 1000  # of each seed
FEW: Final = 60  # of a look at it
SEEDS: Final = 12
FRESH: Final = 60  # seconds
KINDS: Final = (
    "etag",
    "etag",
    "etag",
    "etag",
    "etag, chunked",
    "etag, breaking",
    "modified",
    "weak",
    "none",
    "no ranges",
)
MEASURES: Final = [(SLICE, FEW), slow(pytest.param(SLICE, 300)), slow(pytest.param(70_000, 60))]
RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
PART: Final = re.compile(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)\r\n\r\n")


@dataclass
class Film:
    """One object of the origin. It changes when the origin is asked for the times in `changes`."""

    random: Random
    kind: str
    slice: int = SLICE
    contents: list[bytes] = field(default_factory=list)  # by version
    changes: set[int] = field(default_factory=set)
    asked: int = 0
    broken: int = 0  # answers that were cut
    floor: int = 0  # the oldest version that may be served from now on

    def change(self) -> None:
        """The next version; often as long as the one before."""
        same = bool(self.contents) and self.random.random() < 0.5
        size = len(self.contents[-1]) if same else size_of(self.random, self.slice)
        self.contents.append(self.random.randbytes(size))

    def validator(self, version: int) -> list[tuple[str, str]]:
        """The validator of a version."""
        if self.kind == "modified":
            return [("Last-Modified", f"Mon, 01 Jan 1990 00:{version // 60:02}:{version % 60:02} GMT")]
        if self.kind == "none":
            return []
        return [("ETag", ("W/" if self.kind == "weak" else "") + f'"{version}"')]

    async def __call__(self, request: ReceivedRequest) -> Reply:
        """The origin's answer."""
        self.asked += 1
        if self.asked in self.changes:
            self.change()
        version = len(self.contents) - 1
        content, validator = self.contents[version], self.validator(version)
        fields = [
            ("Cache-Control", f"max-age={FRESH}"),
            ("X-Version", str(version)),
            ("Cache-Tag", "films"),
            *([] if self.kind == "no ranges" else [("Accept-Ranges", "bytes")]),
            *validator,
        ]
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        known = {"etag": request.get("if-none-match"), "last-modified": request.get("if-modified-since")}
        if validator and known.get(validator[0][0].lower()) == validator[0][1]:
            return Reply(304, fields)
        match = RANGE.fullmatch(request.get("range") or "")
        condition = request.get("if-range")
        if match is None or self.kind == "no ranges" or (condition is not None and condition != validator[0][1]):
            return self._cut(Reply(200, fields, content))
        spans = spans_of(match[0], len(content))
        if not spans:
            return Reply(416, [("Content-Range", f"bytes */{len(content)}")])
        first, end = spans[0]
        fields.append(("Content-Range", f"bytes {first}-{end - 1}/{len(content)}"))
        framing = "chunked" if self.kind == "etag, chunked" else "length"
        return self._cut(Reply(206, fields, content[first:end], framing=framing))  # type: ignore[arg-type]

    def _cut(self, reply: Reply) -> Reply:
        if self.kind != "etag, breaking" or len(reply.body) < 2 or self.random.random() < 0.8:
            return reply
        self.broken += 1
        return replace(reply, cut_at=self.random.randrange(1, len(reply.body)))


def size_of(random: Random, slice_size: int) -> int:
    """A size near a bound of slices."""
    return max(0, random.randrange(7) * slice_size + random.choice((-1, 0, 1, random.randrange(slice_size))))


def spans_of(value: str, size: int) -> list[tuple[int, int]]:
    """What is satisfiable of a Range."""
    spans = []
    for text in value.removeprefix("bytes=").split(","):
        first, _, last = text.strip().partition("-")
        begin = max(0, size - int(last)) if not first else int(first)
        end = size if not first or not last else min(int(last) + 1, size)
        if begin < end:
            spans.append((begin, end))
    return spans


def fields_of(random: Random, film: Film) -> list[tuple[str, str]]:
    """What a client asks for: a whole, a range or some, with a condition or without."""
    fields = []
    size = len(film.contents[-1])

    def place() -> int:
        anywhere, bound = random.randrange(size + 1), random.randrange(8) * film.slice
        return max(0, random.choice((anywhere, bound + random.randrange(-1, 2))))

    way = random.random()
    if way < 0.6:
        first = place()
        more = random.choice((0, random.randrange(3 * film.slice), film.slice - 1))
        last = random.choice(("", str(first + more), str(first + more)))
        fields.append(("Range", f"bytes={first}-{last}"))
    elif way < 0.7:
        fields.append(("Range", f"bytes=-{random.randrange(1, 2 * film.slice)}"))
    elif way < 0.75:
        first, second = place(), place() + 4 * film.slice
        fields.append(("Range", f"bytes={first}-{first + 9}, {second}-{second + 9}"))
    if film.kind.startswith("etag") and random.random() < 0.15:
        version = random.randrange(len(film.contents))
        fields.append((random.choice(("If-Range", "If-None-Match")), f'"{version}"'))
    return fields


class Walk:
    """One POP and its films, asked at random and judged by the model."""

    def __init__(self, random: Random, *pops: Pop, regional: bool = False) -> None:
        self.random = random
        self.pops = pops
        self.regional = regional
        self.cut = self.answered = self.regional_hits = 0

    async def case(self, target: str, film: Film) -> None:
        """Some steps with one film."""
        for _ in range(self.random.randrange(2, 6)):
            await self.step(target, film)

    async def step(self, target: str, film: Film) -> None:
        """One change of the world, and some requests at once."""
        random, pop = self.random, self.random.choice(self.pops)
        what = random.random()
        if what < 0.15:
            film.change()
        elif what < 0.3:
            film.changes.add(film.asked + random.randrange(1, 5))
        elif what < 0.4 and self.regional:
            assert (await pop.request("PURGE", target, BEARER)).status == 200
            await applied(*self.pops)
            film.floor = len(film.contents) - 1
        elif what < 0.4:
            scope = random.choice(
                (b"uhttp://www.example.test" + target.encode(), b"tfilms", b"pwww.example.test/films")
            )
            pop.worker.edge.invalidation.append([scope])
            film.floor = len(film.contents) - 1
        elif what < 0.45 and not self.regional:
            pop.worker.edge.invalidation.append([b"swww.example.test"], soft=True)
            film.floor = len(film.contents) - 1
        elif 0.45 <= what < 0.5:
            pop.clock.advance(FRESH + 1)
            film.floor = len(film.contents) - 1
        floor, broken = film.floor, film.broken
        under_way = self.purge_later(film, target) if 0.5 <= what < 0.55 and not self.regional else None
        asked = [(fields_of(random, film), random.random() < 0.1) for _ in range(random.choice((1, 1, 2, 4)))]
        requests = [self.ask(target, fields, leaves=leaves) for fields, leaves in asked]
        if under_way is not None:
            answers, _ = await asyncio.gather(asyncio.gather(*requests), under_way)
        else:
            answers = await asyncio.gather(*requests)
        for (fields, _), answer in zip(asked, answers, strict=True):
            if answer is not None:
                self.judge(film, dict(fields), answer, floor, may_break=film.broken > broken)

    async def purge_later(self, film: Film, target: str) -> None:
        """A purge while responses are under way: they may end as they began, what follows may not."""
        for _ in range(self.random.randrange(12)):
            await asyncio.sleep(0)
        self.pops[0].worker.edge.invalidation.append([b"uhttp://www.example.test" + target.encode()])
        film.floor = len(film.contents) - 1

    async def ask(self, target: str, fields: list[tuple[str, str]], *, leaves: bool) -> ReceivedResponse | None:
        """One request; a client that leaves sees no more than the beginning."""
        client: RawClient = await self.random.choice(self.pops).open(**({"receive_buffer": 4096} if leaves else {}))
        try:
            await client.request("GET", target, fields)
            if leaves:
                for _ in range(self.random.randrange(4)):
                    await asyncio.sleep(0)
                return None
            response = await client.response_or_broken()
            return replace(response, body=bytes(client.progress)) if response.broken else response
        finally:
            with contextlib.suppress(OSError):
                client.close()

    def judge(
        self, film: Film, fields: dict[str, str], answer: ReceivedResponse, floor: int, *, may_break: bool
    ) -> None:
        """Whether an answer is that of one version, which is new enough, to these fields."""
        told = (film.kind, fields, answer.status, answer.fields)
        self.answered += 1
        self.regional_hits += "/regional; hit" in (answer.get("cache-status") or "")
        if answer.status == 416:
            sizes = {len(content) for content in film.contents[floor:]}
            assert answer.get("content-range") in {f"bytes */{size}" for size in sizes}, told
            return
        if answer.status >= 500:
            assert may_break, told
            return
        named = answer.get("x-version") if answer.status != 304 else (answer.get("etag") or "").strip('"')
        version = int(named or "")
        assert version >= floor, told
        content = film.contents[version]
        if answer.status == 304:
            assert fields["If-None-Match"] == f'"{version}"', told
            return
        if answer.broken is not None:
            assert may_break or version < len(film.contents) - 1, told
            self.cut += 1
        spans = spans_of(fields.get("Range", ""), len(content)) if answer.status == 206 else [(0, len(content))]
        if answer.status == 206:
            assert fields.get("If-Range", f'"{version}"') == f'"{version}"', told
        if len(spans) > 1:
            self.judge_parts(content, spans, answer)
            return
        first, end = spans[0]
        if answer.status == 206:
            assert answer.get("content-range") == f"bytes {first}-{end - 1}/{len(content)}", told
        if answer.broken is None:
            assert answer.body == content[first:end], told
        else:
            assert content[first:end].startswith(answer.body), told

    @staticmethod
    def judge_parts(content: bytes, spans: list[tuple[int, int]], answer: ReceivedResponse) -> None:
        """Whether each part of several is right."""
        found = list(PART.finditer(answer.body))
        if answer.broken is None:
            assert len(found) == len(spans)
        for match, (first, end) in zip(found, spans, strict=False):
            assert tuple(map(int, match.groups())) == (first, end - 1, len(content))
            assert content[first:end].startswith(answer.body[match.end() :][: end - first])


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("seed", "cases"), [(0, FEW), *(slow(pytest.param(seed, CASES)) for seed in range(SEEDS))])
async def test_every_byte_is_right_and_versions_never_mix(seed: int, cases: int, by_length: bool) -> None:
    """In all, 12,000 cases of some steps each; in every third seed, memory holds a few films only.

    The same where wholes are asked for as such, and cut if they are large.
    """
    random = Random(seed)
    async with running_origin(FakeClock()) as origin:
        memory = "1MiB" if seed % 3 == 2 else "64MiB"
        async with running_pop(origin, origin.clock, memory=memory, slice_size="64KiB") as pop:
            edge = pop.worker.edge
            edge.limits = replace(edge.limits, slice_size=SLICE, slices_by_length=by_length)
            if by_length:
                edge.memory.largest, edge.fetcher.least = LARGEST, 2
            walk = Walk(random, pop)
            for number in range(cases):
                film = Film(random, random.choice(KINDS))
                film.change()
                origin.on(f"/films/{number}", film)
                await walk.case(f"/films/{number}", film)
            await let_others_run(200)
            left = [task.get_name() for task in tasks._running if task.get_name().startswith("slice")]
            pool = pop.worker.pool

            assert (left, len(edge.flights), edge.slice_fetcher._brought) == ([], 0, {})
            account = edge.memory.account
            assert (account.filling, account.flowing, account.read_on, account.lingering) == (0, 0, 0, 0)
            assert pool.busy == 0

    assert walk.answered > cases
    assert walk.cut > 0


@pytest.mark.parametrize(("slice_size", "cases"), MEASURES)
async def test_two_workers_of_a_region_share_slices_and_mix_none(slice_size: int, cases: int, valkey: Server) -> None:
    """The same over the regional tier: slices in one record each, and in chunks."""
    random = Random(slice_size)
    async with running_origin(FakeClock()) as origin, AsyncExitStack() as stack:
        options = {"regional": valkey.url, "regional_timeout": "2s", "slice_size": "64KiB", "admin_token": TOKEN}
        pops = [
            await stack.enter_async_context(running_pop(origin, origin.clock, pop=name, **options))
            for name in ("first", "second")
        ]
        for pop in pops:
            await pop.caught_up()
            pop.worker.edge.limits = replace(pop.worker.edge.limits, slice_size=slice_size)
        walk = Walk(random, *pops, regional=True)
        for number in range(cases):
            film = Film(random, random.choice(KINDS), slice_size)
            film.change()
            origin.on(f"/films/{number}", film)
            await walk.case(f"/films/{number}", film)

    assert walk.answered > cases
    assert walk.regional_hits
