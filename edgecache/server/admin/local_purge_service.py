"""Purges of a POP without a region's log: they go to its own workers, and are remembered while it lives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from typing import Final

from edgecache.config.settings import Settings
from edgecache.invalidation.in_process_log import InProcessLogHub
from edgecache.invalidation.ledger import display_name, visible_to
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_auth import Caller, PurgeRefused
from edgecache.server.admin.purge_service import Json, PurgeService
from edgecache.telemetry.metrics import Registry

REMEMBERED: Final = 1000  # purges


class LocalPurgeService(PurgeService):
    """Purges of a POP without a regional tier. Mutable state: recent purges."""

    def __init__(self, settings: Settings, registry: Registry, hub: InProcessLogHub) -> None:
        super().__init__(settings, registry)
        self._hub = hub
        self._numbers = count(1)
        self._ledger: deque[tuple[Draft, Json]] = deque(maxlen=REMEMBERED)

    async def _record(self, draft: Draft, wait: str, within: float) -> tuple[int, Json]:
        number = f"local:{next(self._numbers)}"
        done = await self._hub.apply(draft.scopes, soft=draft.soft)
        listed: Json = {
            "id": number,
            "kind": "purge",
            "by": draft.author,
            "soft": draft.soft,
            "names": [],
            "appended": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "complete": done,
        }
        self._ledger.appendleft((draft, listed))
        answer: Json = {"id": number, "soft": draft.soft, "state": "applied" if done else "recorded"}
        return (201, answer) if done else (202, answer | {"pending": [self._pop]})

    async def report(self, number: str, caller: Caller) -> Json:
        """The purge with this ID, and whether all workers have applied it. Raises `PurgeRefused` (404)."""
        for one in self._visible(caller):
            if one["id"] == number:
                return one
        raise PurgeRefused(404, "purge-unknown", "no purge with that ID is known")

    async def ledger(self, most: int, caller: Caller) -> list[Json]:
        """The last purges of the caller's sites, the newest first."""
        return list(islice(self._visible(caller), most))

    def _visible(self, caller: Caller) -> Iterator[Json]:
        for draft, listed in self._ledger:
            if named := visible_to(caller, draft.scopes):
                yield listed | {"names": [display_name(name, self._redact) for name in named]}
