"""A tunnel (RFC 9110 §7.8): an exchange that has switched protocols, joined to its origin byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgecache.wire.exchange import Exchange
    from edgecache.wire.upstream_connection import UpstreamConnection


class Client(Protocol):
    """The connection of a tunnel to its client."""

    transport: asyncio.Transport
    writable: bool

    def become_tunnel(self, receive: Callable[[bytes], None], on_room: Callable[[], None]) -> None:
        """Leave HTTP: `receive` gets all further bytes; `on_room` is called when there is room again."""

    def moved(self) -> None:
        """Bytes have gone through."""


class _TunnelEnd:
    """What is to be cancelled when the client of a tunnel leaves."""

    def __init__(self, origin: UpstreamConnection) -> None:
        self._origin = origin

    def cancel(self) -> None:
        """Let what the client sent arrive, then end."""
        self._origin.end_tunnel()


def join(client: Client, origin: UpstreamConnection, exchange: Exchange) -> None:
    """Bytes from either side go to the other, as fast as it takes them, until one of them ends."""

    def from_origin(data: bytes | None) -> None:
        if data is None:
            client.transport.close()
        elif not client.transport.is_closing():
            client.transport.write(data)
            client.moved()
            exchange.bytes_out += len(data)
            if not client.writable:
                origin.transport.pause_reading()

    def from_client(data: bytes) -> None:
        if not origin.transport.is_closing():
            origin.transport.write(data)
            if not origin.writable:
                client.transport.pause_reading()

    exchange.upstream_call = _TunnelEnd(origin)
    client.become_tunnel(from_client, partial(resume_reading, origin))
    origin.become_tunnel(from_origin, partial(resume_reading, client))


def resume_reading(side: Client | UpstreamConnection) -> None:
    """The other side of a tunnel can take more."""
    if not side.transport.is_closing():
        side.transport.resume_reading()
