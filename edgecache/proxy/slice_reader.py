"""A body that is read slice by slice: of a whole object, or of a range.

Slices are asked for ahead, once half of the current one has gone to the reader, and none that lies beyond the range:
three where they have to be fetched. Readers who seek leave each at a slightly different byte, and the later
ones find what they need (a browser reads 16 MiB from where it seeks, more or less). Where slices are stored already,
the next one is asked for, so that a stretch grows little each time. A slice that ends early is asked for once more; if
another version comes in its place, the body fails: its reader sees a response that is cut, and no byte of that version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from edgecache.proxy.slice_store import FoundSlice
from edgecache.semantics.outcomes import Result
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Piece
from edgecache.semantics.slices import numbers
from edgecache.tasks import spawn
from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor
from edgecache.wire.slow_readers import SlowReaders

TRIES: Final = 2  # times that one slice is asked for
MOST_AHEAD: Final = 3  # slices
Fetch = Callable[
    [int], Coroutine[Any, Any, FoundSlice | None]
]  # the slice of that number; None: it cannot be had in this version


class SliceReader:
    """The source of the bytes `span`, whose first slice is `first`; and the sink of one slice after another."""

    def __init__(self, span: Span, size: int, first: FoundSlice, fetch: Fetch, most_ahead: int = MOST_AHEAD) -> None:
        self.body = Body(self)
        self._span = span
        self._size = size
        self._first: FoundSlice | None = first
        self._fetch = fetch
        self._most_ahead = max(1, min(most_ahead, MOST_AHEAD))
        self._wanted_ahead = 1  # slices
        self._note_result(first)
        self._paused = False
        self._left = 0  # bytes of this slice that are wanted
        self._next_ones = range(0)  # the numbers of those that are wanted after it
        self._copied: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ahead: dict[int, asyncio.Task[FoundSlice | None]] = {}
        self._reading: tuple[Body, Cursor] | None = None
        self._slow_readers = SlowReaders()

    def start(self) -> None:
        """Begin reading."""
        if not self.body.ended:
            self._task = spawn(self._run(), "slices")

    async def _run(self) -> None:
        try:
            complete = await self._read_all()
        except BaseException:
            self._end(complete=False)
            raise
        self._end(complete=complete)

    def _end(self, *, complete: bool) -> None:
        self._slow_readers.unwatch()
        for ahead in self._ahead.values():
            if not ahead.cancel() and (unread := ahead.result()) is not None:
                unread.body.discard()
        if self._first is not None:
            self._first.body.discard()
        if complete:
            self.body.finish()
        else:
            self.body.fail()

    async def _read_all(self) -> bool:
        """Read every slice; whether that has come to its end."""
        wanted = numbers(self._span, self._size)
        for number in wanted:
            found = await self._next(number)
            self._next_ones = range(number + 1, wanted.stop)
            if found is None or not await self._read(number, found.body):
                return False
            self._note_result(found)
        return True

    def _note_result(self, found: FoundSlice) -> None:
        """Ask for more ahead where slices have to be fetched."""
        fetched = found.result in (Result.MISS, Result.COLLAPSED)
        self._wanted_ahead = self._most_ahead if fetched else 1

    async def _next(self, number: int) -> FoundSlice | None:
        first, self._first = self._first, None
        if first is not None:
            return first
        ahead = self._ahead.pop(number, None)
        return await (self._fetch(number) if ahead is None else ahead)

    def _look_ahead(self) -> None:
        for number in self._next_ones[: self._wanted_ahead]:
            if number not in self._ahead:
                self._ahead[number] = spawn(self._fetch(number), "slice ahead")

    async def _read(self, number: int, first: Body) -> bool:
        """Pass on what is wanted of one slice, of which `first` is the first try; whether that has worked."""
        begin = number * self._size
        skip = max(0, self._span.first - begin)
        end = min(self._size, self._span.end - begin)
        self._left = end - skip
        await self._copy(first, skip)
        for _ in range(TRIES - 1):
            if not self._left or (again := await self._fetch(number)) is None:
                break
            await self._copy(again.body, end - self._left)
        return not self._left

    async def _copy(self, source: Body, skip: int) -> None:
        """Pass on what `source` has after `skip` bytes, until all that is wanted has come, or no more comes."""
        if not source.joinable:
            return
        copied = self._copied = asyncio.get_running_loop().create_future()
        cursor = source.read_into(self, skip=skip)
        self._reading = (source, cursor)
        try:
            await copied
        finally:
            self._reading = self._copied = None
            source.leave(cursor)

    def _over(self) -> None:
        if self._copied is not None and not self._copied.done():
            self._copied.set_result(None)

    # --- a Sink, of the slice that is read

    @property
    def writable(self) -> bool:
        """Whether our own readers keep up."""
        return not self._paused

    def write(self, piece: Piece) -> None:
        """The next piece of the slice."""
        if self._left and not self.body.ended:
            wanted = piece if len(piece) <= self._left else memoryview(piece)[: self._left]
            self._left -= len(wanted)
            self.body.write(wanted)
            if self._left <= self._size // 2:
                self._look_ahead()
        if not self._left:
            self._over()

    def finish(self) -> None:
        """The slice is complete."""
        self._over()

    def abort(self) -> None:
        """The slice will not be complete by this way."""
        self._over()

    def goes_alone(self, at: int) -> bool:
        """There is no other way."""
        return False

    # --- the body's Source

    def pause_reading(self) -> None:
        """Read no further for now."""
        self._paused = True
        self._slow_readers.watch(self.body)

    def resume_reading(self) -> None:
        """Go on."""
        self._paused = False
        self._slow_readers.unwatch()
        if self._reading is not None:
            source, cursor = self._reading
            source.taken(cursor)

    def abandoned(self) -> None:
        """Stop: no reader is left. A slice that is to be stored arrives all the same."""
        self._slow_readers.unwatch()
        if self._task is not None:
            self._task.cancel()
        else:
            self._end(complete=False)
