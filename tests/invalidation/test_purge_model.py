"""Every interleaving of a small world over the project's own rules: origin, parent P, child C, the logs of two regions.

A Valkey that comes back with an older snapshot, while the POPs of its region restart, has lost entries that nobody
there knows of any more: its next run begins a new incarnation.

In the crowded world a POP remembers one register, and registers of one site only: what is named beside the page pushes
its register into a floor, by the same site or by another.

The transitions that judge are the product's own (`harness.rules`): what a hit is in memory and in the regional tier,
what a fill remembers, what a child asks of its parent, what it is told, and what it makes of that.

Property: what is served at a POP is no older than the origin was at the append of any entry that this POP has applied,
before a crash or after it (for the client of a fill: had applied when it asked). Every deliberate weakening is caught:
of the world, and of each of the product's rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

import pytest
from harness.broken_rules import PURGE_RULES
from harness.often import slow
from harness.rules import PAGE, Asked, Rules

from edgecache.invalidation import scopes, version_vector
from edgecache.invalidation.purge_log import EntryKind, LogEntry, PurgeLog, Stamp
from edgecache.invalidation.registers import Group, Registers
from edgecache.invalidation.version_vector import NOTHING, Vector

URL, NEIGHBOUR, ELSEWHERE = (scopes.url(key) for key in (PAGE.key, b"http://a/2", b"http://b/"))
REGIONS = ("eu", "us")


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """An entry, its region, and the origin's version when it was appended: `written` makes each once only.

    So equal ones are one object, and a world is hashed, a million times, without a look into its logs.
    """

    region: str
    entry: LogEntry
    version: int


written = lru_cache(None)(Written)


Sequence = tuple[Written, ...]


class Flight(NamedTuple):
    """A request of C's: what it says, what C's client is owed, and how far it has come."""

    at: str  # asks, fetches, read, reply
    asked: Asked
    owed: int
    stamp: Stamp | None = None  # of P's request to the origin
    version: int = 0
    told: bytes = b""  # beside the response


class State(NamedTuple):
    """The world. A POP is what it has applied; C has a memory and a regional tier, P a regional tier: they survive."""

    version: int = 0
    history: tuple[Sequence, Sequence] = ((), ())
    streams: tuple[Sequence, Sequence] = ((), ())
    child: Sequence = ()
    parent: Sequence = ()
    memory: tuple[int, int] | None = None  # the version of what C holds, and what its entry remembers of the log
    record: tuple[int, Vector] | None = None  # the same in C's region, with its vector
    store: tuple[int, Vector] | None = None  # and in P's
    flight: Flight | None = None
    parent_must_reach: Vector = NOTHING
    parent_owes: Vector = NOTHING  # what was acknowledged before its last start
    faults: int = 0


class World:
    """The transitions. `weakness` names what is broken on purpose; `regional` says whether C has a regional tier."""

    def __init__(
        self,
        weakness: str,
        versions: int,
        entries: int,
        faults: int,
        named: tuple[bytes, ...] = (URL,),
        regional: bool = True,
    ) -> None:
        self.weakness = weakness
        self.regional = regional
        self.named = named
        self.appending = (0, 1) if len(named) == 1 else (0,)  # the regions whose logs grow
        self.versions = versions
        self.entries = entries
        self.faults = faults
        self.log = lru_cache(None)(self._log)
        self.rules = lru_cache(None)(self._rules)
        self.judge = lru_cache(None)(lambda rule, *given: rule(*given))  # the same of the same each time
        self.owed = lru_cache(None)(self._owed)
        self.due = lru_cache(None)(self._due)

    def _rules(self, applied: Sequence, *, replaying: bool = False) -> Rules:
        return Rules(self.log(applied), replaying=replaying)

    def _log(self, applied: Sequence) -> PurgeLog:
        """The project's own log, having applied these."""
        log = PurgeLog()
        if len(self.named) > 1:
            log.registers = (Forgetful if self.weakness == "forgets" else Registers)(1, 1 << 20, most_sites=1)
        for told in applied:
            log.apply(told.region, told.entry, 0.0)
        return log

    def _owed(self, history: tuple[Sequence, Sequence], applied: Sequence, before: Vector = NOTHING) -> int:
        """The least version that may be served by who has applied these: entries lost or trimmed since count too."""
        vector = self.log(applied).vector.merged(before)
        told = [w for h in history for w in h if w.entry.mark <= vector[w.region]]
        return max([w.version for w in told if w.entry.kind is EntryKind.OPEN or URL in w.entry.scopes], default=0)

    def _due(self, region: str, stream: Sequence, applied: Sequence) -> Written | None:
        """The next entry of a region's log for who has applied these, if there is one."""
        last = self.log(applied).applied(region)
        return next((w for w in stream if w.entry.mark > last), None)

    def steps(self, state: State) -> Iterator[tuple[State, tuple[int, int] | None]]:
        """Every next state, and the version served and owed on the way, if one was."""
        yield from ((after, None) for after in self._logs(state))
        yield from self._hits(state)
        yield from self._flight(state)

    def _logs(self, s: State) -> Iterator[State]:
        if s.version < self.versions:
            yield s._replace(version=s.version + 1)
        if sum(map(len, s.history)) < self.entries:
            yield from (self._append(s, region, name) for region in self.appending for name in self.named)
        for region in (0, 1):
            for who in ("child", "parent"):
                applied: Sequence = getattr(s, who)
                due = self.due(REGIONS[region], s.streams[region], applied)
                if due is not None:
                    yield s._replace(**{who: (*applied, due)})
        if s.faults < self.faults:
            yield from self._faults(s._replace(faults=s.faults + 1))

    def _faults(self, s: State) -> Iterator[State]:
        told = vector_of(s.history)
        yield s._replace(parent=(), flight=None, parent_must_reach=told, parent_owes=told)
        if s.streams[0]:
            yield self._restored(s)
        if len(s.streams[0]) > 1:
            yield s._replace(streams=(s.streams[0][-1:], s.streams[1]))  # trimmed
        if s.streams[0]:
            yield self._append(s, 0, None)

    def _restored(self, s: State) -> State:
        """The first region's Valkey comes back without its last entry, and its POP without knowing of that."""
        back = s._replace(streams=(s.streams[0][:-1], s.streams[1]), parent=(), flight=None)
        if self.weakness != "same-run":
            begun = self._append(back, 0, None)
            back = begun._replace(streams=((*back.streams[0], *begun.streams[0]), s.streams[1]))
        return back._replace(parent_must_reach=vector_of(back.streams), parent_owes=vector_of(s.history))

    def _append(self, s: State, region: int, name: bytes | None) -> State:
        """The next entry of a region's log; no name: the log has been lost, and begins anew."""
        history, reset = s.history[region], name is None
        last = history[-1].entry.mark if history else version_vector.mark(version_vector.incarnation(1, 0))
        epoch = version_vector.incarnation_of(last)
        if reset and self.weakness != "same-incarnation":
            epoch = version_vector.incarnation(version_vector.count_of(epoch) + 1, 0)
            last = version_vector.mark(epoch)
        previous = version_vector.mark(epoch) if reset else last
        if reset and self.weakness == "same-incarnation":
            previous = last
        kind, named = (EntryKind.OPEN, ()) if name is None else (EntryKind.PURGE, (name,))
        entry = LogEntry(version_vector.mark(epoch, version_vector.id_of(last)[0] + 1), previous, kind, named)
        told = written(REGIONS[region], entry, s.version)
        stream = (told,) if reset else (*s.streams[region], told)
        return s._replace(
            history=replaced(s.history, region, (*history, told)), streams=replaced(s.streams, region, stream)
        )

    def _hits(self, s: State) -> Iterator[tuple[State, tuple[int, int] | None]]:
        child, owed = self.rules(s.child), self.owed(s.history, s.child)
        hits = [] if s.memory is None else self._found(s.memory, child.hit_by_known_head, child.hit)
        if not hits and s.record is not None:
            hits = self._found(s.record, child.hit_by_known_record, child.regional_hit)
        yield from ((s._replace(memory=(version, passed)), (version, owed)) for version, passed in hits)
        if not hits and s.flight is None:
            yield s._replace(flight=Flight("asks", self.judge(child.ask_parent), owed)), None
        if s.memory is not None and s.record is not None:
            yield s._replace(memory=None), None  # evicted
        if s.store is not None and self._stored(s):
            yield s, (s.store[0], self.owed(s.history, s.parent, s.parent_owes))

    def _found(self, held: tuple[int, Any], *rules: Callable[[Any], int | None]) -> list[tuple[int, int]]:
        """The version of what is held, and what its entry remembers, by each rule that lets it be used."""
        return [(held[0], passed) for rule in rules if (passed := self.judge(rule, held[1])) is not None]

    def _parent(self, s: State) -> Rules:
        """P's rules: it replays until it has applied what it had, or may have, applied before its crash."""
        return self.rules(s.parent, replaying=not self.log(s.parent).vector.covers(s.parent_must_reach))

    def _stored(self, s: State) -> list[tuple[int, int]]:
        """What P has in its store, if it may be used."""
        parent = self._parent(s)
        return [] if s.store is None else self._found(s.store, parent.hit_by_known_record, parent.regional_hit)

    def _flight(self, s: State) -> Iterator[tuple[State, tuple[int, int] | None]]:
        flight, parent = s.flight, self._parent(s)
        if flight is None:
            return
        if flight.at == "asks":  # what P has not applied it waits for, or asks past all that it holds
            stored = self._stored(s) if parent.log.has_applied(flight.asked.required) else []
            if stored and not flight.asked.forced:
                version, passed = stored[0]
                told = self.judge(parent.told_of_entry, passed)
                yield s._replace(flight=flight._replace(at="reply", version=version, told=told)), None
            else:
                stamp = parent.log.stamp_for(flight.asked.required)
                yield s._replace(flight=flight._replace(at="fetches", stamp=stamp)), None
        elif flight.at == "fetches":
            yield s._replace(flight=flight._replace(at="read", version=s.version)), None
        elif flight.at == "read" and flight.stamp is not None:
            kept = self.judge(parent.filled, flight.stamp) is not None
            store = (flight.version, flight.stamp.vector) if kept else s.store
            answered = flight._replace(at="reply", stamp=None, told=self.judge(parent.told_of_fill, flight.stamp))
            yield s._replace(store=store, flight=answered), None
        else:
            yield self._answered(s, flight), (flight.version, flight.owed)

    def _answered(self, s: State, flight: Flight) -> State:
        """C stores P's response, if it may."""
        child = self.rules(s.child)
        stamp = self.judge(child.heard, flight.asked, flight.told)
        passed = self.judge(child.filled, stamp)
        if passed is None:
            return s._replace(flight=None)
        record = (flight.version, stamp.vector) if self.regional else None
        return s._replace(memory=(flight.version, passed), record=record, flight=None)


class Forgetful(Registers):
    """Weakened: a register that makes room leaves nothing behind."""

    def _fold(self, group: Group) -> None:
        floor = group.floor
        super()._fold(group)
        group.floor = floor


def replaced(pair: tuple[Sequence, Sequence], at: int, new: Sequence) -> tuple[Sequence, Sequence]:
    """The pair with one of its sides changed."""
    return (new, pair[1]) if at == 0 else (pair[0], new)


def vector_of(history: tuple[Sequence, Sequence]) -> Vector:
    """The last mark ever written, per region."""
    return Vector({told[-1].region: told[-1].entry.mark for told in history if told})


def explore(world: World, most: float = inf) -> tuple[bool, int, int]:
    """Whether the property holds, the states seen, and the served answers checked; of `most` states, the nearest."""
    todo, seen, served = deque([State()]), {State()}, 0
    while todo and len(seen) < most:
        for after, answer in world.steps(todo.popleft()):
            if answer is not None:
                served += 1
                if answer[0] < answer[1]:
                    return False, len(seen), served
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return True, len(seen), served


@pytest.mark.parametrize(
    ("entries", "faults", "least"), [(2, 0, 5_000), (1, 1, 3_000), pytest.param(2, 1, 100_000, marks=pytest.mark.slow)]
)
def test_no_interleaving_serves_what_was_purged(entries: int, faults: int, least: int) -> None:
    """Purges, fills, copies, and a crash, a trimmed log or a lost one at any moment."""
    holds, states, served = explore(
        World("", versions=1, entries=entries, faults=faults, regional=entries + faults < 3)
    )

    assert holds
    assert states > least
    assert served > least // 3


@pytest.mark.parametrize("most", [25_000, slow(inf)])
@pytest.mark.parametrize("other", [NEIGHBOUR, slow(ELSEWHERE)])
def test_no_interleaving_serves_what_was_purged_and_pushed_out(other: bytes, most: float) -> None:
    """The page's register falls into a floor, its site's or the crowd's, by any entry, at any POP, at any moment."""
    world, weak = (
        World(weakness, versions=1, entries=3, faults=0, named=(URL, other), regional=False)
        for weakness in ("", "forgets")
    )
    holds, states, served = explore(world, most)

    assert holds
    assert states > 10_000
    assert served > 3_000
    assert not explore(weak, most)[0]


@pytest.mark.parametrize("weakness", ["same-run", "same-incarnation"])
def test_every_weakening_is_caught(weakness: str) -> None:
    """The model can fail: a log that does not begin anew serves something old, already in a small world."""
    assert not explore(World(weakness, versions=1, entries=1, faults=1))[0]


@pytest.mark.parametrize("broken", PURGE_RULES)
def test_every_rule_of_the_product_is_judged(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function that the data plane calls, broken by itself, serves something old."""
    monkeypatch.setattr(*PURGE_RULES[broken])

    worlds = (World("", versions=1, entries=entries, faults=faults) for entries, faults in ((1, 1), (2, 0)))
    assert not all(explore(world)[0] for world in worlds)
