"""The time of one process: resident times that do not depend on steps of the wall clock.

`now` is resident time: the wall clock at the start plus the seconds elapsed since, including those in which the
machine slept (RFC 9111 §4.2.3). Freshness, stale windows, hit-for-miss and age are computed in it. The wall clock is
used only where a time is compared with another machine's (`Date`, RFC 9110 §6.6.1; signatures), or sent to one (logs,
traces). Records in the regional tier carry both: the machine that received them, its uptime then, and its wall clock.

    of this machine     ──► the uptime is exact, whatever the wall clocks have done since
    of another machine  ──► the wall clocks are compared; a time in the future is an unknown age, and not fresh
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
STEP: Final = 0.5  # seconds: a larger change of the wall clock means that it was set
SKEW: Final = 2.0  # seconds by which the wall clocks of two machines may differ
HELD_UP: Final = 0.1  # seconds between two readings that belong together, beyond which they are ignored
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
up_time: Callable[[], float] = (  # seconds since the machine's start, including sleep
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def this_machine() -> int:
    """A number for this boot of this machine, the same in all of its processes; 0 if there is none."""
    with suppress(OSError):
        return int.from_bytes(blake2b(BOOT_ID.read_bytes(), digest_size=8).digest())
    return 0


class Clock:
    """The clock of one process. Mutable state: the offset of resident time, and the last one of the wall clock."""

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
        self._ahead_then = 0.0  # seconds by which the wall clock was ahead at the last check
        self.steps = 0  # times that the wall clock was set

    def now(self) -> float:
        """Resident time: epoch seconds that never step."""
        return self._monotonic() + self._offset

    @property
    def ahead(self) -> float:
        """Seconds by which the wall clock is ahead of resident time."""
        return self.wall() - self.now()

    def look(self) -> None:
        """Check whether the machine has slept or the wall clock was set; to be called regularly."""
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
        """`record`, whose times are resident, with the times to be written."""
        ahead, received, stale_at = self.ahead, record.received, record.stale_at
        written = (received + ahead, record.initial_age, record.lifetime, stale_at + ahead if stale_at else 0.0)
        return Record._make((*record[:3], *written, *record[7:-2], self.machine, received - self._began))

    def arrived(self, received: float, machine: int, up: float) -> float | None:
        """The resident time at which a response was received, by what its record says; None of the future."""
        if machine == self.machine and machine:
            received = up + self._began
            return received if received <= self.now() + STEP else None
        age = self.wall() - received
        return self.now() - max(0.0, age) if age >= -SKEW else None

    def arriving(self, record: Record) -> Record:
        """`record` with resident times; one from the future is as old as can be, and never fresh."""
        received = self.arrived(record.received, record.machine, record.up)
        if received is None:
            return record._replace(received=0.0, stale_at=0.0)
        shift = received - record.received
        if -0.001 < shift < 0.001:
            return record
        return record._replace(received=received, stale_at=record.stale_at + shift if record.stale_at else 0.0)


def clock_of(given: Clock | Callable[[], float] | None) -> Clock:
    """`given` as a clock: None is the machine's, a function replaces the wall clock and all others."""
    if given is None:
        return Clock()
    return given if isinstance(given, Clock) else Clock(given, given, given, id(given))
