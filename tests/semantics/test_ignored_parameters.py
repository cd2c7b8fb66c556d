"""Parameters of queries that are left out of the key, and of what fills the cache."""

from __future__ import annotations

import json

import pytest
from harness.often import examples
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from hostile.twins import Twins
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.ignored_parameters import TRACKING, IgnoredParameters, ignored_of, ignored_parameters
from edgecache.semantics.message import Fields, Request

IGNORED = IgnoredParameters(frozenset(("ref", "fbclid")), ("utm_",))
TOKEN = "a-token-that-may-purge"
BEARER = ("Authorization", f"Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("target", "less"),
    [
        (b"/a?utm_source=x", b"/a"),
        (b"/a?b=1&utm_source=x&c", b"/a?b=1&c"),
        (b"/a?%75tm_x=1&b=2", b"/a?b=2"),
        (b"/a?ref", b"/a"),
        (b"/a?ref=1&ref=2", b"/a"),
        (b"/a?", b"/a?"),
        (b"/a", b"/a"),
        (b"/a?b&&ref", b"/a?b&"),
        (b"/a?refx=1&Ref=2&xref=3", b"/a?refx=1&Ref=2&xref=3"),
        (b"/a?b=ref&c=utm_x", b"/a?b=ref&c=utm_x"),
        (b"/ref=1?x=/?ref=2", b"/ref=1?x=/?ref=2"),
        (b"/a?ref;admin=1", b"/a?ref;admin=1"),
        (b"/a?ref=1;admin=1", b"/a"),
        (b"/a?" + b"ref&" * 300, b"/a?" + b"ref&" * 300),
    ],
)
def test_only_what_is_named_is_left_out(target: bytes, less: bytes) -> None:
    """By its decoded name, to the letter; the others keep their bytes and order; a query of hundreds is its own."""
    assert IGNORED.without(target) == less


@examples(300)
@given(st.text("?&=;%/urefm_ab1", max_size=16))
def test_leaving_out_twice_is_leaving_out_once(query: str) -> None:
    """What is left holds nothing that is ignored, so a parent that leaves out too asks for the same."""
    once = IGNORED.without(b"/?" + query.encode())

    assert IGNORED.without(once) == once


def test_the_setting() -> None:
    """Names, prefixes, and one word for the usual ones."""
    assert ignored_parameters("") == ()
    assert ignored_of(()) is None
    assert ignored_parameters("ref, utm_*,tracking")[:2] == ("ref", "utm_*")
    assert set(TRACKING) <= set(ignored_parameters("tracking"))
    for bad in ("*", "a=b", "a&b", "a b", "utm_**", "é"):
        with pytest.raises(ValueError, match="not a parameter's name"):
            ignored_parameters(bad)


def site(origin: OriginDouble) -> list[int]:
    """An origin whose pages reflect what they were asked by, and their version."""
    version = [1]

    def reply(request: ReceivedRequest) -> Reply:
        if request.method not in ("GET", "HEAD"):
            version[0] += 1
        fields = [("Cache-Control", "no-store" if "private" in request.target else "max-age=60"), ("ETag", '"1"')]
        return Reply(fields=fields, body=f"{request.target} v{version[0]}".encode())

    origin.otherwise(reply)
    return version


async def body(pop: Pop, target: str) -> str:
    """What a GET is answered with."""
    return (await pop.get(target)).body.decode()


async def test_one_entry_and_one_question(origin: OriginDouble) -> None:
    """However it was linked to: stored once, and asked without them, so that no link's own is reflected to others."""
    site(origin)
    async with running_pop(origin, ignored_parameters="tracking,ref") as pop:
        for target in ("/a?utm_source=<script>&x=1", "/a?x=1&fbclid=2", "/a?x=1", "/a?gclid=1&x=1&ref=z"):
            assert await body(pop, target) == "/a?x=1 v1"
        assert [request.target for request in origin.requests] == ["/a?x=1"]
        assert await body(pop, "/a?x=1&other=2") == "/a?x=1&other=2 v1"


async def test_without_the_setting_every_parameter_counts(origin: OriginDouble) -> None:
    """It is off by default."""
    site(origin)
    async with running_pop(origin) as pop:
        assert await body(pop, "/a?utm_source=1") == "/a?utm_source=1 v1"
        assert await body(pop, "/a?utm_source=2") == "/a?utm_source=2 v1"


async def test_what_is_not_for_the_cache_is_as_the_client_wrote_it(origin: OriginDouble) -> None:
    """Writes, preflights, conditional updates, upgrades."""
    site(origin)
    async with running_pop(origin, ignored_parameters="ref") as pop:
        for method, fields in (("POST", []), ("OPTIONS", []), ("GET", [("If-Match", '"x"')])):
            await pop.request(method, "/a?ref=1&x", *fields)
            assert origin.requests[-1].target == "/a?ref=1&x"


@pytest.mark.parametrize("by", ["PURGE", "PUT", "POST"])
async def test_purges_and_writes_reach_what_is_stored_without(origin: OriginDouble, by: str) -> None:
    """A purge or write of a URL with ignored parameters is of the page without them."""
    version = site(origin)
    async with running_pop(origin, ignored_parameters="utm_*", purge_tokens=f"cms={TOKEN}") as pop:
        for target in ("/a", "/a?utm_x=1"):
            assert await body(pop, target) == "/a v1"
        version[0] += by == "PURGE"
        await pop.request(by, "/%61?utm_y=2", BEARER)
        assert await body(pop, "/a?utm_z=3") == "/a v2"


async def test_short_ways_agree_and_log_what_was_asked_for() -> None:
    """Heads that are known by bytes or by likeness find the same entry; the log has the target as it came."""
    twins = Twins(ignored_parameters="utm_*")
    try:
        fields = Fields([(b"Host", b"a")])
        twins.store(Request(b"GET", b"/a", b"a", fields), [(b"Cache-Control", b"max-age=60")], b"page")
        for number in range(40):
            for target in (b"/a", b"/a?utm_x=1", b"/a?utm_x=%d" % number, b"/a?%%75tm_x=%d&" % number, b"/a?b&utm_x"):
                for cookie in (b"", b"Cookie: %d\r\n" % number):
                    answer = await twins.agree(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (target, cookie))
                    assert answer.endswith(b"page") == (b"&" not in target)
        assert twins.quick.alike > 40
        assert twins.quick.logged == twins.long.logged
        assert any("/a?utm_x=39" in str(record) for record in twins.quick.logged)
    finally:
        await twins.end()


async def test_a_reload_changes_it(origin: OriginDouble) -> None:
    """From then on; what was known of heads before is forgotten."""
    from harness.pop import environment

    from edgecache.config.settings import load

    site(origin)
    async with running_pop(origin, access_log="json") as pop:
        for _ in range(3):
            assert await body(pop, "/a?utm_x=1") == "/a?utm_x=1 v1"
        await pop.worker.reload(load(environment(origin.url, {"ignored_parameters": "utm_*"}.items())))
        for _ in range(3):
            assert await body(pop, "/a?utm_x=1") == "/a v1"
        assert json.dumps([request.target for request in origin.requests]) == '["/a?utm_x=1", "/a"]'
