"""The access log: one JSON object per line and request, written without delaying requests.

A request appends a tuple to a list. A coarse timer formats the list in small batches, between requests, and hands the
lines to a thread, which alone touches the file: a blocked pipe or a full disk stalls that thread, and lines beyond its
bounded queue are counted and dropped. Lines are ASCII without control characters: no client can break or forge one.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import orjson

from edgecache.semantics.message import Fields, Request
from edgecache.semantics.secret_parameters import Redact
from edgecache.semantics.trace_context import trace_id

if TYPE_CHECKING:
    from edgecache.telemetry.exchange import TemplatedRequest

Text = str | bytes
Record = tuple[float, Text, str, int, int, float, Text, str, str]
WRONG_SHAPE = (TypeError, ValueError, AttributeError)
MAX_PENDING = 16 * 1024 * 1024  # bytes of lines that wait for the writer, per worker
PIECE = 64  # records formatted at once: about a quarter of a millisecond
CHUNK = 256 * 1024  # characters of lines handed over at once


class LogRecord(NamedTuple):
    """A log record. The hot path adds plain tuples in this order, which cost less."""

    time: float  # when the request began, seconds since 1970
    client: Text
    request: str  # members of a JSON object, by `members_of`
    status: int
    size: int  # bytes of body sent; logged as "bytes"
    duration_ms: float  # from the request's first byte to the answer's last
    cache: Text  # the member of Cache-Status that this POP added
    outcome: str  # result, tier and reason, as members of a JSON object
    more: str = ""  # further members, where they are known, each with a comma before it


class AccessLog:
    """The log of one worker. `fraction` of the requests, chosen at random, is logged: 0.0 none, 1.0 all.

    `write` takes whole lines in the writer's thread; without one they go to standard output. `add` belongs to
    the event loop's thread, as does `flush`, which its coarse timer calls.
    """

    add: Callable[[Record | str], None]

    def __init__(
        self,
        fraction: float,
        write: Callable[[bytes], object] | None = None,
        *,
        max_pending: int = MAX_PENDING,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._records: list[Record | str] = []
        self._max_pending = max_pending
        self._taken: list[Record | str] = []  # being formatted: those before `_at` are
        self._at = 0
        self._formatted: list[str] = []
        self._size = 0  # characters of those
        self._refused = 0  # records that did not fit the queue or could not be written as JSON
        self._quoted = Quoted()
        self._handed = 0  # bytes given to the writer
        self._writer = _Writer(write or LineWriter(sys.stdout.fileno()))
        self._chance = chance
        self.tune(fraction)

    def tune(self, fraction: float) -> None:
        """Log this fraction of the requests from now on."""
        self._fraction = fraction
        self.add = _adder(fraction, self._records, self._chance)

    def add_line(self, make: Callable[[], str]) -> None:
        """Log the line that `make` makes, if this request is one of the fraction."""
        if self._fraction < 1.0 and self._chance() >= self._fraction:
            return
        try:
            self._records.append(make())
        except WRONG_SHAPE:
            self._refused += 1

    @property
    def written(self) -> int:
        """Records that reached the file."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """Records lost because the writer was too far behind, or failed."""
        return self._refused + self._writer.failed

    def flush(self) -> None:
        """Hand what was added since the last flush to the writer; never waits."""
        while self._records or self._at < len(self._taken):
            self.flush_some()

    def flush_some(self) -> bool:
        """Flush a batch; whether records of the same flush are left."""
        if self._at == len(self._taken):
            self._taken, self._at = self._records[:], 0
            self._records.clear()
        piece = self._taken[self._at : self._at + PIECE]
        self._at += len(piece)
        lines = _lines(piece, self._quoted)
        self._refused += len(piece) - len(lines)
        self._formatted += lines
        self._size += sum(map(len, lines))
        more = self._at < len(self._taken)
        if self._formatted and (not more or self._size >= CHUNK):
            self._hand_over()
        return more

    def _hand_over(self) -> None:
        lines, self._formatted, self._size = self._formatted, [], 0
        chunk = "".join(lines).encode("ascii")
        if self._handed - self._writer.done + len(chunk) > self._max_pending:
            self._refused += len(lines)
            return
        self._handed += len(chunk)
        self._writer.take(chunk, len(lines))

    def close(self, timeout: float = 1.0) -> None:
        """Flush, and give the writer `timeout` seconds to finish; what is left then is lost."""
        self.flush()
        self._writer.end(timeout)


def _adder(fraction: float, records: list[Record | str], chance: Callable[[], float]) -> Callable[[Record | str], None]:
    if fraction >= 1.0:
        return records.append
    if fraction <= 0.0:
        return lambda record: None

    def add_some(record: Record | str) -> None:
        if chance() < fraction:
            records.append(record)

    return add_some


def _lines(records: Sequence[Record | str], quoted: Quoted) -> list[str]:
    with suppress(*WRONG_SHAPE):
        return [record if type(record) is str else line(record, quoted) for record in records]  # type: ignore[arg-type]
    lines = []
    for record in records:  # one of them is of the wrong shape, which costs itself only
        with suppress(*WRONG_SHAPE):
            lines.append(record if isinstance(record, str) else line(record, quoted))
    return lines


class Quoted(dict[Text, str]):
    """Texts as JSON strings, cached: most requests repeat method, host, user agent and target.

    Bounded: longer texts than `longest` are not remembered, and at `most` texts everything is forgotten.
    """

    longest = 256
    most = 4096

    def __missing__(self, text: Text) -> str:
        quoted = orjson.dumps(printable(text)).decode().replace("\x7f", "\\u007f")
        if len(text) <= self.longest:
            if len(self) >= self.most:
                self.clear()
            self[text] = quoted
        return quoted


def line(record: Record, quoted: Quoted) -> str:
    """The record as one JSON object and a line feed: the usual fields of `telemetry/log_fields.py`."""
    time, client, request, status, size, took_ms, cache, outcome, more = record
    return (
        f'{{"time":{time:.3f},"client":{quoted[client]},{request},"status":{status},"bytes":{size}'
        f',"duration_ms":{took_ms:.3f},"cache":{quoted[cache]},{outcome}{more}}}\n'
    )


def members_of(request: Request, quoted: Quoted, redact: Redact | None = None) -> str:
    """Members of the usual line about the request; `redact` hides secrets in URLs."""
    fields = request.fields
    target, referer = request.received_target, fields.get(b"referer") or b""
    if redact is not None:
        target, referer = redact(target), redact(referer)
    return (
        f'"method":{quoted[request.method]},"scheme":{quoted[request.scheme]},"host":{quoted[request.host]}'
        f',"target":{quoted[target]},"protocol":"HTTP/{request.version}"'
        f',"user_agent":{quoted[fields.get(b"user-agent") or b""]},"referer":{quoted[referer]}'
        f"{_trace(fields, quoted)}"
    )


def members_of_templated(hit: TemplatedRequest, quoted: Quoted, redact: Redact | None = None) -> str:
    """The same for a templated GET, without parsing it; what only its visitor decides is written once."""
    template, visitor = hit.template, hit.visitor
    target = hit.target if redact is None else redact(hit.target)
    if not visitor.logged:
        referer = visitor.referer.strip() if redact is None else redact(visitor.referer.strip())
        visitor.logged = (
            f'"protocol":"HTTP/1.1","user_agent":{quoted[visitor.agent.strip()]}'
            f',"referer":{quoted[referer]}'
            f"{_trace(template.fields, quoted)}"
        )
    return (
        f'"method":"GET","scheme":{quoted[template.scheme]},"host":{quoted[template.host]}'
        f',"target":{quoted[target]},{visitor.logged}'
    )


def _trace(fields: Fields, quoted: Quoted) -> str:
    trace = trace_id(fields.get(b"traceparent"))
    return f',"trace_id":{quoted[trace]}' if trace else ""


def printable(text: Text) -> str:
    r"""The text in ASCII, anything else as `\xe9` or `\u2028`; JSON escapes control characters but for DEL."""
    if isinstance(text, bytes):
        return text.decode("ascii", "backslashreplace")
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


class _Writer:
    """The thread that writes. Each count is changed by one thread only, so that none needs a lock."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.done = 0  # bytes that left the queue, written or failed
        self.written = 0
        self.failed = 0

    def take(self, chunk: bytes, records: int) -> None:
        """Queue a chunk; the thread starts with the first one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()
        self._queue.put((chunk, records))

    def end(self, timeout: float) -> None:
        """Let the thread finish its queue and end, waiting at most `timeout` seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            chunk, records = item
            try:
                self._write(chunk)
            except Exception:  # a full disk, a closed pipe: the requests have been answered all the same
                self.failed += records
            else:
                self.written += records
            self.done += len(chunk)


class LineWriter:
    """Writes whole lines to a file descriptor that several processes share.

    A pipe splits writes of more than PIPE_BUF bytes between processes, so each chunk is written under a lock on
    the file. After a write that failed half-way, the next one begins on a new line.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False

    def __call__(self, chunk: bytes) -> None:
        """Write all of `chunk`, waiting as long as it takes; raises OSError where the file refuses it."""
        rest = memoryview(b"\n" + chunk if self._torn else chunk)
        with self._alone():
            while rest:
                rest = rest[self._some(rest) :]
                self._torn = bool(rest)

    def _some(self, rest: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, rest)
            except BlockingIOError:  # another process has made the shared descriptor non-blocking
                wait = select.poll()
                wait.register(self._descriptor, select.POLLOUT)
                wait.poll()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        locked = False
        with suppress(OSError):  # a file system without locks: better a mixed line than none
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            locked = True
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
