"""Whether what is stored may still be used, as far as invalidations go: this worker's log, and the rule applied to it.

    memory ──► `check`         one integer comparison; only if the log has moved since are the registers looked at
    regional ─► `check_found`  by the vector that the record carries
    a fill ───► `verdict`      by what was known when its question was asked

Everything that is applied goes through `apply`: entries of a region's log, or of this process alone (`append`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from edgecache.invalidation.purge_log import (
    Applied,
    Kind,
    LogEntry,
    PurgeLog,
    Stamp,
    Verdict,
    requested_at,
    unproven_at,
)
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.semantics import uri
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.memoize import memoize
from edgecache.semantics.stored_response import NO_POSITION
from edgecache.storage.memory import Entry, Memory

if TYPE_CHECKING:
    from edgecache.storage.record import Record

logger = logging.getLogger("edgecache")
AVAILABLE: Final = "available"
AVAILABLE_EVERYWHERE: Final[Mapping[bytes, str]] = {b"": AVAILABLE}
CUT_OFF: Final = b"cut-off"  # in Cache-Status


class SharedFetches(Protocol):
    """Upstream fetches under way that several requests share."""

    def dissolve(self, names: frozenset[bytes]) -> None:
        """Let no further request join a fetch for a URL with one of these names."""


class Invalidation:
    """One worker's view of all invalidations. Mutable state: the log, and what it leaves in memory and in flight."""

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
        self.replaying = False  # entries from before this worker began are still being read: no record is proven
        self.cut_off = False  # nothing was heard of some region's log for too long
        self._tell_at = 1  # forgotten registers, at which it is said
        self.ignored: IgnoredParameters | None = None  # parameters that are no part of keys
        self.on_applied: Callable[[], None] = lambda: None  # told when the log has moved

    def set_cut_off(self, cut_off: bool) -> None:
        """Whether, from now on, purges may be missing here."""
        if cut_off != self.cut_off:
            self.cut_off = cut_off
            self.log.suspend(cut_off)

    @property
    def detail(self) -> bytes:
        """What Cache-Status says of an answer that is given now."""
        return CUT_OFF if self.cut_off else b""

    def is_unproven(self, url: bytes) -> bool:
        """Whether nothing stored for `url` may be used now, because purges may be missing."""
        if not self.cut_off:
            return False
        modes = self._cut_off_modes
        path = uri.split_key(uri.normalised(url))[1] or b"/"
        while path and path not in modes:
            path = path.rpartition(b"/")[0]
        return modes.get(path, AVAILABLE) != AVAILABLE

    # --- the rule, tier by tier

    def check(self, entry: Entry, now: float) -> Verdict:
        """Whether `entry`, which memory holds, may be used; what was purged leaves, what was softly purged is stale.

        It is stale from `now` on, in epoch seconds: its freshness is to be judged at that time, or a later one.
        """
        log = self.log
        if entry.passed == log.fence:
            return Verdict.USABLE
        if self.is_unproven(entry.url):
            return Verdict.UNPROVEN
        verdict = log.check(subject_of(entry), requested_at(entry.passed))
        match verdict:
            case Verdict.USABLE:
                entry.passed = log.position
            case Verdict.STALE:
                entry.soften(now)
                self._memory.resize(entry)
                entry.passed = log.position
                return Verdict.USABLE  # by this rule; its freshness is another question
            case Verdict.PURGED:
                self._memory.drop(entry)
        return verdict

    def still_passes(self, entry: Entry) -> bool:
        """Whether `entry` passes without a word about purges that may be missing; what does not stays as it is."""
        log = self.log
        if entry.passed == log.fence:
            return True
        if self.cut_off or log.check(subject_of(entry), requested_at(entry.passed)) is not Verdict.USABLE:
            return False
        entry.passed = log.position
        return True

    def check_found(self, entry: Entry, seen: str, now: float) -> Verdict:
        """Whether `entry`, which another process stored with the vector `seen`, may be used; as `check`."""
        log = self.log
        vector = vector_of(seen)
        if vector is None or self.replaying or self.is_unproven(entry.url):  # None: nobody knows when it was asked
            entry.passed = NO_POSITION
            return Verdict.UNPROVEN
        verdict = log.check_vector(Subject(entry.url, entry.tags, self._memory.normal_key(entry.url)), vector)
        entry.passed = log.position if verdict in (Verdict.USABLE, Verdict.STALE) else NO_POSITION
        if verdict is Verdict.STALE:
            entry.soften(now)
            return Verdict.USABLE
        return verdict

    def proves(self, record: Record) -> bool:
        """Whether `record`, which another process stored, is usable as it is."""
        vector = vector_of(record.seen)
        if vector is None or self.replaying or self.cut_off:  # cut off, the answer has to say so
            return False
        normal = self._memory.normal_key(record.url)
        return self.log.check_vector(Subject(record.url, record.tags, normal), vector) is Verdict.USABLE

    def verdict(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> Verdict:
        """What the rule says of an answer to a question asked at `seen`."""
        return self.log.check(Subject(key, tags, self._memory.normal_key(key)), seen.position)

    def passed(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> int | None:
        """What an entry made of that answer remembers; None if it was purged meanwhile."""
        match self.verdict(key, tags, seen):
            case Verdict.PURGED:
                return None
            case Verdict.UNPROVEN:  # a write is under way: it is as good as any, and has to be validated
                return unproven_at(seen.position)
            case _:
                return seen.position

    def allows(self, key: bytes, tags: tuple[bytes, ...], seen: Stamp) -> bool:
        """Whether that answer may be given to who has asked only now."""
        if seen.position == self.log.fence and not self.log.writes:
            return True
        return not self.is_unproven(key) and self.verdict(key, tags, seen) is Verdict.USABLE

    # --- what happens

    def append(self, scopes: Iterable[bytes], *, soft: bool = False) -> int:
        """Everything asked before now is unusable for these scopes, in this process; the position of that."""
        named = self._widened(scopes)
        position = self.log.append(*named, soft=soft)
        if not soft:
            self._let_go(named)
        self._tell_of_overflow()
        return position

    def settle(self, scopes: Iterable[bytes], position: int, region: str, mark: int) -> None:
        """What was appended at `position` is the entry `mark` of a region's log now, which other processes know."""
        self.log.settle(self._widened(scopes), position, region, mark)

    def apply(self, region: str, entry: LogEntry, now: float) -> Applied:
        """Apply one entry of a region's log, at `now` in monotonic seconds."""
        named = self._widened(entry.scopes)
        applied = self.log.apply(region, entry._replace(scopes=named), now)
        if not entry.soft and entry.kind in (Kind.PURGE, Kind.END):
            self._let_go(named)
        self._tell_of_overflow()
        self.on_applied()
        return applied

    def _tell_of_overflow(self) -> None:
        """Say that purged names are forgotten: at the first, and whenever they are twice as many."""
        registers = self.log.registers
        if registers.folded >= self._tell_at:
            self._tell_at = 2 * registers.folded
            site = registers.overflowed.decode("latin-1") or "all sites"
            logger.warning(
                "too many purged names (EDGECACHE_PURGE_REGISTERS): older objects are validated site=%s forgotten=%d",
                site,
                registers.folded,
            )

    def _widened(self, scopes: Iterable[bytes]) -> tuple[bytes, ...]:
        """`scopes`, and the keys under which URLs among them lie (parameters that are ignored, No-Vary-Search)."""
        named = tuple(scopes)
        if self.ignored is not None:
            less = self.ignored.without
            named = tuple(dict.fromkeys((*named, *(less(name) for name in named if name[:1] == b"u"))))
        merged_keys = self._memory.merged_keys
        merged = [b"u" + key for name in named if name[:1] == b"u" for key in merged_keys(name[1:])]
        return (*named, *merged) if merged else named

    def _let_go(self, scopes: Iterable[bytes]) -> None:
        """Forget at once what these name by its URL; what other scopes name is found out when it is asked for."""
        urls = [name[1:] for name in scopes if name[:1] == b"u"]
        for url in urls:
            self._memory.invalidate(url)
        if urls:
            self._fetches.dissolve(frozenset(map(uri.normalised, urls)))


def subject_of(entry: Entry) -> Subject:
    """What the rule needs to know of `entry`."""
    return Subject(entry.url, entry.tags, entry.key)


@memoize(2048, longest=4096)
def vector_of(text: str) -> Vector | None:
    """The vector that a record carries; None if it is none."""
    if not text:
        return NOTHING
    try:
        return Vector.decode(text.encode())
    except ValueError:
        return None


@lru_cache(maxsize=64)
def written(vector: Vector) -> str:
    """`vector` as a record carries it."""
    return vector.encode().decode()
