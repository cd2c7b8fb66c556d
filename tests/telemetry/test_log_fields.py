"""The fields of the access log: chosen, documented, and the same for every way that a request is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from harness.client import until
from harness.observed import logged
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.tls_client import secured
from harness.valkey import Server

from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.telemetry.log_field_names import NAMES, USUAL
from edgecache.telemetry.log_fields import FIELDS, table

DOCS = Path(__file__).parents[2] / "docs" / "logging.md"
FRESH = ("Cache-Control", "max-age=60")
ORIGIN = {"EDGECACHE_ORIGIN": "http://origin.test"}


def test_the_documentation_has_every_field() -> None:
    """The table in docs/logging.md is that of the code: name, unit, example, meaning."""
    text = DOCS.read_text()
    assert text.partition("<!-- fields -->\n")[2].partition("<!-- end of fields -->")[0] == table()
    assert tuple(field.name for field in FIELDS) == NAMES
    for field in FIELDS:
        assert json.loads(field.example) is not None


def test_the_choice_is_a_setting() -> None:
    """Names in any order, and two words for many."""
    assert load(ORIGIN).access_log_fields == USUAL
    chosen = load(ORIGIN | {"EDGECACHE_ACCESS_LOG_FIELDS": "status, time ,tls"}).access_log_fields
    assert chosen == ("time", "tls", "status")
    assert load(ORIGIN | {"EDGECACHE_ACCESS_LOG_FIELDS": "all"}).access_log_fields == NAMES
    more = load(ORIGIN | {"EDGECACHE_ACCESS_LOG_FIELDS": "age,default"}).access_log_fields
    assert set(more) == {*USUAL, "age"}


@pytest.mark.parametrize("wrong", ["statsu", "status,,Time", ","])
def test_a_field_that_is_none_refuses_the_start(wrong: str) -> None:
    """One line names the variable and what is wrong."""
    with pytest.raises(ConfigError, match="EDGECACHE_ACCESS_LOG_FIELDS"):
        load(ORIGIN | {"EDGECACHE_ACCESS_LOG_FIELDS": wrong})


async def test_the_usual_line_is_that_of_its_fields(origin: OriginDouble) -> None:
    """What is written by heart, and what is written field by field, differ in nothing but times and the order."""
    moving = {"time", "duration_ms", "upstream_ms", "upstream", "host"}
    seen = []
    for choice in ("default", ",".join((*USUAL[1:], "ttl")), "default,ttl"):
        async with running_pop(origin, access_log="json", access_log_fields=choice) as pop:
            lines = logged(pop)
            await scene(pop, origin)
        seen.append([{name: value for name, value in line.items() if name not in {*moving, "ttl"}} for line in lines])
        assert all("duration_ms" in line for line in lines)
        assert "upstream_ms" not in lines[-1]
    assert seen[0] == seen[1] == seen[2]
    assert {line["result"] for line in seen[0]} == {"miss", "hit", "pass", "error"}


async def scene(pop: Pop, origin: OriginDouble) -> None:
    """Misses, hits by every way, passes, a write, a refusal."""
    origin.on("/a", Reply(fields=[FRESH, ("Content-Type", "text/plain"), ("Surrogate-Key", "x y")], body=b"hello"))
    origin.on("/p", Reply(fields=[("Cache-Control", "no-store")], body=b"own"))
    async with pop.client() as client:
        for number in range(4):
            await client.request("GET", "/a", [("User-Agent", "one")])
            await client.response()
            await client.request("GET", "/a", [("User-Agent", str(number))])
            await client.response()
            await client.request("GET", "/p")
            await client.response()
    await pop.request("POST", "/a", body=b"abc")
    async with pop.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        await client.response()


async def test_every_field_says_what_was_sent(origin: OriginDouble) -> None:
    """Of a miss and a hit: bytes as on the wire, age and ttl as told, who answered, and what was asked for."""
    origin.on("/a", Reply(fields=[FRESH, ("Content-Type", "text/plain"), ("Surrogate-Key", "x y")], body=b"hello"))
    settings = {"access_log_fields": "all", "access_log": "json", "trusted_proxies": "127.0.0.1/32"}
    async with running_pop(origin, geo_overrides="192.0.2.0/24=DE", **settings) as pop:
        lines = logged(pop)
        raw = b"GET /a HTTP/1.1\r\nHost: x.test\r\nX-Request-ID: 7\r\nX-Forwarded-For: 192.0.2.5\r\n%b\r\n"
        async with pop.client() as client:
            heads = []
            for extra in (b"", b"Range: bytes=0-1\r\n"):
                await client.send(raw % extra)
                heads.append(await client.response())
                origin.clock.advance(7)
        await until(lambda: len(pop.worker._log._records) == 2)
    miss, hit = lines
    assert {**miss, **dict.fromkeys(("time", "duration_ms", "ttfb_ms", "upstream_ms", "connection"), 0)} == {
        "time": 0,
        "client": "127.0.0.1",
        "forwarded_client": "192.0.2.5",
        "country": "DE",
        "connection": 0,
        "method": "GET",
        "scheme": "http",
        "host": "x.test",
        "target": "/a",
        "protocol": "HTTP/1.1",
        "request_id": "7",
        "request_bytes": len(raw % b""),
        "status": 200,
        "bytes": 5,
        "head_bytes": len(heads[0].head.raw),
        "content_type": "text/plain",
        "duration_ms": 0,
        "ttfb_ms": 0,
        "cache": "test; fwd=uri-miss; fwd-status=200; stored",
        "result": "miss",
        "tier": "origin",
        "reason": "uri-miss",
        "ttl": 60,
        "tags": "x y",
        "upstream": origin.url,
        "upstream_status": 200,
        "upstream_ms": 0,
        "user_agent": "",
        "referer": "",
    }
    assert (hit["status"], hit["range"], hit["age"], hit["ttl"]) == (206, "bytes=0-1", 7, 53)
    assert (hit["bytes"], hit["tags"], hit["connection"]) == (2, "x y", miss["connection"])
    assert hit.keys().isdisjoint(("upstream", "upstream_status", "upstream_ms", "not_stored"))


async def test_passes_and_refusals_have_their_fields(origin: OriginDouble) -> None:
    """A pass by a known head as one by the long way; a refusal has its head's bytes."""
    async with running_pop(origin, access_log="json", access_log_fields="all") as pop:
        lines = logged(pop)
        await scene(pop, origin)
    passed = [line for line in lines if line["target"] == "/p"]
    assert {line["head_bytes"] for line in passed[1:]} == {passed[1]["head_bytes"]}
    assert {(line["upstream"], line["upstream_status"]) for line in passed} == {(origin.url, 200)}
    assert {line["request_bytes"] for line in passed} == {passed[0]["request_bytes"]}
    write, refusal = lines[-2:]
    assert (write["request_bytes"] > 3, write["upstream_status"]) == (True, 200)
    assert (refusal["request_bytes"], refusal["bytes"] > 0, refusal["head_bytes"] > 0) == (28, True, True)


async def test_the_version_of_tls_is_logged(origin: OriginDouble, tmp_path: Path) -> None:
    """Where there is TLS, and nowhere else."""
    authority = Authority(tmp_path)
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    pair = authority.issue("www.example.test").pair
    settings: dict[str, Any] = {"tls_listen": "127.0.0.1:0", "tls_certificates": pair, "access_log": "json"}
    async with running_pop(origin, access_log_fields="tls,scheme,status", **settings) as pop:
        lines = logged(pop)
        await pop.get("/a")
        async with secured(pop.tls_port, authority.trusting()) as client:
            for _ in range(3):
                await client.ask("/a", "www.example.test")
    assert lines[0] == {"scheme": "http", "status": 200}
    assert lines[1:] == 3 * [{"tls": "TLSv1.3", "scheme": "https", "status": 200}]


async def test_hits_of_the_regional_tier_have_age_ttl_and_tags(origin: OriginDouble, valkey: Server) -> None:
    """By the long way and by a head that was known."""
    origin.on("/a", Reply(fields=[FRESH, ("Surrogate-Key", "x")], body=b"hello"))
    settings = {"regional": valkey.url, "regional_timeout": "5s", "access_log": "json", "access_log_fields": "all"}
    async with running_pop(origin, origin.clock, **settings) as one:
        await one.get("/a")
        await valkey.has(1)
    origin.clock.advance(7)
    async with running_pop(origin, origin.clock, **settings) as two:
        lines = logged(two)
        await two.get("/a")
    assert [(line["tier"], line["age"], line["ttl"], line["tags"]) for line in lines] == [("regional", 7, 53, "x")]
