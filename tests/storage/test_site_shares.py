"""Shares of sites: what each site holds of the memory once it is full, and whose responses leave."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness.often import examples
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.policy import Site
from edgecache.semantics.stored_response import Policy
from edgecache.storage.eviction import POLICIES
from edgecache.storage.site_shares import share_out

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
BUDGET = 100_000
LARGEST = BUDGET // 100  # bytes: half of the tolerance
NAMES = "abcd"
POLICY = Policy()


def sites_with(shares: dict[str, float | None]) -> Sites:
    """Sites of one host each."""
    return Sites((f"{name}.test", Site(name, (), POLICY, memory_share=share)) for name, share in shares.items())


def key_of(site: str, number: int) -> bytes:
    """The cache key of a response."""
    return b"http 0123456789abcdef0123456789abcdef://%b.test/%d?q" % (site.encode(), number)


class Watched:
    """A policy whose evictions are checked as they happen."""

    def __init__(self, name: str, shares: dict[str, float | None]) -> None:
        self.shares = shares
        self.used: Counter[str] = Counter()
        self.cache: Any = POLICIES[name](BUDGET, getsizeof=lambda size: size, on_evict=self._evicted)
        self.storing = ""
        share_out(self.cache, sites_with(shares))

    def store(self, site: str, number: int, size: int) -> None:
        """A response of `site`."""
        self.storing, key = site, key_of(site, number)
        before = self.cache.peek(key) or 0
        self.used[site] += size - before
        self.cache[key] = size
        self.storing = ""

    def _evicted(self, key: bytes, size: int) -> None:
        """What leaves is of a site that is above its share, or has none."""
        site = key.partition(b"://")[2][:1].decode()
        share = self.shares[site]
        if site != self.storing and share is not None:
            assert self.used[site] > share * self.cache.maxsize, (site, self.used, self.storing)
        self.used[site] -= size

    def check(self) -> None:
        """The counts are exact, and a full memory is divided by shares within 2 %."""
        really: Counter[str] = Counter()
        for key, size in self.cache.items():
            really[key.partition(b"://")[2][:1].decode()] += size
        assert really == +self.used
        assert sum(really.values()) == self.cache.currsize <= BUDGET


SHARES = st.tuples(*[st.sampled_from([None, 0.05, 0.1, 0.2, 0.25])] * len(NAMES)).map(
    lambda given: dict(zip(NAMES, given, strict=True))
)


@pytest.mark.parametrize("name", sorted(POLICIES))
@examples(30)
@given(SHARES, st.integers(0, 1 << 32), st.integers(0, 3))
def test_a_full_memory_is_divided_by_shares(
    name: str, shares: dict[str, float | None], seed: int, changes: int
) -> None:
    """Random stores, hits, replacements, deletions and other budgets: each site has its share within 2 %."""
    shares["d"] = None  # what fills the rest
    watched, draw = Watched(name, shares), random.Random(seed)
    for step in range(1500):
        site, number = draw.choice("abcd"), draw.randrange(300)
        watched.store(site, number, draw.randrange(LARGEST // 2, LARGEST))
        if draw.random() < 0.5:
            watched.cache.get(key_of(draw.choice(NAMES), draw.randrange(300)))
        if draw.random() < 0.02:
            key = key_of(site, number)
            watched.used[site] -= watched.cache.pop(key)
        if changes and step in (200, 400, 600):
            watched.cache.limit(BUDGET // draw.randrange(1, 4) if step < 600 else BUDGET)
    watched.check()
    for site in "abc":
        share = shares[site]
        if share is not None:  # it stores more than its share all the time, and so do the others
            assert abs(watched.used[site] / BUDGET - share) <= 0.02, (site, share, watched.used)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_site_that_floods_evicts_itself(name: str) -> None:
    """And a quiet site with a share keeps all that it has."""
    watched = Watched(name, {"a": 0.1, "b": 0.3, "c": None})
    for number in range(20):
        watched.store("b", number, 1000)
        watched.store("c", number, 1000)
    for number in range(5000):
        watched.store("a", number, 1000)
    assert watched.used == {"a": 60_000, "b": 20_000, "c": 20_000}  # nobody else wants the room
    for number in range(500):
        watched.store("c", number, 1000)
    assert watched.used == {"a": 10_000, "b": 20_000, "c": 70_000}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_other_shares_on_reload(name: str) -> None:
    """What is stored stays, and counts for the new shares."""
    watched = Watched(name, {"a": 0.5, "b": None})
    for number in range(200):
        watched.store("a", number, 1000)
        watched.store("b", number, 1000)
    assert watched.used == {"a": 50_000, "b": 50_000}
    for share in (0.2, 0.1, None):
        watched.shares = {"a": share, "b": None}
        share_out(watched.cache, sites_with(watched.shares))
        watched.check()
        for number in range(1000, 1200):
            watched.store("b", number, 1000)
        assert share is None or watched.used["a"] == 100_000 * share
    watched.cache.clear()
    assert watched.cache.currsize == 0


def test_without_shares_there_is_no_accounting() -> None:
    """Sites without shares cost nothing."""
    cache: Any = POLICIES["s3fifo"](BUDGET)
    for sites in (None, sites_with({"a": None})):
        share_out(cache, sites)
        assert cache.shares is None


def example(url: str) -> str:
    """The TOML under the heading in docs/sites.md, with the origin of the test."""
    found = re.search(r"^## Shares of memory\n+```toml\n(.*?)```", DOCS.read_text(), re.S | re.M)
    assert found is not None
    return re.sub(r"http://10\.0\.0\.\d", url, found[1])


@pytest.mark.slow
async def test_a_crawl_of_one_site_leaves_the_others_pages(origin: OriginDouble) -> None:
    """On a running POP: all pages of the site with a share are hits after a crawl of the other."""
    origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x" * 20_000))
    async with running_pop(origin, sites=example(origin.url), memory="8MiB") as pop, pop.client() as client:

        async def gets(host: str, pages: int) -> int:
            hits = 0
            for number in range(pages):
                await client.request("GET", f"/{number}", [("Host", host)])
                response = await client.response()
                hits += "; hit" in (response.get("cache-status") or "")
            return hits

        await gets("shop.example.org", 40)
        await gets("archive.example.org", 800)
        assert pop.worker.edge.memory.evictions > 200
        assert await gets("shop.example.org", 40) == 40
