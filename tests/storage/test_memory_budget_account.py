"""What counts in the memory's budget beside the store: the account, the share of each body, and who is spared."""

from __future__ import annotations

import pytest
from harness.streams import FakeSink, FakeSource

from edgecache.semantics.cache_control import parse_response_directives
from edgecache.semantics.message import Fields
from edgecache.semantics.stored_response import Stored
from edgecache.storage.eviction import MOST_SPARED, POLICIES, EvictionPolicy
from edgecache.storage.memory import Memory
from edgecache.storage.memory_budget import NARROW, WIDE, Account
from edgecache.wire.backpressure import UNDECIDED
from edgecache.wire.body import Body
from edgecache.wire.body_charge import LARGE
from edgecache.wire.body_readers import WINDOW

KIB, MIB = 1024, 1024 * 1024
BUDGET = 16 * MIB


def new_memory(budget: int = BUDGET, largest: int = BUDGET // 10) -> Memory:
    """An empty one."""
    return Memory(budget, "s3fifo", largest, 64)


def put(memory: Memory, name: str, content: bytes) -> None:
    """Store `content`."""
    directives = parse_response_directives(b"max-age=60", None)
    memory.put(b"http://site/" + name.encode(), Stored(200, b"", Fields(()), directives, 0.0, 0.0, 60.0), content)


def counted(account: Account) -> int:
    """The parts of what is held that a body or a reader can hold."""
    return account.filling + account.flowing + account.lingering


def test_a_body_of_known_length_takes_its_room_at_once_and_gives_it_back_when_stored() -> None:
    """What is reserved is what it will be, however little of it is here; stored, it counts in the store alone."""
    account = new_memory().account
    body = Body(FakeSource())
    body.keep_up_to(BUDGET // 10, account, 1000)
    assert (account.filling, account.held) == (1000, 1000)
    body.write(bytes(600))
    assert account.filling == 1000
    body.write(bytes(400))
    body.when_ended(lambda ended: ended.move_to_store())
    body.finish()
    assert (account.held, counted(account), account.read_on) == (0, 0, 0)


@pytest.mark.parametrize("length", [None, BUDGET // 10])
def test_where_there_is_no_room_a_body_flows_from_its_beginning_or_from_there_on(length: int | None) -> None:
    """What flows counts as flowing, once, until its reader has it; nothing is left at the end."""
    account = new_memory().account
    others = BUDGET // 4 - 300 * KIB
    assert account.take(others)
    body, sink = Body(FakeSource()), FakeSink(room=0)
    body.keep_up_to(BUDGET // 10, account, length)
    cursor = body.read_into(sink)
    for _ in range(4):
        body.write(bytes(100 * KIB))
    assert not body.kept
    assert (account.filling, account.flowing) == (others, 400 * KIB)
    sink.room = None
    body.taken(cursor)
    assert (account.filling, account.flowing, len(sink.got)) == (others, 0, 400 * KIB)
    body.finish()
    account.give(others)
    assert account.held == 0


def test_what_begins_without_a_length_waits_for_those_that_began() -> None:
    """Half of the room is for those to get to their ends: else none of many would."""
    account = new_memory().account
    assert account.take(BUDGET // 8 + 1, begins=True)
    assert not account.take(1, begins=True)
    assert account.take(1)


@pytest.mark.parametrize("stored", [True, False])
def test_a_body_counts_as_long_as_it_is_read(stored: bool) -> None:
    """Who reads on after the end holds it: of what was stored, new ones take account; of what was not, all counts."""
    account = new_memory().account
    body, sink = Body(FakeSource()), FakeSink(room=0)
    body.keep_up_to(BUDGET // 10, account, MIB)
    cursor = body.read_into(sink)
    body.write(bytes(MIB))
    if stored:
        body.when_ended(lambda ended: ended.move_to_store())
    body.finish()
    assert (account.read_on, account.flowing, account.filling) == ((MIB, 0, 0) if stored else (0, MIB, 0))
    if stored:
        assert not account.take(BUDGET // 4)
    body.leave(cursor)
    assert (account.read_on, account.held) == (0, 0)
    assert account.take(BUDGET // 4)


def test_a_leader_that_begins_after_the_end_counts_too() -> None:
    """A fast origin is done before the client's task has run."""
    account = new_memory().account
    body, sink = Body(FakeSource()), FakeSink(room=0)
    body.keep_up_to(BUDGET // 10, account, MIB)
    body.write(bytes(MIB))
    body.when_ended(lambda ended: ended.move_to_store())
    body.finish()
    assert account.read_on == 0
    cursor = body.read_into(sink)
    assert account.read_on == MIB
    body.leave(cursor)
    assert account.read_on == 0


def test_what_nobody_has_decided_about_waits_in_little() -> None:
    """Until it is read, or said to be kept, no more than a read or two of it are here."""
    source = FakeSource()
    body = Body(source)
    body.write(bytes(UNDECIDED + 1))
    assert source.paused
    body.keep_up_to(BUDGET // 10, new_memory().account, MIB)
    assert not source.paused


def test_many_that_flow_have_a_narrower_window() -> None:
    """A body that others share may hold 256 KiB for the slowest, but less while there are many such bodies."""
    account = new_memory().account
    source, slow = FakeSource(), FakeSink(room=0)
    body = Body(source)
    body.count_in(account)
    for sink in (FakeSink(), FakeSink(), slow):
        body.read_into(sink)
    body.write(bytes(WINDOW))
    assert (source.paused, account.window) == (False, WIDE)
    account.flow(BUDGET // 8)
    assert account.window == NARROW
    body.write(b"x")
    assert source.paused


def test_a_body_waits_for_its_reader_while_much_flows() -> None:
    """If it found no room later, all that its reader has not taken would flow, too."""
    account = new_memory().account
    source, slow = FakeSource(), FakeSink(room=0)
    body = Body(source)
    body.keep_up_to(BUDGET // 10, account)
    body.read_into(slow)
    body.write(bytes(2 * WINDOW))
    assert not source.paused
    account.flow(BUDGET // 8 + 1)
    body.write(b"x")
    assert source.paused
    quick = FakeSink()
    body.read_into(quick)
    assert not source.paused, "another is not held up by it"
    body.finish()
    assert len(quick.got) == 2 * WINDOW + 1


def test_what_is_evicted_for_others_makes_room_before_they_come() -> None:
    """Room is made when it is taken; a content that nobody reads is gone then."""
    memory = new_memory()
    for number in range(15):
        put(memory, str(number), bytes(MIB))
    before = len(memory)
    assert memory.account.take(3 * MIB)
    assert len(memory) == before - 3
    assert memory.size + memory.account.held <= BUDGET
    assert memory.account.lingering == 0


def test_what_is_read_is_spared_and_who_reads_it_is_in_the_way() -> None:
    """Of contents that are read an eighth is evicted at most; for a body that arrives there is no room then."""
    memory = new_memory()
    account = memory.account
    contents = [bytes(MIB) for _ in range(15)]
    for number, content in enumerate(contents):
        put(memory, str(number), content)
        account.acquire(content)
    assert not account.take(4 * MIB)
    assert account.lingering <= BUDGET // 8
    assert memory.size + account.held <= BUDGET
    assert memory.size > BUDGET // 2
    assert account.to_cut() <= {id(content) for content in contents}
    assert not account.to_cut()  # they were told once
    for content in contents:
        account.release(content)
    assert account.lingering == 0
    assert account.take(4 * MIB)
    assert memory.size + account.held <= BUDGET


def test_small_objects_get_in_whatever_is_read() -> None:
    """Slow readers of all that is stored keep no new object out."""
    memory = new_memory()
    contents = [bytes(MIB) for _ in range(15)]
    for number, content in enumerate(contents):
        put(memory, str(number), content)
        memory.account.acquire(content)
    for number in range(100):
        put(memory, f"small-{number}", bytes(10 * KIB))
    assert sum(memory.has(b"http://site/small-%d" % number) for number in range(100)) > 50
    assert memory.account.lingering > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_limit_spares_so_many_and_then_gives_up(policy: str) -> None:
    """What is spared stays, findable, and in the order in which it would leave; a new value is let in all the same."""
    cache: EvictionPolicy[int, int] = POLICIES[policy](2 * MOST_SPARED, spares=lambda _: True)
    for number in range(2 * MOST_SPARED):
        cache[number] = number
    assert not cache.limit(MOST_SPARED)
    assert len(cache) == cache.currsize == 2 * MOST_SPARED
    cache[-1] = -1
    assert -1 in cache
    assert cache.currsize <= MOST_SPARED


@pytest.mark.parametrize("policy", POLICIES)
def test_a_limit_takes_those_that_are_not_spared(policy: str) -> None:
    """Those that are spared are passed over."""
    cache: EvictionPolicy[int, int] = POLICIES[policy](20, spares=lambda value: value < 5)
    for number in range(20):
        cache[number] = number
    assert cache.limit(10)
    assert set(range(5)) <= set(cache)
    assert len(cache) == 10


def test_flowing_bodies_take_half_of_the_store_at_most() -> None:
    """However many slow clients there are, something is left of the cache."""
    memory = new_memory()
    for number in range(15):
        put(memory, str(number), bytes(MIB))
    memory.account.flow(4 * BUDGET)
    assert BUDGET // 2 - MIB - LARGE <= memory.size <= BUDGET // 2


class Transport:
    """It has so many bytes to flush."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent

    def get_write_buffer_size(self) -> int:
        """The bytes to flush."""
        return self.unsent


@pytest.mark.parametrize("how", ["flushed", "closed"])
def test_what_a_transport_has_not_flushed_counts_once_it_is_evicted(how: str) -> None:
    """A content that was written whole is read until the transport has flushed it, or is closed."""
    memory, content, transport = new_memory(), bytes(200 * KIB), Transport(100)
    account = memory.account
    put(memory, "a", content)
    account.sent(content, transport)
    account.sent(content, Transport(0))
    assert account.lingering == 0
    memory.invalidate(b"http://site/a")
    account.look()
    assert account.lingering == account.held == len(content)
    if how == "flushed":
        transport.unsent = 0
        account.look()
    else:
        account.closed(transport)
    assert (account.lingering, account.held) == (0, 0)


def test_a_content_that_is_read_after_it_left_the_store_counts() -> None:
    """A request that found an entry may read it when that is gone; one that is stored again counts in the store."""
    memory, content = new_memory(), bytes(MIB)
    account = memory.account
    put(memory, "a", content)
    memory.invalidate(b"http://site/a")
    assert account.held == 0
    account.acquire(memoryview(content)[: MIB // 2])
    assert account.lingering == MIB
    put(memory, "a", content)
    assert account.lingering == account.held == 0
    account.release(content)
    memory.invalidate(b"http://site/a")
    assert account.held == 0


@pytest.mark.parametrize("size", [200 * KIB, MIB])
def test_a_complete_body_is_a_reader_of_its_content(size: int) -> None:
    """From its first reader that has not taken everything until its last one leaves."""
    memory, content, sink = new_memory(), bytes(size), FakeSink(room=0)
    put(memory, "a", content)
    body = Body.of(content)
    body.count_readers_in(memory.account)
    cursor = body.read_into(sink)
    memory.invalidate(b"http://site/a")
    assert memory.account.lingering == size
    sink.room = None
    body.taken(cursor)
    assert (len(sink.got), memory.account.lingering, memory.account.held) == (size, 0, 0)
