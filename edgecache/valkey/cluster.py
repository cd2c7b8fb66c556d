"""Commands to a cluster, grouped by the node of their keys: a node that is down costs its own keys, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakSet

from redis.asyncio.client import PubSub
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, SlotNotCoveredError

Command = tuple[Any, ...]


def track_connections(client: RedisCluster) -> WeakSet[Any]:
    """Every connection that `client` makes from now on, since it forgets those of nodes that have left."""
    made: WeakSet[Any] = WeakSet()
    make = client.connection_kwargs["connection_class"]

    def tracked(**options: Any) -> Any:
        connection = make(**options)
        made.add(connection)
        return connection

    client.connection_kwargs["connection_class"] = tracked
    for node in client.startup_nodes:
        node.connection_class = cast(Any, tracked)
    return made


async def run_by_node(client: RedisCluster, commands: Sequence[Command]) -> list[Any]:
    """The replies to `commands`, one round trip a node; an exception in the place of each that has none."""
    await client.initialize()
    replies: list[Any] = [LostConnection("no node of the cluster has this slot")] * len(commands)
    numbers: dict[str, list[int]] = {}
    for number, command in enumerate(commands):
        if (node := _node_of(client, command)) is not None:
            numbers.setdefault(node, []).append(number)

    async def run(own: list[int]) -> None:
        pipeline = client.pipeline(transaction=False)
        for number in own:
            pipeline.execute_command(*commands[number])
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            answers = [error] * len(own)
        except Exception as error:  # redis-py: AttributeError and others where another task has closed the connection
            answers = [LostConnection(f"the connection was closed: {error}")] * len(own)
        for number, answer in zip(own, answers, strict=True):
            replies[number] = answer

    await asyncio.gather(*map(run, numbers.values()))
    return replies


def _node_of(client: RedisCluster, command: Command) -> str | None:
    """The name of the node that has the key of a command."""
    key = command[3] if command[0] in ("EVAL", b"EVAL", "EVALSHA") else command[1]
    try:
        node = client.get_node_from_key(key)
    except SlotNotCoveredError:
        return None
    return node.name if node is not None else None


async def get_many(client: RedisCluster, keys: Sequence[bytes]) -> list[bytes | None]:
    """The values of `keys`; None where there is none, or no node has its slot. Raises only if no node answers."""
    values = await run_by_node(client, [("GET", key) for key in keys])
    if values and all(isinstance(value, Exception) for value in values):
        raise values[0]
    return [value if isinstance(value, bytes) else None for value in values]


def subscription(client: RedisCluster) -> PubSub:
    """A connection for messages to any node, since each passes them on to all; `client` is initialised."""
    return client.pubsub(node=client.get_random_node(), ignore_subscribe_messages=True)
