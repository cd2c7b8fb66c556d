"""A POP copies the logs that lie in another region's Valkey into its own, each entry with its own ID.

Any number of copiers may copy the same log: the server refuses what it has. What the other Valkey holds of third
regions is copied as well, so that regions need no full mesh. Entries come twice: pushed, which costs one way of the
network, and read in their order, which misses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from edgecache.invalidation import version_vector
from edgecache.invalidation.log_entry import encode_id
from edgecache.invalidation.stream_store import LogStore
from edgecache.valkey.client import Failure, is_refused

log = logging.getLogger("edgecache.supervisor")
WAIT: Final = 0.2  # seconds that a read waits for an entry
LOOK_EVERY: Final = 0.25  # seconds between two checks of the peer's logs
RECONNECT: Final = 0.1  # seconds
MOST_AT_ONCE: Final = 500  # entries of each log
BEGINNING: Final = b"0-0"
UNREACHABLE: Final = "unreachable"
REFUSED: Final = "credentials refused"
Part = Callable[[LogStore, LogStore], Awaitable[None]]


class LogReplicator:
    """Replicates logs from the Valkey of `peer` into that of `region`. Mutable state: read positions."""

    def __init__(
        self,
        home: Callable[[], LogStore],
        source: Callable[[], LogStore],
        *,
        region: str,
        peer: str,
    ) -> None:
        self._make_home = home
        self._make_source = source
        self._region = region
        self.peer = peer
        self._after: dict[str, bytes] = {}
        self._beats: dict[str, bytes] = {}
        self._known = asyncio.Event()
        self._over = False
        self._stores: set[LogStore] = set()
        self.copied = 0  # entries that were new
        self.connected = False
        self.trouble = ""  # why it cannot be copied: unreachable, or refused

    async def run(self) -> None:
        """Replicate until stopped. Each part has its own connections, and restarts by itself when they fail."""
        async with asyncio.TaskGroup() as tasks:
            for part in (self._look, self._read, self._take_pushes):
                tasks.create_task(self._again_and_again(part))

    async def _again_and_again(self, part: Part) -> None:
        while not self._over:
            home, source = stores = self._make_home(), self._make_source()
            self._stores |= {*stores}
            try:
                await part(home, source)
            except Failure as error:
                if part == self._look:
                    log.debug("the log of %s cannot be looked at: %r", self.peer, error)
                    self.connected = False
                    self.trouble = REFUSED if is_refused(error) else UNREACHABLE
            except Exception:
                log.exception("a bug: the log of %s could not be copied, and will be", self.peer)
            finally:
                for store in stores:
                    self._stores.discard(store)
                    await _closed(store)
            await asyncio.sleep(RECONNECT)

    async def stop(self) -> None:
        """Stop: connections with pending commands are closed."""
        self._over = True  # a command may swallow the cancellation of its task
        for store in tuple(self._stores):
            await _closed(store)

    async def _look(self, home: LogStore, source: LogStore) -> None:
        """Find the read positions, and whether the peer's log has lost copied entries."""
        while not self._over:
            await source.link.refuse_orphaned_replica()
            regions = sorted({self.peer, *await source.regions()} - {self._region})
            there, beats = await asyncio.gather(source.last_marks(regions), source.contacts())
            here = await home.last_marks(regions)
            if there[self.peer] < here[self.peer] and _same_log(there[self.peer], here[self.peer]):
                log.warning("the log of %s has fewer entries than its local copy: it is started anew", self.peer)
                await source.reopen(self.peer, here[self.peer])
            for region in regions:
                self._note(region, there[region], here[region])
            self._known.set()
            if not self.connected:
                log.info("copying the log of %s", self.peer)
            self.connected, self.trouble = True, ""
            await home.record_contact(self._heard(beats))
            await asyncio.sleep(LOOK_EVERY)

    def _note(self, region: str, there: int, here: int) -> None:
        """Where to read a log on: after what is here, or from its beginning if it is another log than that."""
        same = version_vector.incarnation_of(there) == version_vector.incarnation_of(here)
        self._after[region] = encode_id(here) if here and same else BEGINNING

    def _heard(self, beats: dict[str, bytes]) -> list[str]:
        """The peer, and regions with contact to it since the last check."""
        heard = [name for name, beat in beats.items() if beat != self._beats.get(name) and name != self._region]
        self._beats = beats
        return sorted({self.peer, *heard})

    async def _read(self, home: LogStore, source: LogStore) -> None:
        await self._known.wait()
        while not self._over:
            for region, rows in (await source.read(self._after, WAIT, MOST_AT_ONCE)).items():
                self.copied += await home.copy(region, rows)
                self._after[region] = rows[-1][0]

    async def _take_pushes(self, home: LogStore, source: LogStore) -> None:
        await self._known.wait()
        async for region, row in source.subscribe():
            if self._over:
                return
            if region == self.peer:
                self.copied += await home.copy(region, [row], pushed=True)


def _same_log(one: int, other: int) -> bool:
    """Whether a log holds less than a copy of it although it did not begin anew."""
    return version_vector.count_of(version_vector.incarnation_of(one)) <= version_vector.count_of(
        version_vector.incarnation_of(other)
    )


async def _closed(store: LogStore) -> None:
    with contextlib.suppress(*Failure):
        await asyncio.wait_for(store.link.close(), 0.5)
