"""Variants by Accept-Encoding: as many as a site has representations; nobody gets a coding that is not accepted."""

from __future__ import annotations

import random

import pytest
from harness.often import examples
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server
from hostile.twins import Twins
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.accept_encoding import accepts, codings_in, codings_in_block, keyed, keyed_under
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.vary import selecting_values
from edgecache.storage.variants import MOST_CODINGS, MOST_SITES, UsedCodings

USUAL = ["gzip, deflate, br, zstd", "gzip, deflate, br", "gzip, deflate", "gzip", "identity"]
NAMES = (b"accept-encoding",)
VARY = [("Vary", "Accept-Encoding"), ("Cache-Control", "max-age=60")]
MEMBERS = st.tuples(
    st.sampled_from(["gzip", "br", "zstd", "deflate", "x-gzip", "GZIP", "identity", "*"]),
    st.sampled_from(["", "", ";q=1", ";q=0.5", ";q=0", "; Q=0.000"]),
)
VALUES = st.lists(MEMBERS, max_size=4).map(lambda members: ", ".join(name + weight for name, weight in members))
USED = st.none() | st.frozensets(st.sampled_from([b"gzip", b"br", b"zstd", b"deflate"]))


def weights(value: str) -> dict[str, float]:
    """The last weight of each coding, as RFC 9110 §12.5.3 reads it; any of several counts as wanted."""
    found: dict[str, float] = {}
    for member in filter(None, (part.strip().lower() for part in value.split(","))):
        name, _, weight = member.partition(";")
        name = name.strip().removeprefix("x-")
        found[name] = max(found.get(name, 0.0), float(weight.strip().removeprefix("q=") or 1))
    return found


def is_acceptable(coding: str, value: str | None) -> bool:
    """Whether a client that sends `value` may be sent `coding`."""
    if value is None:
        return True
    found = weights(value)
    if coding in found:
        return found[coding] > 0
    return found.get("*", 1.0 if coding == "identity" else 0.0) > 0


def values_of(value: str) -> tuple[bytes | None, ...]:
    """What a request with this Accept-Encoding selects by."""
    return selecting_values(NAMES, Fields([(b"Accept-Encoding", value.encode())]))


@examples(1500)
@given(VALUES, VALUES, USED, USED, st.sampled_from(["gzip", "br", "zstd", "deflate"]))
def test_what_lies_in_the_same_place_is_accepted(
    stored_for: str, asked_by: str, one: frozenset[bytes] | None, two: frozenset[bytes] | None, coding: str
) -> None:
    """Whatever each process knows of the codings: a request finds what is in a coding only if it accepts that."""
    codings = frozenset((coding.encode(),))
    made_for = values_of(stored_for)
    if not accepts(made_for[0], codings):
        return  # it is not stored
    if keyed_under(NAMES, made_for, one, codings) == keyed(NAMES, values_of(asked_by), two):
        conflicting = {name for name, weight in _twice(asked_by)}
        assert is_acceptable(coding, asked_by) or coding in conflicting


def _twice(value: str) -> list[tuple[str, float]]:
    """Codings that are wanted and refused in one value: nobody can know."""
    names = [part.partition(";")[0].strip().lower().removeprefix("x-") for part in value.split(",")]
    return [(name, 0.0) for name in names if names.count(name) > 1]


@examples(800)
@given(VALUES, st.frozensets(st.sampled_from([b"gzip", b"br", b"zstd"]), min_size=1))
def test_a_refused_identity_is_a_place_of_its_own(value: str, used: frozenset[bytes]) -> None:
    """What was made for who takes identity is not found by who refuses it."""
    if _twice(value):
        return
    place = keyed(NAMES, values_of(value), used)[0] or b""
    assert (b"!identity" in place.split(b",")) is not is_acceptable("identity", value)


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("gzip, *;q=0", b"!identity,gzip"),
        ("gzip, identity, *;q=0", b"gzip"),
        ("*;q=0", b"!identity"),
        ("identity;q=0, *", b"!identity,*"),
        ("br;q=0, *", b"!br,*"),
        ("gzip;q=0", b"identity"),
        ("br;q=0.1, gzip", b"br,gzip"),
        ("", b"identity"),
        ("gzip;q=2", b"identity"),
    ],
)
def test_weights_of_zero_and_the_star(value: str, normal: bytes) -> None:
    """`*` stands for what is not named, identity included (RFC 9110 §12.5.3)."""
    assert values_of(value) == (normal,)


def test_codings_are_read_as_they_are_compared() -> None:
    """By either name of gzip, in any case, on several lines; identity is none."""
    assert codings_in(b"X-GZip , br") == {b"gzip", b"br"}
    assert codings_in(b"identity") == codings_in(None) == codings_in(b",") == frozenset()
    block = b"X: content-encoding: no\r\nContent-Encoding: gzip\r\nY: z\r\ncontent-encoding:br\r\n"
    assert codings_in_block(block) == {b"gzip", b"br"}
    assert codings_in_block(b"") == frozenset()


def test_what_is_known_of_sites_is_bounded() -> None:
    """More codings than are usual, or sites than fit: values count in full, as if nothing were known."""
    used = UsedCodings()
    for number in range(MOST_CODINGS + 3):
        used.learn(b"http://a/", NAMES, frozenset((b"c%d" % number,)))
    assert used.used(b"http://a/x") is None
    used.learn(b"http://b:81/", NAMES, frozenset((b"gzip",)))
    assert used.used(b"https://b/x") == {b"gzip"}
    for number in range(MOST_SITES):
        used.learn(b"http://s%d/" % number, NAMES, frozenset((b"gzip",)))
    assert used.used(b"https://b/x") is None
    used.learn(b"http://c/", (b"cookie",), frozenset((b"gzip",)))
    assert used.used(b"http://c/") is None


def negotiating(origin: OriginDouble, supported: list[str]) -> None:
    """An origin that sends the first of these codings that is accepted, else the plain content, else 406."""

    def reply(request: ReceivedRequest) -> Reply:
        value = request.get("Accept-Encoding")
        for coding in [*supported, "identity"]:
            if is_acceptable(coding, value if value is not None else "identity"):
                coded = [] if coding == "identity" else [("Content-Encoding", coding)]
                return Reply(fields=[*VARY, *coded], body=coding.encode())
        return Reply(406, fields=VARY)

    origin.otherwise(reply)


async def got(pop: Pop, target: str, value: str | None) -> str:
    """The coding in which a client with this Accept-Encoding gets it."""
    fields = [] if value is None else [("Accept-Encoding", value)]
    return (await pop.get(target, *fields)).body.decode()


@pytest.mark.parametrize(("supported", "copies"), [(["gzip"], 2), (["br", "gzip"], 3), ([], 5)])
async def test_five_usual_values_need_as_many_copies_as_there_are_codings(
    origin: OriginDouble, supported: list[str], copies: int
) -> None:
    """Once a site's codings are known: one for each way to choose among them."""
    negotiating(origin, supported)
    async with running_pop(origin) as pop:
        for value in USUAL:
            await got(pop, "/first", value)
        asked = len(origin.requests)
        for _ in "123":
            for value in USUAL:
                coding = await got(pop, "/second", value)
                assert is_acceptable(coding, value)
                assert coding == next((one for one in supported if is_acceptable(one, value)), "identity")
        assert len(origin.requests) == asked + copies


async def test_who_accepts_none_of_them_never_gets_one(origin: OriginDouble) -> None:
    """Weights of zero, identity refused, the star, no field at all: cold and warm, in any order."""
    values = [
        *USUAL,
        "gzip;q=0, *",
        "br;q=0, gzip",
        "*",
        "*;q=0",
        "identity;q=0, gzip",
        "gzip, *;q=0",
        "zstd",
        "",
        None,
    ]
    values += ["br;q=0.1, gzip;q=1", "gzip;q=0.0, br;q=1.000", "identity;q=1, *;q=0", "x-gzip", "GZIP", "bogus;;"]
    dice = random.Random(3)
    negotiating(origin, ["br", "gzip"])
    async with running_pop(origin) as pop:
        for _ in range(300):
            value = dice.choice(values)
            coding = await got(pop, f"/{dice.randrange(3)}", value)
            readable = "identity" if value == "bogus;;" else value
            assert not coding or is_acceptable(coding, readable), value


async def test_an_answer_that_was_not_asked_for_is_not_stored(origin: OriginDouble) -> None:
    """An origin that compresses whatever is asked, and says that it varies: nobody else gets that."""
    origin.otherwise(Reply(fields=[*VARY, ("Content-Encoding", "gzip")], body=b"gzip"))
    async with running_pop(origin) as pop:
        for _ in "12":
            answer = await pop.get("/a", ("Accept-Encoding", "identity"))
            assert "stored" not in (answer.get("Cache-Status") or "").replace("not-stored", "")
        assert len(origin.requests) == 2
        for _ in "12":
            await pop.get("/b", ("Accept-Encoding", "gzip"))
        assert len(origin.requests) == 3


async def test_what_a_new_coding_parts_is_apart(origin: OriginDouble) -> None:
    """When a site begins to use another coding, who accepts it gets it where the stored was made for who does not."""
    supported = ["gzip"]
    negotiating(origin, supported)
    async with running_pop(origin) as pop:
        for value in (USUAL[2], *USUAL, *USUAL):
            assert await got(pop, "/a", value) == ("identity" if value == "identity" else "gzip")
        assert len(origin.requests) == 2
        supported.insert(0, "br")
        assert await got(pop, "/b", USUAL[0]) == "br"
        pop.worker.edge.sweep()  # heads that were known by their bytes
        assert [await got(pop, "/a", value) for value in USUAL] == ["br", "br", "gzip", "gzip", "identity"]
        assert len(origin.requests) == 4


async def test_processes_that_know_less_find_nothing_wrong(origin: OriginDouble, valkey: Server) -> None:
    """The regional tier is shared by those who have learnt other codings."""
    negotiating(origin, ["br", "gzip"])
    options = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu"}
    async with running_pop(origin, pop="a", **options) as one, running_pop(origin, pop="b", **options) as two:
        await one.caught_up()
        await two.caught_up()
        dice = random.Random(5)
        for number in range(120):
            value = dice.choice(USUAL)
            coding = await got(dice.choice((one, two)), f"/{number % 3}", value)
            assert coding == next((each for each in ("br", "gzip") if is_acceptable(each, value)), "identity")
            await one.written()
            await two.written()
        assert len(origin.requests) <= 24


async def test_short_ways_agree() -> None:
    """Heads that are known by bytes or by likeness get the variant that the long way selects."""
    twins = Twins()
    try:
        for value, coding in ((b"gzip, deflate, br", b"br"), (b"gzip", b"gzip"), (b"identity", b"")):
            request = Request(b"GET", b"/a", b"a", Fields([(b"Host", b"a"), (b"Accept-Encoding", value)]))
            coded = [(b"Content-Encoding", coding)] if coding else []
            lines = [(b"Cache-Control", b"max-age=60"), (b"Vary", b"Accept-Encoding"), *coded]
            twins.store(request, lines, b"content " + coding)
        for number in range(12):
            for value in (*USUAL, "gzip;q=0, *", "*", "identity;q=0, gzip", "zstd"):
                for cookie in (b"", b"Cookie: %d\r\n" % number):
                    line = b"Accept-Encoding: %b\r\n" % value.encode()
                    answer = await twins.agree(b"GET /a HTTP/1.1\r\nHost: a\r\n" + line + cookie + b"\r\n")
                    body = answer.rpartition(b"\r\n\r\n")[2].partition(b" and closed")[0]
                    assert not body or is_acceptable(body.decode().partition(" ")[2] or "identity", value)
        assert twins.quick.alike
    finally:
        await twins.end()
