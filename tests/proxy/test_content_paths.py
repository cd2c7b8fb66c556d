"""Contents of every size, by every way in and every way out: each answer is the bytes that the origin has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pytest
from harness.client import RawClient, ReceivedResponse
from harness.clock import FakeClock
from harness.often import examples, one_in
from harness.origin import ReceivedRequest, Reply, running_origin
from harness.pop import Pop
from harness.ranged import RangedOrigin, numbered
from harness.tiers import TIERS, pops
from harness.valkey import Server
from hypothesis import given
from hypothesis import strategies as st

from edgecache.proxy.fastpath.head_memo import LONGEST_ANSWER
from edgecache.semantics.ranges import MOST_IN_PARTS
from edgecache.semantics.rope import GATHERED, MOST_COPIED, WHOLE
from edgecache.storage.regional import INLINE
from edgecache.storage.regional_chunks import CHUNK
from edgecache.wire.body_buffer import SLICE

KIB: Final = 1024
BOUNDS: Final = sorted(
    {0, 1, LONGEST_ANSWER, MOST_COPIED, INLINE, 100 * KIB, CHUNK, GATHERED, WHOLE, SLICE, 512 * KIB, MOST_IN_PARTS}
)
SIZES: Final = st.builds(lambda bound, by: max(0, bound + by), st.sampled_from(BOUNDS), st.integers(-2, 2))
WAYS_IN: Final = ("whole", "chunked", "until the close", "rest of a part", "parts", "one part that is all")
PART: Final = re.compile(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)\r\n\r\n")
ETAG: Final = '"v1"'


@dataclass
class Framed:
    """An origin of ranges that frames its whole answers in one way."""

    ranged: RangedOrigin
    framing: str = "length"

    def __call__(self, request: ReceivedRequest) -> Reply:
        """The answer."""
        reply = self.ranged(request)
        if reply.status != 200 or self.framing == "length":
            return reply
        return Reply(200, reply.fields, reply.body, framing="chunked" if self.framing == "chunked" else "close")


async def bring_in(pop: Pop, way: str, content: bytes, cuts: list[int]) -> None:
    """Have `pop` store `content` by one way; each answer on it is right."""
    size = len(content)
    if way in ("whole", "chunked", "until the close") or not size:
        spans: list[tuple[int, int]] = []
    elif way == "rest of a part":
        spans = [(0, min(max(1, cuts[0]), size))]
    elif way == "parts":
        ends = sorted({min(max(1, cut), size) for cut in cuts} | {size})
        spans = list(zip([0, *ends], ends, strict=False))
    else:
        spans = [(0, size)]
    for first, end in spans:
        answer = await pop.get("/it", ("Range", f"bytes={first}-{end - 1}"))
        assert (answer.status, answer.body) == (206, content[first:end])
    answer = await pop.get("/it")
    assert (answer.status, answer.body) == (200, content)


def is_right(answer: ReceivedResponse, content: bytes, method: str, specs: list[tuple[int, int]]) -> bool:
    """Whether an answer to a request for the ranges `specs` is of `content`."""
    size = len(content)
    satisfiable = [(first, min(end, size)) for first, end in specs if first < size]
    if method == "HEAD" or (answer.status == 200 and len(specs) != 1):
        said = answer.get("Content-Length")
        return (
            answer.status == 200 and answer.body == (b"" if method == "HEAD" else content) and said in (None, str(size))
        )
    if not satisfiable:
        return answer.status == 416 and answer.get("Content-Range") == f"bytes */{size}"
    if len(satisfiable) == 1:
        first, end = satisfiable[0]
        return (
            answer.status == 206
            and answer.body == content[first:end]
            and answer.get("Content-Range") == f"bytes {first}-{end - 1}/{size}"
        )
    found = [(int(part[1]), int(part[2]) + 1, part.end()) for part in PART.finditer(answer.body)]
    return [(first, end) for first, end, _ in found] == satisfiable and all(
        answer.body[at : at + end - first] == content[first:end] for first, end, at in found
    )


@dataclass(frozen=True)
class Ask:
    """One kind of request for what is stored."""

    method: str = "GET"
    specs: tuple[tuple[int, int], ...] = ()
    if_range: str | None = None

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Its field lines."""
        lines = []
        if self.specs:
            lines.append(("Range", "bytes=" + ",".join(f"{first}-{end - 1}" for first, end in self.specs)))
        return [*lines, *([("If-Range", self.if_range)] if self.if_range else [])]

    @property
    def counting(self) -> list[tuple[int, int]]:
        """The ranges that count."""
        return [] if self.method == "HEAD" or self.if_range not in (None, ETAG) else list(self.specs)


@dataclass(frozen=True)
class Story:
    """A content, how it comes in, and what is asked for then."""

    size: int
    way: str
    cuts: list[int]
    asks: list[Ask]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Stories whose numbers lie about the bounds."""
    size, way = draw(SIZES), draw(st.sampled_from(WAYS_IN))
    places = st.sampled_from(sorted({0, 1, 5, size // 2, *(max(0, size - left) for left in (1, 10, MOST_COPIED))}))
    spans = st.builds(lambda first, length: (first, first + max(1, length)), places, SIZES | st.just(size))
    kinds = st.builds(
        Ask,
        st.sampled_from(["GET", "GET", "GET", "HEAD"]),
        st.lists(spans, max_size=1).map(tuple) | st.lists(spans, max_size=3).map(tuple),
        st.sampled_from([None, None, ETAG, '"other"']),
    )
    return Story(
        size, way, draw(st.lists(places | SIZES, min_size=1, max_size=4)), draw(st.lists(kinds, min_size=1, max_size=5))
    )


async def check(client: RawClient, ask: Ask, content: bytes) -> None:
    """Ask the same often enough that its head, and heads like it, are known."""
    for number in range(6):
        fields = [*ask.fields, *([("Cookie", f"n={number}")] if number > 2 else [])]
        await client.request(ask.method, "/it", fields)
        answer = await client.response()

        assert is_right(answer, content, ask.method, ask.counting), (ask, answer.status, answer.fields)


async def every_answer(tier: str, url: str, story: Story) -> None:
    """Bring the content in, and ask for it."""
    content = numbered(story.size)
    async with running_origin(FakeClock()) as origin:
        origin.on(
            "/it",
            Framed(RangedOrigin(content), {"chunked": "chunked", "until the close": "close"}.get(story.way, "length")),
        )
        async with pops(origin, tier, url) as (first, second):
            await bring_in(first, story.way, content, story.cuts)
            if tier == "regional":
                await first.written()
            async with second.client() as client:
                for ask in story.asks:
                    await check(client, ask, content)
            again = await second.get("/it")
            assert (again.status, again.body) == (200, content)


@examples(150)
@given(stories())
async def test_out_of_the_memory(story: Story) -> None:
    """Whatever comes into the memory comes out of it as it was, whole and in parts."""
    await every_answer("memory", "", story)


@pytest.mark.parametrize("tier", ["regional", "parent"])
@examples(50)
@given(stories())
async def test_out_of_other_tiers(valkey_server: Server, tier: str, story: Story) -> None:
    """And out of the regional tier, whole or in chunks, and from a parent."""
    valkey_server.db.flushall()
    await every_answer(tier, valkey_server.url, story)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", one_in(2, [2, 1000, 70_000, 200_000, 300_000, 1_000_000]))
@pytest.mark.parametrize("left", [1, 10, 65_536])
async def test_nobody_cuts_a_stored_object(valkey: Server, tier: str, size: int, left: int) -> None:
    """All but the last bytes are asked for, then the whole: everybody gets the whole from then on."""
    if left < size:
        await every_answer(tier, valkey.url, Story(size, "rest of a part", [size - left], [Ask(), Ask("HEAD")]))


@pytest.mark.parametrize("size", [MOST_COPIED + 1, MOST_COPIED + 2, WHOLE - 1, WHOLE, WHOLE + 1])
@pytest.mark.parametrize("length", [MOST_COPIED, MOST_COPIED + 1, WHOLE - 1, WHOLE, WHOLE + 1])
async def test_a_range_of_every_length(size: int, length: int) -> None:
    """A range that is neither copied nor in pieces is sent as any other is."""
    asks = [Ask("GET", ((0, length),)), Ask("GET", ((1, 1 + length),))]
    await every_answer("memory", "", Story(size, "whole", [], asks))
