"""The purge API of the admin listener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import StreamReader, web

from edgecache.invalidation.purge_auth import Caller, Credentials, PurgeRefused
from edgecache.proxy.purge_method import CHALLENGE
from edgecache.server.admin.fastly_api import FastlyApi
from edgecache.server.admin.purge_service import MOST_LISTED, PurgeService, parse_wait

LARGEST: Final = 1024 * 1024  # bytes of a purge
BODY_WITHIN: Final = 10.0  # seconds
Page = Callable[[web.Request, Caller], Awaitable[web.Response]]


class PurgeApi:
    """`POST /purges`, `GET /purges`, `GET /purges/{id}`, and Fastly's API; each requires a purge token."""

    def __init__(self, purges: PurgeService) -> None:
        self._service = purges

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/purges", self._guarded(self._purge))
        app.router.add_get("/purges", self._guarded(self._ledger))
        app.router.add_get("/purges/{id}", self._guarded(self._report))
        fastly = FastlyApi(self._service)
        app.router.add_post("/service/{service}/purge/{key}", self._guarded(with_content(fastly.key)))
        app.router.add_post("/service/{service}/purge", self._guarded(with_content(fastly.keys)))
        app.router.add_post("/service/{service}/purge_all", self._guarded(with_content(fastly.everything)))

    def _guarded(self, page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                given = Credentials(_said(request, "Authorization"), _said(request, "Fastly-Key"))
                caller = self._service.caller(given, request.remote or "", time.monotonic())
            except PurgeRefused as refused:  # already recorded
                return _problem(refused)
            try:
                return await page(request, caller)
            except PurgeRefused as refused:
                self._service.refused(refused, request.remote or "")
                return _problem(refused)

        return answer

    async def _purge(self, request: web.Request, caller: Caller) -> web.Response:
        if unknown := [name for name in request.query if name not in ("wait", "timeout")]:
            raise PurgeRefused(400, "purge-malformed", f"{unknown[0][:64]!r} is not one of wait, timeout")
        wait, within = parse_wait(request.query.get("wait", "none"), request.query.get("timeout", ""))
        body = await _body(request)
        status, answer = await self._service.purge(body, caller, request.remote or "", wait, within)
        return _json(answer, status, {"Location": f"/purges/{answer['id']}"})

    async def _ledger(self, request: web.Request, caller: Caller) -> web.Response:
        limit = request.query.get("limit", "50")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 9 or not 0 < int(limit) <= MOST_LISTED:
            raise PurgeRefused(400, "purge-malformed", f"limit is a number from 1 to {MOST_LISTED}")
        return _json({"purges": await self._service.ledger(int(limit), caller)})

    async def _report(self, request: web.Request, caller: Caller) -> web.Response:
        return _json(await self._service.report(request.match_info["id"], caller))


def with_content(page: Callable[[web.Request, Caller, bytes], Awaitable[web.Response]]) -> Page:
    """`page` with the request's content as an argument."""

    async def answer(request: web.Request, caller: Caller) -> web.Response:
        return await page(request, caller, await _body(request))

    return answer


def _said(request: web.Request, name: str) -> bytes | None:
    value = request.headers.get(name)
    return value.encode("utf-8", "surrogateescape") if value is not None else None


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > LARGEST:
        raise PurgeRefused(413, "purge-too-large", "a purge has at most 1 MiB: use a tag or a prefix")
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await _bounded(request.content)
    except TimeoutError:
        raise PurgeRefused(408, "purge-too-slow", "the purge took too long to arrive") from None


async def _bounded(content: StreamReader) -> bytes:
    body = b""
    async for piece in content.iter_any():
        body += piece
        if len(body) > LARGEST:
            raise PurgeRefused(413, "purge-too-large", "a purge has at most 1 MiB")
    return body


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def _problem(refused: PurgeRefused) -> web.Response:
    problem = {"status": refused.status, "title": "The purge was refused", "detail": str(refused)}
    headers = {"WWW-Authenticate": CHALLENGE.decode()} if refused.status == 401 else None
    body = orjson.dumps(problem | {"reason": refused.reason})
    return web.Response(body=body, status=refused.status, headers=headers, content_type="application/problem+json")
