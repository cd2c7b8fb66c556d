"""A chain of POPs on this machine, edge-eu and edge-us before two shields before the origins, as over a WAN.

    python -m loadtests chain [--requests 6000] [--seconds 6] [--only latency,hops,faults,storm,geo]

Round trips: edge-eu 40 ms and edge-us 90 ms to the shields as to the origins, which stand beside each other; a new
connection costs one more. Every POP is a process of its own; the origins, the relays that make the delays and the
clients share one. All on 127.0.0.1, bounded in number and time: about four minutes. Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop

from loadtests.faults.wan.clients import Seen, always_new, at_a_rate, closed_loop, zipf
from loadtests.faults.wan.fleet import Way, pop_of
from loadtests.faults.wan.origin import Origin
from loadtests.faults.wan.places import lookup_costs
from loadtests.lab.processes import Pop

PARTS = ("latency", "hops", "faults", "storm", "geo")
WAN = {"eu": 0.040, "us": 0.090}  # seconds of a round trip between an edge and all that is not beside it
OBJECTS, EXPONENT = 4000, 0.9
EDGE_MEMORY = "8MiB"  # a fifth of what the objects take: an edge has not room for all
SOON = {"origin_eject_for": "2s", "origin_check_interval": "500ms"}  # so that what comes back is seen within a run
RETURN = 15.0  # seconds after it: slow start takes ten
RATE = 120.0  # requests a second, of each edge, while something fails


class Chain:
    """Everything that runs: origins, shields, edges, and the ways between them."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self.shields: list[Pop] = []
        self.edges: dict[str, Pop] = {}
        self.to_shields: dict[str, list[Way]] = {}  # by edge
        self.to_origins: dict[str, Way] = {}  # from the shields, by origin
        self.broken: list[str] = []

    @property
    def asked(self) -> int:
        """What all origins were asked."""
        return sum(origin.asked for origin in self.origins.values())

    @property
    def written_twice(self) -> int:
        """Writes that reached the origins more than once."""
        writes = sum((origin.writes for origin in self.origins.values()), start=Counter[str]())
        return sum(count > 1 for count in writes.values())

    @property
    def most_at_once(self) -> int:
        """The most requests that one origin had under way."""
        return max(origin.most for origin in self.origins.values())

    def promise(self, kept: bool, words: str) -> str:
        """Note whether a promise was kept; how to say it."""
        if not kept:
            self.broken.append(words)
        return "ok" if kept else "BROKEN"


@asynccontextmanager
async def running(
    directory: Path, *, shields: int = 2, tiers: bool = True, wan: bool = True, soon: bool = True
) -> AsyncIterator[Chain]:
    """A chain; without `tiers`, its edges ask the origins themselves. `soon`: what comes back is tried early."""
    async with AsyncExitStack() as stack:
        chain = Chain()
        early = SOON if soon else {}

        async def way(port: int, round_trip: float = 0.0) -> Way:
            one = Way(port, round_trip if wan else 0.0)
            await one.start()
            stack.push_async_callback(one.stop)
            return one

        async def pop(name: str, **settings: object) -> Pop:
            one = pop_of(name, directory, **settings)
            stack.callback(one.process.kill)
            await asyncio.to_thread(one.process.start)
            return one

        for name in ("eu-1", "eu-2", "us-1"):
            origin = chain.origins[name] = Origin(name)
            await origin.start()
            stack.callback(origin.stop)
            chain.to_origins[name] = await way(origin.port)
        near = {name: one.url for name, one in chain.to_origins.items()}
        if tiers:
            origins = f"eu={near['eu-1']}|{near['eu-2']},us={near['us-1']}"
            chain.shields = [
                await pop(f"shield-{n + 1}", region="eu", origins=origins, **early) for n in range(shields)
            ]
        for region, round_trip in WAN.items():
            far = {name: (await way(one.port, round_trip)).url for name, one in chain.origins.items()}
            above = chain.to_shields[region] = [await way(shield.port, round_trip) for shield in chain.shields]
            settings = {"origins": f"eu={far['eu-1']}|{far['eu-2']},us={far['us-1']}", "memory": EDGE_MEMORY}
            if above:
                settings["parents"] = "eu=" + "|".join(f"{one.url}#shield-{number}" for number, one in enumerate(above))
            chain.edges[region] = await pop(f"edge-{region}", region=region, **early, **settings)
        yield chain


def tell(*words: str) -> None:
    """One line, at once: the next may take a while."""
    print(*words, flush=True)


# --- what it is for


async def latency(directory: Path, requests: int) -> list[str]:
    """Latency and what the origins are asked, with and without tiers, once all are warm."""
    tell(f"\n{2 * requests} requests, half of each edge, Zipf({EXPONENT}) over {OBJECTS} objects of 1 to 16 KB;")
    tell(f"each was asked for before; edges hold {EDGE_MEMORY}\n")
    tell(f"{'':14}{'edge':8}{'p50 ms':>9}{'p99 ms':>9}{'hits':>8}{'origin':>9}{'offload':>9}")
    broken: list[str] = []
    for tiers in (False, True):
        async with running(directory, tiers=tiers) as chain:
            every = (f"/object/{rank}" for rank in range(OBJECTS))
            await closed_loop(chain.edges["eu"].port, every, OBJECTS, 16)  # steady: nothing is new any more
            await _both(chain, requests // 4, seed=1)
            before = chain.asked
            seen = await _both(chain, requests, seed=2)
            asked = chain.asked - before
        total = sum(one.asked for one in seen.values())
        offload = 1 - asked / total
        for region, one in seen.items():
            near = sum(took < WAN[region] * 0.9 for took in one.latencies) / one.asked
            tell(
                f"{'with tiers' if tiers else 'without':14}{region:8}{one.quantile(0.5):9.2f}{one.quantile(0.99):9.1f}"
                f"{near:8.1%}{asked:9}{offload:9.2%}"
            )
            if one.failed:
                broken.append(f"{one.failed} requests failed at edge-{region}")
        if tiers and offload < 0.99:
            broken.append(f"offload {offload:.2%}, promised 99 %")
    return broken


async def _both(chain: Chain, requests: int, seed: int) -> dict[str, Seen]:
    """The workload at both edges at once."""
    asking = [
        closed_loop(edge.port, zipf(OBJECTS, EXPONENT, seed * 100 + number), requests, 16)
        for number, edge in enumerate(chain.edges.values())
    ]
    return dict(zip(chain.edges, await asyncio.gather(*asking), strict=True))


async def hops(directory: Path) -> list[str]:
    """A cold edge behind a warm shield; and what each hop adds, without delays."""
    broken: list[str] = []
    targets = [f"/object/{number}" for number in range(200)]
    async with running(directory, shields=1) as chain:
        await closed_loop(chain.shields[0].port, iter(targets), len(targets), 8)
        await closed_loop(chain.edges["eu"].port, iter(targets[:8]), 8, 8)  # its connections are made
        before = chain.asked
        seen = await closed_loop(chain.edges["eu"].port, iter(targets[8:]), len(targets) - 8, 4)
        trips = seen.quantile(0.5) / 1000 / WAN["eu"]
        kept = trips < 1.5 and chain.asked == before
        word = chain.promise(kept, f"a cold edge took {trips:.2f} round trips")
        tell(
            f"\ncold edge, warm shield: p50 {seen.quantile(0.5):.1f} ms, p99 {seen.quantile(0.99):.1f} ms over 40 ms:",
            f"{trips:.2f} round trips; origin asked {chain.asked - before} times: {word}",
        )
        broken += chain.broken
    async with running(directory, shields=1, wan=False) as chain:
        shield, edge = chain.shields[0].port, chain.edges["eu"].port
        await closed_loop(shield, iter(targets), len(targets), 1)
        through, at_edge = [await closed_loop(edge, iter(targets), len(targets), 1) for _ in range(2)]
        relay = await _relayed(chain, targets)
        added = through.quantile(0.5) - relay.quantile(0.5)
        tell(
            f"no delay, one request at a time, p50: hit at a POP {at_edge.quantile(0.5):.2f} ms, the same through the",
            f"relay {relay.quantile(0.5):.2f} ms, miss that the parent answers {through.quantile(0.5):.2f} ms:",
            f"a hop adds {added:.2f} ms (without the relay's own time)",
        )
    return broken


async def _relayed(chain: Chain, targets: list[str]) -> Seen:
    """Hits of the shield, asked through the relay that an edge asks it through."""
    return await closed_loop(chain.to_shields["eu"][0].port, iter(targets), len(targets), 1)


# --- what breaks it

Break = Callable[[Chain], Awaitable[None] | None]


async def _kill_shields(chain: Chain) -> None:
    for shield in chain.shields:
        shield.process.kill()


async def _start_shields(chain: Chain) -> None:
    await asyncio.gather(*(asyncio.to_thread(shield.process.start) for shield in chain.shields))


def _each(ways: list[Way], act: Callable[[Way], None]) -> None:
    for one in ways:
        act(one)


def _eu_origins(chain: Chain) -> list[Way]:
    return [chain.to_origins["eu-1"], chain.to_origins["eu-2"]]


def _to_first(chain: Chain) -> list[Way]:
    return [ways[0] for ways in chain.to_shields.values()]


async def _restart_eu(chain: Chain) -> None:
    for name in ("eu-1", "eu-2"):
        await chain.origins[name].start()


FAULTS: dict[str, tuple[Break, Break]] = {
    "a parent is killed": (
        lambda c: c.shields[0].process.kill(),
        lambda c: asyncio.to_thread(c.shields[0].process.start),
    ),
    "a parent is a black hole": (
        lambda c: _each(_to_first(c), Way.swallow),
        lambda c: _each(_to_first(c), Way.mend),
    ),
    "a parent is slow by 1 s": (
        lambda c: _each(_to_first(c), lambda way: way.slow_down(1.0)),
        lambda c: _each(_to_first(c), Way.mend),
    ),
    "a region's origins are killed": (
        lambda c: [c.origins[name].stop() for name in ("eu-1", "eu-2")] and None,
        _restart_eu,
    ),
    "a region's origins are black holes": (
        lambda c: _each(_eu_origins(c), Way.swallow),
        lambda c: _each(_eu_origins(c), Way.mend),
    ),
    "a region's origins are slow by 1 s": (
        lambda c: _each(_eu_origins(c), lambda way: way.slow_down(1.0)),
        lambda c: _each(_eu_origins(c), Way.mend),
    ),
    "all shields are killed": (_kill_shields, _start_shields),
}


def _one_write_in_ten(number: int) -> str:
    return "POST" if number % 10 == 0 else "GET"


def _only_reads(number: int) -> str:
    return "GET"


async def faults(directory: Path, seconds: float) -> list[str]:
    """Break each part under load, mend it, and count what clients noticed."""
    tell(
        f"\neach edge asks {RATE:.0f} new objects a second for {seconds:.0f} s, a tenth by POST;",
        "broken from 1/6 to 4/6 of it",
    )
    tell(
        f"\n{'':36}{'asked':>7}{'failed: GET':>12}{'POST':>6}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'twice':>7}",
        f"{'at once':>8}",
    )
    broken: list[str] = []
    for name, (break_it, mend_it) in FAULTS.items():
        async with running(directory) as chain:
            for origin in chain.origins.values():
                origin.delay = 0.02
            seen = await _under_load(chain, seconds, break_it, mend_it)
            twice = chain.written_twice
            kept = seen.failed_reads == 0 and not twice
            word = chain.promise(kept, f"{name}: {seen.failed_reads} reads failed, {twice} writes were repeated")
            tell(
                f"{name:36}{seen.asked:7}{seen.failed_reads:12}{seen.failures['POST']:6}{seen.quantile(0.5):9.1f}"
                f"{seen.quantile(0.99):9.1f}{seen.quantile(1):9.0f}{twice:7}{chain.most_at_once:9}  {word}"
            )
            broken += chain.broken
    tell(
        "\ntwice: writes that reached an origin twice; at once: the most requests that one origin had under way (each",
        "takes it 20 ms). Writes that fail had been sent: the relay before a dead origin accepts connections.",
    )
    return broken


async def _under_load(chain: Chain, seconds: float, break_it: Break, mend_it: Break) -> Seen:
    """The load on both edges, during which something breaks and is mended; what both saw."""
    asking = asyncio.gather(
        *(at_a_rate(edge.port, always_new(), RATE, seconds, _one_write_in_ten) for edge in chain.edges.values())
    )
    for act, after in ((break_it, seconds / 6), (mend_it, seconds / 2)):
        await asyncio.sleep(after)
        done = act(chain)
        if done is not None:
            await done
    both = Seen()
    for one in await asking:
        both.latencies += one.latencies
        both.failures += one.failures
        both.asked += one.asked
    return both


async def storm(directory: Path, seconds: float) -> list[str]:
    """Origins that answer errors: how much more they are asked because of that, and who is left out."""
    broken: list[str] = []
    async with running(directory, shields=1) as chain:
        for origin in chain.origins.values():
            origin.bad = 0.5
        rate = 3 * RATE
        asked = await _both_at(chain, rate, seconds)
        share = chain.asked / asked
        kept = share <= 1.2 and not chain.written_twice
        word = chain.promise(kept, f"origins were asked {share:.3f} times what clients asked, promised 1.2")
        tell(
            f"\nhalf of all answers of all origins are 503, over three tiers: {asked} requests of clients,",
            f"{chain.asked} at the origins: {share:.3f} of it; writes repeated: {chain.written_twice}: {word}",
        )
        broken += chain.broken
    async with running(directory, shields=1, soon=False) as chain:
        chain.origins["eu-1"].bad = 1.0
        asked = await _both_at(chain, RATE, seconds, writes=False)  # writes go past the shield, which learns it once
        bad = max(0, chain.origins["eu-1"].asked - 5) / asked
        word = chain.promise(bad < 0.01, f"the bad origin got {bad:.2%} of what came after five errors, promised 1 %")
        tell(
            f"one of three origins answers 503: it got {chain.origins['eu-1'].asked} of {asked} requests,",
            f"{bad:.2%} after five errors: {word}",
        )
        broken += chain.broken
    return broken + await _return_of_a_shield(directory, seconds)


async def _both_at(chain: Chain, rate: float, seconds: float, *, writes: bool = True) -> int:
    """New objects at that rate, of both edges together; how many were asked for."""
    method_of = _one_write_in_ten if writes else _only_reads
    asking = [at_a_rate(edge.port, always_new(), rate / 2, seconds, method_of) for edge in chain.edges.values()]
    return sum(one.asked for one in await asyncio.gather(*asking))


async def _return_of_a_shield(directory: Path, seconds: float) -> list[str]:
    """A shield that was down comes back cold: what it owns moves back little by little, and so do its questions."""
    async with running(directory) as chain:
        every = (f"/object/{rank}" for rank in range(OBJECTS))
        await closed_loop(chain.edges["eu"].port, every, OBJECTS, 16)
        chain.shields[0].process.kill()
        targets = [zipf(OBJECTS, EXPONENT, 300 + number) for number in range(2)]
        edges = list(chain.edges.values())

        async def load(duration: float) -> int:
            """Requests of the origins in the worst second."""
            start = time.perf_counter()
            pairs = zip(edges, targets, strict=True)
            await asyncio.gather(*(at_a_rate(edge.port, one, 2 * RATE, duration) for edge, one in pairs))
            moments = sorted(moment for origin in chain.origins.values() for moment in origin.moments if moment > start)
            return max((bisect(moments, at + 1) - number for number, at in enumerate(moments)), default=0)

        down = await load(seconds)
        await asyncio.to_thread(chain.shields[0].process.start)
        back = await load(RETURN)
    rate = 4 * RATE
    words = f"{back} requests reached the origins in one second after a return"
    word = chain.promise(back <= max(down, rate / 4), words)
    tell(
        f"a shield is down for {seconds:.0f} s and comes back cold under {rate:.0f} requests/s (Zipf): at most {down}",
        f"requests reach the origins in one second while it is down, {back} after: {word}",
    )
    return chain.broken


def geo() -> list[str]:
    """What it costs to know where a client is."""
    hit, recorded, overridden = lookup_costs()
    tell(
        f"\na client's place: {hit:.2f} us of CPU for an address seen before, {recorded:.1f} us for a new one in the",
        f"database, {overridden:.1f} us for a new one by an override: {'ok' if hit <= 1 else 'BROKEN'}",
    )
    return [] if hit <= 1 else [f"a look-up that is remembered costs {hit:.2f} us, promised 1"]


async def run(options: argparse.Namespace) -> int:
    """The parts that were asked for."""
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgecache-chain-") as name:
        directory = Path(name)
        for part in options.only:
            if part == "latency":
                broken += await latency(directory, options.requests)
            elif part == "hops":
                broken += await hops(directory)
            elif part == "faults":
                broken += await faults(directory, options.seconds)
            elif part == "storm":
                broken += await storm(directory, options.seconds)
            else:
                broken += geo()
    for words in broken:
        tell(f"BROKEN: {words}")
    tell(f"\n{'no promise is broken' if not broken else f'{len(broken)} promises are broken'}")
    return 1 if broken else 0


def main() -> int:
    """Read the options, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000, help="of each edge, in each phase of the first part")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each fault")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return uvloop.run(run(options))
