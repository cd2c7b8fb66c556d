"""Sharing: requests that rules could answer differently share nothing, over random rule sets and pairs of requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from harness.echoing import EchoingPop, Got
from harness.often import slow
from harness.rule_sets import FORM, JSON, STATUS, TEXT, TYPES, Rule, Sent, cases, echo, lifetime, meaning, meanings
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from edgecache.proxy.fastpath.head_template import HeadTemplates
from edgecache.proxy.fetch import Fetcher
from edgecache.proxy.middleware import site_rules
from edgecache.semantics import query_content
from edgecache.semantics.rules import conditions, key_parts
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.policy import RequestPolicy, Site
from edgecache.semantics.rules.policy import Rule as CompiledRule
from edgecache.semantics.stored_response import Stored
from edgecache.wire.exchange import Exchange

FEWEST, FEW, MANY, PARTS = 30, 150, 5_000, 10
# Of each request after the first, before and after what is stored is stale, with heads that are known in one and new in
# the next: heads are learnt at the second hit, and answered by that at the third; templates of new ones sooner.
ROUNDS = (6, 4)


class Shared(AssertionError):
    """A request got what is not for it."""


def check_response(match: str, listed: list[Rule], sent: Sent, got: Got) -> None:
    """`got` is what the rules make of `sent`: the origin's request, the response's fields, its freshness."""
    status, kind = STATUS.get(sent.path, 200), TYPES.get(sent.path, "text/html")
    means = meaning(match, listed, sent, (status, kind, int(got.is_hit)))
    up = dict(means.sent)
    edits = [up.get(f"X-R{number}", "") for number in range(3)]
    expected = echo(means.pool, means.prefix + sent.path + means.query, edits, sent)
    if got.status != status or got.fields["x-echo"] != expected:
        raise Shared(f"{got} instead of {expected}")
    fields = {name.upper(): value for name, value in got.fields.items() if name.startswith("x-s")}
    if fields != dict(means.got):
        raise Shared(f"{fields} instead of {means.got}")
    caching = dict(meaning(match, listed, sent, (status, kind, 0)).caching)
    if got.is_hit and got.ttl is not None and "fwd" not in got.fields["cache-status"]:
        assert got.ttl == lifetime(caching, sent.path), (got, caching)
    if got.is_hit and caching.get("store") is False:
        raise Shared(f"{got} is out of the store")


def may_share(match: str, listed: list[Rule], pair: tuple[Sent, Sent]) -> bool:
    """Whether both requests may get the same response of the origin: all rules treat them equally, and it is stored."""
    first, second = pair
    if meanings(match, listed, first) != meanings(match, listed, second):
        return False
    status, kind = STATUS.get(first.path, 200), TYPES.get(first.path, "text/html")
    return dict(meaning(match, listed, first, (status, kind, 0)).caching).get("store") is not False


def _at(peer: str, *fields: tuple[str, str]) -> Sent:
    return Sent("GET", "/a", "", fields, peer)


SETS_FIELD: Rule = {"last": False, "request_headers": {"set": {"X-R0": "0"}}}


def _answers(value: str) -> Rule:
    return {"last": False, "response_headers": {"set": {"X-S0": value}}}


PLAIN = _at("203.0.113.1")
SEEDS: list[tuple[list[Rule], tuple[Sent, Sent]]] = [  # the shortest ways to what random rule sets come to later
    (
        [{"name": "r0", "when": {"network": ["203.0.113.1"]}, **SETS_FIELD}],
        (PLAIN, _at("203.0.113.2")),
    ),
    (
        [{"name": "r0", "when": {"cookie": {"s": True}}, **SETS_FIELD}],
        (_at("203.0.113.1", ("Cookie", "s=1"), ("If-Match", "*")), PLAIN),
    ),
    (
        [{"name": "r0", "when": {"cookie": {"s": True}}, **SETS_FIELD}],
        (_at("203.0.113.1", ("Cookie", "t=1")), _at("203.0.113.1", ("Cookie", "s=1"))),
    ),
    (
        [
            {"name": "r0", "when": {"cookie": {"s": True}}, "last": True, "access": {"public": True}},
            {"name": "r1", "when": {}, **SETS_FIELD},
        ],
        (_at("203.0.113.1", ("Cookie", "s=1")), PLAIN),
    ),
    (
        [{"name": "r0", "when": {"header": {"Accept-Language": "d*"}}, **SETS_FIELD}],
        (_at("203.0.113.1", ("Accept-Language", "de")), _at("203.0.113.1", ("Accept-Language", "en"))),
    ),
    (
        [{"name": "r0", "when": {}, "last": False, "cache": {"key": {"headers": ["Accept-Language"]}}}],
        (_at("203.0.113.1", ("Accept-Language", "de")), _at("203.0.113.1", ("Accept-Language", "en"))),
    ),
    ([{"name": "r0", "when": {"query": {"q": True}}, **SETS_FIELD}], (PLAIN, PLAIN._replace(query="?q=1"))),
    ([{"name": "r0", "when": {}, "last": False, "cache": {"ttl": "11s"}}], (PLAIN, PLAIN)),
    (
        [{"name": "r0", "when": {"status": "2xx"}, **_answers("0")}, {"name": "r1", "when": {}, **_answers("1")}],
        (PLAIN, PLAIN),
    ),
    (
        [{"name": "r0", "when": {"header": {"X-Ab": "1"}, "status": "2xx"}, **_answers("0")}],
        (_at("203.0.113.1", ("X-Ab", "1")), PLAIN),
    ),
]


def _queried(kind: str, content: str) -> Sent:
    return Sent("QUERY", "/a", "", (("Content-Type", kind),), "203.0.113.1", content)


STORES_QUERIES: Rule = {"name": "r0", "when": {}, "last": False, "cache": {"query_method": True}}
LIKE = [  # contents of QUERYs that normalise to the same
    (_queried(JSON, '{"a": 1, "b": "x y"}'), _queried(JSON, '\t{"a":1,\n"b":"x y"}')),
    (_queried(FORM, "a=1&b=2"), _queried(FORM, "b=2&a=1")),
]
UNLIKE = [
    (_queried(JSON, '{"a":1,"b":"x y"}'), _queried(JSON, '{"a":1,"b":"xy"}')),
    (_queried(JSON, '{"a":1,"b":"x y"}'), _queried(JSON, '{"b":"x y","a":1}')),
    (_queried(JSON, '{"a":1,"b":"x y"}'), _queried(TEXT, '{"a":1,"b":"x y"}')),
    (_queried(TEXT, '{"a": 1}'), _queried(TEXT, '{"a":1}')),
    (_queried(FORM, "a=1&a=2"), _queried(FORM, "a=2&a=1")),
    (_queried(FORM, "a=1&b=2"), PLAIN),
]
SEEDS += [([STORES_QUERIES], pair) for pair in (*LIKE, *UNLIKE)]


async def check_pair(pop: EchoingPop, match: str, listed: list[Rule], pair: tuple[Sent, Sent]) -> int:
    """Send both at once, and then each several times, before and after what is stored is stale; the hits."""
    pop.put(match, listed)
    seen: list[tuple[Sent, str]] = []
    hits = 0

    async def one(started: Any) -> None:
        nonlocal hits
        sent = started[0]
        got = await pop.taken(started)
        hits += got.is_hit
        check_response(match, listed, sent, got)
        seen.append((sent, got.number))

    for rounds in ROUNDS:
        for started in [pop.start(sent) for sent in (*pair, *pair)]:
            await one(started)
        for _ in range(rounds):
            for sent in pair:
                await one(pop.start(sent))
        pop.clock.advance(1000)
    numbers = [{number for sent, number in seen if sent == which} for which in pair]
    if pair[0] != pair[1] and numbers[0] & numbers[1] and not may_share(match, listed, pair):
        raise Shared(f"both got {numbers[0] & numbers[1]}")
    return hits


def run(examples: int, with_seed: int = 1, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> int:
    """The seeds, and so many rule sets and pairs; the hits among the responses."""
    hits = 0

    async def all_examples() -> None:
        loop = asyncio.get_running_loop()
        pop = EchoingPop()

        @seed(with_seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        )
        @given(st.sampled_from(["all", "all", "first"]), cases())
        def example(match: str, case: tuple[list[Rule], tuple[Sent, Sent]]) -> None:
            nonlocal hits
            listed, pair = case
            hits += asyncio.run_coroutine_threadsafe(check_pair(pop, match, listed, pair), loop).result(30)

        try:
            for listed, pair in SEEDS:
                await check_pair(pop, "all", listed, pair)
            await asyncio.to_thread(example)
        finally:
            await pop.worker.stop()

    asyncio.run(all_examples())
    return hits


@pytest.mark.parametrize("examples", [FEWEST, slow(FEW)])
def test_rule_sets_share_nothing_that_differs(examples: int) -> None:
    """So many hits show that the store takes part."""
    assert run(examples) > examples


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_five_thousand_rule_sets_share_nothing_that_differs(part: int) -> None:
    """Thousands, in parts that run beside each other."""
    assert run(MANY // PARTS, 2 + part) > MANY // PARTS


async def test_contents_of_one_meaning_share_a_response() -> None:
    """Where they may: random pairs would not show that a QUERY is ever stored."""
    pop = EchoingPop()
    for pair in (*LIKE, *UNLIKE):
        pop.put("all", [STORES_QUERIES])
        numbers = [(await pop.get(sent)).number for sent in (*pair, *pair)]
        assert len(set(numbers)) == (1 if pair in LIKE else 2), pair
    await pop.worker.stop()


# --- planted faults: each is found


def contents_left_out(patch: pytest.MonkeyPatch) -> None:
    """The content of a QUERY is not in the cache key."""
    patch.setattr(key_parts, "content_digest", lambda request: b"")


def types_of_contents_left_out(patch: pytest.MonkeyPatch) -> None:
    """What its content means is, but not as which type."""

    def digest(request: Any) -> Any:
        return query_content.normalised(request.content, request.fields.get(b"content-type") or b"").hex().encode()

    patch.setattr(key_parts, "content_digest", digest)


def all_white_space_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """That in strings, too."""
    patch.setattr(query_content, "normalised", lambda content, kind: b"".join(content.split()))


def all_form_fields_are_sorted(patch: pytest.MonkeyPatch) -> None:
    """Those of one name, too."""
    patch.setattr(query_content, "_sorted_form", lambda content: b"&".join(sorted(content.split(b"&"))))


def no_reads(patch: pytest.MonkeyPatch) -> None:
    """Conditions do not name the fields that they read."""
    patch.setattr(Sites, "reads", property(lambda sites: frozenset()))


def no_networks(patch: pytest.MonkeyPatch) -> None:
    """Conditions do not name the networks that decide them."""
    patch.setattr(Sites, "networks", property(lambda sites: ()))


def rule_left_out_of_group(patch: pytest.MonkeyPatch) -> None:
    """The first rule is not in the cache key."""
    keys: Any = CompiledRule.keys
    patch.setattr(CompiledRule, "keys", property(lambda rule: rule.name != "r0" and keys.func(rule)))


def last_left_out_of_group(patch: pytest.MonkeyPatch) -> None:
    """A rule that only admits, and is the last one where it holds, is not in the cache key."""
    keys: Any = CompiledRule.keys
    patch.setattr(CompiledRule, "keys", property(lambda rule: not rule.admits_only and keys.func(rule)))


def template_of_another_target(patch: pytest.MonkeyPatch) -> None:
    """What rules make of a target is remembered for all whose paths begin alike."""
    hit = HeadTemplates._ruled_hit
    known: dict[tuple[int, bytes], Any] = {}

    def of_path(templates: Any, visitor: Any, raw: bytes, target: bytes, **named: Any) -> Any:
        place = (visitor.template.number, target.partition(b"?")[0])
        known[place] = found = known.get(place) or hit(templates, visitor, raw, target, **named)
        return found

    patch.setattr(HeadTemplates, "_ruled_hit", of_path)


def policy_lost_on_revalidation(patch: pytest.MonkeyPatch) -> None:
    """A 304 brings back the origin's own freshness."""
    freshened = Stored.freshened

    def without_policy(stored: Any, response: Any, times: Any, request: Any, policy: Any) -> Any:
        return freshened(stored, response, times, request._replace(policy=None), policy)

    patch.setattr(Stored, "freshened", without_policy)


def key_parts_left_out(patch: pytest.MonkeyPatch) -> None:
    """Cookies, headers, countries and devices are not in the cache key."""
    patch.setattr(site_rules, "key_part", lambda policy, facts: policy.group)


def flights_by_url(patch: pytest.MonkeyPatch) -> None:
    """Requests of one URL follow one flight."""
    patch.setattr(Fetcher, "collapsed_key", lambda fetcher, key, request: (request.host, request.target))


def passes_are_stored(patch: pytest.MonkeyPatch) -> None:
    """What was passed on before rules made a key goes into the store."""
    patch.setattr(Exchange, "storable", property(lambda exchange: True, lambda exchange, value: None), raising=True)


def pending_rules_last(patch: pytest.MonkeyPatch) -> None:
    """Rules that the response decides are laid over later ones."""

    def for_response(policy: Any, facts: Any) -> Any:
        actions = policy.actions
        for left, rule in policy.pending:
            if conditions.holds(left, facts):
                actions = rule.actions.over(actions)
        return actions

    patch.setattr(RequestPolicy, "for_response", for_response)


def pending_rules_left_out_of_group(patch: pytest.MonkeyPatch) -> None:
    """Rules that the response decides are not in the cache key, though the request has a say in them."""
    new = Site._new

    def by_certain(site: Any, hold: Any) -> Any:
        policy = new(site, hold)
        names = [rule.name.encode() for left, rule in policy.held if rule.keys and left is True]
        return replace(policy, group=b",".join(names))

    patch.setattr(Site, "_new", by_certain)


FAULTS = [
    no_reads,
    no_networks,
    rule_left_out_of_group,
    last_left_out_of_group,
    template_of_another_target,
    policy_lost_on_revalidation,
    key_parts_left_out,
    flights_by_url,
    passes_are_stored,
    pending_rules_last,
    pending_rules_left_out_of_group,
    contents_left_out,
    types_of_contents_left_out,
    all_white_space_is_ignored,
    all_form_fields_are_sorted,
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a seed, at once. Random rule sets find each without seeds, too, as this file shows when it is run."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run(FEW, phases=(Phase.generate,))


if __name__ == "__main__":  # PYTHONPATH=tests python tests/proxy/test_sharing.py SEED ...: each fault without the seeds
    SEEDS.clear()
    for number, planted in product(map(int, sys.argv[1:]), FAULTS):
        with pytest.MonkeyPatch.context() as patched:
            planted(patched)
            try:
                run(MANY, number, (Phase.generate,))
            except AssertionError:
                sys.stdout.write(f"{number} {planted.__name__}: found\n")
            else:
                sys.stdout.write(f"{number} {planted.__name__}: NOT FOUND\n")
