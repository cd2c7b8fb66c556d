"""A bug costs one request, and is logged: it hangs no client, and ends no worker."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edgecache.proxy import responses
from edgecache.semantics.outcomes import Result
from edgecache.wire.exchange import Exchange


async def seen_through(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, which answers `exchange`; if it fails, answer with a 500, or cut what has begun, and raise."""
    try:
        await work
    except Exception:
        answer = responses.of_ours(500, "internal", "the request failed here")
        exchange.result, exchange.failure = Result.ERROR, answer.failure
        exchange.reply(answer.status, answer.head, b"" if exchange.request.method == b"HEAD" else answer.content)
        raise
