"""Compression by rules, on a running POP: made once per stored response, a coding of the same object."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
from harness.client import ReceivedResponse
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply, running_origin
from harness.parents import chain
from harness.pop import Pop, environment, running_pop
from harness.sites import two_sites
from harness.valkey import Server
from proxy.test_rule_answers import rules

from edgecache.config.settings import load
from edgecache.proxy.compression import encoded
from edgecache.semantics.content_coding import preferred
from edgecache.semantics.rope import Content, Rope

try:
    from compression import zstd
except ImportError:
    from backports import zstd

HOST = ("Host", "a.test")
COMPRESS = 'compress = { codings = ["zstd", "gzip"] }'
TEXT = b"".join(b"%d: the quick brown fox jumps over the lazy dog\n" % number for number in range(2000))
ALL = "gzip, deflate, br, zstd"
DECODE: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "zstd": zstd.decompress,
    "br": brotli.decompress,
}


def text(
    *more: tuple[str, str], body: bytes = TEXT, kind: str = "text/html; charset=utf-8", **options: object
) -> Reply:
    """A text that may be stored."""
    fields = [
        ("Content-Type", kind),
        ("Cache-Control", "max-age=60"),
        ("ETag", '"e"'),
        ("Accept-Ranges", "bytes"),
        *more,
    ]
    return Reply(fields=fields, body=body, **options)


async def settled(pop: Pop) -> None:
    """Wait until nothing is being compressed, and known heads are up to date."""
    async with asyncio.timeout(20):
        while (task := pop.worker.edge.compressor.task) is not None:
            await asyncio.wait([task])
            await asyncio.sleep(0)
    pop.worker.edge.sweep()


async def get(
    pop: Pop, target: str, accept: str | None, *fields: tuple[str, str], method: str = "GET"
) -> ReceivedResponse:
    """A request to a.test that accepts these codings."""
    accepts = [] if accept is None else [("Accept-Encoding", accept)]
    return await pop.request(method, target, HOST, *accepts, *fields)


def coding(response: ReceivedResponse) -> str | None:
    """The coding of the content, which decodes to the text."""
    name = response.get("content-encoding")
    assert DECODE[name](response.body) == TEXT
    assert "Accept-Encoding" in (response.get("vary") or "")
    return name


async def test_uncoded_first_then_coded_for_those_who_accept_it() -> None:
    """One request to the origin; by what each client accepts; heads that are known by then too."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _), pop.client() as client:
        a.otherwise(text())
        first = await get(pop, "/", ALL)
        assert coding(first) is None
        for _ in range(4):  # a known head
            await client.request("GET", "/", [HOST, ("Accept-Encoding", "gzip")])
            await client.response()
        await settled(pop)
        for number in range(5):
            await client.request("GET", "/", [HOST, ("Accept-Encoding", "gzip")])
            assert coding(await client.response()) == "gzip"
            for accept, expected in (
                (ALL, "zstd"),
                ("gzip", "gzip"),
                ("x-gzip", "gzip"),
                ("br", None),
                (None, None),
                ("", None),
                ("*", "zstd"),
                ("gzip;q=1, zstd;q=0.5", "gzip"),
                ("gzip;q=0", None),
                ("identity, gzip;q=0.1", None),
                ("*;q=0", None),
            ):
                response = await get(pop, "/", accept, ("User-Agent", f"u{number}"), ("Cookie", f"c={number}"))
                assert coding(response) == expected, accept
                assert response.get("content-length") == str(len(response.body))
                assert response.get("etag") == ('"e"' if expected is None else f'"e;{expected}"')
        assert len(a.requests) == 1


async def test_head_conditions_and_ranges() -> None:
    """Each representation has its ETag; ranges are of the uncoded one; a date does not tell them apart."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        modified = "Mon, 01 Jan 2024 00:00:00 GMT"
        a.otherwise(text(("Last-Modified", modified)))
        await get(pop, "/", ALL)
        await settled(pop)
        for _ in range(4):
            coded = await get(pop, "/", "gzip")
            head = await get(pop, "/", "gzip", method="HEAD")
            for name in ("content-length", "content-encoding", "etag", "vary"):
                assert head.get(name) == coded.get(name) is not None
            assert head.body == b""
            assert coded.get("accept-ranges") is None
            for accept, tag, status in (
                ("gzip", '"e;gzip"', 304),
                ("gzip", '"e"', 200),
                ("gzip", 'W/"e;gzip"', 304),
                ("gzip", "*", 304),
                (ALL, '"e;gzip"', 200),
                (ALL, '"x", "e;zstd"', 304),
                (None, '"e"', 304),
                (None, '"e;gzip"', 200),
            ):
                response = await get(pop, "/", accept, ("If-None-Match", tag))
                assert response.status == status, (accept, tag)
                if status == 304:
                    assert response.get("etag") == (
                        '"e"' if accept is None else f'"e;{accept if accept != ALL else "zstd"}"'
                    )
                    assert response.get("vary") == "Accept-Encoding"
            part = await get(pop, "/", "gzip", ("Range", "bytes=10-19"))
            assert (part.status, part.body, part.get("content-encoding")) == (206, TEXT[10:20], None)
            assert part.get("etag") == '"e"'
            right = await get(pop, "/", "gzip", ("Range", "bytes=10-19"), ("If-Range", '"e"'))
            assert (right.status, right.body) == (206, TEXT[10:20])
            for validator in ('"e;gzip"', modified):
                whole = await get(pop, "/", "gzip", ("Range", "bytes=10-19"), ("If-Range", validator))
                assert whole.status == 200
                coding(whole)
            plain = await get(pop, "/", "gzip", ("Cache-Control", "no-transform"))
            assert coding(plain) is None
        assert len(a.requests) == 1


async def test_one_purge_and_one_validation_for_all_codings() -> None:
    """A purge takes all of them; a 304 freshens all of them, and their ETags with it."""
    async with two_sites(rules(COMPRESS), "\n") as (pop, a, _):
        a.otherwise(text())
        await get(pop, "/", ALL)
        await settled(pop)
        assert coding(await get(pop, "/", "gzip")) == "gzip"
        pop.clock.advance(61)
        a.otherwise(Reply(304, fields=[("ETag", '"e"'), ("Cache-Control", "max-age=60"), ("X-New", "1")]))
        assert coding(await get(pop, "/", "gzip")) == "gzip"
        assert a.requests[-1].get("if-none-match") == '"e"'
        for accept in (ALL, "gzip", None):
            response = await get(pop, "/", accept)
            assert (response.get("x-new"), response.get("age")) == ("1", "0")
            coding(response)
        assert len(a.requests) == 2
        entry = pop.worker.edge.memory.slot(b"http://a.test/").by_values[()]
        entries = [entry, *entry.codings_made.by_name.values()]
        assert len(entries) == 3
        pop.worker.edge.memory.invalidate(b"http://a.test/")
        assert all(one.gone for one in entries)
        assert len(pop.worker.edge.memory) == 0


async def test_a_validation_that_forbids_to_transform_ends_the_codings() -> None:
    """No-transform that comes with a 304 counts from then on."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        a.otherwise(text())
        await get(pop, "/", ALL)
        await settled(pop)
        pop.clock.advance(61)
        a.otherwise(Reply(304, fields=[("ETag", '"e"'), ("Cache-Control", "max-age=60, no-transform")]))
        for _ in range(3):
            response = await get(pop, "/", ALL)
            assert (response.get("content-encoding"), response.body) == (None, TEXT)
            await settled(pop)
        assert len(a.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [
        text(("Cache-Control", "no-transform")),
        text(kind="image/png"),
        text(("Content-Encoding", "gzip")),
        text(("Content-Encoding", "identity")),
        text(body=b"x" * 1023),
        text(body=random.Random(1).randbytes(50_000)),
        text(("Vary", "Cookie")),
        Reply(404, fields=[("Content-Type", "text/html"), ("Cache-Control", "max-age=60")], body=TEXT),
    ],
)
async def test_what_is_left_alone(reply: Reply) -> None:
    """No-transform, other types, what is coded already, what is small, random, or no 200."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        a.otherwise(reply)
        for _ in range(4):
            response = await get(pop, "/", ALL)
            assert response.body == reply.body
            assert response.get("content-encoding") == dict(reply.fields).get("Content-Encoding")
            await settled(pop)


async def test_per_user_content_is_never_compressed() -> None:
    """BREACH: what is set, private or authorised for one client, or keyed by a cookie, though a rule has it stored."""
    texts = (
        COMPRESS,
        'when = { path = "/private" }\ncache = { cache_control = "ignore", ttl = "60s" }',
        'when = { path = "/keyed" }\ncache = { key = { cookies = ["session"] } }',
        "when = { cookie = { user = true } }\ncompress = false",
    )
    async with two_sites(rules(*texts), "\n") as (pop, a, _):
        kind = ("Content-Type", "text/html")
        a.otherwise(text())
        a.on("/private", Reply(fields=[kind, ("Cache-Control", "private")], body=TEXT))
        a.on("/auth", Reply(fields=[kind, ("Cache-Control", "public, max-age=60")], body=TEXT))
        a.on("/cookie", Reply(fields=[kind, ("Cache-Control", "max-age=60"), ("Set-Cookie", "a=b")], body=TEXT))
        requests = (
            ("/private", ()),
            ("/keyed", (("Cookie", "session=1"),)),
            ("/auth", (("Authorization", "Basic eDp5"),)),
            ("/cookie", ()),
            ("/user", (("Cookie", "user=1"),)),
        )
        for _ in range(4):
            for target, fields in requests:
                response = await get(pop, target, ALL, *fields)
                assert (response.get("content-encoding"), response.body) == (None, TEXT), target
            await settled(pop)
        assert coding(await get(pop, "/user", ALL)) is None
        await settled(pop)
        assert coding(await get(pop, "/user", ALL)) == "zstd"


async def test_what_passes_is_not_compressed() -> None:
    """One client's pages, and events, which reach it as they come; what the origin has coded goes through."""
    texts = ("compress = { types = ['text/*'] }", "when = { cookie = { session = true } }\ncache = { store = false }")
    async with two_sites(rules(*texts)) as (pop, a, _):
        kind = ("Content-Type", "text/html")
        coded = gzip.compress(TEXT)
        a.on("/user", text())
        a.on("/private", Reply(fields=[kind, ("Cache-Control", "no-store")], body=TEXT))
        a.on("/set", Reply(fields=[kind, ("Cache-Control", "max-age=60"), ("Set-Cookie", "a=b")], body=TEXT))
        a.on("/coded", Reply(fields=[kind, ("Cache-Control", "private"), ("Content-Encoding", "gzip")], body=coded))
        for _ in range(4):
            for target in ("/user", "/private", "/set"):
                response = await get(pop, target, ALL, ("Cookie", "session=1"))
                assert (response.get("content-encoding"), response.body) == (None, TEXT), target
            response = await get(pop, "/coded", ALL)
            assert (response.get("content-encoding"), response.body) == ("gzip", coded)
            await settled(pop)
        seen, more = asyncio.Event(), [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
        events = [b"data: one\n\n", b"data: two\n\n"]
        a.on("/events", Reply(fields=more, pieces=events, gates=[None, seen], framing="chunked"))
        async with pop.client() as client:
            await client.request("GET", "/events", [HOST, ("Accept-Encoding", ALL)])
            head = await client.response_head()
            assert head.get("content-encoding") is None
            first = b"%x\r\n%b\r\n" % (len(events[0]), events[0])
            assert await client.body_bytes(len(first)) == first
            seen.set()


async def test_byte_identical_over_a_crawl_and_origin_traffic_unchanged() -> None:
    """All kinds of contents, lengths and framings, by all clients: the same bytes, and one fetch for each."""
    chance = random.Random(2)
    bodies = {
        f"/{number}": bytes(chance.choices(b"abc \n", k=size)) if number % 3 else chance.randbytes(size)
        for number, size in enumerate((0, 1, 1023, 1024, 5000, 65_536, 262_143, 262_145, 700_000, 3_000_000))
    }
    async with two_sites(rules("compress = {}")) as (pop, a, _):
        for number, (target, body) in enumerate(bodies.items()):
            pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
            a.on(target, text(body=body) if number % 2 else text(pieces=pieces, body=body, framing="chunked"))
        for _ in range(3):
            for target, body in bodies.items():
                for accept in (ALL, "gzip", "br", "zstd", None):
                    response = await get(pop, target, accept)
                    assert DECODE[response.get("content-encoding")](response.body) == body
            await settled(pop)
            pop.clock.advance(1)
        assert {
            response.get("content-encoding") for response in [await get(pop, "/7", "br"), await get(pop, "/8", "gzip")]
        }
        assert len(a.requests) == len(bodies)
        assert (await get(pop, "/7", "br")).get("content-encoding") == "br"
        assert (await get(pop, "/8", "gzip")).get("content-encoding") == "gzip"


@pytest.mark.parametrize("is_known", [True, False])
async def test_brotli_is_made_of_popular_responses(*, is_known: bool) -> None:
    """Requested in three different seconds, by heads seen before or not: many at once are not enough."""
    async with two_sites(rules("compress = {}")) as (pop, a, _):
        a.otherwise(text())
        made = []
        for second in range(5):
            for number in range(6):
                visitor = "" if is_known else f"{second}.{number}"
                response = await get(pop, "/", "br", ("User-Agent", f"u{visitor}"), ("Cookie", f"c={visitor}"))
                coding(response)
                await settled(pop)
            made.append(response.get("content-encoding"))
            assert coding(await get(pop, "/", "gzip")) == "gzip"
            pop.clock.advance(1)
        assert made == [None, None, "br", "br", "br"]
        assert len(a.requests) == 1


async def test_brotli_alone_is_made_at_once() -> None:
    """Where there is nothing cheaper to begin with."""
    async with two_sites(rules('compress = { codings = ["br"] }')) as (pop, a, _):
        a.otherwise(text())
        await get(pop, "/", "br")
        await settled(pop)
        assert coding(await get(pop, "/", "br")) == "br"


async def test_what_is_made_is_charged_and_evicted_with_its_response() -> None:
    """The budget counts the codings; nothing is left behind once the response is gone."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        memory = pop.worker.edge.memory
        a.otherwise(text())
        await get(pop, "/", ALL)
        await settled(pop)
        entry = memory.slot(b"http://a.test/").by_values[()]
        sizes = [len(one.content) for one in entry.codings_made.by_name.values()]
        assert len(sizes) == 2
        assert memory.size >= len(TEXT) + sum(sizes)
        memory.drop(entry.codings_made.by_name[b"gzip"])
        assert (len(memory), memory.size, entry.gone) == (0, 0, True)
        assert coding(await get(pop, "/", ALL)) is None


def one_site(origin: OriginDouble) -> str:
    """A site whose responses are compressed."""
    return f'[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "{origin.url}"\n{rules(COMPRESS)}'


async def test_other_rules_end_what_the_old_ones_made() -> None:
    """A reload that ends compression counts from the next response on, and one that begins it, from the next hit."""
    async with running_origin(FakeClock()) as origin:
        origin.otherwise(text())
        with_rules, without = one_site(origin), one_site(origin).replace(COMPRESS, "")
        async with running_pop(origin, origin.clock, sites=with_rules) as pop:
            for sites, expected in ((with_rules, "gzip"), (without, None), (with_rules, "gzip")):
                await pop.worker.reload(load(environment(origin.url, {"sites": sites}.items())))
                for number in range(4):
                    response = await get(pop, "/", "gzip")
                    if expected is None:
                        assert response.get("content-encoding") is None
                    elif number:
                        assert response.get("content-encoding") == expected
                    assert DECODE[response.get("content-encoding")](response.body) == TEXT
                    await settled(pop)
            assert len(origin.requests) == 1


async def test_pops_exchange_uncoded_responses() -> None:
    """A parent that has codings gives its child the response as it came; the child makes its own, for its clients."""
    async with running_origin(FakeClock()) as origin:
        origin.otherwise(text())
        async with chain(origin, sites=one_site(origin), store="off") as pops:
            shield, edge = pops.shields[0], pops.edge
            await get(shield, "/", ALL)
            await settled(shield)
            assert coding(await get(shield, "/", "gzip")) == "gzip"
            for _ in range(2):
                assert coding(await get(edge, "/", "gzip")) is None
                edge.worker.edge.memory.invalidate(b"http://a.test/")
            await get(edge, "/", "gzip")
            await settled(edge)
            for accept, expected in (("gzip", "gzip"), (None, None), (ALL, "zstd"), ("identity", None)):
                assert coding(await get(edge, "/", accept)) == expected
            assert len(origin.requests) == 1


async def test_the_region_has_uncoded_responses(valkey: Server) -> None:
    """What one POP has compressed, another gets as it came, and compresses once it is in its own memory."""
    async with running_origin(FakeClock()) as origin:
        origin.otherwise(text(body=TEXT[:40_000]))
        common = {"regional": valkey.url, "regional_timeout": "2s", "sites": one_site(origin)}
        async with running_pop(origin, origin.clock, pop="first", **common) as first:
            await first.caught_up()
            await get(first, "/", ALL)
            await settled(first)
            assert (await get(first, "/", "gzip")).get("content-encoding") == "gzip"
            await first.written()
            async with running_pop(origin, origin.clock, pop="second", **common) as second:
                await second.caught_up()
                for number in range(6):
                    response = await get(second, "/", "gzip")
                    name = response.get("content-encoding")
                    assert name is None or number
                    assert DECODE[name](response.body) == TEXT[:40_000]
                    assert response.get("vary") == "Accept-Encoding"
                    await settled(second)
                assert name == "gzip"
        assert len(origin.requests) == 1


async def test_a_write_under_the_etag_of_a_coding() -> None:
    """The origin knows the tag of the uncoded representation."""
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        a.otherwise(text())
        await pop.request("PUT", "/", HOST, ("If-Match", '"e;gzip", W/"f;zstd", "g;x"'), body=b"x")
        assert a.requests[-1].get("if-match") == '"e", W/"f", "g;x"'


async def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may wait is put off to a later hit, and served uncoded until then."""
    monkeypatch.setattr("edgecache.proxy.compression.MOST_BYTES", len(TEXT) + 1)
    async with two_sites(rules(COMPRESS)) as (pop, a, _):
        a.otherwise(text())
        compressor = pop.worker.edge.compressor
        targets = [f"/{number}" for number in range(8)]
        for target in targets:
            await get(pop, target, ALL)
            assert compressor._bytes <= len(TEXT) + 1
        for _ in range(10):
            await settled(pop)
            for target in targets:
                coding(await get(pop, target, ALL))
        for target in targets:
            await settled(pop)
            assert coding(await get(pop, target, ALL)) == "zstd"
        assert compressor._bytes == 0
        assert pop.worker.edge.memory.account.held < len(TEXT)


async def test_large_and_streamed_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MiB that come in chunks are compressed one at a time, and charged; what is larger is left alone."""
    running: list[int] = []
    at_once: list[int] = []

    def noting(coding: bytes, content: Content) -> bytes | None:
        running.append(len(content))
        at_once.append(len(running))
        held.append(pop.worker.edge.memory.account.held)
        made = encoded(coding, content)
        running.pop()
        return made

    held: list[int] = []
    monkeypatch.setattr("edgecache.proxy.compression.encoded", noting)
    most = 10 * 1024 * 1024
    large = (TEXT * (most // len(TEXT) + 2))[: most + 1]
    async with running_origin(FakeClock()) as origin:
        for target, size in (("/0", most), ("/1", most), ("/2", most + 1)):
            pieces = [large[at : min(at + 100_000, size)] for at in range(0, size, 100_000)]
            origin.on(target, text(pieces=pieces, framing="chunked"))
        settings = {"memory": "256MiB", "max_object_memory": "16MiB", "sites": one_site(origin)}
        async with running_pop(origin, origin.clock, **settings) as pop:
            for target in ("/0", "/1", "/2"):
                assert len((await get(pop, target, "gzip")).body) == (most + 1 if target == "/2" else most)
            await settled(pop)
            assert at_once == [1] * 4
            assert min(held) >= most
            assert gzip.decompress((await get(pop, "/1", "gzip")).body) == large[:most]
            assert (await get(pop, "/2", "gzip")).get("content-encoding") is None
            assert pop.worker.edge.memory.account.held < most


@pytest.mark.parametrize("name", [b"gzip", b"zstd", b"br"])
def test_encoders(name: bytes) -> None:
    """Whole or in pieces, they make what others decode; what grows is given up."""
    made = encoded(name, Rope([TEXT, memoryview(TEXT), b"x"]))
    assert made is not None
    assert DECODE[name.decode()](made) == TEXT + TEXT + b"x"
    assert encoded(name, random.Random(3).randbytes(1_000_000)) is None
    if name == b"gzip":
        assert zlib.decompress(made, 31) == TEXT + TEXT + b"x"


def test_preference_is_the_clients_first() -> None:
    """Weights before the operator's order; an absent field is that of a client that decodes none."""
    codings = (b"zstd", b"br", b"gzip")
    for value, expected in (
        (b"gzip, br", b"br"),
        (b"gzip;q=0.9, br;q=0.8", b"gzip"),
        (b"gzip;q=x", None),
        (b"*;q=0.5, br;q=0", b"zstd"),
        (None, None),
    ):
        assert preferred(value, codings) == expected
