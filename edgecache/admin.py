"""The admin listener: health, readiness and metrics, served by the supervisor on its own address.

Everything but health and readiness asks for the admin token, if one is set. More pages are added to `PAGES`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edgecache.purge_desk import Desk
from edgecache.purge_method import Attempts
from edgecache.purge_pages import PurgePages
from edgecache.rules.purge_request import PurgeRefused

OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # what an orchestrator asks, without secrets
METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether new clients are welcome, and the state of each part."""

    state: Literal["starting", "ready", "draining"]
    parts: Mapping[str, str]


class Pop(Protocol):
    """What the admin pages ask of the supervisor."""

    def readiness(self) -> Readiness:
        """The state of the POP and its parts now."""

    async def metrics(self) -> bytes:
        """All metrics in Prometheus text format."""


class Pages:
    """The admin pages of one POP."""

    def __init__(self, pop: Pop) -> None:
        self._pop = pop

    async def health(self, request: web.Request) -> web.Response:
        """200 while the supervisor lives."""
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        """200 with the state of each part if new clients are welcome, else 503."""
        readiness = self._pop.readiness()
        body = {"state": readiness.state, "parts": dict(readiness.parts)}
        return web.json_response(body, status=200 if readiness.state == "ready" else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics of all workers, dead ones included."""
        return web.Response(body=await self._pop.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def index(self, request: web.Request) -> web.Response:
        """What there is to see."""
        pages = {path: words for path, (_, words) in PAGES.items()}
        pages["/purges"] = "what is purged: POST to purge, GET for the ledger, GET /purges/ID for one"
        lines = (f"{path:<10}{words}\n" for path, words in pages.items())
        return web.Response(text="edgecache\n\n" + "".join(lines))


Page = Callable[[Pages, web.Request], Awaitable[web.Response]]
PAGES: Mapping[str, tuple[Page, str]] = {
    "/": (Pages.index, "this list"),
    "/healthz": (Pages.health, "200 while the POP lives"),
    "/readyz": (Pages.ready, "200 while every worker is ready and none drains"),
    "/metrics": (Pages.metrics, "Prometheus metrics of all workers"),
}


def application(pop: Pop, token: str, desk: Desk | None = None) -> web.Application:
    """The admin application; `token` empty leaves every page open but those of purges, which `desk` takes."""
    app = web.Application(middlewares=[_ask_for(token)] if token else [])
    pages = Pages(pop)
    for path, (page, _) in PAGES.items():
        app.router.add_get(path, _bound(page, pages))
    if desk is not None:
        PurgePages(desk).add_to(app)
    return app


def _bound(page: Page, pages: Pages) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return await page(pages, request)

    return answer


def _ask_for(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()
    attempts = Attempts()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        own = request.path == "/purges" or request.path.startswith("/purges/")  # these ask for a token themselves
        if own or request.path in OPEN_PATHS:
            return await handler(request)
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        address, now = request.remote or "", time.monotonic()
        try:
            attempts.refuse_if_many(address, now)
        except PurgeRefused as refused:
            return _problem(refused.status, str(refused))
        if hmac.compare_digest(given, expected):
            return await handler(request)
        if given:  # who brings none does not guess
            attempts.failed(address, now)
        return _problem(401, "The admin token is required", {"WWW-Authenticate": "Bearer"})

    return check


def _problem(status: int, title: str, headers: Mapping[str, str] | None = None) -> web.Response:
    problem = {"title": title, "status": status}
    return web.json_response(problem, status=status, headers=headers, content_type="application/problem+json")
