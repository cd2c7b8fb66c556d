"""The way to the origin: a pool of keep-alive connections, with a bound on how many and on how long one waits."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from edgecache.tasks import spawn
from edgecache.upstream.pool_options import PoolOptions
from edgecache.upstream.resolver import names_of
from edgecache.wire.errors import OriginBusy, OriginError, OriginTimeout
from edgecache.wire.tls.contexts import ClientTls
from edgecache.wire.upstream_connection import ProtocolFactory, UpstreamConnection
from edgecache.wire.upstream_request import UpstreamCall

log = logging.getLogger("edgecache")
JUST_USED: Final = 0.02  # seconds since the last request, in which no server takes a connection for idle
HELD_BACK: Final = 2.0  # seconds that readers may take nothing of an answer while others wait for its connection


class OriginPool:
    """Connections to one origin. Mutable state: the idle ones, the open ones, and the requests that wait for one.

    A request waits in line when `origin_connections` are busy; the line is bounded in length and in time. Clients that
    send a body slowly get half of the connections at most and wait in a line of their own, and an answer whose readers
    take nothing of it is cut short when others wait: neither keeps everybody from the origin.
    `failed` is told the reason, a fixed word, whenever the origin lets us down.
    """

    def __init__(
        self,
        options: PoolOptions,
        protocol: ProtocolFactory,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.options = options
        self.clock = clock
        self.failed = failed
        self.origin_text = str(options.origin)  # for the log
        self.first_byte_timeout = options.first_byte_timeout
        self.between_bytes_timeout = options.between_bytes_timeout
        self.tunnel_timeout = options.tunnel_timeout
        self.min_rate = options.min_rate
        self._new = protocol(options.responses)
        self._most = options.connections
        self._names = names_of(options.origin, options.dns_ttl, clock)
        self._tls = client_tls(options) if options.origin.scheme == "https" else None
        self._idle: list[UpstreamConnection] = []  # the one used last is used next, so that the others may expire
        self._open: set[UpstreamConnection] = set()
        self._connecting = 0
        self.asked = 0  # requests ever, those asked again included
        self.repeated = 0  # requests that met a connection's end, and were asked again
        self.fastest = 0.0  # seconds: the least time in which an answer has begun; 0 = none has
        self._waiting: deque[tuple[float, UpstreamCall]] = deque()  # (deadline, request)
        self._most_uploads = max(1, self._most // 2)
        self._uploads: set[UpstreamCall] = set()  # whose bodies were not complete when they were asked
        self._uploads_waiting: deque[tuple[float, UpstreamCall]] = deque()

    # --- requests

    def send(self, call: UpstreamCall) -> None:
        """Send a request at once on an idle connection, or on a new one, or when one becomes free."""
        self.asked += 1
        request = call.upstream_request
        if (request.body is not None or request.upgrade) and call.uploads and not self._may_upload(call):
            self._line_up(call, self._uploads_waiting)
            return
        now = self.clock()
        while self._idle:
            connection = self._idle.pop()
            just_used = now - connection.asked_at < JUST_USED and request.is_safe and not connection.closed
            if just_used or not connection.has_ended:
                connection.send(call, now)
                return
            connection.close()
        if len(self._open) + self._connecting < self._most:
            self._open_for(call)
        else:
            self._line_up(call, self._waiting)

    def _line_up(self, call: UpstreamCall, line: deque[tuple[float, UpstreamCall]]) -> None:
        if len(line) < self.options.queue:
            line.append((self.clock() + self.options.queue_timeout, call))
        else:
            self._refuse(call, OriginBusy("origin-queue-full", "too many requests wait for the upstream"))

    def _may_upload(self, call: UpstreamCall) -> bool:
        """Whether one more request whose body is not complete may have a connection."""
        if len(self._uploads) >= self._most_uploads:
            self._uploads = {one for one in self._uploads if one.uploads}
        if call not in self._uploads and len(self._uploads) >= self._most_uploads:
            return False
        self._uploads.add(call)
        return True

    def _open_for(self, call: UpstreamCall) -> None:
        """Open a connection, on which `call` goes first."""
        self._connecting += 1
        spawn(self._connect(call), "connect to origin")

    async def _connect(self, call: UpstreamCall) -> None:
        try:
            connection = await self._new_connection()
        except OriginError as error:
            self._connecting -= 1
            self._refuse(call, error)
            self._next_waiting()
            return
        self._connecting -= 1
        self._open.add(connection)
        if connection.closed:  # it was lost as soon as it was made
            self._refuse(call, OriginError("closed", "the upstream closed the connection"))
            self.closed(connection)
        elif call.cancelled:
            self.idle(connection)
        else:
            connection.send(call, self.clock())

    async def _new_connection(self) -> UpstreamConnection:
        """A connection to the first address that accepts; raises `OriginError`."""
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                return await self._first_to_accept()
        except TimeoutError:
            raise OriginTimeout("connect-timeout", "the upstream did not accept in time") from None

    async def _first_to_accept(self) -> UpstreamConnection:
        failure = OriginError("connect", "the upstream cannot be reached")
        for family, address in await self._names.addresses():
            try:
                return await self._connect_to(family, str(address[0]))
            except OriginError as error:
                failure = error
        raise failure

    async def _connect_to(self, family: int, address: str) -> UpstreamConnection:
        origin, loop = self.options.origin, asyncio.get_running_loop()
        try:
            if origin.path:
                _, connection = await loop.create_unix_connection(lambda: self._new(self), address)
            else:
                _, connection = await loop.create_connection(
                    lambda: self._new(self),
                    address,
                    origin.port,
                    family=family,
                    ssl=self._tls.context if self._tls else None,
                    server_hostname=(origin.tls_name or origin.host) if self._tls else None,
                )
        except ssl.SSLError as error:
            raise OriginError("tls", f"TLS with the upstream failed: {error.reason}") from None
        except OSError as error:
            raise OriginError("connect", f"the upstream cannot be reached: {error.strerror}") from None
        age = self.options.connection_age * random.uniform(0.9, 1.0)  # opened at once, they end in turn
        connection.peer, connection.leaves_at = address, self.clock() + age
        return connection

    def unanswered(
        self, call: UpstreamCall, error: OriginError, connection: UpstreamConnection, *, unread: bool
    ) -> None:
        """A kept `connection` ended without a byte of an answer.

        If it did not end because of the request (`unread`), what may be repeated is asked once more, on a connection
        that is new (RFC 9112 §9.3.1). That is beside any budget: each connection that ends costs one request at most.
        """
        if not unread or call.retried or not call.upstream_request.may_be_repeated:
            self._refuse(call, error)
            return
        call.retried = True
        self.asked += 1
        self.repeated += 1
        self._open.discard(connection)  # its place is free
        self._open_for(call)

    def _refuse(self, call: UpstreamCall, error: OriginError) -> None:
        if not (call.cancelled or call.is_check):
            self.failed(error.reason)
        call.fail(error)

    # --- connections

    def timed(self, took: float) -> None:
        """A response has begun, so many seconds after its request."""
        if not 0.0 < self.fastest <= took:
            self.fastest = took

    def idle(self, connection: UpstreamConnection) -> None:
        """`connection` is free: it takes the request that has waited longest."""
        connection.idle_since = 0.0
        if not (self._waiting and self._serve_waiting(connection)):
            self._idle.append(connection)

    def _serve_waiting(self, connection: UpstreamConnection) -> bool:
        """Send the request that has waited longest on `connection`; False if none still waits."""
        while self._waiting:
            _, call = self._waiting.popleft()
            if not call.cancelled:
                connection.send(call, self.clock())
                return True
        return False

    def closed(self, connection: UpstreamConnection) -> None:
        """`connection` has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._next_waiting()

    def _next_waiting(self) -> None:
        if self._waiting and len(self._open) + self._connecting < self._most:
            _, call = self._waiting.popleft()
            if call.cancelled:
                self._next_waiting()
            else:
                self.send(call)

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        for line in (self._waiting, self._uploads_waiting):
            while line and line[0][0] < now:
                _, call = line.popleft()
                self._refuse(call, OriginBusy("origin-queue-timeout", "no connection to the upstream became free"))
        if self._waiting:
            self._shed(now)
        self._next_uploads()
        if self._tls is not None:
            self._tls.look(now)
        if self._open:
            self._names.look()
        for connection in tuple(self._open):
            connection.sweep(now)
            if now > connection.leaves_at or self._names.is_gone(connection.peer):
                connection.retire()
        for connection in tuple(self._idle):
            if connection.idle_since == 0.0:
                connection.idle_since = now
            elif now - connection.idle_since > self.options.keepalive:
                self._idle.remove(connection)
                connection.close()

    def _shed(self, now: float) -> None:
        """Give those who wait the connections whose answers nobody takes, the ones held back longest first."""
        held = [connection for connection in self._open if connection.held_for(now) > HELD_BACK]
        held.sort(key=lambda connection: connection.held_for(now), reverse=True)
        for connection in held[: len(self._waiting)]:
            self.failed("held-back")
            connection.shed()

    def _next_uploads(self) -> None:
        """Those whose bodies are complete by now, or have room now, wait no longer for that."""
        for _ in range(len(self._uploads_waiting)):
            deadline, call = self._uploads_waiting.popleft()
            if call.cancelled:
                continue
            if call.uploads and not self._may_upload(call):
                self._uploads_waiting.appendleft((deadline, call))
                return
            self.asked -= 1
            self.send(call)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        for connection in tuple(self._open):
            connection.close()

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting) + len(self._uploads_waiting)

    @property
    def busy(self) -> int:
        """Connections that are answering a request, or being opened for one."""
        return len(self._open) - len(self._idle) + self._connecting

    def __repr__(self) -> str:
        return f"<OriginPool {len(self._open)} open, {len(self._idle)} idle, {len(self._waiting)} waiting>"


def client_tls(options: PoolOptions) -> ClientTls:
    """TLS with a server: verified against the system's store or our own, with our certificate if there is one."""
    return ClientTls(
        ca=options.ca,
        verify=options.verify,
        pair=options.pair,
        told=lambda line, good: log.log(logging.INFO if good else logging.WARNING, "%s", line),
    )
