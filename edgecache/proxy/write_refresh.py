"""`write_through = refresh`: the resources that a write changed are fetched at once and stored in the tiers of all
regions (of this jurisdiction, with residency).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edgecache.invalidation.stream_store import LogStore
from edgecache.invalidation.validity import written
from edgecache.proxy.collapsing import Filling
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.content_length import is_complete
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.stored_response import Stored
from edgecache.storage.entry_records import record_of
from edgecache.storage.memory import Entry
from edgecache.storage.record import Codec, storage_key
from edgecache.storage.regional import INLINE, useful_life
from edgecache.storage.resident_clock import Clock
from edgecache.tasks import spawn
from edgecache.upstream.reply import Reply
from edgecache.valkey.client import Failure
from edgecache.wire.body import Body

if TYPE_CHECKING:
    from edgecache.proxy.edge import Edge

log = logging.getLogger("edgecache")
WITHIN: Final = 30.0  # seconds for the fetch


class Refresher:
    """Fetches what writes have changed. What it pushes carries what was known when it asked, as everything does."""

    def __init__(self, edge: Edge, codec: Codec, clock: Clock, peers: Mapping[str, LogStore]) -> None:
        self._edge = edge
        self._codec = codec
        self._clock = clock
        self._peers = peers
        self.pushed = 0  # records given to other regions

    def refresh(self, request: Request) -> None:
        """Fetch the target of `request`, a write that was answered; not of another jurisdiction, which is not kept."""
        if request.jurisdiction != self._edge.jurisdiction:
            return
        get, ignored = plain_get(request), self._edge.invalidation.ignored
        if self._edge.policy_of is not None:
            policy = self._edge.policy_of(get, "")
            if policy is None or not policy.is_shared_by_all:
                return  # the next client of each kind has its own response fetched
            get = get._replace(policy=policy)
        spawn(self._refresh(get if ignored is None else ignored.request(get)), "refresh after a write")

    async def _refresh(self, request: Request) -> None:
        key = primary_key(request)
        outcome = await self._edge.fetcher.collapse(key, request, None, None).outcome(WITHIN)
        if isinstance(outcome, Filling) and not outcome.stored.vary and outcome.stored.whole_length is None:
            stored, reply = outcome.stored, outcome.reply
            reply.body.when_ended(lambda body: self._push(key, stored, reply, body))

    def _push(self, key: bytes, stored: Stored, reply: Reply, body: Body) -> None:
        if not (body.finished and body.whole) or body.size > INLINE:
            return
        content = b"".join(body.pieces)
        if not is_complete(stored, len(content), reply.response.framing.length):
            return
        life = useful_life(stored, self._clock.now())
        record = record_of(Entry(key, stored, content), key, written(reply.seen.vector), len(content), b"", content)
        if life > 0:
            place = storage_key(key)
            data = self._codec.encode(place, self._clock.leaving(record))
            command = ("SET", place, data, "PX", b"%d" % (life * 1000))
            for store in self._peers.values():
                spawn(self._give(store, command), "refresh of another region")

    async def _give(self, store: LogStore, command: tuple[object, ...]) -> None:
        try:
            await store.link.run([command])
            self.pushed += 1
        except Failure as error:
            log.debug("another region was not refreshed, and will ask the origin itself: %r", error)


def plain_get(request: Request) -> Request:
    """The GET that anybody might send for the target of `request`: nothing of the writer's own is in it."""
    fields = Fields([(b"Host", request.host)])
    get = Request(b"GET", request.target, request.host, fields, scheme=request.scheme)
    return get._replace(jurisdiction=request.jurisdiction, child=request.child, place=request.place)
