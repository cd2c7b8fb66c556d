"""Metrics: counted in a worker as cheaply as Python can, summed over the workers, rendered for Prometheus.

The hot path holds its `Counter` and says `counter.value += 1`: no lock, no look-up, no call. A snapshot is
plain data that travels as JSON; merging and rendering happen in the supervisor only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from prometheus_client.core import Metric

DEFAULT_MAX_SERIES = 200  # per metric: label values come from clients sometimes, and memory is bounded
OTHER = "other"
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Across = Literal["sum", "max"]
Labels = tuple[tuple[str, str], ...]
One = TypeVar("One")


class Family(TypedDict):
    """All series of one metric: the label pairs of each, and its value, or for a histogram sum and counts."""

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    across: Across
    bounds: list[float]
    series: list[tuple[Labels, list[float]]]


Snapshot = dict[str, Family]


class Counter:
    """A number that only grows. The hot path adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def values(self) -> list[float]:
        """Values for a snapshot."""
        return [self.value]


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()


class Reading(Gauge):
    """A counter or gauge that is read when a snapshot is taken."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], float]) -> None:
        super().__init__()
        self._read = read

    def values(self) -> list[float]:
        """Values for a snapshot: the current reading."""
        self.value = self._read()
        return [self.value]


class Histogram:
    """How observations fall into buckets; `bounds` are their upper ends, in seconds for latencies."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = sorted(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # the last is +Inf
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count an observation, once or as if it had been made so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def values(self) -> list[float]:
        """Values for a snapshot: the sum, then the count of each bucket."""
        return [self.total, *self.counts]


class _Metric:
    """One metric of a registry: its declaration, and its series by their label pairs."""

    def __init__(self, declared: tuple[Any, ...], labels: Iterable[str]) -> None:
        self.declared = declared
        self.label_names = sorted(labels)
        self.series: dict[Labels, Any] = {}


class Registry:
    """Metrics of one process: one object for each name and set of labels.

    Past `max_series` series of one metric, each new one counts in the series whose label values are `other`.
    """

    def __init__(self, max_series: int = DEFAULT_MAX_SERIES) -> None:
        self._max_series = max_series
        self._bounds: dict[str, int] = {}
        self._metrics: dict[str, _Metric] = {}

    def bound(self, name: str, most: int) -> None:
        """Let the metric `name` have so many series: its labels are bounded elsewhere."""
        self._bounds[name] = most

    def counter(self, name: str, meaning: str, /, *, read: Callable[[], float] | None = None, **labels: str) -> Counter:
        """The counter `name`, with or without `_total`, with these labels; `read` replaces `value`."""
        make: Callable[[], Counter] = Counter if read is None else partial(Reading, read)
        return self._series(name.removesuffix("_total"), ("counter", meaning, "sum", ()), labels, make)

    def gauge(
        self,
        name: str,
        meaning: str,
        /,
        *,
        read: Callable[[], float] | None = None,
        across: Across = "sum",
        **labels: str,
    ) -> Gauge:
        """The gauge `name` with these labels; `across` is how gauges of several workers are merged."""
        make: Callable[[], Gauge] = Gauge if read is None else partial(Reading, read)
        return self._series(name, ("gauge", meaning, across, ()), labels, make)

    def timestamp(
        self, name: str, old_name: str, meaning: str, /, *, read: Callable[[], float] | None = None, **labels: str
    ) -> Gauge:
        """The gauge `name` of a time in seconds since 1970, exported under its `old_name` as well."""
        gauge = self.gauge(name, meaning, read=read, across="max", **labels)
        self.gauge(old_name, f"Old name of {name}.", read=lambda: gauge.values()[0], across="max", **labels)
        return gauge

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float] = LATENCY_BUCKETS, /, **labels: str
    ) -> Histogram:
        """The histogram `name` with these labels; `buckets` are the upper ends, +Inf is implied."""
        declared = ("histogram", meaning, "sum", tuple(sorted(buckets)))
        return self._series(name, declared, labels, partial(Histogram, buckets))

    def _series(self, name: str, declared: tuple[Any, ...], labels: dict[str, str], make: Callable[[], One]) -> One:
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = _Metric(declared, labels)
        if metric.declared != declared or metric.label_names != sorted(labels):
            raise ValueError(f"metric {name} is declared twice, differently")
        key = tuple(sorted(labels.items()))
        if key not in metric.series and len(metric.series) >= self._bounds.get(name, self._max_series):
            key = tuple((label, OTHER) for label, _ in key)
        found: One | None = metric.series.get(key)
        if found is None:
            found = metric.series[key] = make()
        return found

    def forget(self, name: str) -> None:
        """Remove all series of a metric."""
        self._metrics.pop(name, None)

    def snapshot(self) -> Snapshot:
        """Every series as plain data that orjson can write."""
        return {name: self._family(metric) for name, metric in self._metrics.items()}

    def _family(self, metric: _Metric) -> Family:
        kind, meaning, across, bounds = metric.declared
        series = [(labels, one.values()) for labels, one in metric.series.items()]
        return Family(kind=kind, meaning=meaning, across=across, bounds=list(bounds), series=series)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot out of those of several processes: summed, except gauges that are declared `max`."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            known = merged.get(name)
            merged[name] = family if known is None else _both(known, family)
    return merged


def cumulative(snapshot: Snapshot) -> Snapshot:
    """Metrics that outlive a process: its counters and histograms."""
    return {name: family for name, family in snapshot.items() if family["kind"] != "gauge"}


def _both(one: Family, two: Family) -> Family:
    join = max if one["across"] == "max" else _add
    series = {_labels(labels): values for labels, values in one["series"]}
    for pairs, values in two["series"]:
        labels = _labels(pairs)
        known = series.get(labels)
        series[labels] = values if known is None else [join(a, b) for a, b in zip(known, values, strict=True)]
    return Family(
        kind=one["kind"],
        meaning=one["meaning"],
        across=one["across"],
        bounds=one["bounds"],
        series=list(series.items()),
    )


def _add(one: float, two: float) -> float:
    return one + two


def _labels(pairs: Iterable[Iterable[str]]) -> Labels:
    return tuple((name, value) for name, value in pairs)  # JSON gives lists back


def render(merged: Snapshot) -> bytes:
    """The snapshot in the text format of Prometheus."""
    from prometheus_client import generate_latest  # 14 MiB that the workers need not carry

    return generate_latest(_Collector(merged))


class _Collector:
    """A collector for prometheus_client."""

    def __init__(self, merged: Snapshot) -> None:
        self._merged = merged

    def collect(self) -> Iterator[Metric]:
        """Each metric with its samples."""
        from prometheus_client import core

        for name, family in sorted(self._merged.items()):
            label_names = [label for label, _ in family["series"][0][0]] if family["series"] else []
            match family["kind"]:
                case "counter":
                    metric: Any = core.CounterMetricFamily(name, family["meaning"], labels=label_names)
                case "gauge":
                    metric = core.GaugeMetricFamily(name, family["meaning"], labels=label_names)
                case "histogram":
                    metric = core.HistogramMetricFamily(name, family["meaning"], labels=label_names)
            _add_series(metric, family)
            yield metric


def _add_series(metric: Any, family: Family) -> None:
    for pairs, values in family["series"]:
        labels = [value for _, value in pairs]
        if family["kind"] == "histogram":
            metric.add_metric(labels, _buckets(family["bounds"], values[1:]), sum_value=values[0])
        else:
            metric.add_metric(labels, values[0])


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    ends = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    cumulated, buckets = 0.0, []
    for end, in_bucket in zip(ends, counts, strict=True):
        cumulated += in_bucket
        buckets.append((end, cumulated))
    return buckets
