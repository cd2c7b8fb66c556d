"""The time of one process: how long something has been here never depends on what is done to the wall clock.

`now` is resident time: what the wall clock read at the start, plus the seconds that have passed since, evenly, also
while the machine slept (RFC 9111 §4.2.3 calls it resident_time). Freshness, stale windows, hit-for-miss and age are
reckoned in it. The wall clock is asked only where a moment is compared with what other machines say (`Date`, RFC 9110
§6.6.1; signatures), or is told to them (logs, traces). What lies in the regional tier carries both: by which machine
it was received, at what time of that machine's uptime, and when by its wall clock.

    this machine's     ──► the uptime says when: exact, whatever the wall clocks have done since
    another machine's  ──► the wall clocks say when; what comes from the future is of unknown age, and is not fresh
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final

from edgecache.storage.record import Record

log = logging.getLogger("edgecache")
STEP: Final = 0.5  # seconds: a wall clock that is found so far from where it was has been set
SKEW: Final = 2.0  # seconds by which the wall clocks of two machines may differ unnoticed
HELD_UP: Final = 0.1  # seconds between two readings that belong together: nothing is concluded from them
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
up_time: Callable[[], float] = (  # seconds since the machine's start, those included in which it slept
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def this_machine() -> int:
    """A number for this start of this machine, the same in all of its processes; 0 if there is none."""
    with suppress(OSError):
        return int.from_bytes(blake2b(BOOT_ID.read_bytes(), digest_size=8).digest())
    return 0


class Clock:
    """The clock of one process. Mutable state: how long the machine slept, and how far the wall clock was set."""

    __slots__ = ("_ahead_then", "_began", "_monotonic", "_offset", "_up", "machine", "steps", "wall")

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        up: Callable[[], float] = up_time,
        machine: int | None = None,
    ) -> None:
        self.wall = wall  # epoch seconds, which may be set at any time
        self._monotonic = monotonic
        self._up = up
        self.machine = this_machine() if machine is None else machine
        self._began = wall() - up()  # the start of the machine in resident time
        self._offset = self._began + up() - monotonic()  # of resident time
        self._ahead_then = 0.0  # seconds by which the wall clock was ahead when it was last looked at
        self.steps = 0  # times that it was

    def now(self) -> float:
        """Resident time: epoch seconds that never step."""
        return self._monotonic() + self._offset

    @property
    def ahead(self) -> float:
        """Seconds by which the wall clock is ahead of resident time."""
        return self.wall() - self.now()

    def look(self) -> None:
        """See if the machine has slept, or the wall clock was set; to be called every now and then."""
        before = self._monotonic()
        wall, up = self.wall(), self._up()
        if self._monotonic() - before > HELD_UP:
            return
        self._offset = self._began + up - before
        ahead = wall - (before + self._offset)
        step, self._ahead_then = ahead - self._ahead_then, ahead
        if abs(step) > STEP:
            self.steps += 1
            direction = "forward" if step > 0 else "back"
            said = "the wall clock was set %s by %.1f s: nothing stored gets older or younger"
            log.warning(said, direction, abs(step))

    # --- records, which other processes and machines write and read

    def leaving(self, record: Record) -> Record:
        """`record`, whose times are resident, as it is written."""
        ahead = self.ahead
        return record._replace(
            received=record.received + ahead,
            stale_at=record.stale_at + ahead if record.stale_at else 0.0,
            machine=self.machine,
            up=record.received - self._began,
        )

    def arriving(self, record: Record) -> Record:
        """`record` as it was read, with resident times; one from the future is as old as can be, and never fresh."""
        now = self.now()
        if record.machine == self.machine and self.machine:
            received = record.up + self._began
            known = received <= now + STEP
        else:
            age = self.wall() - record.received
            received, known = now - max(0.0, age), age >= -SKEW
        if not known:
            return record._replace(received=0.0, stale_at=0.0)
        shift = received - record.received
        if -0.001 < shift < 0.001:
            return record
        return record._replace(received=received, stale_at=record.stale_at + shift if record.stale_at else 0.0)


def clock_of(given: Clock | Callable[[], float] | None) -> Clock:
    """`given` as a clock: None is that of the machine, a function stands for the wall clock and all others."""
    if given is None:
        return Clock()
    return given if isinstance(given, Clock) else Clock(given, given, given, id(given))
