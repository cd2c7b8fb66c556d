"""The machine's store of a POP: prepared by the supervisor, opened by each worker; both go on without it.

The modules of the store are imported only where it is on.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from edgecache.config.settings import Settings
from edgecache.config.sizing import LEAST_STORE, MIB, SHARED_MEMORY
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.storage.tier_queue import Lanes

if TYPE_CHECKING:
    from edgecache.semantics.rules.directory import Sites
    from edgecache.storage.machine.store import MachineStore
    from edgecache.storage.machine.store_files import Owner
    from edgecache.storage.machine.store_queue import StoreCounts
    from edgecache.storage.memory import Memory

log = logging.getLogger("edgecache")
VARIABLE: Final = "EDGECACHE_STORE"
SIZE: Final = "EDGECACHE_STORE_SIZE"
OFF: Final = "off"
MEMORY: Final = "memory"
DAMAGED: Final = (-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)  # codes of such an end


class StoreInUse:
    """The store as one worker has it open, and the right to its directory if this process has that."""

    def __init__(self, store: MachineStore, owner: Owner | None) -> None:
        from edgecache.storage.machine import admission

        self.store = store
        self._owner = owner
        self.largest_body = admission.largest_body(store)
        self.on_store = partial(admission.announce, store)

    def share_out(self, sites: Sites | None) -> None:
        """Have `sites` hold their shares from now on, if any has one."""
        shares = {} if sites is None else {site.name: site.memory_share for site in sites.all if site.memory_share}

        def site_of(url: bytes) -> str:
            site = None if sites is None else sites.site_of(url.partition(b"://")[2].partition(b"/")[0])
            return site.name if site is not None and site.name in shares else ""

        self.store.shares.set(shares.items(), site_of)

    def close(self) -> None:
        """Close it; a directory of this process alone is removed."""
        self.store.close()
        if self._owner is not None:
            self._owner.remove()


def identity_of(settings: Settings) -> bytes:
    """What the records of a store are bound to."""
    from edgecache.storage.machine import store_files

    log_of = b"own" if settings.regional == OFF else b"region " + settings.region.encode()
    return store_files.identity_of(log_of, settings.regional_key, settings.residency_rules.home.encode())


@contextmanager
def prepared(settings: Settings, source: Source) -> Iterator[None]:
    """Have a store for the workers while this lasts, if the settings want one; without one they serve as well."""
    if settings.store == OFF:
        yield
        return
    if importlib.util.find_spec("lmdb") is None:
        raise ConfigError(VARIABLE, f"{settings.store} needs the package lmdb: pip install 'edgecache[store]'")
    size = settings.store_size if source.is_written(SIZE) else _that_fits(settings)
    owner = _prepare(replace(settings, store_size=size)) if size else None
    source.fix(VARIABLE, OFF if owner is None else f"{_kind(settings)}:{owner.path}")
    source.fix(SIZE, str(size or settings.store_size))
    try:
        yield
    finally:
        if owner is not None:
            _end(settings, owner)


def _that_fits(settings: Settings) -> int:
    """Bytes of a store whose size nobody has set: less where shared memory has less, and 0 if that is too little."""
    from edgecache.storage.machine import store_files

    if _kind(settings) != MEMORY:
        return settings.store_size
    store_files.remove_left()
    free = shutil.disk_usage(SHARED_MEMORY).free
    size = min(settings.store_size, (free - free // 16) // MIB * MIB)
    if size < settings.store_size:
        words = "%s has %d MiB free: the machine's store has %d MiB instead of %d (docker run --shm-size)"
        fits = size if size >= LEAST_STORE else 0
        log.warning(words, SHARED_MEMORY, free // MIB, fits // MIB, settings.store_size // MIB)
        return fits
    return size


def _kind(settings: Settings) -> str:
    return settings.store.partition(":")[0]


def _prepare(settings: Settings) -> Owner | None:
    import lmdb

    from edgecache.storage.machine import store_files

    owner, path = None, settings.store.partition(":")[2]
    in_memory = settings.store == MEMORY
    try:
        if path:
            store_files.make_directory(path)
        owner = store_files.Owner(path) if path else store_files.own_directory()
        path = owner.path
        mapped, away = _kind(settings) == MEMORY, None if settings.regional != OFF else settings.store_gap
        why = store_files.prepare(path, settings.store_size, identity_of(settings), mapped=mapped, away=away)
    except (OSError, lmdb.Error) as error:
        log.warning("the machine's store (%s) is not used: %s", settings.store, error)
        if owner is not None and not in_memory:
            store_files.abandon(path)
        if owner is not None:
            owner.remove() if in_memory else owner.close()
        return None
    if why and not in_memory:
        log.info("the machine's store starts empty path=%s: %s", path, why)
    return owner


def _end(settings: Settings, owner: Owner) -> None:
    """Remove a store in memory; have one on a disk outlive the machine."""
    import lmdb

    from edgecache.storage.machine import store_files

    if settings.store == MEMORY:
        owner.remove()
        return
    try:
        store_files.close_orderly(owner.path, settings.store_size, identity_of(settings), mapped=False)
    except (OSError, lmdb.Error) as error:
        log.warning("the machine's store could not be written to disk: %s", error)
    owner.close()


def opened(settings: Settings) -> StoreInUse | None:
    """The store, open in this worker; None if there is none, or if it cannot be used."""
    if settings.store == OFF:
        return None
    import lmdb

    from edgecache.storage.machine import store_files

    owner = None
    if settings.store == MEMORY:  # a worker without a supervisor
        if (owner := _prepare(settings)) is None:
            return None
        settings = replace(settings, store=f"{MEMORY}:{owner.path}")
    kind, _, path = settings.store.partition(":")
    try:
        store = store_files.open_store(path, settings.store_size, identity_of(settings), mapped=kind == MEMORY)
    except (OSError, lmdb.Error) as error:
        log.warning("the machine's store is not used by this worker: %s", error)
        with suppress(OSError):
            store_files.spoil(path)  # this worker's invalidations will not be in it
        return None
    return StoreInUse(store, owner)


def note_use(store: MachineStore | None) -> None:
    """A POP that records its invalidations in `store` is running."""
    if store is not None:
        from edgecache.storage.machine import store_files

        store_files.note_use(store)


def spoil_if_it_kills(settings: Settings, code: int | str | None) -> None:
    """After the end of a worker: LMDB aborts on some damage of its file, and a file that was cut faults its reader.

    The worker's successor begins without the store, which is made anew when the POP starts again.
    """
    kind, _, path = settings.store.partition(":")
    if kind == OFF or not isinstance(code, int) or code not in DAMAGED:
        return
    from edgecache.storage.machine import store_files

    with suppress(OSError):
        store_files.spoil(path)
        log.warning("a worker ended by signal %d: the machine's store may be damaged, and is not opened again", -code)


def share_out(memory: Memory, store: StoreInUse | None, sites: Sites | None) -> None:
    """Have `sites` hold their shares in both."""
    memory.share_out(sites)
    if store is not None:
        store.share_out(sites)


def layers(store: MachineStore, counts: StoreCounts, lanes: Lanes | None) -> Lanes:
    """The queues of a tier that has the machine's store, alone or before those of a region."""
    from edgecache.storage.machine.fetch_lock import FetchLocks
    from edgecache.storage.machine.store_queue import StoreReads, StoreWrites
    from edgecache.storage.machine.tiers import LayeredReads, LayeredWrites, RegionalFirst

    reads, bulk = StoreReads(store, counts), StoreReads(store, counts, in_turn=True)
    writes = StoreWrites(store, counts)
    if lanes is None:
        return Lanes(reads, bulk, reads, writes, writes, FetchLocks(store.path, counts.unreadable), reads)
    return Lanes(
        reads=LayeredReads(reads, lanes.reads, writes),
        bulk=LayeredReads(bulk, lanes.bulk, writes),
        followed=RegionalFirst(reads, lanes.followed, writes),
        writes=LayeredWrites(writes, lanes.writes),
        control=LayeredWrites(writes, lanes.control),
        leases=lanes.leases,
        near=reads,
    )
