"""Shares of sites in the machine's store: records of a site within its share stay when their turn comes to leave.

The logs evict in the order of arrival, so a record of such a site is carried over instead, as if it had been used.
A record says in its header to which share it belongs, and the bytes of each share in both logs are kept in the index.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Final

PARTS: Final = struct.Struct("<256Q")  # bytes of each share
NONE: Final = 0  # the part of what has no share
BASE: Final = 37  # bytes of a key that say what it is stored for; names of variants and chunks follow
MOST_KNOWN: Final = 65536  # URLs whose part is remembered


def part_number(site: str) -> int:
    """The number of a site's share, the same in all processes and after a restart; two may have one in common."""
    return 1 + blake2b(site.encode(), digest_size=8).digest()[0] % 255


class StoreShares:
    """The shares that one worker knows. Mutable state: which keys belong to which."""

    def __init__(self) -> None:
        self.most: dict[int, float] = {}  # by part: its share of the store
        self._site_of: Callable[[bytes], str] = lambda url: ""
        self._known: dict[bytes, int] = {}

    def set(self, shares: Iterable[tuple[str, float]], site_of: Callable[[bytes], str]) -> None:
        """Follow the sites: their names and shares, and the name of the site of a URL."""
        self.most.clear()
        self._known.clear()
        for name, share in shares:
            part = part_number(name)
            self.most[part] = self.most.get(part, 0.0) + share
        self._site_of = site_of

    def note(self, base: bytes, url: bytes) -> None:
        """Records whose keys begin with `base` are about to be stored for `url`."""
        if not self.most:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        name = self._site_of(url)
        self._known[base] = part_number(name) if name else NONE

    def part_of(self, key: bytes) -> int:
        """The part of a key; NONE if its site has no share, or is not known."""
        return self._known.get(key[:BASE], NONE) if self.most else NONE


class PartSizes:
    """Bytes of each share, as one change of the store counts them."""

    def __init__(self, packed: bytes, most: Mapping[int, float], room: int) -> None:
        self._sizes = list(PARTS.unpack(packed)) if len(packed) == PARTS.size else [0] * 256
        self._most = {part: int(share * room) for part, share in most.items()}
        self.changed = False

    def add(self, part: int, size: int) -> None:
        """Count `size` bytes more, or less."""
        if part:
            self._sizes[part] = max(0, self._sizes[part] + size)
            self.changed = True

    def is_within(self, part: int) -> bool:
        """Whether a site holds no more than its share."""
        return part in self._most and self._sizes[part] <= self._most[part]

    def scale(self, used: int) -> None:
        """Records were lost, nobody knows whose: all parts together have no more than `used` bytes."""
        total = sum(self._sizes)
        if total > used:
            self._sizes = [size * used // total for size in self._sizes]
            self.changed = True

    def packed(self) -> bytes:
        """As kept in the index."""
        return PARTS.pack(*self._sizes)
