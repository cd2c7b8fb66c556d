"""The log of a POP without a regional tier whose workers share a store: it lies in that store, beside what it is about.

    worker ──► `record`: one entry in the store ──► applied here ──► the supervisor relays it, as ever
    any read of the store ──► `catch_up`: no record is judged before all entries are applied

Entries are numbered. A record says how many had been applied when its response was requested: so what was stored before
an entry is judged by it in every worker, also in those that start later. Entries that are forgotten raise the floor: a
record from before them has to be validated. An entry that cannot be written makes the store unusable for good.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import count
from typing import Any, Final, Protocol

import orjson

from edgecache.invalidation.in_process_log import InProcessLog, Message, read_scopes, written_scopes
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.validity import Invalidation
from edgecache.tasks import spawn

log = logging.getLogger("edgecache")
TRIES: Final = 400
AGAIN: Final = 0.0025  # seconds, after which a store that another process was changing is tried again


class SharedEntries(Protocol):
    """The entries in the store (`storage/machine/purge_entry.py`)."""

    @property
    def last(self) -> int:
        """The number of the last one."""

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """Those after this one, as far as they are kept."""

    def append(self, identity: str, entry: bytes) -> bool:
        """Append one, unless it is there; False if another process is changing the store. Raises OSError."""

    def poison(self) -> None:
        """Let the store not be used any more."""


class MachineLog(InProcessLog):
    """A worker's end. Mutable state: the number of the last entry applied, beside that of its base."""

    def __init__(self, invalidation: Invalidation, entries: SharedEntries) -> None:
        super().__init__(invalidation)
        self._entries = entries
        self._name = f"{os.getpid()}.{os.urandom(4).hex()}"
        self._own = count(1)
        self._applied = self._offset = 0
        kept = entries.after(0)
        if kept:
            self._applied = self._offset = kept[0][0] - 1 - invalidation.log.position
        self._apply_all(kept)
        invalidation.shared = self

    async def record(self, draft: Draft) -> tuple[str, bool]:
        """Append `draft`, apply it here and in all other workers; its ID, and whether all have it in time."""
        identity = f"{self._name}.{next(self._own)}"
        await self._append(identity, orjson.dumps({"id": identity, **written_scopes(draft.scopes, draft.soft)}))
        return await self._tell_others(draft, identity)

    async def _append(self, identity: str, entry: bytes) -> None:
        for _ in range(TRIES):
            try:
                if self._entries.append(identity, entry):
                    break
            except OSError as error:
                self._give_up(entry, error)
                return
            await asyncio.sleep(AGAIN)
        else:
            self._give_up(entry, "other processes were changing it all the time")
            return
        self.catch_up()

    def _give_up(self, entry: bytes, why: object) -> None:
        log.warning("an invalidation could not be recorded in the machine's store, which is no longer used: %s", why)
        self._entries.poison()
        self._apply_one(entry)

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor."""
        match message:
            case {"log": "apply", "n": number, "id": str(identity)}:
                spawn(self._apply_and_say(number, identity, message), "an invalidation of another process")
            case _:
                super().receive(message)

    async def _apply_and_say(self, number: int, identity: str, message: Message) -> None:
        scopes, soft = read_scopes(message)
        await self._append(identity, orjson.dumps({"id": identity, **written_scopes(scopes, soft)}))
        if self.send is not None:
            self.send({"log": "applied", "n": number})

    # --- what is applied

    def catch_up(self) -> None:
        """Apply the entries that other processes have appended."""
        if self._entries.last != self._applied:
            self._apply_all(self._entries.after(self._applied))

    def _apply_all(self, entries: list[tuple[int, bytes]]) -> None:
        for number, entry in entries:
            self._apply_one(entry)
            self._applied = number

    def _apply_one(self, entry: bytes) -> None:
        message: dict[str, Any] = orjson.loads(entry)
        scopes, soft = read_scopes(message)
        self._invalidation.append(scopes, soft=soft)

    # --- what a record says

    def written(self, position: int) -> str:
        """The number of the last entry applied at `position`; empty if that is not known."""
        return str(position + self._offset) if position >= 0 else ""

    def position_of(self, seen: str) -> int | None:
        """The position in this process at which as many entries were applied; None if it is not known."""
        self.catch_up()
        position = int(seen) - self._offset if seen.isdecimal() else -1
        return min(position, self._invalidation.log.position) if position >= 0 else None
