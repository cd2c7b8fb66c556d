"""Buffers that are used again: what somebody holds a view of is never written."""

from __future__ import annotations

import random

from edgecache.storage.machine.read_buffer import MOST, SIZE, ReadBuffers


def test_what_is_held_never_changes() -> None:
    """Over many copies of which some are held for a while; no more buffers are kept than may be."""
    dice, buffers = random.Random(5), ReadBuffers()
    held: list[tuple[memoryview, bytes]] = []
    for number in range(2000):
        content = bytes([number % 256]) * dice.randrange(SIZE - 4000, SIZE + 1)
        copy = buffers.copy(memoryview(content))
        assert copy == content
        if dice.random() < 0.3:
            held.append((copy[5:], content[5:]))
        while len(held) > dice.randrange(40):
            held.pop(dice.randrange(len(held)))
        if number % 50 == 0:
            assert all(view == content for view, content in held)
    assert len(buffers._buffers) <= MOST


def test_a_buffer_that_nobody_holds_is_used_again() -> None:
    """No new one is made for each read."""
    buffers = ReadBuffers()
    for number in range(100):
        assert buffers.copy(memoryview(bytes([number]) * SIZE))[0] == number
    assert len(buffers._buffers) == 1
