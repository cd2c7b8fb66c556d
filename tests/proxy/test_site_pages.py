"""Maintenance and pages of errors, on a running POP."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import environment, running_pop

from edgecache.config.settings import load
from edgecache.semantics.rules.error_pages import prefers_html

BROWSER = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
ANY, JSON = ("Accept", "*/*"), ("Accept", "application/json, text/html;q=0.5")
HOST = ("Host", "a.test")
PAGE = b"<!doctype html><p>Back soon {{path}}"


def sites(origin: str, more: str) -> str:
    """Two sites of one origin; `more` is said of a.test."""
    return f"""
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin}"
{more}
[[sites]]
name = "b"
hosts = ["b.test"]
origin = "{origin}"
"""


async def test_maintenance(tmp_path: Path) -> None:
    """503 with Retry-After for all of one site, also what is stored; browsers get its page; others go on."""
    page = tmp_path / "page.html"
    page.write_bytes(PAGE)
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"1"))
        settings = {"sites": sites(origin.url, ""), "purge_tokens": "cms=0123456789abcdef"}
        async with running_pop(origin, clock, **settings) as pop:
            for _ in range(4):
                assert (await pop.get("/", HOST)).status == 200
            closed = sites(origin.url, f'maintenance = true\nmaintenance_page = "{page}"')
            await pop.worker.reload(load(environment(origin.url, {**settings, "sites": closed}.items())))
            for _ in range(4):
                response = await pop.get("/", HOST)
                assert (response.status, response.get("retry-after")) == (503, "120")
                assert response.get("content-type") == "application/problem+json"
                response = await pop.get("/?<script>", HOST, BROWSER)
                assert (response.status, response.body) == (503, PAGE)
                assert response.get("content-type") == "text/html; charset=utf-8"
                assert response.get("cache-control") == "no-store"
                assert response.get("retry-after") == "120"
            assert (await pop.get("/", ("Host", "b.test"))).status == 200
            async with pop.client() as client:
                await client.request("PURGE", "/", [HOST, ("Authorization", "Bearer 0123456789abcdef")])
                assert (await client.response()).status == 200
                await client.request("HEAD", "/", [HOST, BROWSER])
                head = await client.response(method="HEAD")
                assert (head.status, head.get("content-length")) == (503, str(len(PAGE)))
            await pop.worker.reload(load(environment(origin.url, settings.items())))
            assert (await pop.get("/", HOST)).status == 200


async def test_pages_of_errors(tmp_path: Path) -> None:
    """By status and by class, for browsers alone; the origin's own errors and fixed responses are left alone."""
    for name in ("502", "4xx"):
        (tmp_path / name).write_bytes(name.encode())
    more = f"""
error_pages = {{ 502 = "{tmp_path}/502", 4xx = "{tmp_path}/4xx" }}
[[sites.rules]]
name = "own"
when = {{ path = "/own" }}
respond = {{ status = 404, body = "own" }}
[[sites.rules]]
name = "dead"
when = {{ path = "/dead" }}
route = {{ pool = "dead" }}
[[sites.rules]]
name = "closed"
when = {{ path = "/closed" }}
access = {{ deny = ["0.0.0.0/0", "::/0"] }}
"""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(status=502, body=b"of the origin"))
        text = sites(origin.url, more) + '[pools.dead]\nservers = ["http://127.0.0.1:1"]\n'
        async with running_pop(origin, clock, sites=text) as pop:
            for target, status, people, program in (
                ("/", 502, b"of the origin", b"of the origin"),
                ("/own", 404, b"own", b"own"),
                ("/dead", 502, b"502", None),
                ("/closed", 403, b"4xx", None),
            ):
                for accept, body in ((BROWSER, people), (ANY, program), (JSON, program)):
                    response = await pop.get(target, HOST, accept)
                    assert response.status == status, target
                    is_problem = response.get("content-type") == "application/problem+json"
                    assert is_problem if body is None else response.body == body, (target, accept)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/*", False),
        (b"text/html", True),
        (b"TEXT/HTML; Q=0.3", True),
        (b"text/html;q=0", False),
        (b"text/html;q=0.5, application/problem+json", False),
        (b"application/json;q=0.5,text/html", True),
        (b"text/html;level=1;q=0.2, application/*;q=0.3", False),
        (BROWSER[1].encode(), True),
    ],
)
def test_a_browser_is_one_by_its_accept(accept: bytes, html: bool) -> None:
    """What names HTML, unless it prefers JSON."""
    assert prefers_html(accept) is html
