"""How much memory the regional tier's server has, of which no single body may take more than a share."""

from __future__ import annotations

import logging
from typing import Any, Final

from edgecache.valkey.batching import Commands

log = logging.getLogger("edgecache")
SHARE: Final = 10  # a tenth of the server's memory is for one body at most: more would evict what others come for
UNKNOWN: Final = 1 << 62  # bytes; while the server has not said, or does not let us know
MEMORY: Final = (  # of the node that has the key
    "local told = redis.call('info','memory') "
    "local most = tonumber(string.match(told,'maxmemory:(%d+)') or '0') "
    "if most==0 then most = tonumber(string.match(told,'total_system_memory:(%d+)') or '0') end return most"
)


class ServerMemory:
    """What the server has said last. A cluster's nodes are taken to be alike: each is asked for its own bodies."""

    def __init__(self) -> None:
        self._size: int | None = None  # bytes

    @property
    def share(self) -> int:
        """The most bytes of one body."""
        return UNKNOWN if self._size is None else self._size // SHARE

    def query(self, lane: Commands, key: bytes) -> None:
        """Ask, on `lane`, the server that has `key`."""
        lane.send(("EVAL", MEMORY, "1", key), 0, self._on_reply)

    def _on_reply(self, _: int, size: Any) -> None:
        if not isinstance(size, int) or size <= 0:  # it may be forbidden to ask: then the setting is the only bound
            return
        if size != self._size:
            log.info(
                "the regional tier has %d bytes of memory: larger objects than %d are not stored", size, size // SHARE
            )
        self._size = size
