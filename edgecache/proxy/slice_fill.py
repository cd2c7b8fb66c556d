"""A large whole that no tier takes is cut into slices as it arrives, while it goes to the client that has asked for it.

It costs the origin no request more. Each slice is complete in the tiers once it has passed; what is stored already, or
arrives by another request, is not stored again. A request that needs a slice which is about to come waits for it. When
no client reads the whole any more, two more slices are read, and the rest is left with the origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from edgecache.proxy.collapsing import Cutting, Filling, Unshareable
from edgecache.proxy.components import Parts
from edgecache.proxy.fetch import Fetcher
from edgecache.proxy.slice_fetch import SliceFetcher
from edgecache.semantics import slices
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Piece
from edgecache.semantics.slices import Head, Slice
from edgecache.semantics.stored_response import Stored
from edgecache.storage.memory import Entry
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor

SOON: Final = 4  # slices before it arrives, a slice is waited for
AFTER: Final = 2  # slices that are read on when no client is left: others may leave a little later
LEAST: Final = 8  # slices that a whole has more of: what is shorter arrives soon, and may change often
PATIENCE: Final = 0.5  # seconds that it is waited for: the client of the whole may be slow


class Cut:
    """One whole as it is cut. A `Sink` of its body."""

    writable = True  # the client of the whole sets the pace

    def __init__(self, fetcher: SliceFetcher, whole: Request, reply: Reply, head: Head, size: int, span: Span) -> None:
        self.head = head
        self.number = -(-span.first // size) - 1  # of the slice that arrives
        self._more = AFTER
        self._skip = (self.number + 1) * size - span.first  # bytes before the next one
        self._end_of_span = span.end
        self._fetcher = fetcher
        self._whole = whole
        self._reply = reply
        self._size = size
        self._left = 0  # bytes of that slice that are to come
        self._slice: Body | None = None  # its content; None if it is stored already
        self._begins: dict[int, asyncio.Future[None]] = {}  # slices that are waited for
        self._cursor: Cursor | None = None

    def start(self) -> None:
        """Begin reading."""
        cursor = self._reply.body.read_into(self, behind=True, follows=True)
        if cursor in self._reply.body.readers:
            self._cursor = cursor

    def is_of(self, whole: Request) -> bool:
        """Whether it is the response to requests like `whole`, for the same URL."""
        return primary_key(whole) == primary_key(self._whole)

    def will_bring(self, number: int) -> bool:
        """Whether the slice of that number is about to come."""
        end = min((number + 1) * self._size, self.head.whole)
        return self.number < number <= self.number + SOON and self.writable and end <= self._end_of_span

    async def has_begun(self, number: int) -> None:
        """Wait until that slice arrives, or will not come this way, or for too long."""
        begins = self._begins.get(number)
        if begins is None:
            begins = self._begins[number] = asyncio.get_running_loop().create_future()
        await asyncio.wait((begins,), timeout=PATIENCE)

    # --- a Sink

    def write(self, piece: Piece) -> None:
        """The next piece of the whole."""
        at = min(self._skip, len(piece))
        self._skip -= at
        while at < len(piece) and self.writable:
            if not self._left and not self._begin():
                self._leave()
                break
            wanted = min(self._left, len(piece) - at)
            if self._slice is not None:
                self._slice.write(piece if wanted == len(piece) else bytes(memoryview(piece)[at : at + wanted]))
            at += wanted
            self._left -= wanted
            if not self._left and self._slice is not None:
                self._slice.finish()
                self._slice = None

    def _begin(self) -> bool:
        """The next slice begins; False if not all of it will come, or no client has been left for some."""
        wanted = Slice(self._size, self.number + 1, self.head.version)
        left = min(self._size, self.head.whole - wanted.first)
        if self._cursor is not None and not self._reply.body.awaited:
            self._more -= 1
        if self._more < 0 or wanted.first + left > self._end_of_span:
            return False
        self.number, self._left = wanted.number, left
        self._slice = self._fetcher.fill_with_cut(self._whole, wanted, self._reply, self.head)
        if (begins := self._begins.pop(self.number, None)) is not None and not begins.done():
            begins.set_result(None)
        return True

    def _leave(self) -> None:
        """Read no further."""
        self._end()
        if self._cursor is not None:
            self._reply.body.leave(self._cursor)

    def finish(self) -> None:
        """The whole is complete."""
        self._end()

    def abort(self) -> None:
        """The rest of the whole will not come."""
        self._end()

    def goes_alone(self, at: int) -> bool:
        """It holds nobody up."""
        return False

    def _end(self) -> None:
        self.writable = False
        if self._slice is not None:
            self._slice.fail()
            self._slice = None
        for begins in self._begins.values():
            if not begins.done():
                begins.set_result(None)
        self._begins.clear()


class CuttingFetcher(Fetcher):
    """Fetches wholes, and cuts those that no tier takes. Mutable state: those that are being cut."""

    def __init__(self, parts: Parts, slice_fetcher: SliceFetcher, slice_size: Callable[[Request], int]) -> None:
        super().__init__(parts)
        self._slice_fetcher = slice_fetcher
        self._slice_size = slice_size
        self.least = LEAST
        self._cuts: dict[bytes, Cut] = {}  # by version

    def _fill(self, request: Request, reply: Reply, previous: Entry | None = None) -> Filling | Unshareable:
        """Store `reply` while it arrives: as a whole, or in slices if it is too large for that."""
        too_large = (reply.response.framing.length or 0) > self._fills.largest
        stored = self._cut(request, reply) if too_large and slices.accepts_ranges(reply.response.fields) else None
        return super()._fill(request, reply, previous) if stored is None else Cutting(stored, reply)

    def cuts_part(self, request: Request, reply: Reply) -> bool:
        """Store a part of a whole that is longer than a slice in slices, as far as it contains some."""
        return self._cut(request, reply) is not None

    def _cut(self, request: Request, reply: Reply) -> Stored | None:
        """Store `reply` in slices, if it contains some of a version that an origin will serve more of."""
        response, size, known = reply.response, self._slice_size(request), slices.contained(reply.response)
        if not 0 < size <= self._memory.largest or known is None or request.method != b"GET":
            return None
        span, length = known
        version = slices.version_of(response.fields, length) if length > self.least * size else None
        if version is None:
            return None
        whole, head = slices.of_whole(request), Head(length, version)
        first = slices.cut_out(response, head, Slice(size, 0, version)).response
        stored = self._fills.as_stored(whole, reply._replace(response=first))
        if stored is None or not self._slice_fetcher.store_head_of_cut(whole, reply, head, size):
            return None
        reply.body.count_in(self._memory.account)
        self._start(version, Cut(self._slice_fetcher, whole, reply, head, size, span), reply.body)
        return stored

    def _start(self, version: bytes, cut: Cut, body: Body) -> None:
        self._cuts[version] = cut
        body.when_ended(lambda _: self._ended(version, cut))
        cut.start()

    def _ended(self, version: bytes, cut: Cut) -> None:
        if self._cuts.get(version) is cut:
            del self._cuts[version]

    def cut_that_brings(self, whole: Request, wanted: Slice) -> Cut | None:
        """What is cut now, and is about to bring the slice `wanted`."""
        cut = self._cuts.get(wanted.version)
        return cut if cut is not None and cut.is_of(whole) and cut.will_bring(wanted.number) else None
