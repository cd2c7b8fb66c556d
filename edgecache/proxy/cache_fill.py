"""From an upstream response to a stored one: the head decides whether it may be stored; the body must be complete.

begin_fill ──► _decide ──► _keep_body ── the body arrives ──► _complete ──► _store: memory, region
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from edgecache.invalidation.scopes import LONGEST_TARGET
from edgecache.invalidation.validity import Invalidation
from edgecache.semantics import ranges, rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.cache_tags import TooManyTags
from edgecache.semantics.client_specific import is_client_specific
from edgecache.semantics.content_length import is_complete
from edgecache.semantics.message import Fields, Framing, Request, Response
from edgecache.semantics.outcomes import Refused
from edgecache.semantics.ranges import Segments
from edgecache.semantics.rfc9111 import DoNotStore, Store
from edgecache.semantics.rope import Content
from edgecache.semantics.stored_response import DATE, Policy, Stored
from edgecache.storage.memory import Entry, Memory
from edgecache.storage.regional import Found, Regional
from edgecache.storage.regional_chunks import ChunkWriter
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body


class Fill(NamedTuple):
    """A response on its way into the store."""

    key: bytes
    request: Request
    stored: Stored
    reply: Reply
    writer: ChunkWriter | None  # of its body to the region's chunks


class Fills:
    """Stores responses from upstream, unless their body ends early, or their URL was purged in the meantime."""

    def __init__(
        self,
        memory: Memory,
        invalidation: Invalidation,
        policy: Policy,
        refused: Callable[[Refused], None],
        region: Regional | None = None,
        on_stored: Callable[[Request, Entry], None] = lambda request, entry: None,
    ) -> None:
        self._memory = memory
        self._region = region
        self._invalidation = invalidation
        self._policy = policy
        self._on_stored = on_stored  # called with what was stored for a request of a site that has rules
        self.count_refused = refused  # called with the reason when a response is not stored

    @property
    def largest(self) -> int:
        """Bytes of the largest body that some tier takes."""
        return max(self._memory.largest, self._region.largest if self._region is not None else 0)

    @property
    def hidden(self) -> frozenset[bytes]:
        """The response fields that clients do not see."""
        return self._policy.hidden

    def _policy_of(self, request: Request) -> Policy:
        """The policy of the request's site, or the one of all."""
        policy: Policy = self._policy if request.policy is None else request.policy.storing
        return policy

    def tune(self, policy: Policy) -> None:
        """Go on with another policy; what is stored stays as it is."""
        self._policy = policy

    def begin_fill(self, request: Request, reply: Reply, previous: Entry | None = None) -> Stored | Refused:
        """Store the reply to `request` once its body is complete, if it may be stored; to be called before any read.

        `previous` is the entry that it would replace. A HEAD's reply updates or drops it (RFC 9111 §4.3.5).
        """
        if request.method == b"HEAD":
            return self._update_by_head(request, reply, previous)
        decision = self._decide(request, reply, previous)
        if isinstance(decision, DoNotStore):
            return self._pass_unstored(reply, decision.reason)
        self._keep_body(primary_key(request), request, decision.stored, reply)
        return decision.stored

    def _pass_unstored(self, reply: Reply, reason: Refused) -> Refused:
        """Count `reply`, which is not stored for this `reason`, and what its body holds on its way."""
        self.refuse(reply, reason)
        reply.body.count_in(self._memory.account)
        return reason

    def _keep_body(self, key: bytes, request: Request, stored: Stored, reply: Reply) -> None:
        """Keep the body of `reply` while it arrives, in memory and in the region, and store it at its end."""
        body = reply.body
        self._memory.codings.learn(key, stored.vary, stored.codings)
        body.keep_up_to(self._memory.largest, self._memory.account, reply.response.framing.length)
        writer = None if self._region is None else self._chunk_writer(self._region, key, stored, reply)
        if not body.kept and writer is None:
            self._refuse_for_size(reply)
        body.when_ended(partial(self._complete, Fill(key, request, stored, reply, writer)))
        if writer is not None:
            writer.read(body)

    def _chunk_writer(self, region: Regional, key: bytes, stored: Stored, reply: Reply) -> ChunkWriter | None:
        """What writes the body to the region in chunks while it arrives; None if that is not how it gets there."""
        declared = reply.response.framing.length
        fits = declared is None or min(region.inline, self._memory.largest) < declared <= region.largest
        if stored.whole_length is not None or not fits:
            return None

        def allowed(length: int) -> bool:
            if not is_complete(stored, length, declared):
                return self.refuse(reply, Refused.LENGTH)
            return self._passed(key, stored, reply) is not None

        def given_up() -> None:
            if reply.body.finished:  # else `_complete` will see it
                self._regional_lost(region, reply)

        return region.writer(stored, key, self._invalidation.seen(reply.seen), allowed, given_up)

    def _regional_lost(self, region: Regional, reply: Reply) -> None:
        """The regional tier has not taken a body that is complete: it is not stored unless the memory has it."""
        body = reply.body
        if not body.whole:
            self.refuse(reply, Refused.TOO_LARGE if body.size > self.largest else Refused.REGIONAL)
        elif body.size <= region.largest and body.refused is None:
            self.count_refused(Refused.REGIONAL)

    def _refuse_for_size(self, reply: Reply) -> None:
        """The memory does not take the body, nor does the region: ever, or now."""
        size = max(reply.response.framing.length or 0, reply.body.size)
        self.refuse(reply, Refused.TOO_LARGE if size > self._memory.largest else Refused.NO_ROOM)

    def refuse(self, reply: Reply, reason: Refused) -> Literal[False]:
        """The answer `reply` is not stored for this reason, which is counted once: the first that is found."""
        if reply.body.refused is None:
            reply.body.refused = reason
            self.count_refused(reason)
        return False

    def _decide(self, request: Request, reply: Reply, previous: Entry | None) -> Store | DoNotStore:
        length = reply.response.framing.length or 0
        if length > self.largest or len(request.target) > LONGEST_TARGET:  # longer targets cannot be purged by name
            return DoNotStore(Refused.TOO_LARGE)
        before = previous.stored if previous is not None else None
        return rfc9111.may_store(request, reply.response, reply.times, self._policy_of(request), before)

    def as_stored(self, request: Request, reply: Reply) -> Stored | None:
        """What `reply` is as a stored response, however large it is; None if it may not be stored."""
        decision = rfc9111.may_store(request, reply.response, reply.times, self._policy_of(request))
        return None if isinstance(decision, DoNotStore) or len(request.target) > LONGEST_TARGET else decision.stored

    def _complete(self, fill: Fill, body: Body) -> None:
        """Store a response whose body has ended, unless it is unfinished, was purged since, or has no room."""
        passed = self._passed(fill.key, fill.stored, fill.reply) if body.finished else None
        if passed is None:  # an unfinished body is never stored (RFC 9111 §3.3)
            self.refuse(fill.reply, Refused.PURGED if body.finished else Refused.INCOMPLETE)
            return
        if self._region is not None and fill.writer is not None and fill.writer.given_up:
            self._regional_lost(self._region, fill.reply)
        if body.whole:
            self._store(fill, body.move_to_store(), passed)
        elif fill.writer is None:
            self._refuse_for_size(fill.reply)

    def _store(self, fill: Fill, content: Content, passed: int) -> None:
        """Put the complete `content` into memory, and a small one into the region."""
        key, _, stored, reply, writer = fill
        if stored.whole_length is not None:
            self._put_part(fill, content, passed)
        elif not is_complete(stored, len(content), reply.response.framing.length):
            self.refuse(reply, Refused.LENGTH)
        else:
            entry = self._memory.put(key, stored, content, passed)
            if entry is not None and fill.request.policy is not None:
                self._on_stored(fill.request, entry)
            region = self._region
            in_region = region is not None and (writer is not None or self._put_inline(region, fill, content, entry))
            if entry is None and not in_region:
                self.refuse(reply, Refused.TOO_LARGE)

    def _put_inline(self, region: Regional, fill: Fill, content: Content, entry: Entry | None) -> bool:
        """Put a small `content` into the region, in one piece with its head; whether the region takes it."""
        key, _, stored, reply, _ = fill
        if not reply.response.framing.length == len(content) <= region.inline:
            return False
        taken = region.store(entry or Entry(key, stored, content), key, self._invalidation.seen(reply.seen))
        if not taken and entry is not None:
            self.count_refused(Refused.REGIONAL)
        return taken

    def _passed(self, key: bytes, stored: Stored, reply: Reply) -> int | None:
        """The log position that an entry made of `reply` is usable at; None if it was purged meanwhile."""
        return self._invalidation.passed(key, stored.tags, reply.seen)

    def _put_part(self, fill: Fill, content: Content, passed: int) -> None:
        """Store a 206, joined to the known parts of the same representation (RFC 9111 §3.4)."""
        key, request, stored, reply, _ = fill
        assert stored.whole_length is not None, "a storable part says how long the whole is"
        part = ranges.content_range(reply.response.fields.get(b"content-range"))
        said = None if part is None else (part.first, part.end, part.whole)
        if said != (stored.first_byte, stored.first_byte + len(content), stored.whole_length):  # chunks may hold more
            self.refuse(reply, Refused.PARTIAL)
            return
        entry, _ = self._memory.lookup(key, request.fields)
        segments = Segments(stored.whole_length, ((stored.first_byte, content),))
        if entry is not None:
            if entry.segments is None:
                self.refuse(reply, Refused.KNOWN)
                return
            if ranges.may_combine(entry.stored, stored):
                segments = entry.segments.joined(stored.first_byte, content)
        put = None
        if segments.complete:
            whole = segments.parts[0][1]
            put = self._memory.put(key, _as_whole(stored), whole, passed, segments.whole)
            if put is not None and request.policy is not None:
                self._on_stored(request, put)
        elif segments.size <= self._memory.largest:
            put = self._memory.put_parts(key, stored, segments, passed)
        if put is None:
            self.refuse(reply, Refused.TOO_LARGE)

    def _update_by_head(self, request: Request, reply: Reply, previous: Entry | None) -> Refused:
        """Update or drop `previous` by a HEAD's reply, which is never stored itself."""
        if previous is not None and reply.response.status == 200 and not previous.gone:
            if rfc9111.head_agrees(previous.stored, previous.length, reply.response):
                self.freshen(request, previous, reply)
            elif not self._is_of_one_client(request._replace(method=b"GET"), reply):
                self._memory.drop(previous)
        self.refuse(reply, Refused.METHOD)
        return Refused.METHOD

    def _is_of_one_client(self, request: Request, reply: Reply) -> bool:
        """Whether `reply` to `request`, a GET, may not be shared, and is specific to its client."""
        decision = rfc9111.may_store(request, reply.response, reply.times, self._policy_of(request))
        if not isinstance(decision, DoNotStore):
            return False
        return is_client_specific(request, reply.response.status, decision.reason)

    def freshen(self, request: Request, entry: Entry, reply: Reply) -> Entry | None:
        """Update `entry` by a 304 or a HEAD's 200; None if it was purged or dropped meanwhile.

        If the update is specific to one client, it is an entry of its own, which is `gone` from the beginning: other
        requests may hold `entry`, and must not get what is for that client. `entry` stays as long as it is fresh,
        unless the update is about the URL.
        """
        stored = entry.stored
        passed = None if entry.gone else self._passed(primary_key(request), stored, reply)
        if passed is None:
            return None
        try:
            freshened = stored.freshened(reply.response, reply.times, request, self._policy_of(request))
        except TooManyTags:
            self.refuse(reply, Refused.TOO_MANY_TAGS)
            self._memory.drop(entry)
            return None
        if reason := rfc9111.forbids_keeping(request, stored, freshened, reply.response, self._policy_of(request)):
            self.refuse(reply, reason)
            if not (stored.is_fresh(reply.times.received) and is_client_specific(request, 304, reason)):
                self._memory.drop(entry)
                if self._region is not None:
                    self._region.forget(primary_key(request))
            own = Entry(entry.url, freshened, entry.content, entry.segments, passed)
            own.gone = True
            return own
        entry.passed = passed
        entry.set_head(freshened)
        self._memory.resize(entry)
        if self._region is not None and entry.segments is None:
            key, seen = primary_key(request), self._invalidation.seen(reply.seen)
            if len(entry.content) > self._region.inline:
                self._region.renew(entry, key, request.fields, seen)
            else:
                self._region.store(entry, key, seen)
        return None if entry.gone else entry

    def freshen_found(self, request: Request, found: Found, reply: Reply) -> bool:
        """Update `found`, a response of the region whose body is in chunks, by a 304; False if it is unusable now."""
        assert self._region is not None, "it was found there"
        entry, key = found.entry, primary_key(request)
        stored = entry.stored
        passed = self._passed(key, stored, reply)
        if passed is None:
            return False
        try:
            freshened = stored.freshened(reply.response, reply.times, request, self._policy_of(request))
        except TooManyTags:
            return self.refuse(reply, Refused.TOO_MANY_TAGS)
        if reason := rfc9111.forbids_keeping(request, stored, freshened, reply.response, self._policy_of(request)):
            self.refuse(reply, reason)
            if not (stored.is_fresh(reply.times.received) and is_client_specific(request, 304, reason)):
                self._region.forget(key)
            return False
        entry.passed = passed
        entry.set_head(freshened)
        self._region.prolong(found, entry, self._invalidation.seen(reply.seen))
        return True

    def completed(self, entry: Entry, reply: Reply) -> Reply | None:
        """`reply`, the missing end of `entry`'s parts, as the whole; None if it does not continue them."""
        segments, response = entry.segments, reply.response
        part = ranges.content_range(response.fields.get(b"content-range"))
        if segments is None or part is None or response.status != 206 or part.first != segments.missing_after():
            return None
        if part.end != segments.whole or part.whole != segments.whole:
            return None
        if response.framing.length != part.end - part.first:  # only a length that is known beforehand can be trusted
            return None
        stored = entry.stored
        etag = ranges.strong_etag(stored)
        if etag is None or etag != response.fields.get(b"etag"):
            return None
        coding = response.fields.get(b"content-encoding")  # an answer to If-Range may leave it out (RFC 9110 §15.3.7)
        if coding is not None and coding != stored.fields.get(b"content-encoding"):
            return None
        fields = stored.fields.without(response.fields.names() | DATE).lines + response.fields.lines
        kept = Fields(fields).without((b"content-range", b"content-length"))
        kept = kept.plus((b"Content-Length", b"%d" % segments.whole))
        whole = Response(200, kept, b"", Framing(segments.whole))
        reply.body.begin_with(segments.parts[0][1])
        return reply._replace(response=whole)


def _as_whole(stored: Stored) -> Stored:
    fields = stored.fields.without((b"content-range", b"content-length"))
    return stored._replace(status=200, reason=b"", fields=fields, first_byte=0, whole_length=None)
