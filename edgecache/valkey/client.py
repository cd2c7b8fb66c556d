"""The connection to Valkey or Redis: one server, Sentinel, or a cluster, as `EDGECACHE_REGIONAL` names it.

A thin layer over redis-py: nothing is tried twice (the tier has a budget of milliseconds, and falls back to the
origin), replies are bytes, and reads may go to replicas.

A server may be the wrong one: it has become a replica by a fail-over, it is still loading, or it no longer knows our
credentials. The commands that it refuses were not executed. All connections are closed, so that the name, or Sentinel,
is looked up again; and the refused commands are sent once more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast
from weakref import WeakSet

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from edgecache.config.valkey_url import ValkeyUrl
from edgecache.valkey import cluster
from edgecache.valkey.connection_refresh import ConnectionRefresh, renew_idle
from edgecache.valkey.mget_connection import ClusterMget, Failure, MgetConnection, ServerMget

__all__ = ("Access", "Failure", "Link", "MgetConnection", "UnknownScript", "is_misplaced", "is_refused")
log = logging.getLogger("edgecache")
MOST_CONNECTIONS: Final = 16
MISPLACED: Final = (  # errors of the server's role, or of our credentials there
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
)
MISPLACED_WORDS: Final = (  # where redis-py has no class of its own, or a script's error wraps it
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "NOAUTH",
    "WRONGPASS",
    "MOVED",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "UNBLOCKED",
    "now a slave",  # what redis-py makes of READONLY by Sentinel
)
APPENDS: Final = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', '1', '*', 'k', 'ping')
return redis.call('PEXPIRE', KEYS[1], 60000)
"""
UnknownScript = NoScriptError  # the reply to EVALSHA of a script that the server has not seen
Command = tuple[Any, ...]  # name and arguments, as on the wire


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server."""

    url: ValkeyUrl
    timeout: float  # seconds for a reply, after which the connection is given up
    ca: str = ""  # PEM file of the authorities trusted; empty is the system's
    certificate: str = ""  # PEM files of our own
    certificate_key: str = ""
    replicas: bool = False  # read from replicas where there are any
    dns_ttl: float = 30.0  # seconds after which its name is resolved again
    connection_age: float = 600.0  # seconds: the greatest age of a connection


class Link:
    """Connections to one Valkey. Every method raises one of `Failure`; none tries twice."""

    def __init__(self, access: Access) -> None:
        self._url = access.url
        self.timeout = access.timeout  # seconds
        self._options = _options(access)
        self._primary: Redis | RedisCluster
        self._reader: Redis | RedisCluster
        self._sentinel: Sentinel | None = None
        self._made: Collection[Any] = ()  # connections that a client may have forgotten
        self._mget_connections: list[MgetConnection] = []
        self._marked: WeakSet[Any] = WeakSet()  # transports of connections that are to be renewed
        self._misplaced = False  # the last command was refused by the wrong server
        self.on_drop: Callable[[], None] = _nothing  # called when all connections are closed, to be opened again
        url = access.url
        match url.scheme:
            case "valkey+cluster":
                nodes = [ClusterNode(host, port) for host, port in url.nodes]
                self._primary = self._reader = RedisCluster(
                    startup_nodes=nodes,
                    load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN if access.replicas else None,
                    require_full_coverage=False,
                    **{**self._options, "retry": Retry(NoBackoff(), 1)},  # once, by what the cluster looks like then
                )
                self._made = cluster.track_connections(self._primary)
            case "valkey+sentinel":
                sentinels = {key: value for key, value in self._options.items() if key.startswith(("socket", "ssl"))}
                self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                    url.nodes, sentinel_kwargs=sentinels, **self._options
                )
                self._primary = self._sentinel.master_for(url.service)
                self._reader = self._sentinel.slave_for(url.service) if access.replicas else self._primary
            case "valkey+unix":
                self._primary = self._reader = Redis(unix_socket_path=url.path, **self._options)
            case _:
                host, port = url.nodes[0]
                self._primary = self._reader = Redis(host=host, port=port, db=url.database, **self._options)
        place = url.nodes[0] if url.scheme in ("valkey", "valkeys") else None
        refresh = ConnectionRefresh(place, access.dns_ttl, access.connection_age, self._renew)
        self.check_refresh = refresh.check  # called as traffic flows

    async def _renew(self) -> None:
        """Renew every connection, without harm to commands under way; a cluster's client renews its own."""
        for client in {self._primary, self._reader}:
            if not isinstance(client, RedisCluster):
                await renew_idle(client.connection_pool, self._marked)
        for connection in self._mget_connections:
            connection.renew()

    async def get_many(self, keys: Sequence[bytes], *, from_primary: bool = False) -> list[bytes | None]:
        """The values of `keys`, in one round trip (one per node of a cluster); None where there is none."""
        client = self._primary if from_primary else self._reader
        if isinstance(client, RedisCluster):
            return await cluster.get_many(client, keys)
        return cast(list[bytes | None], await client.mget(keys))

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, sent together; an exception in the place of each that was refused."""
        self.check_refresh()
        try:
            replies = await self._replies(commands)
        except RedisError as error:
            if not is_misplaced(error) or isinstance(error, AuthenticationError):
                raise  # redis-py has closed the connection: the next one authenticates again
            replies = [error] * len(commands)
        misplaced = [number for number, reply in enumerate(replies) if is_misplaced(reply)]
        if not misplaced:
            self._misplaced = False
            return replies
        await self.drop(replies[misplaced[0]])
        again = await self._replies([commands[number] for number in misplaced])
        for number, reply in zip(misplaced, again, strict=False):
            replies[number] = reply
        if any(map(is_misplaced, again)):
            await self.drop(next(filter(is_misplaced, again)))
        return replies

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if isinstance(self._primary, RedisCluster):
            return await cluster.run_by_node(self._primary, commands)
        pipeline = self._primary.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def execute(self, command: Command) -> Any:
        """The reply to one slow command, within `Access.timeout`."""
        self.check_refresh()
        try:
            return await self._primary.execute_command(*command)
        except RedisError as error:
            if is_misplaced(error):
                await self.drop(error)
            raise

    async def drop(self, why: BaseException) -> None:
        """Close every connection: they lead to the wrong server, because of the error `why`."""
        if not self._misplaced:
            log.warning("%s is not the primary (%s): reconnecting", self._url, (str(why).splitlines() or [""])[0])
        self._misplaced = True
        self.on_drop()
        for client in {self._primary, self._reader}:
            if isinstance(client, RedisCluster):
                await client.aclose()  # it reads the slot map again
            else:
                await client.connection_pool.disconnect()
        for connection in self._mget_connections:
            connection.abort()
            connection.open()

    async def refuse_orphaned_replica(self) -> None:
        """Raise one of `Failure`, and close every connection, if a replica answers that has lost its primary.

        Reads alone would never reveal that. A cluster's client checks it itself. Without the right to ask it passes.
        """
        if isinstance(self._primary, RedisCluster):
            return
        reply = (await self.run([("ROLE",)]))[0]
        if isinstance(reply, list) and reply[0] in (b"slave", b"replica") and reply[3] != b"connected":
            error = ReadOnlyError("it is a replica that has lost its primary")
            await self.drop(error)
            raise error

    def mget_connection(self) -> MgetConnection:
        """A connection for reads of many values."""
        if isinstance(self._reader, RedisCluster):
            self._mget_connections.append(ClusterMget(self.get_many))
        else:
            self._mget_connections.append(ServerMget(self._reader.connection_pool, self.timeout, self.check_refresh))
        return self._mget_connections[-1]

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[PubSub]:
        """A connection for messages."""
        if isinstance(self._primary, RedisCluster):
            await self._primary.initialize()
            opened = cluster.subscription(self._primary)
        else:
            opened = self._primary.pubsub(ignore_subscribe_messages=True)
        async with opened:
            yield opened

    async def ping(self) -> None:
        """Check that the server is there, accepts us, and executes what writes and purges need; raises `Failure`."""
        for reply in await self.run([("SET", "ec:ping", "1", "PX", "1000"), ("EVAL", APPENDS, "1", "ec:{log}:ping")]):
            if isinstance(reply, Exception):
                raise reply

    async def close(self) -> None:
        """Close every connection."""
        for client in {self._primary, self._reader}:
            await client.aclose()
        for connection in tuple(self._made):
            await connection.disconnect(nowait=True)
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def __repr__(self) -> str:
        return f"<Link {self._url}>"


def is_misplaced(reply: object) -> bool:
    """Whether a reply is an error of the connection or of the server's role, which another server may not give."""
    if not isinstance(reply, RedisError):
        return False
    return isinstance(reply, MISPLACED) or any(word in str(reply) for word in MISPLACED_WORDS)


def is_refused(error: BaseException) -> bool:
    """Whether a failure is about our credentials or rights, which waiting does not mend."""
    refused = (AuthenticationError, AuthorizationError, NoPermissionError)
    words = ("WRONGPASS", "NOAUTH", "NOPERM", "invalid username", "invalid password")
    return isinstance(error, refused) or (
        isinstance(error, ResponseError) and any(word in str(error) for word in words)
    )


def _options(access: Access) -> dict[str, Any]:
    url = access.url
    options: dict[str, Any] = {
        "username": url.username,
        "password": url.password,
        "socket_timeout": access.timeout,
        "socket_connect_timeout": access.timeout,
        "max_connections": MOST_CONNECTIONS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
    }
    if url.tls:
        options |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        options |= {"ssl_ca_certs": access.ca or None}
        options |= {"ssl_certfile": access.certificate or None, "ssl_keyfile": access.certificate_key or None}
    return options


def _nothing() -> None:
    """Count nothing."""
