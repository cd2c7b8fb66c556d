"""The crawls: the origin, edgecache, edgecache again, the origin again; then the same with gzip."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

from loadtests.correctness.real_sites.client import Answer
from loadtests.correctness.real_sites.processes import say
from loadtests.correctness.real_sites.rules import compare, compare_hit, is_hit
from loadtests.correctness.real_sites.site import Both, Site
from loadtests.correctness.real_sites.storable import Allowed, allowed
from loadtests.correctness.real_sites.tally import Tally

MOST_GZIP = 400
ASK_AGAIN = 3  # more times, before two answers count as different
One = TypeVar("One")
GZIP: Mapping[str, str] = {"Accept-Encoding": "gzip"}


async def crawl_twice(site: Site, both: Both, tally: Tally) -> list[Answer]:
    """Compare every target, count the hits of the second crawl; returns the origin's answers."""
    targets = site.targets
    say(f"{site.name}: {len(targets)} targets, asking the origin itself")
    own = await both.origin.crawl(targets)
    say(f"{site.name}: first crawl through edgecache")
    first = await both.pop.crawl(targets)
    say(f"{site.name}: second crawl through edgecache")
    second = await both.pop.crawl(targets)
    say(f"{site.name}: asking the origin again")
    still = await both.origin.crawl(targets)
    tally.targets = len(targets)
    for number, target in enumerate(targets):
        tally.size += len(own[number].content)
        await _judge(site, both, tally, target, own[number], first[number], still[number])
        _judge_second(tally, target, own[number], first[number], second[number])
    return own


async def _judge(site: Site, both: Both, tally: Tally, target: str, own: Answer, first: Answer, still: Answer) -> None:
    """Count the first crawl's answer as identical, not comparable, or different."""
    result = compare(own, first, site.moving)
    if result.same:
        tally.identical += 1
        tally.by_rule += result.by_rule
    elif await moves_by_itself(site, both, target, own, first, still):
        tally.not_comparable += 1
        tally.notes[f"not comparable: {target}: {'; '.join(result.differences)[:300]}"] += 1
    else:
        tally.differs(f"GET {target}", *result.differences, f"[{first.field('cache-status')}]")


async def moves_by_itself(
    site: Site,
    both: Both,
    target: str,
    own: Answer,
    through: Answer,
    still: Answer | None = None,
    fields: Mapping[str, str] | None = None,
) -> bool:
    """Whether the origin's own answers differ from each other, so that one through edgecache cannot be compared."""
    if through.failure or through.status != own.status:
        return False
    if still is not None and not compare(own, still, site.moving).same:
        return True
    for _ in range(ASK_AGAIN):
        await asyncio.sleep(0.3)  # a second may have to pass for a clock in the content to move
        if not compare(own, await both.origin.ask(target, fields), site.moving).same:
            return True
    return False


def _judge_second(tally: Tally, target: str, own: Answer, first: Answer, second: Answer) -> None:
    """Count the second crawl's answer: a hit where the origin allows it, and only there."""
    life, hit = allowed(own, second.received - first.received), is_hit(second)
    if life.allowed is Allowed.HIT:
        tally.storable += 1
        tally.hits += hit
        if not hit:
            tally.notes[f"no hit although allowed: status {second.status}, {second.field('cache-status')}"] += 1
    else:
        tally.notes[f"second crawl, {life.allowed.value}"] += 1
        if hit and life.allowed is not Allowed.EXPIRED:
            tally.differs(f"second GET {target}", f"a hit, but {life.allowed.value}")
    if hit:
        tally.check("hit = stored", target, *compare_hit(first, second))
    elif second.failure:
        tally.differs(f"second GET {target}", second.failure)


async def crawl_gzip(site: Site, both: Both, tally: Tally) -> None:
    """The same with `Accept-Encoding: gzip`, twice through edgecache."""
    targets = spread(site.targets, MOST_GZIP)
    say(f"{site.name}: {len(targets)} targets with Accept-Encoding: gzip")
    own = await both.origin.crawl(targets, GZIP)
    first = await both.pop.crawl(targets, GZIP)
    second = await both.pop.crawl(targets, GZIP)
    for target, mine, through, again in zip(targets, own, first, second, strict=True):
        packed = mine.field("content-encoding") == "gzip"
        tally.notes["gzip: answers that the origin packed"] += packed
        result = compare(mine, through, site.moving)
        if not result.same and await moves_by_itself(site, both, target, mine, through, None, GZIP):
            tally.notes["gzip: not comparable"] += 1
            continue
        tally.check("gzip", target, *result.differences)
        tally.notes["gzip: packed bytes differ, unpacked they are the same"] += (
            packed and result.same and result.by_rule
        )
        if is_hit(again):
            tally.check("gzip: hit = stored", target, *compare_hit(through, again))


def spread(every: Sequence[One], most: int) -> list[One]:
    """At most `most` of them, evenly spread."""
    step = max(1, -(-len(every) // most))
    return list(every[::step])
