"""Purges in the supervisor: recorded in the region's log and tracked in all regions; and the log replicators.

`POST /purges` is answered when the purge is in the log of this region, or with `?wait=region|all` when all followers
have applied it. `GET /purges/{id}` reports their progress; `GET /purges` is the recent ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from edgecache.config.settings import Settings
from edgecache.invalidation import version_vector
from edgecache.invalidation.appender import LogAppender
from edgecache.invalidation.ledger import display_name, names_only_other_sites, visible_to
from edgecache.invalidation.log_entry import Draft, author_of, decode_entry, decode_purge_id, purge_id
from edgecache.invalidation.metrics import LogMetrics
from edgecache.invalidation.purge_auth import Caller, Credentials, FailedAttempts, PurgeRefused, callers_of
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.purge_request import Purge, purge_of_json, refuse_repeated_names
from edgecache.invalidation.region_log import appender_of, own_region_store, peer_region_store
from edgecache.invalidation.replicator import LogReplicator
from edgecache.invalidation.stream_store import LogMember, LogStore, Row
from edgecache.semantics.secret_parameters import Redact, redacting
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Registry
from edgecache.valkey.client import Failure

audit = logging.getLogger("edgecache.audit")
LONGEST_WAIT: Final = 60.0  # seconds
USUAL_WAIT: Final = 10.0
PREDECESSORS: Final = 10.0  # seconds after the start until silent workers of this POP are those of one that was killed
CLOSE_WITHIN: Final = 1.0  # seconds
MOST_LISTED: Final = 1000
CLOCKS_DIFFER: Final = 600_000  # milliseconds by which the clocks of two regions may differ
Json = dict[str, Any]


class PurgeService:
    """Authenticates and records purges. Mutable state: failed attempts. Subclasses implement the log."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._registry = registry
        self._pop = settings.pop
        self._attempts = FailedAttempts()
        self.tune(settings)

    def tune(self, settings: Settings) -> None:
        """Apply other purge tokens and hosts; other settings need a restart."""
        self._callers = callers_of(settings)
        self._redact = redacting(settings.secret_parameters)
        self._sites = frozenset(settings.hosts)

    def start(self) -> None:
        """Start background work."""

    def worker_ended(self, pid: int) -> None:
        """The worker with this process ID has ended: purges no longer wait for it."""

    def peers(self) -> dict[str, str]:
        """Replication problems by peer; empty if none."""
        return {}

    async def close(self) -> None:
        """End."""

    def caller(self, credentials: Credentials, address: str, now: float) -> Caller:
        """The authenticated caller; raises `PurgeRefused` and records the attempt."""
        try:
            if not self._callers:
                sentence = "purging is disabled: set EDGECACHE_ADMIN_TOKEN or EDGECACHE_PURGE_TOKENS"
                raise PurgeRefused(403, "purge-off", sentence)
            return self._attempts.authenticate(self._callers, credentials, address, now)
        except PurgeRefused as refused:
            self.refused(refused, address)
            raise

    def refused(self, refused: PurgeRefused, address: str) -> None:
        """Count and log a refusal."""
        words = "Requests refused, by reason."
        self._registry.counter("edgecache_refused", words, reason=refused.reason).value += 1
        audit.warning("purge refused reason=%s from=%s", refused.reason, address)

    async def purge(self, body: bytes, caller: Caller, address: str, wait: str, within: float) -> tuple[int, Json]:
        """Record a purge; status and answer. Raises `PurgeRefused`."""
        try:
            value = orjson.loads(body)
        except ValueError:
            raise PurgeRefused(400, "purge-malformed", "the purge is not JSON") from None
        purge = purge_of_json(value, caller)
        refuse_repeated_names(body)
        return await self.record_purge(purge, caller, address, wait, within)

    async def record_purge(
        self, purge: Purge, caller: Caller, address: str, wait: str = "none", within: float = 0.0
    ) -> tuple[int, Json]:
        """The same for a parsed purge."""
        if names_only_other_sites(self._sites, purge.scopes):
            raise PurgeRefused(404, "purge-no-site", "the purge names no site in EDGECACHE_HOSTS")
        draft = Draft(scopes=purge.scopes, soft=purge.soft, author=f"{caller.name} ({self._pop})")
        status, answer = await self._record(draft, wait, within)
        names = len(purge.scopes)
        audit.info("purge id=%s by=%s from=%s names=%d soft=%s", answer["id"], caller.name, address, names, purge.soft)
        return status, answer

    async def _record(self, draft: Draft, wait: str, within: float) -> tuple[int, Json]:
        raise NotImplementedError

    async def report(self, number: str, caller: Caller) -> Json:
        """Progress of the purge with this ID in all POPs. Raises `PurgeRefused` (404, 503).

        Purges of other sites than the caller's are reported as missing.
        """
        raise NotImplementedError

    async def ledger(self, most: int, caller: Caller) -> list[Json]:
        """The last purges and writes of the caller's sites, the newest first. Raises `PurgeRefused` (503)."""
        raise NotImplementedError


class RegionPurgeService(PurgeService):
    """Purges of a POP with a regional tier. Mutable state: the last mark seen, and the replicators."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        super().__init__(settings, registry)
        self._region = settings.region
        self._seen = 0  # last mark of this region seen in this process
        self._writer: LogAppender = appender_of(settings, LogMetrics(registry, settings.region), lambda: self._seen)
        self._stores: dict[str, LogStore] = {settings.region: self._writer.store, **self._writer.peers}
        self._copiers = [
            LogReplicator(
                lambda: own_region_store(settings),
                lambda url=url: peer_region_store(settings, url),  # type: ignore[misc]
                region=settings.region,
                peer=peer,
            )
            for peer, url in settings.peers.items()
        ]
        self._tasks: list[asyncio.Task[None]] = []
        for copier in self._copiers:
            _export(registry, copier)

    def start(self) -> None:
        """Start the replicators."""
        self._tasks = [spawn(copier.run(), f"copy the log of {copier.peer}") for copier in self._copiers]
        self._tasks.append(spawn(self._forget_predecessors(), "workers of a POP that was killed"))

    async def _forget_predecessors(self) -> None:
        """Purges no longer wait for workers that a killed supervisor of this POP has left behind."""
        await asyncio.sleep(PREDECESSORS)
        await self._forget(f"{self._pop}/", silent=PREDECESSORS / 2)

    def worker_ended(self, pid: int) -> None:
        """The worker with this process ID has ended: purges no longer wait for it."""
        spawn(self._forget(f"{self._pop}/{pid}."), "a worker is no more")

    def peers(self) -> dict[str, str]:
        """Replication problems by peer; empty if none."""
        return {copier.peer: copier.trouble for copier in self._copiers}

    async def _forget(self, prefix: str, silent: float = 0.0) -> None:
        """Remove workers with this name prefix that have been silent for `silent` seconds."""
        with contextlib.suppress(*Failure):
            members = await self._writer.store.members()
            dead = [one.name for one in members if one.name.startswith(prefix) and one.silent >= silent]
            if dead:
                await self._writer.store.leave(*dead)

    async def close(self) -> None:
        """End."""
        await asyncio.gather(*(copier.stop() for copier in self._copiers))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN)
        await self._writer.close()

    async def _record(self, draft: Draft, wait: str, within: float) -> tuple[int, Json]:
        try:
            mark = await self._writer.append(draft)
        except Failure:
            sentence = "the purge could not be recorded in this region's log: try again"
            raise PurgeRefused(503, "log-unreachable", sentence) from None
        self._seen = max(self._seen, mark)
        answer: Json = {"id": purge_id(self._region, mark), "soft": draft.soft, "state": "recorded"}
        if wait == "none":
            return 201, answer
        done, pending = await self._writer.applied_by(self._region, mark, wait == "all", within)
        return (201, answer | {"state": "applied"}) if done else (202, answer | {"pending": pending})

    async def report(self, number: str, caller: Caller) -> Json:
        """Progress of the purge with this ID in all POPs. Raises `PurgeRefused` (404, 503)."""
        try:
            region, mark = decode_purge_id(number)
        except ValueError:
            raise PurgeRefused(404, "purge-unknown", "that is not the ID of a purge") from None
        try:
            row = await self._writer.store.entry(region, mark)
        except Failure:
            raise PurgeRefused(503, "log-unreachable", "this region's log cannot be reached") from None
        listed = _listed(region, row, caller, self._redact) if row is not None else {}
        if row is None or (caller.is_limited and not listed["names"]):
            raise PurgeRefused(404, "purge-unknown", "no purge with that ID is kept in the log")
        reports = await asyncio.gather(*(_region_report(store, region, mark) for store in self._stores.values()))
        regions = dict(zip(self._stores, reports, strict=True))
        pending = [
            f"{name}/{pop}" if pop else f"{name} (unreachable)"
            for name, report in regions.items()
            for pop in ([""] if report is None else [pop for pop, one in report.items() if not one["applied"]])
        ]
        return listed | {"regions": regions, "pending": pending, "complete": not pending}

    async def ledger(self, most: int, caller: Caller) -> list[Json]:
        """The last purges and writes of all regions, the newest first. Raises `PurgeRefused` (503)."""
        store, read = self._writer.store, MOST_LISTED if caller.is_limited else most
        try:
            regions = await store.regions()
            found = await asyncio.gather(*(store.recent(region, read) for region in regions))
        except Failure:
            raise PurgeRefused(503, "log-unreachable", "this region's log cannot be reached") from None
        rows = [(region, row) for region, its in zip(regions, found, strict=True) for row in its]
        listed = [_listed(region, row, caller, self._redact) for region, row in rows]
        named = [one for one in listed if one["names"]]
        return sorted(named, key=lambda one: str(one["appended"]), reverse=True)[:most]


def _listed(region: str, row: Row, caller: Caller, redact: Redact | None) -> Json:
    """One entry as the ledger shows it to `caller`."""
    id_, fields = row
    try:
        entry = decode_entry(id_, fields)
    except ValueError:
        return {"id": "", "names": [], "appended": ""}
    named = visible_to(caller, entry.scopes) if entry.kind in (EntryKind.PURGE, EntryKind.END) else ()
    appended = datetime.fromtimestamp(version_vector.id_of(entry.mark)[0] / 1000, UTC)
    return {
        "id": purge_id(region, entry.mark),
        "kind": "write" if entry.kind is EntryKind.END else entry.kind.value,
        "by": author_of(fields),
        "soft": entry.soft,
        "names": [display_name(name, redact) for name in named],
        "appended": appended.isoformat(timespec="milliseconds"),
    }


async def _region_report(store: LogStore, region: str, mark: int) -> dict[str, Json] | None:
    """Progress by POP in one region: whether all its workers have applied the entry, and after how long."""
    appended = version_vector.id_of(mark)[0]
    try:
        members, acks = await asyncio.gather(store.members(), store.acks(appended - CLOCKS_DIFFER))
    except Failure:
        return None
    first: dict[str, int] = {}
    for when, name, vector in acks:
        if vector[region] >= mark:
            first.setdefault(name, when)
    found: dict[str, Json] = {}
    for member in members:
        pop = found.setdefault(member.pop, {"applied": True, "workers": 0, "after_ms": None, "lagging": []})
        pop["workers"] += 1
        _add(pop, member, first.get(member.name), member.vector[region] >= mark, appended)
    return found


def _add(pop: Json, member: LogMember, when: int | None, applied: bool, appended: int) -> None:
    if not applied:
        pop["applied"] = False
        pop["lagging"].append({"worker": member.name, "silent_s": round(member.silent, 3)})
    elif when is not None:
        pop["after_ms"] = max(pop["after_ms"] or 0, when - appended)


def _export(registry: Registry, copier: LogReplicator) -> None:
    registry.counter(
        "edgecache_log_copied", "Entries copied from another region.", read=lambda: copier.copied, peer=copier.peer
    )
    registry.gauge(
        "edgecache_log_peer_up",
        "1 while the log of another region can be copied.",
        read=lambda: float(copier.connected),
        peer=copier.peer,
    )


def parse_wait(wait: str, within: str) -> tuple[str, float]:
    """The query of `POST /purges`: none, region or all; and seconds. Raises `PurgeRefused` (400)."""
    if wait not in ("none", "region", "all"):
        raise PurgeRefused(400, "purge-malformed", "wait is none, region or all")
    try:
        seconds = float(within or USUAL_WAIT)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= LONGEST_WAIT:
        raise PurgeRefused(400, "purge-malformed", f"timeout is a number of seconds up to {LONGEST_WAIT:g}")
    return wait, seconds
