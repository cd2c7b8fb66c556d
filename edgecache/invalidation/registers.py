"""The registers of an invalidation log, site by site, within a bound. Pure state, no clock.

A *register* holds the last entries that named one scope. Registers are grouped by the host that their scope names;
those of scopes without a host (a tag everywhere, everything) are a group of their own. When there are too many, the
group that takes the most memory pays: its oldest registers fold into its *floor*, below which everything of that site
has to be validated. So the writes and purges of one site never make another's objects stale.

Sites are bounded in number, too, for clients may send any Host: when there are too many, those with the fewest
registers join the crowd. Its floors are shared by the few sites that hash alike, and the hash is a secret of the
process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from edgecache.invalidation import scopes
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.semantics.outcomes import Label

REGISTER_OVERHEAD: Final = 540  # bytes that a register costs beside its scope's; measured by the tests
SITE_OVERHEAD: Final = 900  # bytes that a site costs beside its registers
FEW_SITES: Final = 1024  # that have registers of their own, or an eighth as many as there may be registers
CROWD: Final = 4096  # floors that all other sites share
NO_SITE: Final = b""  # the group of scopes that name no host


class Verdict(Label):
    """Usability of a response by invalidations, from best to worst."""

    USABLE = "usable"
    STALE = "stale"  # softly invalidated: to be treated as stale
    UNPROVEN = "unproven"  # below the floor or in doubt: to be validated before it is used, even where stale may be
    PURGED = "purged"  # invalidated: not to be used, nor validated


_RANK: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


def worse(one: Verdict, other: Verdict) -> Verdict:
    """The worse of two verdicts."""
    return one if _RANK[one] >= _RANK[other] else other


class Register:
    """The last entries that named one scope: local positions and marks, hard and soft."""

    __slots__ = ("hard", "hard_at", "soft", "soft_at")

    def __init__(self) -> None:
        self.hard_at = 0
        self.soft_at = 0
        self.hard = NOTHING
        self.soft = NOTHING

    def verdict_at(self, seen: int) -> Verdict:
        """Verdict on a response requested at the local position `seen`."""
        return Verdict.PURGED if seen < self.hard_at else Verdict.STALE if seen < self.soft_at else Verdict.USABLE

    def verdict(self, seen: Vector) -> Verdict:
        """Verdict on a response requested at `seen`."""
        if not seen.covers(self.hard):
            return Verdict.PURGED
        return Verdict.USABLE if seen.covers(self.soft) else Verdict.STALE

    def note(self, position: int, marks: Vector, *, soft: bool) -> None:
        """Record an entry at `position`, with these marks, that names the scope."""
        if soft:
            self.soft_at, self.soft = position, marks.merged(self.soft)
        else:
            self.hard_at, self.hard = position, marks.merged(self.hard)

    @property
    def position(self) -> int:
        """Position of the last entry."""
        return max(self.hard_at, self.soft_at)


class Floor(NamedTuple):
    """The least `seen` of a proven response, in both forms."""

    at: int = 0
    marks: Vector = NOTHING

    def over(self, at: int, marks: Vector) -> Floor:
        """This floor, at least as high as that."""
        return Floor(max(self.at, at), self.marks.merged(marks))


NO_FLOOR: Final = Floor()


class Group:
    """The registers of one site, in the order of their last entry, and its floor."""

    __slots__ = ("floor", "registers", "site", "size")

    def __init__(self, site: bytes, size: int) -> None:
        self.site = site
        self.registers: OrderedDict[bytes, Register] = OrderedDict()
        self.floor = NO_FLOOR
        self.size = size  # bytes

    def fold(self) -> bytes:
        """Fold the oldest register into the floor; its scope."""
        scope, register = self.registers.popitem(last=False)
        self.floor = self.floor.over(register.position, register.hard.merged(register.soft))
        return scope


class Groups:
    """The groups of all sites, by size: each weight, a power of two, holds its own in the order of their last entry."""

    def __init__(self) -> None:
        self._all: dict[bytes, Group] = {}
        self._weights: dict[int, OrderedDict[bytes, Group]] = {}

    def get(self, site: bytes) -> Group | None:
        """The group of a site, if it has one."""
        return self._all.get(site)

    def put(self, group: Group, size: int) -> None:
        """Insert or update `group` with its new size."""
        self.remove(group)
        group.size = size
        self._all[group.site] = group
        self._weights.setdefault(size.bit_length(), OrderedDict())[group.site] = group

    def remove(self, group: Group) -> None:
        """Remove a group."""
        weight = group.size.bit_length()
        if self._all.pop(group.site, None) is not None:
            del self._weights[weight][group.site]
            if not self._weights[weight]:
                del self._weights[weight]

    def heaviest(self) -> Group | None:
        """A group of at least half the largest size."""
        return next(iter(self._weights[max(self._weights)].values())) if self._weights else None

    def lightest(self) -> Group | None:
        """One that is not twice as large as any: of those, the one that was named longest ago."""
        return next(iter(self._weights[min(self._weights)].values())) if self._weights else None

    def __iter__(self) -> Iterator[Group]:
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)


class Registers:
    """All registers of one process. Mutable state: the groups by host, the crowd's floors, and the sizes of all.

    Also which kinds of scopes there are to look for: prefixes by their depth, and tags.
    """

    def __init__(self, most: int, most_bytes: int, most_sites: int = 0) -> None:
        self.bytes_used = 0
        self.count = 0
        self.folded = 0  # registers that have fallen into the floor of their site, ever
        self.crowded_out = 0  # sites that have joined the crowd, ever
        self.overflowed = NO_SITE  # site whose registers were folded last
        self._most = most
        self._most_bytes = most_bytes
        self._most_sites = most_sites or max(FEW_SITES, most // 8)
        self._sites = Groups()
        self._anywhere = Group(NO_SITE, 0)
        self._crowd: dict[int, Floor] = {}
        self.kinds = scopes.ScopeKinds()

    # --- the rule

    def verdict_at(self, names: list[bytes], site: bytes, seen: int) -> Verdict:
        """Verdict of the registers with these names, and of the floors, on a response of `site` requested at `seen`."""
        group = self._sites.get(site)
        floor = self._crowd_floor(site) if group is None else group.floor
        worst = Verdict.UNPROVEN if seen < max(floor.at, self._anywhere.floor.at) else Verdict.USABLE
        for register in self._named(names, group):
            worst = worse(worst, register.verdict_at(seen))
        return worst

    def verdict(self, names: list[bytes], site: bytes, seen: Vector) -> Verdict:
        """The same for a response with the vector `seen`."""
        group = self._sites.get(site)
        floor = self._crowd_floor(site) if group is None else group.floor
        proven = seen.covers(floor.marks) and seen.covers(self._anywhere.floor.marks)
        worst = Verdict.USABLE if proven else Verdict.UNPROVEN
        for register in self._named(names, group):
            worst = worse(worst, register.verdict(seen))
        return worst

    def _named(self, names: list[bytes], group: Group | None) -> Sequence[Register]:
        found: list[Register] = []
        for held in (self._anywhere, group):
            if held is not None and not held.registers.keys().isdisjoint(names):
                found += [register for name in names if (register := held.registers.get(name)) is not None]
        return found

    def _crowd_floor(self, site: bytes) -> Floor:
        return self._crowd.get(hash(site) % CROWD, NO_FLOOR) if self._crowd else NO_FLOOR

    # --- what happens

    def name(self, named: Iterable[bytes], position: int, marks: Vector, *, soft: bool) -> None:
        """Record an entry at `position`, with these marks, that names these scopes."""
        for scope in named:
            self._register(scope).note(position, marks, soft=soft)
        while self.count > self._most or self.bytes_used > self._most_bytes:
            self._shrink()

    def _register(self, scope: bytes) -> Register:
        """The register of `scope`, now the newest of its group."""
        group = self._group_of(scopes.host_of(scope))
        register = group.registers.get(scope)
        if register is None:
            register = group.registers[scope] = Register()
            self._grow(group, 1, REGISTER_OVERHEAD + len(scope))
            self.kinds.add(scope)
        group.registers.move_to_end(scope)
        return register

    def settle(self, named: Iterable[bytes], region: str, old: int, new: tuple[str, int]) -> None:
        """Replace marks of these in `region` up to `old` by `new`, a pair of region and mark."""
        for scope in named:
            site = scopes.host_of(scope)
            group = self._anywhere if site == NO_SITE else self._sites.get(site)
            register = group.registers.get(scope) if group is not None else None
            if register is not None:
                register.hard = _settled(register.hard, region, old, new)
            elif group is not None:
                group.floor = group.floor._replace(marks=_settled(group.floor.marks, region, old, new))
            elif (number := hash(site) % CROWD) in self._crowd:
                floor = self._crowd[number]
                self._crowd[number] = floor._replace(marks=_settled(floor.marks, region, old, new))

    def forget(self, position: int) -> int:
        """Fold the registers that were last named at or before `position`; how many those were."""
        before = self.count
        for group in (self._anywhere, *self._sites):
            while group.registers and next(iter(group.registers.values())).position <= position:
                self._fold(group)
        return before - self.count

    def _group_of(self, site: bytes) -> Group:
        if site == NO_SITE:
            return self._anywhere
        group = self._sites.get(site)
        if group is None:
            return self._new_group(site)
        self._sites.put(group, group.size)
        return group

    def _new_group(self, site: bytes) -> Group:
        if len(self._sites) >= self._most_sites:
            self._thin_out()
        group = Group(site, SITE_OVERHEAD + len(site))
        group.floor = self._crowd_floor(site)
        self._sites.put(group, group.size)
        self.bytes_used += group.size
        return group

    def _grow(self, group: Group, registers: int, size: int) -> None:
        self.count += registers
        self.bytes_used += size
        if group is self._anywhere:
            group.size += size
        else:
            self._sites.put(group, group.size + size)

    def _shrink(self) -> None:
        """Fold one register of a group that has most; scopes without a site may have half of all."""
        anywhere, group = self._anywhere, self._sites.heaviest()
        too_many = 2 * len(anywhere.registers) > self._most or 2 * anywhere.size > self._most_bytes
        if too_many or group is None or not group.registers:
            group = anywhere
        if group.registers:
            self.folded += 1
            self.overflowed = group.site
            self._fold(group)
        else:
            self._thin_out()

    def _fold(self, group: Group) -> None:
        scope = group.fold()
        self.kinds.remove(scope)
        self._grow(group, -1, -(REGISTER_OVERHEAD + len(scope)))

    def _thin_out(self) -> None:
        """Move one of the sites with the fewest registers into the crowd."""
        group = self._sites.lightest()
        if group is None:
            return
        while group.registers:
            self._fold(group)
        self._sites.remove(group)
        self.bytes_used -= group.size
        self.crowded_out += 1
        self._crowd[hash(group.site) % CROWD] = self._crowd_floor(group.site).over(*group.floor)

    @property
    def floor(self) -> Vector:
        """The least `seen` of a proven response of any site."""
        return self._anywhere.floor.marks

    def __len__(self) -> int:
        return self.count


def _settled(marks: Vector, region: str, old: int, new: tuple[str, int]) -> Vector:
    return marks.without(region).reaching(*new) if 0 < marks[region] <= old else marks
