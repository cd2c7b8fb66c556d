"""Validity of stored responses by the purge log: the rule applied in one worker.

    memory ──► `check`         one integer comparison; registers are looked up only if the log has moved
    regional ─► `check_record`  by the vector that the record carries
    a fill ───► `verdict`      by the stamp of its upstream request

Entries come by `apply` from a region's log, or by `append` from this process alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, Protocol

from edgecache.invalidation.purge_log import (
    Applied,
    LogEntry,
    PurgeLog,
    Stamp,
    Verdict,
    requested_at,
    unproven_at,
)
from edgecache.invalidation.registers import Registers
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.semantics import uri
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.memoize import memoize
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.stored_response import NO_POSITION
from edgecache.storage.memory import Entry, Memory

logger = logging.getLogger("edgecache")
AVAILABLE: Final = "available"
AVAILABLE_EVERYWHERE: Final[Mapping[bytes, str]] = {b"": AVAILABLE}
CUT_OFF: Final = b"cut-off"  # in Cache-Status


class SharedFetches(Protocol):
    """Upstream fetches under way that several requests share."""

    def dissolve(self, names: frozenset[bytes]) -> None:
        """Let no further request join a fetch for a URL with one of these names."""


class SharedLog(Protocol):
    """The purge log of a POP without a region whose workers share a store (`invalidation/machine_log.py`)."""

    def written(self, position: int) -> str:
        """What a record says of the position at which its response was requested; empty if that is not known."""

    def catch_up(self) -> None:
        """Apply what there is."""

    def position_of(self, seen: str) -> int | None:
        """The position in this process, once it has applied what there is; None if it is not known."""


class Requested(Protocol):
    """A response that another process has stored."""

    @property
    def url(self) -> bytes:
        """The full cache key."""

    @property
    def tags(self) -> tuple[bytes, ...]:
        """Tags by which it can be purged."""

    @property
    def seen(self) -> str:
        """The version vector of the invalidation log when the origin was asked."""


class Invalidation:
    """Invalidation in one worker. Mutable state: the log."""

    def __init__(
        self,
        log: PurgeLog,
        memory: Memory,
        fetches: SharedFetches,
        cut_off_modes: Mapping[bytes, str] = AVAILABLE_EVERYWHERE,
    ) -> None:
        self.log = log
        self._memory = memory
        self._fetches = fetches
        self._cut_off_modes = cut_off_modes  # path prefix → available or consistent; the empty one is for all others
        self.replaying = False  # older entries are still being replayed: no record is proven
        self.cut_off = False  # the log of some region has been silent for too long
        self.shared: SharedLog | None = None
        self._warn_at = 1  # forgotten registers that trigger the next warning
        self.ignored: IgnoredParameters | None = None  # query parameters left out of keys
        self.spellings: Callable[[bytes], list[bytes]] = lambda url: []  # of a URL, as rules of sites may reduce it
        self.on_applied: Callable[[], None] = lambda: None  # called when the log has moved

    def use_sites(self, sites: Sites | None) -> None:
        """From now on, hosts and URLs belong to these sites, whose rules may reduce URLs; None: to the one there is."""
        self.spellings = (lambda url: []) if sites is None else sites.spellings
        self.log.wildcard_of = (lambda host: b"") if sites is None else sites.wildcard_of

    def set_cut_off(self, cut_off: bool) -> None:
        """Set whether purges may be missing here."""
        if cut_off != self.cut_off:
            self.cut_off = cut_off
            self.log.suspend(cut_off)

    @property
    def detail(self) -> bytes:
        """Detail for Cache-Status."""
        return CUT_OFF if self.cut_off else b""

    def is_unproven(self, url: bytes) -> bool:
        """Whether stored responses for `url` need validation because purges may be missing."""
        if not self.cut_off:
            return False
        modes = self._cut_off_modes
        path = uri.split_key(uri.normalised(url))[1] or b"/"
        while path and path not in modes:
            path = path.rpartition(b"/")[0]
        return modes.get(path, AVAILABLE) != AVAILABLE

    # --- the rule, tier by tier

    def check(self, entry: Entry, now: float) -> Verdict:
        """Verdict on `entry` in memory; purged entries are dropped, softly purged ones become stale.

        They are stale from `now` on, in epoch seconds: freshness must be evaluated at that time, or a later one.
        """
        verdict = self._verdict_on_entry(entry)
        match verdict:
            case Verdict.USABLE:
                entry.passed = self.log.position
            case Verdict.STALE:
                entry.soften(now)
                self._memory.resize(entry)
                entry.passed = self.log.position
                return Verdict.USABLE  # by this rule; its freshness is another question
            case Verdict.PURGED:
                self._memory.drop(entry)
        return verdict

    def is_usable(self, entry: Entry) -> bool:
        """Whether `entry` is usable without the detail of a cut-off; changes nothing otherwise."""
        if entry.passed == self.log.fence:
            return True
        if self.cut_off or self._verdict_on_entry(entry) is not Verdict.USABLE:
            return False
        entry.passed = self.log.position
        return True

    def _verdict_on_entry(self, entry: Entry) -> Verdict:
        if entry.passed == self.log.fence:
            return Verdict.USABLE
        if self.is_unproven(entry.url):
            return Verdict.UNPROVEN
        return self.log.check(subject_of(entry), requested_at(entry.passed))

    def check_record(self, entry: Entry, seen: str, now: float) -> Verdict:
        """Verdict on `entry`, stored by another process with the vector `seen`; as `check`."""
        verdict = Verdict.UNPROVEN if self.is_unproven(entry.url) else self._verdict_on_record(entry, seen)
        entry.passed = self.log.position if verdict in (Verdict.USABLE, Verdict.STALE) else NO_POSITION
        if verdict is Verdict.STALE:
            entry.soften(now)
            return Verdict.USABLE
        return verdict

    def is_proven(self, record: Requested) -> bool:
        """Whether `record`, stored by another process, is usable without the detail of a cut-off."""
        return not self.cut_off and self._verdict_on_record(record, record.seen) is Verdict.USABLE

    def passes(self, record: Requested, passed: int) -> bool:
        """As `is_proven`, for a record last known to be usable at `passed`, a log position, if it is one."""
        if passed < 0 or self.cut_off:
            return self.is_proven(record)
        subject = Subject(record.url, record.tags, self._memory.normal_key(record.url))
        return self.log.check(subject, passed) is Verdict.USABLE

    def seen(self, stamp: Stamp) -> str:
        """What a record says of the time at which its response was requested."""
        return written(stamp.vector) if self.shared is None else self.shared.written(stamp.position)

    def _verdict_on_record(self, stored: Entry | Requested, seen: str) -> Verdict:
        if self.shared is not None:
            position = self.shared.position_of(seen)
            if position is not None and self.log.is_at(position):
                return Verdict.USABLE
            subject = Subject(stored.url, stored.tags, self._memory.normal_key(stored.url))
            return Verdict.UNPROVEN if position is None else self.log.check(subject, position)
        vector = vector_of(seen)
        if vector is None or self.replaying:  # None: its time of request is unknown
            return Verdict.UNPROVEN
        return self.log.check_vector(Subject(stored.url, stored.tags, self._memory.normal_key(stored.url)), vector)

    def verdict(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> Verdict:
        """Verdict on a response requested at `seen`."""
        return self.log.check(Subject(key, tags, self._memory.normal_key(key)), seen.position)

    def passed(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> int | None:
        """`passed` of an entry for that response; None if it was purged meanwhile."""
        return seen.position if self.log.is_at(seen.position) else self._passed_since(key, tags, seen)

    def _passed_since(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> int | None:
        match self.verdict(key, tags, seen):
            case Verdict.PURGED:
                return None
            case Verdict.UNPROVEN:  # a write is under way: the entry must be validated
                return unproven_at(seen.position)
            case _:
                return seen.position

    def allows(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> bool:
        """Whether that response may answer a request that arrives now."""
        if seen.position == self.log.fence and not self.log.writes:
            return True
        return not self.is_unproven(key) and self.verdict(key, tags, seen) is Verdict.USABLE

    # --- applying entries

    def append(self, scopes: Iterable[bytes], *, soft: bool = False) -> int:
        """Invalidate these scopes in this process; the position of the entry."""
        named = self._widened(scopes)
        position = self.log.append(*named, soft=soft)
        if not soft:
            self._drop_urls(named)
        self._check_overflow()
        return position

    def settle(self, scopes: Iterable[bytes], position: int, region: str, mark: int) -> None:
        """Identify what was appended at `position` with the entry `mark` of a region's log."""
        self.log.settle(self._widened(scopes), position, region, mark)

    def apply(self, region: str, entry: LogEntry, now: float) -> Applied:
        """Apply one entry of a region's log, at `now` in monotonic seconds."""
        named = self._widened(entry.scopes)
        applied = self.log.apply(region, entry._replace(scopes=named), now)
        if entry.invalidates and not entry.soft:
            self._drop_urls(named)
        self._check_overflow()
        self.on_applied()
        return applied

    def _check_overflow(self) -> None:
        """Warn of forgotten registers: at the first, and each time their number has doubled."""
        if self.log.registers.folded >= self._warn_at:
            self._warn_of_overflow(self.log.registers)

    def _warn_of_overflow(self, registers: Registers) -> None:
        self._warn_at = 2 * registers.folded
        logger.warning(
            "too many purged names (EDGECACHE_PURGE_REGISTERS): older objects are validated site=%s forgotten=%d",
            registers.overflowed.decode("latin-1") or "all sites",
            registers.folded,
        )

    def _widened(self, scopes: Iterable[bytes]) -> tuple[bytes, ...]:
        """`scopes`, and the keys that URLs among them share (ignored parameters, No-Vary-Search)."""
        named = tuple(scopes)
        urls = [name for name in named if name[:1] == b"u"]
        if self.ignored is not None:
            urls += [self.ignored.without(url) for url in urls]
        urls += [b"u" + other for url in urls for other in self.spellings(url[1:])]
        merged = [b"u" + key for url in urls for key in self._memory.merged_keys(url[1:])]
        return tuple(dict.fromkeys((*named, *urls, *merged)))

    def _drop_urls(self, scopes: Iterable[bytes]) -> None:
        """Drop entries named by URL at once; other scopes take effect at the next look-up."""
        urls = [name[1:] for name in scopes if name[:1] == b"u"]
        for url in urls:
            self._memory.invalidate(url)
        if urls:
            self._fetches.dissolve(frozenset(map(uri.normalised, urls)))


def subject_of(entry: Entry) -> Subject:
    """Key and tags of `entry`."""
    return Subject(entry.url, entry.tags, entry.key)


@memoize(2048, longest=4096)
def vector_of(text: str) -> Vector | None:
    """The vector of a record; None if malformed."""
    if not text:
        return NOTHING
    try:
        return Vector.decode(text.encode())
    except ValueError:
        return None


@lru_cache(maxsize=64)
def written(vector: Vector) -> str:
    """`vector` encoded for a record."""
    return vector.encode().decode()
