"""What one client's writes may do to others: real POPs, a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from harness.client import let_others_run, until
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.raw_server import running_server
from harness.valkey import Server, running_valkey

from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.scopes import EVERYTHING, url
from edgecache.tasks import spawn

FRESH = ("Cache-Control", "max-age=60")


def page(request: ReceivedRequest) -> Reply:
    """A page that stays; every write succeeds."""
    return Reply(fields=[FRESH, ("ETag", '"1"')], body=b"page") if request.method == "GET" else Reply(body=b"done")


async def status_of(pop: Pop, target: str, host: str) -> str:
    """What the cache did for one page."""
    return (await pop.get(target, ("Host", host))).get("Cache-Status") or ""


async def test_writes_to_one_site_leave_others_their_objects(origin: OriginDouble, valkey: Server) -> None:
    """Three times as many URLs are written as there are registers: the other site's page is a hit, as before."""
    origin.otherwise(page)
    async with running_pop(
        origin, origin.clock, regional=valkey.url, regional_timeout="2s", purge_registers=100
    ) as pop:
        await pop.caught_up()
        for host in ("quiet.test", "busy.test"):
            await status_of(pop, "/page", host)
        async with pop.client() as client:
            for number in range(300):
                await client.request("POST", f"/junk?{number}", [("Host", "busy.test")])
                assert (await client.response()).status == 200
        asked = len(origin.requests)

        assert "hit" in await status_of(pop, "/page", "quiet.test")
        assert len(origin.requests) == asked
        assert "hit" not in await status_of(pop, "/page", "busy.test")


async def test_what_waits_for_a_log_that_is_gone_grows_to_sites_not_to_everything(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More invalidations than the outbox holds: the whole site of each waits in their stead."""
    monkeypatch.setattr("edgecache.invalidation.appender.MOST_WAITING", 5)
    with running_valkey() as server:
        async with running_pop(origin, origin.clock, regional=server.url) as pop:
            await pop.caught_up()
            server.stop()
            writer = pop.worker.logs.writer
            for number in range(12):
                writer.append_later(Draft(EntryKind.END, (url(b"http://a.test/%d" % number),)))
            waiting = [scope for draft in writer.outbox for scope in draft.scopes]

            assert waiting[0] == b"sa.test"
            assert EVERYTHING not in waiting
            assert len(writer.outbox) <= 6
            writer.append_later(Draft(EntryKind.PURGE, (EVERYTHING,)))
            for number in range(12):
                writer.append_later(Draft(EntryKind.END, (url(b"http://a.test/%d" % number),)))
            assert EVERYTHING in [scope for draft in writer.outbox for scope in draft.scopes]
            writer.outbox.clear()


# --- when a write begins, and how many may


def begun(valkey: Server, kind: bytes = b"begin") -> int:
    """How many entries of a kind are in the log."""
    return sum(fields[b"k"] == kind for _, fields in valkey.db.xrange("ec:{log}:region:local"))


def head(method: str, target: str, *lines: str) -> bytes:
    """The head of a request whose body follows as the test likes."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: www.example.test", *lines, "", ""]).encode()


CHUNKED, SIZED = "Transfer-Encoding: chunked", "Content-Length: 100001"
FIRST = {CHUNKED: b"186a0\r\n" + b"x" * 100_000 + b"\r\n", SIZED: b"x" * 100_000}
LAST = {CHUNKED: b"0\r\n\r\n", SIZED: b"x"}


@pytest_asyncio.fixture
async def pop(origin: OriginDouble, valkey: Server) -> AsyncIterator[Pop]:
    """A POP with a region's log, which it has read."""
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="2s", client_writes=3) as one:
        await one.caught_up()
        yield one


@pytest.mark.parametrize("framing", [CHUNKED, SIZED])
async def test_a_body_that_does_not_end_holds_nothing_in_doubt(
    origin: OriginDouble, valkey: Server, pop: Pop, framing: str
) -> None:
    """Its target stays a hit while it drips; when it is whole it has begun before the origin has the rest of it."""
    origin.otherwise(page)
    await pop.get("/page")
    async with pop.client() as client:
        await client.send(head("POST", "/page", framing) + FIRST[framing])
        await let_others_run(500)
        assert "hit" in ((await pop.get("/page")).get("Cache-Status") or "")
        assert (begun(valkey), pop.worker.edge.writes.in_doubt.refused) == (0, 0)
        await client.send(LAST[framing])
        answer = await client.response()

    assert (answer.status, answer.get("Edgecache-Invalidation")) == (200, "region")
    assert (begun(valkey), begun(valkey, b"end")) == (1, 1)
    assert len(origin.requests[-1].body) == 100_000 + (framing == SIZED)
    assert "hit" not in ((await pop.get("/page")).get("Cache-Status") or "")
    assert len(pop.worker.edge.writes.in_doubt) == 0


@pytest.mark.parametrize("framing", [CHUNKED, SIZED])
async def test_a_body_that_breaks_off_invalidates_its_target(
    origin: OriginDouble, valkey: Server, pop: Pop, framing: str
) -> None:
    """The origin may have acted on what it has: an END without a BEGIN, and no doubt is left."""
    origin.otherwise(page)
    await pop.get("/page")
    async with pop.client() as client:
        await client.send(head("PUT", "/page", framing) + FIRST[framing])
        await let_others_run(500)
    await until(lambda: begun(valkey, b"end") == 1)

    assert begun(valkey) == 0
    assert "hit" not in ((await pop.get("/page")).get("Cache-Status") or "")
    assert pop.worker.edge.log.writes == 0


async def test_a_client_has_so_many_writes_in_doubt_and_no_more(origin: OriginDouble, valkey: Server, pop: Pop) -> None:
    """Beyond the bound 429, and nothing is sent; others are not concerned, and what is over counts no more."""
    gate = asyncio.Event()
    origin.otherwise(lambda request: Reply(wait=None if request.target == "/free" else gate, body=b"done"))
    out = [spawn(pop.request("POST", f"/{number}"), "writer") for number in range(3)]
    await until(lambda: len(origin.requests) == 3)
    refused = await pop.request("POST", "/one-more")
    asked = len(origin.requests)

    assert (refused.status, refused.get("Retry-After")) == (429, "1")
    assert asked == 3
    async with pop.client(source="127.0.0.2") as other:
        await other.request("POST", "/free")
        assert (await other.response()).status == 200
    gate.set()
    assert {(await one).status for one in out} == {200}
    assert (await pop.request("POST", "/free")).status == 200
    assert len(pop.worker.edge.writes.in_doubt) == 0
    assert pop.worker.edge.log.writes == 0


@pytest.mark.parametrize("what", ["answered", "refused by the origin", "leaves", "leaves by FIN"])
async def test_what_is_in_doubt_counts_until_it_is_over(
    origin: OriginDouble, valkey: Server, pop: Pop, what: str
) -> None:
    """However it ends: the numbers come back to nothing."""
    gate = asyncio.Event()
    origin.otherwise(lambda request: Reply(500 if what.startswith("ref") else 200, wait=gate, body=b"x"))
    async with pop.client() as client:
        await client.request("POST", "/page")
        await until(lambda: len(pop.worker.edge.writes.in_doubt) == 1)
        if what == "leaves by FIN":
            client.close()
        elif what != "leaves":
            gate.set()
            await client.response()
        else:
            client.reset()
        await until(lambda: len(pop.worker.edge.writes.in_doubt) == 0)
    gate.set()


class Early:
    """An origin that begins its answer before it has read the body, and goes on reading; it counts what it has read."""

    def __init__(self) -> None:
        self.read = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Early]:
        """The origin, on a port of its own."""
        async with running_server(self._serve) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.readuntil(b"\r\n\r\n")
        fields = b"Connection: close\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + fields + (b"page" if question.startswith(b"GET") else b"do"))
        while data := await reader.read(65536):
            self.read += len(data)


async def test_an_answer_that_comes_before_the_body_is_whole_is_ended_before_the_writer_has_it(valkey: Server) -> None:
    """It has no BEGIN, and needs none; what the origin does with the rest is ended once more when that is over."""
    async with Early().running() as early, running_pop(early.url, regional=valkey.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        await pop.get("/page")
        assert "hit" in ((await pop.get("/page")).get("Cache-Status") or "")
        async with pop.client() as client:
            await client.send(head("POST", "/page", CHUNKED) + FIRST[CHUNKED])
            await until(lambda: begun(valkey, b"end") == 1)
            await pop.get("/page")  # stored anew, before the origin has read the rest
            await client.send(b"1\r\ny\r\n")
            await let_others_run(100)
            assert begun(valkey) == 0
        await until(lambda: begun(valkey, b"end") == 2)

        assert "hit" not in ((await pop.get("/page")).get("Cache-Status") or "")
        assert pop.worker.edge.log.writes == 0


async def test_a_page_is_shared_in_the_region_again_after_a_write(origin: OriginDouble, valkey: Server) -> None:
    """What the writer's own worker has invalidated at once is proven by the entry that followed: no miss for ever."""
    origin.otherwise(page)
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="2s") as pop:
        await pop.caught_up()
        assert (await pop.request("POST", "/page")).status == 200
        await pop.get("/page")
        await pop.written()
        asked = len(origin.requests)
        memory = pop.worker.edge.memory
        memory.invalidate(b"http://www.example.test/page")
        assert "regional; hit" in ((await pop.get("/page")).get("Cache-Status") or "")
        assert len(origin.requests) == asked
