"""Single ranges of stored responses by the template of their heads: each range is another, all else was seen before.

A range comes out of a whole in memory, or out of one or two slices (`proxy/slices.py`). What does not follow from the
template and two positions, such as `If-Range`, a suffix, or a range that is not satisfiable, takes the long way.
"""

from __future__ import annotations

import re
from typing import Any, Final, final

from edgecache.proxy import responses
from edgecache.proxy.components import Parts
from edgecache.proxy.fastpath.head_memo import LONGEST_ANSWER, MOST_RENDERED, Rendered
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.semantics import cache_status, slices
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Content, cut, joined
from edgecache.semantics.slices import Head
from edgecache.storage.memory import Entry
from edgecache.storage.variants import Variants
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.response import FullResponse

ONE_RANGE: Final = re.compile(rb"[ \t]*bytes=([0-9]{1,18})-([0-9]{0,18})[ \t]*")
HEAD: Final = b"%b\r\nContent-Range: bytes %d-%d/%d\r\n%bContent-Length: %d\r\n\r\n"
WEIGHT: Final = 3000  # bytes of what is remembered of an entry, about
MOST_BYTES: Final = 4 * 1024 * 1024


@final
class RangeResponse:
    """The response to one of them, in the place of a `Rendered`."""

    __slots__ = ("answer", "content", "counts", "entry", "full", "head", "size")

    status = 206
    is_one_write = True

    def __init__(self, hit: TemplateHit, common: Rendered, span: Span, whole: int, content: bytes) -> None:
        hit.is_new = True  # the next one is another: it is not to be learnt
        size = self.size = len(content)
        self.entry, self.counts = common.entry, common.counts
        line, _, fields = common.head[:-2].partition(b"\r\n")
        self.head = HEAD % (line, span.first, span.end - 1, whole, fields, size)
        self.full = self.head + content if size <= LONGEST_ANSWER else b""
        self.answer = FullResponse(206, b"", content, size)

    def is_right(self, now: float) -> bool:
        """It was made just now."""
        return True


@final
class SlicedWhole:
    """A whole in slices: what is known of it, and the two ends of its slices' keys."""

    __slots__ = ("after", "before", "common", "size", "whole")

    def __init__(self, key: bytes, common: Rendered, head: Head, size: int) -> None:
        self.common = common  # of the responses, out of the stored head
        self.size, self.whole = size, head.whole  # bytes of a slice, and of all
        self.before, _, after = slices.slice_key_of(key, size, 0, head.version).partition(b",0,")
        self.before, self.after = self.before + b",", b"," + after


class RangeHits:
    """Makes such responses. Mutable state: their common part, by entry, and the wholes in slices, by key."""

    def __init__(self, parts: Parts) -> None:
        self._pop = parts.pop
        self._clock = parts.clock  # resident time
        self._render = parts.known.render
        self._slot = parts.memory.slot
        self._is_usable = parts.invalidation.is_usable
        self._log = parts.invalidation.log
        self._common: BoundedCache[int, Rendered] = BoundedCache(MOST_RENDERED, MOST_BYTES, lambda *_: WEIGHT)
        self._sliced: BoundedCache[bytes, SlicedWhole] = BoundedCache(MOST_RENDERED, MOST_BYTES, lambda *_: WEIGHT)

    def out_of_whole(self, hit: TemplateHit, entry: Entry) -> RangeResponse | None:
        """The response to `hit` out of `entry`, a whole that is not known to be valid; None: not by this way."""
        whole = len(entry.content)
        span = _span(hit.range, whole)
        coded = entry.source is not None or entry.codings_made is not None
        if span is None or len(span) > SLICE or entry.status != 200 or coded:
            return None
        common = self._common_of(entry, hit.policy)
        if common is None:
            return None
        return RangeResponse(hit, common, span, whole, bytes(cut(entry.content, span.first, span.end)))

    def learn(self, key: bytes, policy: Any, entry: Entry, head: Head, size: int) -> None:
        """A range of the whole whose key is `key` was a hit out of slices, whose `head` is stored as `entry`."""
        if not entry.vary:
            common = self._render(entry, self._head, policy)
            self._sliced.remember(key, SlicedWhole(key, common, head, size))

    def out_of_slices(self, hit: TemplateHit) -> RangeResponse | None:
        """The response to `hit` out of slices; None if they are not in memory, or not known to be valid."""
        sliced = self._sliced.get(hit.key)
        if sliced is None or sliced.common.policy is not hit.policy or not sliced.common.is_right(self._clock()):
            return None
        whole = sliced.whole
        span = _span(hit.range, whole)
        if span is None or span.end - span.first > SLICE:
            return None
        content = self._content(hit, sliced, span)
        return None if content is None else RangeResponse(hit, sliced.common, span, whole, bytes(content))

    def _content(self, hit: TemplateHit, sliced: SlicedWhole, span: Span) -> Content | None:
        """The bytes `span` out of one slice or two; None if one is not there, or was purged."""
        size, first, end = sliced.size, span.first, span.end
        number, last = first // size, (end - 1) // size
        entry = self._valid(b"%b%d%b" % (sliced.before, number, sliced.after), hit)
        if entry is None:
            return None
        first, end = first - number * size, end - number * size
        if last == number:
            return cut(entry.content, first, end)
        more = self._valid(b"%b%d%b" % (sliced.before, last, sliced.after), hit) if last == number + 1 else None
        return None if more is None else joined(cut(entry.content, first, size), cut(more.content, 0, end - size))

    def _valid(self, key: bytes, hit: TemplateHit) -> Entry | None:
        """What is stored for `key` and suits `hit`, if no purge names it."""
        slot = self._slot(key)
        entry: Entry | None = slot.select(hit.selecting(slot.names)) if isinstance(slot, Variants) else slot
        if entry is None or (entry.passed != self._log.fence and not self._is_usable(entry)):
            return None
        return entry

    def _common_of(self, entry: Entry, policy: Any) -> Rendered | None:
        """The common part of all responses with a range out of `entry`; None if that is not fresh."""
        common = self._common.get(id(entry))
        if common is None or common.entry is not entry or common.policy is not policy:
            common = self._render(entry, self._head, policy)
            self._common.remember(id(entry), common)
        return common if common.is_right(self._clock()) else None

    def _head(self, entry: Entry, now: float) -> FullResponse:
        """The head of a part, but for its position and length: made once a second."""
        outcome = cache_status.hit(self._pop, entry.lifetime - entry.age(now))
        return responses.part_head(entry.stored, now, outcome)

    def forget_gone(self) -> None:
        """Let go of what is out of entries that have left the memory."""
        for number in [number for number, common in self._common.items() if common.entry.gone]:
            self._common.forget(number)
        for key in [key for key, sliced in self._sliced.items() if sliced.common.entry.gone]:
            self._sliced.forget(key)

    def forget_all(self) -> None:
        """Forget all: what the responses follow from has changed."""
        self._common.clear()
        self._sliced.clear()


def _span(value: bytes, whole: int) -> Span | None:
    """The one span of a representation of `whole` bytes that `value` of Range names; None if it may name others."""
    match = ONE_RANGE.fullmatch(value)
    if match is None:
        return None
    first = int(match[1])
    end = min(int(match[2]) + 1, whole) if match[2] else whole
    return Span(first, end) if first < end else None
