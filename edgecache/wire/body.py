"""The content of one message on its way: one writer, many readers, each at its own pace, within a bound.

A body is *kept* up to a bound: held from its first byte on, so that readers may join at any time and the whole be
stored. A body that outgrows the bound, or for which the budget has no room, is *transient*: no reader may join, what
all of them have taken is dropped, and the source is paused while they are behind. Nothing is dropped before the first
reader; when the last one leaves, the source of a transient body is told to stop. If its writer fails, the readers are
aborted, and nothing is stored. A `WholeBody` is complete from the beginning, and needs nothing of this.

    wire/body_buffer.py     the pieces that are held
    wire/body_readers.py    a cursor for each reader
    wire/backpressure.py    when the source has to wait
    wire/body_charge.py     what all this costs the memory budget
"""

from __future__ import annotations

import asyncio

from edgecache.semantics.outcomes import Refused
from edgecache.semantics.rope import GATHERED, Content, Piece
from edgecache.wire.backpressure import BackPressure, is_behind
from edgecache.wire.body_buffer import CUT, Buffer
from edgecache.wire.body_charge import Charge, Room
from edgecache.wire.body_readers import MOST_AT_ONCE, Cursor, Readers
from edgecache.wire.streams import BodyEnd, Sink, Source


class Body:
    """The content of one message. Mutable state: its buffer, its readers, its source, and how it ended."""

    __slots__ = (
        "_buffer",
        "_charge",
        "_ends",
        "_keep",
        "_pressure",
        "_read",
        "_round",
        "discarded",
        "failed",
        "finished",
        "readers",
        "refused",
    )

    def __init__(self, source: Source | None = None, keep: int = 0) -> None:
        self._buffer = Buffer()
        self.readers = Readers()
        self._pressure = BackPressure(source)
        self._charge: Charge | None = None  # none for bodies that the budget does not count
        self._keep = keep  # bytes; 0 = the body is transient
        self._read = False  # a client has come to read it, or will not
        self._round = 0  # readers that have their turn next, before all others
        self._ends: list[BodyEnd] = []  # called once, when it has ended
        self.finished = False
        self.failed = False
        self.discarded = False  # before its first reader came
        self.refused: Refused | None = None  # why the response that it belongs to is not stored, if that is known

    @staticmethod
    def of(content: Content) -> WholeBody:
        """A body that is complete from the beginning."""
        return WholeBody(content)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._buffer.size

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return self._buffer.held

    @property
    def pieces(self) -> list[Piece]:
        """The pieces that are held."""
        return self._buffer.pieces

    @property
    def content(self) -> Content | None:
        """The whole, once it is complete and to be stored."""
        return self._buffer.content

    @property
    def whole(self) -> bool:
        """Whether every byte written so far is still held."""
        return self._buffer.size <= self._keep and self._buffer.dropped == 0

    @property
    def kept(self) -> bool:
        """Whether it is held from the first byte on, as far as the bound allows: for the cache."""
        return self._keep > 0

    @property
    def joinable(self) -> bool:
        """Whether a reader may still begin at the first byte."""
        return not self.discarded and self._buffer.dropped == 0 and (self.whole or not self._read)

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self.finished or self.failed

    @property
    def awaited(self) -> bool:
        """Whether a client reads it, or may still come."""
        return not self._read or any(cursor.waits for cursor in self.readers.cursors)

    # --- what becomes of it

    def when_ended(self, on_end: BodyEnd) -> None:
        """Call `on_end` once the body has ended, complete or not; at once if it has."""
        if self.ended:
            on_end(self)
        else:
            self._ends.append(on_end)

    def keep_up_to(self, size: int, room: Room | None = None, length: int | None = None) -> None:
        """Keep up to `size` bytes, charged to `room`: at once if the `length` is known. Only before it is read."""
        self._keep = size
        if not self.ended:
            self._charge_to(room, length)

    def _charge_to(self, room: Room | None, length: int | None) -> None:
        """Charge what is kept to `room`; if there is not enough, the body is transient."""
        if room is not None:
            charge = self._charge = Charge(room)
            if length is None:
                self._add_charge(charge, self._buffer.held)
            elif length > self._keep or not charge.reserve(length):
                self._make_transient(charge)
        self._drop_and_throttle()  # what was held back may come now

    def count_in(self, room: Room) -> None:
        """Charge what is held to `room`, though it is not to be kept."""
        if not self.ended:
            self._charge = Charge(room)
            self._charge.make_transient(self._buffer.held)

    def move_to_store(self) -> Content:
        """The complete content, which the store is charged for from now on; readers go on in it, without a copy."""
        if self._charge is not None:
            self._charge.move_to_store()
        content = self._buffer.content
        return self._completed() if content is None else content

    def _completed(self) -> Content:
        """The pieces as one content."""
        places = self._buffer.complete(self.readers.places)
        if places is not None:
            self.readers.move_to(places)
        content = self._buffer.content
        assert content is not None, "it is complete"
        return content

    def begin_with(self, content: Content) -> None:
        """Put `content` before what has arrived; only before the first reader."""
        self._buffer.prepend(content)
        if self._buffer.content is not None:
            self._keep = self._buffer.size

    # --- readers

    def read_into(self, sink: Sink, *, skip: int = 0, behind: bool = False, follows: bool = False) -> Cursor:
        """Let `sink` read all but the first `skip` bytes; only while `joinable`.

        `behind` for a reader in the background, which no client waits for; `follows` if clients set its pace.
        """
        assert self._buffer.dropped == 0, "the first pieces are dropped"
        if not behind:
            self._read = True
        cursor = Cursor(sink, skip, waits=not behind, follows=follows)
        self.readers.add(cursor)
        self._pump(cursor)
        if self._pressure.paused:
            self._pressure.apply(behind=False)  # it was for the readers before this one
        self._drop_and_throttle()
        if self.ended:
            self._count_readers()
        return cursor

    def taken(self, cursor: Cursor) -> None:
        """The sink of `cursor` can take more."""
        self._pump(cursor)
        self._drop_and_throttle()

    def leave(self, cursor: Cursor) -> None:
        """`cursor` reads no further."""
        self.readers.remove(cursor)
        if self.ended:
            self._count_readers()
        elif self._read and not self.readers and self._buffer.size > self._keep:
            self._pressure.abandon()

    def discard(self) -> None:
        """Drop it, unless it is kept or read in the background: no client will read it."""
        self._read = True
        if self.readers:
            self._drop_and_throttle()  # the readers in the background wait for no client any more
        elif not self.ended and self._keep == 0:
            self.discarded = self._pressure.source is not None
            self._pressure.abandon()

    def detach_slow_readers(self, *, stuck: bool = False, cut: bool = False) -> bool:
        """Detach readers more than WINDOW behind while others wait, if they can fetch the rest themselves.

        With `stuck`, also those that take nothing. With `cut`, those that cannot are cut off where a client waits.
        Returns False if readers may have to be detached later.
        """
        if self.whole or self.ended:
            return True
        if self._round:
            return False  # those whose turn comes only look slow
        remaining = self.readers.detach(self._buffer, stuck=stuck)
        if remaining is None:
            return False
        for cursor in remaining if cut else ():
            self.leave(cursor)
            cursor.sink.abort()
        self._drop_and_throttle()
        return not self._pressure.paused

    # --- its writer

    def write(self, piece: Piece) -> None:
        """Add the next piece, and move it on to the readers."""
        size, buffer = len(piece), self._buffer
        if size > CUT and buffer.size + size > self._keep:
            buffer.append_cut(piece)
        else:
            buffer.append(piece)
        if self._charge is not None:
            self._add_charge(self._charge, size)
        if len(self.readers.cursors) > MOST_AT_ONCE:
            self._pump_in_turns()
        else:
            for cursor in tuple(self.readers.cursors):  # one may leave at each piece
                self._pump(cursor)
        small = size < GATHERED and (self._keep > 0 or size < GATHERED // 2)  # transient pieces stay small
        if buffer.note_size(size, join=small):
            self.readers.move_to(buffer.join_tail(self.readers.places))
        if self._charge is not None or buffer.size > self._keep:
            self._drop_and_throttle()

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
        self._pressure.end()
        ends, self._ends = self._ends, []
        for on_end in ends:
            on_end(self)
        if self._charge is not None and self.readers and self.content is None:  # not stored, but still read
            self._make_transient(self._charge)
        self._pump_in_turns()
        self._drop_and_throttle()
        self._count_readers()

    # --- keeping buffer, readers, source and charge in step

    def _pump(self, cursor: Cursor) -> None:
        """Move what has arrived to the sink of `cursor`, and the end if it has taken everything."""
        if cursor.pump(self._buffer) and self.ended:
            self.leave(cursor)
            if self.finished:
                cursor.sink.finish()
            else:
                cursor.sink.abort()

    def _pump_in_turns(self) -> None:
        """Move what has arrived to all readers: of many clients, to some in each turn of the event loop.

        Readers in the background are stores: what they have when the body has ended is announced to others.
        """
        for cursor in self.readers.in_background:
            self._pump(cursor)
        waiting, self._round = self._round, len(self.readers.cursors)
        if not waiting:
            self._pump_some()

    def _pump_some(self) -> None:
        some = self.readers.next_ones()
        self._round = max(0, self._round - len(some)) if some else 0
        for cursor in some:
            self._pump(cursor)
        if self._round:
            asyncio.get_running_loop().call_soon(self._go_round)

    def _go_round(self) -> None:
        self._pump_some()
        self._drop_and_throttle()
        if self.ended:
            self._count_readers()

    def _drop_and_throttle(self) -> None:
        """Drop what all readers have taken of a transient body, then pause or resume the source."""
        buffer, readers, pressure = self._buffer, self.readers, self._pressure
        kept = buffer.size <= self._keep and buffer.dropped == 0
        if self._read and not kept:
            needed = readers.first_needed(buffer.dropped + len(buffer.pieces))
            if needed > buffer.dropped:
                size = buffer.drop_before(needed)
                if self._charge is not None:
                    self._charge.drop(size)
            if not readers.cursors and not self.ended:
                pressure.abandon()
                return
        if pressure.source is not None:
            kept = kept and self._keep > 0
            behind = is_behind(buffer, readers, self._charge, kept=kept, read=self._read)
            if behind is not pressure.paused:
                pressure.apply(behind=behind)

    def _add_charge(self, charge: Charge, size: int) -> None:
        """Charge `size` more bytes; where there is no room for them, the body is transient from now on."""
        if (self._keep and self._buffer.size > self._keep) or not charge.add(size):
            self._make_transient(charge)

    def _make_transient(self, charge: Charge) -> None:
        self._keep = 0
        charge.make_transient(self._buffer.held)

    def _count_readers(self) -> None:
        """It has ended: its content counts as read as long as it has readers."""
        if self._charge is None:
            return
        content = self._buffer.content
        if not self.readers:
            self._charge.release()
        elif content is not None:
            self._charge.acquire(content)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "failed" if self.failed else "open"
        return f"<Body {state}, {self.size} bytes, {len(self.readers)} readers>"


class WholeBody(Body):
    """A body that is complete from the beginning, as when a message was read at once.

    It has no source to pause and no end to wait for. Nothing of it is dropped, so that readers can always join.
    """

    __slots__ = ()
    finished, failed, discarded, joinable = True, False, False, True

    def __init__(self, content: Content) -> None:
        self._buffer = Buffer()
        self._buffer.fill(content)
        self.readers = Readers()
        self._charge = None
        self._keep = len(content)
        self.refused = None

    def when_ended(self, on_end: BodyEnd) -> None:
        """Call `on_end` at once."""
        on_end(self)

    def keep_up_to(self, size: int, room: Room | None = None, length: int | None = None) -> None:
        """Keep it if it has no more than `size` bytes."""
        self._keep = size

    def read_into(self, sink: Sink, *, skip: int = 0, behind: bool = False, follows: bool = False) -> Cursor:
        """Let `sink` read all but the first `skip` bytes."""
        cursor = Cursor(sink, skip, waits=not behind)
        self.readers.add(cursor)
        self._pump(cursor)
        self._count_readers()
        return cursor

    def count_readers_in(self, room: Room) -> None:
        """Count those that read it in `room`."""
        self._charge = Charge(room, complete=True)

    def taken(self, cursor: Cursor) -> None:
        """The sink of `cursor` can take more."""
        self._pump(cursor)

    def discard(self) -> None:
        """Nothing is to be done: no source has to stop."""
