"""Requests off the fast path take turns on the event loop, whatever comes at once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop

from edgecache.proxy.collapsing import MOST_AT_ONCE as MOST_FOLLOWERS
from edgecache.proxy.collapsing import Failed, Flight
from edgecache.tasks import spawn
from edgecache.wire.body import Body
from edgecache.wire.body_readers import MOST_AT_ONCE as MOST_READERS
from edgecache.wire.errors import OriginError
from edgecache.wire.run_queue import LONG_HITS, MOST_AT_ONCE, MOST_HELD, ROOM, RunQueue

FRESH = [("Cache-Control", "max-age=1000000")]


def ask(target: str, *fields: str) -> bytes:
    """A GET."""
    return "\r\n".join((f"GET {target} HTTP/1.1", "Host: site", *fields, "", "")).encode()


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._count)


async def test_a_few_at_once_and_the_rest_in_order() -> None:
    """Each that waits takes longer than a turn may: one of them in each turn."""
    now = [0.0]
    queue, turns, called = RunQueue(lambda: now[0]), Turns(), []

    def slow(number: int) -> None:
        called.append((number, turns.number))
        now[0] += 1.0

    for number in range(40):
        if queue.has_room():
            assert number < MOST_AT_ONCE
        else:
            queue.add(partial(slow, number))
    assert len(queue) == 40 - MOST_AT_ONCE
    while len(queue):
        await asyncio.sleep(0)
        assert not queue.has_room() or not len(queue)
    assert len({turn for _, turn in called}) == len(called)


async def test_short_ones_share_a_turn() -> None:
    """They take no time at all."""
    queue, called = RunQueue(lambda: 0.0), []
    for number in range(1000):
        if not queue.has_room():
            queue.add(partial(called.append, number))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert called == list(range(MOST_AT_ONCE, 1000))
    assert [queue.has_room() for _ in range(MOST_AT_ONCE + 1)] == [True] * MOST_AT_ONCE + [False]


async def test_of_long_hits_more_leave_in_one_turn() -> None:
    """They cost less than requests; what comes after them waits, whatever it is."""
    queue, called = RunQueue(lambda: 0.0), []
    assert [queue.has_room_for_a_hit() for _ in range(100)] == [True] * ROOM + [False] * (100 - ROOM)
    assert not queue.has_room()
    queue.add(partial(called.append, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert called == [1]
    assert queue.has_room()
    assert [queue.has_room_for_a_hit() for _ in range(100)].count(True) == ROOM - LONG_HITS


async def test_while_connections_are_accepted_requests_wait_a_while() -> None:
    """So that those behind them are accepted; not for ever."""
    queue, turns, called = RunQueue(lambda: 0.0), Turns(), []
    for number in range(40):
        queue.note_accepted()
        if not queue.has_room():
            queue.add(partial(called.append, number))
        await asyncio.sleep(0)
    assert MOST_HELD <= len(called) < 40
    assert turns.number >= 39
    for _ in range(4):
        await asyncio.sleep(0)
    assert called == list(range(40))


async def test_one_that_raises_stops_no_other() -> None:
    """Those behind it have their turn all the same."""
    queue, called = RunQueue(lambda: 0.0), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    def bad() -> None:
        raise ValueError("bad")

    for _ in range(MOST_AT_ONCE):
        queue.has_room()
    for callback in (bad, lambda: called.append(1), bad, lambda: called.append(2)):
        assert not queue.has_room()
        queue.add(callback)
    for _ in range(6):
        await asyncio.sleep(0)
    assert called == [1, 2]
    assert not len(queue)


class Slow:
    """A reader that notes in which turn it got what."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.writable = turns, True
        self.got: list[tuple[bytes, int]] = []
        self.ended = 0

    def write(self, piece: bytes) -> None:
        """A piece."""
        self.got.append((bytes(piece), self.turns.number))

    def finish(self) -> None:
        """The end."""
        self.ended += 1

    abort = finish


@pytest.mark.parametrize("ended", [False, True])
async def test_many_readers_of_one_body_take_turns(ended: bool) -> None:
    """No more than some in one turn; each gets every byte in order, and the end once."""
    turns, body = Turns(), Body()
    body.keep_up_to(1 << 20)
    readers = [Slow(turns) for _ in range(100)]
    for reader in readers:
        body.read_into(reader)  # type: ignore[arg-type]
    body.write(b"one")
    if ended:
        body.finish()
    await asyncio.sleep(0)
    body.write(b"two") if not ended else None
    for _ in range(10):
        await asyncio.sleep(0)
    if not ended:
        body.write(b"three")
        body.finish()
    for _ in range(30):
        await asyncio.sleep(0)
    whole = b"one" if ended else b"onetwothree"
    assert [b"".join(piece for piece, _ in reader.got) for reader in readers] == [whole] * 100
    assert [reader.ended for reader in readers] == [1] * 100
    first = [reader.got[0][1] for reader in readers]
    assert max(first.count(turn) for turn in first) <= MOST_READERS
    assert not body.readers


async def test_a_store_has_all_when_the_body_ends() -> None:
    """It reads in the background, and is told to others as stored then: its turn comes before those of clients."""
    turns, body = Turns(), Body()
    body.keep_up_to(1 << 20)
    for _ in range(50):
        body.read_into(Slow(turns))  # type: ignore[arg-type]
    store, at_the_end = Slow(turns), []
    body.read_into(store, behind=True)  # type: ignore[arg-type]
    body.when_ended(lambda _: asyncio.get_running_loop().call_soon(lambda: at_the_end.append(store.ended)))
    body.write(b"one")
    body.write(b"two")
    body.finish()
    assert [piece for piece, _ in store.got] == [b"one", b"two"]
    await asyncio.sleep(0)
    assert at_the_end == [1]


async def test_many_readers_of_a_transient_body_let_nothing_go_early() -> None:
    """What some have yet to take is not dropped, and those who leave meanwhile hold up nobody."""
    turns, body = Turns(), Body()
    readers = [Slow(turns) for _ in range(60)]
    cursors = [body.read_into(reader) for reader in readers]  # type: ignore[arg-type]
    for number in range(20):
        body.write(b"%02d" % number)
        if number % 5 == 0:
            body.leave(cursors.pop())
            readers.pop()
        await asyncio.sleep(0)
    body.finish()
    for _ in range(30):
        await asyncio.sleep(0)
    whole = b"".join(b"%02d" % number for number in range(20))
    assert [b"".join(piece for piece, _ in reader.got) for reader in readers] == [whole] * len(readers)
    assert body.held == 0


async def test_a_crowd_of_followers_takes_turns() -> None:
    """One that a fetch kept waiting delays what comes next by a group of them, and not by all."""
    turns = Turns()
    flight = Flight(b"k", b"k", None)
    woken: list[int] = []

    async def follow() -> None:
        assert isinstance(await flight.outcome(None), Failed)
        woken.append(turns.number)

    crowd = [spawn(follow(), "follower") for _ in range(200)]
    await asyncio.sleep(0)
    flight.land(Failed(OriginError("gone")))
    await asyncio.gather(*crowd)
    assert max(woken.count(turn) for turn in woken) <= MOST_FOLLOWERS


async def test_a_burst_is_answered_whole_and_known_hits_go_first(origin: OriginDouble) -> None:
    """Of new requests that come in one turn, each gets its own answer; a known head does not wait for them."""
    origin.otherwise(Reply(fields=FRESH, body=b"x" * 100))
    async with running_pop(origin) as pop:
        known = await asyncio.open_connection("127.0.0.1", pop.port)
        for _ in range(4):  # learnt
            known[1].write(ask("/known"))
            await known[0].readuntil(b"x" * 100)
        connections = [await asyncio.open_connection("127.0.0.1", pop.port) for _ in range(120)]
        done: list[object] = []
        for number, (_, writer) in enumerate(connections):
            writer.write(ask(f"/new/{number}", f"Cookie: c={number}"))
        known[1].write(ask("/known"))

        async def read(name: object, reader: asyncio.StreamReader) -> None:
            await reader.readuntil(b"x" * 100)
            done.append(name)

        await asyncio.gather(
            read("known", known[0]), *(read(number, reader) for number, (reader, _) in enumerate(connections))
        )
        for _, writer in (known, *connections):
            writer.close()
    assert len(done) == 121
    assert len(origin.requests) == 121


async def test_what_waits_is_answered_in_pieces_and_after_fin(origin: OriginDouble) -> None:
    """Heads in pieces, pipelined ones, and clients that send FIN at once, all in one burst."""
    origin.otherwise(Reply(fields=FRESH, body=b"done"))
    async with running_pop(origin) as pop:
        connections = [await asyncio.open_connection("127.0.0.1", pop.port) for _ in range(90)]
        for number, (_, writer) in enumerate(connections):
            head = ask(f"/{number}")
            if number % 3 == 0:
                writer.write(head[:20])
            elif number % 3 == 1:
                writer.write(head + ask(f"/{number}b"))
            else:
                writer.write(head)
                writer.write_eof()
        for number, (_, writer) in enumerate(connections):
            if number % 3 == 0:
                writer.write(ask(f"/{number}")[20:])
        for number, (reader, writer) in enumerate(connections):
            for _ in range(2 if number % 3 == 1 else 1):
                await reader.readuntil(b"done")
            writer.close()
    assert len(origin.requests) == 120
