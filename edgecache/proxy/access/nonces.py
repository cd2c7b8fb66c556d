"""Nonces of signatures, each good for one request (RFC 9421 §7.2.2): of a region, of a machine, or of one process.

    use ──► seen by this worker? ──► by another of the region: a script in Valkey, one round trip
                                 └─► or, without a region, by another of the machine: the supervisor remembers them

What cannot be told is refused: a signature must not be good twice because a server is down, or has lost what it knew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from math import ceil
from typing import Any, Final

from edgecache.semantics.signing.nonces import SLACK, Nonce, SeenNonces
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Commands
from edgecache.valkey.client import Failure

log = logging.getLogger("edgecache")
WITHIN: Final = 0.5  # seconds for the region, or the supervisor, to answer
KEY: Final = b"ec:{nonce}:"  # of all of them, in one slot of a cluster: the script needs two
SINCE: Final = KEY + b"since"
COMMAND_BYTES: Final = 1024
# Whether a nonce is new: 1, used: 0, or of a signature that was made before Valkey began to remember them, or lost what
# it had: -1. ARGV: when it was made, and the seconds that it is remembered; without them Valkey begins.
USE: Final = """
local since = redis.call('GET', KEYS[1])
if not since then
  since = redis.call('TIME')[1]
  redis.call('SET', KEYS[1], since)
end
if #ARGV == 0 then
  return 1
elseif redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
elseif tonumber(ARGV[1]) <= tonumber(since) then
  return -1
end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[2])
return 1
"""
IN_REGION: Final = {1: Nonce.NEW, 0: Nonce.USED, -1: Nonce.UNKNOWN}
MOST_QUEUED: Final = 1024 * 1024  # bytes of commands that wait
LONGEST: Final = 10 * 365 * 86400  # seconds that Valkey keeps one
Message = Mapping[str, Any]


class UsedNonces:
    """A worker's end. Mutable state: the nonces that it has seen, and those that it asks about."""

    def __init__(self, wall: Callable[[], float], guard: Availability | None) -> None:
        self._wall = wall
        self._guard = guard
        self._commands: Commands | None = None  # from the first nonce on
        self._seen = SeenNonces()
        self._began = wall()
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Nonce]] = {}
        self._is_well = True
        self.send: Callable[[Message], None] | None = None  # to the supervisor; None: this process is alone

    def use(self, nonce: bytes, created: float, until: float) -> Nonce | Awaitable[Nonce]:
        """Use `nonce`, a digest, of a signature that is good from and until then in epoch seconds."""
        here = self._seen.use(nonce, created, until, self._wall())
        if here is Nonce.USED:
            return here
        if self._guard is not None:
            return self._use_in_region(self._in_region(self._guard), nonce, created, until)
        if self.send is not None:
            return self._use_on_machine(self.send, nonce, created, until)
        return here if created >= self._began else Nonce.UNKNOWN

    def begin(self) -> None:
        """Have the region remember nonces from now on, unless it does."""
        if self._guard is not None:
            self._in_region(self._guard).send(("EVAL", USE, 1, SINCE), COMMAND_BYTES)

    def _in_region(self, guard: Availability) -> Commands:
        if self._commands is None:
            self._commands = Commands(guard, "nonces", MOST_QUEUED)
        return self._commands

    async def _use_in_region(self, commands: Commands, nonce: bytes, created: float, until: float) -> Nonce:
        lasts = min(LONGEST, max(1, ceil(until - self._wall() + SLACK)))
        script = ("EVAL", USE, 2, SINCE, KEY + nonce.hex().encode(), int(created), lasts)
        try:
            state = await commands.execute(script, COMMAND_BYTES, within=WITHIN)
        except Failure:
            state = None
        self._note_answer(answered=state is not None)
        return IN_REGION.get(state, Nonce.UNKNOWN)

    async def _use_on_machine(
        self, send: Callable[[Message], None], nonce: bytes, created: float, until: float
    ) -> Nonce:
        number = next(self._numbers)
        known = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            send({"nonce": nonce.hex(), "created": created, "until": until, "n": number})
            await asyncio.wait((known,), timeout=WITHIN)
            self._note_answer(answered=known.done())
            return known.result() if known.done() else Nonce.UNKNOWN
        finally:
            del self._asked[number]

    def receive(self, message: Message) -> None:
        """The supervisor's answer."""
        asked = self._asked.get(message["n"])
        if asked is not None and not asked.done():
            asked.set_result(Nonce(message["nonce"]))

    def _note_answer(self, *, answered: bool) -> None:
        """Log each change: whether it can be told at all if a nonce was used."""
        if answered is not self._is_well:
            self._is_well = answered
            log.warning(
                "signed requests with a nonce are admitted again"
                if answered
                else "signed requests with a nonce are refused: nothing answers whether the nonce was used"
            )

    async def close(self) -> None:
        """Ask no more."""
        if self._commands is not None:
            await self._commands.close()


class MachineNonces:
    """The supervisor's end: the nonces that its workers have used. Mutable state: those."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._seen = SeenNonces(since=wall())

    def answer(self, message: Message) -> Message:
        """The answer to a worker's message."""
        created, until = float(message["created"]), float(message["until"])
        nonce = self._seen.use(bytes.fromhex(message["nonce"]), created, until, self._wall())
        return {"nonce": nonce.value, "n": message["n"]}
