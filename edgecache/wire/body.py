"""A body on its way: one writer, many readers, each at its own pace, within a bound.

Up to `keep` bytes are kept from the first one on, so that a reader may join at any time and the whole be stored.
A body that grows past `keep`, or for which there is no room, only flows: nobody joins any more, what every reader took
is let go, and the source is paused while the slowest reader is `WINDOW` bytes behind, or less where memory is short, or
the only one takes no more. Until its first reader comes, nothing is let go; when the last one leaves, the source of a
body that only flows is told to stop. A body that is not finished by its writer is not a body: readers are aborted, and
nothing is stored.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from edgecache.semantics.outcomes import Refused
from edgecache.semantics.rope import GATHERED, Content, Piece, content_of, joined, pieces_of
from edgecache.wire.body_charge import Holding, Room
from edgecache.wire.streams import BodyEnd, Sink, Source

WINDOW: Final = 256 * 1024  # bytes held for the slowest reader of a body that only flows
UNDECIDED: Final = 64 * 1024  # bytes held while nobody has said what becomes of them: what h1_server holds, at least
SLICE: Final = 256 * 1024  # bytes of a complete content that are handed to a reader at once
MOST_SMALL: Final = 256  # small pieces that are kept as they came


class Cursor:
    """One reader's place in a body."""

    __slots__ = ("_body", "_next", "_sink", "_skip", "waits")

    def __init__(self, body: Body, sink: Sink, skip: int, waits: bool) -> None:
        self.waits = waits  # somebody does for what it reads
        self._body = body
        self._sink = sink
        self._skip = skip  # bytes that the sink has already
        self._next = 0  # number of the next piece, counted from the body's first

    def pump(self) -> None:
        """Move what has arrived to the sink, as far as it takes it."""
        body, sink = self._body, self._sink
        pieces = body.pieces
        while (at := self._next - body.let_go) < len(pieces):
            piece = pieces[at]
            if not sink.writable and len(piece) > self._skip:
                return
            self._next += 1
            if self._skip:
                piece, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
            if piece:
                sink.write(piece)
        if body.finished:
            body.leave(self)
            sink.finish()
        elif body.failed:
            body.leave(self)
            sink.abort()

    @property
    def keeps_up(self) -> bool:
        """Whether the sink would take more."""
        return self._sink.writable

    @property
    def next_piece(self) -> int:
        """The number of the piece that this reader takes next."""
        return self._next

    def goes_alone(self, at: int) -> bool:
        """Whether the sink goes its own way from byte `at` on."""
        return self._sink.goes_alone(at)

    def cut_off(self) -> None:
        """The sink gets no more, and sees it."""
        self._body.leave(self)
        self._sink.abort()

    def go_on_at(self, number: int) -> None:
        """The body was cut anew: the next piece is `number` now."""
        self._next = number


class Body:
    """The content of one message. All mutable state: the pieces held, their readers, and whether the source waits."""

    __slots__ = (
        "_cursors",
        "_ends",
        "_held",
        "_holding",
        "_keep",
        "_paused",
        "_read",
        "_source",
        "_tail",
        "_tail_size",
        "content",
        "discarded",
        "failed",
        "finished",
        "let_go",
        "pieces",
        "refused",
        "size",
    )

    def __init__(self, source: Source | None = None, keep: int = 0) -> None:
        self.pieces: list[Piece] = []
        self.size = 0  # bytes written so far
        self._held = 0  # bytes of those that are still held
        self.let_go = 0  # pieces that every reader has taken and that are no longer held
        self.finished = False
        self.failed = False
        self.discarded = False  # it was let go before anybody came to read it
        self._ends: list[BodyEnd] = []  # told once that it has ended
        self._keep = keep
        self._source = source
        self._paused = False
        self._read = False  # a reader has come
        self._holding: Holding | None = None  # what counts of it, if that counts anywhere
        self.content: Content | None = None  # the whole, once it is complete
        self.refused: Refused | None = None  # why the response that it belongs to is not stored, as far as is known
        self._cursors: list[Cursor] = []
        self._tail = 0  # small pieces at the end, to be gathered
        self._tail_size = 0  # bytes of them

    @classmethod
    def of(cls, content: Content) -> Body:
        """A body that is complete."""
        body = cls()
        body.finished = True
        body._consist_of(content)
        return body

    def _consist_of(self, content: Content) -> None:
        self.content = content
        self.size = self._held = self._keep = len(content)
        self.pieces = [part for piece in pieces_of(content) for part in _slices(piece, range(0, len(piece), SLICE))]

    @property
    def whole(self) -> bool:
        """Whether every byte written so far is still held."""
        return self.size <= self._keep and self.let_go == 0

    @property
    def kept(self) -> bool:
        """Whether it is held from the first byte on, as far as may be: for the cache."""
        return self._keep > 0

    @property
    def joinable(self) -> bool:
        """Whether a reader may still begin at the first byte."""
        return not self.discarded and self.let_go == 0 and (self.whole or not self._read)

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self.finished or self.failed

    def when_ended(self, told: BodyEnd) -> None:
        """Call `told` once the body has ended, complete or not; at once if it has."""
        if self.ended:
            told(self)
        else:
            self._ends.append(told)

    def keep_up_to(self, size: int, room: Room | None = None, length: int | None = None) -> None:
        """Hold up to `size` bytes from the first on, as far as there is `room`; before it is read.

        For a body of known `length` the room is taken at once, or never.
        """
        self._keep = size
        if room is not None and not self.ended:
            holding = self._holding = Holding(room)
            if length is None:
                self._count(holding, self._held)
            elif length > size or not holding.reserve(length):
                self._only_flow(holding)
        self._let_go()  # what was held back may come now

    def count_in(self, room: Room) -> None:
        """Let what is held count in `room`, though it is not to be kept."""
        if not self.ended:
            self._holding = Holding(room)
            self._holding.only_flow(self._held)

    def settled(self) -> Content:
        """The content of this body, which is complete, to be stored: nothing of it is kept twice."""
        content = self.content
        if self._holding is not None:
            self._holding.stored()
        if content is None:
            content = self.content = content_of(self.pieces)
            if isinstance(content, bytes):
                self._go_on_in(content)
        return content

    def _go_on_in(self, content: Piece) -> None:
        """Let readers that are behind go on in `content`, which is all that was here in pieces."""
        starts = [0, *accumulate(map(len, self.pieces))]
        places = [starts[cursor.next_piece] for cursor in self._cursors]
        cuts = sorted({0, *places} - {len(content)})
        self.pieces = _slices(content, cuts)
        for cursor, place in zip(self._cursors, places, strict=True):
            cursor.go_on_at(bisect_left(cuts, place))

    def begin_with(self, content: Content) -> None:
        """Put `content` before what has arrived; only before the first reader."""
        if self.content is not None:
            self._consist_of(joined(content, self.content))
            return
        self.pieces[:0] = pieces_of(content)
        self.size += len(content)
        self._held += len(content)

    def read_into(self, sink: Sink, *, skip: int = 0, behind: bool = False) -> Cursor:
        """Let `sink` read all but the first `skip` bytes; only while `joinable`.

        `behind` the back of whoever asked for it, if nobody waits for what is read here.
        """
        assert self.let_go == 0, "what comes first is gone"
        if not behind:
            self._read = True
        cursor = Cursor(self, sink, skip, waits=not behind)
        self._cursors.append(cursor)
        cursor.pump()
        if self._paused and self._source is not None:  # for readers before this one: look again who waits for whom
            self._paused = False
            self._source.resume_reading()
        self._let_go()
        if self.ended:
            self._read_on()
        return cursor

    def leave(self, cursor: Cursor) -> None:
        """`cursor` reads no further."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        if self.ended:
            self._read_on()
        unread = self._read and not self._cursors  # before its first reader has come, one who reads behind may leave
        if unread and not self.ended and self.size > self._keep and self._source is not None:
            self._source.abandoned()

    def discard(self) -> None:
        """Nobody will come to read this: it is let go unless it is kept."""
        self._read = True
        if not self._cursors and not self.ended and self._keep == 0 and self._source is not None:
            self.discarded = True
            self._source.abandoned()
        elif self._cursors:
            self._let_go()  # no client will read it: what was held back goes on to the others

    def taken(self, cursor: Cursor) -> None:
        """The sink of `cursor` can take more."""
        cursor.pump()
        self._let_go()

    def write(self, piece: Piece) -> None:
        """The next piece of content."""
        size = len(piece)
        self.pieces.append(piece)
        self.size += size
        self._held += size
        if self._holding is not None:
            self._count(self._holding, size)
        for cursor in tuple(self._cursors):
            cursor.pump()
        if size < GATHERED and (self.kept or size < GATHERED // 2):  # what only flows stays in small ones
            self._gather(size)
        else:
            self._tail = self._tail_size = 0
        if self._holding is not None or self.size > self._keep:
            self._let_go()

    def _gather(self, size: int) -> None:
        """One more small piece of `size` bytes came: many are made one, or what they are kept in costs more."""
        self._tail += 1
        self._tail_size += size
        if self._tail < MOST_SMALL and self._tail_size < GATHERED:
            return
        start = max(0, len(self.pieces) - self._tail)
        places = [cursor.next_piece - self.let_go for cursor in self._cursors]
        cuts = sorted({start, *(place for place in places if start < place < len(self.pieces))})
        ends = [*cuts[1:], len(self.pieces)]
        self.pieces[start:] = [b"".join(self.pieces[first:end]) for first, end in zip(cuts, ends, strict=True)]
        for cursor, place in zip(self._cursors, places, strict=True):
            if place > start:
                cursor.go_on_at(self.let_go + start + bisect_left(cuts, place))
        self._tail = 1
        if self._tail_size >= GATHERED or len(cuts) > 1:  # who lags behind must not have the rest gathered each time
            self._tail = self._tail_size = 0

    @property
    def shared(self) -> bool:
        """Whether several read it."""
        return len(self._cursors) > 1

    @property
    def slowest(self) -> Cursor | None:
        """The reader that is the furthest behind."""
        return min(self._cursors, key=lambda cursor: cursor.next_piece, default=None)

    def part_with_laggards(self, *, stuck: bool = False, cut: bool = False) -> bool:
        """Somebody has held everybody back for a while: who is far behind goes alone, if others wait, and if it can.

        So does everyone that takes nothing, where all have waited long enough to be sure that it is `stuck`. Who cannot
        is `cut` off, if it is a client that waits, or stays. False if it is to be asked again.
        """
        end = self.let_go + len(self.pieces)
        if self.whole or self.ended:
            return True
        eager = [cursor for cursor in self._cursors if cursor.next_piece == end and cursor.keeps_up]
        if not eager:
            return False
        for cursor in [cursor for cursor in self._cursors if cursor not in eager]:
            behind = sum(map(len, self.pieces[cursor.next_piece - self.let_go :]))
            parted = behind > WINDOW or (stuck and not cursor.keeps_up)
            if parted and cursor.goes_alone(self.size - behind):
                self._cursors.remove(cursor)
            elif behind > WINDOW and cut and any(other.waits for other in eager):
                cursor.cut_off()
        self._let_go()
        return not self._paused

    @property
    def _window(self) -> int:
        """Bytes that a body which only flows may hold for its slowest reader."""
        if self._holding is None:
            return WINDOW if self._read else UNDECIDED
        return self._holding.room.window

    def _is_ahead(self) -> bool:
        """Whether even the fastest reader is far behind, while memory is short: what it needs later can come later."""
        holding = self._holding
        if holding is None or holding.reserved or not holding.room.crowded or not self._cursors:
            return False
        fastest = max(cursor.next_piece for cursor in self._cursors)
        return sum(map(len, self.pieces[fastest - self.let_go :])) > WINDOW

    def _count(self, holding: Holding, size: int) -> None:
        """What is held counts; where there is no room to keep more, the body only flows from now on."""
        if (self._keep and self.size > self._keep) or not holding.add(size):
            self._only_flow(holding)

    def _only_flow(self, holding: Holding) -> None:
        self._keep = 0
        holding.only_flow(self._held)

    def finish(self) -> None:
        """The content is complete."""
        if not self.ended:
            self.finished = True
            self._end()

    def fail(self) -> None:
        """The content will never be complete."""
        if not self.ended:
            self.failed = True
            self._end()

    def _end(self) -> None:
        source, self._source = self._source, None
        if self._paused and source is not None:  # it will bring other bodies
            source.resume_reading()
        told, self._ends = self._ends, []
        for end in told:
            end(self)
        holding = self._holding
        if holding is not None and self._cursors and self.content is None:  # it was not stored, but is still read
            self._only_flow(holding)
        for cursor in tuple(self._cursors):
            cursor.pump()
        self._let_go()
        self._read_on()

    def _read_on(self) -> None:
        """It has ended: it counts as long as it is read."""
        if self._holding is None:
            return
        if not self._cursors:
            self._holding.leave()
        elif self.content is not None:
            self._holding.read_on(self.size)

    def _let_go(self) -> None:
        """Of a body that only flows, drop what all have taken, and hold the source back while much is left."""
        if self._read and not self.whole:
            none = self.let_go + len(self.pieces)
            slowest = min((cursor.next_piece for cursor in self._cursors), default=none)
            if slowest > self.let_go:
                taken = sum(map(len, self.pieces[: slowest - self.let_go]))
                self._held -= taken
                if self._holding is not None:
                    self._holding.let_go(taken)
                del self.pieces[: slowest - self.let_go]
                self.let_go = slowest
        if self._source is None:
            return
        if self._read and not self._cursors and not self.whole and not self.ended:
            self._source.abandoned()  # nobody reads it, and nobody will keep it
            return
        behind = self._is_behind()
        if behind and not self._paused:
            self._paused = True
            self._source.pause_reading()
        elif self._paused and not behind:
            self._paused = False
            self._source.resume_reading()

    def _is_behind(self) -> bool:
        """Whether readers are so far behind that no more should come: one that reads alone holds up nobody else."""
        if self.kept and self.whole:
            return self._held > WINDOW and self._is_ahead()
        waiting = [cursor for cursor in self._cursors if cursor.waits] if len(self._cursors) <= 2 else ()
        if len(waiting) == 1:
            return self._held > 0 or not waiting[0].keeps_up
        return self._held > self._window

    def __repr__(self) -> str:
        state = "finished" if self.finished else "failed" if self.failed else "open"
        return f"<Body {state}, {self.size} bytes, {len(self._cursors)} readers>"


def _slices(content: Piece, cuts: Sequence[int]) -> list[Piece]:
    """`content` cut at `cuts`, without a copy."""
    if len(cuts) <= 1:
        return [content]
    view = memoryview(content)
    return [view[start:end] for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]
