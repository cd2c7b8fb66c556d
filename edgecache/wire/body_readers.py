"""The readers of a body: one cursor each, and which of them are ahead or behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgecache.wire.body_buffer import Buffer
from edgecache.wire.streams import Sink

MOST_AT_ONCE: Final = 16  # readers that get a piece in one turn of the event loop
WINDOW: Final = 256 * 1024  # bytes held for the slowest reader of a transient body


class Cursor:
    """One reader's place in a body."""

    __slots__ = ("__weakref__", "_skip", "follows", "next_piece", "sink", "waits")

    def __init__(self, sink: Sink, skip: int, waits: bool, follows: bool = False) -> None:
        self.sink = sink
        self.waits = waits  # for a client that waits for what it reads
        self.follows = follows  # it is content with the pace of the others
        self.next_piece = 0  # the number of the piece that it takes next
        self._skip = skip  # bytes that the sink has already

    def pump(self, buffer: Buffer) -> bool:
        """Move pieces to the sink as far as it takes them; whether it has taken all that there are."""
        sink, pieces = self.sink, buffer.pieces
        while (at := self.next_piece - buffer.dropped) < len(pieces):
            piece = pieces[at]
            if not sink.writable and len(piece) > self._skip:
                return False
            self.next_piece += 1
            if self._skip:
                piece, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
            if piece:
                sink.write(piece)
        return True


class Readers:
    """The cursors of one body."""

    __slots__ = ("cursors",)

    def __init__(self) -> None:
        self.cursors: list[Cursor] = []

    def __len__(self) -> int:
        return len(self.cursors)

    def __contains__(self, cursor: Cursor) -> bool:
        return cursor in self.cursors

    def add(self, cursor: Cursor) -> None:
        """Count one more reader."""
        self.cursors.append(cursor)

    def remove(self, cursor: Cursor) -> None:
        """Count `cursor` no longer."""
        if cursor in self.cursors:
            self.cursors.remove(cursor)

    def next_ones(self) -> list[Cursor]:
        """Some readers, which have their turn after all others next time."""
        some = self.cursors[:MOST_AT_ONCE]
        self.cursors[:] = self.cursors[MOST_AT_ONCE:] + some
        return some

    @property
    def in_background(self) -> list[Cursor]:
        """Those that no client waits for."""
        return [cursor for cursor in self.cursors if not cursor.waits]

    @property
    def slowest(self) -> Cursor | None:
        """The reader that is the furthest behind."""
        return min(self.cursors, key=lambda cursor: cursor.next_piece, default=None)

    def first_needed(self, end: int) -> int:
        """The number of the first piece that some reader has yet to take; `end` if there is none."""
        if len(self.cursors) == 1:
            return self.cursors[0].next_piece
        return min((cursor.next_piece for cursor in self.cursors), default=end)

    @property
    def furthest(self) -> int:
        """The number of the piece that the fastest reader takes next."""
        return max(cursor.next_piece for cursor in self.cursors)

    @property
    def only_one_that_waits(self) -> Cursor | None:
        """The one reader that a client waits for, if it shares the body with no more than a background reader."""
        cursors = self.cursors
        if len(cursors) == 1:
            return cursors[0] if cursors[0].waits else None
        if len(cursors) > 2:
            return None
        waiting = [cursor for cursor in cursors if cursor.waits]
        return waiting[0] if len(waiting) == 1 else None

    @property
    def places(self) -> list[int]:
        """The numbers of the pieces that the readers take next."""
        return [cursor.next_piece for cursor in self.cursors]

    def move_to(self, places: Sequence[int]) -> None:
        """Set the readers' places: the pieces were cut anew."""
        for cursor, place in zip(self.cursors, places, strict=True):
            cursor.next_piece = place

    def detach(self, buffer: Buffer, *, stuck: bool) -> list[Cursor] | None:
        """Detach readers more than WINDOW behind, if they can fetch the rest themselves; None if no reader waits.

        With `stuck`, also those that take nothing. Returns those that are far behind, cannot, and block a client.
        """
        end, remaining = buffer.end, []
        eager = [
            cursor
            for cursor in self.cursors
            if cursor.next_piece == end and cursor.sink.writable and not cursor.follows
        ]
        if not eager:
            return None
        blocking = any(cursor.waits for cursor in eager)
        for cursor in [cursor for cursor in self.cursors if cursor not in eager and not cursor.follows]:
            behind = buffer.bytes_from(cursor.next_piece)
            slow = behind > WINDOW or (stuck and not cursor.sink.writable)
            if slow and cursor.sink.goes_alone(buffer.size - behind):
                self.remove(cursor)
            elif behind > WINDOW and blocking:
                remaining.append(cursor)
        return remaining
