"""The limits of one worker: its buckets, running requests, and the tokens that it leases from its region's Valkey.

    known key ──► Lease.take      no round trip: the lease has an estimate, and holds tokens
                     └──► ask     few are left: a script charges the key and grants more, in the background

Without a regional tier, or while it does not respond, each worker has its share of every rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from hashlib import blake2b, sha1
from os import urandom
from typing import Any, Final

from edgecache.proxy.concurrency import Concurrency
from edgecache.semantics.rules.gcra import LATE, Bucket, Buckets, Lease
from edgecache.semantics.rules.limits import Part, RequestLimit
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Registry
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Commands
from edgecache.valkey.client import Failure, UnknownScript

log = logging.getLogger("edgecache")
BYTES_EACH: Final = 512  # of a bucket, with its key
LEAST, MOST = 4096, 131_072  # buckets
SWEEP: Final = 1.0  # seconds after which idle tokens go back
MOST_LOOKED_AT: Final = 4096  # leases in one sweep
PRESENT_EVERY: Final = 5  # sweeps between two signs of life
PRESENT_FOR: Final = 15.0  # seconds that one holds
PAUSE: Final = 1.0  # seconds without questions after one that failed
COMMAND_BYTES: Final = 200
MOST_QUEUED: Final = 2 * 1024 * 1024  # bytes of questions that wait

# One key has one number: the time at which its next request is due, in microseconds, and beside it when that was
# written: a time to come means that the clock was set back. ARGV: the interval between requests and the burst, in
# microseconds; what was spent (below zero: given back), what is wanted; and the backlog by what the worker knows. That
# is late by a round trip, and counts where Valkey has no number, or one that is less by more than a round trip takes:
# it was evicted or lost in a restart, or the clock was set forward.
LEND: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, spent, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local backlog = tonumber(ARGV[5])
local stored = redis.call('GET', KEYS[1])
local due, written = string.match(stored or '0 0', '(%d+) (%d+)')
due = math.max(now, due + math.min(0, now - written))
if not stored or now + backlog - due > 300000 then
  due = math.max(due, now + backlog)
end
due = due + spent * interval
local granted = math.max(0, math.min(wanted, math.floor((now + burst - due) / interval + 0.000001)))
due = due + granted * interval
if due > now then
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', due, now), 'PX', math.ceil((due - now) / 1000) + 1)
else
  redis.call('DEL', KEYS[1])
end
return {granted, math.floor(math.max(0, due - now))}
"""
LEND_DIGEST: Final = sha1(LEND.encode(), usedforsecurity=False).hexdigest()
# The workers of a region, by their last sign of life; one in time to come is older than a clock that was set back.
# ARGV: seconds that one holds, and the worker.
PRESENT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
redis.call('ZADD', KEYS[1], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
"""
WORKERS: Final = b"ec:limits:{workers}"
Asked = tuple[int, int, float]  # what was spent, what is wanted, and the backlog that is known
OnLent = Callable[[Lease, Any], None]  # called with the reply


class RateLimits:
    """The limits of one worker. Mutable state: its buckets, its leases, and running requests."""

    def __init__(self, clock: Callable[[], float], registry: Registry, memory: int, workers: int) -> None:
        self.clock = clock  # resident time
        self._registry = registry
        self._buckets = Buckets(max(LEAST, min(MOST, memory // 32 // BYTES_EACH)), self._settle)
        self._workers = workers
        self.region: RegionalTokens | None = None
        self.concurrency = Concurrency()
        registry.gauge(
            "edgecache_limit_keys", "Clients and other keys whose rate is known.", read=lambda: len(self._buckets)
        )

    def share_with(self, guard: Availability) -> None:
        """From now on, share rates with the workers of the region; on the running event loop."""
        self.region = self.concurrency.region = RegionalTokens(guard, self.clock, self._registry, self._workers)
        self.region.on_sign = self.concurrency.renew

    def bucket(self, limit: RequestLimit, key: tuple[Part, ...], now: float) -> Bucket:
        """The bucket that counts for `key`."""
        return self._buckets.of((limit.rate, *key), now, partial(self._made, limit, key))  # a reload may change rates

    def _made(self, limit: RequestLimit, key: tuple[Part, ...]) -> Bucket:
        assert limit.rate is not None, "only rates have buckets"
        if self.region is None:
            return Bucket(limit.rate, 1 / self._workers)
        name = b"ec:rate:{%b}" % blake2b(repr(key).encode(), digest_size=16).hexdigest().encode()
        return Lease(name, limit.rate, self.region)

    def _settle(self, bucket: Bucket) -> None:
        if isinstance(bucket, Lease) and self.region is not None:
            self.region.settle(bucket)

    def count_refused(self, limit: RequestLimit) -> None:
        """Count a request that exceeds `limit`."""
        self._registry.counter(
            "edgecache_limited", "Requests refused by a limit.", site=limit.site, rule=limit.rule
        ).value += 1

    async def close(self) -> None:
        """Give back what is leased."""
        if self.region is not None:
            await self.region.close()


class RegionalTokens:
    """Tokens from the region's Valkey. Mutable state: the leases that hold tokens, and whether Valkey responds."""

    def __init__(self, guard: Availability, clock: Callable[[], float], registry: Registry, workers: int) -> None:
        self._commands = Commands(guard, "rate limits", MOST_QUEUED)
        self._clock = clock
        self._own = workers
        self.share = 1 / workers  # of each rate, while the region does not answer
        self.name = urandom(8).hex()  # of this worker
        self.on_sign: Callable[[], None] = lambda: None  # called with each sign of life
        self._holding: set[Lease] = set()
        self._degraded = registry.counter(
            "edgecache_limit_degraded", "Requests that a worker decided with its own share, without the region."
        )
        self._is_well = True
        self._not_before = 0.0  # no question, after one that failed
        self._task = spawn(self._sweep_always(), "rate limits")

    # --- commands of others

    async def reply(self, *command: Any) -> Any:
        """The reply to a command; None if there is none in time."""
        if self._clock() < self._not_before:
            return None
        try:
            reply = await self._commands.execute(command, COMMAND_BYTES, within=LATE)
        except Failure:
            self._not_before = self._clock() + PAUSE
            return None
        self._note_answer()
        return reply

    def send(self, *command: Any) -> None:
        """Send a command whose reply does not matter."""
        self._commands.send(command, COMMAND_BYTES * len(command))

    # --- what leases ask

    def ask(self, lease: Lease, spent: int, wanted: int, backlog: float) -> bool:
        """Charge what was spent, and ask for more; False if it cannot be asked."""
        now = self._clock()
        return now >= self._not_before and self._send(lease, (spent, wanted, backlog), self._answered)

    def alone(self) -> None:
        """Count a decision without the region."""
        self._degraded.value += 1
        if self._is_well:
            self._is_well = False
            log.warning("the regional tier does not respond: each worker limits requests by itself, to its share")

    def settle(self, lease: Lease) -> None:
        """Give back what `lease` holds, or have its debt charged; it is not used any more."""
        self._holding.discard(lease)
        self._give_back(lease)

    def _send(self, lease: Lease, asked: Asked, on_reply: OnLent, *, whole: bool = False) -> bool:
        """Run the script, by its digest unless it is sent as a `whole`."""
        rate, (spent, wanted, backlog) = lease.rate, asked
        interval = 1_000_000 * rate.interval
        numbers = (f"{interval:.3f}", f"{interval * rate.burst:.3f}", spent, wanted, f"{1_000_000 * backlog:.0f}")
        script = ("EVAL", LEND) if whole else ("EVALSHA", LEND_DIGEST)

        def replied(_: int, reply: Any) -> None:
            unknown = isinstance(reply, UnknownScript) and not whole
            if not (unknown and self._send(lease, asked, on_reply, whole=True)):
                on_reply(lease, reply)

        return self._commands.send((*script, 1, lease.key, *numbers), COMMAND_BYTES, replied)

    def _answered(self, lease: Lease, reply: Any) -> None:
        if not isinstance(reply, list):
            self._not_before = self._clock() + PAUSE
            lease.failed()
            return
        granted, backlog = reply
        lease.answered(granted, backlog / 1_000_000, self._clock())
        if lease.held > 0:
            self._holding.add(lease)
        self._note_answer()

    def _note_answer(self) -> None:
        if not self._is_well:
            self._is_well = True
            log.warning("the regional tier responds: requests are limited across the region again")

    # --- what is not used

    async def _sweep_always(self) -> None:
        for number in range(1 << 62):
            if number % PRESENT_EVERY == 0:
                self.show_presence()
                self.on_sign()
            await asyncio.sleep(SWEEP)
            self.sweep()

    def show_presence(self) -> None:
        """Say that this worker is there, and learn how many are."""
        present = ("EVAL", PRESENT, 1, WORKERS, str(PRESENT_FOR), self.name)
        self._commands.send(present, COMMAND_BYTES, self._note_workers)

    def _note_workers(self, _: int, reply: Any) -> None:
        if isinstance(reply, int):
            self.share = 1 / max(self._own, reply)

    def sweep(self) -> None:
        """Give back the tokens of leases that were not used since the last sweep."""
        for _ in range(min(MOST_LOOKED_AT, len(self._holding))):
            lease = self._holding.pop()
            if lease.held == lease.unused and not lease.is_asking:
                self._give_back(lease)
            elif lease.held > 0 or lease.is_asking:
                lease.unused = lease.held
                self._holding.add(lease)

    def _give_back(self, lease: Lease) -> None:
        held = lease.give_up()
        if held:
            self._send(lease, (-held, 0, 0.0), lambda lease, reply: None)

    async def close(self) -> None:
        """Give back all that is held."""
        self._task.cancel()
        for lease in self._holding:
            self._give_back(lease)
        self._holding.clear()
        await asyncio.sleep(0)
        await self._commands.close()
