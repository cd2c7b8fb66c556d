"""What lies in memory beside the store counts in its budget, and slow readers share what is stored."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc

import pytest
from harness.client import RawClient, let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop

from edgecache.semantics.rope import Rope
from edgecache.server.worker import READ_WITHIN
from edgecache.wire.body import Body
from edgecache.wire.body_buffer import SLICE

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"v"')
KIB, MIB = 1024, 1024 * 1024


class Slow:
    """A sink that takes one piece whenever it is asked to."""

    def __init__(self) -> None:
        self.writable = False
        self.taken = bytearray()
        self.finished = False

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        self.taken += piece
        self.writable = False

    def finish(self) -> None:
        """All has come."""
        self.finished = True

    def abort(self) -> None:
        """It must not come to that."""
        raise AssertionError("aborted")

    def goes_alone(self, at: int) -> bool:
        """It does not."""
        return False


@pytest.mark.parametrize("places", [(0,), (3, 7), (0, 5, 10), (10, 10)])
@pytest.mark.parametrize("size", [1000, SLICE // 3])
def test_readers_go_on_in_what_is_stored(places: tuple[int, ...], size: int) -> None:
    """Wherever its readers stand when a body becomes one content, each of them gets every byte once."""
    pieces = [bytes([number]) * size for number in range(10)]
    content = b"".join(pieces)
    body = Body(keep=len(content))
    sinks = [Slow() for _ in places]
    cursors = [body.read_into(sink) for sink in sinks]
    for piece in pieces:
        body.write(piece)
    for place, sink, cursor in zip(places, sinks, cursors, strict=True):
        for _ in range(place):
            sink.writable = True
            body.taken(cursor)

    body.finish()
    settled = body.move_to_store()
    for sink, cursor in zip(sinks, cursors, strict=True):
        for _ in range(len(body.pieces) + 1):
            sink.writable = True
            body.taken(cursor)

    assert [bytes(sink.taken) == content and sink.finished for sink in sinks] == [True] * len(places)
    assert bytes(settled) == content
    if isinstance(settled, Rope):  # none is there twice
        assert all(mine is theirs for mine, theirs in zip(settled.pieces, body.pieces, strict=True))
    else:
        assert all((piece.obj if isinstance(piece, memoryview) else piece) is settled for piece in body.pieces)


async def open_slow(pop: Pop, target: str) -> RawClient:
    """A client that has asked for `target` and reads nothing."""
    client = await pop.open(receive_buffer=4096)
    await client.request("GET", target)
    return client


async def test_a_slow_reader_of_a_fill_keeps_no_second_copy(origin: OriginDouble) -> None:
    """Who joins a fetch, and is behind when the object is stored, costs no more than 256 KiB of its own."""
    size = 8 * MIB
    gate = asyncio.Event()
    origin.on("/big", Reply(fields=[FRESH], pieces=[bytes(size)], gates=[gate]))
    async with running_pop(origin, memory="256MiB") as pop, pop.client() as fast:
        slow = await open_slow(pop, "/big")
        await fast.request("GET", "/big")
        await let_others_run(200)
        tracemalloc.start()
        try:
            gate.set()
            assert len((await fast.response()).body) == size
            fast.progress.clear()
            fast.source.seen.clear()
            await let_others_run(200)
            traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*/tests/*")]).traces
            held = sum(trace.size for trace in traces)
        finally:
            tracemalloc.stop()

        assert len(origin.requests) == 1
        assert size < held < size + 512 * KIB
        slow.close()


async def test_heads_and_rendered_answers_count(origin: OriginDouble) -> None:
    """Answers kept rendered hold an eighth of the memory at most, and the store gives up what they hold."""
    origin.otherwise(Reply(fields=[FRESH], body=bytes(12 * KIB)))
    async with running_pop(origin, memory="4MiB") as pop, pop.client() as client:
        memory, known = pop.worker.edge.memory, pop.worker.edge.known
        for number in range(150):
            for _ in range(4):
                await client.request("GET", f"/{number}")
                await client.response()
            assert memory.size + memory.account.held <= memory.account.budget

        assert 0 < known._rendered.bytes <= memory.account.budget // 8
        assert memory.account.held >= known._rendered.bytes + known._known.bytes
        known.stop()
        memory.invalidate(b"")


async def test_bodies_that_arrive_have_bounded_room(origin: OriginDouble) -> None:
    """Of bodies that arrive at the same time only so many are kept to be stored; the others pass whole."""
    gate = asyncio.Event()
    origin.otherwise(Reply(fields=[FRESH], pieces=[bytes(900 * KIB), b"x"], gates=[None, gate]))
    async with running_pop(origin, memory="12MiB") as pop:
        account = pop.worker.edge.memory.account
        asking = [asyncio.get_running_loop().create_task(pop.get(f"/{number}")) for number in range(12)]
        await origin.request_seen(12)
        await let_others_run(2000)
        assert account.filling < account.budget // 2
        gate.set()

        assert [len((await one).body) for one in asking] == [900 * KIB + 1] * 12
        assert account.filling == 0
        assert 0 < len(pop.worker.edge.memory) < 12


async def test_what_is_read_after_it_was_evicted_counts(origin: OriginDouble) -> None:
    """What has left the memory counts until its last reader has left, and such readers hold a bounded share."""
    origin.otherwise(lambda request: Reply(fields=[FRESH], body=bytes(900 * KIB)))
    async with running_pop(origin, memory="12MiB") as pop:
        memory = pop.worker.edge.memory
        slow = []
        for number in range(6):
            await pop.get(f"/{number}")
            slow.append(await open_slow(pop, f"/{number}"))
            await let_others_run(50)
        for number in range(6):
            memory.invalidate(memory.normal_key(b"http://www.example.test/%d" % number))
        memory.account.look()

        assert memory.account.lingering == 6 * 900 * KIB
        assert memory.account.held >= memory.account.lingering
        pop.worker._cut_readers()
        await let_others_run()
        assert len(pop.worker.connections) == 6  # they have had no time yet
        pop.worker.clock = lambda: time.monotonic() + 2 * READ_WITHIN
        pop.worker._cut_readers()
        await let_others_run()
        pop.worker._cut_readers()
        await let_others_run()
        memory.account.look()
        assert memory.account.lingering <= memory.account.budget // 8
        for client in slow:
            client.close()
        await let_others_run()
        memory.account.look()
        assert memory.account.lingering == 0


@pytest.mark.slow
async def test_nobody_waits_for_a_laggard(origin: OriginDouble) -> None:
    """Of two who share a body that only flows, one that takes nothing gets its rest by a question of its own, whole."""
    first, gate = asyncio.Event(), asyncio.Event()
    content = bytes(range(256)) * 8 * KIB
    origin.on("/other", Reply(fields=[FRESH], pieces=[bytes(2 * MIB - 1), b"x"], gates=[None, first]))

    def answer(request: ReceivedRequest) -> Reply:
        if request.get("range"):
            start = int((request.get("range") or "").removeprefix("bytes=").removesuffix("-"))
            where = ("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            return Reply(206, [FRESH, ETAG, where], content[start:])
        return Reply(fields=[FRESH, ETAG], pieces=[content], gates=[gate])

    origin.on("/big", answer)
    settings = {"memory": "8MiB", "max_object_memory": "2MiB"}
    async with running_pop(origin, **settings) as pop, pop.client() as other, pop.client() as fast:
        await other.request("GET", "/other")  # takes the room for bodies that arrive
        await origin.request_seen(1)
        await let_others_run(500)
        slow = await open_slow(pop, "/big")
        await fast.request("GET", "/big")
        await origin.request_seen(2)
        await let_others_run()
        gate.set()

        assert (await fast.response()).body == content
        assert [seen.target for seen in origin.requests] == ["/other", "/big", "/big"]
        assert (await slow.response()).body == content
        slow.close()
        first.set()
        await other.response()


@pytest.mark.parametrize("field", ["bytes=1-", "bytes=0-4000000,5000000-"])
async def test_a_slow_reader_of_a_range_keeps_no_copy(origin: OriginDouble, field: str) -> None:
    """A client that asks for a range, or several, of a big stored object and reads nothing holds no copy of it."""
    origin.on("/big", Reply(fields=[FRESH], body=bytes(8 * MIB)))
    async with running_pop(origin, memory="256MiB") as pop:
        await pop.get("/big")
        async with pop.client(receive_buffer=4096) as client:
            tracemalloc.start()
            try:
                await client.request("GET", "/big", [("Range", field)])
                await let_others_run(200)
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            (connection,) = pop.worker.connections
            assert [one.reads for one in connection.exchanges if one.reads is not None]
            assert held < 256 * KIB


async def test_heads_go_with_the_answers_that_they_share(origin: OriginDouble) -> None:
    """An answer that is no longer kept rendered is not kept alive by a known head, where it would not count."""
    origin.otherwise(Reply(fields=[FRESH], body=bytes(12 * KIB)))
    async with running_pop(origin, memory="4MiB") as pop, pop.client() as client:
        known = pop.worker.edge.known
        for number in range(60):
            for _ in range(4):
                await client.request("GET", f"/{number}")
                await client.response()
        shared = set(map(id, known._rendered.values()))
        assert 0 < len(known._known) <= len(shared)
        assert {id(hit.rendered) for hit in known._known.values()} <= shared


async def test_a_miss_leaves_no_cycle_behind(origin: OriginDouble) -> None:
    """What a miss needs is freed at once: waiting for the collector, it would keep the allocator's arenas in pieces."""
    origin.otherwise(Reply(fields=[FRESH, ETAG], pieces=[bytes(9 * KIB), bytes(KIB)]))
    async with running_pop(origin) as pop, pop.client() as client:
        for number in range(5):
            await client.request("GET", f"/warm-{number}")
            await client.response()
        gc.collect()
        gc.disable()
        try:
            for number in range(20):
                await client.request("GET", f"/{number}")
                await client.response()
            await let_others_run()
            left = sum(type(one).__name__ in ("Exchange", "Body", "Flight", "Reply") for one in gc.get_objects())
        finally:
            gc.enable()
        assert left <= 5


@pytest.mark.parametrize("behind", [False, True])
def test_tiny_pieces_cost_no_more_than_their_bytes(behind: bool) -> None:
    """A body that comes two bytes at a time takes what it holds, and a little; with a reader that lags in it too."""
    size = 100_000
    body = Body(keep=size)
    tracemalloc.start()
    try:
        for number in range(size // 2):
            body.write(bytes((number % 251, 1)))
            if behind and number == 1000:
                body.read_into(Slow())
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body.size == size
    assert held < size * 1.2 + 64 * KIB
    assert most < size * 1.5 + 128 * KIB
