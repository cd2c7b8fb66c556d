"""Number of workers and shares of memory, by the limits of the machine or container.

The processes themselves come first; objects in memory and the embedded Valkey share the rest of the limit. Configured
values are kept; a limit that cannot hold them refuses the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgecache.config import system_resources
from edgecache.semantics.errors import ConfigError

if TYPE_CHECKING:
    from edgecache.config.settings import Settings

MIB: Final = 1024 * 1024
SUPERVISOR: Final = 48 * MIB  # what it takes, with the admin listener
WORKER: Final = 40 * MIB  # what each takes without objects
VALKEY: Final = 8 * MIB  # what the embedded one takes without objects
LEAST_OBJECTS: Final = 16 * MIB  # for which one more worker is worth while
LEAST_REGIONAL: Final = 16 * MIB  # what the embedded Valkey can do with
SHARED_MEMORY: Final = "/dev/shm"
LEAST_STORE: Final = 16 * MIB  # what the machine's store can do with
LEAST_WORKER: Final = 11 * MIB  # of objects that each worker keeps beside that store: a tenth is more than a slice
USUAL: Final = 256 * MIB  # of objects, by default
MOST_WORKERS: Final = 256
REGISTER: Final = 1024  # bytes that one purged name may take
USUAL_REGISTERS, FEWEST_REGISTERS = 100_000, 1000  # purged names that a worker remembers
REGISTERS: Final = 8  # of all workers together in an eighth of the limit


@dataclass(frozen=True, slots=True)
class Resources:
    """Bytes allowed by the cgroup, bytes of the machine (None: unknown), and cores."""

    cgroup: int | None
    total: int | None
    cores: int

    @property
    def memory(self) -> int | None:
        """The tighter limit."""
        return min((limit for limit in (self.cgroup, self.total) if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class Shares:
    """Number of workers, and bytes of objects in their memory together and in the embedded Valkey."""

    workers: int
    memory: int
    regional: int


@dataclass(frozen=True, slots=True)
class ConfiguredSizes:
    """Configured values; None: to be found.

    `kept`: Valkey writes dumps; `beside`: bytes that each worker loads.
    """

    workers: int | None = None
    memory: int | None = None
    regional: int | None = None
    embedded: bool = False
    kept: bool = False
    beside: int = 0

    def valkey(self, regional: int) -> int:
        """Bytes of the embedded Valkey with so many of objects: its gaps, and what changes while it writes a dump."""
        return VALKEY + regional + regional // (2 if self.kept else 4) if self.embedded else 0

    def processes(self, workers: int) -> int:
        """Bytes of the supervisor and so many workers without objects."""
        return SUPERVISOR + workers * (WORKER + self.beside)


def of_machine() -> Resources:
    """Limits of this process."""
    return Resources(
        system_resources.memory_limit(),
        system_resources.total_memory(),
        min(system_resources.usable_cores(), MOST_WORKERS),
    )


def shared_out(limits: Resources, wanted: ConfiguredSizes) -> Shares:
    """Configured values, completed with the best fit."""
    workers = _workers(limits, wanted) if wanted.workers is None else wanted.workers
    left = None if limits.memory is None else limits.memory - wanted.processes(workers)
    regional = _regional(left, wanted) if wanted.regional is None else wanted.regional
    left = None if left is None else left - wanted.valkey(regional)
    memory = _memory(left, limits.cgroup) if wanted.memory is None else wanted.memory
    return Shares(workers, memory, regional)


def registers(limits: Resources, workers: int) -> int:
    """Purge registers of each worker."""
    if limits.memory is None:
        return USUAL_REGISTERS
    return max(FEWEST_REGISTERS, min(USUAL_REGISTERS, limits.memory // REGISTERS // workers // REGISTER))


def _workers(limits: Resources, wanted: ConfiguredSizes) -> int:
    """One for each core, as far as memory allows."""
    if limits.memory is None:
        return limits.cores
    taken = wanted.processes(0) + wanted.valkey(wanted.regional or LEAST_REGIONAL) + (wanted.memory or 0)
    each = WORKER + wanted.beside + (LEAST_OBJECTS if wanted.memory is None else 0)
    return max(1, min(limits.cores, (limits.memory - taken) // each))


def _regional(left: int | None, wanted: ConfiguredSizes) -> int:
    """Three eighths of what is left, or three quarters of that which the memory leaves, if that is set."""
    if left is None or not wanted.embedded:
        return USUAL
    share = left * 3 // 8 if wanted.memory is None else (left - wanted.memory) * 3 // 4
    return _whole(min(USUAL, max(LEAST_REGIONAL, share - VALKEY)))


def _memory(left: int | None, cgroup: int | None) -> int:
    """Three quarters of what is left: the rest is for what is on its way. No more than half of a container."""
    usual = USUAL if cgroup is None else cgroup // 2
    return _whole(usual if left is None else min(usual, max(MIB, left * 3 // 4)))


def _whole(size: int) -> int:
    return max(MIB, size // MIB * MIB)


def store_size(shares: Shares, each: int = 0) -> str:
    """The size of a store of the machine in memory: three quarters of the memory for objects.

    Each worker keeps enough of that memory for objects that it serves at once, and at least `each` bytes.
    """
    left = shares.memory - shares.workers * max(each, LEAST_WORKER)
    size = min(shares.memory * 3 // 4, left) // MIB * MIB
    return f"{max(size, LEAST_STORE) // MIB}MiB"


def configured_sizes(settings: Settings) -> ConfiguredSizes:
    """The configured sizes of `settings`."""
    regional = settings.regional_memory
    beside = size_of(settings.geo_db)
    embedded, kept = settings.regional == "embedded", bool(settings.regional_directory)
    return ConfiguredSizes(settings.workers, settings.memory, regional, embedded, kept, beside)


def size_of(path: str) -> int:
    """Bytes of a file that each worker loads; 0 if there is none."""
    with suppress(OSError):
        return os.path.getsize(path) if path else 0
    return 0


def refuse_too_much(settings: Settings, environ: Mapping[str, str], limits: Resources) -> None:
    """Raise ConfigError if the limit cannot hold the settings; it names what `environ` sets of them."""
    wanted, limit = configured_sizes(settings), limits.memory
    processes, valkey = wanted.processes(settings.workers), wanted.valkey(settings.regional_memory)
    needed = processes + valkey + settings.memory
    if limit is None or needed <= limit:
        return
    named = ("EDGECACHE_MEMORY", "EDGECACHE_REGIONAL_MEMORY", "EDGECACHE_WORKERS")
    variable = next((name for name in named if environ.get(name, "").strip()), named[0])
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    parts = f"{_mib(settings.memory)} for objects, {_mib(processes)} for the supervisor and {workers}"
    parts += f", {_mib(valkey)} for the embedded Valkey" if valkey else ""
    whose = "the cgroup allows" if limit == limits.cgroup else "the machine has"
    raise ConfigError(variable, f"does not fit into the {_mib(limit)} that {whose}: {parts}")


def _mib(size: int) -> str:
    return f"{-(-size // MIB)}MiB"
