"""The addresses of an upstream's name, asked again while it is in use: where connections go, and which leave."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from math import inf

from edgecache.config.addresses import Origin
from edgecache.tasks import spawn
from edgecache.wire.errors import OriginError

log = logging.getLogger("edgecache")
Addresses = list[tuple[int, tuple[object, ...]]]  # (family, socket address)


class Names:
    """Name to addresses, asked again after `ttl` seconds; while the resolver fails, the last good answer serves."""

    def __init__(self, host: str, port: int, ttl: float, clock: Callable[[], float]) -> None:
        self._host, self._port = host, port
        self._ttl = ttl
        self._is_address = is_address(host)
        self._clock = clock
        self._known: Addresses = []
        self._until = 0.0
        self._turn = 0
        self._asking = False
        self._failing = False

    async def addresses(self) -> Addresses:
        """Every address of the name, beginning with another one each time; raises `OriginError`."""
        if self._clock() >= self._until:
            await self._ask()
        self._turn = (self._turn + 1) % len(self._known)
        return self._known[self._turn :] + self._known[: self._turn]

    def fix(self, known: Addresses) -> None:
        """These are the addresses, for good."""
        self._known, self._until = known, inf

    def look(self) -> None:
        """Ask again if it is time; nobody waits for it."""
        if self._known and not self._asking and self._clock() >= self._until:
            self._asking = True
            spawn(self._ask(), "resolve the upstream's name")

    def is_gone(self, address: str) -> bool:
        """Whether the name has no such address any more."""
        return bool(self._known) and all(address != known[0] for _, known in self._known)

    async def _ask(self) -> None:
        try:
            found = await resolve(self._host, self._port)
        except OSError as error:
            if not self._known:
                raise OriginError("dns", "the upstream's name cannot be resolved") from error
            self._until = self._clock() + 1.0
            if not self._failing:
                log.warning("%s cannot be resolved (%s): its last addresses stay in use", self._host, error.strerror)
            self._failing = True
        else:
            self._learn(found)
        finally:
            self._asking = False

    def _learn(self, found: Addresses) -> None:
        if self._failing:
            log.info("%s is resolved again", self._host)
        before, after = ({str(address[0]) for _, address in known} for known in (self._known, found))
        if before and before != after:
            log.info("%s has moved from %s to %s", self._host, ", ".join(sorted(before)), ", ".join(sorted(after)))
        self._known, self._failing = found, False
        self._until = inf if self._is_address else self._clock() + self._ttl


def names_of(origin: Origin, ttl: float, clock: Callable[[], float]) -> Names:
    """The addresses of `origin`: of its name, or the only one of a Unix socket."""
    names = Names(origin.host, origin.port, ttl, clock)
    if origin.path:
        names.fix([(socket.AF_UNIX, (origin.path,))])
    return names


async def resolve(host: str, port: int) -> Addresses:
    """What the system's resolver says of a name; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, which no resolver has to be asked for."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
