"""Who holds back the others that share a body gets the rest by another way, or is cut off; nobody else notices."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from harness.client import let_others_run
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop

from edgecache.wire import slow_readers
from edgecache.wire.body import Body
from edgecache.wire.body_readers import WINDOW
from edgecache.wire.slow_readers import SlowReaders

FRESH, ETAG = ("Cache-Control", "max-age=60"), ("ETag", '"v"')
CONTENT = bytes(range(256)) * 16 * 1024


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for long."""
    monkeypatch.setattr(slow_readers, "LAG", 0.01)
    monkeypatch.setattr(slow_readers, "PATIENCE", 0.1)


async def both(pop: Pop, origin: OriginDouble, gate: asyncio.Event) -> tuple[bytes, bytes, bool]:
    """What a fast client gets of /big, and a slow one who shares it; and whether that one was cut off."""
    slow = await pop.open(receive_buffer=4096)
    async with pop.client() as fast:
        await slow.request("GET", "/big")
        await fast.request("GET", "/big")
        await origin.request_seen(1)
        await let_others_run()
        gate.set()
        quick = await fast.response()
        late = await slow.response_or_broken()
        slow.close()
    return quick.body, late.body, bool(late.broken)


@pytest.mark.parametrize("knows", ["ranges", "no ranges", "another version", "an error"])
async def test_the_rest_is_asked_for(origin: OriginDouble, soon: None, knows: str) -> None:
    """The rest of the same version is joined, from a 206, or from a 200 of the whole; nothing else ever is."""
    gate = asyncio.Event()

    def answer(request: ReceivedRequest) -> Reply:
        wanted = request.get("Range")
        if wanted is None:
            return Reply(fields=[FRESH, ETAG], pieces=[CONTENT], gates=[gate])
        if knows == "ranges":
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            span = ("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
            return Reply(206, [FRESH, ETAG, span], CONTENT[first:])
        if knows == "no ranges":
            return Reply(fields=[FRESH, ETAG], body=CONTENT)
        if knows == "another version":
            return Reply(fields=[FRESH, ("ETag", '"w"')], body=bytes(len(CONTENT)))
        return Reply(503, [ETAG], CONTENT)

    origin.on("/big", answer)
    async with running_pop(origin, memory="64MiB", max_object_memory="8MiB") as pop:
        pop.worker.edge.memory.account._most_filling = 1024 * 1024  # as if others held the room
        quick, late, broken = await both(pop, origin, gate)

    assert quick == CONTENT
    assert broken == (knows in ("another version", "an error"))
    assert CONTENT.startswith(late)
    assert broken or late == CONTENT
    assert [bool(request.get("Range")) for request in origin.requests] == [False, True]


async def test_who_cannot_go_alone_is_cut_off(origin: OriginDouble, soon: None) -> None:
    """There is no validator by which the rest could be joined: the slow client is cut off, visibly."""
    gate = asyncio.Event()
    origin.on("/big", Reply(fields=[FRESH], pieces=[CONTENT], gates=[gate], framing="chunked"))
    async with running_pop(origin, memory="64MiB", max_object_memory="2MiB") as pop:
        quick, late, broken = await both(pop, origin, gate)

    assert (quick, broken) == (CONTENT, True)
    assert CONTENT.startswith(late)
    assert len(origin.requests) == 1


@dataclass
class Reader:
    """A sink with room for so many pieces."""

    room: int = 0
    alone: int | None = None
    can: bool = True

    @property
    def writable(self) -> bool:
        """Whether there is room."""
        return self.room > 0

    def write(self, piece: bytes) -> None:
        """Take it."""
        self.room -= 1

    def finish(self) -> None:
        """It does not come to that."""

    def abort(self) -> None:
        """It must not come to that."""
        raise AssertionError("aborted")

    def goes_alone(self, at: int) -> bool:
        """Whether it can."""
        if self.can:
            self.alone = at
        return self.can


class Held:
    """A source that may be held back, and watches for slow readers."""

    def __init__(self) -> None:
        self.body = Body(self)
        self.slow_readers = SlowReaders()

    def pause_reading(self) -> None:
        """Held back."""
        self.slow_readers.watch(self.body)

    def resume_reading(self) -> None:
        """No more."""
        self.slow_readers.unwatch()

    def abandoned(self) -> None:
        """It must not come to that."""
        raise AssertionError("abandoned")


@pytest.mark.parametrize("alternate", [False, True], ids=["always the same", "one or the other"])
async def test_who_is_always_the_slowest_goes_alone(monkeypatch: pytest.MonkeyPatch, alternate: bool) -> None:
    """A reader that moves, but keeps the others waiting each time, goes alone; readers that take turns do not."""
    monkeypatch.setattr(slow_readers, "LAG", 60.0)
    monkeypatch.setattr(slow_readers, "STEADY", 0.0)
    source, readers = Held(), [Reader(), Reader()]
    cursors = [source.body.read_into(reader) for reader in readers]
    for turn in range(6):
        slow = turn % 2 if alternate else 0
        readers[slow].room, readers[1 - slow].room = 0, 10
        source.body.write(bytes(WINDOW))
        source.body.write(b"x")  # now the slow one is too far behind
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() == began:  # the clock moves in steps
            await let_others_run()
        if readers[slow].alone is not None:
            break
        readers[slow].room = 10
        source.body.taken(cursors[slow])

    assert [reader.alone is not None for reader in readers] == [not alternate, False]


@pytest.mark.parametrize("can", [True, False], ids=["has another way", "has none"])
async def test_what_is_stored_does_not_wait_for_a_client(monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    """A client that leads what the region waits for, and takes nothing, goes alone if it can; it is never cut off."""
    monkeypatch.setattr(slow_readers, "LAG", 0.0)
    monkeypatch.setattr(slow_readers, "PATIENCE", 0.0)
    source, client, store = Held(), Reader(can=can), Reader(room=10)
    source.body.read_into(client)
    source.body.read_into(store, behind=True)
    source.body.write(bytes(1000))
    await let_others_run()

    assert client.alone == (0 if can else None)
