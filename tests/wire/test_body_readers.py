"""`Body`: however its readers come, wait and leave, each has the same bytes or an abort; nothing runs for nobody."""

from __future__ import annotations

from unittest import mock

from harness.streams import FakeSink, FakeSource
from hypothesis import given
from hypothesis import strategies as st

from edgecache.wire import backpressure
from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor


def test_the_bound_is_the_last_byte_that_is_kept() -> None:
    """A body of exactly `keep` bytes is whole; one byte more, and it only flows and is joined no more."""
    body = Body(keep=4)
    body.read_into(FakeSink())
    body.write(b"four")
    assert (body.whole, body.joinable, body.pieces) == (True, True, [b"four"])
    body.write(b"!")

    assert (body.whole, body.joinable, body.pieces) == (False, False, [])


@given(st.binary(max_size=600_000), st.integers(0, 600_000), st.booleans(), st.integers(0, 2))
def test_a_body_that_is_complete_is_read_as_one_that_has_arrived(
    content: bytes, skip: int, behind: bool, room: int
) -> None:
    """Whatever is skipped, however slowly it is read, and whoever has read it before."""
    arrived = Body(keep=len(content))
    if content:
        arrived.write(content)
    arrived.finish()
    for body in (Body.of(content), arrived):
        sinks = [FakeSink(), FakeSink(room=room)]
        ends: list[Body] = []
        for sink in sinks:
            cursor = body.read_into(sink, skip=skip, behind=behind)
        body.when_ended(ends.append)
        body.leave(body.read_into(FakeSink(room=0)))
        sinks[1].room = None
        if cursor in body.readers:
            body.taken(cursor)
        body.discard()

        assert [(sink.got, sink.ends) for sink in sinks] == [(content[skip:], ["finish"])] * 2
        assert (body.ended, body.whole, body.size, ends) == (True, True, len(content), [body])
        assert (len(body.readers), body.discarded, bytes(body.move_to_store())) == (0, False, content)


def test_begin_with_puts_a_piece_first() -> None:
    """What was known already comes before what has arrived and what is still to come."""
    body, sink = Body(FakeSource(), keep=100), FakeSink()
    body.write(b"two ")
    body.begin_with(b"one ")
    body.read_into(sink)
    body.write(b"three")
    body.finish()

    assert (sink.got, body.size, body.whole) == (b"one two three", 13, True)


def test_a_body_that_outgrows_its_bound_without_a_reader_is_abandoned() -> None:
    """Once a body whose readers have left grows past what is kept, it is for nobody: its source is told to stop."""
    source = FakeSource()
    body = Body(source, keep=4)
    body.leave(body.read_into(FakeSink()))
    body.write(b"12345")

    assert source.abandonments == 1


class Play:
    """One run of steps: a body, its source, and every reader that has joined and not left."""

    def __init__(self, keep: int) -> None:
        self.source = FakeSource()
        self.body = Body(self.source, keep)
        self.written = b""
        self.readers: list[tuple[Cursor, FakeSink]] = []

    def step(self, what: str, number: int) -> None:
        """Do one step; what cannot be done now is left out."""
        over = self.source.abandonments > 0
        if what == "write" and not self.source.paused and not over:
            piece = bytes((len(self.written) + at) % 256 for at in range(number + 1))
            self.written += piece
            self.body.write(piece)
        elif what == "join" and self.body.joinable and not over:
            sink = FakeSink(room=number)
            self.readers.append((self.body.read_into(sink), sink))
        elif what == "take" and self.readers:
            self.take(*self.readers[number % len(self.readers)], number)
        elif what == "leave" and self.readers:
            cursor, sink = self.readers.pop(number % len(self.readers))
            self.body.leave(cursor)
            self.take(cursor, sink, None)  # as Exchange.leave does
        assert all(self.written.startswith(sink.got) for _, sink in self.readers)

    def take(self, cursor: Cursor, sink: FakeSink, pieces: int | None) -> None:
        """Let a reader take so many pieces more (None: all); one that was told the end asks no more."""
        sink.room = pieces
        if not sink.ends:
            self.body.taken(cursor)


Steps = st.lists(
    st.tuples(st.sampled_from(["write", "write", "join", "take", "leave"]), st.integers(0, 9)), max_size=60
)


@given(keep=st.sampled_from([0, 5, 30, 1000]), steps=Steps, fails=st.booleans())
def test_every_reader_gets_the_same_bytes_or_an_abort(keep: int, steps: list[tuple[str, int]], fails: bool) -> None:
    """However writes, reads and departures interleave, whoever stays gets every byte and the true end, once."""
    with mock.patch.object(backpressure, "WINDOW", 16):
        play = Play(keep)
        for step in steps:
            play.step(*step)
        for cursor, sink in play.readers:
            play.take(cursor, sink, None)
        if play.readers:
            assert not play.source.paused, "everything is taken, and still nobody sends"
        if fails:
            play.body.fail()
        else:
            play.body.finish()

    for _, sink in play.readers:
        assert (sink.got, sink.ends) == (play.written, ["abort" if fails else "finish"])
