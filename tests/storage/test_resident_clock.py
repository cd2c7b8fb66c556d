"""The wall clock is set while things are stored: how old they are, and until when they are fresh, does not change."""

from __future__ import annotations

import logging
import time

import pytest
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.storage.resident_clock import SKEW, STEP, Clock

MINUTE, DAY = 60.0, 86400.0
STEPS = [-DAY, -MINUTE, MINUTE, DAY]
FRESH = "max-age=60"
LARGE = b"x" * 200_000  # lies in chunks in the regional tier
WITHIN = 20.0  # seconds: how long a test waits before it fails


def serving(origin: OriginDouble, said: str = FRESH, body: bytes = b"page", *, date: bool = True) -> None:
    """The origin gives every page the same way."""
    origin.otherwise(Reply(200, [("Cache-Control", said), ("ETag", '"v"')], body, date=date))


async def age(pop: Pop, *fields: tuple[str, str]) -> int | None:
    """The Age of a hit; None if the origin was asked."""
    response = await pop.get("/page", *fields)
    assert response.status in (200, 206, 304)
    hit = "hit" in (response.get("cache-status") or "").replace("hit-for-miss", "")
    return int(response.get("age") or 0) if hit else None


@pytest.mark.parametrize("date", [True, False], ids=["dated", "undated"])
@pytest.mark.parametrize("said", [FRESH, "max-age=60, must-revalidate", "s-maxage=60", "public, max-age=60, immutable"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_stored_response_ages_evenly(origin: OriginDouble, step: float, said: str, date: bool) -> None:
    """What is stored before the wall clock is set, and what is stored after, is fresh for as long as was said."""
    serving(origin, said, date=date)
    async with running_pop(origin) as pop:
        assert await age(pop) is None
        pop.clock.advance(10)
        pop.clock.jump(step)
        assert await age(pop) == 10
        pop.clock.advance(49)
        assert await age(pop) == 59
        pop.clock.advance(2)
        assert await age(pop) is None
        assert await age(pop) == 0
        pop.clock.jump(-step)
        pop.clock.advance(61)
        assert await age(pop) is None


@pytest.mark.parametrize("step", STEPS)
async def test_stale_windows_are_even(origin: OriginDouble, step: float) -> None:
    """Neither stale-while-revalidate nor stale-if-error lasts longer or shorter (RFC 5861)."""
    serving(origin, "max-age=10, stale-while-revalidate=10, stale-if-error=100")
    async with running_pop(origin) as pop:
        await pop.get("/page")
        await origin.stop()
        pop.clock.jump(step)
        for seconds, status in ((15, 200), (90, 200), (10, 502)):
            pop.clock.advance(seconds)
            assert (await pop.get("/page")).status == status


@pytest.mark.parametrize("step", STEPS)
async def test_hit_for_miss_is_even(origin: OriginDouble, step: float) -> None:
    """The mark of a URL whose answers are not for sharing ends when it should."""
    serving(origin, "no-store")
    async with running_pop(origin, hit_for_miss="100s") as pop:
        await pop.get("/page")
        flights = pop.worker.edge.flights
        (key,) = flights.marks
        pop.clock.jump(step)
        pop.clock.advance(99)
        assert flights.marked(key, pop.worker.edge.clock())
        pop.clock.advance(2)
        assert not flights.marked(key, pop.worker.edge.clock())


@pytest.mark.parametrize("step", STEPS)
async def test_dates_are_by_the_wall(origin: OriginDouble, step: float) -> None:
    """A Date that this POP writes, and the age that a Date shows, are by the wall clock as it is (RFC 9110 §6.6.1)."""
    async with running_pop(origin) as pop:
        pop.clock.jump(step)
        serving(origin)
        assert await age(pop) is None
        assert await age(pop) == 0
        for said in (FRESH, "no-store"):
            serving(origin, said, date=False)
            for _ in range(3):
                assert (await pop.get(f"/undated-{said}")).get("date") == pop.clock.http_date()


@pytest.mark.parametrize("body", [b"page", LARGE], ids=["inline", "chunks"])
@pytest.mark.parametrize("step", STEPS)
async def test_another_process_of_the_machine_knows_the_age(
    origin: OriginDouble, valkey: Server, step: float, body: bytes
) -> None:
    """A process that starts after the step knows how old is what lies in the regional tier, to the second."""
    serving(origin, "max-age=100, must-revalidate", body)
    settings = {"regional": valkey.url, "max_object_memory": "64KiB", "regional_timeout": "2s"}
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        await pop.get("/page")
        await pop.written()
    origin.clock.advance(70)
    origin.clock.jump(step)
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        assert await age(pop) == 70
        assert await age(pop, ("Range", "bytes=0-1")) == 70
    origin.clock.advance(31)
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        assert await age(pop) is None


@pytest.mark.parametrize("body", [b"page", LARGE], ids=["inline", "chunks"])
@pytest.mark.parametrize("behind", [MINUTE, DAY])
async def test_what_another_machine_wrote_in_the_future_is_validated(
    origin: OriginDouble, valkey: Server, behind: float, body: bytes
) -> None:
    """A record whose machine was ahead by a minute or a day is of unknown age: it is asked for before it is used."""
    serving(origin, "max-age=1000, must-revalidate", body)
    settings = {"regional": valkey.url, "max_object_memory": "64KiB", "regional_timeout": "2s"}
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        await pop.get("/page")
        await pop.written()
    for fields in ([], [("Range", "bytes=0-1")], [("If-None-Match", '"v"')]):
        async with running_pop(origin, FakeClock(origin.clock.now - behind), **settings) as other:
            await other.caught_up()
            before = len(origin.requests)
            await age(other, *fields)
            assert len(origin.requests) == before + 1
            await other.written()
            valkey.db.flushall()
        async with running_pop(origin, **settings) as pop:
            await pop.caught_up()
            await pop.get("/page")
            await pop.written()


async def test_machines_differ_a_little(origin: OriginDouble, valkey: Server) -> None:
    """Wall clocks that differ as those of two machines do cost no validation, and prolong by no more."""
    serving(origin)
    settings = {"regional": valkey.url, "regional_timeout": "2s"}
    async with running_pop(origin, **settings) as pop:
        await pop.caught_up()
        await pop.get("/page")
        await pop.written()
    other = FakeClock(origin.clock.now - SKEW / 2)
    async with running_pop(origin, other, **settings) as pop:
        await pop.caught_up()
        assert await age(pop) == 0
        assert await age(pop) == 0
        other.advance(60 + SKEW / 2)
        assert await age(pop) is None


@pytest.mark.slow
@pytest.mark.parametrize("step", [-DAY, DAY])
async def test_on_a_clock_that_runs(origin: OriginDouble, step: float) -> None:
    """The wall clock of a running machine is set: what was fresh for a second is stale after it, not a day later."""
    shift = 0.0
    serving(origin, "max-age=1, must-revalidate", date=False)
    origin.clock.now = time.time()
    clock = Clock(lambda: time.time() + shift)
    async with running_pop(origin, clock) as pop:
        await pop.get("/page")
        shift = step
        until = time.monotonic() + WITHIN
        while len(origin.requests) < 3 and time.monotonic() < until:
            await pop.get("/page")
            assert abs(pop.worker.edge.clock() - time.time()) < DAY / 2

    assert len(origin.requests) == 3


def test_a_step_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line and one count for each time that the wall clock is set; a slow drift is none."""
    fake = FakeClock()
    clock = Clock(fake, fake.steady, fake.steady, 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            clock.look()
            fake.advance(0.25)
            fake.jump(STEP / 100)
        assert clock.steps == 0
        fake.jump(-MINUTE)
        for _ in range(3):
            clock.look()

    assert clock.steps == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the wall clock was set back by 60.0 s: nothing stored gets older or younger"
    ]


def test_the_machine_slept() -> None:
    """The time that a machine slept counts: what lies there grew older."""
    wall, awake, up = FakeClock(), FakeClock(1000.0), FakeClock(5000.0)
    clock = Clock(wall, awake, up, 1)
    began = clock.now()
    for one in (wall, up):
        one.advance(3600)
    clock.look()

    assert clock.now() == began + 3600
    assert clock.steps == 0
