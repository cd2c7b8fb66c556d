"""Bodies on their way, with a source and sinks that only take notes."""

from __future__ import annotations

from harness.streams import FakeSink, FakeSource
from hypothesis import given
from hypothesis import strategies as st

from edgecache.wire.body import Body
from edgecache.wire.body_readers import WINDOW


def test_what_is_read_in_the_background_only_goes_on_once_no_client_will_read_it() -> None:
    """A body that only flows waits for its first reader; if none comes, the background readers get the rest."""
    source = FakeSource()
    body = Body(source)
    behind = FakeSink()
    body.read_into(behind, behind=True)
    while not source.paused:
        body.write(b"x" * 4096)

    body.discard()

    assert not source.paused
    body.write(b"end")
    body.finish()
    assert behind.got.endswith(b"end")
    assert behind.ends == ["finish"]


def test_a_source_held_back_before_anybody_decided_to_keep_goes_on() -> None:
    """What waits for its first reader is bounded, and comes on once it is known that the whole is kept."""
    source = FakeSource()
    body = Body(source)
    body.write(b"x" * (WINDOW + 1))
    assert source.paused

    body.keep_up_to(10 * WINDOW)

    assert not source.paused


def test_the_end_of_a_body_lets_its_source_go_on() -> None:
    """A source that was held back brings other bodies after this one."""
    source = FakeSource()
    body = Body(source)
    body.write(b"x" * (WINDOW + 1))

    body.finish()

    assert not source.paused


def test_a_reader_that_could_not_take_the_end_gets_it_later() -> None:
    """A body that ended while its reader was slow is still delivered whole."""
    body, sink = Body(keep=100), FakeSink(room=0)
    cursor = body.read_into(sink)
    body.write(b"one")
    body.finish()
    assert (sink.got, sink.ends) == (b"", [])

    sink.room = None
    body.taken(cursor)

    assert (sink.got, sink.ends) == (b"one", ["finish"])


def test_a_slow_reader_holds_the_source_of_a_flowing_body_back() -> None:
    """A body that is not kept is read no faster than its slowest reader takes it."""
    source, sink = FakeSource(), FakeSink(room=0)
    body = Body(source)
    cursor = body.read_into(sink)
    body.write(b"x" * (WINDOW + 1))
    assert source.paused

    sink.room = None
    body.taken(cursor)

    assert not source.paused
    assert body.pieces == []


def test_the_last_reader_to_leave_gives_a_flowing_body_up() -> None:
    """Nobody reads on for nobody."""
    source, sink = FakeSource(), FakeSink()
    body = Body(source)
    cursor = body.read_into(sink)
    body.write(b"one")

    body.leave(cursor)

    assert source.abandonments == 1


def test_a_kept_body_goes_on_without_readers() -> None:
    """A fill is completed for the cache even if every client has left."""
    source, sink = FakeSource(), FakeSink()
    body = Body(source, keep=100)
    cursor = body.read_into(sink)
    body.write(b"one")

    body.leave(cursor)

    assert source.abandonments == 0


def test_a_failed_body_aborts_its_readers() -> None:
    """A body that will never be complete is not finished."""
    body, sink = Body(keep=100), FakeSink()
    body.read_into(sink)
    body.write(b"one")

    body.fail()

    assert (sink.got, sink.ends) == (b"one", ["abort"])


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=20), max_size=10),
    joins=st.lists(st.integers(0, 10), max_size=4),
    complete=st.booleans(),
)
def test_every_reader_of_a_kept_body_gets_the_same(pieces: list[bytes], joins: list[int], complete: bool) -> None:
    """Whenever a reader joins, it gets every byte from the first on, and the same end."""
    body = Body(keep=1000)
    sinks = []
    for number in range(len(pieces) + 1):
        for _ in range(joins.count(number)):
            sinks.append(FakeSink())
            body.read_into(sinks[-1])
        if number < len(pieces):
            body.write(pieces[number])
    if complete:
        body.finish()
    else:
        body.fail()

    assert all(sink.got == b"".join(pieces) for sink in sinks)
    assert all(sink.ends == ["finish" if complete else "abort"] for sink in sinks)
