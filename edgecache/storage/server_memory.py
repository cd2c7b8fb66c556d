"""The memory of the regional tier's server; a single body may take only a share of it."""

from __future__ import annotations

import logging
from typing import Any, Final

from edgecache.storage.tier_queue import WriteLane

log = logging.getLogger("edgecache")
SHARE: Final = 10  # one body takes a tenth of the server's memory at most: more would evict too much
UNKNOWN: Final = 1 << 62  # bytes; until the server has replied, or if it refuses to
MEMORY: Final = (  # of the node that has the key
    "local told = redis.call('info','memory') "
    "local most = tonumber(string.match(told,'maxmemory:(%d+)') or '0') "
    "if most==0 then most = tonumber(string.match(told,'total_system_memory:(%d+)') or '0') end return most"
)


class ServerMemory:
    """The size of the server's memory. A cluster's nodes are taken to be alike; each is queried for its own bodies."""

    def __init__(self) -> None:
        self._size: int | None = None  # bytes

    @property
    def share(self) -> int:
        """The most bytes of one body."""
        return UNKNOWN if self._size is None else self._size // SHARE

    def query(self, lane: WriteLane, key: bytes) -> None:
        """Query the server that has `key`, through the queue `lane`."""
        lane.send(("EVAL", MEMORY, "1", key), 0, self._on_reply)

    def _on_reply(self, _: int, size: Any) -> None:
        if not isinstance(size, int) or size <= 0:  # it may be forbidden: then the setting is the only bound
            return
        if size != self._size:
            log.info(
                "the regional tier has %d bytes of memory: larger objects than %d are not stored", size, size // SHARE
            )
        self._size = size
