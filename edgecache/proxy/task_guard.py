"""A bug fails one request, and is logged: it does not hang a client or end a worker."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edgecache.proxy.responses import reply_locally
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import local_reply


async def seen_through(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, which answers `exchange`; if it fails, answer with a 500, or cut what has begun, and raise."""
    try:
        await work
    except Exception:
        reply_locally(exchange, local_reply(500, "internal", "the request failed here"))
        raise
