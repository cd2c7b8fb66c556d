"""Dashboards, recording rules and alerts: they ask for what `/metrics` exports, and fire when they should."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.client import connected
from harness.origin import OriginDouble, Reply
from harness.pop_process import RunningPop
from harness.pop_process import running_pop as running_process
from harness.valkey import Server

from loadtests.correctness.dashboards import queries

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus")
PENDING = {"edgecache_event_loop_lag_seconds_bucket": {"le"}}  # metrics of parts that are on their way
FRESH = ("Cache-Control", "max-age=60")


def promtool(*arguments: str) -> None:
    """Run it beside the rules; it must agree."""
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.slow
def test_rules_and_alerts_do_what_they_say() -> None:
    """Each alert fires in its situation and on nothing else: see alerts_test.yml."""
    promtool("check", "rules", "rules.yml", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_and_every_ratio_has_a_test() -> None:
    """None is without a situation in which it fires."""
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    for query in queries.of_alerts():
        assert f"alertname: {query.title}\n        exp_alerts:\n" in tested, query.title


@needs_promtool
def test_the_configuration_is_one(tmp_path: Path) -> None:
    """As Prometheus reads it, with the token's file in place."""
    token = tmp_path / "token"
    token.write_text("x")
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    text = (PROMETHEUS / "prometheus.yml").read_text()
    assert "/run/secrets/admin-token" in text
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/admin-token", str(token)))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_the_dashboards_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON is what make_dashboards.py makes; panels neither overlap nor repeat an id."""
    monkeypatch.syspath_prepend(str(ROOT / "deploy" / "grafana"))
    maker = importlib.import_module("make_dashboards")
    for name in maker.DASHBOARDS:
        assert (maker.HERE / f"{name}.json").read_text() == maker.text(name), f"run {maker.__file__}"
        panels = maker.dashboard(name, maker.DASHBOARDS[name])["panels"]
        covered = [
            (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
            for panel in panels
            for x in range(panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["h"])
        ]
        assert len(set(covered)) == len(covered)
        assert max(x for x, _ in covered) < 24
        assert len({panel["id"] for panel in panels}) == len(panels)
    assert {f"{name}.json" for name in maker.DASHBOARDS} == {path.name for path in maker.HERE.iterdir()}


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum by (tier) (rate(edgecache_requests_total[5m]))", []),
        ("sum by (tiers) (rate(edgecache_requests_total[5m]))", ["nothing has the label tiers"]),
        ('edgecache_requests_total{teir="memory"} > 1', ["edgecache_requests_total has no label teir"]),
        ("edgecache_request_total", ["no metric edgecache_request_total"]),
        ('edgecache:hit_ratio:rate5m{pop=~"x"} / edgecache:hit_ratio', ["no metric edgecache:hit_ratio"]),
        ('edgecache:hit_ratio:rate5m{tier="memory"}', ["edgecache:hit_ratio:rate5m has no label tier"]),
    ],
)
def test_a_query_for_what_is_not_there_is_found(expression: str, wrong: list[str]) -> None:
    """The check itself can fail: for a metric, a label in a selector, a label in a grouping."""
    assert queries.faults(queries.Query("", "", expression), {"edgecache_requests_total": {"tier"}}) == wrong


async def metrics(pop: RunningPop, *requests: tuple[str, str], until: str) -> str:
    """What it exports after some requests, once `until` is in it: workers follow the log."""
    await asyncio.to_thread(pop.expect_worker)
    async with connected(pop.port) as client:
        for method, target in requests:
            await client.request(method, target)
            await client.response()
    for _ in range(100):
        _, text = await asyncio.to_thread(pop.admin, "/metrics")
        if until in text:
            return text
    raise AssertionError(f"no {until}")


@pytest.mark.slow
async def test_every_query_asks_for_what_is_exported(origin: OriginDouble, valkey: Server, tmp_path: Path) -> None:
    """Each metric and label in a dashboard, rule or alert is exported by a POP that has had some traffic."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", date=False))
    settings = {"worker": "edgecache.server.worker:Worker", "access_log": "off", "regional": valkey.url}
    settings |= {"tls_listen": "127.0.0.1:0", "tls_certificates": Authority(tmp_path).issue("site").pair}
    settings |= {"parents": "http://127.0.0.1:2", "pop_secret": "a-secret-of-this-fleet"}  # nobody: it is passed by
    settings |= {"otlp_endpoint": "http://127.0.0.1:1", "trace_sample": "1", "store": "memory"}
    with running_process(origin="", origins=f"local={origin.url}|http://127.0.0.1:1", **settings) as pop:
        asked = [("GET", "/a"), ("GET", "/a"), ("GET", "/a"), ("POST", "/a"), ("GET", "/bad path")]
        text = await metrics(pop, *asked, until="edgecache_log_entries_total{")
    found = PENDING | queries.exported(text)
    faults = {
        f"{query.place}: {query.title}": faults for query in queries.every() if (faults := queries.faults(query, found))
    }
    assert not faults
