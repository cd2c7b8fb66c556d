"""A worker's consumer of all regions' logs in its own region's Valkey; it reports what it has applied.

One connection waits for entries. A few times a second the consumer also checks the logs: one that holds less than was
applied was lost or rolled back, and is reopened; a silent region counts as cut off; a write whose end is overdue is
ended in place of the process that died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from edgecache.invalidation import version_vector
from edgecache.invalidation.log_entry import Draft, StreamFields, decode_entry
from edgecache.invalidation.purge_log import LOST, Applied, EntryKind
from edgecache.invalidation.stream_store import LogStore, Row, ServerRun
from edgecache.invalidation.validity import Invalidation
from edgecache.invalidation.version_vector import Vector
from edgecache.tasks import spawn
from edgecache.valkey.client import Failure

log = logging.getLogger("edgecache")
LOOK_EVERY: Final = 0.15  # seconds
WAIT: Final = 0.2  # seconds for an entry, before the next look
HEARTBEAT: Final = 1.0  # seconds between two words of what is applied while nothing changes
CLOSE_WITHIN: Final = 1.0  # seconds
RECONNECT: Final = 0.1  # seconds
MOST_AT_ONCE: Final = 1000  # entries of each log
MOST_IN_A_TURN: Final = 10  # of them that are applied in one turn of the event loop
BEGINNING: Final = b"0-0"


class ConsumerMetrics(Protocol):
    """Metrics of the logs."""

    def applied(self, region: str, relation: Applied, seconds: float) -> None:
        """Record an applied entry and its delay since it was appended."""

    def failed(self, word: str = "read") -> None:
        """Record a failed read, or a new incarnation: `restarted`."""


class LogConsumer:
    """Consumer of the logs. Mutable state: read positions, times of last contact, and waiters."""

    def __init__(
        self,
        store: LogStore,
        invalidation: Invalidation,
        *,
        region: str,
        peers: Iterable[str],
        member: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        max_lag: float,
        counts: ConsumerMetrics,
    ) -> None:
        self._store = store
        self._invalidation = invalidation
        self._log = invalidation.log
        self._region = region
        self._peers = frozenset(peers)
        self.member = member  # this worker's member name
        self._clock = clock  # monotonic seconds
        self.outlived = False  # responses may have outlived the server of the log: in a machine's store
        self._wall = wall  # epoch seconds
        self._max_lag = max_lag  # seconds
        self._counts = counts
        now = clock()
        self._heard: dict[str, float] = dict.fromkeys((region, *self._peers), now)
        self._beats: dict[str, bytes] = {}
        self._after: dict[str, bytes] = {}  # the ID up to which each log was read
        self._looked = 0.0
        self._told = -HEARTBEAT
        self._unsealed: set[str] = set()  # regions whose last entry had no valid seal
        self._unknown = False  # the server does not say which run it is
        self._waiting: list[tuple[Vector, asyncio.Future[None]]] = []
        self._must_reach: dict[str, int] | None = None  # until it has caught up
        self.caught_up = asyncio.Event()
        self._closed = False  # a command may swallow the cancellation of its task
        invalidation.replaying = True
        self._task = spawn(self._run(), "follow the logs")

    # --- what is known

    def lags(self) -> dict[str, float]:
        """Seconds of silence by region."""
        now = self._clock()
        return {region: now - heard for region, heard in self._heard.items()}

    async def reaches(self, vector: Vector, within: float) -> bool:
        """Whether everything that `vector` knows is applied here; waits up to `within` seconds for it."""
        if self._log.has_applied(vector):
            return True
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (vector, reached)
        self._waiting.append(waiting)
        try:
            await asyncio.wait((reached,), timeout=within)
            return reached.done()
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def update_cut_off(self) -> None:
        """Update whether this worker is cut off; to be called regularly, for it depends on time alone."""
        self._invalidation.set_cut_off(any(lag > self._max_lag for lag in self.lags().values()))

    # --- following

    async def _run(self) -> None:
        while not self._closed:
            try:
                await self._follow()
            except Failure as error:
                self._counts.failed()
                log.debug("the log cannot be read: %r", error)
            except Exception:
                log.exception("a bug: the log could not be followed, and will be")
            self._looked = 0.0
            await asyncio.sleep(RECONNECT)

    async def _follow(self) -> None:
        while not self._closed:
            if self._clock() - self._looked >= LOOK_EVERY:
                await self._look()
                await self._end_overdue()
            found = await self._store.read(self._after, WAIT, MOST_AT_ONCE)
            for region, rows in found.items():
                await self._take(region, rows)
            self._heard[self._region] = self._clock()
            self._see_whether_caught_up()
            await self._tell(changed=bool(found))

    async def _take(self, region: str, rows: list[Row]) -> None:
        """Apply these entries; if the region's own log has lost some, begin it anew."""
        lost = False
        for first in range(0, len(rows), MOST_IN_A_TURN):
            lost |= await self._apply_some(region, rows[first : first + MOST_IN_A_TURN])
        if lost and region == self._region:
            await self._begin_anew()

    async def _apply_some(self, region: str, rows: list[Row]) -> bool:
        """Apply these entries, then let requests have their turn; whether some before them were lost."""
        relations = {self._apply(region, *row) for row in rows}
        self._wake()
        await asyncio.sleep(0)
        return not relations.isdisjoint(LOST)

    def _apply(self, region: str, id_: bytes, fields: dict[bytes, bytes]) -> Applied | None:
        """Apply one row of a log; None if it is no entry, or of an incarnation that is over."""
        self._after[region] = id_
        try:
            entry = decode_entry(id_, self._opened(region, id_, fields))
        except ValueError:
            log.error("the log of %s contains something that is not an entry", region)
            self._log.distrust(region)
            return None
        if version_vector.incarnation_of(entry.mark) < version_vector.incarnation_of(self._log.applied(region)):
            return None  # read again, of a log that began anew since: the floor is above it
        relation = self._invalidation.apply(region, entry, self._clock())
        if entry.invalidates:
            self._counts.applied(region, relation, self._wall() - version_vector.id_of(entry.mark)[0] / 1000)
        return relation

    def _wake(self) -> None:
        """Wake what waits for entries that have been applied."""
        for vector, reached in self._waiting:
            if not reached.done() and self._log.has_applied(vector):
                reached.set_result(None)

    def _opened(self, region: str, id_: bytes, fields: dict[bytes, bytes]) -> StreamFields:
        """The fields of an entry; of one without a valid seal only its place."""
        found, believed = self._store.unseal(region, id_, fields)
        if believed:
            self._unsealed.discard(region)
        elif not self._store.is_opening(fields):
            self._warn_of_unsealed(region)
        return found

    def _warn_of_unsealed(self, region: str) -> None:
        """Count an entry without a valid seal, and warn of the first."""
        self._counts.failed("unsealed")
        if region not in self._unsealed:
            log.warning(
                "the log of %s has entries that EDGECACHE_REGIONAL_KEY did not encrypt: they are older than the key "
                "or forged; everything older than these entries is validated",
                region,
            )
        self._unsealed.add(region)

    async def _look(self) -> None:
        """Check which regions have logs, and that none holds less than was applied."""
        await self._visit()
        regions = {self._region, *self._peers, *await self._store.regions()}
        tops, beats = await self._store.last_marks(sorted(regions)), await self._store.contacts()
        if not tops[self._region]:  # so that what is asked from now on is known to be newer than its beginning
            await self._store.reopen(self._region, self._log.applied(self._region))
            tops |= await self._store.last_marks([self._region])
        now = self._looked = self._clock()
        for region in regions:
            self._heard.setdefault(region, now)
            if beats.get(region) not in (None, self._beats.get(region)):
                self._heard[region] = now
        self._beats = beats
        for region, top in tops.items():
            after = self._after.setdefault(region, BEGINNING)
            if after != BEGINNING and (not top or version_vector.id_of(top) < version_vector.id_of(_mark(after))):
                self._after[region] = BEGINNING  # it is not the stream that was read so far
        if tops[self._region] < self._log.applied(self._region):
            await self._begin_anew()
        if self._must_reach is None:
            self._must_reach = tops
        await self._join()

    async def _join(self) -> None:
        """Become a member before anything is proven here: purges wait for members only."""
        if not self.caught_up.is_set():
            await self._tell(changed=False)
            self._see_whether_caught_up()

    async def _visit(self) -> None:
        """Reopen the log unless it is of this run of the server."""
        visit = await self._store.check_server_run(
            self._region, self._log.applied(self._region), outlived=self.outlived
        )
        if visit is ServerRun.ANOTHER:
            self._counts.failed("restarted")
            log.warning(
                "the server of the log of %s has restarted or changed, and may have lost entries: "
                "the log is started anew, and older responses are validated once",
                self._region,
            )
        elif visit is ServerRun.UNKNOWN and not self._unknown:
            log.warning("the server of the log of %s refuses INFO: an older snapshot is not detected", self._region)
        self._unknown = visit is ServerRun.UNKNOWN

    def _see_whether_caught_up(self) -> None:
        """End the replay of older entries: records of the regional tier can be proven from now on."""
        if self._must_reach is None or self.caught_up.is_set():
            return
        if all(self._log.applied(region) >= top for region, top in self._must_reach.items()):
            self.caught_up.set()
            self._invalidation.replaying = False

    async def _begin_anew(self) -> None:
        """Distrust the region's log, which has lost entries that were applied here."""
        if self._log.is_trusted(self._region):
            log.warning("the log of %s was lost or rolled back: it is started anew", self._region)
            self._log.distrust(self._region)
        await self._store.reopen(self._region, self._log.applied(self._region))

    async def _end_overdue(self) -> None:
        """End a write of this region whose END is missing: its scopes are invalid."""
        for write in self._log.overdue(self._clock()):
            if write.region == self._region and await self._store.claim_overdue(write.begun):
                draft = Draft(EntryKind.END, write.scopes, begun=write.begun, author=f"{self.member} (overdue)")
                known = self._log.applied(self._region)
                await self._store.append(self._region, draft, known)
                log.warning("a write did not end: it invalidates %s", version_vector.encode_mark(write.begun))

    async def _tell(self, *, changed: bool) -> None:
        now = self._clock()
        if changed or now - self._told >= HEARTBEAT:
            self._told = now
            await self._store.report_progress(self.member, self._log.vector.encode(), changed=changed)

    async def close(self) -> None:
        """Close: purges no longer wait for this worker."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=CLOSE_WITHIN)
        try:
            await asyncio.wait_for(self._store.leave(self.member), 0.5)
        except (*Failure, asyncio.CancelledError):
            pass
        await self._store.link.close()


def _mark(id_: bytes) -> int:
    milliseconds, _, sequence = id_.partition(b"-")
    return version_vector.mark(0, int(milliseconds), int(sequence))
