"""How far a reader walks: the functions that a hit, a miss and a purge run through on a real POP; and the map.

A walk is what runs every time in the rooms that tell its story. Functions shorter than `TOLD` lines are read by their
names, and so are the rooms below: what HTTP means, settings, counters, the client of Valkey. To see each walk, function
by function: `python tests/lab/test_walk.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests")) if __name__ == "__main__" else None

from harness.clock import FakeClock  # noqa: E402
from harness.origin import Reply, running_origin  # noqa: E402
from harness.pop import Pop, running_pop  # noqa: E402
from harness.valkey import Server, running_valkey  # noqa: E402

PACKAGE: Final = ROOT / "edgecache"
STORY: Final = ("server", "proxy", "upstream", "invalidation", "storage", "wire")
TOLD: Final = 8  # lines of the shortest function that has to be read
TIMES: Final = 4  # that each is walked: what runs in some of them only is a timer's, or a memory's that warms up
TOKEN: Final = "a-token-that-may-purge"


class Bound(NamedTuple):
    """What is aimed at, and what was measured last: a walk may become shorter, and never longer."""

    goal: int
    today: int


LINES: Final = {"hit": Bound(120, 88), "miss": Bound(600, 597), "purge": Bound(300, 288)}
FILES: Final = {"hit": Bound(14, 5), "miss": Bound(14, 14), "purge": Bound(14, 11)}
WAYS: Final = Bound(4, 3)
ENTRIES: Final = Bound(13, 13)


class Step(NamedTuple):
    """A function of a walk."""

    file: str
    name: str
    lines: int


@contextmanager
def noted() -> Iterator[dict[CodeType, None]]:
    """The functions of the product that begin while the block runs, in the order of their first call."""
    found: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            found.setdefault(frame.f_code)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def steps(runs: list[dict[CodeType, None]]) -> list[Step]:
    """What every run went through, as far as it tells the story."""
    walk = []
    for code in runs[-1]:
        file = Path(code.co_filename).relative_to(PACKAGE)
        lines = len(inspect.getsourcelines(code)[0])
        if (
            file.parts[0] in STORY
            and not code.co_name.startswith("<")
            and lines >= TOLD
            and all(code in run for run in runs)
        ):
            walk.append(Step(str(file), code.co_qualname, lines))
    return walk


async def walked(once: Callable[[int], Awaitable[object]]) -> list[Step]:
    """The walk of what `once` does, told the number of the time."""
    runs = []
    for number in range(TIMES):
        with noted() as found:
            await once(number)
        runs.append(found)
    return steps(runs)


@asynccontextmanager
async def pop_of(**settings: object) -> AsyncIterator[Pop]:
    """A POP before an origin of fresh pages."""
    async with running_origin(FakeClock()) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("ETag", '"a"')], body=b"hello" * 100))
        async with running_pop(origin, origin.clock, **settings) as pop:
            yield pop


async def walks(valkey: Server) -> dict[str, list[Step]]:
    """A hit in memory whose head is known, a miss without a regional tier, and a PURGE through a region's log."""
    found = {}
    async with pop_of() as pop, pop.client() as client:

        async def get(target: str) -> None:
            await client.request("GET", target, ())
            assert (await client.response()).status == 200

        for _ in range(TIMES):  # from then on its head is known
            await get("/hit")
        found["hit"] = await walked(lambda _: get("/hit"))
        found["miss"] = await walked(lambda number: get(f"/miss/{number}"))
    async with pop_of(regional=valkey.url, regional_timeout="2s", region="eu", purge_tokens=f"cms={TOKEN}") as pop:
        await pop.caught_up()
        async with pop.client() as client:

            async def purge(number: int) -> None:
                await client.request("PURGE", f"/{number}", [("Authorization", f"Bearer {TOKEN}")])
                assert (await client.response()).status == 200

            shared = {(step.file, step.name) for step in found["miss"]}  # the way in and out, which was read already
            found["purge"] = [step for step in await walked(purge) if step[:2] not in shared]
    return found


@pytest.mark.slow
async def test_the_walks_become_no_longer(valkey: Server) -> None:
    """Lines to read and files to open, of a hit, a miss and a purge."""
    for name, walk in (await walks(valkey)).items():
        lines, files = sum(step.lines for step in walk), len({step.file for step in walk})

        assert lines <= LINES[name].today, f"{name}: {lines} lines; the goal is {LINES[name].goal}"
        assert files <= FILES[name].today, f"{name}: {files} files; the goal is {FILES[name].goal}"


NO_HITS: Final = re.compile(r"passthrough|deliver_reply|purge_method|write_\w+|task_guard|middleware")  # modules
NOT_STORED: Final = {"reply_locally"}  # functions that send our own responses


def ways_out(path: Path) -> Iterator[str]:
    """The functions of a module that send a response."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in NOT_STORED:
            calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
            if any(re.search(r"exchange\.(send|stream)$|send_serialized$|transport\.write$", call) for call in calls):
                yield f"{path.stem}.{node.name}"


def test_a_hit_has_few_ways_out() -> None:
    """The functions of `proxy` that send what is stored."""
    modules = [path for path in (PACKAGE / "proxy").rglob("*.py") if not NO_HITS.search(str(path))]
    ways = sorted(way for path in modules for way in ways_out(path))

    assert 0 < len(ways) <= WAYS.today, f"{ways}; the goal is {WAYS.goal}"


def test_the_rooms_are_few() -> None:
    """What lies in `edgecache/` can be seen at a glance."""
    entries = sorted(path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed"))

    assert len(entries) <= ENTRIES.today, f"{entries}; the goal is {ENTRIES.goal}"


FIELD: Final = frozenset(  # words of RFC 9110 to 9114, 8941, 7239 and 3986, of TLS, W3C traces, Valkey and the trade
    re.findall(
        r"\w+",
        """
        accepted failures pace protocols slot
        accept accept_loop acceptor access adapter address addresses admin allowed alpn api app assembly attempt
        auth authentication availability backpressure balancer ban batch batching bodies body bounded breaker bucket
        budget buffer builder byte bytes cache callbacks certificate certificates chain charge check checks chunk
        chunks cidr circuit claims cli client client_ip clients clock closing cluster codec coding codings
        collapsing command commands component components compression conditional config connect connection
        connections consumer content context contexts control cookie csv data database date deadlines decision
        default defaults deliver demo dependencies descriptor dialects digest directives dns docs draining
        driver dump embedded encode encoding engine entity entry errors etag event event_loop eviction exchange
        expiry exporter factory failover fastly fetch fetcher fetches field fields file files fill filter
        fingerprint flags flight forward forwarded forwarding framing freshness functions geo group groups guard
        h1 h2 h3 handler handlers hash head header headers health healthcheck hit hits hook hooks hop host hosts hsts
        http https identity idle ignored incoming index input intake interim invalidation ip jurisdiction
        keepalive key keys keyspace labels lag latency launcher lease ledger length lifetime limit limiter
        limits line link links list listener listeners llhttp load local lock log logging loop lowest lru
        machine main malloc mark media memo memoize memory merge message messages metadata method metrics mget
        middleware migration miss multipart names negotiation network nonces normalization notify offsets options order
        origin origins otlp outcome outcomes output pack parameters parent parents parse parser parsing part
        actions compiler conditions directory explain model parser pools positions routing scalars
        coded cors debug own preflight redirect redirects response rule security
        partial parts passthrough path patterns payload peer peering peers pending permissions ping pipeline
        plan plans policy pool pop pops port ports preconditions prefix priority probe process processor product
        promises properties protocol proxies proxy public purge purges query queue quic quota random range
        ranges rate read reader readers reason reconnect record records redirect refresh refusal region regional
        regions register registers registry reload rendezvous replicator replies reply request requests
        residency resident resolution resolver resources respond responder response responses result retries
        retry revalidation rfc9111 role roles room root rope route router rules runs safety sampler sampling
        schedule scheme scope scopes sd seal secret secrets selection send sender sequence serializer server
        schema service serving session sessions settings shard shared shield signals signature site sites size sizing
        sleep slow snapshot sni socket sockets source sources span spans spec specific spool stack stale state
        stats status step storage store stored storing strategy stream streams strict structured subscriber
        suffix summary supervision supervisor survey switch sync system tables tag tags target task tasks tcp
        telemetry template templates tests text through tier tiers timeout timeouts timer times timing tls token
        tokens topology trace traceback tracing traffic trailers transfer transport tree trusted tuning tunnel
        types units unix unkeyed update updates upgrade upload uploads upstream uri url urls usage user users
        admission bot canary cloudfront coded cors credentials debug edge error fetching gcra json maintenance own pages
        passwords preflight redirects rule s3 secure security set sets sign signatures signed signing web
        uuid validation validator validators validity valkey values variant variants vary vector verdict version
        visitor warmup watch watcher weight weights window windows wire worker workers write writer x509
        """,
    )
)


def test_modules_are_named_in_the_words_of_the_field() -> None:
    """ARCHITECTURE.md tells of the module, or its name is made of the field's words."""
    told = (ROOT / "ARCHITECTURE.md").read_text()
    words = FIELD | {word.lower() for word in re.findall(r"\*\*([\w-]+)\*\*", told)}
    unknown = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.stem.startswith("__") and f"{path.stem}.py" not in told and not set(path.stem.split("_")) <= words
    ]

    assert unknown == [], f"not in ARCHITECTURE.md, nor in the field's words: {unknown}"


async def show() -> None:
    """Print the walks."""
    with running_valkey() as valkey:
        for name, walk in (await walks(valkey)).items():
            lines, files = sum(step.lines for step in walk), len({step.file for step in walk})
            print(f"{name}: {len(walk)} functions, {lines} lines (goal {LINES[name].goal}), {files} files")
            for step in walk:
                print(f"  {step.lines:3} {step.file} {step.name}")


if __name__ == "__main__":
    import uvloop

    uvloop.run(show())
