"""Every interleaving of writes over the project's own rules: writers, the origin, the logs of two regions, a reader.

A write is BEGIN in its region's log, the change at the origin, END in the log, the writer's answer; it may fail, or
its POP may die after any of these, or its answer may be lost: then whoever sees that its time is over ends it. A write
whose body is still on its way has no BEGIN yet: the origin may act on a part of it, and answer; then it is ended
without one, acts on the rest, and is ended again. The reader is a POP that applies both logs in any order, fills its
memory, and serves.

The rules are the product's own: what is in doubt during a write, what its response invalidates, what is overdue, what a
fill remembers and what a hit is.

Property: who has applied a write's BEGIN serves nothing from memory that is older than what that write has changed so
far; who has applied an END, nothing older than what it had changed by then. Every deliberate weakening is caught: of
the world, and of each of the product's rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import pytest
from harness.broken_rules import WRITE_RULES
from harness.rules import GET, Rules

from edgecache.invalidation import version_vector, write_effects
from edgecache.invalidation.purge_log import EntryKind, LogEntry, PurgeLog, Stamp
from edgecache.invalidation.version_vector import NOTHING
from edgecache.semantics.message import Fields, Response

POST = GET._replace(method=b"POST")
DONE, REFUSED = Response(204, Fields([])), Response(403, Fields([]))
LONG_AFTER = 1000.0  # seconds: every write is overdue by then
REGIONS = ("eu", "us")
EPOCH = version_vector.incarnation(1, 0)


class Told(NamedTuple):
    """An entry of a region's log."""

    region: int
    entry: LogEntry


class Write(NamedTuple):
    """A write: its region, how far it has come, and what it has changed (0: nothing yet)."""

    region: int
    # streaming, acted, answered, acted again; or
    stage: str = "begun"  # begun, sent, done (at the origin), lost (its POP died or its answer never came), ended
    begun: int = 0
    version: int = 0
    ends: tuple[tuple[int, int], ...] = ()  # of ENDs without a BEGIN: marks, and what it had changed by then


class Reader(NamedTuple):
    """A POP: what it has applied, in its order; what it holds; and a question that is out."""

    applied: tuple[Told, ...] = ()
    memory: tuple[int, int] | None = None  # the version, and what its entry remembers of the log
    asked: tuple[int, int] | None = None  # position when asked, and the version that was read (-1: not yet)


class State(NamedTuple):
    """The world."""

    version: int = 0
    logs: tuple[tuple[Told, ...], tuple[Told, ...]] = ((), ())
    writes: tuple[Write, ...] = ()
    readers: tuple[Reader, ...] = (Reader(), Reader())
    deaths: int = 0


class World:
    """The transitions; `weakness` names the rule that is broken on purpose."""

    def __init__(self, weakness: str = "", writes: int = 2, readers: int = 1, deaths: int = 1) -> None:
        self.weakness = weakness
        self.writes = writes
        self.deaths = deaths
        self.start = State(readers=(Reader(),) * readers)
        self.rules = lru_cache(None)(self._rules)

    @staticmethod
    def _rules(applied: tuple[Told, ...]) -> Rules:
        """The rules of a POP that has applied these."""
        rules = Rules(PurgeLog())
        for told in applied:
            rules.invalidation.apply(REGIONS[told.region], told.entry, 0.0)
        return rules

    def append(self, state: State, region: int, kind: EntryKind, named: tuple[bytes, ...], begun: int = 0) -> State:
        """The next entry of a region's log."""
        log = state.logs[region]
        previous = log[-1].entry.mark if log else version_vector.mark(EPOCH)
        entry = LogEntry(version_vector.mark(EPOCH, len(log) + 1), previous, kind, named, within=1.0, begun=begun)
        logs = list(state.logs)
        logs[region] = (*log, Told(region, entry))
        return state._replace(logs=(logs[0], logs[1]))

    def steps(self, state: State) -> Iterator[tuple[State, tuple[int, int] | None]]:
        """Every next state, and the version served and owed on the way."""
        if len(state.writes) < self.writes:
            for region in (0, 1):
                after = self.append(state, region, EntryKind.BEGIN, write_effects.target_scopes(POST))
                begun = after.logs[region][-1].entry.mark
                yield after._replace(writes=(*state.writes, Write(region, begun=begun))), None
            yield state._replace(writes=(*state.writes, Write(0, "streaming"))), None
        for number, write in enumerate(state.writes):
            yield from ((after, None) for after in self._write(state, number, write))
            yield from ((after, None) for after in self._stream(state, number, write))
        for number, reader in enumerate(state.readers):
            yield from self._read(state, number, reader)

    def _stream(self, state: State, number: int, write: Write) -> Iterator[State]:
        """A write whose body is on its way."""

        def now(after: State, **changed: object) -> State:
            writes = list(state.writes)
            writes[number] = write._replace(**changed)  # type: ignore[arg-type]
            return after._replace(writes=tuple(writes))

        def ended(stage: str) -> State:
            named = () if self.weakness == "early-is-harmless" else write_effects.invalidated_scopes(POST, DONE)
            after = self.append(state, write.region, EntryKind.END, named)
            end = (after.logs[write.region][-1].entry.mark, write.version)
            return now(after, stage=stage, ends=(*write.ends, end))

        if write.stage == "streaming":  # it is whole, or the origin acts before it is
            after = self.append(state, write.region, EntryKind.BEGIN, write_effects.target_scopes(POST))
            yield now(after, stage="begun", begun=after.logs[write.region][-1].entry.mark)
        if write.stage in ("streaming", "answered"):
            stage = "acted" if write.stage == "streaming" else "acted again"
            yield now(state._replace(version=state.version + 1), stage=stage, version=state.version + 1)
        if write.stage in ("acted", "acted again"):
            yield ended("answered" if write.stage == "acted" else "ended")

    def _write(self, state: State, number: int, write: Write) -> Iterator[State]:
        def now(after: State, **changed: object) -> State:
            writes = list(state.writes)
            writes[number] = write._replace(**changed)  # type: ignore[arg-type]
            return after._replace(writes=tuple(writes))

        def end(named: tuple[bytes, ...]) -> State:
            return self.append(state, write.region, EntryKind.END, named, write.begun)

        if write.stage == "begun":
            yield now(state._replace(version=state.version + 1), stage="done", version=state.version + 1)
            yield now(end(write_effects.invalidated_scopes(POST, REFUSED)), stage="ended")
            if self.weakness == "end-before-origin":
                yield now(end(write_effects.invalidated_scopes(POST, DONE)), stage="late")
        elif write.stage == "late":
            yield now(state._replace(version=state.version + 1), stage="ended", version=state.version + 1)
        elif write.stage == "done":
            yield now(end(write_effects.invalidated_scopes(POST, DONE)), stage="ended")
        if write.stage in ("begun", "done") and state.deaths < self.deaths:
            yield now(state._replace(deaths=state.deaths + 1), stage="lost" if write.stage == "done" else "unsent")
        if write.stage in ("lost", "unsent"):
            log = self.rules(state.logs[write.region]).log  # of a POP that knows its own region
            for overdue in log.overdue(LONG_AFTER):
                if overdue.begun == write.begun:
                    yield now(end(() if self.weakness == "doubt-expires" else overdue.scopes), stage="ended")

    def _read(self, state: State, number: int, reader: Reader) -> Iterator[tuple[State, tuple[int, int] | None]]:
        def now(**changed: object) -> State:
            readers = list(state.readers)
            readers[number] = reader._replace(**changed)  # type: ignore[arg-type]
            return state._replace(readers=tuple(readers))

        for region in (0, 1):
            done = sum(told.region == region for told in reader.applied)
            if done < len(state.logs[region]):
                yield now(applied=(*reader.applied, state.logs[region][done])), None
        rules, hits = self.rules(reader.applied), []
        if reader.memory is not None:
            hits = [rules.hit_by_known_head(reader.memory[1]), rules.hit(reader.memory[1])]
        for passed in hits:
            if reader.memory is not None and passed is not None:
                yield now(memory=(reader.memory[0], passed)), (reader.memory[0], self.owed(state, reader))
        if reader.asked is None and all(passed is None for passed in hits):
            yield now(asked=(rules.log.position, -1)), None
        if reader.asked is not None:
            position, read = reader.asked
            if read < 0:
                yield now(asked=(position, state.version)), None
            else:
                filled = rules.filled(Stamp(position, NOTHING))
                yield now(memory=None if filled is None else (read, filled), asked=None), None

    @staticmethod
    def owed(state: State, reader: Reader) -> int:
        """The least version that may be served from memory: what was changed by any write of which it has heard."""
        heard = {(told.region, told.entry.mark) for told in reader.applied if told.entry.kind is EntryKind.BEGIN}
        begun = [w.version for w in state.writes if (w.region, w.begun) in heard]
        known = {(told.region, told.entry.mark) for told in reader.applied}
        ended = [version for w in state.writes for mark, version in w.ends if (w.region, mark) in known]
        return max([*begun, *ended], default=0)


def explore(world: World) -> tuple[bool, int, int]:
    """Whether the property holds, the states seen, and the served answers checked."""
    todo, seen, served = deque([world.start]), {world.start}, 0
    while todo:
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
    ("writes", "least", "least_served"), [(1, 500, 40), pytest.param(2, 100_000, 2_000, marks=pytest.mark.slow)]
)
def test_no_interleaving_serves_what_was_overwritten(writes: int, least: int, least_served: int) -> None:
    """One writer after the other, or both at once, in one region or two; a POP dies; a reader is anywhere."""
    holds, states, served = explore(World(writes=writes))

    assert holds
    assert states > least
    assert served > least_served


@pytest.mark.parametrize("weakness", ["end-before-origin", "doubt-expires", "early-is-harmless"])
def test_every_weakening_is_caught(weakness: str) -> None:
    """The model can fail: each rule that is left out serves something old, already with one write."""
    assert not explore(World(weakness, writes=1))[0]


@pytest.mark.parametrize("broken", WRITE_RULES)
def test_every_rule_of_the_product_is_judged(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function that the data plane calls, broken by itself, serves something old."""
    monkeypatch.setattr(*WRITE_RULES[broken])

    assert not explore(World(writes=1))[0]
