"""One fetch per key in a region: its workers take turns by a lease in Valkey.

    take the lease ──► held: look up again (the previous holder may have stored it), then fetch, then release
              └──────► another's: wait for its outcome, then read what it stored
No failure of the tier blocks the way to the origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from edgecache.invalidation.purge_log import Stamp, Verdict
from edgecache.invalidation.validity import Invalidation
from edgecache.proxy.collapsing import Cutting, Failed, Filling, Outcome, RegionalHit, Revalidated, Unshareable
from edgecache.proxy.responses import Kept
from edgecache.semantics import cache_status, ranges, rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Framing, Request, Response
from edgecache.semantics.outcomes import Forward
from edgecache.semantics.ranges import Span
from edgecache.semantics.stored_response import Times, current_age
from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult
from edgecache.storage.memory import Entry, Memory
from edgecache.storage.regional import Found, Regional
from edgecache.storage.regional_chunks import ChunkReader
from edgecache.storage.second_reads import SecondReads
from edgecache.tasks import spawn
from edgecache.upstream.fetcher import Upstream
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError

MOST_TURNS: Final = 3  # holders of the lease that give up, which one flight waits for


class Turn(NamedTuple):
    """The outcome of the region; or the right to fetch, and the response to be validated."""

    outcome: Outcome | None = None
    lease: Lease | None = None
    entry: Entry | None = None
    found: Found | None = None  # its body lies in chunks


class Region:
    """The regional tier as flights use it."""

    def __init__(
        self,
        tier: Regional,
        memory: Memory,
        invalidation: Invalidation,
        upstream: Upstream,
        clock: Callable[[], float],
        patience: float,
        name: bytes,
        *,
        shared: bool = True,
    ) -> None:
        self.tier = tier
        self.shared = shared  # with other POPs; else it is the machine's store alone
        self.name = name  # of the tier, in Cache-Status
        self._memory = memory
        self._invalidation = invalidation
        self._upstream = upstream
        self._clock = clock  # resident time
        self.rises = SecondReads(memory, near=tier.near is not None).again  # whether what was read goes into memory
        self.patience = patience  # seconds that a flight waits for the fetch of another worker

    def outcome(
        self, pop: bytes, kept: Kept, now: float, why: Forward, *, collapsed: bool = False, near: bool = False
    ) -> bytes:
        """The Cache-Status of a response of the POP `pop` that comes out of the tier, or of the machine's store."""
        ttl = kept.lifetime - int(current_age(kept, now))
        hit = cache_status.hit(pop + b"/store" if near else self.name, ttl, self._invalidation.detail)
        return cache_status.from_tier(pop, hit, why, collapsed=collapsed)

    def is_led_by(self, request: Request) -> bool:
        """Whether it comes through a POP of this region: that one holds the lease, and must not be waited for."""
        return (
            self.shared and request.child is not None and self.name.partition(b"/")[0].decode() in request.child.regions
        )

    async def take_turn(self, request: Request, entry: Entry | None, client: str) -> Turn:
        """Wait for the fetch of another worker, or take the lease; `entry` is what this worker has stored."""
        url = primary_key(request)
        until = self._now() + self.patience
        gone = 0  # holders of the lease
        while gone < MOST_TURNS and self._now() < until:
            turn = await self.tier.take(url, request.fields)
            if turn is None:
                break
            if isinstance(turn, Lease):
                return await self._look_up_again(turn, request, entry, client)
            result = await turn.result(max(0.0, until - self._now()))
            if result is None:
                continue  # its lease has run out, or was renewed
            match result.outcome:
                case LeaseOutcome.GONE:
                    gone += 1
                case LeaseOutcome.FAILED:
                    return Turn(Failed(OriginError(result.reason, "another request found the upstream failing")))
                case LeaseOutcome.STORED:
                    found = await self.tier.find(url, request.fields)
                    if found is not None and (outcome := await self._outcome(found, request, client)) is not None:
                        return Turn(outcome)
                    break  # it was another variant, or is gone already
                case LeaseOutcome.ALONE:
                    break
        return Turn(entry=entry)

    async def _look_up_again(self, lease: Lease, request: Request, entry: Entry | None, client: str) -> Turn:
        """The previous holder may have stored the response between the first look-up and this lease."""
        try:
            found = await self.tier.find(primary_key(request), request.fields)
            outcome = None if found is None else await self._outcome(found, request, client)
            chunked = found is not None and outcome is None and entry is None and await self._may_validate(found)
        except BaseException:
            self.tier.release(lease, LeaseResult(LeaseOutcome.GONE))
            raise
        if outcome is not None:
            self.tier.release(lease, LeaseResult(LeaseOutcome.STORED))
            return Turn(outcome)
        if found is not None and self.is_newer(found, entry):
            entry = self._memory.adopt(found.entry, found.record.length) or entry  # to be validated
        return Turn(None, lease, entry, found if chunked else None)

    async def _may_validate(self, found: Found) -> bool:
        """Whether a body in chunks may be validated: it is all there, and was not purged."""
        if found.whole or not found.entry.stored.has_validator or self.check(found) is Verdict.PURGED:
            return False
        return await self.tier.complete(found)

    def is_newer(self, found: Found, entry: Entry | None) -> bool:
        """Whether `found` is a whole that was not purged, and newer than what this worker has."""
        if not found.whole or (entry is not None and found.entry.received <= entry.received):
            return False
        return self.check(found) is not Verdict.PURGED

    def check(self, found: Found) -> Verdict:
        """Whether what was found may be used, as far as invalidations go."""
        return self._invalidation.check_record(found.entry, found.record.seen, self._clock())

    async def _outcome(self, found: Found, request: Request, client: str) -> Outcome | None:
        """The outcome that `found` is, if it may be used without validation."""
        if not self.may_reuse(found, request):
            return None
        if found.whole:
            self._memory.adopt(found.entry, found.record.length)
            return RegionalHit(found.entry)
        if not await self.tier.complete(found) or not self.may_reuse(found, request):  # nor was it purged meanwhile
            return None
        return self.streamed(found, request, client, self._upstream.stamp()[1])

    def may_reuse(self, found: Found, request: Request) -> bool:
        """Whether `found` may answer `request` now, without validation."""
        if self.check(found) is not Verdict.USABLE:
            return False
        return isinstance(rfc9111.may_reuse(found.entry.stored, request, self._clock()), rfc9111.Fresh)

    def streamed(self, found: Found, request: Request, client: str, seen: Stamp) -> Filling:
        """A response whose body is read from the tier while it is sent, as good as one that was requested at `seen`."""
        entry, length = found.entry, found.record.length
        stored = entry.stored
        reader = self.reader(found, request, client)
        now = self._clock()
        age = entry.age(now)
        member = cache_status.hit(self.name, entry.lifetime - age)
        response = Response(entry.status, stored.fields.plus((b"Age", b"%d" % age)), entry.reason, Framing(length))
        if length <= self._memory.largest:
            reader.body.keep_up_to(self._memory.largest, self._memory.account)
            url = primary_key(request)
            reader.body.when_ended(lambda body: self._keep(url, found, body))
        asyncio.get_running_loop().call_soon(reader.start)
        rest = partial(self._rest, found, request, client)
        return Filling(stored, Reply(response, reader.body, Times(now, now), seen, member, rest=rest, tags=entry.tags))

    def _rest(self, found: Found, request: Request, client: str, at: int) -> Body:
        """What follows byte `at`, for a reader that the others do not wait for."""
        reader = self.reader(found, request, client, Span(at, found.record.length))
        asyncio.get_running_loop().call_soon(reader.start)
        return reader.body

    def reader(self, found: Found, request: Request, client: str, span: Span | None = None) -> ChunkReader:
        """What reads a body in chunks, or a `span` of it; what is lost on the way comes from the origin."""

        def hole(reader: ChunkReader, at: int) -> None:  # it must not hold on to its reader: no cycle
            spawn(self._fetch_hole(reader, request, found, at, client), "hole in a stored body")

        reader = self.tier.stream(found, hole, span)
        reader.body.count_in(self._memory.account)
        return reader

    def _keep(self, url: bytes, found: Found, body: Body) -> None:
        if body.finished and body.whole:
            entry, content = found.entry, body.move_to_store()
            self._memory.put(url, entry.stored, content, passed=entry.passed, length=found.record.length)

    async def _fetch_hole(self, reader: ChunkReader, request: Request, found: Found, at: int, client: str) -> None:
        """The tier has lost the rest of a body that is being sent: fetch it from the origin (RFC 9110 §13.1.5)."""
        stored, length, end = found.entry.stored, found.record.length, reader.span.end
        self.tier.forget(primary_key(request))
        etag = ranges.strong_etag(stored)
        if etag is None:
            reader.body.fail()
            return
        wanted = b"bytes=%d-" % at if end == length else b"bytes=%d-%d" % (at, end - 1)
        fields = rfc9111.unconditional(request).plus((b"Range", wanted), (b"If-Range", etag))
        try:
            reply = await self._upstream.fetch(request, fields, client, ())
        except OriginError:
            reader.body.fail()
            return
        skip = ranges.rest_begins(reply.response, etag, at, end, length)
        if skip is not None:
            reader.go_on_with(reply.body, skip)
        else:
            reply.body.discard()
            reader.body.fail()

    # --- the end of a turn

    def release(self, lease: Lease, outcome: Outcome) -> None:
        """Release the lease once the outcome of the fetch is known to be stored, or not."""
        match outcome:
            case Filling(_, reply) if reply.tier:  # validated: it lies there already
                self.tier.release(lease, LeaseResult(LeaseOutcome.STORED))
            case Cutting():
                self.tier.release(lease, LeaseResult(LeaseOutcome.ALONE))
            case Filling(_, reply):
                reply.body.when_ended(lambda body: self._ended(lease, body))
            case Revalidated() | RegionalHit():
                self.tier.release(lease, LeaseResult(LeaseOutcome.STORED))
            case Unshareable(reply) if reply.response.status < 500:
                self.tier.release(lease, LeaseResult(LeaseOutcome.ALONE))
            case Unshareable():
                self.tier.release(lease, LeaseResult(LeaseOutcome.FAILED, 502, "upstream-status"))
            case Failed(error):
                self.tier.release(lease, LeaseResult(LeaseOutcome.FAILED, error.status, error.reason))

    def _ended(self, lease: Lease, body: Body) -> None:
        result = LeaseResult(LeaseOutcome.STORED if body.finished else LeaseOutcome.GONE)
        asyncio.get_running_loop().call_soon(self.tier.release, lease, result)  # once its readers have the end, too

    def abandon(self, lease: Lease) -> None:
        """Release the lease of a fetch that failed here, through no fault of the origin."""
        self.tier.release(lease, LeaseResult(LeaseOutcome.GONE))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
