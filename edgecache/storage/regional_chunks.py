"""Bodies too large for one record: written to the regional tier while they arrive, read from it while they are sent.

No more than a few chunks of a body are in this process at a time. A body larger than a share of the server's memory,
or whose first chunks are evicted before the last are written, is not stored, and its chunks are deleted: it would evict
others, and could not be read. The record is written last, so that no incomplete body is found. A chunk that is missing
all the same is fetched from the origin, or the response is cut off visibly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import urandom
from typing import Any, Final, Protocol

from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Piece
from edgecache.storage.record import Codec, Corrupt, Record, chunk_key
from edgecache.storage.tier_queue import ReadLane, WriteLane
from edgecache.wire.body import Body
from edgecache.wire.body_readers import WINDOW, Cursor
from edgecache.wire.slow_readers import SlowReaders

CHUNK: Final = 128 * 1024  # bytes
BACKLOG: Final = 4 * 1024 * 1024  # bytes that one body may have waiting to be written
PATIENCE: Final = 1.0  # seconds that a body waits for a slow tier; then it is not stored
AHEAD: Final = 4  # chunks read ahead for readers that keep up, within the window of a body that is not kept
KEPT_UP: Final = 1024 * 1024  # bytes that readers have to take as they come before more is read ahead
LONGER: Final = 60.0  # seconds that chunks outlive their record
LOOK_EVERY: Final = 32  # chunks, after which the first one is checked for eviction


def chunk_keys(base: bytes, record: Record, span: Span) -> Iterator[bytes]:
    """The names of the chunks of a record's body that hold `span` of it."""
    for number in range(span.first // CHUNK, (span.end + CHUNK - 1) // CHUNK):
        yield chunk_key(base, record.chunks, number)


class Written(Protocol):
    """Called when all chunks of a body are enqueued."""

    def __call__(self, name: bytes, length: int, small: bytes | None, /) -> bytes:
        """Write the record of a body in chunks `name`, or that is `small`; returns its key, empty if refused."""


class ChunkWriter:
    """A reader of a body that writes it in chunks. A `Sink`. It gives up at the first error."""

    def __init__(
        self,
        writes: WriteLane,
        codec: Codec,
        base: bytes,
        life: float,
        inline: int,
        largest: Callable[[], int],
        admits: Callable[[int], bool],
        length: int,
        written: Written,
        given_up: Callable[[], None],
    ) -> None:
        self._writes = writes
        self._codec = codec
        self._base = base
        self._life = b"%d" % ((life + LONGER) * 1000)
        self._inline = inline
        self._largest = largest
        self._admits = admits  # whether a body of that length may be stored
        self._length = length  # bytes that it will have, or 0
        self._written = written
        self._on_given_up = given_up
        self._name = urandom(8).hex().encode()
        self._held: list[Piece] = []
        self._held_size = 0
        self._number = 0
        self._size = 0
        self._backlog = 0
        self.given_up = False
        self._record = b""  # its key, once it is enqueued behind its chunks
        self._patience: asyncio.TimerHandle | None = None
        self._reads: tuple[Body, Cursor] | None = None

    def read(self, body: Body) -> None:
        """Write `body` as it arrives."""
        cursor = body.read_into(self, behind=True)
        if self.given_up:
            body.leave(cursor)
        elif cursor in body.readers:
            self._reads = (body, cursor)

    @property
    def writable(self) -> bool:
        """Whether the tier keeps up."""
        return self.given_up or self._backlog < BACKLOG

    def write(self, piece: Piece) -> None:
        """Take the next piece."""
        if self.given_up:
            return
        self._held.append(piece)
        self._held_size += len(piece)
        self._size += len(piece)
        if self._is_too_large:
            self._give_up()
            return
        if self._held_size >= CHUNK:
            self._send(last=False)
        if not self.writable and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)

    def _send(self, *, last: bool) -> None:
        data = b"".join(self._held)
        whole = len(data) if last else len(data) // CHUNK * CHUNK
        for start in range(0, whole, CHUNK):
            key = chunk_key(self._base, self._name, self._number)
            self._number += 1
            sealed = self._codec.seal(key, data[start : min(start + CHUNK, whole)])
            if not self._writes.send(("SET", key, sealed, "PX", self._life), len(sealed), self._done):
                self._give_up()
                return
            self._backlog += len(sealed)
            if self._number % LOOK_EVERY == 0:
                self._look((chunk_key(self._base, self._name, 0),))
        rest = data[whole:]
        self._held, self._held_size = ([rest] if rest else []), len(rest)

    def _done(self, size: int, reply: Any) -> None:
        """A chunk was written, or refused."""
        self._backlog -= size
        if isinstance(reply, Exception):
            self._give_up()
        elif self.writable:
            self._catch_up()

    @property
    def _is_too_large(self) -> bool:
        """Whether the body is larger than the tier takes, as far as both are known."""
        size = max(self._size, self._length)
        return size > self._largest() or not self._admits(size)

    def _look(self, keys: Sequence[bytes]) -> None:
        """Give up if the server has evicted one of `keys` by the time that all earlier commands are executed."""

        def counted(_: int, there: Any) -> None:
            evicted = isinstance(there, int) and there != len(keys)  # else the server did not reply
            if evicted or self._is_too_large:
                self._give_up()

        self._writes.send(("EXISTS", *keys), 0, counted)

    def _catch_up(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            if self._reads is not None:
                body, cursor = self._reads
                body.taken(cursor)

    def finish(self) -> None:
        """The body is complete."""
        self._reads = None
        if self.given_up:
            return
        if self._size <= self._inline:
            if not self._written(b"", self._size, b"".join(self._held)):
                self._on_given_up()
            return
        self._send(last=True)
        if not self.given_up:
            self._record = self._written(self._name, self._size, None)
            if self._record:
                self._look([chunk_key(self._base, self._name, number) for number in range(self._number)])
            else:
                self._give_up()

    def abort(self) -> None:
        """The body will never be complete."""
        self._reads = None
        self._give_up()

    def goes_alone(self, at: int) -> bool:
        """It has no other way, and a timeout of its own."""
        return False

    def _give_up(self) -> None:
        if self.given_up:
            return
        self.given_up = True
        self._on_given_up()
        self._held.clear()
        if self._record:  # a chunk that was sent before it was refused
            self._writes.send(("UNLINK", self._record))
        for number in range(self._number):
            self._writes.send(("UNLINK", chunk_key(self._base, self._name, number)))
        if self._reads is not None:
            (body, cursor), self._reads = self._reads, None
            body.leave(cursor)
            body.taken(cursor)


class Hole(Protocol):
    """Called when a chunk is missing."""

    def __call__(self, reader: ChunkReader, at: int, /) -> None:
        """The body of `reader` ends at byte `at` of the whole."""


class Opens(Protocol):
    """Opens what was sealed."""

    def open(self, key: bytes, data: bytes) -> Piece:
        """The plaintext that was sealed for `key`; raises `Corrupt`."""


class ChunkReader:
    """The source of the bytes `span` of a body that lies in chunks; only the chunks that hold them are read.

    `hole` is called with the place at which it ends early, to go on from there or to fail.
    """

    def __init__(self, reads: ReadLane, codec: Opens, base: bytes, record: Record, span: Span, hole: Hole) -> None:
        self.body = Body(self)
        self.span = span
        self._reads = reads
        self._codec = codec
        self._keys = list(chunk_keys(base, record, span))
        self._whole = record.length
        self._hole = hole
        self._next = 0  # the chunk to read
        self._kept_up = 0  # bytes that readers have taken as they came
        self._slow_readers = SlowReaders()
        self._out = 0  # chunks being read
        self._there: dict[int, Piece] = {}
        self._written = 0  # chunks
        self._paused = False
        self._over = False
        self._rest: tuple[Body, Cursor] | None = None

    def start(self) -> None:
        """Begin reading."""
        self._read_ahead()

    def _read_ahead(self) -> None:
        while not self._paused and not self._over and self._next < len(self._keys) and self._has_room:
            number = self._next
            self._next += 1
            self._out += 1
            self._reads.get(self._keys[number], partial(self._read, number))

    @property
    def _has_room(self) -> bool:
        """Whether one more chunk may be read: all of those being read may arrive after the readers have stopped."""
        if not self._out:
            return True
        if self._kept_up < KEPT_UP or self._out >= AHEAD:
            return False
        return self.body.kept or self.body.held + (self._out + len(self._there)) * CHUNK <= WINDOW

    def _read(self, number: int, value: bytes | None, word: str) -> None:
        self._out -= 1
        if self._over:
            return
        content = self._opened(number, value)
        if content is None:
            self._over = True
            self._hole(self, self.span.first + self.body.size)
            return
        self._there[number] = content
        self._pass_on()

    def _pass_on(self) -> None:
        while self._written in self._there and not self._over:  # taking a piece may meet one
            piece = self._there.pop(self._written)
            self._written += 1
            self.body.write(piece)
        if self._over:
            return
        if self._written == len(self._keys):
            self._over = True
            self._slow_readers.unwatch()
            self.body.finish()
        else:
            self._kept_up = 0 if self._paused else self._kept_up + CHUNK
            self._read_ahead()

    def go_on_with(self, rest: Body, skip: int) -> None:
        """Continue from `rest`, after `skip` bytes of it."""
        cursor = rest.read_into(self, skip=skip)
        if cursor in rest.readers:
            self._rest = (rest, cursor)

    # --- a Sink, of the rest that is fetched elsewhere

    @property
    def writable(self) -> bool:
        """Whether our own readers keep up."""
        return not self._paused

    def write(self, piece: Piece) -> None:
        """The next piece of the rest."""
        self.body.write(piece)

    def finish(self) -> None:
        """The rest is complete."""
        self._rest = None
        if self.body.size == len(self.span):
            self.body.finish()
        else:
            self.body.fail()

    def abort(self) -> None:
        """The rest will never be complete."""
        self._rest = None
        self.body.fail()

    def goes_alone(self, at: int) -> bool:
        """There is no other way."""
        return False

    def _opened(self, number: int, value: bytes | None) -> Piece | None:
        if value is None:
            return None
        begin = (self.span.first // CHUNK + number) * CHUNK  # in the whole
        try:
            content = self._codec.open(self._keys[number], value)
        except Corrupt:
            return None
        if len(content) != min(CHUNK, self._whole - begin):
            return None
        return content[max(0, self.span.first - begin) : self.span.end - begin]

    # --- the body's Source

    def pause_reading(self) -> None:
        """Read no further for now."""
        self._paused = True
        self._slow_readers.watch(self.body)

    def resume_reading(self) -> None:
        """Go on."""
        self._paused = False
        self._slow_readers.unwatch()
        if self._rest is not None:
            rest, cursor = self._rest
            rest.taken(cursor)
        else:
            self._read_ahead()

    def abandoned(self) -> None:
        """Stop: no reader is left."""
        self._over = True
        self._slow_readers.unwatch()
        if self._rest is not None:
            (rest, cursor), self._rest = self._rest, None
            rest.leave(cursor)
        self.body.fail()
