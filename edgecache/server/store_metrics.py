"""The metrics of the machine's store: what one worker reads and writes there, and what the store is as a whole."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edgecache.telemetry.metrics import Counter, Histogram, Registry

if TYPE_CHECKING:
    from edgecache.config.settings import Settings
    from edgecache.storage.machine.store import MachineStore

WHOLE: Final = {
    "edgecache_store_evicted_objects": ("evicted", "Records that left the machine's store for others."),
    "edgecache_store_carried_objects": ("carried", "Records that were used, and stayed when their turn came."),
    "edgecache_store_stored_bytes": ("stored", "Bytes of records as they came."),
    "edgecache_store_written_bytes": ("written", "Bytes written, those of records that stayed included."),
    "edgecache_store_clears": ("cleared", "Times that the machine's store was emptied."),
}
SECONDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0)


class StoreMetrics:
    """Counters of one worker."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reads: dict[Any, Counter] = {}
        self._writes: dict[Any, Counter] = {}
        self._seconds: Histogram | None = None
        self._unreadable: Counter | None = None

    def read_state(self, store: MachineStore) -> None:
        """Export counters of what is done with `store`."""
        from edgecache.storage.machine.store_queue import StoreRead, StoreWrite

        counter = self._registry.counter
        for came in StoreRead:
            self._reads[came] = counter(
                "edgecache_store_reads", "Reads of the machine's store, by result.", result=came.value
            )
        for done in StoreWrite:
            self._writes[done] = counter(
                "edgecache_store_writes", "Records for the machine's store, by result.", result=done.value
            )
        self._unreadable = counter(
            "edgecache_store_unreadable_messages", "Messages between workers about fetches that cannot be read."
        )
        self._seconds = self._registry.histogram(
            "edgecache_store_disk_read_seconds", "Reads of the machine's store that had to wait for the disk.", SECONDS
        )

    def read(self, outcome: Any) -> None:
        """Count a read."""
        self._reads[outcome].value += 1

    def unreadable(self) -> None:
        """Count a message of another worker that cannot be read."""
        if self._unreadable is not None:
            self._unreadable.value += 1

    def took(self, seconds: float) -> None:
        """Count a read of the disk."""
        if self._seconds is not None:
            self._seconds.observe(seconds)

    def wrote(self, outcome: Any) -> None:
        """Count a change."""
        self._writes[outcome].value += 1


def declare_store(registry: Registry, settings: Settings) -> MachineStore | None:
    """Export what a whole store is, in the supervisor; None if there is none."""
    if settings.store == "off":
        return None
    import lmdb

    from edgecache.storage.machine import store_files

    try:
        store = store_files.attach(settings.store.partition(":")[2])
    except (OSError, lmdb.Error):
        return None
    registry.gauge("edgecache_store_size_bytes", "Size of the machine's store.").value = store.shape.total
    registry.gauge("edgecache_store_used_bytes", "Bytes of records in the machine's store.", read=store.used)
    usable = "Whether the machine's store is used: 0 after an invalidation could not be recorded in it."
    registry.gauge("edgecache_store_usable", usable, read=lambda: not store.head["poisoned"])
    registry.gauge("edgecache_store_objects", "Records in the machine's store.", read=store.objects)
    for metric, (name, meaning) in WHOLE.items():
        registry.counter(metric, meaning, read=partial(store.head.__getitem__, name))
    return store
