"""Connections of the admin listener: limited in number and idle time, so that a health check always gets in.

aiohttp waits for ever for the first request of a connection, and accepts until there is no open file left.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

PATIENCE: Final = 10.0  # seconds that a connection may be open without a request under way
MOST: Final = 64  # connections without one; the one that is longest so makes room
SWEEP: Final = 1.0  # seconds
MOST_AT_ONCE: Final = 16  # connections accepted in one turn: asyncio takes the backlog for it
BACKLOG: Final = 1024  # connections that wait to be accepted
Connection = web.RequestHandler


class AdminConnections:
    """Connections of one application. Mutable state: idle connections, and since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # monotonic seconds
        self._make: Callable[[], Connection] | None = None
        self._idle: dict[Connection, float] = {}  # the longest first
        self._listening: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self, application: web.Application, listener: socket.socket) -> web.AppRunner:
        """Serve `application` on this socket; the runner, to be cleaned up at the end."""
        application.middlewares.insert(0, self.busy)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server is not None, "it is set up"
        self._make = runner.server
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self.accept, sock=listener, backlog=MOST_AT_ONCE)
        listener.listen(BACKLOG)
        self._sweep()
        return runner

    def close(self) -> None:
        """Stop accepting."""
        if self._listening is not None:
            self._listening.close()
        if self._timer is not None:
            self._timer.cancel()

    def accept(self) -> asyncio.Protocol:
        """Protocol factory."""
        assert self._make is not None, "it serves"
        if len(self._idle) >= MOST:
            self._forget_closed()
        if len(self._idle) >= MOST:
            made = (connection for connection in self._idle if connection.transport is not None)
            if (longest := next(made, None)) is not None:
                self._end(longest)
        connection = self._make()
        self._idle[connection] = self._clock()
        return connection

    def sweep(self, now: float) -> None:
        """Close connections that have been idle for too long; `now` in monotonic seconds."""
        for connection, since in tuple(self._idle.items()):
            if now - since > (PATIENCE if connection.transport is not None else SWEEP):
                self._end(connection)

    def _forget_closed(self) -> None:
        """Drop closed connections. One just accepted has no transport yet."""
        now = self._clock()
        for connection, since in tuple(self._idle.items()):
            if connection.transport is None and since < now:
                del self._idle[connection]

    def _end(self, connection: Connection) -> None:
        del self._idle[connection]
        if connection.transport is not None:
            connection.transport.abort()

    def _sweep(self) -> None:
        self.sweep(self._clock())
        self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    @web.middleware
    async def busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware: a connection with a request is not idle."""
        self._idle.pop(request.protocol, None)
        try:
            return await handler(request)
        finally:
            self._idle[request.protocol] = self._clock()
