"""What this machine grants the process: its name, its cores, its memory and its files."""

from __future__ import annotations

import math
import os
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_FILES = 1 << 20  # open files, where the limit is none
# v1 says of parents, too, that a container does not see
HIERARCHICAL = re.compile(r"^hierarchical_memory_limit ([0-9]+)$", re.MULTILINE)
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as the largest page-aligned number


def pop_name() -> str:
    """The host name, with what a POP's name may not hold turned into dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "pop"


def own_names(*more: str) -> frozenset[str]:
    """The names of this machine, with and without its domain, and `more`, in lower case."""
    name = socket.gethostname()
    return frozenset(one.lower() for one in (name, name.partition(".")[0], *more) if one)


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may run on, by its affinity and by the CPU quotas of its cgroups, rounded up."""
    cores = len(os.sched_getaffinity(0))
    quotas = [_quota_in(group) for controller, group in _groups(root) if controller in ("", "cpu")]
    return max(1, math.ceil(min([float(cores), *(quota for quota in quotas if quota is not None)])))


def memory_limit(root: Path = Path("/")) -> int | None:
    """The tightest memory limit in bytes of this process's cgroups (v2 or v1) and their parents, or None."""
    limits: list[int | None] = []
    for controller, group in _groups(root):
        if controller == "":
            limits += [_limit(_text(group / "memory.max")), _limit(_text(group / "memory.high"))]
        elif controller == "memory":
            limits.append(_limit(_text(group / "memory.limit_in_bytes")))
            limits += [_limit(size) for size in HIERARCHICAL.findall(_text(group / "memory.stat"))]
    return min((limit for limit in limits if limit is not None), default=None)


def total_memory(root: Path = Path("/")) -> int | None:
    """Memory of the machine in bytes, if known."""
    match = re.search(r"^MemTotal: +([0-9]+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """The directories of this process's cgroups and of their parents: v1 by controller, v2 as ""."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
            group = mount / path.strip("/")
            yield controller, group
            yield from ((controller, parent) for parent in group.parents if parent.is_relative_to(mount))


def _limit(text: str) -> int | None:
    text = text.strip()  # "max", or nothing, where the limit is another cgroup's business
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


def _quota_in(group: Path) -> float | None:
    """The cores that a cgroup may use at once, None if it does not say."""
    words = _text(group / "cpu.max").split() or [
        _text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):  # "max", "-1": none
        return None
    return int(words[0]) / int(words[1])


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def open_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)


def raise_open_files() -> None:
    """Raise the soft limit on open files to the hard one, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    with suppress(OSError, ValueError):  # a sandbox may refuse it: the bounds follow what is allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
