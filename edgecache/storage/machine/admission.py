"""Admission to the machine's store: a large body that would evict others is stored when it is fetched again.

So a crawl over large files evicts little, and a large file that is requested twice is stored.
"""

from __future__ import annotations

from typing import Final

from edgecache.storage.machine.store import MachineStore, digest_of

ALWAYS: Final = 16  # a body up to this share of the store is always taken
LARGEST: Final = 4  # and none above this one


def largest_body(store: MachineStore) -> int:
    """Bytes of the largest body that is taken."""
    return store.shape.total // LARGEST


class Admission:
    """Decides on one body, once."""

    __slots__ = ("_admitted", "_base", "_store")

    def __init__(self, store: MachineStore, base: bytes) -> None:
        self._store = store
        self._base = base
        self._admitted: bool | None = None

    def __call__(self, size: int) -> bool:
        """Whether a body of this length, or more, may be stored."""
        if size * ALWAYS <= self._store.shape.total:
            return True
        if self._admitted is None:
            self._admitted = size <= self._store.room() or self._store.head.was_refused(digest_of(self._base))
        return self._admitted


def announce(store: MachineStore, base: bytes, url: bytes) -> Admission:
    """Something is about to be stored for `url`, under `base`."""
    store.shares.note(base, url)
    return Admission(store, base)
