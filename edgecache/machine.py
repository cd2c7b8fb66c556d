"""What this machine grants the process: its name, its cores and its memory; the source of three defaults."""

from __future__ import annotations

import os
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MIB = 1024 * 1024
UNLIMITED_MEMORY = 256 * MIB  # for cached objects, where no cgroup sets a limit
MOST_FILES = 1 << 20  # open files, where the limit is none
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as the largest page-aligned number


def pop_name() -> str:
    """The host name, with what a POP's name may not hold turned into dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "pop"


def own_names(*more: str) -> frozenset[str]:
    """The names of this machine, with and without its domain, and `more`, in lower case."""
    name = socket.gethostname()
    return frozenset(one.lower() for one in (name, name.partition(".")[0], *more) if one)


def usable_cores() -> str:
    """How many cores this process may run on, at most 256, as text."""
    return str(min(256, len(os.sched_getaffinity(0))))


def object_memory() -> str:
    """Memory for cached objects as text: half of the cgroup's limit, 256MiB where there is none."""
    limit = memory_limit()
    return f"{max(1, (UNLIMITED_MEMORY if limit is None else limit // 2) // MIB)}MiB"


def memory_limit(root: Path = Path("/")) -> int | None:
    """The tightest memory limit in bytes of this process's cgroups (v2 or v1) and their parents, or None."""
    limits = [limit for file in _limit_files(root) if (limit := _limit_in(file)) is not None]
    return min(limits, default=None)


def _limit_files(root: Path) -> Iterator[Path]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.strip("/")
        yield group / name
        yield from (parent / name for parent in group.parents if parent.is_relative_to(mount))


def _limit_in(file: Path) -> int | None:
    text = _text(file).strip()  # "max", or nothing, where the limit is another cgroup's business
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


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
