"""Bounds on the client connections of one worker, in all and by address."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from edgecache.config.settings import Settings
from edgecache.wire.errors import BadRequest

OWN_FILES: Final = 32  # open files beside connections: listening sockets, log, control socket, resolver, libraries
CROWDED: Final = 0.9  # of the bound: beyond it, idle connections are closed early


def fitted(settings: Settings, open_files: int) -> Settings:
    """The settings with connection bounds that fit into so many open files: the origin gets at most a quarter.

    A worker that keeps them never runs out of files, so accepting, the log and the origin go on working.
    """
    origin = min(settings.origin_connections, max(1, open_files // 4))
    room = max(1, open_files - OWN_FILES - origin)
    return replace(settings, origin_connections=origin, max_connections=min(settings.max_connections or room, room))


class Admission:
    """Counts open connections against the bounds. Mutable state: their number, in all and by address.

    An address is one of IPv4, or a /64 network of IPv6, which is what one customer gets.
    """

    def __init__(self, most: int, most_per_address: int, is_exempt: Callable[[str], bool]) -> None:
        self._most = most
        self._most_per_address = most_per_address  # 0 = no bound
        self._is_exempt = is_exempt  # from the bound per address: a proxy has many clients
        self.count = 0
        self.by_address: dict[bytes, int] = {}

    def tune(self, most: int, most_per_address: int, is_exempt: Callable[[str], bool], clients: Iterable[str]) -> None:
        """Replace the bounds; `clients` are the addresses of the open connections, as far as they are known."""
        if most_per_address and not self._most_per_address:
            self.by_address = dict(Counter(map(address_of, clients)))
        self._most, self._most_per_address, self._is_exempt = most, most_per_address, is_exempt

    def enter(self, client: str) -> BadRequest | None:
        """Admit one more connection from `client`, or return the refusal."""
        if self.count >= self._most:
            return BadRequest(503, "too-many-connections", "too many connections are open here")
        if self._most_per_address:
            address = address_of(client)
            count = self.by_address.get(address, 0)
            if count >= self._most_per_address and not self._is_exempt(client):
                return BadRequest(503, "too-many-from-address", "too many connections are open from that address")
            self.by_address[address] = count + 1
        self.count += 1
        return None

    def leave(self, client: str) -> None:
        """An admitted connection from `client` has ended."""
        self.count -= 1
        if self._most_per_address:
            address = address_of(client)
            count = self.by_address.get(address, 0) - 1
            if count > 0:
                self.by_address[address] = count
            else:
                self.by_address.pop(address, None)

    @property
    def crowded(self) -> bool:
        """Whether the bound is nearly reached."""
        return self.count > self._most * CROWDED

    def __repr__(self) -> str:
        return f"<Admission {self.count} of {self._most} connections>"


def address_of(client: str) -> bytes:
    """The part that counts as one address: all of IPv4, mapped into IPv6 or not, and the first half of IPv6."""
    if ":" not in client:
        return client.encode()
    try:
        packed = socket.inet_pton(socket.AF_INET6, client.partition("%")[0])
    except OSError:
        return client.encode()
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:]).encode()
    return packed[:8]
