"""Metrics: counting, merging over workers, and the text that Prometheus reads."""

import re
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgecache.telemetry.metrics import Registry, Snapshot, cumulative, merge, render


def travelled(registry: Registry) -> Snapshot:
    """The snapshot of a registry after its way through a control socket."""
    snapshot: Snapshot = orjson.loads(orjson.dumps(registry.snapshot()))
    return snapshot


def samples(*snapshots: Snapshot) -> dict[str, float]:
    """Every rendered sample of the merged snapshots by its name and label values, as Prometheus parses them."""
    text = render(merge(snapshots)).decode()
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_counter_is_one_object_per_name_and_labels() -> None:
    """Asking again gives the same counter, so that the hot path may hold it."""
    registry = Registry()
    hit = registry.counter("requests", "Requests.", cache="hit")
    hit.value += 1

    assert registry.counter("requests", "Requests.", cache="hit") is hit
    assert registry.counter("requests_total", "Requests.", cache="hit") is hit
    assert registry.counter("requests", "Requests.", cache="miss") is not hit


def test_a_name_has_one_declaration() -> None:
    """The same name with another kind or other labels is a mistake of the programmer."""
    registry = Registry()
    registry.counter("requests", "Requests.", cache="hit")

    with pytest.raises(ValueError, match="declared twice"):
        registry.gauge("requests", "Requests.", cache="hit")
    with pytest.raises(ValueError, match="declared twice"):
        registry.counter("requests", "Requests.", host="hit")


def test_labels_that_clients_choose_are_bounded() -> None:
    """Past the bound of series, values collapse into `other`, and no count is lost."""
    registry = Registry(max_series=3)
    for number in range(100):
        registry.counter("refused", "Refused.", reason=f"reason {number}").value += 1

    assert samples(travelled(registry)) == {
        "refused_total,reason 0": 1,
        "refused_total,reason 1": 1,
        "refused_total,reason 2": 1,
        "refused_total,other": 97,
    }


def test_workers_are_summed() -> None:
    """Counters and gauges of several workers are summed, series by series."""
    one, two = Registry(), Registry()
    one.counter("requests", "Requests.", cache="hit").value += 3
    two.counter("requests", "Requests.", cache="hit").value += 4
    two.counter("requests", "Requests.", cache="miss").value += 1
    one.gauge("connections", "Connections.").value = 5
    two.gauge("connections", "Connections.").value = 6

    assert samples(travelled(one), travelled(two)) == {
        "connections": 11,
        "requests_total,hit": 7,
        "requests_total,miss": 1,
    }


def test_a_gauge_may_be_the_largest_of_all_workers() -> None:
    """What must not be summed is declared so."""
    one, two = Registry(), Registry()
    one.gauge("lag_seconds", "Lag.", across="max").value = 0.5
    two.gauge("lag_seconds", "Lag.", across="max").value = 0.25

    assert samples(travelled(one), travelled(two)) == {"lag_seconds": 0.5}


def test_values_can_be_read_when_they_are_asked_for() -> None:
    """A gauge or counter with `read` costs nothing until a snapshot is taken."""
    registry, held = Registry(), [1, 2, 3]
    registry.gauge("objects", "Objects.", read=lambda: len(held))
    registry.counter("evictions", "Evictions.", read=lambda: 7)
    held.append(4)

    assert samples(travelled(registry)) == {"objects": 4, "evictions_total": 7}


def test_histograms_count_up_to_and_including_their_bounds() -> None:
    """A bucket includes its upper end (`le`), buckets cumulate, and workers are summed."""
    one, two = Registry(), Registry()
    for seconds in (0.05, 0.1, 0.2, 9.0):
        one.histogram("latency_seconds", "Latency.", (1.0, 0.1)).observe(seconds)
    two.histogram("latency_seconds", "Latency.", (0.1, 1.0)).observe(0.01)

    assert samples(travelled(one), travelled(two)) == {
        "latency_seconds_bucket,0.1": 3,
        "latency_seconds_bucket,1.0": 4,
        "latency_seconds_bucket,+Inf": 5,
        "latency_seconds_count": 5,
        "latency_seconds_sum": pytest.approx(9.36),
    }


def test_the_dead_leave_their_counts_but_not_their_gauges() -> None:
    """What a dead worker has counted stays true; what it held is gone."""
    registry = Registry()
    registry.counter("requests", "Requests.").value += 2
    registry.gauge("connections", "Connections.").value = 9

    assert samples(cumulative(travelled(registry))) == {"requests_total": 2}


def test_merging_changes_none_of_its_parts() -> None:
    """A snapshot that is kept as a base can be merged again and again."""
    registry = Registry()
    registry.counter("requests", "Requests.").value += 1
    base = travelled(registry)

    assert [samples(base, base), samples(base, base)] == [{"requests_total": 2}] * 2


def test_the_text_is_well_formed() -> None:
    """HELP and TYPE precede the samples, label values are escaped, and the name ends in _total."""
    registry = Registry()
    registry.counter("requests", "Requests\nanswered.", host='a"b\\c\nd').value += 1

    assert render(travelled(registry)) == (
        b"# HELP requests_total Requests\\nanswered.\n"
        b"# TYPE requests_total counter\n"
        b'requests_total{host="a\\"b\\\\c\\nd"} 1.0\n'
    )


def test_a_timestamp_has_its_old_name_too() -> None:
    """Dashboards that ask for the old name go on; both say the same, also when it is set later."""
    registry = Registry()
    gauge = registry.timestamp("ended_timestamp_seconds", "ended_seconds", "When it ended.")
    gauge.value = 7
    assert samples(registry.snapshot()) == {"ended_timestamp_seconds": 7, "ended_seconds": 7}
    two = Registry()
    two.timestamp("ended_timestamp_seconds", "ended_seconds", "When it ended.", read=lambda: 9)
    assert samples(registry.snapshot(), two.snapshot()) == {"ended_timestamp_seconds": 9, "ended_seconds": 9}


def test_timestamps_are_named_as_such_and_their_old_names_documented() -> None:
    """A metric of a point in time ends with `_timestamp_seconds`, and the migration notes have its old name."""
    root = Path(__file__).parents[2]
    notes = (root / "docs" / "migration.md").read_text()
    declared = [
        names
        for path in (root / "edgecache").rglob("*.py")
        for names in re.findall(r'\.timestamp\(\s*"(\w+)",\s*"(\w+)"', path.read_text())
    ]
    assert len(declared) == 5
    for name, old_name in declared:
        assert name.endswith("_timestamp_seconds")
        assert f"| `{old_name}` | `{name}` |" in notes
