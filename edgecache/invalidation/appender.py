"""Appending to the region's log, and waiting for members to apply the entries.

Entries that cannot be appended at once wait in the outbox and are retried while this process lives. If the outbox
overflows, the whole sites that its entries name are invalidated instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from edgecache.invalidation.log_entry import Draft, purge_id
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.scopes import EVERYTHING, whole_site
from edgecache.invalidation.stream_store import LogMember, LogStore
from edgecache.tasks import spawn
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import Commands
from edgecache.valkey.client import Command, Failure

log = logging.getLogger("edgecache")
APPEND_WITHIN: Final = 1.0  # seconds
RETRY: Final = 0.25  # seconds between two tries of what waits in the outbox
MOST_WAITING: Final = 10_000
POLL: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.03)  # seconds between checks of members
MOST_SITES: Final = 20_000  # that wait as a whole; beyond that, everything does
SITES_AT_ONCE: Final = 256  # of one entry
Recorded = Callable[[int], object]  # callback with the mark of an entry
OVERFLOW: Final = "outbox overflow"  # the author of what is invalidated instead


class LogAppender:
    """Appends to the log of one region. Mutable state: the outbox."""

    def __init__(
        self, store: LogStore, guard: Availability, region: str, known: Callable[[], int], peers: Mapping[str, LogStore]
    ) -> None:
        self.store = store
        self.region = region
        self._known = known  # the mark of the last entry of the region that was applied in this process
        self.peers = peers
        self._guard = guard
        self._commands = Commands(guard, "log appends")
        self.outbox: deque[Draft] = deque()
        self._told: dict[int, Recorded] = {}  # by the identity of a draft in the outbox: callback for its mark
        self._sender: asyncio.Task[None] | None = None

    async def append(self, draft: Draft) -> int:
        """The mark of the entry, once it is in the region's log; raises one of `Failure`."""
        return await self.store.append(self.region, draft, self._known(), self._ask)

    async def _ask(self, command: Command) -> Any:
        return await self._commands.execute(command, 256, within=APPEND_WITHIN)

    def append_later(self, draft: Draft, recorded: Recorded | None = None) -> None:
        """Append it as soon as the log can be reached, and call `recorded` with its mark."""
        if len(self.outbox) >= MOST_WAITING:
            self._coarsen()
        self.outbox.append(draft)
        if recorded is not None:
            self._told[id(draft)] = recorded
        if self._sender is None or self._sender.done():
            self._sender = spawn(self._send(), "outbox of the log")

    def _coarsen(self) -> None:
        """Replace the waiting entries by their whole sites."""
        sites = sorted({whole_site(scope) for draft in self.outbox for scope in draft.scopes})
        if len(sites) > MOST_SITES or EVERYTHING in sites:
            sites = [EVERYTHING]
        log.warning("too many invalidations wait for the log: whole sites are invalidated instead sites=%d", len(sites))
        groups = [tuple(sites[at : at + SITES_AT_ONCE]) for at in range(0, len(sites), SITES_AT_ONCE)]
        told = tuple(self._told.values())
        self._told.clear()
        self.outbox = deque([Draft(EntryKind.PURGE, group, author=OVERFLOW) for group in groups])
        if self.outbox:
            self._told[id(self.outbox[-1])] = lambda mark: [one(mark) for one in told]

    async def _send(self) -> None:
        while self.outbox:
            draft = self.outbox[0]
            try:
                mark = await self.append(draft)
            except Failure:
                await asyncio.sleep(RETRY)
                continue
            if self.outbox and self.outbox[0] is draft:
                self.outbox.popleft()
                self._told.pop(id(draft), _nobody)(mark)

    async def record(self, draft: Draft) -> tuple[str, bool]:
        """Record the entry; its public ID. Raises one of `Failure`."""
        return purge_id(self.region, await self.append(draft)), True

    # --- progress of members

    async def applied_by(self, region: str, mark: int, everywhere: bool, within: float) -> tuple[bool, list[str]]:
        """Whether all workers have applied the entry of `region` in time, and those that have not or are unreachable.

        All that follow in this region, or `everywhere`.
        """
        until = asyncio.get_running_loop().time() + within
        stores = {self.region: self.store, **(self.peers if everywhere else {})}
        for pause in _pauses():
            late = await asyncio.gather(*(_late(name, store, region, mark) for name, store in stores.items()))
            pending = [name for names in late for name in names]
            if not pending:
                return True, []
            if asyncio.get_running_loop().time() + pause >= until:
                break
            await asyncio.sleep(pause)
        return False, pending

    async def members(self) -> dict[str, list[LogMember] | None]:
        """Members by region; None if unreachable."""
        stores = {self.region: self.store, **self.peers}
        found = await asyncio.gather(*(store.members() for store in stores.values()), return_exceptions=True)
        return {
            name: None if isinstance(members, BaseException) else members
            for name, members in zip(stores, found, strict=True)
        }

    async def close(self) -> None:
        """Close, after one last attempt to append the outbox."""
        if self._sender is not None and not self._sender.done():
            await asyncio.wait((self._sender,), timeout=0.2)
            self._sender.cancel()
        if self.outbox:
            log.warning("invalidations were not recorded: the log cannot be reached count=%d", len(self.outbox))
        await self._commands.close()
        await self._guard.close()
        for store in (self.store, *self.peers.values()):
            await store.link.close()


def _pauses() -> Sequence[float]:
    return [*POLL, *[POLL[-1]] * 2000]


async def _late(name: str, store: LogStore, region: str, mark: int) -> list[str]:
    """Members of a region that lag; the region itself if unreachable."""
    try:
        members = await store.members()
    except (*Failure, ResponseError):
        return [f"{name} (unreachable)"]
    return [f"{name}/{member.name}" for member in members if member.vector[region] < mark]


def _nobody(mark: int) -> None:
    """Ignore the mark."""
