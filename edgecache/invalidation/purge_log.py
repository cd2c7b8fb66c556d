"""The purge log as applied in one process, and the rule by which responses stay usable. Pure state, no clock.

Every region has a log of invalidations; a POP applies the entries of each in the order of that log. A *register* per
scope (see `scopes`) holds, per region, the last entry that named it. A response carries `seen`: what had been applied
when its upstream request was sent. The only rule:

    a response is usable iff, for every register that names it, seen[region] >= register[region] for every region.

So a fetch that began before an invalidation never satisfies the rule after it, however late its response arrives.
`seen` has two forms. Within the process it is an int, the `position`: the number of entries applied, of all regions.
Outside of it (in records in Valkey, in responses to other POPs) it is a `Vector`. A response that passes is as good as
one requested now: its `seen` may advance, and until the position moves it needs no further look-up.

Forgotten, missed or lost entries never make an unusable response usable: a *floor* rises instead, of the site whose
register was forgotten (see `registers`) or of the region, and responses requested below it must be validated. Between
the begin and the end of a write its scopes are *in doubt*.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple

from edgecache.invalidation import scopes
from edgecache.invalidation.registers import Registers, Verdict, worse
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import NOTHING, Vector, beyond, incarnation_of
from edgecache.semantics import uri
from edgecache.semantics.outcomes import Label
from edgecache.semantics.stored_response import NO_POSITION

__all__ = ("Applied", "EntryKind", "LogEntry", "PurgeLog", "Stamp", "Verdict", "Write", "worse")
NO_FENCE: Final = -(1 << 62)  # no entry has this value
HERE: Final = ""  # region of entries of this process alone; never part of a vector that leaves it


class EntryKind(Enum):
    """Kind of a log entry."""

    OPEN = "open"  # the log begins anew: the first entry of an incarnation
    PURGE = "purge"  # everything that its scopes name is invalid
    BEGIN = "begin"  # a write to what its scopes name is about to be sent to the origin
    END = "end"  # that write is over; the scopes name what it has invalidated, none if nothing
    UNKNOWN = "unknown"  # not understood by this version: it may name anything


class LogEntry(NamedTuple):
    """One entry of a region's log, with its place in it."""

    mark: int
    previous: int  # the mark of the entry before it; that of its incarnation's beginning for the first
    kind: EntryKind = EntryKind.PURGE
    scopes: tuple[bytes, ...] = ()
    soft: bool = False  # of a PURGE: stale, not invalid
    within: float = 0.0  # of a BEGIN: seconds after which the write counts as lost
    begun: int = 0  # of an END: the mark of its BEGIN

    @property
    def invalidates(self) -> bool:
        """Whether it invalidates what its scopes name."""
        return bool(self.scopes) and self.kind in (EntryKind.PURGE, EntryKind.END)


class Applied(Label):
    """Outcome of applying an entry."""

    NEXT = "next"  # the next in order
    AGAIN = "again"  # already applied, or moot
    GAP = "gap"  # entries before it are missing: the floor has risen over them
    OPENED = "opened"  # of a new incarnation: the floor has risen to its beginning
    FORKED = "forked"  # the log has lost an entry that was applied here: nothing of this incarnation counts any more
    OUTDATED = "outdated"  # of an earlier incarnation: likewise


SKIPPED: Final = (Applied.GAP, Applied.OPENED)  # entries before it were not applied here
LOST: Final = (Applied.FORKED, Applied.OUTDATED)  # entries that were applied here are not in the log


class Write(NamedTuple):
    """A write that has begun and not ended."""

    region: str
    begun: int  # the mark of its BEGIN
    scopes: tuple[bytes, ...]
    deadline: float  # on the caller's monotonic clock, in seconds


class Stamp(NamedTuple):
    """Position and vector at one moment."""

    position: int
    vector: Vector


UNKNOWN: Final = Stamp(NO_POSITION, NOTHING)  # of a response whose time of request is unknown


class PurgeLog:
    """The logs of all regions as applied in one process.

    Mutable state: the position, the last mark applied per region, the registers, the floor, and the writes in doubt.
    Registers are bounded in number and bytes; of writes in doubt beyond `most_writes` only their sites are kept: until
    they end, everything of those is in doubt.
    """

    def __init__(self, most_registers: int = 65536, most_bytes: int = 32 << 20, most_writes: int = 65536) -> None:
        self.position = 0
        self.fence = 0  # the position, or NO_FENCE: entries that passed at the fence need no further check
        self.registers = Registers(most_registers, most_bytes)
        self.wildcard_of: Callable[[bytes], bytes] = lambda host: b""  # of a site, by which a host is one of its hosts
        self._floor = NOTHING  # responses requested below this vector are unproven
        self._floor_at = 0
        self._vector: Vector | None = NOTHING
        self._stamp: Stamp | None = None
        self._suspended = False
        self._applied: dict[str, int] = {}
        self._writes: OrderedDict[tuple[str, int], Write] = OrderedDict()
        self._doubts: Counter[bytes] = Counter()  # scope → writes that have begun and not ended
        self._most_writes = most_writes

    # --- what is known

    @property
    def floor(self) -> Vector:
        """The least `seen` of a proven response of any site."""
        return self._floor.merged(self.registers.floor)

    @property
    def vector(self) -> Vector:
        """Last mark applied by region; the same object until the position moves."""
        if self._vector is None:
            self._vector = Vector(self._applied).without(HERE)
        return self._vector

    def stamp(self) -> Stamp:
        """Stamp of a request sent now; the same object until the position moves."""
        stamp = self._stamp
        if stamp is None:
            stamp = self._stamp = Stamp(self.position, self.vector)
        return stamp

    def stamp_for(self, required: Vector) -> Stamp:
        """Stamp of a request sent now for a child: `required` was known before it, if not yet applied here."""
        position, vector = self.stamp()
        return Stamp(position, vector.merged(required))

    def suspend(self, suspended: bool) -> None:
        """Set whether every use needs a full check, as while cut off."""
        self._suspended = suspended
        self.fence = NO_FENCE if suspended else self.position

    def applied(self, region: str) -> int:
        """The mark of the last entry of `region` that was applied; 0 if none was."""
        return self._applied.get(region, 0)

    def has_applied(self, vector: Vector) -> bool:
        """Whether everything that `vector` knows is applied here."""
        return self.vector.covers(vector)

    def is_trusted(self, region: str) -> bool:
        """Whether requests sent now are proven to cover `region`."""
        return self.applied(region) >= self._floor[region]

    # --- the rule

    def is_at(self, position: int) -> bool:
        """Whether a response requested at `position` needs no `check`: nothing came since, and no write is in doubt."""
        return position == self.position and not self._doubts

    def check(self, subject: Subject, seen: int) -> Verdict:
        """Whether a response that this process requested at position `seen` may be used."""
        worst = Verdict.UNPROVEN if seen < self._floor_at else Verdict.USABLE
        host = uri.site_of(subject.key)
        names = self._names(subject, host)
        worst = worse(worst, self.registers.verdict_at(names, host, seen))
        current = self.wildcard_of(host)
        if current or subject.tags:
            for wildcard, names_by_it in scopes.naming_wildcards(subject, current):
                worst = worse(worst, self.registers.verdict_at(names_by_it, wildcard, seen))
        return worse(worst, self._doubt(names)) if self._doubts else worst

    def check_vector(self, subject: Subject, seen: Vector) -> Verdict:
        """Whether a response with the vector `seen` may be used. If so, it is as good as one requested now."""
        worst = Verdict.USABLE if seen.covers(self._floor) else Verdict.UNPROVEN
        host = uri.site_of(subject.key)
        names = self._names(subject, host)
        worst = worse(worst, self.registers.verdict(names, host, seen))
        current = self.wildcard_of(host)
        if current or subject.tags:
            for wildcard, names_by_it in scopes.naming_wildcards(subject, current):
                worst = worse(worst, self.registers.verdict(names_by_it, wildcard, seen))
        return worse(worst, self._doubt(names)) if self._doubts else worst

    def _doubt(self, names: list[bytes]) -> Verdict:
        return Verdict.USABLE if self._doubts.keys().isdisjoint(names) else Verdict.UNPROVEN

    # --- what happens

    def append(self, *named: bytes, soft: bool = False) -> int:
        """Invalidate these scopes in this process; the position of the entry."""
        self._advance(HERE, self.position + 1)
        self._name(named, HERE, self.position, soft=soft)
        return self.position

    def apply(self, region: str, entry: LogEntry, now: float) -> Applied:
        """Apply the next entry of `region`'s log, at `now` on the caller's monotonic clock.

        Any entry may come again, or too early; what it names is invalid from here on in any case.
        """
        relation = self._relation(region, entry)
        self._advance(region, entry.mark)
        if relation in SKIPPED:
            self._raise_floor(region, entry.previous)
        elif relation in LOST:
            self.distrust(region)
        self._take(region, entry, relation, now)
        return relation

    def _relation(self, region: str, entry: LogEntry) -> Applied:
        last = self.applied(region)
        if incarnation_of(entry.mark) != incarnation_of(last):
            return Applied.OPENED if entry.mark > last else Applied.OUTDATED
        if entry.mark <= last:
            return Applied.AGAIN
        if entry.previous == last:
            return Applied.NEXT
        return Applied.GAP if entry.previous > last else Applied.FORKED

    def _take(self, region: str, entry: LogEntry, relation: Applied, now: float) -> None:
        """Apply the entry to registers, writes and floors."""
        if entry.invalidates:
            self._name(entry.scopes, region, entry.mark, soft=entry.soft and entry.kind is EntryKind.PURGE)
        if entry.kind is EntryKind.BEGIN and relation is not Applied.AGAIN:
            self._begin(Write(region, entry.mark, entry.scopes, now + entry.within))
        elif entry.kind is EntryKind.END:
            self._end(region, entry.begun)
        elif entry.kind is EntryKind.UNKNOWN:
            self._raise_floor(region, entry.mark)

    def distrust(self, region: str) -> None:
        """Distrust the log of `region` until it has a new incarnation."""
        self._advance(region, 0)
        self._raise_floor(region, beyond(self.applied(region)))

    def overdue(self, now: float) -> list[Write]:
        """Writes whose END is overdue at `now`. They stay in doubt until one is applied."""
        return [write for write in self._writes.values() if write.deadline <= now]

    def forget(self, position: int) -> int:
        """Drop the registers that were last named at or before `position`: floors rise; how many were dropped."""
        return self.registers.forget(position)

    def settle(self, named: Iterable[bytes], position: int, region: str, mark: int) -> None:
        """What was `append`ed at `position` is now the entry `mark` of `region`: other processes can know it."""
        self.registers.settle(map(scopes.canonical, named), HERE, position, (region, mark))

    def _advance(self, region: str, mark: int) -> None:
        """Advance the position: entries must be checked again."""
        self.position += 1
        if not self._suspended:
            self.fence = self.position
        if mark > self.applied(region):
            self._applied[region] = mark
            self._vector = None
        self._stamp = None

    def _raise_floor(self, region: str, mark: int) -> None:
        self._floor = self._floor.reaching(region, mark)
        self._floor_at = self.position

    # --- registers

    def _name(self, named: Iterable[bytes], region: str, mark: int, *, soft: bool) -> None:
        """Make all responses requested before this entry, at its position, unusable."""
        self.registers.name(map(scopes.canonical, named), self.position, Vector({region: mark}), soft=soft)

    def _names(self, subject: Subject, host: bytes) -> list[bytes]:
        """Scopes that name `subject`, of a site at `host`, and may be in a register or in doubt."""
        kinds = self.registers.kinds
        if subject.tags and not kinds.tagged:
            subject = Subject(subject.key, (), subject.alias)
        return scopes.naming(subject, host, kinds.deepest)

    # --- writes

    def _begin(self, write: Write) -> None:
        if len(self._writes) >= self._most_writes:
            write = write._replace(scopes=tuple(sorted(set(map(scopes.whole_site, write.scopes)))))
        self._writes[write.region, write.begun] = write
        for scope in map(scopes.canonical, write.scopes):
            self._doubts[scope] += 1
            self.registers.kinds.add(scope)

    def _end(self, region: str, begun: int) -> None:
        write = self._writes.pop((region, begun), None)
        for scope in map(scopes.canonical, write.scopes if write is not None else ()):
            self._doubts[scope] -= 1
            if not self._doubts[scope]:
                del self._doubts[scope]
            self.registers.kinds.remove(scope)

    @property
    def writes(self) -> int:
        """Number of writes in doubt."""
        return len(self._writes)

    @property
    def bytes_used(self) -> int:
        """Bytes of the registers."""
        return self.registers.bytes_used

    def __len__(self) -> int:
        return len(self.registers)

    def __repr__(self) -> str:
        return f"<PurgeLog at {self.position}, {len(self)} registers, {self.bytes_used} bytes, {self.vector!r}>"


def unproven_at(position: int) -> int:
    """`position` marked as unproven: no fence ever equals it."""
    return NO_POSITION - 1 - position


def requested_at(passed: int) -> int:
    """The position that is remembered, as it is or by `unproven_at`."""
    return passed if passed >= NO_POSITION else NO_POSITION - 1 - passed
