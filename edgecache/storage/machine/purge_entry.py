"""The purge log of a POP without a region, as kept in the machine's store."""

from __future__ import annotations

import lmdb

from edgecache.storage.machine.store import Busy, MachineStore


class PurgeEntries:
    """Entries by number, each with the identity of what it came from."""

    def __init__(self, store: MachineStore) -> None:
        self._store = store

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self._store.head["log_head"]

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """Those after this one, as far as they are kept."""
        return self._store.entries_after(number)

    def append(self, identity: str, entry: bytes) -> bool:
        """Append one, unless it is there; False if another process is changing the store. Raises OSError."""
        mark = b'"id":"%b"' % identity.encode()
        try:
            self._store.record(entry, lambda other: mark in other)
        except Busy:
            return False
        except lmdb.Error as error:
            raise OSError(str(error)) from None
        return True

    def poison(self) -> None:
        """Let the store not be used any more."""
        self._store.poison()
