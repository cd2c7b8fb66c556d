"""What a POP counts and logs, as its readers have it."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from edgecache.telemetry.metrics import Snapshot, render
from harness.pop import Pop


def samples(snapshot: Snapshot) -> dict[str, float]:
    """Each rendered sample by its name and label values in the order of the labels' names."""
    return {
        ",".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(render(snapshot).decode())
        for sample in family.samples
    }


def logged(pop: Pop) -> list[dict[str, Any]]:
    """The access log from here on, filled as the POP is flushed."""
    lines: list[dict[str, Any]] = []

    def write(chunk: bytes) -> None:
        lines.extend(json.loads(line) for line in chunk.splitlines())

    pop.worker._log._writer._write = write
    return lines
