"""The content of a message in memory: bytes, or, if it is large, the pieces in which it arrived.

Joining 50 MiB takes twice the memory, and blocks the event loop for a tenth of a second. So contents larger than
`WHOLE` stay in pieces, few of which are small: `Body` joins small ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

WHOLE: Final = 256 * 1024  # bytes of the largest content that is put together
GATHERED: Final = 128 * 1024  # bytes: neighbours that are smaller together become one piece, a mapping of its own
MOST_COPIED: Final = 64 * 1024  # bytes of a part that are copied out of one piece


Piece = bytes | memoryview  # a part of one that is large is a view of it


class Rope:
    """A large content, or a part of one, as pieces of bytes. Never changed."""

    __slots__ = ("_ends", "_whole", "pieces")

    def __init__(self, pieces: Iterable[Piece], whole: Content | None = None) -> None:
        self.pieces = tuple(pieces)
        self._ends = tuple(accumulate(map(len, self.pieces)))
        self._whole = whole

    @property
    def whole(self) -> Content:
        """The content that this is a slice of, and keeps in memory; itself if it is none."""
        return self if self._whole is None else self._whole

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)

    def between(self, first: int, end: int) -> Iterator[Piece]:
        """The pieces that hold the bytes [first, end), without a copy of large ones."""
        number = bisect_right(self._ends, first)
        begin = self._ends[number - 1] if number else 0
        while begin < end and number < len(self.pieces):
            piece = self.pieces[number]
            yield _part(piece, max(0, first - begin), min(len(piece), end - begin))
            begin += len(piece)
            number += 1

    def __repr__(self) -> str:
        return f"<Rope {len(self)} bytes in {len(self.pieces)}>"


Content = Piece | Rope


def content_of(pieces: Sequence[Piece]) -> Content:
    """`pieces` as one content."""
    return b"".join(pieces) if sum(map(len, pieces)) <= WHOLE else Rope(pieces)


def pieces_of(content: Content) -> Iterable[Piece]:
    """`content`, piece by piece."""
    return content.pieces if isinstance(content, Rope) else (content,)


def whole_of(content: Content) -> Content:
    """The content that `content` is a slice of, and keeps in memory; itself if it is none."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Rope):
        return content.whole
    return content.obj if isinstance(content.obj, bytes) else content


def cut(content: Content, first: int, end: int) -> Content:
    """The bytes [first, end) of `content`; where that is much, without a copy of them."""
    if isinstance(content, Rope):
        part = content.between(first, end)
        return b"".join(part) if end - first <= WHOLE else Rope(part, content.whole)
    return _part(content, first, end)


def joined(*contents: Content) -> Content:
    """`contents` one after the other, however many small ones there are, in few pieces."""
    pieces: list[bytes] = []
    for content in contents:
        for piece in pieces_of(content):
            if pieces and len(pieces[-1]) + len(piece) <= GATHERED:
                pieces[-1] = b"".join((pieces[-1], piece))
            elif piece:
                pieces.append(bytes(piece))  # a view would keep what it is a part of
    return content_of(pieces)


def _part(piece: Piece, first: int, end: int) -> Piece:
    if first == 0 and end >= len(piece):
        return piece
    return piece[first:end] if end - first <= MOST_COPIED else memoryview(piece)[first:end]
