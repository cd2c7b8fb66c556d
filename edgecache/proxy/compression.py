"""Compression of stored responses, once each, in a thread outside the event loop.

    consider ──► queue ──► _run: one at a time, coding by coding ──► Memory.add_coding
    improve  ──┘

Until a coding is ready, clients get the stored response. Brotli, which takes several times the CPU of the others, is
applied after them, once a response was requested in `POPULAR` different seconds. Queued and compressed responses are
charged to the memory budget; if the queue is full, a response is considered again at a later hit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

from edgecache.semantics.content_coding import codings_for
from edgecache.semantics.message import Request
from edgecache.semantics.rope import Content, Piece, pieces_of
from edgecache.semantics.rules.conditions import ResponseFacts
from edgecache.storage.memory import Entry, Memory
from edgecache.storage.own_codings import OwnCodings, RulesOfNow
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Registry

log = logging.getLogger("edgecache")

MOST_WAITING: Final = 256  # responses
MOST_BYTES: Final = 32 * 1024 * 1024  # of their contents together
WORTH: Final = 0.95  # a coding is kept if it has at most so much of the uncoded bytes
STEP: Final = 256 * 1024  # bytes that are compressed between two looks at what came of it
GZIP: Final = 31  # window bits, and the format of RFC 1952
DENSE: Final = frozenset((b"br",))  # made of popular responses alone, where there is another to begin with
LEVELS: Final = {b"gzip": 3, b"zstd": 3, b"br": 5}


class Encoder(Protocol):
    """A compressor that takes a content piece by piece."""

    def compress(self, data: Piece, /) -> bytes:
        """What comes out for `data`; it may be empty."""

    def flush(self) -> bytes:
        """The rest."""


class _Brotli:
    def __init__(self) -> None:
        import brotli

        self._compressor = brotli.Compressor(quality=LEVELS[b"br"])
        self.flush: Callable[[], bytes] = self._compressor.finish

    def compress(self, data: Piece, /) -> bytes:
        out: bytes = self._compressor.process(bytes(data))
        return out


def _gzip() -> Any:
    from isal import isal_zlib

    return isal_zlib.compressobj(LEVELS[b"gzip"], isal_zlib.DEFLATED, GZIP)


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd.ZstdCompressor(level=LEVELS[b"zstd"])


ENCODERS: Final[dict[bytes, Callable[[], Encoder]]] = {b"gzip": _gzip, b"zstd": _zstd, b"br": _Brotli}


def encoded(coding: bytes, content: Content) -> bytes | None:
    """`content` in a coding; None as soon as that is not worth it."""
    encoder, most = ENCODERS[coding](), int(len(content) * WORTH)
    out, size = [], 0
    for piece in pieces_of(content):
        for at in range(0, len(piece), STEP):
            made = encoder.compress(memoryview(piece)[at : at + STEP])
            out.append(made)
            size += len(made)
            if size > most:
                return None
    out.append(encoder.flush())
    return b"".join(out) if size + len(out[-1]) <= most else None


def _is_of_one_user(request: Request) -> bool:
    """Whether access control passes on what is of one user: the response is of one client (BREACH)."""
    tables = [table for rule in request.policy.site.rules for table in rule.actions.own.get("access", ())]
    names = [name for table in tables if table.forward_auth for name in table.forward_auth.pass_headers]
    if any(table.jwt and table.jwt.pass_credentials and table.jwt.cookie for table in tables):
        names.append("cookie")
    return any(name.lower().encode() in request.fields for name in names)


class _Order(NamedTuple):
    """A response, and the codings to be created for it."""

    entry: Entry
    made: OwnCodings
    codings: tuple[bytes, ...]
    best_first: tuple[bytes, ...]  # all that its rules allow


class Compressor:
    """Compresses stored responses where the rules of their requests say so. Mutable state: the queue, and a thread."""

    def __init__(self, memory: Memory, registry: Registry) -> None:
        self._memory = memory
        self._registry = registry
        self._waiting: deque[_Order] = deque()
        self._rules = RulesOfNow()
        self._bytes = 0  # of contents that wait
        self.task: asyncio.Task[None] | None = None  # what compresses, as long as something waits
        self._thread: ThreadPoolExecutor | None = None

    def replace_rules(self) -> None:
        """The rules have changed: what was made by the old ones is used no more, and made anew as the new ones say."""
        self._rules.replaced = True
        self._rules = RulesOfNow()

    def consider(self, request: Request, entry: Entry) -> None:
        """Compress `entry`, which answers `request`, unless that was decided before, or there is no room now."""
        policy = request.policy
        if entry.codings_made is not None and entry.codings_made.rules.replaced:
            self._memory.resize(entry)  # what was made by other rules leaves
            entry.codings_made = None
        if entry.codings_made is not None or entry.gone or not policy.compresses or entry.segments is not None:
            return
        if entry.source is not None or request.child is not None or not self._memory.has(entry.url):
            return
        facts = ResponseFacts(entry.status, entry.content_type, "hit")
        length = len(entry.content)
        compress = None if _is_of_one_user(request) else policy.for_response(facts).compress
        codings = codings_for(compress, request, entry.stored, length)
        if codings and not self._has_room(length):
            return
        made = entry.codings_made = OwnCodings(self._rules)
        if codings:
            first = tuple(coding for coding in codings if coding not in DENSE) or codings
            made.later = codings if first != codings else ()
            self._put(_Order(entry, made, first, codings))

    def improve(self, entry: Entry, now: float) -> None:
        """Note that `entry` is requested at `now`; add the dense codings once it has proven popular."""
        entry = entry.source or entry
        made = entry.codings_made
        if made is None or not made.later or not made.has_proven_popular(now):
            return
        if entry.gone or made.rules.replaced or not self._has_room(len(entry.content)):
            return
        order, made.later = made.later, ()
        self._put(_Order(entry, made, tuple(coding for coding in order if coding in DENSE), order))

    def _has_room(self, length: int) -> bool:
        """Whether a content of that length may wait too; it is counted if not."""
        has_room = len(self._waiting) < MOST_WAITING and self._bytes + length <= MOST_BYTES
        if not has_room:
            self._count("all", "busy")
        return has_room

    def _put(self, order: _Order) -> None:
        """Have a response compressed."""
        self._bytes += len(order.entry.content)
        self._memory.account.acquire(order.entry.content)
        self._waiting.append(order)
        if self.task is None:
            self.task = spawn(self._run(), "compress")

    async def _run(self) -> None:
        """Compress what waits, one response after the other."""
        try:
            while self._waiting:
                await self._compress(self._waiting.popleft())
        finally:
            self.task = None

    async def _compress(self, order: _Order) -> None:
        content = order.entry.content
        try:
            for coding in order.codings:
                if order.entry.codings_made is order.made and not order.made.rules.replaced:
                    await self._add(order.entry, order.made, coding, order.best_first)
        finally:
            self._bytes -= len(content)
            self._memory.account.release(content)

    async def _add(self, entry: Entry, made: OwnCodings, coding: bytes, order: tuple[bytes, ...]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "compress")
        content, account = entry.content, self._memory.account
        size = len(content)
        account.hold(size)  # no more is made of it
        try:
            coded = await asyncio.get_running_loop().run_in_executor(self._thread, encoded, coding, content)
        except Exception as error:
            self._count(coding.decode(), "failed")
            log.error("a response could not be compressed: %s: %r", coding.decode(), error)
            return
        finally:
            account.hold(-size)
        is_wanted = entry.codings_made is made and entry.content is content
        if coded is None:
            self._count(coding.decode(), "larger")
        elif is_wanted and self._memory.add_coding(entry, coding, coded, order):
            self._count(coding.decode(), "made")
        else:
            self._count(coding.decode(), "gone")

    def _count(self, coding: str, outcome: str) -> None:
        meaning = "Codings made of stored responses: made, larger than those, gone by then, failed, or put off (busy)."
        self._registry.counter("edgecache_compressions", meaning, coding=coding, outcome=outcome).value += 1

    def close(self) -> None:
        """End the thread once it is done with what it does."""
        self._waiting.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
