"""What the models judge is what the product runs: requests to running POPs call each rule of `harness.broken_rules`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.broken_rules import PURGE_RULES, WRITE_RULES
from harness.origin import OriginDouble, Reply
from harness.parents import chain
from harness.pop import Pop, running_pop
from harness.purging import BEARER, TOKEN
from harness.valkey import Server

from edgecache.invalidation.purge_log import EntryKind, LogEntry
from edgecache.invalidation.version_vector import incarnation, mark

RULES = PURGE_RULES | WRITE_RULES
FRESH = ("Cache-Control", "max-age=60")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The rules that were called, by the break that each has."""
    found: set[str] = set()

    def spy_on(rule: Callable[..., Any], broken: str) -> Callable[..., Any]:
        def spied(*given: Any, **named: Any) -> Any:
            found.add(broken)
            return rule(*given, **named)

        return spied

    for broken, (owner, name, _) in RULES.items():
        monkeypatch.setattr(owner, name, spy_on(getattr(owner, name), broken))
    return found


async def purge(pop: Pop, target: str) -> None:
    """A PURGE, which is applied at once."""
    assert (await pop.request("PURGE", target, BEARER)).status == 200


async def test_hits_and_fills_of_one_pop(origin: OriginDouble, called: set[str]) -> None:
    """By a known head and by a parsed one, before and after an entry of the log moves it."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}") as pop:
        for _ in range(4):  # so that its head is known
            await pop.get("/a")
        await purge(pop, "/b")
        for target, fields in (("/a", []), ("/a", [("Cache-Control", "max-age=9")]), ("/b", [])):
            await pop.get(target, *fields)
            await purge(pop, "/c")

    assert called >= {
        "a known head is always answered",
        "a hit is not looked at",
        "positions are not compared",
        "a fill is stamped when it ends",
        "the fence stands still",
    }


async def test_hits_in_the_regional_tier(origin: OriginDouble, valkey: Server, called: set[str]) -> None:
    """By a POP whose memory has nothing, with a plain request and with one that is not."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    settings = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu"}
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}", **settings) as pop:
        await pop.caught_up()
        await purge(pop, "/c")
        for target, fields in (("/a", []), ("/b", [("Cache-Control", "max-age=9")])):
            await pop.get(target)
            await pop.written()
            pop.worker.edge.memory.invalidate(b"http://www.example.test" + target.encode())
            await pop.get(target, *fields)

    assert called >= {
        "a record is not looked at",
        "a record is always proven",
        "a record is proven before its time",
        "vectors are not compared",
        "what was missed is harmless",
    }


async def test_what_a_child_and_its_parent_tell_each_other(origin: OriginDouble, called: set[str]) -> None:
    """A miss at the edge that its shield fills, and one that the shield has."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    async with chain(origin, edges=2) as one:
        for edge in one.edges:
            assert (await edge.get("/a")).status == 200

    assert called >= {
        "a child is told of purges that a fill has not seen",
        "a child requires nothing",
        "a parent does not wait",
        "a child stamps a response when it comes",
    }


async def test_writes(origin: OriginDouble, valkey: Server, called: set[str]) -> None:
    """A write by this POP, and a fill while another one is in doubt."""
    origin.otherwise(Reply(200, [FRESH], b"x"))
    settings = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu"}
    async with running_pop(origin, origin.clock, **settings) as pop:
        await pop.caught_up()
        assert (await pop.request("POST", "/a")).status == 200
        one = incarnation(1, 7)
        begin = LogEntry(mark(one, 5), mark(one), EntryKind.BEGIN, (b"uhttp://www.example.test/b",), within=60.0)
        pop.worker.edge.invalidation.apply("us", begin, 0.0)
        await pop.get("/b")

    assert called >= WRITE_RULES.keys() - PURGE_RULES.keys()
