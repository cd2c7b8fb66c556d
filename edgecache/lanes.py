"""Commands to Valkey, each in a task of the tier's own: a client that leaves never cancels one half-read.

A lane is a queue with a fixed number of tasks that empty it, a batch at a time: whatever waits when a task becomes free
goes out in one round trip. So reads of one event-loop turn share one `MGET`, and a busy tier makes larger batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from edgecache.rules.breaker import Breaker, State
from edgecache.tasks import spawn
from edgecache.valkey import Command, Failure, Link

READERS: Final = 2  # batches of reads under way at once
MOST_KEYS: Final = 128  # of one batch
MOST_COMMANDS: Final = 256
MOST_BYTES: Final = 64 * 1024 * 1024  # of writes that wait; more are dropped, and counted
BATCH_BYTES: Final = 4 * 1024 * 1024
QUICK: Final = 0.025  # seconds of a round trip of commands that proves the server well
Value = bytes | None
Told = Callable[[int, Any], None]  # the size as it was given, and the reply: an exception if there is none
Item = tuple[Command, int, Told | None]


class Counts(Protocol):
    """Told what came of it; the words are from closed sets."""

    def batch(self, keys: int, seconds: float) -> None:
        """A batch of reads was answered."""

    def failed(self, word: str) -> None:
        """A round trip failed."""


class Guard:
    """What all lanes of one tier share: the link, the breaker, and the clock (seconds, monotonic)."""

    def __init__(self, link: Link, breaker: Breaker, clock: Callable[[], float], counts: Counts) -> None:
        self.link = link
        self.breaker = breaker
        self.clock = clock
        self.counts = counts

    @property
    def open(self) -> bool:
        """Whether the server is let alone for now. (A closed circuit is an open way: the word is the field's.)"""
        breaker = self.breaker
        return breaker.state is not State.CLOSED and not breaker.allows(self.clock())

    def ok(self) -> None:
        """A round trip came back in time."""
        self.breaker.succeeded(self.clock())

    def failed(self, word: str) -> None:
        """One did not, or not in time."""
        self.breaker.failed(self.clock())
        self.counts.failed(word)


def failure_word(error: BaseException) -> str:
    """The kind of a failure, for the metrics."""
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return "timeout"
    if isinstance(error, ConnectionError | OSError) or type(error).__name__ == "ConnectionError":
        return "connection"
    return "reply"


class _Batch:
    """Reads that go out together: who is to be told, by key; and until when."""

    __slots__ = ("expired", "expiry", "told")

    def __init__(self) -> None:
        self.told: dict[bytes, list[Callable[[Value, str], None]]] = {}
        self.expiry: asyncio.TimerHandle | None = None
        self.expired = False

    def end(self) -> None:
        """Its time no longer runs."""
        if self.expiry is not None:
            self.expiry.cancel()


class Reads:
    """Values by key, batched. Whoever asks is told once: the value; or None and why there is none in time.

    Several who ask for one key share one read, from the moment that it is wanted until it is there.
    """

    def __init__(self, guard: Guard, budget: float, readers: int = READERS) -> None:
        self._guard = guard
        self._budget = budget  # seconds
        self._out: dict[bytes, _Batch] = {}  # every key that is wanted or under way
        self._waiting: deque[_Batch] = deque()
        self._work = asyncio.Event()
        self._closed = False  # a command may swallow the cancellation of its task
        self._tasks = [spawn(self._run(), "regional reads") for _ in range(readers)]
        self.suspects: Callable[[Sequence[bytes]], None] = lambda keys: None  # told the keys of a batch that was slow

    def get(self, key: bytes, told: Callable[[Value, str], None]) -> None:
        """Have `told` called with the value of `key`, or with None and a word; perhaps at once."""
        batch = self._out.get(key)
        if batch is not None:
            batch.told[key].append(told)
            return
        if self._guard.open:
            told(None, "open")
            return
        waiting = self._waiting
        if not waiting or len(waiting[-1].told) >= MOST_KEYS:
            batch = _Batch()
            batch.expiry = asyncio.get_running_loop().call_later(self._budget, self._expire, batch)
            waiting.append(batch)
            self._work.set()
        else:
            batch = waiting[-1]
        batch.told[key] = [told]
        self._out[key] = batch

    def _expire(self, batch: _Batch) -> None:
        """The budget is used up: whoever waits goes on without."""
        batch.expired = True
        self._guard.failed("slow")
        if batch in self._waiting:
            self._waiting.remove(batch)
        self._tell(batch, {}, "slow")

    async def _run(self) -> None:
        while not self._closed:
            if not self._waiting:
                self._work.clear()
                await self._work.wait()
                continue
            batch = self._waiting.popleft()
            keys = list(batch.told)
            values: dict[bytes, Value] = {}
            word = ""
            began = self._guard.clock()
            try:
                values = dict(zip(keys, await self._guard.link.get_many(keys), strict=True))
            except Failure as error:
                word = failure_word(error)
                if not batch.expired:
                    self._guard.failed(word)
            except ValueError:  # as many replies as keys, or this is no conversation
                word = "reply"
                self._guard.failed(word)
            took = self._guard.clock() - began
            if batch.expired:
                self.suspects(keys)
                continue
            batch.end()
            if not word:
                self._guard.ok()
                self._guard.counts.batch(len(keys), took)
            self._tell(batch, values, word)

    def _tell(self, batch: _Batch, values: dict[bytes, Value], word: str) -> None:
        for key in batch.told:
            if self._out.get(key) is batch:
                del self._out[key]
        get = values.get
        for key, all_told in batch.told.items():
            value = get(key)
            for told in all_told:
                told(value, word)

    async def close(self) -> None:
        """End; whoever waits is told that there is nothing."""
        self._closed = True
        self._work.set()
        await _cancel(self._tasks)
        for batch in dict.fromkeys(self._out.values()):
            batch.end()
            self._tell(batch, {}, "closed")


class Commands:
    """Commands other than reads, in order, batched. Bounded: when too much waits, a command fails at once."""

    def __init__(self, guard: Guard, name: str, most_bytes: int = MOST_BYTES) -> None:
        self._guard = guard
        self._most_bytes = most_bytes
        self._queue: deque[Item] = deque()
        self.queued = 0  # bytes
        self._work = asyncio.Event()
        self._closed = False  # a command may swallow the cancellation of its task
        self._tasks = [spawn(self._run(), name)]

    def send(self, command: Command, size: int = 0, told: Told | None = None) -> bool:
        """Have `command` (of about `size` bytes) sent, and `told` called; False if it is dropped at once."""
        if self._guard.open or self.queued + size > self._most_bytes:
            return False
        self._put(command, size, told)
        return True

    async def ask(self, command: Command, size: int = 0, within: float | None = None) -> Any:
        """The reply to `command`; raises one of `Failure`, TimeoutError after `within` seconds among them.

        The command goes its way whether or not anybody waits any longer.
        """
        if self._guard.open or self.queued + size > self._most_bytes:
            raise ConnectionError("the regional tier is not asked now")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(command, size, lambda _, value: None if reply.done() else reply.set_result(value))
        await asyncio.wait((reply,), timeout=within)
        if not reply.done():
            reply.cancel()
            raise TimeoutError("the regional tier was too slow")
        value = reply.result()
        if isinstance(value, Exception):
            raise value
        return value

    def _put(self, command: Command, size: int, told: Told | None) -> None:
        self._queue.append((command, size, told))
        self.queued += size
        self._work.set()

    async def _run(self) -> None:
        while not self._closed:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            batch = self._take()
            replies: list[Any]
            began = self._guard.clock()
            try:
                replies = await self._guard.link.run([command for command, _, _ in batch])
                if self._guard.clock() - began < QUICK:  # a slow write says nothing of reads, good or bad
                    self._guard.ok()
            except Failure as error:
                self._guard.failed(failure_word(error))
                replies = [error] * len(batch)
            for (_, size, told), value in zip(batch, replies, strict=False):
                self.queued -= size
                if isinstance(value, ResponseError):
                    self._guard.counts.failed("refused")
                if told is not None:
                    told(size, value)

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        while self._queue and len(batch) < MOST_COMMANDS and (not batch or size < BATCH_BYTES):
            item = self._queue.popleft()
            batch.append(item)
            size += item[1]
        return batch

    async def close(self) -> None:
        """End; what waits is dropped."""
        self._closed = True
        self._work.set()
        await _cancel(self._tasks)
        while self._queue:
            _, size, told = self._queue.popleft()
            if told is not None:
                told(size, ConnectionError("closed"))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
