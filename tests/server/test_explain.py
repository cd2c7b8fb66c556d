"""`check-config --site HOST --url PATH`: rule by rule, and what follows; no secret of a rule is shown."""

from __future__ import annotations

import pytest

from edgecache.server.cli import main

SECRET = "secret-0123456789"
SITES = f"""
[[sites]]
name = "shop"
hosts = ["shop.test"]
origin = "http://10.0.0.5"
maintenance = true
[[sites.rules]]
name = "static"
when = {{ path = "/static/*" }}
cache = {{ ttl = "1d" }}
[[sites.rules]]
name = "user"
when = {{ cookie = {{ session = true }} }}
request_headers = {{ set = {{ Authorization = "Bearer {SECRET}", X-A = "1" }}, remove = ["X-B"] }}
[[sites.rules]]
name = "gone"
when = {{ status = "404" }}
cache = {{ ttl_by_status = {{ 404 = "10s" }} }}
[[sites.rules]]
name = "old"
when = {{ path = "/old" }}
redirect = {{ to = "/new" }}
last = true
[[sites.rules]]
name = "rest"
response_headers = {{ set = {{ X-C = "1" }} }}
"""


def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines for a request for shop.test."""
    monkeypatch.delenv("EDGECACHE_ORIGIN", raising=False)
    monkeypatch.setenv("EDGECACHE_SITES", SITES)
    assert main(["check-config", "--site", "shop.test", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_each_rule_and_what_follows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Which hold, which do not, which wait for the response; the key, the fields, the answer."""
    lines = report(monkeypatch, capsys, "--url", "/static/a.css", "--header", "Cookie: session=1")
    assert lines[:7] == [
        "site shop",
        "rule static: yes",
        "rule user: yes",
        "rule gone: if status=404",
        "rule old: no",
        "rule rest: yes",
        "maintenance: the answer is 503",
    ]
    assert "cache key: the URL, and that user hold" in "\n".join(lines)
    assert "request headers: remove x-b; set Authorization: ********; set X-A: 1" in lines
    assert "response headers: set X-C: 1" in lines
    assert SECRET not in "\n".join(lines)
    lines = report(monkeypatch, capsys, "--url", "https://shop.test/old")
    assert "answer: 308 to /new" in lines
    assert "rule rest: not reached" in lines
