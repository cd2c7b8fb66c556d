"""What the kernel says of a server and all its children: CPU nanoseconds per thread, resident memory."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
HELPER_NS = 20_000_000  # a process that used less serves nobody: nginx's cache loader ends after a minute


@dataclass(frozen=True)
class CpuTimes:
    """CPU time of a process tree at one moment, by thread (schedstat) and by process (its CPU clock)."""

    ran_ns: dict[int, int]
    clock_ns: dict[int, int]


@dataclass(frozen=True)
class CpuUse:
    """What a process tree used between two moments; `problem` says why the figure cannot be trusted."""

    ran_ns: int
    problem: str | None


def tree(root: int) -> list[int]:
    """`root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked: breadth first
        found.extend(children.get(pid, ()))
    return found


def _parent(entry: Path) -> int:
    """The parent's pid from /proc/PID/stat, whose second field may itself hold spaces and brackets."""
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # it ended while we looked
        return 0


def cpu_times(root: int) -> CpuTimes:
    """CPU time so far of every thread of the tree, in nanoseconds (utime + stime, without the tick's 1 %)."""
    ran: dict[int, int] = {}
    clock: dict[int, int] = {}
    for pid in tree(root):
        with contextlib.suppress(OSError):  # it ended while we looked: `cpu_between` says so
            clock[pid] = time.clock_gettime_ns(_cpu_clock(pid))
            for task in (PROC / str(pid) / "task").iterdir():
                ran[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return CpuTimes(ran, clock)


def _cpu_clock(pid: int) -> int:
    """The CPU clock of another process, as clock_getcpuclockid(3) makes it; it counts ended threads too."""
    return ~pid << 3 | 2


def cpu_between(before: CpuTimes, after: CpuTimes) -> CpuUse:
    """The tree's use between two readings, checked against the processes' own clocks."""
    ran = sum(value - before.ran_ns.get(task, 0) for task, value in after.ran_ns.items())
    clock = sum(value - before.clock_ns.get(pid, 0) for pid, value in after.clock_ns.items())
    gone = before.clock_ns.keys() - after.clock_ns.keys()
    ended = [pid for pid in gone if before.clock_ns[pid] > HELPER_NS]
    problem = None
    if ended:
        problem = f"process {', '.join(map(str, sorted(ended)))} ended during the round"
    elif abs(clock - ran) > 0.02 * clock + 2_000_000:
        problem = f"threads account for {ran / 1e6:.0f} ms CPU, their processes for {clock / 1e6:.0f} ms"
    return CpuUse(ran, problem)


def core_busy_ns(core: int) -> int:
    """How long a core was not idle, by the kernel's clock ticks; time stolen by the host counts as busy."""
    for line in (PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, *others = map(int, ticks[:8])
            return (user + nice + system + sum(others)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return 0


def resident_bytes(root: int) -> int:
    """Proportional set size of the tree: what is resident, pages its processes share counted once."""
    return sum(_pss(pid) for pid in tree(root))


def _pss(pid: int) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
