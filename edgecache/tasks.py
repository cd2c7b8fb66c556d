"""Background tasks that are held until they end, so that none is collected mid-flight and no error is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("edgecache")
_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
    """Run `work` on the running loop and hold it; an exception that nobody awaits is logged once."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s failed: %r", task.get_name(), error, exc_info=error)
