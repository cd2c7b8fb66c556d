"""Commands to Valkey, each in a task of the tier's own: a client that leaves never cancels one half-read.

A lane is a queue with a fixed number of tasks that empty it, a batch at a time: whatever waits when a task becomes free
goes out in one round trip. So reads of one event-loop turn share one `MGET`, and a busy tier makes larger batches.
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
from edgecache.valkey.availability import QUICK, Guard, cancel, failure_word
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
Told = Callable[[Value, str], None]
Done = Callable[[int, Any], None]  # the size as it was given, and the reply: an exception if there is none
Item = tuple[Command, int, Done | None]


class _Batch:
    """Reads that go out together: who is to be told, by key; and until when, in the loop's seconds."""

    __slots__ = ("began", "deadline", "expired", "keys", "told")

    def __init__(self, deadline: float) -> None:
        self.keys: list[bytes] = []
        self.told: list[list[Told]] = []  # of each key; empty once they are told
        self.deadline = deadline
        self.began = 0.0  # when it went out, on the guard's clock
        self.expired = False  # it was not answered in time


class Reads:
    """Values by key, batched. Whoever asks is told once: the value; or None and why there is none in time.

    What is wanted in one turn of the event loop goes out at its end, in one round trip; while `most_out` of those are
    under way, what is wanted waits and makes a larger one. Several who ask for one key share one read, from the moment
    that it is wanted until it is there. No round trip costs a task or a timer.
    """

    def __init__(self, guard: Guard, budget: float, most_out: int = MOST_OUT, *, patient: bool = False) -> None:
        self._guard = guard
        self._patient = patient
        self._budget = budget  # seconds
        self._patience = guard.link.timeout  # seconds, after which the connection is given up
        self._most_out = most_out
        self._line = guard.link.line()
        self._line.open()
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[bytes, list[Told]] = {}  # every key that is wanted or under way, and not late
        self._waiting: deque[_Batch] = deque()  # not yet sent; the last one may take more keys
        self._out: deque[_Batch] = deque()  # sent, in their order
        self._flushing = False
        self._look: asyncio.TimerHandle | None = None  # at the deadlines: one timer, however many batches
        self._look_time = 0.0
        self._postponed = False
        self.suspects: Callable[[Sequence[bytes]], None] = lambda keys: None  # told the keys of a bad batch

    def get(self, key: bytes, told: Told) -> None:
        """Have `told` called with the value of `key`, or with None and a word; perhaps at once."""
        also = self._wanted.get(key)
        if also is not None:
            also.append(told)
            return
        if self._guard.open and (not self._patient or self._guard.silent):
            told(None, "open")
            return
        waiting = self._waiting
        batch = waiting[-1] if waiting else self._begin()
        if len(batch.keys) >= MOST_KEYS:
            batch = self._begin()
        all_told = self._wanted[key] = [told]
        batch.keys.append(key)
        batch.told.append(all_told)

    def _begin(self) -> _Batch:
        batch = _Batch(self._loop.time() + self._budget)
        self._waiting.append(batch)
        self._look_at(batch.deadline)
        if not self._flushing and len(self._out) < self._most_out:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return batch

    def _flush(self) -> None:
        """Send what waits, as far as it may be under way."""
        self._flushing = False
        while self._waiting and len(self._out) < self._most_out:
            batch = self._waiting.popleft()
            batch.began = self._guard.clock()
            self._out.append(batch)
            self._line.ask(batch.keys, partial(self._answered, batch))

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
                self._guard.ok()
            else:
                self._guard.heard()
            self._guard.counts.batch(len(batch.keys), took)
        if self._waiting and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._tell(batch, values, word)

    def _expire(self) -> None:
        """Whoever has waited for the whole budget goes on without; what takes far too long is given up."""
        now = self._loop.time()
        self._look = None
        if now - self._look_time > GRACE and not self._postponed:
            self._postponed = True  # the event loop stood still: what has come meanwhile is still to be read
            self._look_at(now + GRACE / 2)
            return
        self._postponed = False
        late = [batch for batch in (*self._out, *self._waiting) if not batch.expired and batch.deadline <= now]
        for batch in late:
            batch.expired = True
            self._guard.failed("slow")
            if batch in self._waiting:
                self._waiting.remove(batch)
            self._tell(batch, None, "slow")
        hasty = self._guard.open and not self._patient
        if self._out and (hasty or self._out[0].deadline + self._patience <= now):
            self._line.give_up()  # what comes next must not wait behind it
        for batch in (*self._out, *self._waiting):
            self._look_at(batch.deadline + (self._patience if batch.expired else 0.0))

    def _look_at(self, time: float) -> None:
        """See to it that `_expire` runs at `time` at the latest."""
        if self._look is None or self._look_time > time:
            if self._look is not None:
                self._look.cancel()
            self._look, self._look_time = self._loop.call_at(time, self._expire), time

    def _tell(self, batch: _Batch, values: Values | None, word: str) -> None:
        wanted, all_told = self._wanted, batch.told
        if not all_told:  # they were told that it is slow
            return
        batch.told = []
        for key in batch.keys:
            del wanted[key]
        for told_of_one, value in zip(all_told, values or (None,) * len(all_told), strict=True):
            for told in told_of_one:
                try:
                    told(value, word)
                except Exception:  # a bug costs one request, not all that share its round trip
                    log.exception("a bug: a read could not be told")

    async def close(self) -> None:
        """End; whoever waits is told that there is nothing."""
        if self._look is not None:
            self._look.cancel()
        await self._line.close()
        batches = (*self._out, *self._waiting)
        self._out.clear()
        self._waiting.clear()
        for batch in batches:
            self._tell(batch, None, "closed")


class Commands:
    """Commands other than reads, in order, batched. Bounded: when too much waits, a command fails at once.

    A patient lane: what it does is nobody's first byte, so that only a silent server is let alone.
    """

    def __init__(self, guard: Guard, name: str, most_bytes: int = MOST_BYTES) -> None:
        self._guard = guard
        self._most_bytes = most_bytes
        self._queue: deque[Item] = deque()
        self.queued = 0  # bytes
        self._work = asyncio.Event()
        self._closed = False  # a command may swallow the cancellation of its task
        self._tasks = [spawn(self._run(), name)]

    def send(self, command: Command, size: int = 0, told: Done | None = None) -> bool:
        """Have `command` (of about `size` bytes) sent, and `told` called; False if it is dropped at once."""
        if not self._takes(size):
            return False
        self._put(command, size, told)
        return True

    async def ask(self, command: Command, size: int = 0, within: float | None = None) -> Any:
        """The reply to `command`; raises one of `Failure`, TimeoutError after `within` seconds among them.

        The command goes its way whether or not anybody waits any longer.
        """
        if not self._takes(size):
            raise ConnectionError("the regional tier is not asked now")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(command, size, lambda _, value: None if reply.done() else reply.set_result(value))
        for _ in range(SLICES if within is not None else 1):  # a loop that stands still loses one of them
            if not reply.done():
                await asyncio.wait((reply,), timeout=None if within is None else within / SLICES)
        if not reply.done():  # it may have come while the event loop stood still, which is no fault of the server's
            await asyncio.wait((reply,), timeout=GRACE)
        if not reply.done():
            reply.cancel()
            raise TimeoutError("the regional tier was too slow")
        value = reply.result()
        if isinstance(value, Exception):
            raise value
        return value

    def _takes(self, size: int) -> bool:
        return not self._guard.silent and self.queued + size <= self._most_bytes

    def _put(self, command: Command, size: int, told: Done | None) -> None:
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
            for item, value in zip(batch, await self._replies(batch), strict=True):
                self._tell(item, value)

    async def _replies(self, batch: list[Item]) -> Sequence[Any]:
        """What the server says to each; if it says nothing, what waits behind need not wait for that, too."""
        guard = self._guard
        began = guard.clock()
        try:
            replies = await guard.link.run([command for command, _, _ in batch])
            if len(replies) != len(batch):
                raise InvalidResponse("not as many replies as commands")
            if all(isinstance(reply, Exception) and not isinstance(reply, ResponseError) for reply in replies):
                raise replies[0]  # of a cluster no node has answered; or it is loading
            if guard.clock() - began < QUICK:
                guard.ok()
            else:
                guard.heard()
            return replies
        except Failure as error:
            guard.unheard(failure_word(error), guard.clock() - began)
            problem: BaseException = error
        except Exception as error:  # whatever a broken server makes of redis-py
            log.exception("a bug: commands to the regional tier failed")
            guard.failed("reply")
            problem = error
        for _ in range(len(self._queue) if guard.silent else 0):
            self._tell(self._queue.popleft(), problem)
        return [problem] * len(batch)

    def _tell(self, item: Item, value: Any) -> None:
        _, size, told = item
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
        await cancel(self._tasks)
        while self._queue:
            _, size, told = self._queue.popleft()
            if told is not None:
                told(size, ConnectionError("closed"))
