"""Concurrent requests by key: those of one worker, and those of all workers of its region.

    enter   ──► are fewer running in this worker than the limit allows?
    reserve ──► and in the region? A script in Valkey counts the slots of the key, and adds one
    leave   ──► the slot is given back
    renew   ──► every few seconds, for all slots of this worker; those of a crashed worker expire

While Valkey does not respond, each worker has its share of a limit, and at least one request; once Valkey is back,
running requests are registered there too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from hashlib import blake2b
from itertools import count
from typing import Any, Final, Protocol

from edgecache.wire.exchange import Exchange

HELD_FOR: Final = 15  # seconds that a slot holds without being renewed
MOST_AT_ONCE: Final = 500  # slots in one command

# The slots of one key, by the time at which each ends; one that ends too late was made before the clock was set back.
# ARGV: the limit, the seconds that a slot holds, and the slot.
RESERVE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now + ARGV[2], '+inf')
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[2])
return 1
"""
RENEW: Final = """
local until_ = tonumber(redis.call('TIME')[1]) + ARGV[1]
for at = 2, #ARGV do
  redis.call('ZADD', KEYS[1], until_, ARGV[at])
end
return redis.call('EXPIRE', KEYS[1], 2 * ARGV[1])
"""


class Region(Protocol):
    """The commands to the region's Valkey."""

    name: str  # of this worker
    share: float  # of each limit, while the region does not answer

    async def reply(self, *command: Any) -> Any:
        """The reply to a command; None if there is none in time."""

    def send(self, *command: Any) -> None:
        """Send a command whose reply does not matter."""

    def alone(self) -> None:
        """A request is limited without the region."""


class Concurrency:
    """The running requests of one worker, and their slots in the region."""

    def __init__(self) -> None:
        self.region: Region | None = None
        self._under_way: dict[Hashable, int] = {}
        self._entered: dict[Exchange, list[tuple[Hashable, str]]] = {}  # its keys, each with its slot
        self._reserved: dict[str, bytes] = {}  # the key in Valkey of each slot that may be there
        self._numbers = count()

    def enter(self, key: Hashable, exchange: Exchange, most: int) -> bool:
        """Count `exchange` as under way in this worker; False if there are so many already."""
        under_way = self._under_way.get(key, 0)
        if under_way >= most:
            return False
        self._under_way[key] = under_way + 1
        slot = "" if self.region is None else f"{self.region.name}:{next(self._numbers)}"
        self._entered.setdefault(exchange, []).append((key, slot))
        return True

    async def reserve(self, key: Hashable, exchange: Exchange, most: int) -> bool:
        """Count `exchange`, which has entered, in the region; False if there are so many already."""
        assert self.region is not None, "else nothing is reserved"
        slot = dict(self._entered.get(exchange, ())).get(key)
        if slot is None:  # its client has left
            return False
        name = self.name_of(key)
        reply = await self.region.reply("EVAL", RESERVE, 1, name, most, HELD_FOR, slot)
        if exchange not in self._entered:
            if reply != 0:
                self.region.send("ZREM", name, slot)
            return False
        if reply == 0:
            return False
        self._reserved[slot] = name
        if reply == 1:
            return True
        self.region.alone()
        return self._under_way[key] <= max(1, int(most * self.region.share))

    @staticmethod
    def name_of(key: Hashable) -> bytes:
        """The key in Valkey."""
        return b"ec:slots:{%b}" % blake2b(repr(key).encode(), digest_size=16).hexdigest().encode()

    def leave(self, exchange: Exchange) -> None:
        """`exchange` has ended, in whatever way."""
        for key, slot in self._entered.pop(exchange, ()):
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]
            name = self._reserved.pop(slot, None)
            if name is not None and self.region is not None:
                self.region.send("ZREM", name, slot)

    def renew(self) -> None:
        """Have the slots that are in use hold longer."""
        assert self.region is not None, "else there are none"
        for name, slots in self._by_name():
            self.region.send("EVAL", RENEW, 1, name, HELD_FOR, *slots)

    def _by_name(self) -> Iterator[tuple[bytes, list[str]]]:
        named: dict[bytes, list[str]] = {}
        for slot, name in self._reserved.items():
            named.setdefault(name, []).append(slot)
        for name, slots in named.items():
            for at in range(0, len(slots), MOST_AT_ONCE):
                yield name, slots[at : at + MOST_AT_ONCE]

    def __len__(self) -> int:
        """Requests under way that are counted."""
        return len(self._entered)
