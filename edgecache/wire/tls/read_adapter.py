"""What a connection over TLS reads into: one buffer for all of a worker's.

An event loop reads for an `asyncio.Protocol` into bytes of the largest size of a read, new for each: with 256 KiB that
is a mapping of its own, so that each request would cost three system calls and two page faults.
"""

from __future__ import annotations

import asyncio
from typing import Final

READ_AT_ONCE: Final = 64 * 1024  # bytes: four records of TLS
ENDED: Final = asyncio.Protocol()


class ReadAdapter(asyncio.BufferedProtocol):
    """Hands what is read into `buffer` to `protocol`, which may be any; all else passes through.

    The buffer may be shared: what was read is copied out before anything else is read.
    """

    __slots__ = ("_buffer", "_protocol", "_receive")

    def __init__(self, protocol: asyncio.Protocol, buffer: memoryview) -> None:
        self._protocol = protocol
        self._receive = protocol.data_received
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read into, and how much at once."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read."""
        self._receive(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended: the event loop keeps this adapter, but no cycle that only a collection frees."""
        protocol, self._protocol, self._receive = self._protocol, ENDED, ENDED.data_received
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._protocol.resume_writing()
