"""Batched commands to Valkey, independent of requests: a client that leaves never cancels a round trip.

Whatever is enqueued while the round trips allowed at once are under way goes out together in the next one. So the
reads of one event-loop turn share one `MGET`, and a busy tier makes larger batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import InvalidResponse, ResponseError

from edgecache.tasks import spawn
from edgecache.valkey.availability import QUICK, Availability, cancel, failure_word
from edgecache.valkey.client import Command, Failure
from edgecache.valkey.mget_connection import Values

log = logging.getLogger("edgecache")
MOST_OUT: Final = 2  # batches of reads under way at once
MOST_KEYS: Final = 128  # of one batch
MOST_COMMANDS: Final = 256
MOST_BYTES: Final = 64 * 1024 * 1024  # of writes that wait; more are dropped, and counted
BATCH_BYTES: Final = 4 * 1024 * 1024
SLICES: Final = 16  # of the time that a reply may take
GRACE: Final = 0.005  # seconds to read what came while the event loop stood still
Value = bytes | None
OnValue = Callable[[Value, str], None]
OnReply = Callable[[int, Any], None]  # the size as it was given, and the reply: an exception if there is none
Item = tuple[Command, int, OnReply | None]


class _Batch:
    """Reads that go out together, their callbacks by key, and their deadline in the event loop's seconds."""

    __slots__ = ("began", "callbacks", "deadline", "expired", "keys")

    def __init__(self, deadline: float) -> None:
        self.keys: list[bytes] = []
        self.callbacks: list[list[OnValue]] = []  # of each key; empty once they are called
        self.deadline = deadline
        self.began = 0.0  # when it went out, on the guard's clock
        self.expired = False  # it was not answered in time


class Reads:
    """Batched reads of values by key. Each callback is called once: with the value, or with None and the reason.

    The reads of one turn of the event loop go out at its end, in one round trip; while `most_out` of those are under
    way, reads wait and make a larger one. Reads of a key that is already being read share that read. No round trip
    costs a task or a timer.
    """

    def __init__(self, guard: Availability, budget: float, most_out: int = MOST_OUT, *, patient: bool = False) -> None:
        self._guard = guard
        self._patient = patient
        self._budget = budget  # seconds
        self._patience = guard.link.timeout  # seconds, after which the connection is aborted
        self._most_out = most_out
        self._connection = guard.link.mget_connection()
        self._connection.open()
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[bytes, list[OnValue]] = {}  # every key that waits or is under way, and not late
        self._waiting: deque[_Batch] = deque()  # not yet sent; the last one may take more keys
        self._out: deque[_Batch] = deque()  # sent, in their order
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None  # one for all deadlines, however many batches
        self._timer_at = 0.0
        self._postponed = False
        self.suspects: Callable[[Sequence[bytes]], None] = lambda keys: None  # called with the keys of a bad batch

    def get(self, key: bytes, on_value: OnValue) -> None:
        """Have `on_value` called with the value of `key`, or with None and a word; perhaps at once."""
        callbacks = self._wanted.get(key)
        if callbacks is not None:
            callbacks.append(on_value)
            return
        if self._guard.open and (not self._patient or self._guard.unresponsive):
            on_value(None, "open")
            return
        waiting = self._waiting
        batch = waiting[-1] if waiting else self._begin()
        if len(batch.keys) >= MOST_KEYS:
            batch = self._begin()
        callbacks = self._wanted[key] = [on_value]
        batch.keys.append(key)
        batch.callbacks.append(callbacks)

    def _begin(self) -> _Batch:
        batch = _Batch(self._loop.time() + self._budget)
        self._waiting.append(batch)
        self._schedule(batch.deadline)
        if not self._flushing and len(self._out) < self._most_out:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return batch

    def _flush(self) -> None:
        """Send the batches that wait, up to `most_out`."""
        self._flushing = False
        while self._waiting and len(self._out) < self._most_out:
            batch = self._waiting.popleft()
            batch.began = self._guard.clock()
            self._out.append(batch)
            self._connection.read(batch.keys, partial(self._answered, batch))

    def _answered(self, batch: _Batch, values: Values | None, error: BaseException | None) -> None:
        if batch in self._out:
            self._out.remove(batch)
        word = "" if error is None else failure_word(error)
        if batch.expired or word == "reply":
            self.suspects(batch.keys)
        if batch.expired:
            pass  # counted
        elif word:
            self._guard.failed(word)
        else:
            took = self._guard.clock() - batch.began
            if took <= QUICK or not self._patient:
                self._guard.answered()
            else:
                self._guard.answered_late()
            self._guard.counts.batch(len(batch.keys), took)
        if self._waiting and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._deliver(batch, values, word)

    def _expire(self) -> None:
        """Answer the reads that have used up their budget with None; abort round trips that take far too long."""
        now = self._loop.time()
        self._timer = None
        if now - self._timer_at > GRACE and not self._postponed:
            self._postponed = True  # the event loop was blocked: what has come meanwhile is still to be read
            self._schedule(now + GRACE / 2)
            return
        self._postponed = False
        late = [batch for batch in (*self._out, *self._waiting) if not batch.expired and batch.deadline <= now]
        for batch in late:
            batch.expired = True
            self._guard.failed("slow")
            if batch in self._waiting:
                self._waiting.remove(batch)
            self._deliver(batch, None, "slow")
        hasty = self._guard.open and not self._patient
        if self._out and (hasty or self._out[0].deadline + self._patience <= now):
            self._connection.abort()  # what comes next must not wait behind it
        for batch in (*self._out, *self._waiting):
            self._schedule(batch.deadline + (self._patience if batch.expired else 0.0))

    def _schedule(self, time: float) -> None:
        """Have `_expire` run at `time` at the latest."""
        if self._timer is None or self._timer_at > time:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(time, self._expire), time

    def _deliver(self, batch: _Batch, values: Values | None, word: str) -> None:
        wanted, callbacks = self._wanted, batch.callbacks
        if not callbacks:  # they were answered when it expired
            return
        batch.callbacks = []
        for key in batch.keys:
            del wanted[key]
        for of_one, value in zip(callbacks, values or (None,) * len(callbacks), strict=True):
            for on_value in of_one:
                _call(on_value, value, word)

    async def close(self) -> None:
        """Close; the reads that wait are answered with None."""
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.close()
        batches = (*self._out, *self._waiting)
        self._out.clear()
        self._waiting.clear()
        for batch in batches:
            self._deliver(batch, None, "closed")


def _call(on_value: OnValue, value: Value, word: str) -> None:
    try:
        on_value(value, word)
    except Exception:  # a bug costs one request, not all that share its round trip
        log.exception("a bug: a read could not be told")


class Commands:
    """Commands other than reads, in order, batched. Bounded: when too much waits, a command fails at once.

    A patient queue: no client waits for its replies, so that only an unresponsive server is not used.
    """

    def __init__(self, guard: Availability, name: str, most_bytes: int = MOST_BYTES) -> None:
        self._guard = guard
        self._most_bytes = most_bytes
        self._queue: deque[Item] = deque()
        self.queued = 0  # bytes
        self._work = asyncio.Event()
        self._closed = False  # a command may swallow the cancellation of its task
        self._tasks = [spawn(self._run(), name)]

    def send(self, command: Command, size: int = 0, on_reply: OnReply | None = None) -> bool:
        """Enqueue `command` (of about `size` bytes), and have `on_reply` called; False if it is dropped at once."""
        if not self._takes(size):
            return False
        self._enqueue(command, size, on_reply)
        return True

    async def execute(self, command: Command, size: int = 0, within: float | None = None) -> Any:
        """The reply to `command`; raises one of `Failure`, TimeoutError after `within` seconds among them.

        The command is sent even if its caller stops waiting.
        """
        if not self._takes(size):
            raise ConnectionError("the regional tier is not asked now")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(command, size, lambda _, value: None if reply.done() else reply.set_result(value))
        for _ in range(SLICES if within is not None else 1):  # a blocked event loop loses one of them
            if not reply.done():
                await asyncio.wait((reply,), timeout=None if within is None else within / SLICES)
        if not reply.done():  # it may have come while the event loop was blocked
            await asyncio.wait((reply,), timeout=GRACE)
        if not reply.done():
            reply.cancel()
            raise TimeoutError("the regional tier was too slow")
        value = reply.result()
        if isinstance(value, Exception):
            raise value
        return value

    def _takes(self, size: int) -> bool:
        return not self._guard.unresponsive and self.queued + size <= self._most_bytes

    def _enqueue(self, command: Command, size: int, on_reply: OnReply | None) -> None:
        self._queue.append((command, size, on_reply))
        self.queued += size
        self._work.set()

    async def _run(self) -> None:
        while not self._closed:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            batch = self._take()
            for item, value in zip(batch, await self._replies(batch), strict=True):
                self._deliver(item, value)

    async def _replies(self, batch: list[Item]) -> Sequence[Any]:
        """The replies to `batch`; if there are none, the commands that wait fail with it."""
        guard = self._guard
        began = guard.clock()
        try:
            replies = await guard.link.run([command for command, _, _ in batch])
            if len(replies) != len(batch):
                raise InvalidResponse("not as many replies as commands")
            if all(isinstance(reply, Exception) and not isinstance(reply, ResponseError) for reply in replies):
                raise replies[0]  # of a cluster no node has answered; or it is loading
            if guard.clock() - began < QUICK:
                guard.answered()
            else:
                guard.answered_late()
            return replies
        except Failure as error:
            guard.unanswered(failure_word(error), guard.clock() - began)
            problem: BaseException = error
        except Exception as error:  # whatever redis-py makes of a broken server
            log.exception("a bug: commands to the regional tier failed")
            guard.failed("reply")
            problem = error
        for _ in range(len(self._queue) if guard.unresponsive else 0):
            self._deliver(self._queue.popleft(), problem)
        return [problem] * len(batch)

    def _deliver(self, item: Item, value: Any) -> None:
        _, size, on_reply = item
        self.queued -= size
        if isinstance(value, ResponseError):
            self._guard.counts.failed("refused")
        if on_reply is not None:
            on_reply(size, value)

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        while self._queue and len(batch) < MOST_COMMANDS and (not batch or size < BATCH_BYTES):
            item = self._queue.popleft()
            batch.append(item)
            size += item[1]
        return batch

    async def close(self) -> None:
        """Close; the commands that wait are dropped."""
        self._closed = True
        self._work.set()
        await cancel(self._tasks)
        while self._queue:
            _, size, on_reply = self._queue.popleft()
            if on_reply is not None:
                on_reply(size, ConnectionError("closed"))
