"""What a worker counts of the invalidation logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.invalidation import version_vector
from edgecache.invalidation.purge_log import Applied, PurgeLog
from edgecache.telemetry.metrics import Counter, Histogram, Registry

if TYPE_CHECKING:
    from edgecache.invalidation.appender import LogAppender
    from edgecache.invalidation.consumer import LogConsumer

PROPAGATION: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class LogMetrics:
    """Metrics of the logs. Regions come from the settings."""

    def __init__(self, registry: Registry, region: str) -> None:
        self._registry = registry
        self._region = region
        self._applied: dict[tuple[str, Applied], tuple[Counter, Histogram]] = {}
        self._failures: dict[str, Counter] = {}

    def read(self, log: PurgeLog, follower: LogConsumer, writer: LogAppender) -> None:
        """Export gauges of these."""
        gauge = self._registry.gauge
        gauge("edgecache_purge_registers", "Purged names that are remembered.", read=lambda: len(log))
        gauge("edgecache_purge_register_bytes", "Memory of the remembered purged names.", read=lambda: log.bytes_used)
        self._registry.counter(
            "edgecache_purge_registers_folded",
            "Purged names forgotten at EDGECACHE_PURGE_REGISTERS: older objects of their sites are validated.",
            read=lambda: log.registers.folded,
        )
        self._registry.counter(
            "edgecache_purge_sites_crowded_out",
            "Sites with few purged names that were merged to make room: they share one floor.",
            read=lambda: log.registers.crowded_out,
        )
        gauge("edgecache_purge_writes_in_doubt", "Writes that have not ended.", across="max", read=lambda: log.writes)
        gauge("edgecache_purge_outbox", "Invalidations not yet in the log.", read=lambda: len(writer.outbox))
        for region in follower.lags():
            self._show(region, log, follower)

    def _show(self, region: str, log: PurgeLog, follower: LogConsumer) -> None:
        self._registry.timestamp(
            "edgecache_log_position_timestamp_seconds",
            "edgecache_log_position",
            "Time at which the last applied entry of a region's log was appended.",
            read=lambda: version_vector.id_of(log.applied(region))[0] / 1000,
            region=region,
        )
        self._registry.gauge(
            "edgecache_log_lag_seconds",
            "Time since the last news from a region's log.",
            across="max",
            read=lambda: follower.lags().get(region, 0.0),
            region=region,
        )
        self._registry.timestamp(
            "edgecache_purge_floor_timestamp_seconds",
            "edgecache_purge_floor",
            "Append time of the last entry that an object must have seen to be used without validation.",
            read=lambda: version_vector.id_of(log.floor[region])[0] / 1000,
            region=region,
        )

    def applied(self, region: str, relation: Applied, seconds: float) -> None:
        """Record an applied entry and its delay since it was appended."""
        entries, delays = self._applied.get((region, relation)) or self._add_series(region, relation)
        entries.value += 1
        delays.observe(max(0.0, seconds))

    def _add_series(self, region: str, relation: Applied) -> tuple[Counter, Histogram]:
        entries = self._registry.counter(
            "edgecache_log_entries",
            "Entries applied, by the region of their log and their relation to it.",
            region=region,
            relation=relation.value,
        )
        delays = self._registry.histogram(
            "edgecache_purge_propagation_seconds",
            "Time from the append of an entry in its region to its application here, by the wall clocks of both.",
            PROPAGATION,
            source=region,
            target=self._region,
        )
        self._applied[region, relation] = entries, delays
        return entries, delays

    def failed(self, word: str = "read") -> None:
        """Count a failed read or write; `word` is one of the fixed words in `valkey/batching.py`."""
        counter = self._failures.get(word)
        if counter is None:
            counter = self._failures[word] = self._registry.counter(
                "edgecache_log_failures", "Failures of the log, by kind.", kind=word
            )
        counter.value += 1

    def batch(self, keys: int, seconds: float) -> None:
        """Reads are not counted."""
