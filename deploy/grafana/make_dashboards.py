"""Write the dashboards: `python deploy/grafana/make_dashboards.py` makes dashboards/*.json out of the tables below.

A panel is a title, a unit and queries, each with the legend of its series. `POP` selects the POPs chosen on top of the
dashboard, `RATE` is Grafana's interval for rates. `make dashboards-check` asks a Prometheus for every query.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent / "dashboards"
POP = 'pop=~"$pop"'
RATE = "[$__rate_interval]"
TIME = "dateTimeAsIso"  # of milliseconds
SOURCE = {"type": "prometheus", "uid": "prometheus"}


class Panel(NamedTuple):
    """One graph, or with `stat` one figure."""

    title: str
    unit: str
    queries: dict[str, str]  # legend → PromQL
    meaning: str = ""
    stat: bool = False
    stacked: bool = False


def rate(name: str, by: str = "", matching: str = "") -> str:
    """The rate of a counter of the chosen POPs, summed by labels."""
    selector = f"{POP},{matching}" if matching else POP
    return f"sum{f' by ({by})' if by else ''} (rate({name}{{{selector}}}{RATE}))"


def quantile(part: float, name: str, by: str, matching: str = "") -> str:
    """A quantile of a histogram of the chosen POPs."""
    return f"histogram_quantile({part}, {rate(f'{name}_bucket', f'{by}, le', matching)})"


HITS = 'result=~"hit|stale|regional"'
CACHEABLE = 'result=~"hit|stale|regional|miss|collapsed|revalidated"'  # neither passed, refused nor aborted
BYTES = "edgecache_client_bytes_out_total"
REQUESTS = "edgecache_requests_total"
SECONDS = "edgecache_request_seconds"

TRAFFIC = (
    Panel("Requests", "reqps", {"": rate(REQUESTS)}, stat=True),
    Panel(
        "Hit ratio",
        "percentunit",
        {"": f"{rate(REQUESTS, '', HITS)} / {rate(REQUESTS, '', CACHEABLE)}"},
        "Of GET and HEAD that the cache may answer: what is passed, refused or aborted is neither a hit nor a miss.",
        stat=True,
    ),
    Panel(
        "Byte hit ratio",
        "percentunit",
        {"": rate(BYTES, "", 'tier=~"memory|regional"') + " / " + rate(BYTES, "", 'tier!~"pass|none"')},
        stat=True,
    ),
    Panel(
        "Origin offload",
        "percentunit",
        {"": "edgecache:origin_offload:rate5m"},
        "Of what enters the chain, the share that no origin was asked for.",
        stat=True,
    ),
    Panel("Errors of ours", "percentunit", {"": "max(edgecache:error_ratio:rate5m{" + POP + "})"}, stat=True),
    Panel("Memory hit, 99 of 100 within", "s", {"": quantile(0.99, SECONDS, "tier", 'tier="memory"')}, stat=True),
    Panel("Requests by tier", "reqps", {"{{tier}}": rate(REQUESTS, "tier")}, stacked=True),
    Panel("Requests by POP", "reqps", {"{{pop}}": rate(REQUESTS, "pop")}, stacked=True),
    Panel(
        "Hit ratio by tier",
        "percentunit",
        {"{{tier}}": f"{rate(REQUESTS, 'tier', HITS)} / scalar({rate(REQUESTS, '', CACHEABLE)})"},
        "Of GET and HEAD that the cache may answer.",
        stacked=True,
    ),
    Panel("Hit ratio by POP", "percentunit", {"{{pop}}": "edgecache:hit_ratio:rate5m{" + POP + "}"}),
    Panel("Passed by POP", "percentunit", {"{{pop}}": "edgecache:pass_ratio:rate5m{" + POP + "}"}),
    Panel("Requests by class of status", "reqps", {"{{status}}": rate(REQUESTS, "status")}, stacked=True),
    Panel(
        "Origins: answers by class of status",
        "reqps",
        {"{{status}}": rate("edgecache_origin_responses_total", "status")},
        stacked=True,
    ),
    Panel("What requests came to", "reqps", {"{{result}}": rate(REQUESTS, "result")}, stacked=True),
    Panel(
        "Why requests went forward",
        "reqps",
        {"{{reason}}": rate(REQUESTS, "reason", 'tier=~"parent|origin|pass"')},
        "The fwd reason of RFC 9211.",
        stacked=True,
    ),
    Panel(
        "Asked of origins and parents",
        "reqps",
        {
            "origins, by {{pop}}": rate("edgecache_origin_requests_total", "pop"),
            "parents, by {{pop}}": rate("edgecache_parent_requests_total", "pop"),
        },
    ),
    Panel("Answers not stored", "reqps", {"{{reason}}": rate("edgecache_not_stored_total", "reason")}, stacked=True),
    Panel("Median time by tier", "s", {"{{tier}}": quantile(0.5, SECONDS, "tier")}),
    Panel("99 of 100 within, by tier", "s", {"{{tier}}": quantile(0.99, SECONDS, "tier")}),
    Panel("999 of 1000 within, by tier", "s", {"{{tier}}": quantile(0.999, SECONDS, "tier")}),
    Panel("Bytes to clients", "Bps", {"{{tier}}": rate("edgecache_client_bytes_out_total", "tier")}, stacked=True),
    Panel("Bytes from clients", "Bps", {"{{pop}}": rate("edgecache_client_bytes_in_total", "pop")}, stacked=True),
    Panel(
        "Errors of ours, by reason",
        "reqps",
        {"{{result}}, {{reason}}": rate(REQUESTS, "result, reason", 'result=~"error|aborted"')},
        stacked=True,
    ),
    Panel("Requests refused", "reqps", {"{{reason}}": rate("edgecache_refused_total", "reason")}, stacked=True),
)

PURGES = (
    Panel(
        "Propagation, 99 of 100 within",
        "s",
        {"{{source}} → {{target}}": quantile(0.99, "edgecache_purge_propagation_seconds", "source, target")},
        "From the append of an entry in its region to its application, by the wall clocks of both.",
    ),
    Panel(
        "Propagation, median",
        "s",
        {"{{source}} → {{target}}": quantile(0.5, "edgecache_purge_propagation_seconds", "source, target")},
    ),
    Panel("Entries applied", "ops", {"{{pop}}, of {{region}}": rate("edgecache_log_entries_total", "pop, region")}),
    Panel(
        "Nothing heard of a log for",
        "s",
        {"{{pop}}, of {{region}}": f"max by (pop, region) (edgecache_log_lag_seconds{{{POP}}})"},
    ),
    Panel(
        "Last entry applied, appended",
        TIME,
        {"{{pop}}, of {{region}}": f"max by (pop, region) (edgecache_log_position_timestamp_seconds{{{POP}}}) * 1000"},
    ),
    Panel(
        "Floor",
        TIME,
        {"{{pop}}, of {{region}}": f"max by (pop, region) (edgecache_purge_floor_timestamp_seconds{{{POP}}}) * 1000"},
        "What was known before must revalidate.",
    ),
    Panel("Purged names remembered", "short", {"{{pop}}": f"edgecache_purge_registers{{{POP}}}"}),
    Panel("Memory that they take", "bytes", {"{{pop}}": f"edgecache_purge_register_bytes{{{POP}}}"}),
    Panel(
        "Not yet in the log, and in doubt",
        "short",
        {
            "{{pop}}: not in the log": f"edgecache_purge_outbox{{{POP}}}",
            "{{pop}}: writes in doubt": f"edgecache_purge_writes_in_doubt{{{POP}}}",
        },
    ),
)

HEALTH = (
    Panel("POPs that answer", "short", {"": f'sum(up{{job="edgecache",{POP}}})'}, stat=True),
    Panel(
        "Workers ready",
        "short",
        {"ready": f"sum(edgecache_workers_ready{{{POP}}})", "slots": f"sum(edgecache_workers{{{POP}}})"},
        stat=True,
    ),
    Panel(
        "Workers that ended",
        "short",
        {
            "{{pop}} died": f"increase(edgecache_worker_deaths_total{{{POP}}}{RATE})",
            "{{pop}} hung": f"increase(edgecache_worker_hangs_total{{{POP}}}{RATE})",
            "{{pop}} relieved": f"increase(edgecache_worker_reliefs_total{{{POP}}}{RATE})",
        },
    ),
    Panel("Event loops late, 99 of 100", "s", {"{{pop}}": quantile(0.99, "edgecache_event_loop_lag_seconds", "pop")}),
    Panel("Client connections", "short", {"{{pop}}": f"edgecache_connections{{{POP}}}"}),
    Panel("Connections opened", "cps", {"{{pop}}": rate("edgecache_connections_opened_total", "pop")}),
    Panel(
        "Memory tier",
        "bytes",
        {"{{pop}}": f"edgecache_memory_bytes{{{POP}}}", "{{pop}} limit": f"edgecache_memory_limit_bytes{{{POP}}}"},
    ),
    Panel("Objects in memory", "short", {"{{pop}}": f"edgecache_memory_objects{{{POP}}}"}),
    Panel("Evictions", "ops", {"{{pop}}": rate("edgecache_memory_evictions_total", "pop")}),
    Panel("Flights out", "short", {"{{pop}}": f"edgecache_flights{{{POP}}}"}),
    Panel(
        "Flights led and followed",
        "ops",
        {
            "{{pop}} led": rate("edgecache_flights_led_total", "pop"),
            "{{pop}} followed": rate("edgecache_flights_followed_total", "pop"),
        },
    ),
    Panel(
        "Origins: workers that hold them to be well",
        "short",
        {"{{pop}}: {{origin}}": f"edgecache_origin_up{{{POP}}}"},
    ),
    Panel(
        "Origins: breakers that are not closed",
        "short",
        {"{{pop}}: {{origin}} {{state}}": f'edgecache_origin_breaker{{{POP},state!="closed"}}'},
    ),
    Panel("Origins: latency", "s", {"{{pop}}: {{origin}}": f"edgecache_origin_latency_seconds{{{POP}}}"}),
    Panel("Origins: failures", "ops", {"{{reason}}": rate("edgecache_origin_failures_total", "reason")}, stacked=True),
    Panel(
        "Origins: asked again, hedged, ejected",
        "ops",
        {
            "asked again": rate("edgecache_origin_retries_total"),
            "not asked again: beyond the budget": rate("edgecache_origin_retries_refused_total"),
            "hedged": rate("edgecache_origin_hedges_total"),
            "ejected": rate("edgecache_origin_ejections_total"),
        },
    ),
    Panel(
        "Origins: connections",
        "short",
        {
            "{{pop}} busy": f"edgecache_origin_connections_busy{{{POP}}}",
            "{{pop}} waiting for one": f"edgecache_origin_waiting{{{POP}}}",
        },
    ),
    Panel(
        "Parents: workers that hold them to be well", "short", {"{{pop}}: {{parent}}": f"edgecache_parent_up{{{POP}}}"}
    ),
    Panel("Parents bypassed", "ops", {"{{pop}}": rate("edgecache_parent_bypassed_total", "pop")}),
    Panel("Regional reads", "ops", {"{{result}}": rate("edgecache_regional_reads_total", "result")}, stacked=True),
    Panel(
        "Regional round trips, 99 of 100 within",
        "s",
        {"{{pop}}": quantile(0.99, "edgecache_regional_read_seconds", "pop")},
    ),
    Panel(
        "Regional breakers",
        "short",
        {"{{pop}} {{state}}": f"edgecache_regional_breaker{{{POP}}}"},
        "Workers in each state.",
    ),
    Panel(
        "Regional writes that wait",
        "bytes",
        {"{{pop}}": f"edgecache_regional_write_backlog_bytes{{{POP}}}"},
    ),
    Panel(
        "TLS: first certificate to end",
        TIME,
        {"{{pop}}": f"edgecache_tls_certificate_ends_timestamp_seconds{{{POP}}} * 1000"},
    ),
    Panel(
        "Configuration",
        "short",
        {
            "{{pop}} last reload taken": f"edgecache_config_last_reload_successful{{{POP}}}",
            "{{pop}} refused": f"increase(edgecache_config_reload_failures_total{{{POP}}}{RATE})",
        },
    ),
    Panel(
        "Traces: spans",
        "ops",
        {
            "exported": rate("edgecache_trace_spans_exported_total"),
            "lost: {{reason}}": rate("edgecache_trace_spans_dropped_total", "reason"),
        },
    ),
    Panel("Log lines lost", "ops", {"{{pop}}": rate("edgecache_access_log_dropped_total", "pop")}),
)

DASHBOARDS = {"traffic": TRAFFIC, "purges": PURGES, "health": HEALTH}


def dashboard(name: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """One dashboard as Grafana reads it: figures in the first row, then two graphs a row."""
    figures = [panel for panel in panels if panel.stat]
    graphs = [panel for panel in panels if not panel.stat]
    width = 24 // max(len(figures), 1)
    places = [(panel, width, 4, width * at, 0) for at, panel in enumerate(figures)]
    top = 4 if figures else 0
    places += [(panel, 12, 8, 12 * (at % 2), top + 8 * (at // 2)) for at, panel in enumerate(graphs)]
    return {
        "uid": f"edgecache-{name}",
        "title": f"edgecache: {name}",
        "tags": ["edgecache"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [VARIABLE]},
        "panels": [drawn(number, *place) for number, place in enumerate(places, 1)],
    }


VARIABLE = {
    "name": "pop",
    "label": "POP",
    "type": "query",
    "datasource": SOURCE,
    "query": {"query": "label_values(edgecache_build_info, pop)", "refId": "pop"},
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
    "refresh": 2,
}


def drawn(number: int, panel: Panel, width: int, height: int, left: int, top: int) -> dict[str, Any]:
    """One panel as Grafana reads it."""
    stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {"fillOpacity": 5}
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": {} if panel.stat else stacking}
    if panel.unit != TIME:
        defaults["min"] = 0
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height, "x": left, "y": top},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text(name: str) -> str:
    """The file of one dashboard."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the files."""
    HERE.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (HERE / f"{name}.json").write_text(text(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
