"""L2: responses in the Valkey of a region, the machine's store (`storage/machine`), or both. Failures count as misses.

    url ──► storage key ──► a record: the response, whole or with the name of its chunks (`storage/regional_chunks.py`)
                       └──► a signpost: the URL varies by these fields; each variant is a record of its own

Reads call back, so that a hit costs no task. A client that leaves never cancels a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from os import urandom
from typing import Final

from edgecache.semantics.accept_encoding import Codings, codings_in_block, keyed, keyed_under
from edgecache.semantics.content_length import content_length
from edgecache.semantics.message import Fields
from edgecache.semantics.outcomes import Label
from edgecache.semantics.ranges import Span, strong_etag
from edgecache.semantics.stored_response import Stored
from edgecache.semantics.vary import selecting_values
from edgecache.storage.entry_records import entry_of, record_of
from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult, LeaseWait
from edgecache.storage.memory import Entry
from edgecache.storage.near_records import NearChunks, NearRecords
from edgecache.storage.record import Codec, Corrupt, Record, storage_key, variant_key
from edgecache.storage.regional_chunks import CHUNK, LONGER, ChunkReader, ChunkWriter, Hole, chunk_keys
from edgecache.storage.resident_clock import Clock
from edgecache.storage.server_memory import ServerMemory
from edgecache.storage.tier_queue import MOST_BYTES, NEAR, Lanes, OnStore, ReadLane, valkey_lanes
from edgecache.tasks import spawn
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Reads
from edgecache.valkey.client import Failure

INLINE: Final = 64 * 1024  # bytes of the largest body that lies in its record; larger ones lie in chunks
INLINE_HERE: Final = CHUNK - 1  # the same where there is no region: less than a chunk
KEEP_FOR_VALIDATION: Final = 600.0  # seconds that a stale response with a validator is kept
MOST_SIGNPOSTS: Final = 65536
TAKE_WITHIN: Final = 1.25  # seconds to take a lease, at least, and to read what its last owner stored
SIGNPOST: Final = 0  # the status of a record that only names the fields by which its URL varies


class Read(Label):
    """The outcome of a read of the tier."""

    HIT = "hit"
    MISS = "miss"
    CORRUPT = "corrupt"  # not a valid record for that key: deleted
    SLOW = "slow"  # not within the budget
    OPEN = "open"  # the breaker is open: no read was sent
    ERROR = "error"
    DELETED = "deleted"  # its deletion is not yet confirmed by the server


class Found:
    """A stored response for a request: whole, or the head of a body that lies in chunks."""

    __slots__ = ("_entry", "base", "near", "record", "whole")

    def __init__(self, record: Record, base: bytes, *, near: bool) -> None:
        self.record = record
        self.near = near  # it lay in the machine's store
        self.base = base  # the storage key
        self.whole = not record.chunks  # the body is here
        self._entry: Entry | None = None

    @property
    def entry(self) -> Entry:
        """The response as an entry of the memory tier; made on first use, which a plain hit does not need."""
        if self._entry is None:
            self._entry = entry_of(self.record)
        return self._entry


OnFound = Callable[[Found | None], None]


class Regional:
    """One worker's client of the tier. Mutable state: signposts, and unconfirmed deletions."""

    def __init__(
        self,
        guard: Availability | None,
        codec: Codec,
        *,
        budget: float,
        lease: float,
        largest: int,
        count: Callable[[Read], None],
        clock: Clock,
        most_unwritten: int = MOST_BYTES,
        layered: Callable[[Lanes | None], Lanes] | None = None,
    ) -> None:
        self.guard = guard  # of the Valkey; None: there is none, but only the machine's store
        self._take_within = max(TAKE_WITHIN, 4 * budget)  # seconds
        self.codec = codec
        self._most = largest  # bytes of the largest body that is taken, if the server has room for it
        self._memory = ServerMemory()
        self._count = count
        self._clock = clock
        lanes = None if guard is None else valkey_lanes(guard, budget, self._take_within, lease, most_unwritten)
        if lanes is not None and isinstance(lanes.reads, Reads):
            lanes.reads.suspects = self._weigh
        if layered is not None:
            lanes = layered(lanes)
        assert lanes is not None, "there is a Valkey, or a store"
        self._layered = layered is not None
        self.inline = INLINE_HERE if guard is None else INLINE
        self.reads, self.bulk, self._followed, self.writes, self._control, self.leases, near = lanes
        self.near = None if near is None else NearRecords(near, codec, clock)
        self.used: Callable[[bytes], Codings | None] = lambda url: None  # codings that responses of its site have used
        self.on_store: OnStore = lambda base, url: lambda size: True
        self._signposts: dict[bytes, Record] = {}
        self._deleting: dict[bytes, int] = {}  # storage key → how often its deletion is under way

    @property
    def largest(self) -> int:
        """Bytes of the largest body that is taken."""
        return min(self._most, self._memory.share)

    # --- reading

    def look_up(self, url: bytes, fields: Fields, on_found: OnFound) -> None:
        """Have `on_found` called with the stored response for a request with `fields` for `url`, or with None."""
        self.look_up_at(storage_key(url), url, fields, on_found)

    def look_up_at(
        self, base: bytes, url: bytes, fields: Fields, on_found: OnFound, reads: ReadLane | None = None
    ) -> None:
        """As `look_up`, where the storage key `base` of `url` is known."""
        reads = reads or self.reads
        signpost = self._signposts.get(base)
        if signpost is None:
            reads.get(base, partial(self._base_read, reads, url, base, fields, on_found))
            return

        def or_by_the_signpost(found: Found | None) -> None:
            if found is None and self._signposts.get(base) is signpost:  # it may have changed since
                reads.get(base, partial(self._base_read, reads, url, base, fields, on_found))
            else:
                on_found(found)

        self._read_variant(reads, url, base, signpost, fields, or_by_the_signpost)

    def near_key(self, base: bytes, url: bytes, selecting: Callable[[tuple[bytes, ...]], Fields]) -> bytes | None:
        """Where the machine's store would have it, for fields by the names that select; None: it may not be read."""
        if self._deleting and base in self._deleting:
            return None
        signpost = self._signposts.get(base)
        if signpost is None:
            return base
        return variant_key(base, signpost.chunks, self._values(url, signpost.vary, selecting(signpost.vary)))

    async def find(self, url: bytes, fields: Fields) -> Found | None:
        """As `look_up`, awaited and with more patience: for requests that have waited already."""
        found: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self.look_up_at(storage_key(url), url, fields, found.set_result, self._followed)
        return await found

    def _base_read(
        self,
        reads: ReadLane,
        url: bytes,
        base: bytes,
        fields: Fields,
        on_found: OnFound,
        value: bytes | None,
        word: str,
    ) -> None:
        record = self._decoded(base, base, url, value, word)
        if record is None:
            on_found(None)
        elif record.status == SIGNPOST:
            known = self._signposts.get(base)
            if known is not None and known.chunks == record.chunks and known.vary == record.vary:
                on_found(None)  # the variant was looked up already
                return
            self._remember(base, record)
            self._read_variant(reads, url, base, record, fields, on_found)
        else:
            self._deliver(base, record, on_found, word)

    def _read_variant(
        self, reads: ReadLane, url: bytes, base: bytes, signpost: Record, fields: Fields, on_found: OnFound
    ) -> None:
        key = variant_key(base, signpost.chunks, self._values(url, signpost.vary, fields))
        reads.get(key, partial(self._variant_read, url, base, key, on_found))

    def _values(self, url: bytes, names: tuple[bytes, ...], fields: Fields) -> tuple[bytes | None, ...]:
        """The values by which a request with `fields` selects among the variants of `url`."""
        return keyed(names, selecting_values(names, fields), self.used(url))

    def _variant_read(
        self, url: bytes, base: bytes, key: bytes, on_found: OnFound, value: bytes | None, word: str
    ) -> None:
        record = self._decoded(base, key, url, value, word)
        if record is None:
            on_found(None)
        else:
            self._deliver(base, record, on_found, word)

    def _deliver(self, base: bytes, record: Record, on_found: OnFound, word: str) -> None:
        if word != NEAR:
            self._count(Read.HIT)
        on_found(Found(record, base, near=word == NEAR))

    def _decoded(self, base: bytes, key: bytes, url: bytes, value: bytes | None, word: str) -> Record | None:
        if value is None:
            self._count(
                Read.OPEN if word == "open" else Read.SLOW if word == "slow" else Read.ERROR if word else Read.MISS
            )
            return None
        if self._deleting and base in self._deleting:
            self._count(Read.DELETED)
            return None
        try:
            checked = word == NEAR and self.near is not None and self.near.has_checked(key)
            return self._clock.arriving(self.codec.decode(key, url, value, checked=checked))
        except Corrupt:
            self._count(Read.CORRUPT)
            self.writes.send(("UNLINK", key))
            return None

    async def complete(self, found: Found, span: Span | None = None) -> bool:
        """Whether every chunk of a body, or of a `span` of it, exists now."""
        keys = list(chunk_keys(found.base, found.record, span or Span(0, found.record.length)))
        try:
            there = await self._control.execute(("EXISTS", *keys), within=self._take_within)
        except Failure:
            return False
        if there != len(keys):
            self._count(Read.CORRUPT)
            return False
        return True

    def stream(self, found: Found, hole: Hole, span: Span | None = None) -> ChunkReader:
        """A reader of the body of `found`, or of a `span` of it, to be started; `hole` is called if it ends early."""
        span = span or Span(0, found.record.length)
        if found.near and self.near is not None and self.near.stays:
            chunks = NearChunks(self.near, self.bulk, self.codec)
            return ChunkReader(chunks, chunks, found.base, found.record, span, hole)
        return ChunkReader(self.bulk, self.codec, found.base, found.record, span, hole)

    def _remember(self, base: bytes, signpost: Record) -> None:
        if len(self._signposts) >= MOST_SIGNPOSTS:
            self._signposts.clear()
        self._signposts[base] = signpost

    def _weigh(self, keys: object) -> None:
        """Delete values that are too large for any record: one may have made a batch slow, or its reply invalid."""
        assert isinstance(keys, list)
        for key in keys:
            self._control.send(("EVAL", WEIGH, "1", key, str(4 * INLINE + 1024 * 1024)))

    # --- writing

    def store(self, entry: Entry, url: bytes, seen: str) -> bool:
        """Write `entry`, a whole, for its useful life; whether it was enqueued."""
        now, content = self._clock.now(), entry.content
        life = entry.stale_at - now  # a machine's store looks at nothing else
        if self.guard is not None or life <= 0:
            life = useful_life(entry.stored, now)
        return (
            isinstance(content, bytes)
            and len(content) <= self.inline
            and bool(self.write(record_of(entry, url, seen, len(content), b"", content), life))
        )

    def writer(
        self, stored: Stored, url: bytes, seen: str, allowed: Callable[[int], bool], given_up: Callable[[], None]
    ) -> ChunkWriter:
        """A writer of a body that is still arriving; `allowed` checks its length, `given_up` is called if it fails."""
        life = useful_life(stored, self._clock.now())
        admits = self.on_store(base := storage_key(url), url)

        def written(name: bytes, length: int, small: bytes | None) -> bytes:
            if not allowed(length):
                return b""
            return self.write(record_of(Entry(url, stored, b""), url, seen, length, name, small or b""), life)

        self._memory.query(self.writes, base)  # its reply comes before most chunks are written
        length = content_length(stored.fields) or 0
        return ChunkWriter(
            self.writes, self.codec, base, life, self.inline, lambda: self.largest, admits, length, written, given_up
        )

    def prolong(self, found: Found, entry: Entry, seen: str) -> None:
        """Prolong the life of the chunks of `found`, which was validated as `entry`."""
        life, record = useful_life(entry.stored, self._clock.now()), found.record
        if life > 0:
            until = b"%d" % ((life + LONGER) * 1000)
            for key in chunk_keys(found.base, record, Span(0, record.length)):
                self.writes.send(("PEXPIRE", key, until))
            self.write(record_of(entry, record.url, seen, record.length, record.chunks, b""), life)

    def renew(self, entry: Entry, url: bytes, fields: Fields, seen: str) -> None:
        """Prolong the life of the chunks of `entry`, which was validated, if its body lies in chunks."""
        spawn(self._renew(entry, url, fields, seen), "renew chunks")

    async def _renew(self, entry: Entry, url: bytes, fields: Fields, seen: str) -> None:
        found = await self.find(url, fields)
        etag = strong_etag(entry.stored)
        same = found is not None and found.record.length == len(entry.content)
        if found is not None and same and found.record.chunks and etag == strong_etag(found.entry.stored) is not None:
            self.prolong(found, entry, seen)

    def write(self, record: Record, life: float) -> bytes:
        """Write `record` for `life` seconds; returns its name, empty if it is not enqueued."""
        if life <= 0 or self._unresponsive:  # before it is encoded, which takes time
            return b""
        key = base = storage_key(record.url)
        self.on_store(base, record.url)
        if record.vary:
            signpost = self._signpost(base, record)
            if not self._set(base, signpost, life + KEEP_FOR_VALIDATION):
                return b""
            used, codings = self.used(record.url), codings_in_block(record.block)
            key = variant_key(base, signpost.chunks, keyed_under(record.vary, record.selecting, used, codings))
        return key if self._set(key, record, life) else b""

    def _signpost(self, base: bytes, record: Record) -> Record:
        """The record that names the fields by which a URL varies. A new one has a new generation of variants."""
        known = self._signposts.get(base)
        if known is not None and known.vary == record.vary:
            return known
        nothing = (None,) * len(record.vary)
        known = record._replace(
            status=SIGNPOST, chunks=urandom(8).hex().encode(), selecting=nothing, length=0, block=b"", body=b""
        )
        self._remember(base, known)
        return known

    def _set(self, key: bytes, record: Record, life: float) -> bool:
        data = self.codec.encode(key, self._clock.leaving(record))
        return self.writes.send(("SET", key, data, "PX", b"%d" % (life * 1000)), len(data))

    def forget(self, url: bytes) -> None:
        """Delete what is stored for `url`. Until the server has confirmed that, this worker reads nothing for it."""
        base = storage_key(url)
        self._signposts.pop(base, None)
        self._deleting[base] = self._deleting.get(base, 0) + 1
        if self._deleting[base] == 1:
            self._delete(base)

    def _delete(self, base: bytes) -> None:
        spawn(self._deleted(base), "regional delete")

    async def _deleted(self, base: bytes) -> None:
        while self._deleting.get(base):
            wanted = self._deleting[base]
            try:
                await self.writes.execute(("UNLINK", base))
            except Failure:
                await asyncio.sleep(0.25)
                continue
            if self._deleting[base] == wanted:
                del self._deleting[base]

    # --- one fetch at a time for a region

    async def take(self, url: bytes, fields: Fields) -> Lease | LeaseWait | None:
        """The lease to fetch `url`, or a wait for another worker's; None if the tier does not answer."""
        if self.guard is not None and self.guard.unresponsive:
            return None
        key = storage_key(url)
        if (signpost := self._signposts.get(key)) is not None:
            key = variant_key(key, signpost.chunks, self._values(url, signpost.vary, fields))
        return await self.leases.take(key, self._take_within)

    def release(self, lease: Lease, result: LeaseResult) -> None:
        """Release `lease` and publish the outcome, after the writes that are enqueued."""
        self.leases.release(lease, result, self.writes if result.outcome is LeaseOutcome.STORED else None)

    # --- life

    @property
    def state(self) -> str:
        """The state of the Valkey's breaker: closed, open or half-open."""
        return "closed" if self.guard is None else self.guard.breaker.state.value

    @property
    def _unresponsive(self) -> bool:
        """Whether nothing takes a record now."""
        return self.guard is not None and self.guard.unresponsive and not self._layered

    async def close(self) -> None:
        """Close every task and connection."""
        await self.leases.close()
        for lane in (self.reads, self.bulk, self._followed, self.writes, self._control):
            await lane.close()
        if self.guard is not None:
            await self.guard.close()
            await self.guard.link.close()


WEIGH: Final = (
    "if redis.call('type',KEYS[1]).ok=='string' and redis.call('strlen',KEYS[1])>tonumber(ARGV[1]) "
    "then return redis.call('unlink',KEYS[1]) end return 0"
)


def useful_life(stored: Stored, now: float) -> float:
    """Seconds for which a response may be used: fresh, stale within a window, or to be validated."""
    stale = max(stored.stale_if_error, stored.stale_while_revalidate)
    if stored.has_validator:
        stale = max(stale, KEEP_FOR_VALIDATION)
    return stored.stale_at - now + stale
