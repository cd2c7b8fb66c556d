"""What a client does after its head: bodies that turn out bad, half-closed connections, and much before an answer."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from harness.client import HOST, let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop
from hostile.arena import Arena
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.semantics.cache_control import parse_request_directives
from edgecache.semantics.cache_key import SearchVariance
from edgecache.semantics.client_address import MOST_EMPTY, MOST_HOPS, _from_right
from edgecache.semantics.forwarding import NAMED_HOST, is_disguised
from edgecache.semantics.message import Fields
from edgecache.semantics.ranges import MOST_SPECS, parse_range
from edgecache.wire.h1.hop_by_hop import _dropped, response_end_to_end

NO_STORE = ("Cache-Control", "no-store")
HEAD = f"POST /page HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n".encode()
EXPECT = b"Expect: 100-continue\r\n"
LARGE = b"18000\r\n" + bytes(0x18000) + b"\r\n"  # more than is held back
NEXT = f"GET /evil HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def by_target(request: ReceivedRequest) -> Reply:
    """An answer that cannot be taken for another's."""
    return Reply(200, [NO_STORE], request.target.encode())


# --- a body that turns out bad once the origin has part of it


@pytest.mark.parametrize(
    ("fields", "begin", "rest", "status"),
    [
        (EXPECT, b"", b"0x5\r\nabcde\r\n0\r\n\r\n", 400),
        (EXPECT, b"", b"5\r\nabcde\r\nzz\r\n", 400),
        (b"", LARGE, b"+5\r\nabcde\r\n0\r\n\r\n", 400),
        (b"", LARGE, b"0\r\nX Y: z\r\n\r\n", 400),
        (b"", LARGE, b"1\nx\r\n0\r\n\r\n", 400),
        (b"", LARGE, LARGE, 413),
    ],
    ids=["expect", "expect-late", "size", "trailer", "bare-lf", "too-large"],
)
async def test_a_bad_body_gets_one_answer(
    origin: OriginDouble, fields: bytes, begin: bytes, rest: bytes, status: int
) -> None:
    """One refusal and the end, though the question to the origin fails too; a second answer would be another's.

    RFC 9112 §9.3.2; the origin sees a request that never ends.
    """
    origin.otherwise(by_target)
    async with running_pop(origin, max_request_body="100KiB") as pop, pop.client() as client:
        arena = Arena(pop, origin)
        await client.send(HEAD + fields + b"\r\n" + begin, "POST")
        await origin.request_seen()
        await client.send(rest + NEXT, None)
        response = await client.response()
        assert (response.status, response.get("connection")) == (status, "close")
        assert await client.closed() in ("fin", "rst")
        assert client.source.buffer == b""
        assert arena.refused().total() == 1

    assert [request.target for request in origin.requests] == ["/page"]
    assert not origin.requests[0].whole


async def test_an_answer_under_way_is_cut_if_the_body_turns_out_bad(origin: OriginDouble) -> None:
    """What the client has of it must not look whole, nor be followed by anything."""
    rest = asyncio.Event()
    origin.otherwise(Reply(200, [NO_STORE], pieces=[b"one", b"two"], gates=[None, rest], before_body=True))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(HEAD + b"\r\n" + LARGE, "POST")
        await client.response_head()
        await client.send(b"zz\r\n" + NEXT, None)
        if not client.source.buffer:
            await client.source.more()
        assert client.source.buffer == b"one"
        with pytest.raises(ConnectionResetError):
            await client.source.more()
        rest.set()

    assert len(origin.requests) == 1


@pytest.mark.parametrize("expect", ["foo", "y 100-continue", "100-continue;q=1", '"100-continue"', "100", ""])
async def test_what_is_no_expectation_lets_no_part_of_a_body_through(origin: OriginDouble, expect: str) -> None:
    """Only who waits for a 100 has the origin asked before the body is known to be well-formed (RFC 9110 §10.1.1)."""
    origin.otherwise(by_target)
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(HEAD + f"Expect: {expect}\r\n\r\n".encode(), "POST")
        await let_others_run()
        await client.send(b"5\r\nabcde\r\n0x0\r\n\r\n", None)
        assert (await client.response()).status == 400

    assert origin.bytes_received == 0


@pytest.mark.parametrize(("version", "body"), [("1.0", b"abcde"), ("1.1", b"")])
async def test_an_expectation_that_means_nothing_goes_no_further(
    origin: OriginDouble, version: str, body: bytes
) -> None:
    """HTTP/1.0 knows none, and without content there is nothing to wait for (RFC 9110 §10.1.1)."""
    origin.otherwise(by_target)
    async with running_pop(origin) as pop:
        fields = ("Expect", "100-continue")
        assert (await pop.request("POST", "/page", fields, body=body, version=version)).body == b"/page"

    assert origin.requests[0].get("expect") is None


# --- half-closed connections


@pytest.mark.parametrize("number", [1, 2, 3, 40])
async def test_who_half_closes_is_answered_all_the_same(origin: OriginDouble, number: int) -> None:
    """Every whole request that came before the FIN, in order; the last answer says that it is the last."""
    origin.otherwise(by_target)
    data = [f"GET /{one} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() for one in range(number)]
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(b"".join(data) + b"GET /evil HTTP/1.1\r\nHost", None)
        client.half_close()
        responses = [await client.response("GET") for _ in range(number)]
        assert await client.closed() == "fin"

    assert [one.body for one in responses] == [f"/{one}".encode() for one in range(number)]
    assert [one.get("connection") for one in responses] == [None] * (number - 1) + ["close"]
    assert len(origin.requests) == number


async def test_a_half_sent_body_is_no_request(origin: OriginDouble) -> None:
    """After the FIN nothing can make it whole."""
    origin.otherwise(by_target)
    async with running_pop(origin) as pop, pop.client() as client:
        half = f"POST /half HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nabc".encode()
        await client.send(NEXT.replace(b"evil", b"page") + half, None)
        client.half_close()
        assert (await client.response("GET")).body == b"/page"
        assert await client.closed() == "fin"

    assert [one.target for one in origin.requests] == ["/page"]


@pytest.mark.parametrize("size", [10, 60_000, 100_000, 300_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_in_a_pipeline_come_to_their_end(origin: OriginDouble, size: int, chunked: bool) -> None:
    """Reading stops while much waits behind an answer, and goes on for the rest of a body: it stopped for ever once."""
    origin.otherwise(by_target)
    body, framing = bytes(size), f"Content-Length: {size}"
    if chunked:
        body, framing = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body), "Transfer-Encoding: chunked"
    request = f"POST /page HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n".encode() + body
    async with running_pop(origin) as pop, pop.client() as client:
        sending = asyncio.get_running_loop().create_task(client.send(request * 4, None))
        for _ in range(4):
            assert (await client.response("POST")).body == b"/page"
        await sending

    assert [len(request.body) for request in origin.requests] == [size] * 4


# --- much that costs little: what is read of a list is bounded, and nothing long is remembered


def test_long_lists_of_a_head_are_not_remembered() -> None:
    """256 Connection fields of 6,000 names were 150 MB; a request's Cache-Control of 32 KiB was kept too."""
    names = count()

    def connection() -> bytes:
        return b",".join(b"%x" % next(names) for _ in range(1000))

    before = _dropped.info().currsize, parse_request_directives.info().currsize
    for _ in range(3):
        kept = response_end_to_end(Fields([(b"Connection", connection() + b",x-a"), (b"X-A", b"1"), (b"X-B", b"2")]))
        assert list(kept) == [(b"X-B", b"2")]
        asked = parse_request_directives(b"max-stale=%d," % next(names) * 100, None)
        assert (asked.no_cache, asked.no_store, asked.max_stale) == (True, True, None)
        assert parse_request_directives(None, b"x" * 2000).no_cache

    assert (_dropped.info().currsize, parse_request_directives.info().currsize) == before


@pytest.mark.parametrize("value", [b"," * 30_000, b", " * 15_000 + b"203.0.113.9", b"10.0.0.1," * 3000])
def test_who_forwards_a_long_list_is_read_from_the_right(value: bytes) -> None:
    """Each empty member was a copy of all that stands left of it."""
    assert len(list(_from_right(value))) <= MOST_HOPS + MOST_EMPTY + 1


@settings(max_examples=50)
@given(st.lists(st.sampled_from([b"", b" ", b"a", b" b\t", b"203.0.113.9"]), max_size=60))
def test_the_members_of_a_short_list_are_all_read(members: list[bytes]) -> None:
    """From the right, without the empty ones."""
    wanted = [member.strip(b" \t") for member in reversed(members) if member.strip(b" \t")]

    assert list(_from_right(b",".join(members))) == wanted


def test_no_more_ranges_are_read_than_anybody_answers() -> None:
    """However many there are."""
    assert len(parse_range(b"bytes=" + b"0-0," * 8000) or ()) == MOST_SPECS


def test_a_query_of_many_parameters_is_a_url_of_its_own() -> None:
    """No-Vary-Search decodes each name."""
    rule = SearchVariance(False, False, frozenset({"x"}))

    assert rule.normal(b"/p?" + b"x=1&" * 200) == b"/p"
    assert rule.normal(b"/p?" + b"%78=1&" * 2000) == b"/p?" + b"%78=1&" * 2000


# --- names


@pytest.mark.parametrize("name", [b"X-Forwarded-Host", b"Edgecache-Require", b"Content-Length", b"Accept-Encoding"])
def test_no_mark_disguises_a_name(name: bytes) -> None:
    """What an origin that reads names as CGI does takes for this field never reaches it as another."""
    written = [name.replace(b"-", b"%c" % mark) for mark in b"!#$%&'*+.^`|~_"]

    assert [other for other in written if not is_disguised(other)] == []
    assert not is_disguised(name)


def test_a_host_named_with_blanks_is_named() -> None:
    """What a balancer lets through, an origin may read."""
    value = b'for=203.0.113.9;host = evil, for=10.0.0.1 ; HOST= "evil";proto=https'

    assert b"evil" not in NAMED_HOST.sub(b"", value)
