"""Back-pressure on the source of a body: when it is paused, and when it is told that the body has no readers left."""

from __future__ import annotations

from typing import Final

from edgecache.wire.body_buffer import Buffer
from edgecache.wire.body_charge import Charge
from edgecache.wire.body_readers import WINDOW, Readers
from edgecache.wire.streams import Source

UNDECIDED: Final = 64 * 1024  # bytes held before the first reader: at least what a server holds of a request's body


class BackPressure:
    """The source of a body, and whether it is paused."""

    __slots__ = ("paused", "source")

    def __init__(self, source: Source | None) -> None:
        self.source = source  # None once the body has ended
        self.paused = False

    def apply(self, *, behind: bool) -> None:
        """Pause the source if readers are `behind`; resume it if they no longer are."""
        if self.source is None or behind is self.paused:
            return
        self.paused = behind
        if behind:
            self.source.pause_reading()
        else:
            self.source.resume_reading()

    def abandon(self) -> None:
        """Tell the source that no reader is left, nor will come."""
        if self.source is not None:
            self.source.abandoned()

    def end(self) -> None:
        """Let go of the source: the body has ended. A paused one is resumed, since it will bring other bodies."""
        source, self.source = self.source, None
        if self.paused and source is not None:
            source.resume_reading()


def is_behind(buffer: Buffer, readers: Readers, charge: Charge | None, *, kept: bool, read: bool) -> bool:
    """Whether the readers are so far behind that the source has to wait.

    A body that is `kept` whole waits for none of them, unless memory is short. A client that reads alone holds up no
    other, so that nothing is buffered for it. Before a client has `read`, little is held.
    """
    if kept:
        return buffer.held > WINDOW and _runs_ahead(buffer, readers, charge)
    alone = readers.only_one_that_waits
    if alone is not None:
        return buffer.held > 0 or not alone.sink.writable
    if charge is not None:
        return buffer.held > charge.room.window
    return buffer.held > (WINDOW if read else UNDECIDED)


def _runs_ahead(buffer: Buffer, readers: Readers, charge: Charge | None) -> bool:
    """Whether memory is short, and the body far ahead even of its fastest reader: the rest can come later."""
    if charge is None or charge.reserved or not readers or not charge.room.crowded:
        return False
    return buffer.bytes_from(readers.furthest) > WINDOW
