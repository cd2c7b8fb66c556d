"""Renewal of the connections to a Valkey: at a greatest age, and when its name has lost an address that it had."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakSet

from redis.asyncio.connection import ConnectionPool

from edgecache.semantics.client_address import parsed_address
from edgecache.tasks import spawn

log = logging.getLogger("edgecache")
CHECK_EVERY: Final = 5.0  # seconds, at least, between two resolutions of the name


class ConnectionRefresh:
    """When to renew the connections, checked while traffic flows.

    Mutable state: the name's last addresses, and the time since which the connections may exist.
    """

    def __init__(
        self,
        place: tuple[str, int] | None,
        ttl: float,
        age: float,
        renew: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = None if place is None or parsed_address(place[0]) is not None else place
        self._interval = max(CHECK_EVERY, ttl) if self._place is not None else age
        self._age = age  # seconds
        self._renew = renew
        self._clock = clock
        self._since = clock()
        self._next = 0.0 if self._place is not None else self._since + age
        self._known: frozenset[str] = frozenset()

    def check(self) -> None:
        """Check in the background, if it is time."""
        now = self._clock()
        if now >= self._next:
            self._next = now + min(self._interval, self._age)
            spawn(self._check(now), "check the connections to the regional tier")

    async def _check(self, now: float) -> None:
        if await self._has_moved() or now - self._since >= self._age:
            self._since = now
            await self._renew()

    async def _has_moved(self) -> bool:
        """Whether the name has lost an address; while the resolver fails it has not."""
        if self._place is None:
            return False
        try:
            found = await resolve(*self._place)
        except OSError:
            return False
        before, self._known = self._known, found
        if before <= self._known:
            return False
        log.info(
            "%s has moved from %s to %s", self._place[0], *(", ".join(sorted(one)) for one in (before, self._known))
        )
        return True


async def resolve(host: str, port: int) -> frozenset[str]:
    """The addresses of a name; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]) for *_, address in found)


async def renew_idle(pool: ConnectionPool, marked: WeakSet[Any]) -> None:
    """Close the idle connections of a pool, and the others once they are given back.

    A connection that was in use the last time as well waits for messages: it is never given back, and is closed.
    """
    for connection in tuple(pool._available_connections):
        await connection.disconnect(nowait=True)
    in_use = tuple(pool._in_use_connections)
    for connection in in_use:
        writer = connection._writer
        if writer is not None and writer in marked:
            writer.close()
        elif writer is not None:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
            marked.add(writer)
