"""Flights of a whole region: who leads for a key is who holds its lease in Valkey; the others are woken, not polling.

A lease is a key with an owner's token and a short life, renewed while its owner lives; so a leader that dies frees it.
When the leader is done it says on one channel what came of it. A message that is lost costs the rest of the lease:
whoever waits looks again when that is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from os import urandom
from typing import Final, NamedTuple

import orjson
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import InvalidResponse

from edgecache.semantics.outcomes import Word
from edgecache.tasks import spawn
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Commands
from edgecache.valkey.client import Failure

log = logging.getLogger("edgecache")
CHANNEL: Final = b"ec:wake"
RECONNECT: Final = 0.2  # seconds between two tries to listen
RENEW: Final = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) end return 0"
RELEASE: Final = (
    "local held=redis.call('get',KEYS[1])==ARGV[1] if held then redis.call('del',KEYS[1]) end "
    "if held or ARGV[4]~='gone' then return redis.call('publish',ARGV[2],ARGV[3]) end return 0"
)
LOST: Final = (LostConnection, ConnectionError, RuntimeError)  # on the way: it may be said again
TRIES: Final = 2  # to take a lease: a connection may be lost on the way


class Came(Word):
    """What came of a leader's question, as its region is told."""

    STORED = "stored"  # read it
    ALONE = "alone"  # the answer was for one client: everybody asks for himself
    FAILED = "failed"  # the origin did not answer, or with an error
    GONE = "gone"  # the leader gave up: somebody else may lead


class News(NamedTuple):
    """What the leader said; status and reason of a failure."""

    came: Came
    status: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to ask for a key, until it is released."""

    key: bytes
    token: bytes


class Waiting:
    """Somebody else's lease: to be waited for."""

    __slots__ = ("_leases", "_told", "key", "left")

    def __init__(self, leases: Leases, key: bytes) -> None:
        self._leases = leases
        self._told: asyncio.Future[News] = asyncio.get_running_loop().create_future()
        self.key = key
        self.left = 0.0  # seconds that the lease runs on if it is not renewed

    async def news(self, within: float) -> News | None:
        """What the leader says; None if that takes longer than `within` seconds, or than its lease."""
        try:
            await asyncio.wait((self._told,), timeout=min(within, self.left + 0.01))
            return self._told.result() if self._told.done() else None
        finally:
            self.leave()

    def tell(self, news: News) -> None:
        """The leader has said something."""
        if not self._told.done():
            self._told.set_result(news)

    def leave(self) -> None:
        """Wait no longer."""
        self._leases.forget(self)


class Leases:
    """The leases that this worker holds, and those that it waits for."""

    def __init__(
        self, guard: Availability, commands: Commands, life: float, token: Callable[[int], bytes] = urandom
    ) -> None:
        self._guard = guard
        self._commands = commands
        self._life = life  # seconds
        self._token = token
        self._held: dict[bytes, Lease] = {}
        self._waiting: dict[bytes, list[Waiting]] = {}
        self.listening = asyncio.Event()
        self._closed = False  # redis-py may swallow the cancellation of a task
        self._tasks = [spawn(self._listen(), "wake-ups"), spawn(self._renew(), "leases")]

    async def take(self, key: bytes, within: float) -> Lease | Waiting | None:
        """The lease of `key`, or somebody else's to wait for; None if the tier does not say so `within` seconds."""
        waiting = Waiting(self, key)  # listens before it asks: what is said in between is not missed
        self._waiting.setdefault(key, []).append(waiting)
        lease = Lease(key, self._token(16).hex().encode())
        try:
            owner, left = await self._owner(lease, within)
        except Failure:
            waiting.leave()
            self._commands.send(_release(lease, News(Came.GONE)))  # it may have been given, and the reply lost
            return None
        except BaseException:
            waiting.leave()
            raise
        if owner == lease.token:
            waiting.leave()
            self._held[key] = lease
            return lease
        waiting.left = max(0, left) / 1000
        return waiting

    async def _owner(self, lease: Lease, within: float) -> tuple[bytes | None, int]:
        """Whose the key of `lease` is now, and for how many milliseconds; `lease`'s, if it was nobody's."""
        name, life = _name(lease.key), b"%d" % (self._life * 1000)
        for left in reversed(range(TRIES)):
            try:
                _, owner, rest = await asyncio.gather(
                    self._commands.execute(("SET", name, lease.token, "NX", "PX", life), within=within),
                    self._commands.execute(("GET", name), within=within),
                    self._commands.execute(("PTTL", name), within=within),
                )
            except LOST:
                if not left:
                    raise
                continue
            if isinstance(owner, bytes | None) and isinstance(rest, int):
                return owner, rest
            break
        raise InvalidResponse("no owner of a lease, or no time")

    def release(self, lease: Lease, news: News, after: Commands | None = None) -> None:
        """Give the lease back and tell the region; `after` what still waits in that queue of commands."""
        if self._held.pop(lease.key, None) is None:
            return

        def done(_size: int, reply: object) -> None:
            if isinstance(reply, LOST):  # else its key would not be free before it runs out
                self._commands.send(_release(lease, news))
            self.tell(lease.key, news)  # who waits in this worker, too, finds what was written

        if not (after or self._commands).send(_release(lease, news), 0, done):
            self.tell(lease.key, news)

    def tell(self, key: bytes, news: News) -> None:
        """Wake who waits for `key` in this worker."""
        for waiting in tuple(self._waiting.get(key, ())):
            waiting.tell(news)

    def forget(self, waiting: Waiting) -> None:
        """It waits no longer."""
        others = self._waiting.get(waiting.key, [])
        if waiting in others:
            others.remove(waiting)
        if not others:
            self._waiting.pop(waiting.key, None)

    async def _renew(self) -> None:
        life = b"%d" % (self._life * 1000)
        while True:
            await asyncio.sleep(self._life / 5)
            for lease in tuple(self._held.values()):
                self._commands.send(("EVAL", RENEW, "1", _name(lease.key), lease.token, life))

    async def _listen(self) -> None:
        while not self._closed:
            try:
                await self._listen_once()
            except Exception as error:  # redis-py takes a reply apart before it looks at its kind
                if not isinstance(error, Failure):
                    log.warning("a message from the regional tier was none: %r", error)
            self.listening.clear()
            await asyncio.sleep(RECONNECT)

    async def _listen_once(self) -> None:
        """Hear what the region's leaders announce, until the connection is lost."""
        async with self._guard.link.subscription() as subscription:
            await subscription.subscribe(CHANNEL)
            self.listening.set()
            async for message in subscription.listen():
                self._heard(message.get("data"))

    def _heard(self, data: object) -> None:
        try:
            key, came, status, reason = orjson.loads(data if isinstance(data, bytes) else b"")
            news = News(Came(came), int(status), str(reason))
        except (ValueError, TypeError):
            self._guard.counts.failed("message")
            return
        self.tell(str(key).encode(), news)

    async def close(self) -> None:
        """End; what is held is left to run out."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)


def _release(lease: Lease, news: News) -> tuple[object, ...]:
    message = orjson.dumps((lease.key.decode(), news.came.value, news.status, news.reason))
    return ("EVAL", RELEASE, "1", _name(lease.key), lease.token, CHANNEL, message, news.came.value)


def _name(key: bytes) -> bytes:
    return key + b":lease"
