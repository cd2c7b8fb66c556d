"""Registers of many sites within one bound: who names much pays, and nobody else."""

from __future__ import annotations

import random

import pytest
from harness.often import one_in

from edgecache.invalidation import scopes, version_vector
from edgecache.invalidation.purge_log import EntryKind, LogEntry, PurgeLog, Verdict
from edgecache.invalidation.registers import CROWD, Registers
from edgecache.invalidation.scopes import Subject
from edgecache.semantics import uri

EPOCH = version_vector.incarnation(1, 7)
VICTIM, BYSTANDER = Subject(b"http://victim/page"), Subject(b"https://bystander:8443/page")


class Site:
    """A log, and one who names things in it."""

    def __init__(self, most: int = 100, most_sites: int = 1024) -> None:
        self.log = PurgeLog(most_registers=most)
        self.log.registers = Registers(most, most * 1024, most_sites)
        self.number = 0
        self.name()

    def name(self, *named: bytes, kind: EntryKind = EntryKind.PURGE) -> None:
        """The next entry."""
        previous = version_vector.mark(EPOCH, self.number)
        self.number += 1
        self.log.apply("eu", LogEntry(version_vector.mark(EPOCH, self.number), previous, kind, named), 0.0)

    def verdicts(self, subject: Subject, position: int, vector: version_vector.Vector) -> set[Verdict]:
        """What both forms of the rule say."""
        return {self.log.check(subject, position), self.log.check_vector(subject, vector)}


@pytest.mark.parametrize(
    "make",
    [
        lambda number: scopes.url(b"http://victim/junk?%d" % number),
        lambda number: scopes.prefix(b"victim", b"/junk/%d" % number),
        lambda number: scopes.site_tag(b"victim", b"junk%d" % number),
        lambda number: scopes.url(b"http://victim/junk?%d%b" % (number, b"x" * 4000)),
        lambda number: scopes.url(b"https://victim:%d/junk%d" % (number + 1, number)),
    ],
    ids=["urls", "prefixes", "groups", "long URLs", "ports"],
)
def test_a_site_that_overflows_makes_its_own_objects_stale_alone(make: object) -> None:
    """Ten times as many names as there is room for, all of one site: the other's stay usable, its own are validated."""
    site = Site()
    site.name(scopes.url(BYSTANDER.key))
    before, vector = site.log.position, site.log.vector
    for number in range(1000):
        site.name(make(number))  # type: ignore[operator]

    assert site.verdicts(BYSTANDER, before, vector) == {Verdict.USABLE}
    assert site.verdicts(BYSTANDER, 0, version_vector.NOTHING) == {Verdict.PURGED}  # its register is still there
    assert site.verdicts(VICTIM, before, vector) == {Verdict.UNPROVEN}
    assert site.verdicts(VICTIM, site.log.position, site.log.vector) == {Verdict.USABLE}
    assert len(site.log) <= 100
    assert site.log.bytes_used <= 100 * 1024


def test_many_sites_share_what_there_is_and_the_one_with_most_pays() -> None:
    """A site that names a little keeps every register while another names without end."""
    site = Site()
    few = [scopes.url(b"http://few/%d" % number) for number in range(20)]
    site.name(*few)
    for number in range(500):
        site.name(scopes.url(b"http://much/%d" % number))

    assert {site.log.check(Subject(name[1:]), 0) for name in few} == {Verdict.PURGED}
    assert site.log.check(Subject(b"http://few/else"), 1) is Verdict.USABLE


def test_hosts_without_end_leave_a_site_its_registers_and_the_memory_bounded() -> None:
    """Anybody may send any Host: 20,000 of them join the crowd, a site with a few names does not."""
    site = Site(most=5000, most_sites=64)
    mine = [scopes.url(b"http://victim/%d" % number) for number in range(10)]
    site.name(*mine)
    before, vector = site.log.position, site.log.vector
    for number in range(20_000):
        site.name(scopes.url(b"http://host-%d/" % number))

    registers = site.log.registers
    assert {site.log.check(Subject(name[1:]), 0) for name in mine} == {Verdict.PURGED}
    assert site.verdicts(VICTIM, before, vector) == {Verdict.USABLE}
    assert len(registers._sites) <= 64
    assert len(registers._crowd) <= CROWD
    assert site.log.bytes_used <= 5000 * 1024
    assert registers.crowded_out > 19_000


def test_what_has_joined_the_crowd_is_never_usable_as_it_was() -> None:
    """A site that comes back out of the crowd brings the crowd's floor with it."""
    site = Site(most=100, most_sites=4)
    site.name(scopes.url(VICTIM.key))
    named = site.log.stamp()
    for number in range(40):
        site.name(scopes.url(b"http://host-%d/" % number), scopes.url(b"http://host-%d/2" % number))
    before = named.position - 1

    assert site.log.check(VICTIM, before) is Verdict.UNPROVEN
    site.name(scopes.url(b"http://victim/else"))
    assert site.log.check(VICTIM, before) is Verdict.UNPROVEN
    assert site.log.check_vector(VICTIM, version_vector.NOTHING) is Verdict.UNPROVEN


def test_names_of_no_site_have_half_of_the_room() -> None:
    """Tags everywhere raise the common floor once they take more; until then sites pay for sites."""
    site = Site()
    site.name(*(scopes.tag(b"%d" % number) for number in range(40)))
    for number in range(500):
        site.name(scopes.url(b"http://much/%d" % number))
    assert site.log.check(Subject(b"http://else/", (b"0",)), 0) is Verdict.PURGED
    assert site.log.check(Subject(b"http://else/"), 1) is Verdict.USABLE
    for number in range(500):
        site.name(scopes.tag(b"more%d" % number))

    assert site.log.check(Subject(b"http://else/"), 1) is Verdict.UNPROVEN


@pytest.mark.parametrize("seed", one_in(3, range(6)))
def test_whatever_is_pushed_out_nothing_that_was_named_is_usable(seed: int) -> None:
    """Against the plain list of what was named, with room for a few registers of a few sites."""
    chance = random.Random(seed)
    site = Site(most=chance.choice([1, 3, 10]), most_sites=chance.choice([1, 2, 5]))
    subjects = [Subject(b"http://%b/%d" % (host, page)) for host in (b"a", b"b", b"c", b"d") for page in range(4)]
    asked: list[tuple[Subject, int, version_vector.Vector]] = []
    names = {one: scopes.naming(one, uri.site_of(one.key), 0) for one in subjects}
    named: dict[bytes, int] = {}  # per scope, where it was named last
    for _ in range(200):
        subject = chance.choice(subjects)
        asked.append((subject, site.log.position, site.log.vector))
        kinds = [scopes.url(subject.key)] * 8 + [scopes.site(uri.site_of(subject.key)), scopes.EVERYTHING]
        scope = chance.choice(kinds)
        site.name(scope)
        named[scope] = site.log.position
        for one, position, vector in asked:
            if any(named.get(name, -1) > position for name in names[one]):
                assert Verdict.USABLE not in site.verdicts(one, position, vector)


def test_what_is_named_here_is_proven_by_the_entry_that_follows() -> None:
    """A write is invalidated here at once; once its entry is in the log, vectors that know the entry cover it."""
    log = PurgeLog()
    url = scopes.url(VICTIM.key)
    at = log.append(url)
    mark = version_vector.mark(EPOCH, 1)
    log.apply("eu", LogEntry(mark, version_vector.mark(EPOCH), EntryKind.END, (url,)), 0.0)
    assert log.check_vector(VICTIM, log.vector) is Verdict.PURGED
    log.settle((url,), at, "eu", mark)

    assert log.check_vector(VICTIM, log.vector) is Verdict.USABLE
    assert log.check_vector(VICTIM, version_vector.NOTHING) is Verdict.PURGED
    again = log.append(url)
    log.settle((url,), at, "eu", mark)  # it says nothing of what was named since
    assert log.check_vector(VICTIM, log.vector) is Verdict.PURGED
    log.settle((url,), again, "eu", mark)
    assert log.check_vector(VICTIM, log.vector) is Verdict.USABLE
