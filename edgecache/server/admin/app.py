"""The admin listener: health, readiness and metrics, served by the supervisor on its own address.

Everything but health and readiness requires the admin token, if one is set. Further pages belong into `PAGES`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edgecache.invalidation.purge_auth import FailedAttempts, PurgeRefused
from edgecache.server.admin.allowed_hosts import is_own_host
from edgecache.server.admin.purge_api import PurgeApi
from edgecache.server.admin.purge_service import PurgeService

OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # for orchestrators, without a token
GUARDED = ("/purges/", "/service/")  # pages that require a purge token
METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Readiness for new clients, and the state of each part."""

    state: Literal["starting", "ready", "draining"]
    parts: Mapping[str, str]


class Pop(Protocol):
    """The supervisor's interface for the admin pages."""

    def readiness(self) -> Readiness:
        """The state of the POP and its parts now."""

    async def metrics(self) -> bytes:
        """All metrics in Prometheus text format."""


class Pages:
    """The admin pages of one POP."""

    def __init__(self, pop: Pop, names: Collection[str]) -> None:
        self._pop = pop
        self._names = names  # of this machine, in lower case

    async def health(self, request: web.Request) -> web.Response:
        """200 while the supervisor lives."""
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        """200 if ready, else 503; with the state of each part for requests to the machine's own names."""
        readiness = self._pop.readiness()
        body: dict[str, object] = {"state": readiness.state}
        if is_own_host(request.headers.get("Host"), self._names):
            body["parts"] = dict(readiness.parts)
        return web.json_response(body, status=200 if readiness.state == "ready" else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Metrics of all workers, including ended ones."""
        return web.Response(body=await self._pop.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def index(self, request: web.Request) -> web.Response:
        """Index of the pages."""
        pages = {path: words for path, (_, words) in PAGES.items()}
        pages["/purges"] = "what is purged: POST to purge, GET for the ledger, GET /purges/ID for one"
        pages["/service"] = "the same as Fastly: POST /service/ID/purge/KEY, /purge, /purge_all"
        lines = (f"{path:<10}{words}\n" for path, words in pages.items())
        return web.Response(text="edgecache\n\n" + "".join(lines))


Page = Callable[[Pages, web.Request], Awaitable[web.Response]]
PAGES: Mapping[str, tuple[Page, str]] = {
    "/": (Pages.index, "this list"),
    "/healthz": (Pages.health, "200 while the POP lives"),
    "/readyz": (Pages.ready, "200 while every worker is ready and none drains"),
    "/metrics": (Pages.metrics, "Prometheus metrics of all workers"),
}


def application(
    pop: Pop, token: str, purges: PurgeService | None = None, names: Collection[str] = ()
) -> web.Application:
    """The admin application; an empty `token` leaves all pages open but those of purges, which `purges` handles.

    Without a token, `names` of this machine, its addresses and localhost are the only hosts that are answered.
    """
    app = web.Application(middlewares=[_ask_for(token) if token else _as_own(names)])
    pages = Pages(pop, names)
    for path, (page, _) in PAGES.items():
        app.router.add_get(path, _bound(page, pages))
    if purges is not None:
        PurgeApi(purges).add_to(app)
    return app


def _bound(page: Page, pages: Pages) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return await page(pages, request)

    return answer


def _ask_for(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()
    attempts = FailedAttempts()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_open(request):
            return await handler(request)
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, expected):
            return await handler(request)
        if given:  # no token is no guess
            try:
                attempts.record(request.remote or "", time.monotonic())
            except PurgeRefused as refused:
                return _problem(refused.status, str(refused))
        return _problem(401, "The admin token is required", {"WWW-Authenticate": "Bearer"})

    return check


def _as_own(names: Collection[str]) -> Middleware:
    """Refuse hosts that are not the machine's own (DNS rebinding)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_open(request) or is_own_host(request.headers.get("Host"), names):
            return await handler(request)
        return _problem(421, "Without EDGECACHE_ADMIN_TOKEN, ask by an address, localhost or this machine's own name")

    return check


def _is_open(request: web.Request) -> bool:
    """Whether the page needs no admin token, or requires a purge token."""
    return request.path in OPEN_PATHS or f"{request.path}/".startswith(GUARDED)


def _problem(status: int, title: str, headers: Mapping[str, str] | None = None) -> web.Response:
    problem = {"title": title, "status": status}
    return web.json_response(problem, status=status, headers=headers, content_type="application/problem+json")
