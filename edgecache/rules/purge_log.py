"""What was invalidated, in which order, and which responses it leaves usable. Pure state, no clock.

Every region has a log of invalidations; a POP applies the entries of each in the order of that log. A *register* per
scope (see `scopes`) holds, per region, the last entry that named it. A response carries `seen`: what had been applied
when its question was asked. The rule, and the only rule:

    a response is usable iff, for every register that names it, seen[region] >= register[region] for every region.

So a fill that began before an invalidation can never satisfy the rule after it, however late it arrives. `seen` has two
forms. In this process it is an int, the `position`: the number of entries applied here, of all regions. In what leaves
the process (a record in Valkey, an answer to another POP) it is a `Vector`. A response that passes is as good as one
asked now: its `seen` may advance to the present, and until the position moves nothing needs to be looked up again.

What is forgotten, missed or lost never makes an unusable response usable: the *floor* of the region rises instead, and
what was asked below it has to be validated. Between the begin and the end of a write its scopes are *in doubt*.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from edgecache.rules import scopes
from edgecache.rules.reasons import Word
from edgecache.rules.scopes import EVERYTHING, Subject
from edgecache.rules.vectors import NOTHING, Vector, beyond, incarnation_of, mark

REGISTER_OVERHEAD: Final = 540  # bytes that a register costs beside its scope's; measured by the tests
NO_POSITION: Final = -1  # before all others: whatever carries it is unproven
TAGS: Final = (b"t", b"g")  # the kinds of scopes that a response bears many of
NO_FENCE: Final = -(1 << 62)  # what nothing has ever passed at
HERE: Final = ""  # the region of what only this process knows; no vector ever leaves with it


class Verdict(Word):
    """Whether a response may be used, as far as invalidations go. From best to worst."""

    USABLE = "usable"
    STALE = "stale"  # softly invalidated: to be treated as stale
    UNPROVEN = "unproven"  # below the floor or in doubt: to be validated before it is used, even where stale may be
    PURGED = "purged"  # invalidated: not to be used, nor validated


class Kind(Enum):
    """What an entry of a log says."""

    OPEN = "open"  # the log begins anew: the first entry of an incarnation
    PURGE = "purge"  # everything that its scopes name is invalid
    BEGIN = "begin"  # a write to what its scopes name is about to be sent to the origin
    END = "end"  # that write is over; the scopes name what it has invalidated, none if nothing
    UNKNOWN = "unknown"  # not understood here: it may have named anything


class LogEntry(NamedTuple):
    """One entry of a region's log, with its place in it."""

    mark: int
    previous: int  # the mark of the entry before it; that of its incarnation's beginning for the first
    kind: Kind = Kind.PURGE
    scopes: tuple[bytes, ...] = ()
    soft: bool = False  # of a PURGE: stale, not invalid
    within: float = 0.0  # of a BEGIN: seconds after which the write counts as lost
    begun: int = 0  # of an END: the mark of its BEGIN


class Applied(Word):
    """What an entry was to the log that was asked to apply it."""

    NEXT = "next"  # the one that was due
    AGAIN = "again"  # applied before, or one that an entry applied before has made moot
    GAP = "gap"  # entries before it are missing: the floor has risen over them
    OPENED = "opened"  # of a new incarnation: the floor has risen to its beginning
    FORKED = "forked"  # the log has lost an entry that was applied here: nothing of this incarnation counts any more
    OUTDATED = "outdated"  # of an earlier incarnation: likewise


class Write(NamedTuple):
    """A write that has begun and not ended."""

    region: str
    begun: int  # the mark of its BEGIN
    scopes: tuple[bytes, ...]
    deadline: float  # on the caller's monotonic clock, in seconds


class Stamp(NamedTuple):
    """What was applied at one moment, in both forms."""

    position: int
    vector: Vector


UNKNOWN: Final = Stamp(NO_POSITION, NOTHING)  # of an answer of which nobody knows when it was asked


class Register:
    """The last entries that named one scope: local positions and marks, hard and soft."""

    __slots__ = ("hard", "hard_at", "soft", "soft_at")

    def __init__(self) -> None:
        self.hard_at = 0
        self.soft_at = 0
        self.hard = NOTHING
        self.soft = NOTHING

    def verdict_at(self, seen: int) -> Verdict:
        """What it says of a response asked for at the local position `seen`."""
        return Verdict.PURGED if seen < self.hard_at else Verdict.STALE if seen < self.soft_at else Verdict.USABLE

    def verdict(self, seen: Vector) -> Verdict:
        """What it says of a response asked for at `seen`."""
        if not seen.covers(self.hard):
            return Verdict.PURGED
        return Verdict.USABLE if seen.covers(self.soft) else Verdict.STALE


class PurgeLog:
    """The logs of all regions as applied in one process.

    Mutable state: the position, the last mark applied per region, the registers in the order of their last entry, the
    floor, and the writes in doubt. Registers are bounded in number and bytes; of writes in doubt beyond `most_writes`
    only is kept that they are: until they end, everything is in doubt.
    """

    def __init__(self, most_registers: int = 65536, most_bytes: int = 32 << 20, most_writes: int = 65536) -> None:
        self.position = 0
        self.fence = 0  # the position, or NO_FENCE: who passed at the fence needs not be checked again
        self.bytes_used = 0
        self.floor = NOTHING  # what was asked knowing less than this is unproven
        self._floor_at = 0
        self._vector: Vector | None = NOTHING
        self._stamp: Stamp | None = None
        self._suspended = False
        self._applied: dict[str, int] = {}
        self._registers: OrderedDict[bytes, Register] = OrderedDict()
        self._depths: Counter[int] = Counter()  # how many path prefixes there are of each depth
        self._deepest = 0
        self._tagged = 0  # how many scopes of tags there are
        self._writes: OrderedDict[tuple[str, int], Write] = OrderedDict()
        self._doubts: Counter[bytes] = Counter()  # scope → writes that have begun and not ended
        self._most_registers = most_registers
        self._most_bytes = most_bytes
        self._most_writes = most_writes

    # --- what is known

    @property
    def vector(self) -> Vector:
        """What has been applied, per region; the same object until the position moves."""
        if self._vector is None:
            self._vector = Vector(self._applied).without(HERE)
        return self._vector

    def stamp(self) -> Stamp:
        """What a question asked now carries; the same object until the position moves."""
        stamp = self._stamp
        if stamp is None:
            stamp = self._stamp = Stamp(self.position, self.vector)
        return stamp

    def suspend(self, suspended: bool) -> None:
        """Whether, from now on, everything has to be checked each time, because more than this log decides."""
        self._suspended = suspended
        self.fence = NO_FENCE if suspended else self.position

    def applied(self, region: str) -> int:
        """The mark of the last entry of `region` that was applied; 0 if none was."""
        return self._applied.get(region, 0)

    def is_trusted(self, region: str) -> bool:
        """Whether what is asked now can be proven to cover `region`."""
        return self.applied(region) >= self.floor[region]

    # --- the rule

    def check(self, subject: Subject, seen: int) -> Verdict:
        """Whether a response to a question asked here at position `seen` may be used."""
        worst = Verdict.UNPROVEN if seen < self._floor_at else Verdict.USABLE
        names = self._names(subject)
        if self._registers.keys().isdisjoint(names) and not self._doubts:
            return worst
        for register in self._registers_of(names):
            worst = worse(worst, register.verdict_at(seen))
        return worse(worst, self._doubt(names))

    def check_vector(self, subject: Subject, seen: Vector) -> Verdict:
        """Whether a response that came with `seen` may be used. If so, it is as if it had been asked here, now."""
        worst = Verdict.USABLE if seen.covers(self.floor) else Verdict.UNPROVEN
        names = self._names(subject)
        if self._registers.keys().isdisjoint(names) and not self._doubts:
            return worst
        for register in self._registers_of(names):
            worst = worse(worst, register.verdict(seen))
        return worse(worst, self._doubt(names))

    def _registers_of(self, names: list[bytes]) -> Iterator[Register]:
        return (register for name in names if (register := self._registers.get(name)) is not None)

    def _doubt(self, names: list[bytes]) -> Verdict:
        return Verdict.USABLE if self._doubts.keys().isdisjoint(names) else Verdict.UNPROVEN

    def check_required(self, subject: Subject, seen: Vector, required: Vector) -> Verdict:
        """As `check_vector`, for a child POP that knows `required`: what is not applied of it here, `seen` must cover.

        What is asked upstream for that child carries the maximum of this POP's vector and `required`: the child knew
        its own before this question.
        """
        verdict = self.check_vector(subject, seen)
        caught_up = self.vector.covers(required) or seen.covers(required)
        return verdict if caught_up else worse(verdict, Verdict.UNPROVEN)

    def allows(self, key: bytes, seen: int) -> bool:
        """Whether a response without tags, to a question asked here at position `seen`, may be used for `key`."""
        return self.check(Subject(key), seen) is Verdict.USABLE

    # --- what happens

    def append(self, *named: bytes, soft: bool = False) -> int:
        """Everything asked before now is unusable for these scopes, in this process; the position of this entry."""
        self._advance(HERE, self.position + 1)
        self._name(named, HERE, self.position, soft=soft)
        return self.position

    def apply(self, region: str, entry: LogEntry, now: float) -> Applied:
        """Apply the next entry of `region`'s log, at `now` on the caller's monotonic clock.

        Any entry may come again, or too early; what it names is invalid from here on in any case.
        """
        relation = self._relation(region, entry)
        self._advance(region, entry.mark)
        if relation is Applied.GAP:
            self._raise_floor(region, entry.previous)
        elif relation is Applied.OPENED:
            self._raise_floor(region, max(entry.previous, mark(incarnation_of(entry.mark))))
        elif relation in (Applied.FORKED, Applied.OUTDATED):
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
        """Do what the entry says."""
        match entry.kind:
            case Kind.PURGE:
                self._name(entry.scopes, region, entry.mark, soft=entry.soft)
            case Kind.BEGIN:
                if relation is not Applied.AGAIN:
                    self._begin(Write(region, entry.mark, entry.scopes, now + entry.within))
            case Kind.END:
                self._name(entry.scopes, region, entry.mark, soft=False)
                self._end(region, entry.begun)
            case Kind.UNKNOWN:
                self._raise_floor(region, entry.mark)
            case Kind.OPEN:
                pass

    def distrust(self, region: str) -> None:
        """The log of `region` is not what it was: until it has a new incarnation, nothing is proven of it."""
        self._advance(region, 0)
        self._raise_floor(region, beyond(self.applied(region)))

    def overdue(self, now: float) -> list[Write]:
        """The writes whose end should have come by `now`. They stay in doubt until an END for them is applied."""
        return [write for write in self._writes.values() if write.deadline <= now]

    def forget(self, position: int) -> int:
        """Drop the registers that were last named at or before `position`: the floor rises; how many were dropped."""
        dropped = 0
        while self._registers:
            register = next(iter(self._registers.values()))
            if max(register.hard_at, register.soft_at) > position:
                break
            self._drop_oldest()
            dropped += 1
        return dropped

    def _advance(self, region: str, mark: int) -> None:
        """Something was applied: whatever passed before has to pass again."""
        self.position += 1
        if not self._suspended:
            self.fence = self.position
        if mark > self.applied(region):
            self._applied[region] = mark
            self._vector = None
        self._stamp = None

    def _raise_floor(self, region: str, mark: int) -> None:
        self.floor = self.floor.reaching(region, mark)
        self._floor_at = self.position

    # --- registers

    def _name(self, named: Iterable[bytes], region: str, mark: int, *, soft: bool) -> None:
        """From this entry on, which has just been given its position, what was asked before is not usable."""
        shared = Vector({region: mark})
        for scope in map(scopes.canonical, named):
            register = self._registers.get(scope)
            if register is None:
                register = self._new_register(scope)
            else:
                self._registers.move_to_end(scope)
            if soft:
                register.soft_at = self.position
                register.soft = shared.merged(register.soft)
            else:
                register.hard_at = self.position
                register.hard = shared.merged(register.hard)
        while len(self._registers) > self._most_registers or self.bytes_used > self._most_bytes:
            self._drop_oldest()

    def _new_register(self, scope: bytes) -> Register:
        register = self._registers[scope] = Register()
        self.bytes_used += REGISTER_OVERHEAD + len(scope)
        self._expect(scope)
        return register

    def _drop_oldest(self) -> None:
        """Forget the register that was named longest ago: whatever it forbade is below the floor from now on."""
        scope, register = self._registers.popitem(last=False)
        self.bytes_used -= REGISTER_OVERHEAD + len(scope)
        self.floor = self.floor.merged(register.hard).merged(register.soft)
        self._floor_at = max(self._floor_at, register.hard_at, register.soft_at)
        self._expect_no_more(scope)

    def _names(self, subject: Subject) -> list[bytes]:
        """Every scope that could be in a register, or in doubt, and names `subject`."""
        if subject.tags and not self._tagged:
            subject = Subject(subject.key, (), subject.alias)
        return scopes.naming(subject, self._deepest)

    def _expect(self, scope: bytes) -> None:
        """A register, or a write, has this scope: look for its like."""
        kind = scope[:1]
        if kind == b"p":
            self._depths[scopes.depth(scope)] += 1
            self._deepest = max(self._depths)
        elif kind in TAGS:
            self._tagged += 1

    def _expect_no_more(self, scope: bytes) -> None:
        """It has it no more: do not look for tags, nor deeper, than what is left."""
        kind = scope[:1]
        if kind == b"p":
            depth = scopes.depth(scope)
            self._depths[depth] -= 1
            if not self._depths[depth]:
                del self._depths[depth]
                self._deepest = max(self._depths, default=0)
        elif kind in TAGS:
            self._tagged -= 1

    # --- writes

    def _begin(self, write: Write) -> None:
        if len(self._writes) >= self._most_writes:
            write = write._replace(scopes=(EVERYTHING,))
        self._writes[write.region, write.begun] = write
        for scope in map(scopes.canonical, write.scopes):
            self._doubts[scope] += 1
            self._expect(scope)

    def _end(self, region: str, begun: int) -> None:
        write = self._writes.pop((region, begun), None)
        for scope in map(scopes.canonical, write.scopes if write is not None else ()):
            self._doubts[scope] -= 1
            if not self._doubts[scope]:
                del self._doubts[scope]
            self._expect_no_more(scope)

    @property
    def writes(self) -> int:
        """How many writes have begun and not ended."""
        return len(self._writes)

    def __len__(self) -> int:
        return len(self._registers)

    def __repr__(self) -> str:
        return f"<PurgeLog at {self.position}, {len(self)} registers, {self.bytes_used} bytes, {self.vector!r}>"


def unproven_at(position: int) -> int:
    """How one that was asked at `position` and is not proven now remembers that: no fence ever equals it."""
    return NO_POSITION - 1 - position


def asked_at(passed: int) -> int:
    """The position that is remembered, as it is or by `unproven_at`."""
    return passed if passed >= NO_POSITION else NO_POSITION - 1 - passed


_RANK: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


def worse(one: Verdict, other: Verdict) -> Verdict:
    """The worse of two verdicts."""
    return one if _RANK[one] >= _RANK[other] else other
