"""Ranges that are answered at once: out of few slices, all of them in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edgecache.proxy import responses
from edgecache.proxy.components import Parts
from edgecache.proxy.slice_store import SliceStore
from edgecache.semantics import cache_status, ranges, slices
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Result
from edgecache.semantics.slices import Head
from edgecache.semantics.stored_response import is_fresh
from edgecache.storage.memory import Entry
from edgecache.wire.exchange import Exchange

Learn = Callable[[bytes, Any, Entry, Head, int], None]  # a hit: its key, policy, and head, and the size of slices
OTHERS: Final = frozenset((b"cache-control", b"pragma", b"if-none-match", b"if-modified-since"))


class SliceHits:
    """Answers such requests."""

    def __init__(self, parts: Parts, store: SliceStore, slice_size: Callable[[Request], int], learn: Learn) -> None:
        self._pop = parts.pop
        self._memory = parts.memory
        self._invalidation = parts.invalidation
        self._alike = parts.alike
        self._clock = parts.clock  # resident time
        self._store = store
        self._slice_size = slice_size
        self._learn = learn

    def answers(self, exchange: Exchange) -> bool:
        """Answer one range if memory has the head, fresh, and all that is wanted."""
        request, now = exchange.request, self._clock()
        size = self._slice_size(request)
        if not size or not wants_a_range(request):
            return False
        entry, _ = self._memory.lookup(slices.head_key(request, size), request.fields)
        if entry is None or not is_fresh(entry, now) or not self._invalidation.is_usable(entry):
            return False
        head, stored = slices.head_of(bytes(entry.content)), entry.stored
        spans = None if head is None else ranges.wanted_spans(request, stored, head.whole, 1)
        if head is None or spans is None or len(spans) != 1:
            return False
        content = self._store.at_once(request, head, size, spans[0])
        if content is None:
            return False
        member = cache_status.hit(self._pop, entry.lifetime - entry.age(now), self._invalidation.detail)
        response = responses.part(stored, spans[0], head.whole, now, member, content)
        responses.send_stored(exchange, response, entry, Result.HIT, member)
        self._alike.learn(exchange)
        self._learn(primary_key(request), request.policy, entry, head, size)
        return True


def wants_a_range(request: Request) -> bool:
    """Whether it is a client's GET of a range without preconditions and directives about freshness."""
    index = request.fields.index
    return b"range" in index and request.method == b"GET" and request.child is None and OTHERS.isdisjoint(index)
