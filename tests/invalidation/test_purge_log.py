"""The purge log: what each kind of entry makes of what was asked before it."""

from __future__ import annotations

import pytest

from edgecache.invalidation import scopes, version_vector
from edgecache.invalidation.purge_log import Applied, EntryKind, LogEntry, PurgeLog, Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import NOTHING, Vector

FIRST, SECOND = version_vector.incarnation(1, 7), version_vector.incarnation(2, 3)
PAGE, OTHER = Subject(b"http://a/x/page?q", (b"t",)), Subject(b"http://b/")
URL = scopes.url(PAGE.key)


class Log(PurgeLog):
    """A log whose entries are written as a test thinks of them."""

    def take(
        self,
        number: int,
        *named: bytes,
        after: int | None = None,
        region: str = "eu",
        incarnation: int = FIRST,
        kind: EntryKind = EntryKind.PURGE,
        soft: bool = False,
        within: float = 0.0,
        begun: int = 0,
        now: float = 0.0,
    ) -> Applied:
        """Apply entry `number`, which follows `after` (the one before it, if not said), and names `named`."""
        previous = version_vector.mark(incarnation, number - 1 if after is None else after)
        here = version_vector.mark(incarnation, number)
        return self.apply(region, LogEntry(here, previous, kind, named, soft, within, begun), now)


@pytest.fixture
def log() -> Log:
    """A log that follows `eu` from its beginning."""
    log = Log()
    assert log.take(1, kind=EntryKind.OPEN, after=0) is Applied.OPENED
    return log


@pytest.mark.parametrize(
    "scope",
    [
        URL,
        scopes.tag(b"t"),
        scopes.site_tag(b"a", b"t"),
        scopes.prefix(b"a", b"/x"),
        scopes.site(b"a"),
        scopes.EVERYTHING,
    ],
)
def test_what_was_asked_before_an_entry_that_names_it_is_purged(log: Log, scope: bytes) -> None:
    """In both forms, whatever the kind of scope; what is asked afterwards is usable."""
    before = log.stamp()
    assert log.take(2, scope) is Applied.NEXT
    after = log.stamp()

    assert log.check(PAGE, before.position) is log.check_vector(PAGE, before.vector) is Verdict.PURGED
    assert log.check(PAGE, after.position) is log.check_vector(PAGE, after.vector) is Verdict.USABLE
    assert (log.check(OTHER, before.position) is Verdict.USABLE) == (scope != scopes.EVERYTHING)


def test_every_region_has_to_be_covered(log: Log) -> None:
    """A response asked before one region's purge and after another's is not usable."""
    log.take(1, URL, region="us", after=0)
    both = Vector({"eu": log.applied("eu"), "us": log.applied("us")})
    log.take(2, URL)
    log.take(2, URL, region="us")

    assert log.check_vector(PAGE, log.vector) is Verdict.USABLE
    assert log.check_vector(PAGE, both) is Verdict.PURGED
    assert log.check_vector(PAGE, both.merged(Vector({"us": log.applied("us")}))) is Verdict.PURGED
    assert log.check_vector(PAGE, log.vector.without("us")) is Verdict.PURGED


def test_a_soft_purge_makes_stale_and_a_hard_one_overrules_it(log: Log) -> None:
    """Soft is stale; a hard one before or after it counts for what was asked before that."""
    at_first = log.stamp()
    log.take(2, URL)
    between = log.stamp()
    log.take(3, URL, soft=True)

    assert log.check(PAGE, at_first.position) is log.check_vector(PAGE, at_first.vector) is Verdict.PURGED
    assert log.check(PAGE, between.position) is log.check_vector(PAGE, between.vector) is Verdict.STALE
    assert log.check(PAGE, log.position) is log.check_vector(PAGE, log.vector) is Verdict.USABLE


def test_an_entry_that_comes_again_changes_nothing(log: Log) -> None:
    """A response asked after the entry stays provable; in this process it has to pass once more."""
    log.take(2, URL)
    vector = log.vector

    assert log.take(2, URL) is Applied.AGAIN
    assert log.vector == vector
    assert log.check_vector(PAGE, vector) is Verdict.USABLE


def test_a_gap_raises_the_floor(log: Log) -> None:
    """Entries that were trimmed away may have named anything that was asked before the end of the gap."""
    before = log.stamp()
    assert log.take(9, scopes.tag(b"else"), after=8) is Applied.GAP

    assert log.check(OTHER, before.position) is log.check_vector(OTHER, before.vector) is Verdict.UNPROVEN
    at_its_end = Vector({"eu": version_vector.mark(FIRST, 8)})
    assert log.check_vector(OTHER, at_its_end) is Verdict.USABLE
    assert log.check(OTHER, log.position) is Verdict.USABLE
    assert log.is_trusted("eu")


def test_a_log_that_begins_trimmed_has_a_floor() -> None:
    """A POP that is new knows nothing of what was trimmed before its first entry."""
    log = Log()
    assert log.take(9, after=8) is Applied.OPENED

    assert log.check_vector(OTHER, Vector({"eu": version_vector.mark(FIRST, 7)})) is Verdict.UNPROVEN
    assert log.check_vector(OTHER, Vector({"eu": version_vector.mark(FIRST, 8)})) is Verdict.USABLE


def test_a_new_incarnation_leaves_nothing_of_the_old_proven(log: Log) -> None:
    """Vectors of a log that was lost prove nothing, however far they reached."""
    log.take(2, URL)
    far = Vector({"eu": version_vector.mark(FIRST, version_vector.SIXTY_FOUR, version_vector.SIXTY_FOUR)})
    assert log.take(1, kind=EntryKind.OPEN, incarnation=SECOND, after=0) is Applied.OPENED

    assert log.check_vector(OTHER, far) is Verdict.UNPROVEN
    assert log.check_vector(PAGE, log.vector) is Verdict.USABLE
    assert log.is_trusted("eu")


@pytest.mark.parametrize(("kind", "relation"), [("fork", Applied.FORKED), ("outdated", Applied.OUTDATED)])
def test_a_log_that_lost_entries_is_trusted_no_more(kind: str, relation: Applied) -> None:
    """A log that forgot what was applied proves nothing until it has a new incarnation."""
    log = Log()
    log.take(1, kind=EntryKind.OPEN, after=0, incarnation=SECOND)
    log.take(5, URL, after=1, incarnation=SECOND)
    if kind == "fork":
        assert log.take(6, scopes.url(OTHER.key), after=1, incarnation=SECOND) is relation
    else:
        assert log.take(6, scopes.url(OTHER.key), incarnation=FIRST) is relation

    assert not log.is_trusted("eu")
    assert log.check_vector(PAGE, log.vector) is Verdict.UNPROVEN
    assert log.check(OTHER, log.position) is Verdict.USABLE
    log.take(1, kind=EntryKind.OPEN, after=0, incarnation=version_vector.incarnation(3, 0))
    assert log.is_trusted("eu")
    assert log.check_vector(PAGE, log.vector) is Verdict.USABLE


def test_an_entry_that_is_not_understood_may_have_named_anything(log: Log) -> None:
    """Of a newer version, or malformed: what was asked before it has to be validated."""
    before = log.stamp()
    log.take(2, kind=EntryKind.UNKNOWN)

    assert log.check(OTHER, before.position) is log.check_vector(OTHER, before.vector) is Verdict.UNPROVEN
    assert log.check_vector(OTHER, log.vector) is Verdict.USABLE


def test_between_begin_and_end_a_target_is_in_doubt(log: Log) -> None:
    """Whenever it was asked; and what was asked in between is purged by the end."""
    log.take(2, scopes.prefix(b"a", b"/x"), kind=EntryKind.BEGIN, within=5.0)
    during = log.stamp()
    assert log.check(PAGE, during.position) is log.check_vector(PAGE, during.vector) is Verdict.UNPROVEN
    assert log.check(OTHER, during.position) is Verdict.USABLE

    log.take(3, URL, kind=EntryKind.END, begun=version_vector.mark(FIRST, 2))
    assert log.writes == 0
    assert log.check(PAGE, during.position) is log.check_vector(PAGE, during.vector) is Verdict.PURGED
    assert log.check(PAGE, log.position) is log.check_vector(PAGE, log.vector) is Verdict.USABLE


def test_a_write_that_changed_nothing_purges_nothing(log: Log) -> None:
    """An end without scopes lifts the doubt: the write was refused by the origin."""
    before = log.stamp()
    log.take(2, URL, kind=EntryKind.BEGIN)
    log.take(3, kind=EntryKind.END, begun=version_vector.mark(FIRST, 2))

    assert log.check(PAGE, before.position) is log.check_vector(PAGE, before.vector) is Verdict.USABLE


def test_two_writes_doubt_alike(log: Log) -> None:
    """The end of one leaves the doubt of the other."""
    log.take(2, URL, kind=EntryKind.BEGIN)
    log.take(3, URL, kind=EntryKind.BEGIN)
    log.take(4, kind=EntryKind.END, begun=version_vector.mark(FIRST, 2))

    assert log.check(PAGE, log.position) is Verdict.UNPROVEN
    log.take(5, kind=EntryKind.END, begun=version_vector.mark(FIRST, 3))
    assert log.check(PAGE, log.position) is Verdict.USABLE


def test_a_write_without_end_is_overdue_after_its_deadline_and_in_doubt_until_it_is_ended(log: Log) -> None:
    """Time ends nothing by itself: somebody appends the end, and until it is applied nothing old is served."""
    log.take(2, URL, kind=EntryKind.BEGIN, within=5.0, now=100.0)

    assert log.overdue(104.9) == []
    (write,) = log.overdue(105.0)
    assert (write.region, write.begun, write.scopes) == ("eu", version_vector.mark(FIRST, 2), (URL,))
    assert log.check(PAGE, log.position) is Verdict.UNPROVEN


def test_a_begin_that_comes_after_its_end_doubts_nothing(log: Log) -> None:
    """Out of order, or again: the write is over."""
    log.take(3, URL, kind=EntryKind.END, begun=version_vector.mark(FIRST, 2))
    log.take(2, URL, kind=EntryKind.BEGIN)

    assert log.writes == 0
    assert log.check(PAGE, log.position) is Verdict.USABLE


def test_beyond_the_most_writes_their_sites_are_in_doubt() -> None:
    """What too many writes name is not kept; that something of their sites is being written is. Others' is not."""
    log = Log(most_writes=1)
    neighbour = Subject(b"http://a/else")
    log.take(1, URL, kind=EntryKind.BEGIN, after=0)
    assert log.check(neighbour, log.position) is Verdict.USABLE
    log.take(2, URL, kind=EntryKind.BEGIN)
    assert log.check(neighbour, log.position) is Verdict.UNPROVEN
    assert log.check(OTHER, log.position) is Verdict.USABLE
    log.take(3, kind=EntryKind.END, begun=version_vector.mark(FIRST, 2))
    assert log.check(neighbour, log.position) is Verdict.USABLE
    log.take(4, scopes.EVERYTHING, kind=EntryKind.BEGIN)
    assert log.check(OTHER, log.position) is Verdict.UNPROVEN


def test_registers_are_bounded_and_the_floor_rises_over_what_is_dropped() -> None:
    """By number, oldest entry first; naming a scope again keeps its register."""
    log = Log(most_registers=2)
    log.take(1, scopes.tag(b"1"), after=0)
    before = log.stamp()
    for number, name in ((2, b"2"), (3, b"1"), (4, b"3")):
        log.take(number, scopes.tag(name))

    assert len(log) == 2
    assert log.check(OTHER, before.position) is log.check_vector(OTHER, before.vector) is Verdict.UNPROVEN
    kept = Vector({"eu": version_vector.mark(FIRST, 2)})
    assert log.check_vector(Subject(b"http://b/", (b"1",)), kept) is Verdict.PURGED
    assert log.check_vector(OTHER, kept) is Verdict.USABLE


def test_registers_are_bounded_in_bytes() -> None:
    """Long scopes do not add up beyond the budget, and what is reported falls when they go."""
    log = Log(most_bytes=100_000)
    for number in range(1, 200):
        log.take(number, scopes.tag(b"%d" % number * 1000))
        assert log.bytes_used <= 100_000
    log.forget(log.position)

    assert (len(log), log.bytes_used) == (0, 0)


def test_forgetting_drops_what_was_named_long_ago(log: Log) -> None:
    """Up to a position, by retention; later registers stay, and what is asked later is usable."""
    log.take(2, URL)
    middle = log.stamp()
    log.take(3, scopes.url(OTHER.key))

    assert log.forget(middle.position) == 1
    assert len(log) == 1
    assert log.check(PAGE, middle.position) is log.check_vector(PAGE, middle.vector) is Verdict.USABLE
    assert log.check(PAGE, middle.position - 1) is Verdict.UNPROVEN
    assert log.check(OTHER, middle.position) is Verdict.PURGED


def test_prefixes_are_looked_up_no_deeper_than_there_are_any(log: Log) -> None:
    """When the deepest prefix is forgotten, deep paths cost no more."""
    log.take(2, scopes.prefix(b"a", b"/x/y/z"))
    log.take(3, scopes.prefix(b"a", b"/x"), kind=EntryKind.BEGIN)
    assert log.registers.kinds.deepest == 3
    log.forget(log.position)
    assert log.registers.kinds.deepest == 1
    log.take(4, kind=EntryKind.END, begun=version_vector.mark(FIRST, 3))
    assert log.registers.kinds.deepest == 0


def test_a_child_that_knows_more_is_not_answered_with_less(log: Log) -> None:
    """What a child requires is applied here once every entry of it is, of each region."""
    required = log.vector.reaching("eu", version_vector.mark(FIRST, 2))

    assert log.has_applied(log.vector)
    assert not log.has_applied(required)
    log.take(2, scopes.tag(b"else"))
    assert log.has_applied(required)
    assert not log.has_applied(required.reaching("us", version_vector.mark(FIRST, 1)))


def test_the_vector_is_one_object_until_the_position_moves(log: Log) -> None:
    """A question's stamp costs nothing on the way."""
    assert log.stamp().vector is log.vector
    vector = log.vector
    log.take(2, URL)
    assert log.vector is not vector


def test_a_purge_of_this_process_alone_is_proven_by_no_vector() -> None:
    """`append` is no entry of a region: whatever comes from elsewhere cannot cover it."""
    log = PurgeLog()
    before = log.position
    log.append(URL)

    assert log.check(Subject(PAGE.key), before) is Verdict.PURGED
    assert log.check(Subject(PAGE.key), log.position) is Verdict.USABLE
    assert log.vector == NOTHING
    assert log.check_vector(PAGE, log.vector) is Verdict.PURGED
    assert log.check_vector(OTHER, log.vector) is Verdict.USABLE
