"""The demo origin: a small web service that shows hits, stale responses and uncacheable ones.

Its pages are fresh for the POP only (CDN-Cache-Control, RFC 9213), so that browsers request them each time.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

PAGES = {
    "/": "a page with style, script and picture, each fresh for 60 s",
    "/time": "the origin's clock, fresh for 5 s, then stale while it is asked again",
    "/private": "no-store: always from the origin",
    "/slow": "takes the origin 2 s, then fresh for 60 s",
}
SLOW = 2.0  # seconds
ASSETS = {
    "/style.css": (
        "text/css",
        "body{font:16px/1.5 system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#223}"
        "td{padding:.2rem 1rem .2rem 0}code{background:#eef;padding:.1rem .3rem}",
    ),
    "/look.js": (
        "text/javascript",
        "document.querySelectorAll('tr[data-path]').forEach(async row=>{"
        "const began=performance.now();const answer=await fetch(row.dataset.path);"
        "const text=await answer.text();"
        "row.cells[1].textContent=Math.round(performance.now()-began)+' ms';"
        "row.cells[2].textContent=answer.headers.get('Cache-Status')||'no Cache-Status: the origin itself?'});",
    ),
    "/logo.svg": (
        "image/svg+xml",
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle cx="32" cy="32" r="30" '
        'fill="#35c"/><path d="M14 32h36M32 14v36" stroke="#fff" stroke-width="6"/></svg>',
    ),
}


@asynccontextmanager
async def serving(listener: socket.socket) -> AsyncIterator[None]:
    """Serve the demo on a listening socket for as long as the context lasts."""
    runner = web.AppRunner(application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


def application(clock: Callable[[], float] = time.time) -> web.Application:
    """The demo's pages; `clock` gives seconds since 1970."""
    app = web.Application()
    origin = _Demo(clock)
    app.router.add_get("/", origin.home)
    app.router.add_get("/time", origin.time)
    app.router.add_get("/private", origin.private)
    app.router.add_get("/slow", origin.slow)
    for path, (kind, text) in ASSETS.items():
        app.router.add_get(path, _asset(kind, text))
    return app


class _Demo:
    """The pages; `_answered` counts responses, so that a page shows whether the origin was reached."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answered = 0

    async def home(self, request: web.Request) -> web.Response:
        rows = "".join(
            f'<tr data-path="{path}"><td><a href="{path}">{path}</a></td><td></td><td></td><td>{meaning}</td></tr>'
            for path, meaning in PAGES.items()
        )
        body = (
            "<p>This page comes through edgecache. It has just asked for each page below, as any visitor would: "
            "reload, and see which are answered without the origin.</p>"
            "<table><tr><th>page</th><th>took</th><th>Cache-Status</th><th></th></tr>"
            f"{rows}</table><script src='/look.js'></script>"
        )
        return self._page(body, "max-age=60")

    async def time(self, request: web.Request) -> web.Response:
        now = time.strftime("%H:%M:%S", time.gmtime(self._clock()))
        return self._page(f"<p>At the origin it was {now} UTC.</p>", "max-age=5, stale-while-revalidate=30")

    async def private(self, request: web.Request) -> web.Response:
        return self._page("<p>Only for you: <code>no-store</code>.</p>", "no-store")

    async def slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(SLOW)
        return self._page(f"<p>This took the origin {SLOW:g} s.</p>", "max-age=60")

    def _page(self, body: str, for_the_pop: str) -> web.Response:
        self._answered += 1
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>edgecache demo</title>'
            '<link rel="stylesheet" href="/style.css"><h1><img src="/logo.svg" alt=""> edgecache demo</h1>'
            f"{body}<p>Page number {self._answered} that the origin made.</p></html>\n"
        )
        for_browsers = "private, no-store" if for_the_pop == "no-store" else "max-age=0"
        headers = {"Cache-Control": for_browsers, "CDN-Cache-Control": for_the_pop}
        return web.Response(text=text, content_type="text/html", headers=headers)


def _asset(kind: str, text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "max-age=60"})

    return answer
