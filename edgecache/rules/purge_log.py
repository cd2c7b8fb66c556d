"""What was invalidated, in which order, and which responses it leaves usable. Pure state, no clock.

A response carries `seen`: the log's position when its question was asked. It may be used iff no later entry names it.
So a fill that began before a purge can never satisfy the rule after it, however late it arrives.
"""

from __future__ import annotations

from typing import Final

LONGEST_KEY: Final = 512  # bytes; clients make URLs up, and thousands are remembered


def _short(key: bytes) -> bytes:
    """`key`, or what stands for a long one: two that share it are purged together, which can only refuse."""
    return key if len(key) <= LONGEST_KEY else b"%d" % hash(key)


class PurgeLog:
    """One log of one process. Mutable state: the position, the last entry that named each key, and the floor.

    Registers are bounded: when one is forgotten, the floor rises to it, and whatever was asked before the floor counts
    as named. Forgetting can refuse a good response, never allow a bad one.
    """

    def __init__(self, most_registers: int = 65536) -> None:
        self.position = 0
        self._floor = 0
        self._registers: dict[bytes, int] = {}
        self._most_registers = most_registers

    def append(self, key: bytes) -> int:
        """Everything asked before now is unusable for `key`; the entry's position."""
        self.position += 1
        key = _short(key)
        self._registers.pop(key, None)  # so that the dict stays in the order of positions
        self._registers[key] = self.position
        if len(self._registers) > self._most_registers:
            oldest = next(iter(self._registers))
            self._floor = self._registers.pop(oldest)
        return self.position

    def allows(self, key: bytes, seen: int) -> bool:
        """Whether a response to a question asked at `seen` may be used for `key`."""
        return seen >= self._registers.get(_short(key), self._floor)

    def __len__(self) -> int:
        return len(self._registers)
