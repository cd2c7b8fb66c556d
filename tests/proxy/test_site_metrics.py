"""Requests and bytes by site: hits by known heads and all others; bounded labels; the field of the log."""

from __future__ import annotations

import json

import pytest
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import running_pop

from edgecache.server.cli import main
from edgecache.telemetry.metrics import Registry, render
from edgecache.telemetry.site_metrics import MOST_LABELS, SiteMetrics


def sites(origin: str) -> str:
    """Two sites of one origin."""
    return "".join(f'[[sites]]\nname = "{name}"\nhosts = ["{name}.test"]\norigin = "{origin}"\n' for name in "ab")


async def test_requests_and_bytes_by_site(capfd: pytest.CaptureFixture[str]) -> None:
    """Each response is counted once, however it was answered; what belongs to no site is not."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"12345"))
        settings = {"sites": sites(origin.url), "access_log": "json", "access_log_fields": "default,site"}
        async with running_pop(origin, clock, **settings) as pop:
            async with pop.client() as client:
                for host in ("a.test", "a.test", "a.test", "a.test", "a.test", "b.test", "c.test"):
                    await client.request("GET", "/", [("Host", host)])
                    await client.response()
            text = render(pop.worker.snapshot()).decode()
    for line in (
        'edgecache_site_requests_total{result="miss",site="a"} 1.0',
        'edgecache_site_requests_total{result="hit",site="a"} 4.0',
        'edgecache_site_requests_total{result="miss",site="b"} 1.0',
        'edgecache_site_bytes_out_total{site="a"} 25.0',
        'edgecache_site_bytes_out_total{site="b"} 5.0',
    ):
        assert line in text

    logged = [json.loads(line).get("site") for line in capfd.readouterr().out.splitlines()]
    assert logged == ["a"] * 5 + ["b", None]


def test_labels_are_bounded() -> None:
    """So that ten thousand sites do not make a hundred thousand series; a site keeps its label."""
    registry = Registry()
    metrics = SiteMetrics(registry)
    for number in range(MOST_LABELS + 50):
        metrics.counts_of(f"s{number}").add("hit", 1, 10)
        metrics.counts_of("s0").known_hits += 1
    metrics.fold()
    text = render(registry.snapshot()).decode()

    assert text.count("edgecache_site_bytes_out_total{") == MOST_LABELS + 1
    assert f'edgecache_site_bytes_out_total{{site="-others"}} {50 * 10}' in text
    assert metrics.counts_of("s3") is not metrics.counts_of(f"s{MOST_LABELS + 1}")


def test_check_config_says_where_the_origin_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not missing where sites have theirs."""
    monkeypatch.delenv("EDGECACHE_ORIGIN", raising=False)
    monkeypatch.setenv("EDGECACHE_SITES", sites("http://192.0.2.1"))
    assert main(["check-config"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split("  ")[0] for line in lines if "of EDGECACHE_SITES" in line] == ["EDGECACHE_ORIGIN"]
    assert not any("missing" in line.split() for line in lines)
