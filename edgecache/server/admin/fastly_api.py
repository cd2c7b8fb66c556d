"""Fastly's purge API on the admin listener, as its clients call it; a service is all that the caller may purge.

    POST /service/ID/purge/KEY      one surrogate key
    POST /service/ID/purge          the keys in `Surrogate-Key`, or in {"surrogate_keys": […]}
    POST /service/ID/purge_all      everything

`Fastly-Soft-Purge: 1` makes it soft. 200 once it is recorded and 202 while a worker has not applied it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from aiohttp import web

from edgecache.invalidation.purge_auth import Caller
from edgecache.invalidation.purge_request import (
    MOST_NAMED,
    all_sites_of,
    malformed,
    purge_of,
    refuse_repeated_names,
    tag_scopes,
)
from edgecache.server.admin.purge_service import PurgeService

OK: Final = {201: 200}  # Fastly's clients take nothing else for done


class FastlyApi:
    """Fastly's purge API; callers are authenticated already."""

    def __init__(self, purges: PurgeService) -> None:
        self._service = purges

    async def key(self, request: web.Request, caller: Caller, content: bytes) -> web.Response:
        """Purge by one key."""
        _refuse_content(content)
        status, number = await self._purge(request, caller, [request.match_info["key"]])
        return _json({"status": "ok", "id": number}, status)

    async def keys(self, request: web.Request, caller: Caller, content: bytes) -> web.Response:
        """Purge by several keys, in one entry of the log."""
        keys = request.headers.get("Surrogate-Key", "").split() + _listed(content)
        if len(keys) > MOST_NAMED:
            raise malformed(f"the purge names more than {MOST_NAMED} keys")
        status, number = await self._purge(request, caller, keys)
        return _json(dict.fromkeys(keys, number), status)

    async def everything(self, request: web.Request, caller: Caller, content: bytes) -> web.Response:
        """Purge all of the caller's sites."""
        _refuse_content(content)
        purge = purge_of(all_sites_of(caller), soft=_is_soft(request))
        status, _ = await self._service.record_purge(purge, caller, request.remote or "")
        return _json({"status": "ok"}, OK.get(status, status))

    async def _purge(self, request: web.Request, caller: Caller, keys: list[str]) -> tuple[int, str]:
        named = [scope for key in keys for scope in tag_scopes(key.encode("utf-8", "surrogateescape"), caller)]
        status, answer = await self._service.record_purge(
            purge_of(named, soft=_is_soft(request)), caller, request.remote or ""
        )
        return OK.get(status, status), answer["id"]


def _is_soft(request: web.Request) -> bool:
    return request.headers.get("Fastly-Soft-Purge", "").strip() == "1"


def _listed(content: bytes) -> list[str]:
    """The keys in the content of a batch; raises `PurgeRefused` (400)."""
    if not content.strip():
        return []
    try:
        value: Any = orjson.loads(content)
    except ValueError:
        raise malformed("the content is not JSON") from None
    keys = value.get("surrogate_keys", []) if isinstance(value, dict) and value.keys() <= {"surrogate_keys"} else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise malformed('the content is not {"surrogate_keys": [...]}')
    refuse_repeated_names(content)
    return keys


def _refuse_content(content: bytes) -> None:
    """Refuse content, which would be ignored."""
    if content.strip() not in (b"", b"{}"):
        raise malformed("the URL alone names what is purged: POST content to /service/ID/purge")


def _json(value: Any, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
