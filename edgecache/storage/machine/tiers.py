"""The machine's store in front of the region: read first, and filled with everything read from or stored there."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgecache.storage.tier_queue import OnReply, OnValue, ReadLane, WriteLane


class LayeredReads:
    """Reads of the machine's store, and then of the region, whose records are stored here."""

    def __init__(self, near: ReadLane, far: ReadLane, writes: WriteLane) -> None:
        self._near = near
        self._far = far
        self._writes = writes

    def get(self, key: bytes, on_value: OnValue) -> None:
        """As of both."""
        self._near.get(key, partial(self._near_read, key, on_value))

    def _near_read(self, key: bytes, on_value: OnValue, value: bytes | None, word: str) -> None:
        if value is not None:
            on_value(value, word)
        else:
            self._far.get(key, partial(self._far_read, key, on_value))

    def _far_read(self, key: bytes, on_value: OnValue, value: bytes | None, word: str) -> None:
        if value is not None:
            self._writes.send(("SET", key, value), len(value))
        on_value(value, word)

    async def close(self) -> None:
        """Close both."""
        await self._near.close()
        await self._far.close()


class RegionalFirst(LayeredReads):
    """Reads of the region, for what another POP may have stored by now; of the machine's store if that fails."""

    def get(self, key: bytes, on_value: OnValue) -> None:
        """As of both."""
        self._far.get(key, partial(self._read, key, on_value))

    def _read(self, key: bytes, on_value: OnValue, value: bytes | None, word: str) -> None:
        if value is None and word:
            self._near.get(key, on_value)
        else:
            self._far_read(key, on_value, value, word)


class LayeredWrites:
    """Changes of both. The region's reply counts; the machine's store takes what that refuses."""

    def __init__(self, near: WriteLane, far: WriteLane) -> None:
        self._near = near
        self._far = far

    @property
    def queued(self) -> int:
        """Bytes that wait for the region."""
        return self._far.queued

    def send(self, command: tuple[object, ...], size: int = 0, on_reply: OnReply | None = None) -> bool:
        """Enqueue `command` for both, and have `on_reply` called by one; False if neither takes it."""
        if command[0] not in ("SET", "UNLINK"):
            return self._far.send(command, size, on_reply)
        if self._far.send(command, size, on_reply):
            self._near.send(command)
            return True
        return self._near.send(command, size, on_reply)

    async def execute(self, command: tuple[object, ...], size: int = 0, within: float | None = None) -> Any:
        """The reply of the region; what the machine's store has of EXISTS is enough."""
        if command[0] == "EXISTS":
            if await self._near.execute(command, within=within) == len(command) - 1:
                return len(command) - 1
        elif command[0] == "UNLINK":
            self._near.send(command)
        return await self._far.execute(command, size, within)

    async def close(self) -> None:
        """Close both."""
        await self._far.close()
        await self._near.close()
