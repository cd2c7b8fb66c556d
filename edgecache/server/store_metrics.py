"""The metrics of the machine's store: what one worker reads and writes there, and what the store is as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgecache.telemetry.metrics import Counter, Histogram, Registry

if TYPE_CHECKING:
    from edgecache.storage.machine.store import MachineStore

SECONDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0)


class StoreMetrics:
    """Counters of one worker. Gauges of the whole store are the same in every worker: take the largest, not the sum."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reads: dict[Any, Counter] = {}
        self._writes: dict[Any, Counter] = {}
        self._seconds: Histogram | None = None

    def read_state(self, store: MachineStore) -> None:
        """Export counters of what is done with `store`."""
        from edgecache.storage.machine.lanes import StoreRead, StoreWrite

        counter = self._registry.counter
        for came in StoreRead:
            self._reads[came] = counter(
                "edgecache_store_reads", "Reads of the machine's store, by what they came to.", result=came.value
            )
        for done in StoreWrite:
            self._writes[done] = counter(
                "edgecache_store_writes", "Records for the machine's store, by what became of them.", result=done.value
            )
        self._seconds = self._registry.histogram(
            "edgecache_store_disk_read_seconds", "Reads of the machine's store that had to wait for the disk.", SECONDS
        )

    def read(self, outcome: Any) -> None:
        """Count a read."""
        self._reads[outcome].value += 1

    def took(self, seconds: float) -> None:
        """Count a read of the disk."""
        if self._seconds is not None:
            self._seconds.observe(seconds)

    def wrote(self, outcome: Any) -> None:
        """Count a change."""
        self._writes[outcome].value += 1


def declare_store(registry: Registry, path: str, size: int, identity: bytes, *, mapped: bool) -> MachineStore | None:
    """Export the gauges of a whole store, in the supervisor."""
    import lmdb

    from edgecache.storage.machine import opening

    try:
        store = opening.open_store(path, size, identity, mapped=mapped)
    except (OSError, lmdb.Error):
        return None
    gauge = registry.gauge
    gauge("edgecache_store_size_bytes", "Size of the machine's store.").value = store.shape.total
    gauge("edgecache_store_used_bytes", "Bytes of it that hold records.", read=store.used)
    gauge("edgecache_store_objects", "Records in it.", read=store.objects)
    for name, meaning in (
        ("evicted", "Records that left it for others."),
        ("carried", "Records that were used, and stayed when their turn came."),
        ("written", "Bytes written, those of records that stayed included."),
        ("stored", "Bytes of the records as they came."),
        ("cleared", "Times that it was emptied."),
    ):
        gauge(f"edgecache_store_{name}_total", meaning, read=lambda name=name: store.head[name])  # type: ignore[misc]
    return store
