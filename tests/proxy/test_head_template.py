"""Heads that are new each time: what is answered without reading them in full is what the long way answers.

Two POPs are told the same, one of which knows only the long way (`hostile/twins.py`). Every answer has to be the same,
byte for byte, and so has every refusal, every question upstream, every line of the log and every count.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httptools
import pytest
from harness.often import share, slow
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from hostile.generated import POSITIONS, generate
from hostile.heads import (
    FRESH,
    MATTERS,
    OVER_TLS,
    PROXY,
    SETTINGS,
    SITE,
    a_head,
    a_line,
    fill,
    head,
    reads,
    request,
    something_happens,
)
from hostile.tables import all_cases
from hostile.twins import PEER, Twins

from edgecache.invalidation.version_vector import Vector
from edgecache.proxy.fastpath import head_template
from edgecache.proxy.fastpath.head_memo import ONE_OF, KnownHeads
from edgecache.proxy.fastpath.head_template import HeadTemplates
from edgecache.semantics import message, unkeyed_fields
from edgecache.semantics.bounded_cache import RecentlySeen
from edgecache.semantics.message import Fields
from edgecache.semantics.vary import vary_names
from edgecache.tasks import spawn
from edgecache.wire.h1.head import REQUEST_HEAD, RequestHeads, split
from edgecache.wire.head_limits import HeadLimits


@pytest.mark.parametrize("seed", [1, slow(2), slow(3)])
@pytest.mark.parametrize("name", SETTINGS)
async def test_every_answer_is_that_of_the_long_way(name: str, seed: int) -> None:
    """Over generated heads, contents of the memory, purges, passing time and clients of all kinds."""
    dice = random.Random(f"{name} {seed}")
    twins = Twins(**SETTINGS[name])
    fill(twins)
    clients = [(PEER, b"http", b""), (PROXY, b"http", b""), ("192.0.2.8", b"http", b"")] + 2 * [
        (PEER, b"https", OVER_TLS)
    ]
    for number in range(share(2000)):
        if number % 40 == 0:
            something_happens(dice, twins)
        if number % 60 == 0:
            twins.tell(*dice.choice(clients))
        await twins.agree(*reads(dice, a_head(dice)))
    assert twins.quick.logged == twins.long.logged
    assert twins.quick.counted == twins.long.counted
    assert twins.quick.alike > 20, "the short way was not tried"
    await twins.end()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
async def test_every_line_that_matters(name: str) -> None:
    """Each of them in heads that otherwise differ in their clients' own fields only, again and again."""
    twins = Twins(**SETTINGS[name])
    fill(twins)
    addresses = [b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-For: 192.0.2.9"]
    for client in ((PEER, b"http", b""), (PROXY, b"http", b""), (PEER, b"https", OVER_TLS)):
        twins.tell(*client)
        for line in (*MATTERS, *addresses, b"Cookie: one", b"User-Agent: one", b"DNT: " + b"1" * 700):
            for target in (b"/a", b"/b", b"/c", b"/d", b"/n"):
                for number in range(7):
                    own = (b"X-Request-Id: %d" % number, b"User-Agent: two", b"Accept-Language: en, de;q=0.5")
                    await twins.agree(head(target, line, *own, b"Cookie: a"))
                    await twins.agree(head(target, *own, line))
    assert twins.quick.logged == twins.long.logged
    assert twins.quick.counted == twins.long.counted
    assert twins.quick.alike > 50, "the short way was not tried"
    await twins.end()


async def learnt(**settings: str) -> Twins:
    """Twins that know plain requests for our site."""
    twins = Twins(**settings)
    fill(twins)
    for number in range(4):
        await twins.agree(head(b"/a", b"Cookie: %d" % number))
    assert twins.quick.alike > 0
    return twins


async def test_every_byte_in_a_head_like_known_ones() -> None:
    """One byte, each of 256, in each place of a head that would be answered by likeness."""
    twins = await learnt()
    for byte in range(256):  # as if it could be asked for
        twins.store(request(b"/a" + bytes([byte])), [FRESH], b"odd")
    places = [
        *(b"{}GET /a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r\n", b"GET{} /a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r\n"),
        *(b"GET {}/a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r\n", b"GET /a{} HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r\n"),
        *(b"GET /a HTTP/1.1{}\r\nHost: S\r\nCookie: a\r\n\r\n", b"GET /a HTTP/1.1\r{}\nHost: S\r\nCookie: a\r\n\r\n"),
        *(b"GET /a HTTP/1.1\r\n{}Host: S\r\nCookie: a\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: S{}\r\nCookie: a\r\n\r\n"),
        *(b"GET /a HTTP/1.1\r\nHost: S\r\n{}Cookie: a\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: S\r\nCoo{}kie: a\r\n\r\n"),
        *(b"GET /a HTTP/1.1\r\nHost: S\r\nCookie{}: a\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: S\r\nCookie:{}a\r\n\r\n"),
        *(b"GET /a HTTP/1.1\r\nHost: S\r\nDNT: a{}b\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: S\r\nCookie: a{}\r\n\r\n"),
        *(b"GET /a HTTP/1.1\r\nHost: S\r\nCookie: a\r{}\n\r\n", b"GET /a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n{}\r\n"),
        *(b"GET /a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r{}\n", b"GET /a HTTP/1.1\r\nHost: S\r\nCookie: a\r\n\r\n{}"),
    ]
    for place in places:
        for byte in range(256):
            data = place.replace(b"S", SITE).replace(b"{}", bytes([byte]))
            for _ in range(2):
                await twins.agree(data)
    assert twins.quick.alike > 256
    await twins.end()


def hostile() -> Iterator[bytes]:
    """What the adversary of the wire knows, by hand and by machine."""
    yield from (case.data for case in all_cases() if len(case.data) < 100_000)
    yield from (case.data for case in generate() if case.position in list(POSITIONS)[:21])


@pytest.mark.slow
async def test_what_is_refused_is_refused() -> None:
    """Every hostile case, to a POP that knows what plain requests for each of their sites look like."""
    twins = await learnt()
    cookie = b"\r\nCookie: %d\r\n"
    for number, data in enumerate(hostile()):
        await twins.agree(data)
        await twins.agree(data.replace(b"\r\n", cookie % number, 1))
    assert twins.quick.counted == twins.long.counted
    await twins.end()


class Watched(dict[bytes, bytes]):
    """An index of fields that notes which names it is asked for."""

    asked: set[bytes]

    def get(self, name: bytes, default: object = None) -> object:  # type: ignore[override]
        """Note, and tell."""
        self.asked.add(name)
        return super().get(name, default)  # type: ignore[arg-type]

    def __getitem__(self, name: bytes) -> bytes:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, bytes)
        self.asked.add(name)
        return super().__contains__(name)


@pytest.mark.parametrize("name", ["plain", "redirected", "one site", "located"])
async def test_nobody_asks_for_what_is_immaterial(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From head to hit, no rule looks at a field that is left out, unless the response varies by it."""
    asked = Watched.asked = set()
    twins = Twins(**{**SETTINGS[name], "access_log": "off", "trace_sample": "0.5"})
    fill(twins)
    indexed = message._indexed
    monkeypatch.setattr(message, "_indexed", lambda lines: Watched(indexed(lines)))
    lines = [name.title() + b": x" for name in unkeyed_fields.HARMLESS]
    for target in (b"/a", b"/b", b"/.well-known/acme-challenge/t", b"/h"):
        await twins.agree(head(target, *lines, b"Accept-Encoding: gzip"))

    left_out = twins.quick.worker.edge.alike._unkeyed
    assert b"range" in asked, "nothing was watched"
    assert asked & left_out == set()
    await twins.end()


def test_nothing_that_rules_read_is_immaterial() -> None:
    """The tables agree with each other."""
    assert unkeyed_fields.unkeyed() == unkeyed_fields.HARMLESS
    assert all(name == name.lower() and b"_" not in name for name in unkeyed_fields.HARMLESS)
    assert vary_names(Fields([(b"Vary", b", ".join(sorted(unkeyed_fields.HARMLESS)))])) == tuple(
        sorted(unkeyed_fields.HARMLESS)
    )


async def test_it_is_used_for_each_kind_of_client() -> None:
    """Cookies, agents, ids: new in each request, and answered by likeness all the same; large ones too."""
    twins = await learnt()
    for target in (b"/a", b"/b", b"/d", b"/j"):
        before = twins.quick.alike
        for number in range(50):
            lines = (b"Cookie: %d" % number, b"X-Request-Id: %d" % number, b"Accept-Encoding: gzip")
            answer = await twins.agree(head(target, *lines, b"User-Agent: one", b"Accept-Language: en, de;q=0.5"))
            assert answer.startswith((b"HTTP/1.1 200 OK", b"HTTP/1.1 200 \r\n")), answer
        assert twins.quick.alike - before > 40, target
    before = twins.quick.alike
    for number in range(5):
        await twins.agree(head(b"/k", b"Accept-Encoding: gzip", b"Cookie: %d" % number))
    assert twins.quick.alike == before, "what is read slice by slice is not for the short way"
    await twins.end()


async def test_a_known_browser_is_found_without_splitting_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its cookie, in either spelling of the name, or its page may be another; all other lines are compared."""
    twins = await learnt()
    for number in range(3):
        for name in (b"Cookie", b"cookie"):
            await twins.agree(head(b"/a", b"User-Agent: one", b"%b: first %d" % (name, number), b"DNT: 1"))
    split = []
    alike: Any = twins.quick.worker.edge.alike
    find = alike._visitor
    monkeypatch.setattr(alike, "_visitor", lambda *of: split.append(of) or find(*of))
    for number in range(9):
        for name, target in ((b"Cookie", b"/a"), (b"cookie", b"/h"), (b"Cookie", b"/o?x=1")):
            await twins.agree(head(target, b"User-Agent: one", b"%b: %d, ookie: x" % (name, number), b"DNT: 1"))
    assert len(split) == 27, "what looks like two cookies is split"
    for number in range(9):
        for name, target in ((b"Cookie", b"/a"), (b"cookie", b"/h"), (b"Cookie", b"/o?x=1")):
            await twins.agree(head(target, b"User-Agent: one", b"%b: %d" % (name, number), b"DNT: 1"))
    assert len(split) == 27
    for line in (b"DNT: 2", b"DNT:1", b"dnt: 1", b"DNT: 1 ", b"DNT: 1\r\nDNT: 1", b"DNT : 1", b"DNT: 1\n"):
        await twins.agree(head(b"/a", b"User-Agent: one", b"Cookie: last", line))
    assert len(split) == 27 + 7
    await twins.end()


async def test_a_304_is_answered_by_likeness_too() -> None:
    """Browsers revalidate with cookies of their own; what they get follows from their ETag and from what is stored."""
    twins = await learnt()

    async def revalidate(count: int) -> set[bytes]:
        heads = [head(b"/a", b'If-None-Match: "v1"', b"Cookie: %x" % random.getrandbits(64)) for _ in range(count)]
        return {(await twins.agree(one))[:12] for one in heads}

    assert await revalidate(20) == {b"HTTP/1.1 304"}
    assert twins.quick.alike > 10
    twins.clock.advance(3)
    assert await revalidate(3) == {b"HTTP/1.1 304"}
    before = twins.quick.alike
    twins.store(request(b"/a"), [FRESH, (b"ETag", b'"v2"')], b"another")
    assert await revalidate(5) == {b"HTTP/1.1 200"}
    twins.store(request(b"/a"), [FRESH, (b"ETag", b'"v1"')], b"the first again")
    assert await revalidate(5) == {b"HTTP/1.1 304"}
    assert twins.quick.alike > before
    await twins.end()


async def test_what_leaves_the_memory_is_let_go() -> None:
    """No answer that is known keeps an entry alive that was evicted or purged."""
    twins = await learnt()
    edge = twins.quick.worker.edge
    for number in range(9):
        await twins.agree(head(b"/a", b'If-None-Match: "v1"', b"Cookie: %d" % number))
    entry = edge.memory.slot(b"http://%b/a" % SITE)
    await twins.agree(head(b"/a", b'If-None-Match: "v2"', b"Cookie: another"))
    assert len(edge.alike._answers) == 1
    held = edge.memory.account.held
    edge.memory.invalidate(entry.key)
    edge.sweep()
    assert len(edge.alike._answers) == 0
    assert edge.memory.account.held < held
    await twins.end()


async def test_what_is_known_of_revalidations_has_no_content() -> None:
    """Contents are kept where they are counted: not beside what answers a request that is not plain."""
    twins = await learnt()
    for number in range(9):
        twins.store(request(b"/p%d" % number), [FRESH, (b"ETag", b'"v1"')], b"p")
    for tag in (b'"v1"', b'"v2"'):
        for number in range(90):
            await twins.agree(head(b"/p%d" % (number % 9), b"If-None-Match: " + tag, b"Cookie: %d" % number))
    answers = twins.quick.worker.edge.alike._answers.values()
    assert len(answers) == 9
    assert {bytes(one.answer.content) for one in answers} == {b""}
    await twins.end()


async def test_more_objects_than_are_remembered_do_not_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditional requests for them in turns: some get a remembered answer, few of the others' are rendered again."""
    monkeypatch.setattr(head_template, "MOST_ANSWERS", most := 32)
    rendered: list[object] = []
    render = KnownHeads.render
    monkeypatch.setattr(KnownHeads, "render", lambda memo, *given: (rendered.append(memo), render(memo, *given))[1])
    twins = await learnt()
    targets = [b"/p%d" % number for number in range(4 * most)]
    for target in targets:
        twins.store(request(target), [FRESH, (b"ETag", b'"v1"')], b"p")
    for turn in range(6):
        rendered.clear()
        known = twins.quick.alike
        for target in targets:
            answer = await twins.agree(head(target, b'If-None-Match: "v1"', b"Cookie: %d" % turn))
            assert answer.startswith(b"HTTP/1.1 304 ")
    assert twins.quick.alike - known >= most // 2
    assert rendered.count(twins.quick.worker.edge.known) <= len(targets) // ONE_OF
    await twins.end()


async def test_a_head_that_comes_again_is_known_by_its_bytes() -> None:
    """The shortest way is for what repeats itself exactly."""
    twins = await learnt()
    for _ in range(4):
        await twins.agree(head(b"/a", b"Cookie: always the same"))
    before = twins.quick.alike
    await twins.agree(head(b"/a", b"Cookie: always the same"))
    assert twins.quick.alike == before
    assert twins.quick.worker.watch.requests.known_hits > before
    await twins.end()


async def test_nothing_is_known_any_more_once_it_drains() -> None:
    """From then on every answer says that the connection ends."""
    twins = await learnt()
    drains = [spawn(twin.worker.drain(), "drain") for twin in twins.both]
    await asyncio.sleep(0)
    for number in range(5):
        assert b"\r\nConnection: close\r\n" in await twins.agree(head(b"/a", b"Cookie: %d" % number))
    for one in drains:
        one.cancel()
    await twins.end()


async def test_other_limits_hold_at_once() -> None:
    """What follows from keyed lines is forgotten when the limits change."""
    twins = await learnt()
    for twin in twins.both:
        twin.worker.compose(replace(twin.worker._settings, hosts=("elsewhere.test",)), None)
        twin.tell(PEER)
    assert (await twins.agree(head(b"/a", b"Cookie: other"))).startswith(b"HTTP/1.1 421 ")
    await twins.end()


async def test_what_is_between_pops_teaches_nothing() -> None:
    """A signature is right for a moment only: a head with an internal field goes the long way each time."""
    twins = await learnt()
    known, before = len(twins.quick.worker.edge.alike), twins.quick.alike
    for number in range(8):
        await twins.agree(head(b"/a", b"Edgecache-Pop: pop=x", b"Cookie: %d" % number))
    assert len(twins.quick.worker.edge.alike) == known
    assert twins.quick.alike == before
    await twins.end()


async def test_a_cookie_that_may_hold_a_token_matters() -> None:
    """Who has written is answered with what is known of the write, whoever else was answered before (with a tier)."""
    twins = Twins(token_cookie="on")
    fill(twins)

    async def never(token: Vector, patience: float) -> bool:
        return False

    for twin in twins.both:
        twin.worker.edge._reaches = never
    for number in range(6):
        await twins.agree(head(b"/a", b"User-Agent: %d" % number, b"Cookie: edgecache-token=x"))
    token = Vector({"eu": 1 << 80}).encode()
    answer = await twins.agree(head(b"/a", b"Cookie: edgecache-token=" + token))
    assert answer.startswith(b"HTTP/1.1 200 Asked")
    assert twins.quick.alike > 0
    await twins.end()


async def test_what_a_door_decides_by_the_target_teaches_nothing_of_others() -> None:
    """A challenge is answered over http; that says nothing of pages, which are sent to https."""
    twins = Twins(https_redirect="on", trusted_proxies=f"{PROXY}/32")
    fill(twins)
    for number in range(6):
        await twins.agree(head(b"/.well-known/acme-challenge/t", b"Cookie: %d" % number))
        assert (await twins.agree(head(b"/a", b"Cookie: %d" % number))).startswith(b"HTTP/1.1 301 ")
    await twins.end()


@pytest.mark.parametrize("mark", [b"\n", OVER_TLS, b"\n" + OVER_TLS, b"DE EU eu\n"])
async def test_no_client_puts_a_doors_mark_before_its_head(mark: bytes) -> None:
    """What a proxy's heads, or heads over TLS, are known by is refused from who only says it."""
    twins = Twins(trusted_proxies=f"{PROXY}/32")
    fill(twins)
    lines = (b"X-Forwarded-Proto: https",)
    for client in ((PROXY, b"http", b""), (PEER, b"https", OVER_TLS), (PROXY, b"https", OVER_TLS)):
        twins.tell(*client)
        for number in range(8):
            await twins.agree(head(b"/a", *lines, b"Cookie: %d" % (number // 4)))
    assert twins.quick.alike > 0
    twins.tell(PEER)
    for number in range(3):
        answer = await twins.agree(mark + head(b"/a", *lines, b"Cookie: %d" % number))
        assert answer.startswith(b"HTTP/1.1 400 ")
    await twins.end()


# --- what it costs at most


def flood(alike: HeadTemplates, count: int, lines: int, seed: int = 5) -> None:
    """So many heads, of so many random lines each."""
    dice = random.Random(seed)
    for _ in range(count):
        names = (dice.choice([b"User-Agent", b"Accept", b"X-%x" % dice.getrandbits(32)]) for _ in range(lines))
        alike.find(head(b"/%x" % dice.getrandbits(32), *(b"%b: %x" % (name, dice.getrandbits(600)) for name in names)))


def test_a_flood_of_new_lines_leaves_nothing_in_memory() -> None:
    """Neither lines nor the names of lines that come once are remembered."""
    held = [0]

    def hold(more: int) -> None:
        held[0] += more

    alike = HeadTemplates(64 * 1024, hold)
    alike.judge_by(unkeyed_fields.HARMLESS)
    flood(alike, 5000, 10)
    assert held[0] == len(alike._shapes) == len(alike._visitors) == len(alike) == 0


async def test_shapes_and_visitors_are_bounded_in_memory() -> None:
    """Names of lines in any order, and browsers that come again and again, hold no more than their part."""
    twins = await learnt()
    alike, account = twins.quick.worker.edge.alike, twins.quick.worker.edge.memory.account
    before, dice = account.held, random.Random(3)
    names = [b"X-Request-Id", b"User-Agent", b"Accept", b"Accept-Language", b"Referer", b"DNT", b"ECT", b"RTT", b"DPR"]
    for number in range(1500):
        dice.shuffle(names)
        raw = head(b"/a", *(b"%b: %0100d" % (name, number) for name in names))
        for _ in range(4):
            alike.find(raw)
    assert len(alike._shapes) > 20
    assert len(alike._visitors) > 20
    assert account.held - before <= account.budget // 64
    await twins.end()


async def test_likenesses_are_bounded() -> None:
    """Any number of keyed lines hold no more than their part of the memory, and are let go with the rest."""
    twins = await learnt()
    alike, account = twins.quick.worker.edge.alike, twins.quick.worker.edge.memory.account
    before = account.held
    for number in range(1500):
        raw = head(b"/a", b"X-Api-Key: %0150d" % number)
        for turn in range(6):
            await twins.quick.send(raw.replace(b"\r\n\r\n", b"\r\nCookie: %d\r\n\r\n" % turn))
    most = account.budget // 64
    assert len(alike) > 20
    assert alike._templates.bytes + alike._visitors.bytes + alike._shapes.bytes <= most
    alike.forget_all()
    assert account.held <= before + most
    await twins.end()


def test_what_comes_once_is_not_remembered() -> None:
    """Neither what a head parses to, nor its template, before it comes again."""
    heads = RequestHeads(HeadLimits())
    for number in range(100):
        heads.parse(head(b"/%d" % number))
    assert len(heads._parsed) == 0
    heads.parse(head(b"/1"))
    assert len(heads._parsed) == 1
    seen = RecentlySeen(most=10)
    assert [seen.again(number) for number in range(100)] == [False] * 100
    assert seen.again(99)
    assert len(seen._marks) <= 10


async def test_a_connection_whose_heads_are_known_is_kept_as_long_as_any(origin: OriginDouble) -> None:
    """Which way an answer took decides nothing about the patience with an idle connection."""
    origin.otherwise(lambda request: Reply(200, [("Cache-Control", "max-age=60")], b"page"))
    async with running_pop(origin) as pop, pop.client() as teacher, pop.client() as client:
        for _ in range(4):
            await teacher.request("GET", "/", ())
            await teacher.response()
        before = pop.worker.watch.requests.known_hits
        await client.request("GET", "/", ())
        await client.response()
        assert pop.worker.watch.requests.known_hits == before + 1
        assert [one.fresh for one in pop.worker.connections] == [False, False]


class EveryLine:
    """Takes what llhttp calls back with."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line."""
        self.lines.append((name, value))


def test_lines_are_split_as_llhttp_does() -> None:
    """Whether names are repeated or not, and whatever is in their values."""
    dice, repeated = random.Random(11), 0
    for _ in range(3000):
        lines = [a_line(dice) for _ in range(dice.choice((0, 3, 7, 50)))]
        raw = head(b"/a", *lines, *dice.sample(lines, min(len(lines), dice.randrange(3))))
        every = EveryLine()
        try:
            httptools.HttpRequestParser(every).feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            continue
        if REQUEST_HEAD.fullmatch(raw) is None:
            continue
        assert list(split(raw, raw.count(b"\n") - 2)) == every.lines
        repeated += len(dict(every.lines)) < len(every.lines)
    assert repeated > 100


def calls_of(alike: HeadTemplates, raw: bytes) -> int:
    """The calls, of regular expressions, look-ups and functions, that looking for one head takes."""
    calls = 0

    def note(frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        alike.find(raw)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("lines", [2, 20, 50])
@pytest.mark.parametrize("same_names", [False, True])
def test_a_head_that_is_like_none_takes_few_calls_however_many_lines_it_has(lines: int, *, same_names: bool) -> None:
    """It is matched once, split once, and looked up a few times: none of that is done for each of its lines."""
    alike, calls = HeadTemplates(), 0
    alike.judge_by(unkeyed_fields.HARMLESS)
    dice = random.Random(lines)
    for number in range(1000):
        names = [b"X-%x-%x" % (line, 0 if same_names else number) for line in range(lines)]
        raw = head(b"/%x" % number, *(b"%b: %x" % (name, dice.getrandbits(160)) for name in names))
        calls += calls_of(alike, raw)

    assert 10 * 1000 < calls <= 20 * 1000


async def test_a_flood_of_heads_that_are_like_none_takes_nothing_from_others() -> None:
    """No shape is learnt of what comes once; the usual clients are answered by likeness during it all."""
    twins = await learnt()
    alike = twins.quick.worker.edge.alike
    before = twins.quick.alike
    for number in range(10):
        flood(alike, 100, 20, seed=number)
        await twins.agree(head(b"/a", b"Cookie: own %d" % number))
    assert (len(alike._shapes), len(alike._visitors)) == (1, 1), "those of the usual clients"
    assert twins.quick.alike - before >= 9
    await twins.end()
