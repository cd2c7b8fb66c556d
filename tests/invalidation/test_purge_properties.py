"""Trimming, restarting, re-ordering, duplicating and clock jumps never make an unusable response usable."""

from __future__ import annotations

from typing import NamedTuple

from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.invalidation import scopes, version_vector
from edgecache.invalidation.purge_log import Applied, EntryKind, LogEntry, PurgeLog, Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import Vector
from edgecache.semantics import uri

REGIONS = ("eu", "us")
SUBJECTS = (Subject(b"http://a/x/1", (b"t",)), Subject(b"http://a/y", (b"t", b"v")), Subject(b"http://b/x/1"))
SCOPES = (
    scopes.url(SUBJECTS[0].key),
    scopes.url(SUBJECTS[1].key),
    scopes.tag(b"t"),
    scopes.site_tag(b"a", b"v"),
    scopes.prefix(b"a", b"/x"),
    scopes.site(b"b"),
    scopes.EVERYTHING,
)


class Told(NamedTuple):
    """One entry as a region wrote it."""

    region: str
    entry: LogEntry

    def forbids(self, subject: Subject) -> bool:
        """Whether it invalidates what was asked before it, for `subject`."""
        kind, named = self.entry.kind, self.entry.scopes
        names = scopes.naming(subject, uri.site_of(subject.key), 9)
        return kind in (EntryKind.PURGE, EntryKind.END) and not set(named).isdisjoint(names)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Told]]:
    """What each region wrote, over one to three incarnations, in order."""
    written = []
    for region in REGIONS:
        told = []
        for count in range(1, draw(st.integers(1, 3)) + 1):
            epoch = version_vector.incarnation(count, draw(st.integers(0, 1)))
            previous = version_vector.mark(epoch)
            for number in range(1, draw(st.integers(1, 5)) + 1):
                here = version_vector.mark(epoch, number)
                kind = (
                    EntryKind.OPEN
                    if number == 1
                    else draw(st.sampled_from([EntryKind.PURGE, EntryKind.PURGE, EntryKind.BEGIN, EntryKind.END]))
                )
                named = tuple(draw(st.lists(st.sampled_from(SCOPES), max_size=2))) if kind is not EntryKind.OPEN else ()
                soft = kind is EntryKind.PURGE and draw(st.booleans())
                begun = draw(st.sampled_from([told_.entry.mark for told_ in told] or [0]))
                told.append(Told(region, LogEntry(here, previous, kind, named, soft, 5.0, begun)))
                previous = here
        written.append(told)
    return written  # fmt: skip


STEPS = st.lists(
    st.tuples(st.sampled_from(["next"] * 4 + ["any"] * 2 + ["forget"]), st.integers(0, 1), st.integers(0, 20)),
    max_size=25,
)
CLOCKS = st.lists(st.floats(-1e6, 1e6), min_size=25, max_size=25)


class Witness:
    """A log that suffers, and what it should hold: the plain list of what it was told and may have missed."""

    def __init__(self, written: list[list[Told]], most_registers: int) -> None:
        self.log = PurgeLog(most_registers=most_registers)
        self.written = written
        self.told: list[tuple[int, Told]] = []  # with the position that it got
        self.askings: list[tuple[int, Vector, dict[str, int]]] = [(0, self.log.vector, dict.fromkeys(REGIONS, 0))]
        self.open: dict[tuple[str, int], Told] = {}

    def step(self, what: str, region: int, number: int, now: float) -> None:
        """Apply the next entry, or any other, or forget; and note a question asked afterwards."""
        history = self.written[region]
        if what == "forget":
            self.log.forget(number)
        else:
            due = [told for told in history if told.entry.mark > self.log.applied(told.region)]
            self.tell((due or history)[0] if what == "next" else history[number % len(history)], now)
        applied = {name: self.log.applied(name) for name in REGIONS}
        self.askings.append((self.log.position, self.log.vector, applied))

    def tell(self, told: Told, now: float) -> None:
        """Apply one entry."""
        applied = self.log.apply(told.region, told.entry, now)
        self.told.append((self.log.position, told))
        if told.entry.kind is EntryKind.BEGIN and applied is not Applied.AGAIN:
            self.open[told.region, told.entry.mark] = told
        if told.entry.kind is EntryKind.END:
            self.open.pop((told.region, told.entry.begun), None)

    def may_have_missed(self, subject: Subject, then: dict[str, int]) -> bool:
        """Whether an entry between `then` and what is claimed as applied now names `subject`, told or not."""
        return any(
            then[told.region] < told.entry.mark <= self.log.applied(told.region) and told.forbids(subject)
            for history in self.written
            for told in history
        )

    def in_doubt(self, subject: Subject) -> bool:
        """Whether a write to `subject` has begun and not ended."""
        names = scopes.naming(subject, uri.site_of(subject.key), 9)
        return any(not set(told.entry.scopes).isdisjoint(names) for told in self.open.values())


@examples(400)
@given(histories(), STEPS, CLOCKS, st.sampled_from([1, 2, 100]))
def test_no_disturbance_makes_an_unusable_response_usable(
    written: list[list[Told]], steps: list[tuple[str, int, int]], clocks: list[float], most: int
) -> None:
    """What the plain rule over all entries told or claimed forbids is never usable, in either form."""
    witness = Witness(written, most)
    for (what, region, number), now in zip(steps, clocks, strict=False):
        witness.step(what, region, number, now)
        witness.log.overdue(now)

    log = witness.log
    for subject in SUBJECTS:
        for position, vector, then in witness.askings:
            told_since = any(at > position and told.forbids(subject) for at, told in witness.told)
            known = {region: vector[region] for region in REGIONS}
            if told_since or witness.may_have_missed(subject, then) or witness.in_doubt(subject):
                assert log.check(subject, position) is not Verdict.USABLE
            if witness.may_have_missed(subject, known) or witness.in_doubt(subject):
                assert log.check_vector(subject, vector) is not Verdict.USABLE
            told_beyond = any(
                told.entry.mark > known[told.region] and told.forbids(subject) for _, told in witness.told
            )
            if told_beyond:
                assert log.check_vector(subject, vector) is not Verdict.USABLE  # fmt: skip


@examples(300)
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_between_regions_makes_no_difference(written: list[list[Told]], random: object) -> None:
    """Two POPs that applied the same entries of each region, interleaved in any way, judge every vector alike."""
    in_order, shuffled = PurgeLog(), PurgeLog()
    for told in written[0] + written[1]:
        in_order.apply(told.region, told.entry, 0.0)
    queues = [list(history) for history in written]
    while any(queues):
        queue = random.choice([queue for queue in queues if queue])  # type: ignore[attr-defined]
        told = queue.pop(0)
        shuffled.apply(told.region, told.entry, 0.0)

    assert in_order.vector == shuffled.vector
    assert in_order.floor == shuffled.floor
    marks = [[told.entry.mark for told in history] for history in written]
    for one in marks[0]:
        for two in marks[1]:
            seen = Vector({"eu": one, "us": two})
            assert [in_order.check_vector(subject, seen) for subject in SUBJECTS] == [
                shuffled.check_vector(subject, seen) for subject in SUBJECTS
            ]


@examples(200)
@given(histories(), STEPS, CLOCKS)
def test_a_usable_response_stays_usable_if_it_advances(
    written: list[list[Told]], steps: list[tuple[str, int, int]], clocks: list[float]
) -> None:
    """Passing means as good as asked now: at the present vector or position it passes too, where a log is trusted."""
    witness = Witness(written, 100)
    for (what, region, number), now in zip(steps, clocks, strict=False):
        witness.step(what, region, number, now)
    log = witness.log
    for subject in SUBJECTS:
        for position, vector, _ in witness.askings:
            if log.check(subject, position) is Verdict.USABLE:
                assert log.check(subject, log.position) is Verdict.USABLE
            if log.check_vector(subject, vector) is Verdict.USABLE and all(map(log.is_trusted, REGIONS)):
                assert log.check_vector(subject, log.vector.merged(vector)) is Verdict.USABLE
