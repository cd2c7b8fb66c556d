"""Request collapsing across a region: the worker that holds a key's lease in Valkey fetches; the others wait for it.

A lease is a key with its owner's token and a short lifetime, renewed while its owner lives; so the lease of a dead
worker expires. When the fetch is done, its owner publishes the outcome on one channel. A message may be lost, with the
connection or with the server: so a worker that waits looks whether the lease is still there, and waits no longer if it
is not, or if the server does not say. What it does not wait for is the rest of the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import urandom
from typing import Final, NamedTuple

import orjson
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import InvalidResponse

from edgecache.semantics.outcomes import Label
from edgecache.tasks import spawn
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Commands
from edgecache.valkey.client import Failure

log = logging.getLogger("edgecache")
CHANNEL: Final = b"ec:wake"
RECONNECT: Final = 0.2  # seconds between two attempts to subscribe
RENEW: Final = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) end return 0"
RELEASE: Final = (
    "local held=redis.call('get',KEYS[1])==ARGV[1] if held then redis.call('del',KEYS[1]) end "
    "if held or ARGV[4]~='gone' then return redis.call('publish',ARGV[2],ARGV[3]) end return 0"
)
LOST: Final = (LostConnection, ConnectionError, RuntimeError)  # the connection: the command may be sent again
LOOKS: Final = 5  # at a lease that is waited for, in its life
LOOK_SOON: Final = 0.1  # seconds between two of them while no messages arrive
LOOK_WITHIN: Final = 0.25  # seconds that the server has to say
MOST_UNSURE: Final = 1024
TRIES: Final = 2  # attempts to take a lease: a connection may be lost


class LeaseOutcome(Label):
    """The outcome of a fetch, as published to the region."""

    STORED = "stored"  # read it
    ALONE = "alone"  # the response is not shareable: each client's request is forwarded
    FAILED = "failed"  # the origin did not answer, or with an error
    GONE = "gone"  # the owner gave up: another worker may take the lease


class LeaseResult(NamedTuple):
    """An outcome, with status and reason of a failure."""

    outcome: LeaseOutcome
    status: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch for a key, until it is released."""

    key: bytes
    token: bytes


class LeaseWait:
    """A wait for another worker's lease."""

    __slots__ = ("_told", "_waits", "key", "left")

    def __init__(self, waits: Waits, key: bytes) -> None:
        self._waits = waits
        self._told: asyncio.Future[LeaseResult | None] = asyncio.get_running_loop().create_future()
        self.key = key
        self.left = 0.0  # seconds that the lease runs on if it is not renewed

    async def result(self, within: float) -> LeaseResult | None:
        """The outcome; None if it takes longer than `within` seconds or than the lease, or is not known any more."""
        try:
            await asyncio.wait((self._told,), timeout=min(within, self.left + 0.01))
            return self._told.result() if self._told.done() else None
        finally:
            self.leave()

    def tell(self, result: LeaseResult | None) -> None:
        """Deliver the outcome; None: there is nothing to wait for."""
        if not self._told.done():
            self._told.set_result(result)

    def leave(self) -> None:
        """Wait no longer."""
        self._waits.forget(self)


class Waits:
    """The waits of this worker for leases of others, by key."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[LeaseWait]] = {}

    def wait_for(self, key: bytes) -> LeaseWait:
        """A new wait for the lease of `key`."""
        waiting = LeaseWait(self, key)
        self._waiting.setdefault(key, []).append(waiting)
        return waiting

    def tell(self, key: bytes, result: LeaseResult | None) -> None:
        """Wake the requests of this worker that wait for `key`."""
        for waiting in tuple(self._waiting.get(key, ())):
            waiting.tell(result)

    def forget(self, waiting: LeaseWait) -> None:
        """Remove a wait that is over."""
        others = self._waiting.get(waiting.key, [])
        if waiting in others:
            others.remove(waiting)
        if not others:
            self._waiting.pop(waiting.key, None)


class Leases(Waits):
    """The leases that this worker holds or waits for. Mutable state: both, and two tasks."""

    def __init__(
        self, guard: Availability, commands: Commands, life: float, token: Callable[[int], bytes] = urandom
    ) -> None:
        super().__init__()
        self._guard = guard
        self._commands = commands
        self._life = life  # seconds
        self._token = token
        self._held: dict[bytes, Lease] = {}
        self._unsure: dict[bytes, Lease] = {}  # by token: whether they were taken is not known, nor wanted any more
        self._watch: asyncio.Task[None] | None = None  # of the leases that are waited for
        self.listening = asyncio.Event()
        self._closed = False  # redis-py may swallow the cancellation of a task
        self._tasks = [spawn(self._listen(), "wake-ups"), spawn(self._renew(), "leases")]

    async def take(self, key: bytes, within: float) -> Lease | LeaseWait | None:
        """The lease of `key`, or a wait for another's; None if the tier does not answer `within` seconds."""
        waiting = self.wait_for(key)  # before the command: no message is missed
        lease = Lease(key, self._token(16).hex().encode())
        try:
            owner, left = await self._owner(lease, within)
        except Failure:
            waiting.leave()
            self._give_up(lease)
            return None
        except BaseException:
            waiting.leave()
            raise
        if owner == lease.token:
            waiting.leave()
            self._held[key] = lease
            return lease
        waiting.left = max(0, left) / 1000
        if self._watch is None:
            self._watch = spawn(self._watch_waits(), "leases of others")
        return waiting

    def _give_up(self, lease: Lease) -> None:
        """Release a lease that may be taken, though no reply says so: as soon as the server can be told."""
        if len(self._unsure) < MOST_UNSURE:
            self._unsure[lease.token] = lease

        def done(_size: int, reply: object) -> None:
            if not isinstance(reply, Exception):
                self._unsure.pop(lease.token, None)

        self._commands.send(_release(lease, LeaseResult(LeaseOutcome.GONE)), 0, done)

    async def _watch_waits(self) -> None:
        """Wake requests that wait for a lease that is gone, and all of them if the server does not say."""
        try:
            while self._waiting and not self._closed:
                await asyncio.sleep(self._life / LOOKS if self.listening.is_set() else LOOK_SOON)
                await self._look_at(tuple(self._waiting))
        finally:
            self._watch = None

    async def _look_at(self, keys: Sequence[bytes]) -> None:
        asked = [self._commands.execute(("EXISTS", _name(key)), within=LOOK_WITHIN) for key in keys]
        for key, there in zip(keys, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(there, TimeoutError):
                self.tell(key, LeaseResult(LeaseOutcome.ALONE))  # nor would it give a lease
            elif there != 1:
                self.tell(key, None)

    async def _owner(self, lease: Lease, within: float) -> tuple[bytes | None, int]:
        """The owner's token for the key of `lease`, which takes a free key, and the milliseconds that are left."""
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

    def release(self, lease: Lease, result: LeaseResult, after: Commands | None = None) -> None:
        """Release the lease and publish the outcome, `after` the commands of that queue."""
        if self._held.pop(lease.key, None) is None:
            return

        def done(_size: int, reply: object) -> None:
            if isinstance(reply, LOST):  # else the key would not be free before it expires
                self._commands.send(_release(lease, result))
            self.tell(lease.key, result)  # requests of this worker find the record as well

        if not (after or self._commands).send(_release(lease, result), 0, done):
            self.tell(lease.key, result)

    async def _renew(self) -> None:
        life = b"%d" % (self._life * 1000)
        while True:
            await asyncio.sleep(self._life / 5)
            for lease in tuple(self._held.values()):
                self._commands.send(("EVAL", RENEW, "1", _name(lease.key), lease.token, life))
            for lease in tuple(self._unsure.values()):
                self._give_up(lease)

    async def _listen(self) -> None:
        while not self._closed:
            try:
                await self._listen_once()
            except Exception as error:  # redis-py unpacks a reply before it checks its kind
                if not isinstance(error, Failure):
                    log.warning("a message from the regional tier is malformed: %r", error)
            self.listening.clear()
            await asyncio.sleep(RECONNECT)

    async def _listen_once(self) -> None:
        """Receive published outcomes, until the connection is lost."""
        async with self._guard.link.subscription() as subscription:
            await subscription.subscribe(CHANNEL)
            self.listening.set()
            async for message in subscription.listen():
                self._receive(message.get("data"))

    def _receive(self, data: object) -> None:
        try:
            key, came, status, reason = orjson.loads(data if isinstance(data, bytes) else b"")
            result = LeaseResult(LeaseOutcome(came), int(status), str(reason))
        except (ValueError, TypeError):
            self._guard.counts.failed("message")
            return
        self.tell(str(key).encode(), result)

    async def close(self) -> None:
        """Close; the leases that are held run out."""
        self._closed = True
        tasks = self._tasks if self._watch is None else [*self._tasks, self._watch]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)


def _release(lease: Lease, result: LeaseResult) -> tuple[object, ...]:
    message = orjson.dumps((lease.key.decode(), result.outcome.value, result.status, result.reason))
    return ("EVAL", RELEASE, "1", _name(lease.key), lease.token, CHANNEL, message, result.outcome.value)


def _name(key: bytes) -> bytes:
    return key + b":lease"
