"""The buffer of a body: its pieces from the first one on, or only those that some reader has yet to take.

Pieces are numbered from the body's first. Dropping some does not renumber the others; cutting them anew does, so
the methods that do it take the readers' places, and return the new ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from edgecache.semantics.rope import GATHERED, Content, Piece, content_of, joined, pieces_of

SLICE: Final = 256 * 1024  # bytes of the largest complete content that is handed to a reader at once
STEP: Final = 128 * 1024  # bytes of a larger one: TLS makes a copy of what it is handed, and takes one more meanwhile
CUT: Final = 64 * 1024  # bytes of the pieces of a body that is dropped as it is read
MOST_SMALL: Final = 256  # small pieces that are kept as they came


class Buffer:
    """Pieces in order. Mutable state: the pieces, how many were dropped, and the run of small ones at the end."""

    __slots__ = ("_tail", "_tail_size", "content", "dropped", "held", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.content: Content | None = None  # the whole, once it is complete
        self.dropped = 0  # pieces
        self.size = 0  # bytes appended so far
        self.held = 0  # bytes of `pieces`
        self._tail = self._tail_size = 0  # small pieces at the end, to be joined: their number, and their bytes

    @property
    def end(self) -> int:
        """The number of the next piece to come."""
        return self.dropped + len(self.pieces)

    def append(self, piece: Piece) -> None:
        """Add the next piece."""
        size = len(piece)
        self.pieces.append(piece)
        self.size += size
        self.held += size

    def append_cut(self, piece: Piece) -> None:
        """Add a large piece in copies of `CUT` bytes: a transport holds what it has begun to send to its end."""
        for start in range(0, len(piece), CUT):
            self.append(bytes(piece[start : start + CUT]))  # of a view too: it may be of a buffer that is used again

    def fill(self, content: Content) -> None:
        """Hold `content` and nothing else; it is complete."""
        self.content = content
        self.size = self.held = len(content)
        self.pieces = [content] if isinstance(content, bytes) and self.size <= SLICE else _sliced(content)

    def prepend(self, content: Content) -> None:
        """Put `content` before everything."""
        if self.content is not None:
            self.fill(joined(content, self.content))
            return
        self.pieces[:0] = pieces_of(content)
        self.size += len(content)
        self.held += len(content)

    def bytes_from(self, number: int) -> int:
        """The bytes from piece `number` on."""
        return sum(map(len, self.pieces[number - self.dropped :]))

    def drop_before(self, number: int) -> int:
        """Drop the pieces before `number`; how many bytes that were."""
        gone = number - self.dropped
        size = sum(map(len, self.pieces[:gone]))
        del self.pieces[:gone]
        self.dropped = number
        self.held -= size
        return size

    def complete(self, places: Sequence[int]) -> list[int] | None:
        """Make `content` of the pieces, all of which are here; new `places` if readers go on in a joined copy."""
        content = self.content = content_of(self.pieces)
        if not isinstance(content, bytes):
            return None
        starts = [0, *accumulate(map(len, self.pieces))]
        bytes_at = [starts[place] for place in places]
        cuts = sorted({0, *bytes_at} - {len(content)})
        self.pieces = _slices(content, cuts)
        return [bisect_left(cuts, place) for place in bytes_at]

    def note_size(self, size: int, *, join: bool) -> bool:
        """Note the last piece's `size`; whether the small ones at the end are to be joined now, if they ever are."""
        if not join:
            self._tail = self._tail_size = 0
            return False
        self._tail += 1
        self._tail_size += size
        return self._tail >= MOST_SMALL or self._tail_size >= GATHERED

    def join_tail(self, places: Sequence[int]) -> list[int]:
        """Join the small pieces at the end, which cost more than their bytes, except where readers stand."""
        start = max(0, len(self.pieces) - self._tail)
        inner = [place - self.dropped for place in places]
        cuts = sorted({start, *(place for place in inner if start < place < len(self.pieces))})
        ends = [*cuts[1:], len(self.pieces)]
        self.pieces[start:] = [b"".join(self.pieces[first:end]) for first, end in zip(cuts, ends, strict=True)]
        self._tail = 1
        if self._tail_size >= GATHERED or len(cuts) > 1:  # a reader that lags must not have the rest joined each time
            self._tail = self._tail_size = 0
        return [
            place if at <= start else self.dropped + start + bisect_left(cuts, at)
            for place, at in zip(places, inner, strict=True)
        ]


def _sliced(content: Content) -> list[Piece]:
    """`content` in pieces of `STEP` bytes at most."""
    return [part for piece in pieces_of(content) for part in _slices(piece, range(0, len(piece), STEP))]


def _slices(content: Piece, cuts: Sequence[int]) -> list[Piece]:
    """`content` cut at `cuts`, without a copy."""
    if len(cuts) <= 1:
        return [content]
    view = memoryview(content)
    return [view[start:end] for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]
