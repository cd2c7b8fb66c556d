"""Contents in pieces: what is cut and joined is what bytes would be, and no body is kept in more than few pieces."""

from __future__ import annotations

from typing import Final

import pytest
from harness.often import examples
from harness.ranged import numbered
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.ranges import MOST_SEGMENTS, Segments, Span
from edgecache.semantics.rope import GATHERED, WHOLE, Content, Rope, content_of, cut, joined, pieces_of
from edgecache.wire.body import Body
from edgecache.wire.body_buffer import CUT, MOST_SMALL

SIZES = st.lists(st.integers(1, 40) | st.integers(GATHERED - 2, GATHERED + 2) | st.just(WHOLE), min_size=1, max_size=9)
SOME: Final = examples(60)


def in_pieces(sizes: list[int]) -> tuple[bytes, Content]:
    """Bytes, and the same cut into pieces of these sizes."""
    whole, pieces = numbered(sum(sizes)), []
    at = 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    return whole, content_of(pieces)


@SOME
@given(SIZES, st.data())
def test_a_cut_is_a_slice(sizes: list[int], data: st.DataObject) -> None:
    """Whatever is cut out of a content, and out of what was cut, is what a slice of its bytes is."""
    whole, content = in_pieces(sizes)
    for _ in range(2):
        first = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(first, len(whole)))
        whole, content = whole[first:end], cut(content, first, end)

        assert len(content) == len(whole)
        assert b"".join(pieces_of(content)) == bytes(content) == whole


@SOME
@given(st.lists(SIZES, max_size=4))
def test_joined_contents_are_their_bytes(contents: list[list[int]]) -> None:
    """What is joined is all bytes in their order, and small neighbours become one piece."""
    parts = [in_pieces(sizes) for sizes in contents]
    whole = joined(*(content for _, content in parts))

    assert bytes(whole) == b"".join(text for text, _ in parts)
    assert isinstance(whole, Rope) == (len(whole) > WHOLE)
    assert len(tuple(pieces_of(whole))) <= 2 * len(whole) // GATHERED + 1


def test_what_is_cut_out_keeps_no_copy_and_says_of_what_it_is() -> None:
    """A large part of a content in pieces is its pieces, and views of those at its ends."""
    _, content = in_pieces([WHOLE, WHOLE, WHOLE])
    assert isinstance(content, Rope)
    part = cut(content, 100, 2 * WHOLE + 100_000)

    assert isinstance(part, Rope)
    assert part.whole is content
    assert part.pieces[1] is content.pieces[1]
    assert [type(piece) for piece in part.pieces] == [memoryview, bytes, memoryview]


class Step:
    """A sink that takes so many pieces each time it is asked to."""

    def __init__(self) -> None:
        self.room = 0
        self.taken = bytearray()
        self.finished = False

    @property
    def writable(self) -> bool:
        """Whether there is room."""
        return self.room > 0

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        self.room -= 1
        self.taken += piece

    def finish(self) -> None:
        """All has come."""
        self.finished = True

    def abort(self) -> None:
        """It must not come to that."""
        raise AssertionError("aborted")

    def goes_alone(self, at: int) -> bool:
        """It does not."""
        return False


@SOME
@given(
    st.integers(1, 3 * MOST_SMALL),
    st.sampled_from([1, 7, 300, GATHERED // 3, GATHERED, WHOLE]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), max_size=12),
    st.sampled_from([0, 1 << 30]),
)
def test_every_reader_gets_every_byte(count: int, size: int, steps: list[tuple[int, int]], keep: int) -> None:
    """Small pieces are gathered while readers stand anywhere in them; each gets every byte once, in order."""
    body, sinks = Body(keep=keep), [Step() for _ in range(4)]
    count = min(count, 4_000_000 // size + 1)
    cursors = [body.read_into(sink) for sink in sinks]
    for number in range(count):
        for which, room in steps[number % 7 :: 7]:
            sinks[which].room = room
            body.taken(cursors[which])
        body.write(bytes([number % 251]) * size)
    body.finish()
    whole = b"".join(bytes([number % 251]) * size for number in range(count))
    if keep:
        assert bytes(body.move_to_store()) == whole
    for sink, cursor in zip(sinks, cursors, strict=True):
        sink.room = count * -(-size // CUT)  # large pieces are cut unless they are kept
        body.taken(cursor)

    assert all(bytes(sink.taken) == whole and sink.finished for sink in sinks)


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_body_that_drips_is_kept_in_few_pieces(size: int) -> None:
    """A body that comes byte by byte costs little more than its bytes."""
    body = Body(keep=1 << 30)
    for _ in range(1_000_000 // size):
        body.write(bytes(size))
    assert len(body.pieces) <= MOST_SMALL + 1_000_000 // GATHERED + 1


def test_a_whole_has_few_parts() -> None:
    """Of parts that do not touch, only so many are held: the least one goes, but never the newest."""
    segments = Segments(10_000, ())
    for number in range(MOST_SEGMENTS):
        segments = segments.joined(10 * number, b"12" if number != 5 else b"1")
    segments = segments.joined(9_000, b"x")

    assert len(segments.parts) == MOST_SEGMENTS
    assert segments.slice(Span(9_000, 9_001)) == b"x"
    assert segments.slice(Span(50, 51)) is None


def test_parts_that_grow_by_a_byte_stay_in_few_pieces() -> None:
    """Ranges of a byte each, one after the other, make one part that is held in few pieces."""
    segments = Segments(1 << 20, ((0, Rope([bytes(WHOLE), bytes(WHOLE)])),))
    for number in range(1000):
        segments = segments.joined(2 * WHOLE + number, b"x")

    ((_, content),) = segments.parts
    assert isinstance(content, Rope)
    assert len(content.pieces) == 3
