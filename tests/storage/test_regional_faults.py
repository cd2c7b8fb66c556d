"""Whatever the regional tier does, clients get whole and right answers."""

from __future__ import annotations

import asyncio
import pickle
import re
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from harness.client import let_others_run, until
from harness.fault_proxy import FaultProxy, running_proxy
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, refusing_port, running_pop
from harness.raw_server import running_server
from harness.valkey import Server, running_valkey

from edgecache.storage.fetch_lease import Leases
from edgecache.tasks import spawn

FRESH = ("Cache-Control", "max-age=60")

FRESH = ("Cache-Control", "max-age=60")


def echo(request: ReceivedRequest) -> Reply:
    """An answer that tells which page it is."""
    return Reply(fields=[FRESH], body=request.target.encode() * 10)


@asynccontextmanager
async def behind_faults(
    origin: OriginDouble, valkey: Server, **settings: object
) -> AsyncIterator[tuple[Pop, FaultProxy]]:
    """A POP that reaches its Valkey through a fault proxy."""
    origin.otherwise(echo)
    proxy = FaultProxy(valkey.port)
    await proxy.start()
    url = f"valkey://127.0.0.1:{proxy.port}"
    async with running_pop(origin, origin.clock, regional=url) as pop:
        await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        yield pop, proxy
        proxy.heal()
        await proxy.stop()


async def all_are_right(pop: Pop, pages: range) -> None:
    """Every page is asked for at once, and every answer is whole and the right one."""
    answers = await asyncio.gather(*(pop.get(f"/{number}") for number in pages))
    for number, answer in zip(pages, answers, strict=True):
        assert (answer.status, answer.body) == (200, f"/{number}".encode() * 10)


def forget_all(pop: Pop) -> None:
    """Empty its memory."""
    pop.worker.edge.memory.__init__(1 << 20, "lru", 1 << 16, 64)


def failures(pop: Pop) -> float:
    """How often the tier failed, as the metrics say."""
    family = pop.worker.snapshot().get("edgecache_regional_failures")
    return sum(values[0] for _, values in family["series"]) if family else 0.0


def reads(pop: Pop, result: str) -> float:
    """How many reads of the tier came to `result`."""
    series = pop.worker.snapshot()["edgecache_regional_reads"]["series"]
    return float(next(values[0] for labels, values in series if ("result", result) in labels))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A POP that does not wait at its start for a log that will not come."""
    monkeypatch.setattr("edgecache.server.worker.CATCH_UP_WITHIN", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_down_at_the_start(origin: OriginDouble) -> None:
    """Nothing listens where Valkey should be: everything is served, and the failures are counted."""
    origin.otherwise(echo)
    async with running_pop(origin, origin.clock, regional=f"valkey://127.0.0.1:{refusing_port()}") as pop:
        await all_are_right(pop, range(50))
        assert failures(pop) > 0
        assert pop.worker.edge.region.tier.state != "closed"


FAULTS: dict[str, Callable[[FaultProxy], object]] = {
    "reset": FaultProxy.reset_all,
    "blackhole": FaultProxy.stall,
    "50 ms": lambda proxy: setattr(proxy.down, "latency", 0.05),
    "500 ms": lambda proxy: setattr(proxy.down, "latency", 0.5),
    "5 s": lambda proxy: setattr(proxy.down, "latency", 5.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
async def test_trouble_in_flight(origin: OriginDouble, valkey: Server, fault: str) -> None:
    """Valkey is slow, silent or cut off while requests are under way: none fails, and none is wrong."""
    async with behind_faults(origin, valkey) as (pop, proxy):
        await all_are_right(pop, range(20))
        forget_all(pop)  # only the tier is warm
        FAULTS[fault](proxy)
        await all_are_right(pop, range(60))
        proxy.heal()
        await all_are_right(pop, range(80))


async def test_it_stops_and_comes_back(origin: OriginDouble, valkey: Server) -> None:
    """Valkey goes away and comes back: served throughout, and used again once the breaker has tried it."""
    async with behind_faults(origin, valkey) as (pop, proxy):
        await all_are_right(pop, range(5))
        await proxy.stop()
        await all_are_right(pop, range(40))
        await proxy.start()
        pop.worker.edge.region.tier.guard.breaker.__init__(5, 0.5)  # its time is over
        await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        await all_are_right(pop, range(100, 110))
        await valkey.has(len({*valkey.keys()}))
        assert pop.worker.edge.region.tier.state == "closed"


@pytest.mark.slow
async def test_no_request_waits_for_a_dead_server(origin: OriginDouble, valkey: Server) -> None:
    """Once the breaker is open no request is a probe; it closes by itself when the server answers again."""
    async with behind_faults(origin, valkey) as (pop, proxy):
        guard = pop.worker.edge.region.tier.guard
        proxy.stall()
        for first in range(1000, 2000, 8):  # new ones: what was asked for is in memory
            if guard.open:
                break
            await all_are_right(pop, range(first, first + 8))
        assert guard.open
        slow = reads(pop, "slow")
        await all_are_right(pop, range(100, 160))
        assert reads(pop, "slow") == slow
        assert reads(pop, "open") >= 60
        proxy.heal()
        for _ in range(500):
            if not guard.open:
                break
            await asyncio.sleep(0.01)
        assert not guard.open
        await all_are_right(pop, range(100, 160))


CORRUPTIONS: dict[str, Callable[[Server, bytes, bytes], object]] = {
    "bit flip": lambda server, key, value: server.db.set(key, value[:-3] + bytes([value[-3] ^ 1]) + value[-2:]),
    "flip in the digest": lambda server, key, value: server.db.set(key, value[:5] + b"\0" + value[6:]),
    "cut": lambda server, key, value: server.db.set(key, value[:-1]),
    "cut in the head": lambda server, key, value: server.db.set(key, value[:22]),
    "longer": lambda server, key, value: server.db.set(key, value + b"evil"),
    "another schema": lambda server, key, value: server.db.set(key, b"ecr\x63" + value[4:]),
    "empty": lambda server, key, value: server.db.set(key, b""),
    "pickle": lambda server, key, value: server.db.set(key, pickle.dumps({"evil": 1})),
    "a list": lambda server, key, value: (server.db.delete(key), server.db.lpush(key, b"evil")),
    "oversized": lambda server, key, value: server.db.set(key, b"x" * 20_000_000),
}


@pytest.mark.parametrize("how", CORRUPTIONS)
async def test_corrupt_records_are_misses(origin: OriginDouble, valkey: Server, how: str) -> None:
    """What is no record of ours for that key is not served; the origin is asked, and what is right takes its place."""
    origin.otherwise(echo)
    url = {"regional": valkey.url, "regional_timeout": "5s"}
    async with running_pop(origin, origin.clock, **url) as pop:
        await pop.get("/1")
        (key,) = await valkey.has(1)
    good = valkey.db.get(key)
    CORRUPTIONS[how](valkey, key, good)
    async with running_pop(origin, origin.clock, **url) as pop:
        await all_are_right(pop, range(1, 2))
        assert len(origin.requests) == 2
        for _ in range(1000):
            if valkey.db.type(key) == b"string" and valkey.db.get(key)[:4] == good[:4]:
                break
            await asyncio.sleep(0)
    async with running_pop(origin, origin.clock, **url) as pop:
        await all_are_right(pop, range(1, 2))


async def test_swapped_records_are_misses(origin: OriginDouble, valkey: Server) -> None:
    """The record of one page under the key of another is as wrong as a corrupt one."""
    origin.otherwise(echo)
    url = {"regional": valkey.url, "regional_timeout": "5s"}
    async with running_pop(origin, origin.clock, **url) as pop:
        await all_are_right(pop, range(2))
        one, two = await valkey.has(2)
    first, second = valkey.db.mget(one, two)
    valkey.db.mset({one: second, two: first})
    async with running_pop(origin, origin.clock, **url) as pop:
        await all_are_right(pop, range(2))

    assert len(origin.requests) == 4


@pytest.mark.usefixtures("impatient")
async def test_a_full_server_refuses_writes_only(origin: OriginDouble) -> None:
    """Valkey is out of memory: what it refuses is counted, and everything is served."""
    origin.otherwise(echo)
    with running_valkey(maxmemory="1mb", maxmemory_policy="noeviction") as full:
        async with running_pop(origin, origin.clock, regional=full.url) as pop:
            await all_are_right(pop, range(50))
            assert failures(pop) > 0


async def test_flushall_in_between(origin: OriginDouble, valkey: Server) -> None:
    """Everything is lost at once: no request fails."""
    origin.otherwise(echo)
    async with running_pop(origin, origin.clock, regional=valkey.url) as pop:
        for _ in range(5):
            asking = asyncio.gather(*(pop.get(f"/{number}") for number in range(40)))
            valkey.db.flushall()
            assert {answer.status for answer in await asking} == {200}


REPLIES = {
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "LOADING": b"-LOADING Valkey is loading the dataset in memory\r\n",
    "BUSY": b"-BUSY Valkey is busy running a script.\r\n",
    "MOVED": b"-MOVED 3999 127.0.0.1:1\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down\r\n",
    "half a frame": b"$100\r\nabc",
    "half of a list": b"*20\r\n$1\r\nx\r\n$400\r\nab",
    "another type": b":1\r\n",
    "nil": b"$-1\r\n",
    "a word": b"+OK\r\n",
    "an empty list": b"*0\r\n",
    "a short list": b"*1\r\n$1\r\nx\r\n",
    "no RESP": b"HTTP/1.1 200 OK\r\n\r\n",
    "nothing, closed": b"",
}


SLOW = pytest.mark.slow
COMMAND = re.compile(rb"\*[0-9]+\r\n\$")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", [pytest.param(what, marks=SLOW if "half" in what else ()) for what in REPLIES])
async def test_odd_replies_are_misses(origin: OriginDouble, what: str) -> None:
    """A server that answers everything by something odd: no value is guessed, everything is served."""
    origin.otherwise(echo)

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(REPLIES[what] * len(COMMAND.findall(data)))
            if not REPLIES[what]:
                break

    async with (
        running_server(odd) as port,
        running_pop(origin, origin.clock, regional=f"valkey://127.0.0.1:{port}") as pop,
    ):
        await all_are_right(pop, range(30))


class Injector:
    """A relay to a real server that can answer by something of its own instead."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._reply: bytes | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    def answer(self, reply: bytes | None) -> None:
        """Answer every command by `reply`, beginning now and unasked; None: let the server answer again."""
        self._reply = reply
        for writer in tuple(self._open) if reply is not None else ():
            self._send(writer, reply, 1)

    @staticmethod
    def _send(writer: asyncio.StreamWriter, reply: bytes, times: int) -> None:
        if reply:
            writer.write(reply * times)
        else:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there, away = await asyncio.open_connection("127.0.0.1", self._target)
        self._open[writer] = spawn(self._back(there, writer), "injector")
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self._reply is None:
                    away.write(data)
                else:
                    self._send(writer, self._reply, len(COMMAND.findall(data)))
        away.close()
        await self._open.pop(writer)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@asynccontextmanager
async def injecting(valkey: Server) -> AsyncIterator[tuple[Injector, str]]:
    """An injector before `valkey`, and the URL by which it is reached."""
    injector = Injector(valkey.port)
    async with running_server(injector.serve) as port:
        yield injector, f"valkey://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize("what", REPLIES)
async def test_odd_replies_in_flight(origin: OriginDouble, valkey: Server, what: str) -> None:
    """A server that was well answers by something odd, asked and unasked: nobody fails, and it is used again later."""
    async with injecting(valkey) as (injector, url), running_pop(origin, origin.clock, regional=url) as pop:
        origin.otherwise(echo)
        tier = pop.worker.edge.region.tier
        await asyncio.wait_for(tier.leases.listening.wait(), 5)
        await all_are_right(pop, range(20))
        await valkey.has(20)
        forget_all(pop)  # only the tier is warm
        asking = spawn(all_are_right(pop, range(40)), "readers")
        await let_others_run(3)
        injector.answer(REPLIES[what])
        await asking
        forget_all(pop)
        await all_are_right(pop, range(60))
        injector.answer(None)

        for _ in range(500):
            hits = reads(pop, "hit")
            forget_all(pop)
            await all_are_right(pop, range(20))
            if tier.state == "closed" and reads(pop, "hit") >= hits + 20:
                break
            await asyncio.sleep(0.02)
        assert reads(pop, "hit") >= hits + 20
        await asyncio.wait_for(tier.leases.listening.wait(), 5)


@pytest.mark.slow
async def test_the_largest_value_there_can_be(origin: OriginDouble, valkey: Server) -> None:
    """512 MB where a record should be: they are not taken into this process, the value goes, the page is served."""
    origin.otherwise(echo)
    url = {"regional": valkey.url, "regional_timeout": "250ms"}
    async with running_pop(origin, origin.clock, **url) as pop:
        await pop.get("/1")
        (key,) = await valkey.has(1)
        valkey.db.setrange(key, (1 << 29) - 1, b"x")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with running_pop(origin, origin.clock, **url) as pop:
        await all_are_right(pop, range(1, 2))
        for _ in range(500):
            if valkey.db.strlen(key) < 1 << 20:
                break
            await asyncio.sleep(0.01)
    assert valkey.db.strlen(key) < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250 * 1024  # KiB


async def test_a_record_without_an_end(origin: OriginDouble, valkey: Server) -> None:
    """Somebody has taken its TTL away: it is as stale as before, and asked about."""
    origin.otherwise(echo)
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="5s") as pop:
        await all_are_right(pop, range(1))
        (key,) = await valkey.has(1)
        assert valkey.db.persist(key)
    origin.clock.advance(3600)
    async with running_pop(origin, origin.clock, regional=valkey.url, regional_timeout="5s") as pop:
        await all_are_right(pop, range(1))
    assert len(origin.requests) == 2


async def test_the_hit_ratio_is_back_after_a_flushall(origin: OriginDouble, valkey: Server) -> None:
    """All is lost at the peak, and then the memories too: no page is fetched more often, and then never."""
    origin.otherwise(echo)
    pages, options = range(60), {"regional": valkey.url, "regional_timeout": "5s"}
    async with (
        running_pop(origin, origin.clock, pop="one", **options) as one,
        running_pop(origin, origin.clock, pop="two", **options) as two,
    ):
        for pop in (one, two):
            await asyncio.wait_for(pop.worker.edge.region.tier.leases.listening.wait(), 5)
        await all_are_right(one, pages)
        await one.written()
        asked = len(origin.requests)
        known = one.worker.edge.log.vector.merged(two.worker.edge.log.vector)
        asking = asyncio.gather(*(all_are_right(two, pages) for _ in range(3)))
        await let_others_run(3)
        valkey.db.flushall()
        await asking
        while any(known.covers(pop.worker.edge.log.vector) for pop in (one, two)):
            await let_others_run(5)  # once the log has begun anew, nothing from before is proven
        for pop in (one, two):
            forget_all(pop)
            await all_are_right(pop, pages)
            await pop.written()
        again = len(origin.requests) - asked
        assert again <= 2 * 60
        for pop in (one, two):
            forget_all(pop)
            await all_are_right(pop, pages)
    assert len(origin.requests) - asked == again


@asynccontextmanager
async def one_fetches_and_one_waits(
    origin: OriginDouble, valkey: Server
) -> AsyncIterator[tuple[asyncio.Event, FaultProxy, list[asyncio.Future[Any]]]]:
    """A POP whose fetch lasts until the event is set, and one behind a proxy that waits for its lease of a minute."""
    gate = asyncio.Event()
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", wait=gate), Reply(fields=[FRESH], body=b"hello"))
    options: dict[str, object] = {"regional_lease": "1m", "follower_timeout": "10m"}
    async with (
        running_proxy(valkey.port) as proxy,
        running_pop(origin, origin.clock, regional=valkey.url, pop="one", **options) as one,
        running_pop(origin, origin.clock, regional=f"valkey://127.0.0.1:{proxy.port}", pop="two", **options) as two,
    ):
        tiers = [pop.worker.edge.region.tier for pop in (one, two)]
        for tier in tiers:
            await asyncio.wait_for(tier.leases.listening.wait(), 5)
        tiers[1].leases._life = 2.0  # of the default: it looks five times in that
        first = asyncio.ensure_future(one.get("/a"))  # noqa: TID251
        await origin.request_seen()
        second = asyncio.ensure_future(two.get("/a"))  # noqa: TID251
        await until(lambda: any(waiting.left for several in tiers[1].leases._waiting.values() for waiting in several))
        yield gate, proxy, [first, second]


@pytest.mark.parametrize("fault", ["stalls", "is gone"])
async def test_a_dead_server_is_not_waited_for(origin: OriginDouble, valkey: Server, fault: str) -> None:
    """Neither for the rest of the lease of another worker, however long that is: the origin is asked."""
    async with one_fetches_and_one_waits(origin, valkey) as (gate, proxy, asked):
        if fault == "stalls":
            proxy.stall()
        else:
            await proxy.stop()
        assert (await asyncio.wait_for(asked[1], 20)).body == b"hello"
        assert not asked[0].done()
        gate.set()
        assert (await asked[0]).body == b"hello"
        assert len(origin.requests) == 2


async def test_a_lost_message_is_not_waited_for(origin: OriginDouble, valkey: Server) -> None:
    """The outcome was published while a worker could not hear it: what was stored is found all the same."""
    async with one_fetches_and_one_waits(origin, valkey) as (gate, _, asked):
        valkey.db.client_kill_filter(_type="pubsub")
        gate.set()
        assert (await asked[0]).body == b"hello"
        answer = await asyncio.wait_for(asked[1], 20)
        assert (answer.body, len(origin.requests)) == (b"hello", 1)


async def test_a_lease_of_which_nothing_is_known_is_given_back() -> None:
    """As soon as the server can be told, it frees a key that it may have given to a worker that has stopped waiting."""
    sent: list[tuple[Any, ...]] = []
    replies: list[Any] = [TimeoutError(), 0]

    class Lost:
        """Commands without replies at first."""

        async def execute(self, command: tuple[Any, ...], size: int = 0, within: float | None = None) -> Any:
            raise TimeoutError

        def send(self, command: tuple[Any, ...], size: int = 0, on_reply: Any = None) -> bool:
            sent.append(command)
            if on_reply is not None and replies:
                on_reply(0, replies.pop(0))
            return True

    leases = Leases(Silent(), Lost(), 0.05)  # type: ignore[arg-type]
    assert await leases.take(b"k", 1) is None
    await until(lambda: len(sent) == 2)
    assert sent[0] == sent[1]
    await asyncio.sleep(0.05)
    assert len(sent) == 2
    await leases.close()


class Silent:
    """A server that no message comes from."""

    link: Any = None
