"""A crawl of the service and of the POP before it, answer by answer."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

PATIENCE = aiohttp.ClientTimeout(total=30)
MAY_DIFFER = frozenset(  # a gateway may change these, and Date and Expires move by themselves; the rest is the same
    ["age", "cache-status", "connection", "date", "expires", "keep-alive", "transfer-encoding", "content-length", "via"]
)
MOVES = re.compile(rb'Queries took [0-9.,]+ms|"query_ms": [0-9.e-]+')  # Datasette's own timing, in its pages
STORABLE = frozenset((200, 203, 300, 301, 308, 404, 410))


@dataclass
class Answer:
    """One answer, its content as a digest."""

    status: int
    fields: list[tuple[str, str]]
    digest: str
    size: int
    cache_status: str

    def field(self, name: str) -> str:
        """The value of a field, or the empty string."""
        return ", ".join(value for key, value in self.fields if key == name)


@dataclass
class Tally:
    """What the crawls of one service came to."""

    targets: int = 0
    identical: int = 0
    moving: int = 0  # the service's own two answers differ: nothing to compare with
    differences: list[str] = field(default_factory=list)
    storable: int = 0
    hits: int = 0
    size: int = 0


async def ask(session: aiohttp.ClientSession, port: int, target: str, method: str, headers: dict[str, str]) -> Answer:
    """One request, with the Host that the service has of its own."""
    url = URL(f"http://127.0.0.1:{port}{target}", encoded=True)
    headers = {"Host": "site.test", **headers}
    async with session.request(method, url, headers=headers, allow_redirects=False, timeout=PATIENCE) as answer:
        content = await answer.read()
        fields = sorted((name.lower(), value) for name, value in answer.headers.items())
        status = answer.headers.get("Cache-Status", "")
        kept = [line for line in fields if line[0] not in MAY_DIFFER]
        digest = hashlib.sha256(MOVES.sub(b"", content)).hexdigest()
        return Answer(answer.status, kept, digest, len(content), status)


async def crawl(port: int, targets: Sequence[str], method: str = "GET", **headers: str) -> list[Answer]:
    """Every target once, sixteen at a time."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    places = asyncio.Semaphore(16)
    connector = aiohttp.TCPConnector(limit=16)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def one(target: str) -> Answer:
            async with places:
                return await ask(session, port, target, method, named)

        return list(await asyncio.gather(*(one(target) for target in targets)))


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same but for what may differ."""
    return (one.status, one.fields, one.digest) == (other.status, other.fields, other.digest)


def is_storable(answer: Answer) -> bool:
    """Whether the origin's own fields allow a shared cache to store the answer and use it for a while (RFC 9111 §3)."""
    control = answer.field("cache-control").lower()
    if re.search(r"no-store|private|no-cache|max-age=0", control) or answer.field("set-cookie"):
        return False
    if answer.status not in STORABLE:
        return False
    return "max-age" in control or bool(answer.field("expires") or answer.field("last-modified"))


async def compare(origin: int, pop: int, targets: Sequence[str], progress: Callable[[str], None]) -> Tally:
    """Crawl the origin twice and the POP twice, then with ranges, HEAD and validators; tell what differs and hits."""
    tally = Tally(len(targets))
    progress("asking the service itself, twice")
    own, again = await crawl(origin, targets), await crawl(origin, targets)
    progress("asking through edgecache, twice")
    first, second = await crawl(pop, targets), await crawl(pop, targets)
    for target, mine, still, through, hit in zip(targets, own, again, first, second, strict=True):
        if not same(mine, still):
            tally.moving += 1
            continue
        check(tally, target, mine, through, "first crawl")
        if check(tally, target, mine, hit, "second crawl"):
            tally.identical += 1
        tally.size += mine.size
        if is_storable(mine):
            tally.storable += 1
            tally.hits += "; hit" in hit.cache_status
    progress("ranges, HEAD, gzip and validators")
    still = [n for n, target in enumerate(targets) if same(own[n], again[n]) and own[n].status == 200]
    await compare_requests(tally, origin, pop, [targets[n] for n in still[:200]], [own[n] for n in still[:200]])
    return tally


async def compare_requests(
    tally: Tally, origin: int, pop: int, targets: Sequence[str], whole: Sequence[Answer]
) -> None:
    """Other requests for what is stored now."""
    for name, headers in (("HEAD", {}), ("gzip", {"Accept_Encoding": "gzip"})):
        method = "HEAD" if name == "HEAD" else "GET"
        mine, through = await crawl(origin, targets, method, **headers), await crawl(pop, targets, method, **headers)
        for target, one, other in zip(targets, mine, through, strict=True):
            check(tally, target, one, other, name)
    ranged = [target for target, answer in zip(targets, whole, strict=True) if answer.field("accept-ranges")]
    mine = await crawl(origin, ranged, "GET", Range="bytes=3-40")
    through = await crawl(pop, ranged, "GET", Range="bytes=3-40")
    for target, one, other in zip(ranged, mine, through, strict=True):
        other.fields = [line for line in other.fields if line[0] != "accept-ranges"]  # nginx leaves it out of a 206
        check(tally, target, one, other, "Range")
    for target, answer in zip(targets, whole, strict=True):
        if etag := answer.field("etag"):
            (validated,) = await crawl(pop, [target], "GET", If_None_Match=etag)
            if validated.status != 304 or validated.size:
                tally.differences.append(f"{target}: If-None-Match gave {validated.status}")


def check(tally: Tally, target: str, mine: Answer, through: Answer, when: str) -> bool:
    """Note what differs, if anything does."""
    if same(mine, through):
        return True
    lines = set(mine.fields) ^ set(through.fields)
    tally.differences.append(
        f"{when} {target}: status {mine.status}/{through.status}, fields {sorted(lines)}, "
        f"content {'same' if mine.digest == through.digest else 'DIFFERS'} [{through.cache_status}]"
    )
    return False
