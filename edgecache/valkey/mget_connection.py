"""Reads of many values at once from one Valkey, in the data plane: no task and no timer for a round trip.

redis-py opens the connection (address, TLS, user, database, Sentinel); then this module takes its transport over, and
hiredis reads the replies. After anything but whole lists of values the connection is closed: its state is not known.
A cluster's client has to find the node of each key: there a round trip is a task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from hiredis import ProtocolError, Reader, pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError

from edgecache.tasks import spawn

MOST_UNREAD: Final = 64 * 1024 * 1024  # bytes of one reply, which are held until it is whole
Values = Sequence[bytes | None]
Done = Callable[[Values | None, BaseException | None], None]  # the values, or what went wrong
# Whatever can go wrong with a server. RuntimeError: uvloop's error for a connection that was closed meanwhile.
Failure: Final = (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError)


class MgetConnection(Protocol):
    """Reads values by key."""

    def open(self) -> None:
        """Connect before the first read, which has no time for it."""

    def read(self, keys: Sequence[bytes], done: Done) -> None:
        """Have `done` called with the values of `keys`, in their order; None where there is none."""

    def abort(self) -> None:
        """Fail all reads under way: they take too long."""

    def renew(self) -> None:
        """Continue on a new connection, once the reads under way are answered."""

    async def close(self) -> None:
        """Close for good; no callback is called any more."""


class ServerMget(asyncio.Protocol):
    """One connection, opened when it is first needed, with reads under way in their order."""

    def __init__(self, pool: ConnectionPool, timeout: float, on_read: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._on_read = on_read
        self._timeout = timeout  # seconds to connect
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._replies = self._fresh_reader()
        self._unread = 0  # bytes that have come of the reply under way
        self._asked: deque[tuple[Sequence[bytes], Done]] = deque()  # under way, or waiting for the connection
        self._later: deque[tuple[Sequence[bytes], Done]] = deque()  # waiting until what is under way is answered
        self._renewing = False  # the connection is left once that is so
        self._closed = False  # for good, though other commands still find out that this is the wrong server

    @staticmethod
    def _fresh_reader() -> Reader:
        return Reader(replyError=ResponseError, notEnoughData=...)

    def open(self) -> None:
        """Connect, if that is not done or under way."""
        if self._transport is None and self._connecting is None and not self._closed:
            self._connecting = spawn(self._connect(), "connect to the regional tier")

    def read(self, keys: Sequence[bytes], done: Done) -> None:
        """Have `done` called with the values of `keys`, or with why there are none."""
        self._on_read()
        if self._renewing and self._asked:
            self._later.append((keys, done))
            return
        self._asked.append((keys, done))
        if self._transport is not None:
            self._transport.write(packed(keys))
        else:
            self.open()

    async def _connect(self) -> None:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            if self._connecting is not asyncio.current_task():  # it was given up, whatever redis-py made of that
                raise asyncio.CancelledError
            self._take_over(connection)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if self._connecting is not asyncio.current_task():
                return
            self._connecting = None
            if not isinstance(error, Failure):
                raise
            self._fail(error)

    def _take_over(self, connection: AbstractConnection) -> None:
        writer = connection._writer  # redis-py has no other way to its transport
        assert writer is not None, "it is connected"
        self._connection, self._connecting = connection, None
        self._replies, self._unread = self._fresh_reader(), 0
        self._transport = cast(asyncio.Transport, writer.transport)
        self._transport.set_protocol(self)
        for keys, _ in self._asked:
            self._transport.write(packed(keys))

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        self._unread += len(data)
        if self._unread > MOST_UNREAD:
            self._fail(InvalidResponse("a reply larger than any of ours"))
            return
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not ...:
                if not self._reply(reply):
                    return
        except ProtocolError as error:
            self._fail(InvalidResponse(str(error)))

    def _reply(self, reply: Any) -> bool:
        """Take one whole reply; whether the next may be taken."""
        if not self._asked:
            self._fail(InvalidResponse("a reply to no command"))
            return False
        keys, done = self._asked[0]
        if type(reply) is list and len(reply) == len(keys):
            self._asked.popleft()
            self._unread = 0
            done(reply, None)
            if self._renewing and not self._asked:
                self._reconnect()
            return self._transport is not None
        self._fail(reply if isinstance(reply, ResponseError) else InvalidResponse("no list of as many values as keys"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._transport is not None:
            self._fail(exc or LostConnection("the server has closed the connection"))

    def abort(self) -> None:
        """Fail all reads under way: they take too long."""
        connecting, self._connecting = self._connecting, None  # a task that has not begun never reports its end
        if connecting is not None:
            connecting.cancel()
        self._fail(TimeoutError("the regional tier was too slow"))

    def renew(self) -> None:
        """Continue on a new connection, once the reads under way are answered."""
        if self._transport is not None:
            self._renewing = True
            if not self._asked:
                self._reconnect()

    def _reconnect(self) -> None:
        self._drop()
        self._asked, self._later = self._later, deque()
        self.open()

    def _fail(self, error: BaseException) -> None:
        self._drop()
        asked, self._asked, self._later = (*self._asked, *self._later), deque(), deque()
        for _, done in asked:
            done(None, error)

    def _drop(self) -> None:
        connection, self._connection, self._transport = self._connection, None, None
        self._renewing = False
        if connection is not None:
            spawn(connection.disconnect(nowait=True), "leave the regional tier")

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._asked.clear()
        self._later.clear()
        connecting, connection = self._connecting, self._connection
        self._connecting = self._connection = self._transport = None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        if connection is not None:
            await connection.disconnect(nowait=True)


class ClusterMget:
    """Reads from a cluster; `get_many` reads values from the nodes that have them."""

    def __init__(self, get_many: Callable[[Sequence[bytes]], Any]) -> None:
        self._get_many = get_many
        self._reading: dict[asyncio.Task[None], Done] = {}
        self._closed = False

    def open(self) -> None:
        """Connect to the node of some key, and so read the slot map."""
        if not self._closed:
            self.read((b"ec:{open}",), lambda values, error: None)

    def read(self, keys: Sequence[bytes], done: Done) -> None:
        """Have `done` called with the values of `keys`, or with why there are none."""
        task = spawn(self._read_all(keys, done), "regional reads")
        self._reading[task] = done
        task.add_done_callback(lambda task: self._reading.pop(task, None))

    async def _read_all(self, keys: Sequence[bytes], done: Done) -> None:
        try:
            values = await self._get_many(keys)
        except Exception as error:  # also what redis-py makes of a connection that another task has closed
            done(None, error)
        else:
            done(values, None)

    def abort(self) -> None:
        """Fail all reads under way: they take too long."""
        for task, done in tuple(self._reading.items()):
            task.cancel()
            done(None, TimeoutError("the regional tier was too slow"))

    def renew(self) -> None:
        """The cluster's client renews its own connections."""

    async def close(self) -> None:
        """End."""
        self._closed = True
        reading = tuple(self._reading)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def packed(keys: Sequence[bytes]) -> bytes:
    """The command that reads the values of `keys`."""
    return cast(bytes, pack_command(cast(Any, (b"MGET", *keys))))
