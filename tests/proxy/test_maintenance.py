"""Maintenance, and error pages by Accept, on a running POP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from harness.origin import Reply
from harness.pop import Pop, environment
from harness.sites import two_sites

from edgecache.config.settings import load

HOST = ("Host", "a.test")
BROWSER = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
PAGES = {"down": b"<p>down", "busy": b"<p>busy", "error": b"<p>error", "refused": b"<p>refused"}
ORIGIN_OF_B = '\n[[sites]]\nname = "b"'


@pytest.fixture
def pages(tmp_path: Path) -> str:
    """Files with pages, and the keys of a site that name them."""
    for name, content in PAGES.items():
        (tmp_path / name).write_bytes(content)
    named = f'"503" = "{tmp_path}/busy", 5xx = "{tmp_path}/error", "403" = "{tmp_path}/refused"'
    return f'maintenance_page = "{tmp_path}/down"\nerror_pages = {{ {named} }}\n'


async def switch(pop: Pop, *, on: bool) -> None:
    """Reload the POP with a.test in maintenance, or out of it."""
    text = pop.worker._settings.sites.text.replace("maintenance = true\n", "")
    if on:
        text = text.replace('name = "a"\n', 'name = "a"\nmaintenance = true\n')
    settings = load({**environment("http://127.0.0.1:1", ()), "EDGECACHE_SITES": text})
    await pop.worker.reload(replace(settings, listen=pop.worker._settings.listen))


QUESTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("GET", []),
    ("HEAD", []),
    ("POST", []),
    ("QUERY", []),
    ("GET", [("If-None-Match", '"1"')]),
    ("GET", [("Range", "bytes=0-0")]),
    ("GET", [("Cache-Control", "only-if-cached")]),
    ("GET", [("Cache-Control", "max-stale")]),
]


@pytest.mark.parametrize("age", [0, 70])
async def test_nothing_is_served_while_it_lasts(pages: str, age: int) -> None:
    """Neither fresh nor stale, to heads that are known too; afterwards what is stored is available again."""
    async with two_sites(pages) as (pop, a, _), pop.client() as client:
        fields = [("Cache-Control", "max-age=60, stale-while-revalidate=600, stale-if-error=600"), ("ETag", '"1"')]
        a.on("/p", Reply(fields=fields, body=b"stored"))
        for _ in range(4):
            await client.request("GET", "/p", [HOST])
            assert (await client.response()).body == b"stored"
        pop.clock.advance(age)
        await switch(pop, on=True)
        for method, more in QUESTIONS * 3:
            await client.request(method, "/p", [HOST, *more])
            response = await client.response(method)
            assert (response.status, response.get("retry-after")) == (503, "120"), (method, more)
            assert (response.get("cache-status"), response.get("age"), response.get("etag")) == (None, None, None)
            assert b"stored" not in response.body
        assert len(a.requests) == 1
        assert (await pop.get("/p", ("Host", "b.test"))).body == b"of b"
        await switch(pop, on=False)
        response = await pop.get("/p", HOST)
        assert response.body == b"stored"
        assert "hit" in (response.get("cache-status") or "")


async def test_its_page_is_for_browsers(pages: str) -> None:
    """Others get problem details; the page of maintenance precedes that of 503."""
    async with two_sites(pages) as (pop, _, _b):
        await switch(pop, on=True)
        for _ in range(4):
            page, problem = await pop.get("/", HOST, BROWSER), await pop.get("/", HOST)
            assert (page.status, page.body, page.get("content-type")) == (
                503,
                PAGES["down"],
                "text/html; charset=utf-8",
            )
            assert page.get("retry-after") == "120"
            assert problem.get("content-type") == "application/problem+json"
            assert b'"reason":"maintenance"' in problem.body


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER[1], True),
        ("TEXT/HTML", True),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("text/html;q=0.4, application/json;q=0.5", False),
        ("text/html;q=0", False),
        ("*/*", False),
        ("application/json", False),
        ("", False),
    ],
)
async def test_error_pages_by_accept(pages: str, accept: str, is_html: bool) -> None:
    """A code before its class; errors of the origin are passed on as they are."""
    rules = pages + '[[sites.rules]]\nname = "in"\nwhen = { path_prefix = "/in" }\naccess = { deny = ["127.0.0.1"] }\n'
    async with two_sites(rules) as (pop, a, _):
        more = [("Accept", accept)] if accept else []
        a.on("/own", Reply(503, body=b"of the origin"))
        assert (await pop.get("/own", HOST, *more)).body == b"of the origin"
        await a.stop()
        for target, status, page in (("/in/x", 403, "refused"), ("/gone", 502, "error")):
            for _ in range(3):
                response = await pop.get(target, HOST, *more)
                kind = "text/html; charset=utf-8" if is_html else "application/problem+json"
                assert (response.status, response.get("content-type")) == (status, kind)
                assert (response.body == PAGES[page]) is is_html
                head = await pop.request("HEAD", target, HOST, *more)
                assert (head.status, head.get("content-length"), head.body) == (
                    status,
                    response.get("content-length"),
                    b"",
                )
